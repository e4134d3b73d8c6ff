"""When Triton is imported, what takes over without it, and names of devices."""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ttfs_fast import ops, reference
from ttfs_fast.gpu import dispatch, resolve_device

INF = float("inf")


def test_triton_stays_out_of_a_process_without_gpu_tensors() -> None:
    program = """
import sys, torch, ttfs_fast, ttfs_fast.nn, ttfs_fast.gpu
before = "triton" in sys.modules
x = torch.rand(2, 3, 5, 5).exp().requires_grad_()
w = torch.rand(4, 3, 3, 3).requires_grad_()
z = ttfs_fast.spiking_max_pool2d(ttfs_fast.spiking_conv2d(x, w), 2)
z[z.isfinite()].sum().backward()
ttfs_fast.spiking_linear(torch.ones(1, 2), torch.ones(3, 2))
assert x.grad.abs().sum() > 0
assert not before, "importing ttfs_fast brought Triton"
# torch itself imports an installed Triton when it first calls an operator written in Python.
assert not {"ttfs_fast.gpu.kernels", "ttfs_fast.gpu.layers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What a GPU's tensors would meet: the GPU implementations, called directly."""
    monkeypatch.setattr(dispatch, "_failed", {})
    dispatch._modules.cache_clear()
    yield {operator._qualname.partition("::")[2]: run for operator, run in ops.GPU_IMPLEMENTATIONS}
    dispatch._modules.cache_clear()


def layer() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(2, 4, 6, 5).mul(2).exp().contiguous(memory_format=torch.channels_last)
    return x, torch.rand(6, 2, 3, 3) / 3, torch.rand(6)


def everything(on_gpu: Any) -> list[tuple[Tensor, Tensor]]:
    """Results of all six implementations beside those of the CPU's kernels."""
    x, w, b = layer()
    walk = ((1, 1), (1, 1), (1, 1), 2)
    z, slope = ops.conv2d(x, w, b, *walk, INF, (6, 5))
    grad = torch.ones_like(z)
    pools = ((2, 2), (2, 2), (0, 0), (1, 1))
    first, index = ops.max_pool2d(x, *pools, (3, 2))
    rows, matrix = x.flatten(2)[:, 0], torch.rand(7, 30) / 6
    y, flat = ops.linear(rows, matrix, None, 2.0)
    calls = [
        ("spiking_conv2d", (x, w, b, *walk, INF, (6, 5)), (z, slope)),
        (
            "spiking_conv2d_backward",
            (grad, x, w, z, slope, *walk, True, True),
            ops.conv2d_backward(grad, x, w, z, slope, *walk, True, True),
        ),
        ("spiking_linear", (rows, matrix, None, 2.0), (y, flat)),
        (
            "spiking_linear_backward",
            (torch.ones_like(y), rows, matrix, y, flat, True, False),
            ops.linear_backward(torch.ones_like(y), rows, matrix, y, flat, True, False),
        ),
        ("spiking_max_pool2d", (x, *pools, (3, 2)), (first, index)),
        (
            "spiking_max_pool2d_backward",
            (torch.ones_like(first), index, *pools, (6, 5)),
            (ops.max_pool2d_backward(torch.ones_like(first), index, *pools, (6, 5)),),
        ),
    ]
    pairs = []
    for name, args, expected in calls:
        found = on_gpu[name](*args)
        found = (found,) if isinstance(found, Tensor) else found
        pairs += list(zip(found, expected, strict=True))
    return pairs


