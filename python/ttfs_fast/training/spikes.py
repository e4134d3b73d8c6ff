"""Watching the spiking layers of a network while it runs."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ttfs_fast.horizon import HorizonConv2d, HorizonLinear
from ttfs_fast.nn import SpikingConv2d, SpikingLinear

NEURONS = SpikingConv2d | SpikingLinear | HorizonConv2d | HorizonLinear
"""The modules that hold neurons."""


def spiking_layers(model: nn.Module) -> dict[str, SpikingLinear | SpikingConv2d]:
    """The layers of a network that hold neurons, by name, in the order of the modules.

    Pooling layers hold none: they pass spikes on.

    Raises
    ------
    ValueError
        If the model has no such layer.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, SpikingLinear | SpikingConv2d)
    }
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no SpikingLinear and no SpikingConv2d layer to watch"
        )
    return layers


@contextmanager
def watch_layers(model: nn.Module, see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``see(layer name, output spike values)`` after each spiking layer, inside the block.

    Neurons that a layer with a horizon would only make spike at its horizon count as silent, but
    for those of the last layer, whose first spike is the answer however late.
    """
    named = {n: m for n, m in model.named_modules() if isinstance(m, NEURONS)}
    last = next(reversed(named), None)

    def hook_for(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            values = output.detach()
            if isinstance(module, HorizonConv2d | HorizonLinear) and name != last:
                values = values.masked_fill(values > math.exp(module.t_out), math.inf)
            see(name, values)

        return hook

    handles = [module.register_forward_hook(hook_for(name)) for name, module in named.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
        spikes = int(torch.isfinite(values).sum())
        self.neurons[name] = self.neurons.get(name, 0) + values.numel()
        self.spikes[name] = self.spikes.get(name, 0) + spikes

    @property
    def sparsity(self) -> float:
        """Share of all neurons that spiked: the paper's use of the word."""
        neurons = sum(self.neurons.values())
        return sum(self.spikes.values()) / neurons if neurons else float("nan")

    @property
    def sparsity_by_layer(self) -> dict[str, float]:
        """Share of the neurons of each layer that spiked."""
        return {
            name: self.spikes[name] / neurons if neurons else float("nan")
            for name, neurons in self.neurons.items()
        }


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
