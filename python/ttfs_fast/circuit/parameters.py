"""Parameters of the neuron circuit, in physical units."""

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttfs_fast import _core


@dataclass(frozen=True)
class CircuitParameters:
    """The neuron circuit of Zhou et al. (AAAI 2021), Figure 1, with values for a 65 nm design.

    The paper gives the schematic, equation (2), and less than 10 pJ per spike, but none of these
    values. docs/circuit.md explains each choice.

    Attributes
    ----------
    supply : float
        Supply voltage, V. The XOR detector's output swings over it, so k_pd = supply / pi V/rad.
    vco_gain : float
        Tuning gain of VCO1 and VCO2, Hz/V. With `supply` it makes the loop gain.
    loop_corner : float
        Corner w_lf of the loop filter in equation (2), rad/s.
    ring_frequency : float
        VCO1 and VCO2 in lock, Hz.
    low_frequency, high_frequency : float
        VCO4 driven by I_L and by I_H, Hz: the currents' frequencies, as a ring's frequency is
        proportional to its current.
    threshold_frequency : float, optional
        VCO3 driven by I_th, Hz. By default the middle between the two above, where VCO4 is at
        rest; a higher one makes the threshold rise with the time since the first input.
    phase_per_weight : float
        Step of VCO1's phase at a spike through a synapse of weight 1, rad.
    threshold_phase : float, optional
        Lead of VCO3 over VCO4 after a reset, rad: what VCO4 has to gain for the neuron to fire. By
        default the phase that stands for a membrane of 1, see `unit_phase`.
    phase_range : int
        Turns that the flip-flop distinguishes (dividers behind VCO3 and VCO4); switching model.
    stages, stage_capacitance : int, float
        Inverters of a ring, and the capacitance that each charges, F.
    logic_capacitance : float
        Charged once a ring period by detector, flip-flop and reset, F.
    static_power : float
        Bias, leakage and resistors of one neuron, W.

    Raises
    ------
    ValueError
        If a value is not finite, or below its least.
    """

    supply: float = 0.8
    vco_gain: float = 12.5e6
    loop_corner: float = 2e9
    ring_frequency: float = 1e9
    low_frequency: float = 0.9e9
    high_frequency: float = 1.1e9
    threshold_frequency: float | None = None
    phase_per_weight: float = 0.25
    threshold_phase: float | None = None
    phase_range: int = 16
    stages: int = 5
    stage_capacitance: float = 3e-15
    logic_capacitance: float = 10e-15
    static_power: float = 12e-6

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.name in _core.circuit_parameters:
                continue
            value = getattr(self, entry.name)
            may_be_0 = entry.name in ("static_power", "logic_capacitance")
            if not ((value >= 0 if may_be_0 else value > 0) and math.isfinite(value)):
                least = ">=" if may_be_0 else ">"
                raise ValueError(f"{entry.name} must be finite and {least} 0; got {value}")
        _core.check_circuit_parameters(self.core())

    @property
    def detector_gain(self) -> float:
        """k_pd: volts of the XOR detector's mean output for a phase error of 1 rad."""
        return self.supply / math.pi

    @property
    def loop_gain(self) -> float:
        """k = k_pd k_vco of equation (2), 1/s, with k_vco = 2 pi vco_gain rad/s/V."""
        return self.detector_gain * 2 * math.pi * self.vco_gain

    @property
    def tau(self) -> float:
        """Time constant of the synaptic current, s: 1 / k, the unit of the network's times."""
        return 1 / self.loop_gain

    @property
    def membrane_gain(self) -> float:
        """Rate of VCO4's phase for a phase error of 1 rad, 1/s: 2 (f_H - f_L)."""
        return 2 * (self.high_frequency - self.low_frequency)

    @property
    def middle_frequency(self) -> float:
        """VCO4 at rest, Hz: the middle between `low_frequency` and `high_frequency`."""
        return 0.5 * (self.low_frequency + self.high_frequency)

    @property
    def vco3_frequency(self) -> float:
        """`threshold_frequency`, or its default: the middle."""
        if self.threshold_frequency is None:
            return self.middle_frequency
        return self.threshold_frequency

    @property
    def unit_phase(self) -> float:
        """Phase that VCO4 gains over VCO3 when the membrane of equation (1) rises by 1, rad."""
        return self.membrane_gain * self.phase_per_weight * self.tau

    @property
    def threshold(self) -> float:
        """`threshold_phase`, or its default."""
        return self.unit_phase if self.threshold_phase is None else self.threshold_phase

    def seconds(self, time: ArrayLike) -> NDArray[np.float64]:
        """The network's times (tau = 1) in seconds."""
        return np.asarray(time, dtype=np.float64) * self.tau

    def network_time(self, seconds: ArrayLike) -> NDArray[np.float64]:
        """Seconds in the network's time (tau = 1)."""
        return np.asarray(seconds, dtype=np.float64) / self.tau

    def core(self) -> dict[str, float]:
        """What the simulator takes: `_core.circuit_parameters`."""
        defaults = {
            "threshold_frequency": self.vco3_frequency,
            "threshold_phase": self.threshold,
        }
        return {name: getattr(self, name) for name in _core.circuit_parameters} | defaults


