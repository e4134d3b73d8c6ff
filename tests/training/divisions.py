"""Batches in pieces against the same batches whole, by as many processes as torchrun started."""

import copy
import itertools
import math
from typing import Any

import torch

from ttfs_fast.loss import SpikingLoss
from ttfs_fast.nn import SpikingLinear
from ttfs_fast.training import TrainConfig
from ttfs_fast.training.batches import Batch
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


def small_network(seed: int) -> torch.nn.Sequential:
    """A network small enough to try many divisions."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(SpikingLinear(12, 9), SpikingLinear(9, 5))
    with torch.no_grad():
        model[1].weight[0] = 0.05  # too small a sum: the weight-sum cost has to do
    return model


if __name__ == "__main__":
    print(f"compared {compare_with_whole_batches()} divisions")
    torch.distributed.destroy_process_group()
