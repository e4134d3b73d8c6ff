"""The modules of a converted network: encoding, concatenation, and a network with branches."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

INPUT = "input"
"""Name of the network's input in the steps of a `ConvertedNetwork`."""


class LeadEncoding(nn.Module):
    """Encodes real numbers as spikes: the larger a number, the earlier its spike.

    ``x`` in [low, high] spikes at ``z = T (1 - spread (x - low) / (high - low))``, where the
    horizon T is such that ``high`` spikes at t = 0. Numbers below ``low`` count as ``low``; those
    above ``high`` spike before t = 0, by the same formula.

    Parameters
    ----------
    low, high : float
        The range of the inputs.
    spread : float
        Lead of the largest input, as a fraction of the horizon.
    """

    takes_numbers = True
    """Not the spike values of an encoding."""

    def __init__(self, low: float, high: float, spread: float) -> None:
        super().__init__()
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"low must be below high, both finite; got {low} and {high}")
        if not 0 < spread < 1:
            raise ValueError(f"spread must be above 0 and below 1; got {spread}")
        self.low, self.high, self.spread = low, high, spread

    @property
    def t_out(self) -> float:
        """The horizon, in units of tau."""
        return -math.log1p(-self.spread)

    def forward(self, input: Tensor) -> Tensor:
        """Spike values, of the shape of the input."""
        lead = (input - self.low) * (self.spread / (self.high - self.low))
        return math.exp(self.t_out) * (1 - lead.clamp(min=0))

    def spike_value(self, number: float) -> float:
        """The spike value of one number."""
        return float(self(torch.tensor(number, dtype=torch.float64)))

    def extra_repr(self) -> str:
        return f"low={self.low:g}, high={self.high:g}, spread={self.spread:g}"


class IntensitiesOfSpikes(nn.Module):
    """Converts spike values of pixels to normalized intensities, the inputs of a ReLU network.

    The package's commands run every network on the spikes of its encoding, here ``z = exp(1 - p)``
    (`Encoding` with alpha 1, bright pixels first). A converted network takes ``(p - mean) /
    deviation`` and encodes it itself.

    Parameters
    ----------
    mean, deviation : sequence of float
        One for each channel, or one for all.
    """

    gives_numbers = True

    def __init__(self, mean: float | Iterable[float], deviation: float | Iterable[float]) -> None:
        super().__init__()
        self.mean, self.deviation = _channels(mean), _channels(deviation)
        if not all(map(math.isfinite, self.mean)):
            raise ValueError(f"mean must be finite numbers; got {self.mean}")
        if not all(math.isfinite(value) and value > 0 for value in self.deviation):
            raise ValueError(f"deviation must be numbers above 0; got {self.deviation}")
        if not self.mean or not self.deviation:
            raise ValueError("mean and deviation need one number at least")

    def forward(self, z: Tensor) -> Tensor:
        """Intensities, of the shape of the spike values (N, C, H, W)."""
        mean, deviation = (
            torch.tensor(values, dtype=z.dtype, device=z.device).view(-1, 1, 1)
            for values in (self.mean, self.deviation)
        )
        return (1 - z.log() - mean) / deviation

    def extra_repr(self) -> str:
        return f"mean={self.mean}, deviation={self.deviation}"


def _channels(value: float | Iterable[float]) -> tuple[float, ...]:
    return (float(value),) if isinstance(value, int | float) else tuple(map(float, value))


class Concatenate(nn.Module):
    """Several maps (or vectors) of spikes side by side: joined along the channels (features)."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, dim=1)


class ConvertedNetwork(nn.Module):
    """A network of modules that run in order, each on outputs of earlier ones.

    Parameters
    ----------
    steps : iterable of (str, Module, tuple of str)
        A module's name, the module, and the names of its inputs: earlier modules, or ``"input"``.
        The output of the last is the network's.

    Raises
    ------
    ValueError
        If there is no step, a name occurs twice or is not an identifier, or an input is not
        that of an earlier step.
    """

    def __init__(self, steps: Iterable[tuple[str, nn.Module, tuple[str, ...]]]) -> None:
        super().__init__()
        self.inputs: dict[str, tuple[str, ...]] = {}
        for name, module, inputs in steps:
            if name in self.inputs or name == INPUT or not name.isidentifier():
                raise ValueError(f"the name of a step must be new and an identifier; got {name!r}")
            unknown = [one for one in inputs if one != INPUT and one not in self.inputs]
            if unknown or not inputs:
                raise ValueError(
                    f"step {name} must have inputs that come before it; got {', '.join(inputs)}"
                )
            self.add_module(name, module)
            self.inputs[name] = tuple(inputs)
        if not self.inputs:
            raise ValueError("a network needs at least one step")

    def forward(self, input: Tensor) -> Tensor:
        """Spike values of the classes from the inputs of the ReLU network."""
        values = {INPUT: input}
        uses = {name: number for number, names in enumerate(self.inputs.values()) for name in names}
        output = input
        for number, (name, names) in enumerate(self.inputs.items()):
            output = getattr(self, name)(*(values[one] for one in names))
            for one in set(names):
                if uses[one] == number:
                    del values[one]
            values[name] = output
        return output


def refuse_converted(model: nn.Module, purpose: str) -> None:
    """Raise ValueError if a network is one converted from a ReLU network; it cannot ``purpose``."""
    if any(isinstance(module, LeadEncoding) for module in model.modules()):
        raise ValueError(
            f"this network was converted from a ReLU network (ttfs_fast.conversion) and cannot "
            f"{purpose}; train one with neuron=horizon for that"
        )
