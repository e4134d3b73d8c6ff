"""Finds the spiking layers of a network, and observes them as it runs."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ttfs_fast._modes import keep_modes
from ttfs_fast.geometry import conv_sizes
from ttfs_fast.horizon import HorizonConv2d, HorizonLinear, ReferenceSpikes
from ttfs_fast.nn import SpikingConv2d, SpikingLinear, refuse_sisters
from ttfs_fast.reference import pad_input

Layer = SpikingLinear | SpikingConv2d
Neurons = Layer | HorizonLinear | HorizonConv2d
"""The modules with neurons, including layers with a horizon in their training form."""


def spiking_layers(model: nn.Module, *, any_neuron: bool = False) -> dict[str, Layer]:
    """The layers of a network that have neurons, by name, in the order of the modules.

    Pooling layers have no neurons: they pass spikes on. A layer that is used at two places is
    listed once, by the first name.

    Parameters
    ----------
    model : Module
    any_neuron : bool
        Whether to accept layers on spike times. By default they raise an error.

    Raises
    ------
    ValueError
        If the model has no such layer, one with a horizon that is not folded, or one on spike times
        that is not wanted.
    """
    if not any_neuron:
        refuse_sisters(model, "this analysis")
    for name, module in model.named_modules():
        if isinstance(module, HorizonLinear | HorizonConv2d):
            raise ValueError(
                f"{name or type(model).__name__} is a layer with a horizon in its training form; "
                "call ttfs_fast.horizon.fold_horizons_ on the model first"
            )
    return find_spiking_layers(model, required=True)


def find_spiking_layers(model: nn.Module, *, required: bool = False) -> dict[str, Layer]:
    """The same of any model: it may have none, or layers with a horizon in their training form.

    Raises
    ------
    ValueError
        If one is ``required`` and the model has none.
    """
    layers = {n: layer for n, layer in find_neurons(model).items() if isinstance(layer, Layer)}
    if required and not layers:
        raise ValueError(f"{type(model).__name__} has no SpikingLinear and no SpikingConv2d layer")
    return layers


def find_neurons(model: nn.Module, *, required: bool = False) -> dict[str, Neurons]:
    """The same, with layers that have a horizon in their training form.

    Raises
    ------
    ValueError
        If one is ``required`` and the model has none.
    """
    layers = {n: module for n, module in model.named_modules() if isinstance(module, Neurons)}
    if required and not layers:
        raise ValueError(f"{type(model).__name__} has no spiking layer, plain or with a horizon")
    return layers


def layer_places(model: nn.Module) -> dict[str, Layer]:
    """Every place of a network with a spiking layer, by name, in the order of the modules.

    Unlike :func:`spiking_layers` it names a layer at two places twice.
    """
    return {n: m for n, m in neuron_places(model).items() if isinstance(m, Layer)}


def neuron_places(model: nn.Module) -> dict[str, Neurons]:
    """The same of all modules that hold neurons."""
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, Neurons)
    }


def pad_silent(layer: SpikingConv2d, values: Tensor) -> Tensor:
    """The input of a convolution, (N, C, H, W), with silence as far as its windows reach."""
    pads, size = conv_sizes(
        type(layer).__name__,
        tuple(values.shape[2:]),
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
    )
    return pad_input(values, layer.weight, layer.stride, pads, layer.dilation, size)


@contextmanager
def hook_runs(
    model: nn.Module, hook: Callable[[str, Any, tuple[Tensor, ...], Tensor], Tensor | None]
) -> Iterator[None]:
    """Call ``hook(name, layer, inputs, output)`` after each run of a layer with neurons.

    Each run in a pass through the model has a name of its own. A layer that stands at several
    places has their names in turn; one that runs more often than that has "NAME (run 2)" and so on.
    What the hook returns, if not None, takes the place of the output. Neurons that a layer with a
    horizon would make spike at its horizon are silent in what the hook sees, but for those of the
    last layer, the one with the latest horizon, whose first spike is the answer however late.

    Raises
    ------
    ValueError
        If the model, or a part of it, is compiled: it calls no hooks.
    """
    if any(isinstance(getattr(module, "_orig_mod", None), nn.Module) for module in model.modules()):
        raise ValueError(
            "a network that torch.compile made does not tell what its layers do: give the network "
            "that was compiled (its attribute _orig_mod)"
        )
    names: dict[Neurons, list[str]] = {}
    for name, layer in neuron_places(model).items():
        names.setdefault(layer, []).append(name)
    horizons = [m.t_out for m in names if isinstance(m, HorizonConv2d | HorizonLinear)]
    latest = max(horizons, default=math.inf)
    runs: Counter[Neurons] | None = None  # None: somebody runs a part of the model by itself

    def begin(module: nn.Module, inputs: Any) -> None:
        nonlocal runs
        runs = Counter()

    def end(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal runs
        runs = None

    def run(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        own, before = names[module], 0
        if runs is not None:
            before = runs[module]
            runs[module] += 1
        name = own[before] if before < len(own) else f"{own[0]} (run {before + 1})"
        if isinstance(module, HorizonConv2d | HorizonLinear) and module.t_out != latest:
            output = output.masked_fill(output > math.exp(module.t_out), math.inf)
        return hook(name, module, inputs, output)

    with ExitStack() as handles:
        handles.callback(model.register_forward_pre_hook(begin).remove)
        for layer in names:
            handles.callback(layer.register_forward_hook(run).remove)
        handles.callback(model.register_forward_hook(end).remove)
        yield


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Run models in evaluation mode and without gradients inside the block.

    Afterwards each of their modules has the mode that it had.
    """
    with keep_modes(*models), torch.no_grad():
        for model in models:
            model.eval()
        yield


