"""Checks whether a network fits a chip: fan-in, fan-out, neurons and weights."""

import copy
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttfs_fast._tables import Column, Table, as_text
from ttfs_fast._untrusted import parse_toml
from ttfs_fast.analysis.operations import fan_in, fan_out
from ttfs_fast.conversion.network import Concatenate
from ttfs_fast.geometry import pair
from ttfs_fast.horizon import ReferenceSpikes, fold_horizons_, has_horizon_layers
from ttfs_fast.layers import evaluating, hook_runs, spiking_layers
from ttfs_fast.models.networks import FirstSpike
from ttfs_fast.nn import Delay, SpikingMaxPool2d


@dataclass(frozen=True)
class Limits:
    """Limits of a chip; None for no limit.

    Attributes
    ----------
    fan_in : int, optional
        Synapses of a neuron; a bias and a horizon are one more input each.
    fan_out : int, optional
        Synapses of one input or neuron, in all layers that receive its spikes.
    neurons_per_core, weights_per_core, synapses_per_core : int, optional
        Capacity of one core. Weights are stored weights, those of a convolution once. Synapses are
        counted for every neuron, for cores that do not share weights.
    cores_per_layer : int, optional
        Cores among which one layer may be divided.
    cores : int, optional
        Cores of the chip; layers do not share any.
    pools_are_neurons : bool
        Whether a first-spike pool needs a neuron for each window, as in a NIR graph.

    Raises
    ------
    ValueError
        If a limit is below 1 or no whole number, or none is given.
    """

    fan_in: int | None = None
    fan_out: int | None = None
    neurons_per_core: int | None = None
    weights_per_core: int | None = None
    synapses_per_core: int | None = None
    cores_per_layer: int | None = None
    cores: int | None = None
    pools_are_neurons: bool = True

    def __post_init__(self) -> None:
        given = asdict(self)
        if not isinstance(given.pop("pools_are_neurons"), bool):
            raise ValueError(
                f"pools_are_neurons must be true or false; got {self.pools_are_neurons!r}"
            )
        for name, value in given.items():
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of 1 or more; got {value!r}")
        if not any(given.values()):
            raise ValueError(f"give at least one limit: {', '.join(given)}")
        per_core = ("neurons_per_core", "weights_per_core", "synapses_per_core")
        if (self.cores or self.cores_per_layer) and not any(given[name] for name in per_core):
            raise ValueError(
                f"cores and cores_per_layer need what one core holds: {', '.join(per_core)}"
            )


def read_limits(path: str | Path) -> Limits:
    """Limits of a chip from a TOML file with the attributes of :class:`Limits` as keys.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not TOML, or a key or value is not allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of limits at {path}")
    try:
        table = parse_toml(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    allowed = [field.name for field in fields(Limits)]
    unknown = [key for key in table if key not in allowed]
    if unknown:
        raise ValueError(
            f"{path}: unknown limit {unknown[0]!r}; the limits are {', '.join(allowed)}"
        )
    try:
        return Limits(**table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@dataclass(frozen=True)
class LayerSize:
    """Resources of a chip that one layer needs.

    Attributes
    ----------
    name : str
    kind : str
        "neurons" or "pool".
    fan_in : int
        Synapses of the neuron that has most.
    fan_out : int
        Synapses of the input that has most, in all layers that take the same input.
    neurons, weights, synapses : int
        Neurons; weights that are stored, biases too; synapses of all neurons.
    neuron_weights : int
        Weights that one neuron needs: all of them must be on its core.
    cores : int
        Cores that it takes at least, if it is divided evenly; 0 if no core has a limit.
    """

    name: str
    kind: str
    fan_in: int
    fan_out: int
    neurons: int
    weights: int
    synapses: int
    neuron_weights: int
    cores: int


@dataclass(frozen=True)
class Excess:
    """An exceeded limit.

    Attributes
    ----------
    layer : str
        The layer, or "" for the whole network.
    limit : str
        Its name in :class:`Limits`.
    needed, allowed : int
    """

    layer: str
    limit: str
    needed: int
    allowed: int

    def __str__(self) -> str:
        where = self.layer or "the network"
        return (
            f"{where}: {self.limit} {self.needed:,}, {self.allowed:,} allowed "
            f"({self.needed / self.allowed:.3g} times as much)"
        )


@dataclass(frozen=True)
class LimitsCheck:
    """A network compared with the limits of a chip; print it for a table and the exceeded limits.

    Attributes
    ----------
    limits : Limits
    layers : tuple of LayerSize
        In the order in which they run.
    excesses : tuple of Excess
        The exceeded limits; empty if there are none.
    """

    limits: Limits
    layers: tuple[LayerSize, ...]
    excesses: tuple[Excess, ...]

    @property
    def fits(self) -> bool:
        """Whether no limit is exceeded."""
        return not self.excesses

    @property
    def cores(self) -> int:
        """The least number of cores that the network needs."""
        return sum(layer.cores for layer in self.layers)

    def table(self) -> Any:
        """The layers as a rich.table.Table, those that do not fit in red."""
        names = ["fan_in", "fan_out", "neurons", "weights", "synapses", "cores"]
        columns = [Column(n.replace("_", "-"), "{:,}".format, of=n) for n in names]
        bad = {excess.layer for excess in self.excesses}
        return Table.of(
            "limits",
            "what the layers take",
            [Column("layer", numeric=False, of="name"), *columns],
            self.layers,
            red=[number for number, layer in enumerate(self.layers) if layer.name in bad],
        ).rich()

    def __str__(self) -> str:
        told = [str(excess) for excess in self.excesses] or ["every layer fits"]
        return "\n".join([as_text(self.table()), *told])

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON types."""
        return {
            "fits": self.fits,
            "cores": self.cores,
            "limits": asdict(self.limits),
            "layers": [asdict(layer) for layer in self.layers],
            "excesses": [asdict(excess) for excess in self.excesses],
        }


