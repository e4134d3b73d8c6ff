"""Small training runs on the embedded digits: their settings, interrupted and compared."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ttfs_fast.training import TrainConfig, TrainResult


def digits(train_images: int, test_images: int, **settings: Any) -> TrainConfig:
    """A run on some of the digits, of one epoch unless ``settings`` say another number."""
    few = {"train_images": train_images, "test_images": test_images}
    return TrainConfig(**{"dataset": "digits", "epochs": 1, "threads": 1} | few | settings)


TINY = digits(20, 10, batch_size=10)
"""Two steps."""

LEARNING = {"lr": 0.005, "weight_sum": 4.0, "logit_scale": 10.0, "cost_reduction": "mean"}
"""Settings with which a network learns much in a few steps."""

DEEP = TrainConfig(
    dataset="digits",
    model="vgg4",
    width=0.25,
    weight_sum=4.0,
    weight_norm=3.0,
    relative_lr=True,
    polarity="both",
    alpha=1.5,
    logit_scale=16.0,
    weight_sum_cost=0.0,
    l2_cost=0.0,
    epochs=2,
    batch_size=30,
    lr=0.02,
    min_lr=1e-5,
    schedule="cosine",
    train_images=120,
    test_images=60,
    seed=5,
    threads=1,
)
"""A small deep network with centered weights, on some of the digits."""

MANY_SETTINGS = digits(
    90,
    40,
    epochs=3,
    schedule="cosine",
    warmup_epochs=0.5,
    weight_decay=0.1,
    weight_sum=4.0,
    ema_decay=0.9,
    jitter=0.1,
    rotate=5,
    shift=1,
    elastic=0.3,
    seed=11,
)
"""What a checkpoint must restore, in one run."""


@contextmanager
def interrupted(module: ModuleType, name: str, calls: int = 1) -> Iterator[None]:
    """Press Ctrl-C after so many calls of a function of a module."""
    work, left = getattr(module, name), calls

    def work_and_stop(*arguments: Any, **more: Any) -> Any:
        nonlocal left
        left -= 1
        result = work(*arguments, **more)
        if left == 0:
            raise KeyboardInterrupt
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, work_and_stop)
        with pytest.raises(KeyboardInterrupt):
            yield


def copy_of_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_weights(model: nn.Module, expected: nn.Module | dict[str, Tensor]) -> None:
    """The same weights, bit for bit."""
    wanted = expected.state_dict() if isinstance(expected, nn.Module) else expected
    found = model.state_dict()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


def check_same_weights(run: Path, other: Path) -> None:
    """Two folders of runs hold the same weights, bit by bit."""
    own, its = (load_file(folder / "model.safetensors") for folder in (run, other))
    assert own.keys() == its.keys()
    for name, value in own.items():
        assert torch.equal(value, its[name]), name


def assert_same_run(one: TrainResult, other: TrainResult) -> None:
    """The same weights, and the same log but for the time that it took."""
    assert_same_weights(one.model, other.model)
    assert without_seconds(one) == without_seconds(other)


def without_seconds(result: TrainResult) -> list[object]:
    return [dataclasses.replace(record, seconds=0.0) for record in result.records]
