"""Selects the kernels for a GPU: Triton's, imported at the first tensor on a GPU, or plain torch.

The reference in plain torch runs, with one warning that names the cause, if Triton is not installed
or a kernel does not compile or load on this GPU. Errors of the call itself are raised: invalid
input, lack of memory, a GPU in an error state after an earlier kernel.
"""

import importlib
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ttfs_fast import reference
from ttfs_fast._extras import require

Size = Sequence[int]

SLOW = "spiking layers on the GPU run in plain torch, hundreds of times slower"


@cache
def _modules() -> tuple[ModuleType, ModuleType] | None:
    """:mod:`ttfs_fast.gpu.layers` and :mod:`ttfs_fast.gpu.pool`, or None, with one warning."""
    try:
        require("triton", "gpu")
        names = ("layers", "pool")
        layers, pool = (importlib.import_module(f"ttfs_fast.gpu.{name}") for name in names)
    except Exception as error:  # not installed; or installed, and broken
        warnings.warn(f"{SLOW}: {error}", RuntimeWarning, stacklevel=2)
        return None
    return layers, pool


_failed: dict[tuple[str, torch.dtype, torch.device], str] = {}
"""Operators whose kernels did not run, each with the reason."""


def _served(name: str, tensor: Tensor, run: Callable[[Any, Any], None]) -> bool:
    """Whether the kernels ran; warns the first time that they cannot."""
    key = (name, tensor.dtype, tensor.device)
    modules = None if key in _failed else _modules()
    if modules is None:
        return False
    layers, pool = modules
    try:
        run(layers, pool)
    except layers.SizeError as error:
        warnings.warn(f"{SLOW}: {error} are too many for its kernel", RuntimeWarning, stacklevel=2)
        return False
    except layers.KernelError as error:
        if not _failed:
            warnings.warn(
                f"{SLOW}: its Triton kernel cannot run on {_gpu_name(tensor.device)} ({error}); "
                'ttfs_fast needs a GPU and a version of Triton that fit: pip install "triton>=3.4"',
                RuntimeWarning,
                stacklevel=2,
            )
        _failed[key] = str(error)
        return False
    return True


def warn_of_plain_torch(neuron: str) -> None:
    """Say that the kernels compute the n-LIF neuron only, once for each place that calls."""
    warnings.warn(
        f"{SLOW}: there are kernels for neuron='n-lif' only, and this layer has {neuron!r}",
        RuntimeWarning,
        stacklevel=2,
    )


def _gpu_name(device: torch.device) -> str:
    if device.type != "cuda":
        return str(device)
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"


