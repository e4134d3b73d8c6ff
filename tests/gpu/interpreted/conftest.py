"""Lets the Triton kernels serve CPU tensors: Triton's interpreter runs them with numpy."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ttfs_fast import ops
from ttfs_fast.gpu import layers

for operator, implementation in ops.GPU_IMPLEMENTATIONS:
    operator.register_kernel("cpu")(implementation)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the table of rules, what the kernels must show, and no more: the interpreter is slow.

    Not the reference by itself, nor a layer with 500 more inputs: one sweep serves all lengths.
    Refused values in one place in place of four. Convolutions in float32.
    """
    left_out = ("reference", "among others", "dtype1-conv2d", "-0.0-", "-inf-", "-1.0-")
    items[:] = [
        item
        for item in items
        if item.path.name != "test_gpu_numerics.py"
        or not (
            any(word in item.name for word in left_out)
            or ("refused[" in item.name and not item.name.partition("[")[2].startswith("66"))
        )
    ]


@pytest.fixture(autouse=True)
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the kernels that were launched. A kernel that fails is an error, no fall back."""
    names: list[str] = []
    launch = layers.launch

    def noted(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
        names.append(kernel.__name__)
        try:
            launch(kernel, grid, *args, **options)
        except layers.KernelError as error:
            raise AssertionError(f"a kernel failed: {error}") from error

    from ttfs_fast.gpu import pool

    monkeypatch.setattr(layers, "launch", noted)
    monkeypatch.setattr(pool, "launch", noted)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield names
    torch.set_num_threads(before)
