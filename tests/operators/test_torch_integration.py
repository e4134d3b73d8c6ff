"""Integration with torch: compile, export, autocast, vmap, layouts, errors."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from support.spikes import random_spikes
from ttfs_fast import ops, reference, spiking_conv2d, spiking_linear, spiking_max_pool2d
from ttfs_fast.models import mnist_scnn

INF = math.inf


spikes = partial(random_spikes, silent=0.2, seed=0)


def firing(outputs: int, *field: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(outputs, *field, generator=generator) * 8 / math.prod(field)


def layouts(x: Tensor) -> dict[str, Tensor]:
    wide = x.new_ones([2 * n for n in x.shape])[tuple(slice(None, None, 2) for _ in x.shape)]
    return {
        "contiguous": x,
        "transposed": x.transpose(-1, -2).contiguous().transpose(-1, -2),
        "sliced": wide.copy_(x),
        "channels_last": x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x,
        "empty": x[:0],
    }


LAYOUTS = ["contiguous", "transposed", "sliced", "channels_last", "empty"]
NEEDED = list(itertools.product([False, True], repeat=3))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout: str) -> None:
    x, w, b = layouts(spikes(2, 4, 6, 6))[layout], firing(6, 2, 3, 3), firing(6, 1)[:, 0] / 4
    rows, matrix = layouts(spikes(5, 12))[layout], firing(6, 12)
    mixed = NEEDED if layout == "contiguous" else [(True, True, True), (False, True, False)]
    for need in mixed:
        for bias in (b, None):
            if need[2] and bias is None:
                continue
            given = [
                None if t is None else t.clone(memory_format=torch.preserve_format)
                for t in (x, w, bias, rows, matrix)
            ]
            given[0], given[3] = x.detach(), rows.detach()  # their layout is the case
            for t, n in zip(given, (*need, *need[:2]), strict=True):
                if t is not None:
                    t.requires_grad_(n)
            x1, w1, b1, rows1, matrix1 = given
            size = ([2, 1], [1, 2], [1, 1], 2, INF, [3, 8])
            torch.library.opcheck(ops.conv2d, (x1, w1, b1, *size))
            torch.library.opcheck(ops.linear, (rows1, matrix1, b1, INF))
    pool = (x.detach().requires_grad_(), [2, 2], [2, 2], [1, 1], [1, 1], [4, 4])
    torch.library.opcheck(ops.max_pool2d, pool)


def test_opcheck_of_the_backward_operators() -> None:
    x, w, b = spikes(2, 4, 6, 6), firing(6, 2, 3, 3), firing(6, 1)[:, 0]
    geometry = ([1, 1], [0, 0], [1, 1], 2)
    z, slope = ops.conv2d(x, w, b, *geometry, INF, [4, 4])
    grad = torch.rand_like(z)
    # The second derivative refuses on purpose, which is not what test_aot_dispatch looks for.
    tests = ("test_schema", "test_faketensor")
    for need in ((True, True), (True, False), (False, True)):
        args = (grad, x, w, z, slope, *geometry, *need)
        torch.library.opcheck(ops.conv2d_backward, args, test_utils=tests)
    rows, matrix = spikes(5, 12), firing(6, 12)
    z, slope = ops.linear(rows, matrix, None, INF)
    args = (torch.rand_like(z), rows, matrix, z, slope, True, True)
    torch.library.opcheck(ops.linear_backward, args, test_utils=tests)
    z, index = ops.max_pool2d(x, [2, 2], [2, 2], [0, 0], [1, 1], [3, 3])
    args = (torch.rand_like(z), index, [2, 2], [2, 2], [0, 0], [1, 1], [6, 6])
    torch.library.opcheck(ops.max_pool2d_backward, args, test_utils=tests)


def step(model: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    z = model(x)
    assert z.isfinite().all()
    loss = F.cross_entropy(-z.log(), torch.arange(len(x)) % 10)
    return [z, loss, *torch.autograd.grad(loss, parameters)]


def test_compiled_network_is_the_eager_one() -> None:
    torch.manual_seed(0)
    model = mnist_scnn()
    parameters = list(model.parameters())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for batch in (4, 3):  # the second has another shape
        x = spikes(batch, 1, 28, 28)
        pairs = zip(step(compiled, x, parameters), step(model, x, parameters), strict=True)
        for a, b in pairs:
            assert torch.equal(a, b)
    assert all(p.grad is None for p in parameters)


def test_compiled_pool_is_the_eager_one() -> None:
    @torch.compile(fullgraph=True, backend="aot_eager")
    def pool(x: Tensor) -> Tensor:
        return spiking_max_pool2d(x, 3, 2, 1, ceil_mode=True)

    x = spikes(2, 3, 7, 7).requires_grad_()
    eager = spiking_max_pool2d(x, 3, 2, 1, ceil_mode=True)
    assert torch.equal(pool(x), eager)
    (expected,) = torch.autograd.grad(eager.sum(), x)
    assert expected.abs().sum() > 0
    assert torch.equal(torch.autograd.grad(pool(x).sum(), x)[0], expected)


def test_compiled_training_step_is_the_eager_one() -> None:
    torch.manual_seed(0)
    x = spikes(8, 1, 28, 28)
    start = {k: v.clone() for k, v in mnist_scnn().state_dict().items()}
    ends = []
    for wrap in (lambda f: f, lambda f: torch.compile(f, backend="aot_eager")):
        model = mnist_scnn()
        model.load_state_dict(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        run = wrap(model)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(-run(x).log(), torch.arange(8)).backward()
            optimizer.step()
        ends.append(model.state_dict())
    for key, before in start.items():
        assert torch.equal(ends[0][key], ends[1][key])
        assert not torch.equal(ends[0][key], before)


def test_exported_network_is_the_eager_one() -> None:
    model = mnist_scnn().eval()
    x = spikes(3, 1, 28, 28)
    batch = torch.export.Dim("batch", min=1, max=64)
    for exported in (
        torch.export.export(model, (x,)),
        torch.export.export(model, (x,), dynamic_shapes=({0: batch},)),
    ):
        assert torch.equal(exported.module()(x), model(x))
    more = spikes(7, 1, 28, 28, seed=5)
    assert torch.equal(exported.module()(more), model(more))


def test_autocast_computes_in_float32() -> None:
    x, w, b = spikes(2, 4, 6, 6).requires_grad_(), firing(6, 4, 3, 3).requires_grad_(), None
    eager = spiking_conv2d(x, w, b)
    with torch.autocast("cpu", torch.bfloat16):
        out = spiking_conv2d(x, w, b)
        flat = spiking_linear(x.flatten(1), w.flatten(1)[:, :1].expand(6, 144) / 30)
        pooled = spiking_max_pool2d(x, 2)
        halves = spiking_conv2d(x.bfloat16(), w.bfloat16())
        mixed = spiking_conv2d(x.bfloat16(), w)
        double = spiking_conv2d(x.double(), w.double())
        with pytest.raises(TypeError, match=r"input is torch\.float64, weight is torch\.float32"):
            spiking_conv2d(x.double(), w)
        with pytest.raises(TypeError, match=r"input is torch\.int64"):
            spiking_conv2d(torch.ones(1, 1, 4, 4, dtype=torch.int64), w)
    assert out.dtype == flat.dtype == pooled.dtype == halves.dtype == mixed.dtype == torch.float32
    assert double.dtype == torch.float64
    assert torch.equal(out, eager)
    assert torch.equal(mixed, spiking_conv2d(x.bfloat16().float(), w))
    assert torch.equal(halves, spiking_conv2d(x.bfloat16().float(), w.bfloat16().float()))
    assert torch.equal(pooled, spiking_max_pool2d(x, 2))
    assert out.isfinite().float().mean() > 0.9
    for a, b in zip(
        torch.autograd.grad(out.sum(), (x, w)),
        torch.autograd.grad(eager.sum(), (x, w)),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64])
def test_other_types_are_refused(dtype: torch.dtype) -> None:
    x, w = torch.ones(1, 1, 4, 4, dtype=dtype), torch.ones(1, 1, 2, 2, dtype=dtype)
    match = r"float32 or float64; input is torch\.\w+: convert it with \.float\(\)"
    with pytest.raises(TypeError, match=match):
        spiking_conv2d(x, w)
    with pytest.raises(TypeError, match=match):
        spiking_linear(x, w[0, 0, :, :1].expand(2, 4))
    with pytest.raises(TypeError, match=match):
        spiking_max_pool2d(x, 2)


def test_different_types_and_non_tensors_are_rejected() -> None:
    x, w = torch.ones(2, 3), torch.ones(4, 3)
    with pytest.raises(TypeError, match=r"input is torch\.float32, weight is torch\.float64"):
        spiking_linear(x, w.double())
    with pytest.raises(TypeError, match=r"weight is torch\.float32, bias is torch\.float64"):
        spiking_linear(x, w, w[:, 0].double())
    with pytest.raises(TypeError, match="weight must be a tensor, got list"):
        spiking_linear(x, [[1.0, 2.0, 3.0]])  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="weight is on meta but input is on cpu"):
        spiking_linear(x, w.to("meta"))


@pytest.mark.parametrize("in_dim", [0, 1])
def test_vmap_over_the_input_is_the_loop(in_dim: int) -> None:
    x, w, b = spikes(3, 2, 4, 6, 6), firing(6, 4, 3, 3), firing(6, 1)[:, 0] / 4
    moved = x.movedim(0, in_dim)
    for layer in (
        lambda z: spiking_conv2d(z, w, b, padding=1),
        lambda z: spiking_linear(z.flatten(1), w.repeat(1, 4, 1, 1).flatten(1) / 4, b),
        lambda z: spiking_max_pool2d(z, 2),
    ):
        out = torch.func.vmap(layer, in_dim)(moved)
        loop = torch.stack([layer(z) for z in x])
        assert out.isfinite().float().mean() > 0.9
        assert torch.equal(out, loop)


def test_vmap_over_the_weights_raises() -> None:
    x, w = spikes(2, 4, 6, 6), firing(15, 4, 3, 3).unflatten(0, (3, 5))
    with pytest.raises(NotImplementedError, match=r"once for each set of weights, or use groups"):
        torch.func.vmap(spiking_conv2d, (None, 0))(x, w)
    with pytest.raises(NotImplementedError, match=r"once for each set of weights, or use groups"):
        torch.func.vmap(spiking_linear, (None, 0))(x[:, 0, 0], w[:, :, :2, 0].flatten(2)[:, :, :6])


def test_functional_gradients_raise() -> None:
    # torch has no functorch rule for custom operators; it says so, and nothing silently is zero.
    x, w = spikes(2, 4, 6, 6), firing(6, 4, 3, 3)
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda w: spiking_conv2d(x, w).sum())(w)


def test_gradients_of_each_sample_by_expanded_weights() -> None:
    x, w = spikes(5, 12), firing(6, 12)
    each = torch.func.vmap(lambda z: spiking_linear(z, w.detach()))(x)
    assert torch.equal(each, spiking_linear(x, w))
    out = spiking_linear(x, w.requires_grad_())
    assert out.isfinite().all()
    eye = torch.eye(5)[:, :, None].expand(5, 5, 6)
    (batched,) = torch.autograd.grad(out, w, eye, is_grads_batched=True, retain_graph=True)
    for n in range(5):
        (alone,) = torch.autograd.grad(out[n].sum(), w, retain_graph=True)
        assert alone.abs().sum() > 0
        torch.testing.assert_close(batched[n], alone, rtol=1e-6, atol=1e-7)


def test_batched_gradients_of_a_convolution_and_a_pool() -> None:
    x, w = spikes(2, 4, 7, 7).requires_grad_(), firing(6, 4, 3, 3).requires_grad_()
    out = spiking_max_pool2d(spiking_conv2d(x, w), 2)
    assert out.isfinite().all()
    upstream = torch.rand(3, *out.shape, generator=torch.Generator().manual_seed(5))
    batched = torch.autograd.grad(out, (x, w), upstream, is_grads_batched=True, retain_graph=True)
    for n in range(3):
        alone = torch.autograd.grad(out, (x, w), upstream[n], retain_graph=True)
        for got, expected in zip(batched, alone, strict=True):
            assert expected.abs().sum() > 0
            assert torch.equal(got[n], expected)


def test_a_pool_over_a_map_of_any_size_is_exported() -> None:
    class Whole(torch.nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return spiking_max_pool2d(z, (z.shape[-2], z.shape[-1]))

    class Square(torch.nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return spiking_max_pool2d(z, z.shape[-1])

    size = torch.export.Dim("size", min=2, max=32)
    for model in (Whole(), Square()):
        exported = torch.export.export(
            model, (spikes(2, 3, 8, 8),), dynamic_shapes=({2: size, 3: size},)
        )
        more = spikes(2, 3, 5, 5, seed=5)
        assert torch.equal(exported.module()(more), model(more))


def operators() -> list[Any]:
    x, w = spikes(2, 4, 6, 6), firing(6, 4, 3, 3)
    return [
        pytest.param(spiking_conv2d, (x, w), id="conv2d"),
        pytest.param(spiking_linear, (x.flatten(1), firing(6, 144)), id="linear"),
        pytest.param(lambda z: spiking_max_pool2d(z, 2), (x,), id="pool"),
    ]


@pytest.mark.parametrize(("operator", "inputs"), operators())
def test_double_backward_raises(operator: Callable[..., Tensor], inputs: Any) -> None:
    inputs = [t.clone().requires_grad_() for t in inputs]
    out = operator(*inputs)
    loss = out.masked_fill(out.isinf(), 0).square().sum()
    (first, *_) = torch.autograd.grad(loss, inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative: double backward"):
        first.square().sum().backward()


@pytest.mark.parametrize(("operator", "inputs"), operators())
def test_forward_mode_raises(operator: Callable[..., Tensor], inputs: Any) -> None:
    tangents = tuple(torch.ones_like(t) for t in inputs)
    with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        torch.func.jvp(operator, tuple(inputs), tangents)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, u) for t, u in zip(inputs, tangents, strict=True)]
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            operator(*duals)
        assert operator(*inputs).isfinite().any()  # without tangents it works


WRONG_CONVOLUTIONS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 8, 8), (4, 2, 3, 3), {}),  # channels
    ((2, 3, 8, 8), (4, 3, 9, 3), {}),  # kernel larger than the input
    ((2, 3, 8, 8), (4, 3, 5, 5), {"dilation": 2}),
    ((2, 4, 8, 8), (3, 2, 3, 3), {"groups": 2}),  # outputs
    ((2, 3, 8, 8), (4, 1, 3, 3), {"groups": 2}),
    ((2, 3, 8, 8), (4, 3, 3, 3), {"groups": 0}),
    ((2, 3, 8, 8), (4, 3, 3, 3), {"stride": 0}),
    ((2, 3, 8, 8), (4, 3, 3, 3), {"stride": -1}),
    ((2, 3, 8, 8), (4, 3, 3, 3), {"padding": -1}),
    ((2, 3, 8, 8), (4, 3, 3, 3), {"dilation": 0}),
    ((2, 3, 8, 8), (4, 3, 3, 3), {"padding": "sam"}),
    ((2, 3, 8, 8), (4, 3, 3, 3), {"stride": (1, 1, 1)}),
    ((2, 3, 8, 8), (4, 3, 3), {}),
    ((8, 8), (4, 3, 3, 3), {}),
    ((2, 3, 8, 8, 8), (4, 3, 3, 3), {}),
    ((2, 3, 8, 8), (4, 3, 3, 3), {"bias": (3,)}),
    ((2, 3, 8, 8), (4, 3, 3, 3), {"bias": (4, 1)}),
    ((2, 3, 8, 8), (4, 3, 0, 3), {}),
]


@pytest.mark.parametrize(("shape", "weight", "rest"), WRONG_CONVOLUTIONS, ids=str)
def test_conv2d_refuses_what_torch_refuses(
    shape: tuple[int, ...], weight: tuple[int, ...], rest: dict[str, Any]
) -> None:
    rest = {k: torch.ones(v) if k == "bias" else v for k, v in rest.items()}
    x, w = torch.ones(shape), torch.ones(weight)
    with pytest.raises(Exception) as theirs:
        F.conv2d(x, w, **rest)
    with pytest.raises(type(theirs.value), match=r"spiking_conv2d"):
        spiking_conv2d(x, w, **rest)


@pytest.mark.parametrize(
    ("shape", "weight", "bias"),
    [
        ((2, 3), (4, 5), None),
        ((3,), (4, 5), None),
        ((2, 3), (4, 3), (3,)),
        ((2, 3), (4, 3, 1), None),
    ],
)
def test_linear_refuses_what_torch_refuses(shape: Any, weight: Any, bias: Any) -> None:
    x, w = torch.ones(shape), torch.ones(weight)
    b = None if bias is None else torch.ones(bias)
    with pytest.raises(RuntimeError):
        F.linear(x, w, b)
    with pytest.raises(RuntimeError, match=r"spiking_linear"):
        spiking_linear(x, w, b)


@pytest.mark.parametrize(
    "rest",
    [
        {"kernel_size": 9},
        {"kernel_size": 0},
        {"kernel_size": 2, "padding": 2},
        {"kernel_size": 2, "stride": 0},
        {"kernel_size": 2, "dilation": 0},
        {"kernel_size": 2, "padding": -1},
        {"kernel_size": (2, 2, 2)},
    ],
    ids=str,
)
def test_pool_refuses_what_torch_refuses(rest: dict[str, Any]) -> None:
    x = torch.ones(2, 3, 8, 8)
    with pytest.raises(RuntimeError):
        F.max_pool2d(x, **rest)
    with pytest.raises(RuntimeError, match="spiking_max_pool2d"):
        spiking_max_pool2d(x, **rest)
    with pytest.raises(RuntimeError, match="spiking_max_pool2d takes an input of shape"):
        spiking_max_pool2d(x[0, 0], 2)


def formats(x: Tensor) -> list[Tensor]:
    kinds = [x, x.transpose(-1, -2).contiguous().transpose(-1, -2)]
    if x.dim() == 4:
        kinds += [x.contiguous(memory_format=torch.channels_last), x[:, :, ::2, ::2]]
    return kinds


def test_conv2d_has_the_shape_and_memory_format_of_torchs() -> None:
    compared = 0
    shapes = [(2, 4, 9, 8), (4, 9, 8), (1, 4, 9, 8), (2, 4, 5, 5), (0, 4, 9, 8)]
    for shape, stride, padding, dilation, groups in itertools.product(
        shapes, [1, 2, (3, 1)], [0, 2, (1, 3), "valid", "same"], [1, 2], [1, 2]
    ):
        if padding == "same" and stride != 1:  # torch has no such; ours has
            continue
        w = firing(6, 4 // groups, 3, 2)
        for x in formats(spikes(*shape)):
            geometry = (stride, padding, dilation, groups)
            try:
                theirs = F.conv2d(x, w, None, *geometry)
            except RuntimeError:
                with pytest.raises(RuntimeError):
                    spiking_conv2d(x, w, None, *geometry)
                continue
            ours = spiking_conv2d(x, w, None, *geometry)
            assert ours.shape == theirs.shape
            if x.is_contiguous():
                assert ours.is_contiguous()
            elif x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
                assert ours.is_contiguous(memory_format=torch.channels_last)
                if ours.numel():
                    assert ours.stride() == theirs.stride()
            compared += 1
    assert compared > 300


def test_pool_has_the_shape_and_memory_format_of_torchs() -> None:
    compared = 0
    for shape, kernel, stride, padding, dilation, ceil_mode in itertools.product(
        [(2, 3, 9, 8), (3, 9, 8), (1, 3, 7, 5)],
        [1, 2, (3, 2)],
        [None, 1, (2, 3)],
        [0, 1],
        [1, 2],
        [False, True],
    ):
        for x in formats(spikes(*shape)):
            geometry = (kernel, stride, padding, dilation, ceil_mode)
            try:
                theirs = -F.max_pool2d(-x, *geometry)
            except RuntimeError:
                with pytest.raises(RuntimeError):
                    spiking_max_pool2d(x, *geometry)
                continue
            ours = spiking_max_pool2d(x, *geometry)
            assert torch.equal(ours, theirs)
            assert ours.stride() == theirs.stride()
            compared += 1
    assert compared > 300


def test_linear_has_the_shape_of_torchs() -> None:
    w = firing(5, 6)
    for shape in ((6,), (2, 6), (2, 3, 6), (2, 3, 1, 6), (0, 6), (2, 0, 6)):
        x = spikes(*shape)
        out = spiking_linear(x, w)
        assert out.shape == F.linear(x, w).shape
        assert out.is_contiguous()
        assert torch.equal(out.reshape(-1, 5), spiking_linear(x.reshape(-1, 6), w))


@pytest.mark.parametrize("elements", [1, 100, 2**24])
def test_path_of_other_devices_is_the_kernels(
    elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "MAX_ELEMENTS", elements)
    x, w = spikes(2, 4, 7, 6).double(), firing(6, 2, 3, 2).double()
    b = firing(6, 1)[:, 0].double() / 8
    for stride, padding, dilation, size in (
        ([1, 1], [0, 0], [1, 1], [5, 5]),
        ([2, 1], [1, 2], [1, 1], [4, 9]),
        ([2, 2], [1, 0], [1, 1], [4, 3]),  # "same"
        ([2, 3], [0, 0], [2, 1], [2, 2]),  # the last row and column are not seen
    ):
        geometry = (stride, padding, dilation, 2)
        for bias, t_max in ((b, INF), (None, 1.5)):
            mine = ops.conv2d(x, w, bias, *geometry, t_max, size)
            theirs = reference.conv2d_forward(x, w, bias, *geometry, t_max, size)
            assert mine[0].isfinite().double().mean() > 0.2
            for a, c in zip(mine, theirs, strict=True):
                torch.testing.assert_close(a, c, rtol=1e-10, atol=1e-12)
            grad = torch.randn(mine[0].shape, generator=torch.Generator().manual_seed(3)).double()
            got = ops.conv2d_backward(grad, x, w, *mine, *geometry, True, True)
            expected = reference.conv2d_backward(grad, x, w, *mine, *geometry)
            for a, c in zip(got, expected, strict=True):
                torch.testing.assert_close(a, c, rtol=1e-9, atol=1e-11)
    rows, matrix = spikes(5, 30).double(), firing(7, 30).double()
    mine = ops.linear(rows, matrix, None, INF)
    for a, c in zip(mine, reference.linear_forward(rows, matrix, None, INF), strict=True):
        torch.testing.assert_close(a, c, rtol=1e-10, atol=1e-12)
    grad = torch.ones_like(mine[0])
    for a, c in zip(
        ops.linear_backward(grad, rows, matrix, *mine, True, True),
        reference.linear_backward(grad, rows, matrix, *mine),
        strict=True,
    ):
        torch.testing.assert_close(a, c, rtol=1e-9, atol=1e-11)


def test_meta_tensors_have_shapes_only() -> None:
    x, w = torch.ones(2, 3, 8, 8, device="meta"), torch.ones(5, 3, 3, 3, device="meta")
    assert spiking_conv2d(x, w, padding=1).shape == (2, 5, 8, 8)
    assert spiking_max_pool2d(x, 2).shape == (2, 3, 4, 4)
    assert spiking_linear(x, torch.ones(4, 8, device="meta")).shape == (2, 3, 8, 4)
