"""The neurons that the operators compute: one membrane, two numbers.

Neuron j spikes at the first x from below at which ::

    F_j(x) = sum_{i: x_i < x} w_ji (x - x_i) + slope x - threshold

is 0: at ``x_j = (threshold + sum_{i in C} w_ji x_i) / D_j`` with the causal set C of the inputs
before it, and ``D_j = sum_{i in C} w_ji + slope``. docs/sisters.md compares them.
"""

from dataclasses import dataclass
from typing import Literal, get_args

NeuronName = Literal["n-lif", "rel-psp", "falling-threshold"]


@dataclass(frozen=True)
class Neuron:
    """What F is before any input, ``slope x - threshold``.

    Attributes
    ----------
    slope, threshold : float
        With a slope below 0 the threshold is 0, and x is the spike value z = exp(t) > 0. With a
        slope of 0 or more the threshold is above 0, and x is the spike time t: any number.
    """

    slope: float
    threshold: float

    @property
    def on_times(self) -> bool:
        """Whether inputs and outputs are spike times t, not spike values z = exp(t)."""
        return self.slope >= 0

    @property
    def origin(self) -> float:
        """x at t = 0, where the input of the bias spikes."""
        return 0.0 if self.on_times else 1.0


NEURONS: dict[str, Neuron] = {
    "n-lif": Neuron(-1.0, 0.0),
    "rel-psp": Neuron(0.0, 1.0),
    "falling-threshold": Neuron(1.0, 2.0),
}
"""By name: non-leaky integrate-and-fire with exponential synapses; ramps that add up to a fixed
threshold; ramps below the threshold 2 - t."""

assert tuple(NEURONS) == get_args(NeuronName)


def neuron_of(name: str) -> Neuron:
    """The neuron of a name.

    Raises
    ------
    ValueError
        If there is none; the message names them.
    """
    neuron = NEURONS.get(name) if isinstance(name, str) else None
    if neuron is None:
        raise ValueError(f"neuron must be one of {', '.join(map(repr, NEURONS))}; got {name!r}")
    return neuron
