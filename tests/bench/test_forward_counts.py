"""What a forward pass is counted to compute again, against an exact sweep of each neuron."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.machine import torch_threads
from ttfs_fast import _core
from ttfs_fast.bench.counts import ForwardCounts, count_forward
from ttfs_fast.nn import SpikingConv2d, SpikingLinear

Array = NDArray[np.float64]
CHUNK = 8


@dataclass
class Exact:
    """Neurons (M, N) on inputs (N) that all spike, in double precision.

    Attributes
    ----------
    order : ndarray, (N,)
        The inputs by time.
    slope, membrane : ndarray, (M, N)
        B behind each event, and F at it.
    last : ndarray, (M,)
        The last event before the neuron's spike; -1 for a silent one.
    """

    order: NDArray[np.int64]
    slope: Array
    membrane: Array
    last: NDArray[np.int64]


def exact(z: Array, weight: Array) -> Exact:
    order = np.argsort(z, kind="stable")
    times = z[order]
    slope = np.cumsum(weight[:, order], axis=1) - 1
    rises = slope[:, :-1] * np.diff(times)
    membrane = np.cumsum(np.concatenate([np.full((len(weight), 1), -times[0]), rises], 1), 1)
    reached = membrane >= 0
    silent = np.where(slope[:, -1] > 0, len(z) - 1, -1)
    last = np.where(reached.any(1), reached.argmax(1) - 1, silent)
    return Exact(order, slope, membrane, last)


def linear(weight: Any, dtype: torch.dtype = torch.float32) -> SpikingLinear:
    layer = SpikingLinear(weight.shape[1], weight.shape[0], bias=False, dtype=dtype)
    layer.weight.data.copy_(torch.as_tensor(weight))
    return layer


def near_and_far(inputs: int = 100) -> tuple[Array, Array, int]:
    """Spike values, weights, and how many of the neurons fire on a slope near 0.

    Their weights add up to hardly more than 1. The others' add up to much more, or to less than 1.
    """
    random = np.random.default_rng(1)
    z = np.exp(random.uniform(0, 2, inputs))
    slopes = np.concatenate(
        [random.uniform(1e-3, 5e-3, 20), random.uniform(0.05, 3, 20), random.uniform(-0.9, -0.1, 8)]
    )
    weight = random.uniform(0.5, 1.5, (len(slopes), inputs))
    weight *= ((1 + slopes) / weight.sum(1))[:, None]
    weight[:] = weight[random.permutation(len(weight))]
    found = exact(z.astype(np.float32), weight.astype(np.float32).astype(np.float64))
    fired = found.last >= 0
    at_spike = found.slope[np.arange(len(weight)), found.last][fired]
    # The bounds of the sweep for so many events are 0.01 and, behind the last event, 0.02.
    assert not ((at_spike > 0.008) & (at_spike < 0.03)).any()
    return z, weight, int((at_spike < 0.008).sum())


@pytest.mark.usefixtures("instruction_set")
def test_neurons_near_the_threshold_are_recomputed() -> None:
    z, weight, near = near_and_far()
    assert near == 20
    layer = linear(weight)
    some = torch.from_numpy(z).float()
    counts = count_forward(layer, some[None])
    assert counts == ForwardCounts(outputs=48, recomputed=20, chunks=0, rescanned=0)
    assert counts.fractions() == {"recomputed": 20 / 48, "rescanned": None}
    assert count_forward(layer, torch.stack([some, torch.full_like(some, math.inf), some])) == (
        ForwardCounts(outputs=3 * 48, recomputed=40)
    )
    # In double precision they are accurate enough.
    exactly = count_forward(linear(weight, torch.float64), torch.from_numpy(z)[None])
    assert exactly == ForwardCounts(outputs=48)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("outputs", [32, 40])
def test_chunks_with_crossings_are_rescanned(outputs: int) -> None:
    inputs = 304
    random = np.random.default_rng(2)
    z = np.exp(random.uniform(0, 2, inputs)).astype(np.float32)
    weight = random.normal(3 / inputs, 3 / math.sqrt(inputs), (outputs, inputs)).astype(np.float32)
    counts = count_forward(linear(weight), torch.from_numpy(z)[None])
    assert counts.chunks == inputs // CHUNK * (32 if outputs == 32 else 48)
    found = exact(z.astype(np.float64), weight.astype(np.float64))
    within = (found.last >= 0) & (found.last < inputs - 1)
    assert within.sum() > outputs / 3
    # F at the ends of the chunks: at the first event, then at the last one of each chunk.
    ends = np.concatenate([[0], np.arange(CHUNK - 1, inputs, CHUNK)])
    membrane, times = found.membrane[:, ends], z[found.order][ends].astype(np.float64)
    overshoot = 7 / 4 * np.maximum(-weight.min(1), 0)[:, None] * np.diff(times)
    possible = np.maximum(membrane[:, :-1], membrane[:, 1:]) + overshoot >= -1e-3
    possible &= ends[:-1] <= np.where(found.last < 0, inputs, found.last + 1)[:, None]
    assert within.sum() <= counts.rescanned <= 8 * possible.sum()
    assert 8 * possible.sum() < counts.chunks


@pytest.mark.usefixtures("instruction_set")
def test_neurons_far_from_the_threshold_are_computed_once() -> None:
    z = torch.rand(2, 304).mul(2).exp()
    silent = count_forward(linear(np.full((32, 304), -0.01)), z)
    assert silent == ForwardCounts(outputs=64, chunks=2 * 38 * 32)
    assert silent.fractions() == {"recomputed": 0, "rescanned": 0}
    none = count_forward(linear(np.ones((32, 304))), torch.full((2, 304), math.inf))
    assert none == ForwardCounts(outputs=64)
    assert count_forward(linear(np.ones((32, 304))), z[:0]).fractions() == {
        "recomputed": None,
        "rescanned": None,
    }


def test_each_pixel_of_a_convolution_counts() -> None:
    z, weight, near = near_and_far()
    layer = SpikingConv2d(200, 96, 1, stride=2, groups=2, bias=False)
    layer.weight.data.copy_(torch.from_numpy(np.concatenate([weight, weight]))[:, :, None, None])
    image = torch.from_numpy(np.concatenate([z, z])).float()[None, :, None, None]
    maps = image.expand(3, 200, 4, 5)
    assert count_forward(layer, maps) == ForwardCounts(
        outputs=3 * 96 * 6, recomputed=3 * 2 * near * 6
    )
    padded = SpikingConv2d(24, 8, 3, padding="same")
    # 9 x 24 inputs and a bias have chunks; at the border of the map, 6 x 24 or fewer have none.
    counts = count_forward(padded, torch.rand(1, 24, 6, 7).exp())
    assert counts.chunks == 4 * 5 * 28 * 16


def test_counting_changes_no_bit_and_does_not_depend_on_threads() -> None:
    torch.manual_seed(3)
    layer = SpikingConv2d(48, 40, 3, padding=1)
    z = torch.rand(5, 48, 9, 9).mul(2).exp()
    z[torch.rand_like(z) < 0.2] = math.inf
    layer.weight.data.normal_(2 / 432, 3 / math.sqrt(432))
    values = z.numpy(), layer.weight.detach().numpy(), layer.bias.detach().numpy()  # type: ignore[union-attr]

    def run(threads: int, counts: Any = None) -> tuple[bytes, bytes]:
        out = np.zeros((5, 40, 9, 9), np.float32)
        slope = np.zeros((5, 9, 9, 40), np.float32)
        walk = ((1, 1), (1, 1), (1, 1), 1, math.inf)
        _core.conv2d_forward(*values, *walk, out, slope, threads, counts=counts)
        assert 0.2 < np.isfinite(out).mean() < 1
        return out.tobytes(), slope.tobytes()

    plain = run(1)
    totals = []
    for threads in (1, 2, 3):
        counts = np.zeros(3, np.int64)
        assert run(threads, counts) == plain
        totals.append(counts.tolist())
        assert run(threads, counts) == plain
        assert counts.tolist() == [2 * n for n in totals[-1]]
        with torch_threads(threads):
            assert count_forward(layer, z) == ForwardCounts(5 * 40 * 81, *totals[-1])
    assert totals[0] == totals[1] == totals[2]
    recomputed, chunks, rescanned = totals[0]
    assert 0 < recomputed < 5 * 40 * 81
    assert 0 < rescanned < chunks