def check_limits(model: nn.Module, input_shape: Sequence[int], limits: Limits) -> LimitsCheck:
    """Compare the resources that each layer of a network needs with the limits of a chip.

    Parameters
    ----------
    model : Module
        Holds SpikingLinear and SpikingConv2d layers. Layers with horizons are taken as the plain
        layers that they fold into; the model is left as it is.
    input_shape : sequence of int
        Shape of one input, (channels, height, width) or (features,).
    limits : Limits

    Returns
    -------
    LimitsCheck

    Raises
    ------
    ValueError
        If the model has no spiking layer, or `input_shape` holds a number below 1.
    RuntimeError
        If the model does not take inputs of that shape.

    Examples
    --------
    >>> from ttfs_fast.analysis import Limits, check_limits
    >>> from ttfs_fast.models import mnist_scnn
    >>> check = check_limits(mnist_scnn(), (1, 28, 28), Limits(fan_in=256))
    >>> [str(excess) for excess in check.excesses]
    ['conv2: fan_in 801, 256 allowed (3.13 times as much)', \
'fc: fan_in 785, 256 allowed (3.07 times as much)']
    """
    shape = tuple(int(size) for size in input_shape)
    if not shape or min(shape) < 1:
        raise ValueError(f"input_shape must hold numbers of 1 or more; got {shape}")
    if has_horizon_layers(model):
        model = fold_horizons_(copy.deepcopy(model))
    spiking_layers(model, any_neuron=True)  # says what is missing
    measured = _measure(model, shape, limits)
    return LimitsCheck(limits, tuple(measured), tuple(_excesses(measured, limits)))


