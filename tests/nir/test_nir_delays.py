"""Delays as NIR's own nodes: bit-exact round trips, and simulations."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from support.spikes import delayed
from ttfs_fast.nn import Delay, SpikingConv2d, SpikingLinear, SpikingMaxPool2d

nir = pytest.importorskip("nir", reason="needs the extra ttfs_fast[nir]")

from ttfs_fast.nir import (  # noqa: E402
    first_spikes,
    from_graph,
    metadata,
    read,
    spike_trains,
    to_graph,
    write,
)


def networks() -> dict[str, tuple[nn.Sequential, tuple[int, ...]]]:
    like: dict[str, Any] = {"dtype": torch.float64}
    return {
        "maps": (
            nn.Sequential(
                delayed(2, low=-0.2),
                SpikingConv2d(2, 4, 3, t_max=3.0),
                delayed(4, low=-0.2),
                SpikingMaxPool2d(2),
                delayed(4, low=-0.2),
                nn.Flatten(),
                delayed(36, low=-0.2),
                SpikingLinear(36, 5, t_max=4.0),
                delayed(5, low=-0.2),
            ),
            (2, 8, 8),
        ),
        "double precision": (
            nn.Sequential(
                delayed(6, low=-0.2, **like),
                SpikingLinear(6, 3, **like),
                delayed(3, low=-0.2, **like),
            ),
            (6,),
        ),
    }


@pytest.mark.parametrize("name", networks())
def test_delays_round_trip(name: str, tmp_path: Path, seed: int) -> None:
    model, shape = networks()[name]
    again = read(write(tmp_path / "network.nir", model, shape))
    dtype = next(model.parameters()).dtype
    z = (2 * torch.rand(4, *shape, dtype=dtype)).exp()
    with torch.no_grad():
        expected = model(z)
        assert expected.isfinite().float().mean() > 0.5
        assert torch.equal(again(z), expected)
    for one, other in zip(model, again, strict=True):
        if isinstance(one, Delay):
            assert torch.equal(other.delay.detach(), one.delays())
            assert other.delay.dtype == dtype


def test_delay_nodes_hold_seconds() -> None:
    delay = Delay(2)
    with torch.no_grad():
        delay.delay.copy_(torch.tensor([0.25, 1.0]))
    graph = to_graph(nn.Sequential(delay, SpikingConv2d(2, 3, 2)), (2, 4, 4), tau=0.02)
    node = graph.nodes["0"]
    assert type(node).__name__ == "Delay"
    assert node.delay.shape == (3, 4, 4)  # the last channel is the bias's
    assert np.allclose(node.delay[:, 0, 0], [0.005, 0.02, 0])
    assert np.ptp(node.delay, axis=(1, 2)).max() == 0


def test_delays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="0 delays 3 channels or features, and gets 2"):
        to_graph(nn.Sequential(Delay(3), SpikingLinear(2, 2)), (2,))
    broken = Delay(2)
    with torch.no_grad():
        broken.delay.fill_(math.inf)
    with pytest.raises(ValueError, match="0 has delays that are not finite"):
        to_graph(nn.Sequential(broken, SpikingLinear(2, 2)), (2,))


def test_a_changed_delay_is_noticed() -> None:
    graph = to_graph(nn.Sequential(Delay(2, 0.5), SpikingLinear(2, 2)), (2,))
    graph.nodes["0"].delay[0] += 1e-6
    with pytest.raises(ValueError, match="not those that its metadata describe"):
        from_graph(graph)


def simulate(graph: Any, z: Tensor, steps: int) -> Tensor:
    """First spikes of the output by NIR's equations, step by step, for flat networks.

    Source of the equations: NIR's documentation of CubaLIF, Linear and Delay.
    """
    dt = metadata(graph)["dt"]
    trains = spike_trains(graph, z, steps).double().numpy()
    for node in graph.nodes.values():
        if type(node).__name__ == "Linear":
            trains = trains @ np.asarray(node.weight, np.float64).T
        elif type(node).__name__ == "Delay":
            later = np.round(node.delay / dt).astype(int)
            moved = np.zeros_like(trains)
            for i, by in enumerate(later):
                moved[by:, i] = trains[: steps - by, i]
            trains = moved
        elif type(node).__name__ == "CubaLIF":
            current, membrane = np.zeros(node.r.shape), np.zeros(node.r.shape)
            out = np.zeros((steps, *node.r.shape))
            for step, inputs in enumerate(trains):
                current += dt / node.tau_syn * (-current + node.w_in * inputs)
                drive = node.v_leak - membrane + node.r * current
                membrane = membrane + dt / node.tau_mem * drive
                out[step] = membrane >= node.v_threshold
                membrane = np.where(out[step] > 0, node.v_reset, membrane)
            trains = out
    return first_spikes(graph, torch.from_numpy(trains))


def test_a_simulation_of_the_graph_spikes_when_the_network_does(seed: int) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(
        Delay(8), SpikingLinear(8, 12), Delay(12), SpikingLinear(12, 6, bias=False)
    )
    for layer in (model[0], model[2]):
        nn.init.uniform_(layer.delay, 0, 1)
    z = (2 * torch.rand(8)).exp()
    graph = to_graph(model, (8,))
    simulated = simulate(graph, z, 700)
    with torch.no_grad():
        exact = model(z).double()
        without = model[3](model[1](z)).double()
    both = simulated.isfinite() & exact.isfinite()
    assert both.sum() >= 4
    error = (simulated.log() - exact.log())[both].abs()
    assert error.max() < 0.06  # of steps of 0.01: two layers, each a step or so
    assert (exact.log() - without.log())[both].abs().min() > 0.1
