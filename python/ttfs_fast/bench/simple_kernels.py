"""The Triton kernels of :mod:`ttfs_fast.bench.simple`."""

import triton
import triton.language as tl


@triton.jit
def walk(times, order, weights, z, slopes, inputs, outputs, LANES: tl.constexpr):
    """Spike values and D of one field's outputs: sums over the sorted events, one by one."""
    field = tl.program_id(0).to(tl.int64)
    m = tl.program_id(1) * LANES + tl.arange(0, LANES)
    known = m < outputs
    slope = tl.full((LANES,), -1.0, times.dtype.element_ty)
    moment = tl.zeros((LANES,), times.dtype.element_ty)
    value = tl.full((LANES,), float("inf"), times.dtype.element_ty)
    fired = tl.zeros((LANES,), times.dtype.element_ty)
    for i in range(inputs):
        t = tl.load(times + field * inputs + i)
        k = tl.load(order + field * inputs + i)
        fires = (value == float("inf")) & (slope > 0) & (moment <= slope * t)
        value = tl.where(fires, moment / tl.where(slope > 0, slope, 1.0), value)
        fired = tl.where(fires, slope, fired)
        w = tl.load(weights + k * outputs + m, mask=known, other=0.0)
        silent = t == float("inf")
        slope += tl.where(silent, 0.0, w)
        moment += tl.where(silent, 0.0, w * tl.where(silent, 0.0, t))
    fires = (value == float("inf")) & (slope > 0)
    value = tl.where(fires, moment / tl.where(slope > 0, slope, 1.0), value)
    fired = tl.where(fires, slope, fired)
    tl.store(z + field * outputs + m, value, mask=known)
    tl.store(slopes + field * outputs + m, fired, mask=known)


@triton.jit
def walk_back(
    times, order, weights, z, slopes, grad, grad_fields, grad_weights, inputs, outputs,
    LANES: tl.constexpr,
):  # fmt: skip
    """Gradients of one field's outputs, added to those of its inputs and of the weights."""
    field = tl.program_id(0).to(tl.int64)
    m = tl.program_id(1) * LANES + tl.arange(0, LANES)
    known = m < outputs
    value = tl.load(z + field * outputs + m, mask=known, other=float("inf"))
    slope = tl.load(slopes + field * outputs + m, mask=known, other=1.0)
    upstream = tl.load(grad + field * outputs + m, mask=known, other=0.0)
    silent = value == float("inf")
    g = tl.where(silent, 0.0, upstream / tl.where(silent, 1.0, slope))
    late = tl.where(silent, 0.0, value)
    for i in range(inputs):
        t = tl.load(times + field * inputs + i)
        k = tl.load(order + field * inputs + i)
        causal = late > t
        w = tl.load(weights + k * outputs + m, mask=known, other=0.0)
        tl.atomic_add(grad_fields + field * inputs + k, tl.sum(tl.where(causal, g * w, 0.0)))
        change = tl.where(causal, g * (tl.where(causal, t, 0.0) - late), 0.0)
        tl.atomic_add(grad_weights + k * outputs + m, change, mask=known & causal)
