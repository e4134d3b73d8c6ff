"""Batches in pieces against the same batches whole, by as many processes as torchrun started."""

import copy
import itertools
from pathlib import Path
from typing import Any

import torch

from ttfs_fast.loss import SpikingLoss
from ttfs_fast.nn import SpikingLinear
from ttfs_fast.training import TrainConfig
from ttfs_fast.training import trainer as loop
from ttfs_fast.training.batches import Batch
from ttfs_fast.training.datasets import DataSet, load_data
from ttfs_fast.training.processes import EpochTotals, make_fabric
from ttfs_fast.training.report import Reporter
from ttfs_fast.training.tensorboard import Scalars

SIZES = (2, 3, 4, 5, 7, 9, 16, 33, 128)
PIECES = range(1, 17)


def compare_with_whole_batches() -> int:
    """Assert that no division changes loss terms, gradients and weights; how many were tried."""
    fabric = make_fabric()
    images = load_data(TrainConfig(dataset="digits", train_images=10, test_images=10))
    tried = 0
    for size, pieces in itertools.product(SIZES, PIECES):
        if fabric.world_size > 1 and (size + pieces) % 2:
            continue  # half of them: messages between processes take longer than the sums
        compare(fabric, images, size, pieces)
        tried += 1
    return tried


def compare(fabric: Any, images: tuple[DataSet, DataSet], size: int, pieces: int) -> None:
    what = f"{size} images in {pieces} pieces"
    config = TrainConfig(
        dataset="digits",
        accumulate=pieces,
        lambda_=0.01,
        optimizer="sgd",
        lr_start=0.1,
        processes=fabric.world_size,
    )
    session = session_of(config, fabric, images)
    model, optimizer = fabric.setup(session.model, session.optimizer)
    whole = copy.deepcopy(session.model)
    generator = torch.Generator().manual_seed(100 * size + pieces)
    values = torch.rand(size, 12, generator=generator).exp()
    labels = torch.randint(0, 5, (size,), generator=generator)

    loss = SpikingLoss(config.K, config.lambda_, config.beta)
    expected = loss.terms(whole(values), labels, whole)
    expected.total.backward()
    assert expected.weight_sum > 0, what

    own = slice(fabric.global_rank, None, fabric.world_size)
    totals = EpochTotals(fabric, config.K, config.lambda_)
    output = session._backward(Batch(values[own], labels[own], size), model, totals, None)
    totals.join()
    means = totals.means()
    torch.testing.assert_close(output, whole(values).detach()[own])
    for name in ("cross_entropy", "weight_sum", "l2", "total"):
        key = {"cross_entropy": "loss_class", "total": "loss"}.get(name, f"loss_{name}")
        found = torch.tensor(means[key], dtype=torch.float32)
        torch.testing.assert_close(found, getattr(expected, name).detach(), msg=f"{what}: {name}")
    pairs = list(zip(session.model.parameters(), whole.parameters(), strict=True))
    for one, other in pairs:
        torch.testing.assert_close(one.grad, other.grad, msg=f"{what}: gradients")
    optimizer.step()
    torch.optim.SGD(whole.parameters(), lr=0.1, momentum=config.momentum).step()
    for one, other in pairs:
        torch.testing.assert_close(one, other, msg=f"{what}: weights")


def session_of(
    config: TrainConfig, fabric: Any, images: tuple[DataSet, DataSet]
) -> "loop._Session":
    """A run of these settings, with a network small enough to try many divisions."""
    folder = Path("not written to")
    quiet, scalars = Reporter(quiet=True), Scalars(folder, write=False)
    session = loop._Session(config, folder, *images, "", None, quiet, fabric, scalars)
    torch.manual_seed(config.accumulate)
    session.layers = [SpikingLinear(12, 9), SpikingLinear(9, 5)]
    session.model = torch.nn.Sequential(*session.layers)
    with torch.no_grad():
        session.layers[1].weight[0] = 0.05  # too small a sum: the weight-sum cost has to do
    session.optimizer = loop._optimizer(config, session.model)
    return session


if __name__ == "__main__":
    print(f"compared {compare_with_whole_batches()} divisions")
    torch.distributed.destroy_process_group()