def kernels_in_use(device: torch.device) -> str:
    """Which implementation runs spiking layers on a GPU, found by running a small layer there."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from ttfs_fast import spiking_linear

        one = torch.ones(1, 1, device=device)
        spiking_linear(one, 2 * one)
    failed = [why for (name, _, where), why in _failed.items() if where == one.device]
    if not failed and _modules_loaded():
        return "Triton kernels"
    reason = failed[0] if failed else "; ".join(str(w.message) for w in caught)
    return f"plain torch ({reason or 'Triton cannot be imported'})"


def _modules_loaded() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _modules() is not None


def _same_device(**tensors: Tensor | None) -> None:
    devices = {name: t.device for name, t in tensors.items() if t is not None}
    if len(set(devices.values())) > 1:
        given = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise RuntimeError(f"all tensors of a spiking layer must be on one device; got {given}")


def _require_positive(input: Tensor) -> None:
    if bool((input <= 0).any()):
        raise ValueError(
            "input holds a value that is not positive; spike values are z = exp(t) > 0 with t the "
            "spike time, and inf for silence"
        )


def conv2d_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    groups: int,
    t_max: float,
    z: Tensor,
    slope: Tensor,
) -> None:
    """Fill `z` (N, M, H, W) and `slope` (N, H, W, M)."""
    _same_device(input=input, weight=weight, bias=bias)
    walk = (stride, padding, dilation, groups)

    def run(layers: Any, _: Any) -> None:
        geometry = layers.geometry_of(input, weight, *walk, z.shape[2:])
        layers.conv2d_forward(input, weight, bias, geometry, t_max, z, slope)

    if not _served("spiking_conv2d", input, run):
        _require_positive(input)
        found = reference.conv2d_forward(input, weight, bias, *walk, t_max, z.shape[2:])
        z.copy_(found[0])
        slope.copy_(found[1])


def conv2d_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    z: Tensor,
    slope: Tensor,
    stride: Size,
    padding: Size,
    dilation: Size,
    groups: int,
    grads: tuple[Tensor | None, Tensor | None, Tensor | None],
) -> None:
    """Fill the gradients of input, weight and bias that are given."""
    walk = (stride, padding, dilation, groups)

    def run(layers: Any, _: Any) -> None:
        geometry = layers.geometry_of(input, weight, *walk, z.shape[2:])
        layers.conv2d_backward(grad, input, weight, z, slope, geometry, *grads)

    if not _served("spiking_conv2d_backward", input, run):
        _copy(grads, reference.conv2d_backward(grad, input, weight, z, slope, *walk))


def linear_forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, t_max: float, z: Tensor, slope: Tensor
) -> None:
    """Fill `z` and `slope` (N, M)."""
    _same_device(input=input, weight=weight, bias=bias)

    def run(layers: Any, _: Any) -> None:
        geometry = layers.linear_geometry(input, weight)
        pixel, image = (..., None, None), (slice(None), None, None)
        layers.conv2d_forward(
            input[pixel], weight[pixel], bias, geometry, t_max, z[pixel], slope[image]
        )

    if not _served("spiking_linear", input, run):
        _require_positive(input)
        found = reference.linear_forward(input, weight, bias, t_max)
        z.copy_(found[0])
        slope.copy_(found[1])


def linear_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    z: Tensor,
    slope: Tensor,
    grads: tuple[Tensor | None, Tensor | None, Tensor | None],
) -> None:
    """Fill the gradients of input, weight and bias that are given."""

    def run(layers: Any, _: Any) -> None:
        geometry = layers.linear_geometry(input, weight)
        pixel = (..., None, None)
        given = [None if t is None else t[pixel] if t.dim() > 1 else t for t in grads]
        layers.conv2d_backward(
            grad[pixel], input[pixel], weight[pixel], z[pixel], slope[:, None, None], geometry,
            *given,
        )  # fmt: skip

    if not _served("spiking_linear_backward", input, run):
        _copy(grads, reference.linear_backward(grad, input, weight, z, slope))


def max_pool2d_forward(
    input: Tensor,
    kernel: Size,
    stride: Size,
    padding: Size,
    dilation: Size,
    z: Tensor,
    index: Tensor,
    plain: Callable[[], tuple[Tensor, Tensor]],
) -> None:
    """Fill `z` and `index` (N, C, H, W); `plain` is the operator in plain torch."""

    def run(_: Any, pool: Any) -> None:
        pool.max_pool2d_forward(input, kernel, stride, padding, dilation, z, index)

    if not _served("spiking_max_pool2d", input, run):
        _copy((z, index), plain())


def max_pool2d_backward(
    grad: Tensor,
    index: Tensor,
    kernel: Size,
    stride: Size,
    padding: Size,
    dilation: Size,
    grad_input: Tensor,
    plain: Callable[[], Tensor],
) -> None:
    """Fill `grad_input` (N, C, H, W); `plain` is the operator in plain torch."""

    def run(_: Any, pool: Any) -> None:
        pool.max_pool2d_backward(grad, index, kernel, stride, padding, dilation, grad_input)

    if not _served("spiking_max_pool2d_backward", grad, run):
        grad_input.copy_(plain())


def _copy(into: Sequence[Tensor | None], found: Sequence[Tensor]) -> None:
    for given, result in zip(into, found, strict=True):
        if given is not None:
            given.copy_(result)
