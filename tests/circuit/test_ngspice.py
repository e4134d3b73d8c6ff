"""The averaged neuron in an independent circuit simulator."""

import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ttfs_fast.circuit import CircuitParameters, simulate
from ttfs_fast.circuit.spice import netlist, read_crossing

needs_ngspice = pytest.mark.skipif(
    not shutil.which("ngspice"), reason="needs ngspice (Debian, Ubuntu: apt install ngspice)"
)
K = CircuitParameters().loop_gain

# Under-damped, critical, over-damped; excitatory and inhibitory inputs, and a rising threshold.
NEURONS = {
    "under-damped": (1.0, {}, [0.2, 0.5], [0.9, 0.8]),
    "critical": (4.0, {}, [0.1, 0.6, 1.1], [0.9, -0.3, 0.9]),
    "over-damped": (50.0, {}, [0.0, 0.3, 0.7, 0.9], [0.6, 0.7, -0.4, 0.8]),
    "rising threshold": (20.0, {"threshold_frequency": 1.001e9}, [0.1, 0.4], [1.2, 0.9]),
    "silent": (10.0, {}, [0.1, 0.4], [0.4, 0.4]),
}


@needs_ngspice
@pytest.mark.parametrize("name", NEURONS)
def test_ngspice_fires_at_the_same_time(name: str, tmp_path: Path) -> None:
    ratio, more, times, weights = NEURONS[name]
    p = CircuitParameters(loop_corner=ratio * K, **more)  # type: ignore[arg-type]
    duration = 6 * p.tau
    written = tmp_path / "neuron.raw"
    deck = tmp_path / "neuron.cir"
    deck.write_text(netlist(p, p.seconds(times), weights, duration=duration, raw_file=written))
    done = subprocess.run(
        ["ngspice", "-b", str(deck)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert written.exists(), done.stdout + done.stderr
    found = read_crossing(written, p.threshold)
    result = simulate(p, p.seconds(times), weights, duration=duration, record_every=1)
    fire = p.network_time(result.fire_times)[0]
    assert math.isfinite(fire) == (name != "silent")
    # Its tolerance: a relative error of the integration, and the interpolation between its steps.
    assert found == pytest.approx(fire, abs=2e-5)
    # And the same waveforms.
    table = np.loadtxt(written)
    waves = result.waveforms
    assert waves is not None
    error = np.interp(waves.time / p.tau, table[:, 0], table[:, 1])
    smooth = np.min(np.abs(waves.time[:, None] / p.tau - np.array(times)), axis=1) > 0.03
    assert smooth.sum() > 200
    assert np.abs(error - waves.phase_error[0])[smooth].max() < 2e-4 * np.abs(error).max()


def test_netlist_contains_the_arguments() -> None:
    p = CircuitParameters()
    text = netlist(p, p.seconds([0.5, np.inf]), [1.5, 2.0], duration=3 * p.tau)
    assert f"{1.5 * p.phase_per_weight:.17g}" in text
    pulses = next(line for line in text.splitlines() if line.startswith("Vref"))
    assert len(pulses.split("(")[1].split()) == 2 * 3  # a start and one step
    assert text.rstrip().endswith(".end")
    with pytest.raises(ValueError, match="same length"):
        netlist(p, [0.0, 1.0], [1.0], duration=1.0)
