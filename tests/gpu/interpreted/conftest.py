"""Lets the Triton kernels serve CPU tensors: Triton's interpreter runs them with numpy."""

import importlib
import sys
from collections.abc import Iterator
from inspect import ismodule
from typing import Any

import pytest
import torch

from ttfs_fast import ops
from ttfs_fast.gpu import layers, plan


def patch_language_once() -> None:
    """Spare Triton's interpreter a third of its time, which goes into preparing `triton.language`.

    It replaces the functions there at every call of a function of a kernel, and puts them back.
    In a process that only interprets they can stay. (Triton 3.9; other versions are left alone.)
    """
    interpreter = importlib.import_module("triton.runtime.interpreter")
    patch = getattr(interpreter, "_patch_lang", None)
    if patch is None or not hasattr(interpreter, "_LangPatchScope"):
        return
    patched: set[tuple[str, ...]] = set()

    def once(function: Any) -> Any:
        modules = (v for v in vars(sys.modules[function.__module__]).values() if ismodule(v))
        language = tuple(m.__name__ for m in modules if m.__name__.startswith("triton.language"))
        if language not in patched:
            patched.add(language)
            patch(function)
        return interpreter._LangPatchScope()  # which restores nothing

    interpreter._patch_lang = once


patch_language_once()
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

    # Few events at a time: most of what the interpreter would compute after the last is saved, and
    # small layers have ends of rounds too. One shape keeps the number that a GPU takes.
    monkeypatch.setattr(plan, "UNROLL", 4)
    monkeypatch.setattr(layers, "launch", noted)
    monkeypatch.setattr(pool, "launch", noted)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield names
    torch.set_num_threads(before)
