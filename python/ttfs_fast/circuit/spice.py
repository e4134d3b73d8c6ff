"""The averaged neuron as a netlist for ngspice: the same equations in another simulator."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ttfs_fast.circuit.parameters import CircuitParameters


def netlist(
    parameters: CircuitParameters,
    times: ArrayLike,
    weights: ArrayLike,
    *,
    duration: float,
    raw_file: str | Path = "neuron.raw",
    step: float | None = None,
) -> str:
    """A netlist with the loop and the membrane as behavioral sources.

    Time runs in units of tau, where ngspice computes best. Each integrator is a capacitor of 1 F
    that a behavioral source charges: VCO2's phase, the loop filter, and VCO4's phase over VCO3's.
    VCO1's phase is a source with a step at every input spike.

    Parameters
    ----------
    parameters : CircuitParameters
    times, weights : array_like, shape (inputs,)
        Seconds, and weights; +inf is silent.
    duration : float
        Seconds.
    raw_file : str or Path
        Where ngspice writes time, phase error and membrane phase, as text columns.
    step : float, optional
        Largest time step in seconds; a two-hundredth of tau by default.

    Returns
    -------
    netlist : str
        Run it with ``ngspice -b FILE``.
    """
    t = np.asarray(times, dtype=np.float64) / parameters.tau
    w = np.asarray(weights, dtype=np.float64)
    if t.ndim != 1 or t.shape != w.shape:
        raise ValueError("times and weights must be lists of the same length")
    end = duration / parameters.tau
    order = [i for i in np.argsort(t, kind="stable") if t[i] < end]
    ramp = 1e-4  # ngspice needs time for a step: this much of tau, around the spike
    phase = 0.0
    points: list[tuple[float, float]] = []
    for i in order:
        jump = parameters.phase_per_weight * float(w[i])
        if t[i] < ramp / 2:
            phase += jump  # the simulation begins with it
            continue
        points = points or [(0.0, phase)]
        begin = max(float(t[i]) - ramp / 2, points[-1][0] + ramp / 100)
        points.append((begin, phase))
        phase += jump
        points.append((begin + ramp, phase))
    points = points or [(0.0, phase)]
    corner = parameters.loop_corner * parameters.tau
    gain = parameters.membrane_gain * parameters.tau
    leak = 2 * math.pi * (parameters.middle_frequency - parameters.vco3_frequency) * parameters.tau
    first = float(t[order[0]]) if order else end
    released = [(0.0, 0.0), (first - ramp / 2, 0.0), (first + ramp / 2, leak)]
    if first < ramp:
        released = [(0.0, leak)]
    leaks = " ".join(f"{x:.17g} {y:.17g}" for x, y in released)
    steps = " ".join(f"{x:.17g} {y:.17g}" for x, y in points)
    largest = (step or parameters.tau / 200) / parameters.tau
    return f"""phase-domain neuron, averaged model, time in units of tau
* VCO1: a step of its phase at every input spike
Vref ref 0 PWL({steps})
* XOR detector and loop filter: dx/dt = corner (e - x), e = ref - out
Bfilter 0 x I = {corner:.17g} * (v(ref) - v(out) - v(x))
Cfilter x 0 1 IC=0
* VCO2: dout/dt = x
Bvco2 0 out I = v(x)
Cvco2 out 0 1 IC=0
* VCO4 over VCO3; its own difference in frequency counts from the first input on
Vleak leak 0 PWL({leaks})
Bmembrane 0 mem I = {gain:.17g} * (v(ref) - v(out)) + v(leak)
Cmembrane mem 0 1 IC=0
.options method=trap reltol=1e-6 abstol=1e-9 vntol=1e-9 itl4=100
.tran {largest:.17g} {end:.17g} 0 {largest:.17g} UIC
.control
set numdgt=15
set wr_singlescale
run
let phase_error = v(ref) - v(out)
wrdata {raw_file} phase_error v(mem)
quit
.endc
.end
"""


def read_crossing(raw_file: str | Path, threshold: float) -> float:
    """First time, in units of tau, at which the written membrane phase reaches the threshold.

    Interpolated between ngspice's time points; +inf if it does not.
    """
    table = np.loadtxt(raw_file)
    time, membrane = table[:, 0], table[:, 2]
    above = np.flatnonzero(membrane >= threshold)
    if not above.size:
        return math.inf
    i = int(above[0])
    if i == 0:
        return float(time[0])
    fraction = (threshold - membrane[i - 1]) / (membrane[i] - membrane[i - 1])
    return float(time[i - 1] + fraction * (time[i] - time[i - 1]))
