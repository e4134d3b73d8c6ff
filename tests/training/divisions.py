"""Batches in pieces against the same batches whole, by as many processes as torchrun started."""

import copy
import dataclasses
import itertools
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from support.horizons import SMALL
from ttfs_fast.horizon import (
    HorizonConv2d,
    HorizonLinear,
    estimate_statistics_,
    synchronize_statistics_,
)
from ttfs_fast.loss import SpikingLoss
from ttfs_fast.nn import SpikingLinear
from ttfs_fast.training import TrainConfig, train
from ttfs_fast.training.batches import Batch
from ttfs_fast.training.export import weights_digest
from ttfs_fast.training.processes import make_fabric
from ttfs_fast.training.step import StepTotals
from ttfs_fast.training.trainer import make_optimizer, make_step

SIZES = (2, 3, 4, 5, 7, 9, 16, 33, 128)
PIECES = range(1, 17)


def compare_with_whole_batches() -> int:
    """Assert that no division changes loss terms, gradients and weights; how many were tried."""
    fabric = make_fabric()
    tried = 0
    for size, pieces in itertools.product(SIZES, PIECES):
        if fabric.world_size > 1 and (size + pieces) % 2:
            continue  # half of them: messages between processes take longer than the sums
        compare(fabric, size, pieces)
        tried += 1
    return tried


def compare(fabric: Any, size: int, pieces: int) -> None:
    what = f"{size} images in {pieces} pieces"
    config = TrainConfig(
        dataset="digits",
        grad_accum_steps=pieces,
        l2_cost=0.01,
        clip_grad=math.inf,
        optimizer="sgd",
        lr=0.1,
        processes=fabric.world_size,
    )
    model = small_network(pieces)
    optimizer = make_optimizer(config, model)
    step = make_step(config, model, optimizer, fabric=fabric)
    whole = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(100 * size + pieces)
    values = torch.rand(size, 12, generator=generator).exp()
    labels = torch.randint(0, 5, (size,), generator=generator)

    loss = SpikingLoss(config.weight_sum_cost, config.l2_cost, config.beta)
    expected = loss.terms(whole(values), labels, whole)
    expected.total.backward()
    assert expected.weight_sum > 0, what

    own = slice(fabric.global_rank, None, fabric.world_size)
    totals = StepTotals(config.weight_sum_cost, config.l2_cost, fabric)
    result = step(Batch(values[own], labels[own], size))
    totals.add(result)
    totals.reduce()
    means = totals.means()
    torch.testing.assert_close(result.output, whole(values).detach()[own])
    for name in ("cross_entropy", "weight_sum", "l2", "total"):
        key = {"cross_entropy": "loss_class", "total": "loss"}.get(name, f"loss_{name}")
        found = torch.tensor(means[key], dtype=torch.float32)
        torch.testing.assert_close(found, getattr(expected, name).detach(), msg=f"{what}: {name}")
    pairs = list(zip(model.parameters(), whole.parameters(), strict=True))
    for one, other in pairs:
        torch.testing.assert_close(one.grad, other.grad, msg=f"{what}: gradients")
    torch.optim.SGD(whole.parameters(), lr=0.1, momentum=config.momentum).step()
    for one, other in pairs:
        torch.testing.assert_close(one, other, msg=f"{what}: weights")


SHARES = ((2, 1), (4, 0), (0, 3), (2, 5), (17, 16))
"""Images of each of two processes; one of them may have none."""