@dataclass(frozen=True)
class Nonidealities:
    """Non-idealities of real circuits. All are off by default.

    A spread is the standard deviation of a Gaussian that is drawn once for each chip; a gain varies
    by the factor exp(spread x normal).

    Attributes
    ----------
    relative_jitter : float
        Standard deviation of each input's time, as a fraction of the time (0.01 is 1 %).
    jitter : float
        Standard deviation of each input's time, s.
    weight_bits : int
        Bits of the resistor bank that makes a weight's size (the sign is apart), 1 to 52; 0 for
        exact weights.
    weight_full_scale : float
        The bank's range: its 2^bits levels are full scale / 2^bits apart, from 0.
    bank_offset : bool
        Each bank's levels lie a random part (-1/2 to 1/2) of a level off, so that a weight's
        rounding error is uniform over the chips: the usual model of quantization noise.
    phase_noise : float, optional
        White frequency noise of each oscillator: single-sideband phase noise in dBc/Hz at
        `phase_noise_offset`. Its phase walks randomly, with variance 10^(L/10) (2 pi offset)^2 t.
    phase_noise_offset : float
        Offset from the carrier at which `phase_noise` is given, Hz.
    loop_gain_spread, membrane_gain_spread : float
        Relative spread of VCO2's gain, and of VCO4's.
    loop_frequency_spread, membrane_frequency_spread : float
        Spread of VCO1's frequency less VCO2's, and of VCO4's less VCO3's, relative to
        ring_frequency.
    comparator_spread : float
        Spread of the offset of the phase comparison, rad.
    common_drift, differential_drift : float
        Shift of all four oscillators, and of VCO1 less VCO2 and of VCO4 less VCO3, with supply or
        temperature, relative to ring_frequency; the same for every trial.
    random_start : bool
        The rings' phase at time 0 is random in each trial (switching model).

    Raises
    ------
    ValueError
        If a value is not finite, or its offset is negative.
    """

    relative_jitter: float = 0.0
    jitter: float = 0.0
    weight_bits: int = 0
    weight_full_scale: float = 1.0
    bank_offset: bool = False
    phase_noise: float | None = None
    phase_noise_offset: float = 1e6
    loop_gain_spread: float = 0.0
    membrane_gain_spread: float = 0.0
    loop_frequency_spread: float = 0.0
    membrane_frequency_spread: float = 0.0
    comparator_spread: float = 0.0
    common_drift: float = 0.0
    differential_drift: float = 0.0
    random_start: bool = False

    def __post_init__(self) -> None:
        if self.phase_noise is not None and not math.isfinite(self.phase_noise):
            raise ValueError(f"phase_noise must be finite; got {self.phase_noise}")
        if not (self.phase_noise_offset >= 0 and math.isfinite(self.phase_noise_offset)):
            raise ValueError(
                f"phase_noise_offset must be finite and >= 0; got {self.phase_noise_offset}"
            )
        _core.check_circuit_noise(self.core(1.0))

    @property
    def diffusion(self) -> float:
        """Variance of one oscillator's phase, rad^2/s."""
        if self.phase_noise is None:
            return 0.0
        return float(10 ** (self.phase_noise / 10) * (2 * math.pi * self.phase_noise_offset) ** 2)

    def core(self, ring_frequency: float) -> dict[str, float]:
        """What the simulator takes: `_core.circuit_noise`, with frequencies in Hz."""
        in_hertz = {name: getattr(self, name) * ring_frequency for name in _RELATIVE_TO_THE_RING}
        return {
            name: self.diffusion if name.endswith("_diffusion") else getattr(self, name)
            for name in _core.circuit_noise
        } | in_hertz


_RELATIVE_TO_THE_RING = (
    "loop_frequency_spread",
    "membrane_frequency_spread",
    "common_drift",
    "differential_drift",
)