def assert_right(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for found, expected in pairs:
        assert found.stride() == expected.stride()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_without_triton_the_reference_runs_with_one_warning(
    on_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)

    def missing(name: str, extra: str) -> Any:
        raise ImportError(f'not installed; install it with: pip install "ttfs_fast[{extra}]"')

    monkeypatch.setattr(dispatch, "require", missing)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pairs = everything(on_gpu)
    assert_right(pairs)
    messages = [str(w.message) for w in caught if w.category is RuntimeWarning]
    assert len(messages) == 1, messages
    assert 'pip install "ttfs_fast[gpu]"' in messages[0]
    assert "plain torch" in messages[0]


def failing(error: Exception) -> tuple[Any, Any]:
    class KernelError(RuntimeError):
        pass

    class SizeError(KernelError):
        pass

    def fail(*_: Any) -> None:
        if isinstance(error, AssertionError):
            raise KernelError(str(error))
        raise SizeError(str(error)) if isinstance(error, OverflowError) else error

    names = ("geometry_of", "linear_geometry")
    layers = SimpleNamespace(
        KernelError=KernelError,
        SizeError=SizeError,
        conv2d_forward=fail,
        conv2d_backward=fail,
        **{name: lambda *_: None for name in names},
    )
    return layers, SimpleNamespace(max_pool2d_forward=fail, max_pool2d_backward=fail)


def test_large_tensors_do_not_turn_the_kernels_off(
    on_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "_modules", lambda: failing(OverflowError("5 elements")))
        with pytest.warns(RuntimeWarning, match="plain torch, .* 5 elements are too many"):
            assert_right(everything(on_gpu))
        assert not dispatch._failed


def test_a_failed_compilation_is_reported_once(
    on_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_modules", lambda: failing(AssertionError("no such feature")))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert_right(everything(on_gpu))
        assert_right(everything(on_gpu))
    messages = [str(w.message) for w in caught if w.category is RuntimeWarning]
    assert len(messages) == 1, messages
    assert "no such feature" in messages[0]
    assert "pip install" in messages[0]
    assert len(dispatch._failed) == 6
    monkeypatch.undo()
    dispatch._modules.cache_clear()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), ValueError("not positive")])
def test_other_errors_are_raised(
    on_gpu: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(dispatch, "_modules", lambda: failing(error))
    x, w, b = layer()
    with pytest.raises(type(error), match=str(error)):
        on_gpu["spiking_conv2d"](x, w, b, (1, 1), (1, 1), (1, 1), 2, INF, (6, 5))
    assert not dispatch._failed
    monkeypatch.undo()
    dispatch._modules.cache_clear()


def test_reference_and_kernels_reject_the_same_inputs(
    on_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_modules", lambda: None)
    x, w, b = layer()
    x[1, 2, 3, 4] = 0
    with pytest.raises(ValueError, match=r"not positive; spike values are z = exp\(t\) > 0"):
        on_gpu["spiking_conv2d"](x, w, b, (1, 1), (1, 1), (1, 1), 2, INF, (6, 5))
    with pytest.raises(ValueError, match=r"not positive; spike values are z = exp\(t\) > 0"):
        on_gpu["spiking_linear"](x[1, 2], w[0, 0, :1].repeat(1, 2)[:, :5], None, INF)
    monkeypatch.undo()
    dispatch._modules.cache_clear()


def test_tensors_on_two_devices_are_refused(on_gpu: Any) -> None:
    x, w, _ = layer()
    with pytest.raises(RuntimeError, match=r"one device; got input on cpu, weight on meta"):
        dispatch.conv2d_forward(x, w.to("meta"), None, (1, 1), (1, 1), (1, 1), 2, INF, x, x)


def test_gpu_implementations_are_registered() -> None:
    for operator, _ in ops.GPU_IMPLEMENTATIONS:
        assert "cuda" in operator._backend_fns
    assert reference.MAX_ELEMENTS > 0


def test_names_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device() == resolve_device(None)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match=r"'cuda' is not available: .*use the device cpu"):
        resolve_device("cuda")
    for name in ("gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "mps", "cpu:1", ""):
        with pytest.raises(ValueError, match=r"unknown device .*auto, cpu, cuda, and cuda:N"):
            resolve_device(name)
    with pytest.raises(TypeError, match="got int"):
        resolve_device(0)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 1)
    assert resolve_device("cuda:0") == resolve_device(torch.device("cuda:0"))
    assert resolve_device("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(ValueError, match=r"'cuda:2' is not there.*cuda:0 to cuda:1"):
        resolve_device("cuda:2")