@contextmanager
def watch_layers(model: nn.Module, callback: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``callback(name, spike values)`` after each spiking layer, inside the block.

    A layer that runs at several places of the model has the name of each place in turn.
    """

    def hook(name: str, layer: Neurons, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        callback(name, output.detach())

    with hook_runs(model, hook):
        yield


class SpikeCounter:
    """Counts neurons and spikes by layer.

    Attributes
    ----------
    neurons, spikes : dict of str to int
        For each layer, the number of outputs seen and how many of them were spikes (a silent
        neuron has the spike value +inf).
    """

    def __init__(self) -> None:
        self.neurons: dict[str, int] = {}
        self.spikes: dict[str, int] = {}

    def __call__(self, name: str, values: Tensor) -> None:
        self.add(name, values.numel(), int(torch.isfinite(values).sum()))

    def add(self, name: str, neurons: int, spikes: int) -> None:
        """Add neurons of a layer, and their spikes."""
        self.neurons[name] = self.neurons.get(name, 0) + neurons
        self.spikes[name] = self.spikes.get(name, 0) + spikes

    @property
    def spikes_per_neuron(self) -> float:
        """Fraction of all neurons that spiked; the paper calls it sparsity."""
        neurons = sum(self.neurons.values())
        return sum(self.spikes.values()) / neurons if neurons else float("nan")

    @property
    def spikes_per_neuron_by_layer(self) -> dict[str, float]:
        """Fraction of the neurons of each layer that spiked."""
        return {
            name: self.spikes[name] / neurons if neurons else float("nan")
            for name, neurons in self.neurons.items()
        }


class ForcedSpikeCounter:
    """Counts forced spikes of a network with horizons: late neurons that spike at their horizon.

    `SpikeCounter` leaves them out. They are the silent inputs of every
    :class:`~ttfs_fast.horizon.ReferenceSpikes`, behind the pool of the layer before where there is
    one. Padding and the reference inputs are not counted.

    Attributes
    ----------
    spikes : int
        Forced spikes so far.
    """

    def __init__(self) -> None:
        self.spikes = 0

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Count inside the block, over all modules of ``model``."""

        def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.spikes += int(torch.isinf(inputs[0]).sum())

        with ExitStack() as handles:
            for module in model.modules():
                if isinstance(module, ReferenceSpikes):
                    handles.callback(module.register_forward_pre_hook(count).remove)
            yield


def has_reference_spikes(model: nn.Module) -> bool:
    """Whether a network has horizons, in its folded form."""
    return any(isinstance(module, ReferenceSpikes) for module in model.modules())


class SpikeRecorder:
    """Keeps the outputs of every layer, in the order in which the layers ran.

    Attributes
    ----------
    values : dict of str to Tensor
        Spike values of the last forward pass, by layer.
    """

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def __call__(self, name: str, values: Tensor) -> None:
        self.values[name] = values.clone()


def refuse_nan(output: Tensor, who: str = "the network") -> None:
    """Raise ValueError if an output has NaN, which is neither a time nor silence."""
    if bool(output.isnan().any()):
        raise ValueError(f"{who} gives NaN: look for NaN among its inputs or weights")


def predict(output: Tensor) -> Tensor:
    """The class of each image: the output neuron that spikes first.

    Parameters
    ----------
    output : Tensor, shape (N, C)
        Spike values of the output layer, +inf for silent.

    Returns
    -------
    classes : int64 Tensor, shape (N,)
        Index of the smallest value; -1 where no output spikes.
    """
    first, classes = output.min(dim=1)
    return torch.where(torch.isfinite(first), classes, -1)


def storable(model: nn.Module) -> dict[str, Tensor]:
    """The ``state_dict`` with a copy under each name: a module at two places has two names."""
    return {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
