"""Runs exported graphs in other simulators; returns the spike trains of each layer."""

from typing import Any

import torch
from torch import Tensor, nn

from ttfs_fast.nir import spike_trains

Trains = dict[str, Tensor]


class OneSpike(nn.Module):
    """Lets the first spike of each neuron pass: what CubaLIF's v_reset says, for snnTorch."""

    def __init__(self, neurons: nn.Module) -> None:
        super().__init__()
        self.neurons = neurons
        self.fired: Tensor | None = None

    def forward(self, current: Tensor) -> Tensor:
        spikes = self.neurons(current)
        fired = torch.zeros_like(spikes) if self.fired is None else self.fired
        self.fired = torch.maximum(fired, spikes)
        return spikes * (1 - fired)


def with_snntorch(graph: Any, z: Tensor, steps: int, *, one_spike: bool) -> Trains:
    """snnTorch resets to 0 and does not read v_reset: its neurons fire again unless stopped."""
    import snntorch
    from snntorch.import_nir import import_from_nir

    network = import_from_nir(graph)
    for name, module in list(network.named_modules()):
        if one_spike and isinstance(module, snntorch.Synaptic):
            network.set_submodule(name, OneSpike(module))
    return _run(network, graph, z, steps)


def with_norse(graph: Any, z: Tensor, steps: int, *, one_spike: bool) -> Trains:
    """norse does not read v_reset either, but takes a reset of one's own."""
    import norse.torch

    more = {"reset_method": _far_below} if one_spike else {}
    return _run(norse.torch.from_nir(graph, dt=1e-4, **more), graph, z, steps)


def _far_below(spikes: Tensor, v: Tensor, v_reset: Tensor, v_threshold: Tensor) -> Tensor:
    return torch.where(spikes > 0, -1e6 * torch.ones_like(v), v)


def _run(network: nn.Module, graph: Any, z: Tensor, steps: int) -> Trains:
    trains: dict[str, list[Tensor]] = {}

    def listen(name: str, module: nn.Module) -> None:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            trains[name].append(output[0] if isinstance(output, tuple) else output)

        trains[name] = []
        module.register_forward_hook(hook)

    for name, module in network.named_modules():
        if name.endswith("_neurons"):
            listen(name, module)
    state = None
    with torch.no_grad():
        for step in spike_trains(graph, z, steps):
            _, state = network(step, state)
    return {name: torch.stack(values) for name, values in trains.items()}