def _measure(model: nn.Module, shape: tuple[int, ...], limits: Limits) -> list[LayerSize]:
    seen: list[tuple[str, nn.Module, Tensor, Tensor]] = []
    passed: list[tuple[nn.Module, tuple[Tensor, ...], Tensor]] = []

    def passes(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output is not inputs[0]:
            passed.append((module, inputs, output))

    def neurons(name: str, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((name, layer, inputs[0], output))

    names = {module: name for name, module in model.named_modules()}

    def pool(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((names[module], module, inputs[0], output))

    with evaluating(model), hook_runs(model, neurons), ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, SpikingMaxPool2d | FirstSpike):
                hook = pool if limits.pools_are_neurons else passes
                stack.callback(module.register_forward_hook(hook).remove)
        for module in model.modules():
            if isinstance(module, ReferenceSpikes | Delay | Concatenate | nn.Flatten):
                stack.callback(module.register_forward_hook(passes).remove)
        model(next(model.parameters()).new_ones(1, *shape))
    # By the tensor of the spikes, which `seen` and `passed` keep alive.
    reach: dict[int, Tensor] = {}
    for _, layer, inputs, output in seen:
        own = _fan_out(layer, inputs, output).expand(*inputs.shape[1:])
        reach[id(inputs)] = reach.get(id(inputs), 0) + own
    for module, origins, output in reversed(passed):
        if id(output) in reach:
            own_of_each = _through(module, origins, reach[id(output)])
            for origin, own in zip(origins, own_of_each, strict=True):
                reach[id(origin)] = reach.get(id(origin), 0) + own
    most = {key: int(own.max()) for key, own in reach.items()}
    for _, origins, output in passed:  # what passes on reaches all that its origin reaches
        if id(output) in most:
            most[id(output)] = max(most[id(output)], *(most[id(origin)] for origin in origins))
    return [
        _size(name, layer, inputs, output, most[id(inputs)], limits)
        for name, layer, inputs, output in seen
    ]


def _through(module: nn.Module, inputs: tuple[Tensor, ...], reach: Tensor) -> tuple[Tensor, ...]:
    """The synapses of a module's inputs, from those of its outputs, the same spikes elsewhere."""
    if isinstance(module, Concatenate):
        ends = accumulate(each.shape[1] for each in inputs[:-1])
        return tuple(torch.tensor_split(reach, list(ends)))
    (origin,) = inputs
    if isinstance(module, FirstSpike):
        return (reach.expand(origin.shape[1:]),)
    if isinstance(module, SpikingMaxPool2d):
        return (_behind_windows(module, origin, reach),)
    if isinstance(module, ReferenceSpikes):
        each = reach.reshape(module.groups, -1, *reach.shape[1:])[:, :-1].flatten(0, 1)
        if origin.dim() == 2:
            return (each,)
        rows, columns = module.padding
        return (each[:, rows : rows + origin.shape[2], columns : columns + origin.shape[3]],)
    return (reach.reshape(origin.shape[1:]),)


def _behind_windows(pool: SpikingMaxPool2d, inputs: Tensor, reach: Tensor) -> Tensor:
    """The synapses of inputs that come first in every window over them."""
    total = torch.zeros(inputs.shape[1:], dtype=reach.dtype)
    rows, columns = (_places(pool, inputs, reach[None], axis) for axis in range(2))
    for row in rows.T:
        for column in columns.T:
            y, x = (
                (place >= 0) & (place < size)
                for place, size in zip((row, column), inputs.shape[2:], strict=True)
            )
            total[:, row[y][:, None], column[x]] += reach[:, y][:, :, x]
    return total


def _places(pool: SpikingMaxPool2d, inputs: Tensor, output: Tensor, axis: int) -> Tensor:
    """Rows, or columns, that each window covers, in or outside the map; (windows, kernel)."""
    kernel, stride, padding, hole = (
        pair(value)[axis] for value in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    )
    first = torch.arange(output.shape[2 + axis])[:, None] * stride - padding
    return first + torch.arange(kernel) * hole


def _fan_out(layer: Any, inputs: Tensor, output: Tensor) -> Tensor:
    if isinstance(layer, SpikingMaxPool2d | FirstSpike):
        return _pool_windows(layer, inputs, output)[0]
    return fan_out(layer, inputs.shape[1:])


def _pool_windows(
    pool: SpikingMaxPool2d | FirstSpike, inputs: Tensor, output: Tensor
) -> tuple[Tensor, Tensor]:
    """Windows over each input of a map, and inputs of each window; (1, height, width)."""
    if isinstance(pool, FirstSpike):  # one window, the whole map
        ones = torch.ones(1, *inputs.shape[2:], dtype=torch.int64)
        return ones, ones.sum().view(1, 1, 1)
    over, inside = [], []
    for axis in range(2):
        size, at = inputs.shape[2 + axis], _places(pool, inputs, output, axis)
        valid = (at >= 0) & (at < size)
        over.append(torch.bincount(at[valid], minlength=size))
        inside.append(valid.sum(1))
    return (over[0][:, None] * over[1])[None], (inside[0][:, None] * inside[1])[None]


def _size(
    name: str, layer: Any, inputs: Tensor, output: Tensor, reach: int, limits: Limits
) -> LayerSize:
    neurons = output[0].numel()
    if isinstance(layer, SpikingMaxPool2d | FirstSpike):
        kind, stored, weights = "pool", 1, 1  # one weight, which fires a neuron at once
        per_neuron = _pool_windows(layer, inputs, output)[1]
    else:
        kind = "neurons"
        more = int(layer.t_max < math.inf)
        per_neuron = fan_in(layer, inputs.shape[1:]) + more
        outputs = layer.weight.shape[0]
        stored = layer.weight[0].numel() + int(layer.bias is not None) + more
        weights = stored * outputs
    synapses = int(per_neuron.sum()) * (neurons // max(per_neuron.numel(), 1))
    needs = (
        (neurons, limits.neurons_per_core),
        (weights, limits.weights_per_core),
        (synapses, limits.synapses_per_core),
    )
    cores = max((-(-need // most) for need, most in needs if most is not None), default=0)
    return LayerSize(
        name=name,
        kind=kind,
        fan_in=int(per_neuron.max()),
        fan_out=reach,
        neurons=neurons,
        weights=weights,
        synapses=synapses,
        neuron_weights=stored,
        cores=cores,
    )


def _excesses(layers: list[LayerSize], limits: Limits) -> list[Excess]:
    found = []
    for layer in layers:
        checks = [
            ("fan_in", layer.fan_in, limits.fan_in),
            ("fan_out", layer.fan_out, limits.fan_out),
            ("cores_per_layer", layer.cores, limits.cores_per_layer),
            # If one neuron alone exceeds a core, division does not help.
            ("weights_per_core", layer.neuron_weights, limits.weights_per_core),
            ("synapses_per_core", layer.fan_in, limits.synapses_per_core),
        ]
        found += [
            Excess(layer.name, what, need, most)
            for what, need, most in checks
            if most is not None and need > most
        ]
    cores = sum(layer.cores for layer in layers)
    if limits.cores is not None and cores > limits.cores:
        found.append(Excess("", "cores", cores, limits.cores))
    return found
