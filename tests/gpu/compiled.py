"""Launches of the kernels, recorded without a GPU, and what they compile to."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ttfs_fast.bench import LAYERS
from ttfs_fast.bench.layers import Layer
from ttfs_fast.gpu import layers, pool

TYPES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int32: "*i32", torch.int64: "*i64"}


@dataclass(frozen=True)
class Launch:
    """A kernel, and all that its code depends on."""

    kernel: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    divisible: tuple[int, ...]
    warps: int

    @classmethod
    def of(cls, kernel: Any, args: tuple[Any, ...], options: dict[str, Any]) -> "Launch":
        """As Triton specializes: ones are constants, multiples of 16 are known to be that."""
        options = dict(options)
        warps = options.pop("num_warps", 4)
        names = kernel.arg_names
        values = dict(zip(names, args, strict=False)) | options
        assert list(values) == names
        signature, constants, divisible = [], [], []
        for place, (name, value) in enumerate(values.items()):
            if isinstance(value, Tensor):
                signature.append((name, TYPES[value.dtype]))
                divisible.append(place)
            elif name in options or (type(value) is int and value == 1):
                signature.append((name, "constexpr"))
                constants.append((name, value))
            elif isinstance(value, float):
                signature.append((name, "fp32"))
            else:
                signature.append((name, "i32" if abs(value) < 2**31 else "i64"))
                if value % 16 == 0:
                    divisible.append(place)
        return cls(kernel.__name__, tuple(signature), tuple(constants), tuple(divisible), warps)


def recorded(
    monkeypatch: pytest.MonkeyPatch,
    shapes: tuple[Layer, ...] = LAYERS,
    dtype: torch.dtype = torch.float32,
) -> list[Launch]:
    """The distinct launches of layers of some shapes, forward and backward, and of a pool.

    Runs them on tensors without memory.
    """
    found: dict[Launch, None] = {}

    def record(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
        assert all(1 <= n < 2**31 for n in grid)
        assert all(n < 2**16 for n in grid[1:])
        found[Launch.of(kernel, args, options)] = None

    monkeypatch.setattr(layers, "launch", record)
    monkeypatch.setattr(pool, "launch", record)
    monkeypatch.setattr(layers, "require_positive", lambda input: None)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    for shape in shapes:
        k, n = shape.kernel, max(shape.size, 1)
        out = (n + 2 * shape.padding - k) // shape.stride + 1
        x = empty(shape.batch, shape.inputs, n, n)
        weight, bias = empty(shape.outputs, shape.inputs, k, k), empty(shape.outputs)
        pair = [(value, value) for value in (shape.stride, shape.padding, 1)]
        geometry = layers.geometry_of(x, weight, *pair, 1, (out, out))
        z = empty(shape.batch, shape.outputs, out, out)
        slope = empty(shape.batch, out, out, shape.outputs)
        layers.conv2d_forward(x, weight, None, geometry, torch.inf, z, slope)
        layers.conv2d_backward(
            z, x, weight, z, slope, geometry,
            torch.empty_like(x), torch.empty_like(weight), bias,
        )  # fmt: skip
        if shape.size and out % 2 == 0:
            half = empty(*z.shape[:2], out // 2, out // 2)
            index = half.to(torch.int32)
            walk = ((2, 2), (2, 2), (0, 0), (1, 1))
            pool.max_pool2d_forward(z, *walk, half, index)
            pool.max_pool2d_backward(half, index, *walk, torch.empty_like(z))
    return list(found)


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel needs of a multiprocessor: registers a thread, bytes."""

    registers: int
    stack: int
    local: int
    shared: int


def compiled(launch: Launch, capability: int) -> Resources:
    """Compile for a GPU of this compute capability (80: 8.0), without one."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ttfs_fast.gpu import kernels

    source = ASTSource(
        getattr(kernels, launch.kernel),
        signature=dict(launch.signature),
        constexprs=dict(launch.constants),
        attrs={(place,): [["tt.divisibility", 16]] for place in launch.divisible},
    )
    options = {"num_warps": launch.warps, **kernels.FIXED}
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return _resources(binary.asm["cubin"], binary.metadata.shared)


def _resources(cubin: bytes, shared: int) -> Resources:
    import tempfile

    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    assert text.count("REG:") == 1, text
    numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return Resources(numbers["REG"], numbers["STACK"], numbers["LOCAL"], shared)