def compare_statistics() -> int:
    """Assert that layers with a horizon count over all processes; how many divisions were tried."""
    fabric = make_fabric()
    rank = fabric.global_rank
    tried = 0
    for shares, precision in itertools.product(SHARES, ("float32", "bfloat16")):
        config = TrainConfig(
            dataset="digits",
            neuron="horizon",
            weight_sum=2.0,
            weight_sum_cost=0.0,
            l2_cost=0.0,
            logit_scale=500.0,
            clip_grad=math.inf,
            optimizer="sgd",
            lr=0.1,
            precision=precision,
            processes=2,
        )
        model = network_with_horizons(sum(shares))
        whole = copy.deepcopy(model)
        synchronize_statistics_(model)
        optimizer = make_optimizer(config, model)
        step = make_step(config, model, optimizer, fabric=fabric)
        alone_optimizer = make_optimizer(config, whole)
        alone = make_step(config, whole, alone_optimizer)
        limits = (
            {"rtol": 1e-4, "atol": 1e-5} if precision == "float32" else {"rtol": 0.05, "atol": 0.02}
        )
        for _ in range(3):  # the first sets the running statistics, the others move them
            size = sum(shares)
            values = (0.01 * torch.rand(size, 2, 6, 5)).exp()
            labels = torch.randint(0, 5, (size,))
            own = slice(0, shares[0]) if rank == 0 else slice(shares[0], size)
            found = step(Batch(values[own], labels[own], size))
            expected = alone(Batch(values, labels, size))
            assert found.learned, shares
            what = f"{shares}, {precision}: "
            times = (found.output.log() * 500, expected.output[own].log() * 500)
            torch.testing.assert_close(*times, **limits, msg=what + "outputs")
            pairs = zip(model.named_parameters(), whole.parameters(), strict=True)
            for (name, one), other in pairs:
                scale = other.grad.abs().max().clamp(min=1e-3)
                torch.testing.assert_close(
                    one.grad / scale, other.grad / scale, **limits, msg=what + name
                )
            for (name, one), other in zip(model.named_buffers(), whole.buffers(), strict=True):
                torch.testing.assert_close(
                    one, other, rtol=limits["rtol"], atol=1e-7, msg=what + name
                )
            whole.load_state_dict(model.state_dict())  # differences must not add up
        sample = (0.01 * torch.rand(8, 2, 6, 5)).exp()
        if rank == 0:  # alone, as the first process does before it tests averaged weights
            estimate_statistics_(model, [sample])
            assert model[0].synchronized
        tried += 1
    early = HorizonConv2d(2, 3, 3, t_in=0.5, spread=0.5)
    synchronize_statistics_(early)
    values = (0.5 * torch.rand(4, 2, 6, 5)).exp() if rank == 0 else torch.ones(0, 2, 6, 5)
    with pytest.raises(RuntimeError, match="neurons could spike before the input horizon"):
        early(values)
    return tried


def network_with_horizons(seed: int) -> torch.nn.Sequential:
    """A pool, a stride, an average pool and a last layer; with odd seeds in mirrored pairs."""
    torch.manual_seed(seed)
    options = {"spread": 0.002, "weight_sum": 2.0}
    first, second = ("image", "pairs") if seed % 2 else (None, None)
    one = HorizonConv2d(2, 6, 3, padding=1, pool=(2, 1), mirror=first, t_in=0.01, **options)
    two = HorizonLinear(6, 7, positions=15, mirror=second, t_in=one.t_out, **options)
    last = HorizonLinear(7, 5, t_in=two.t_out, normalization="none", **options)
    return torch.nn.Sequential(one, torch.nn.Flatten(), two, last)


def small_network(seed: int) -> torch.nn.Sequential:
    """A network small enough to try many divisions."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(SpikingLinear(12, 9), SpikingLinear(9, 5))
    with torch.no_grad():
        model[1].weight[0] = 0.05  # too small a sum: the weight-sum cost has to do
    return model


def returned_network(folder: Path) -> str:
    """Digest of the network that `train` returns to this process, statistics and all."""
    config = dataclasses.replace(
        SMALL, epochs=1, train_images=90, test_images=20, width=0.25, processes=2
    )
    return weights_digest(train(config, folder).model)


if __name__ == "__main__":
    print(f"compared {compare_with_whole_batches()} divisions")
    print(f"compared {compare_statistics()} statistics")
    for name in ("one", "two"):  # a second run in the same processes
        print(f"returned network {returned_network(Path(sys.argv[1], name))}")
