"""The Triton kernels: collect, filter, sweep, gradients, pooling.

Written in Triton's language, which looks like Python: every function here is compiled for the GPU
or, with ``TRITON_INTERPRET=1``, interpreted with numpy. :mod:`ttfs_fast.gpu.layers` and
:mod:`ttfs_fast.gpu.pool` launch them; only :mod:`ttfs_fast.gpu.dispatch` imports those, when a
tensor on a GPU first comes by.

Fused multiply-adds are written (``tl.fma``); contraction is off (``FIXED`` below), so that the
compiler chooses no rounding. No kernel uses atomics: every sum has one owner and a fixed order.

A *tile* is a block of output pixels whose receptive fields share most of their inputs. On a grid
with spacing `dilation`, output pixels ``step = dilation / gcd(stride, dilation)`` apart see an
ordinary convolution of stride ``sub = stride / gcd(stride, dilation)``; a tile lies on such a grid.
"""

import triton
import triton.language as tl

FIXED = {"enable_fp_fusion": False}
"""Launch options that fix the rounding of every kernel."""


# --- forward -------------------------------------------------------------------------------------


@triton.jit
def _places(program, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Elements of a program, in 64 bits only where it must be: they are divided."""
    if WIDE:
        program = program.to(tl.int64)
    return program * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def check_positive(
    input, flags, size, channels, height, width, sn, sc, sy, sx,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Whether some spike value of a block is zero or negative: one flag per program."""
    program = tl.program_id(0)
    i = _places(program, WIDE, BLOCK)
    x = i % width
    y = i // width % height
    c = (i // (width * height) % channels).to(tl.int64)
    n = (i // (width * height * channels)).to(tl.int64)
    value = tl.load(input + n * sn + c * sc + y * sy + x * sx, mask=i < size, other=1.0)
    tl.store(flags + program, tl.max((value <= 0).to(tl.int32), axis=0))


@triton.jit
def _quotient(a, b):
    """a / b, correctly rounded; Triton's own division of float32 is not."""
    if a.dtype == tl.float64:  # noqa: SIM108 - decided as it compiles
        quotient = a / b
    else:
        quotient = tl.div_rn(a, b)
    return quotient


@triton.jit
def _tile_origin(
    segment, groups, tiles_y, tiles_x, step_y, step_x, TILE_Y: tl.constexpr, TILE_X: tl.constexpr
):
    """Image, group, and first output row and column of a segment: its tile's upper left pixel."""
    tiles = tiles_y * tiles_x * step_y * step_x
    tile = segment % tiles
    group = segment // tiles % groups
    image = segment // (tiles * groups)
    phase = tile // (tiles_y * tiles_x)
    place = tile % (tiles_y * tiles_x)
    oy = phase // step_x + place // tiles_x * TILE_Y * step_y
    ox = phase % step_x + place % tiles_x * TILE_X * step_x
    return image.to(tl.int64), group, oy.to(tl.int64), ox.to(tl.int64)


@triton.jit
def collect(
    input, keys, first_segment, groups, channels, height, width, sn, sc, sy, sx,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    tiles_y, tiles_x, step_y, step_x, window_y, window_x, length,
    HAS_BIAS: tl.constexpr, TILE_Y: tl.constexpr, TILE_X: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The spike values that a tile's outputs see, inf outside the image; the bias comes last.

    Keys (segments, length) in the order channel, window row, window column.
    """
    program = tl.program_id(0)
    row = program.to(tl.int64)
    image, group, oy, ox = _tile_origin(
        first_segment + program, groups, tiles_y, tiles_x, step_y, step_x, TILE_Y, TILE_X
    )
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    c = i // (window_y * window_x)
    y = oy * stride_y - padding_y + i // window_x % window_y * dilation_y
    x = ox * stride_x - padding_x + i % window_x * dilation_x
    inside = (c < channels) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    at = image * sn + (group * channels + c) * sc + y * sy + x * sx
    value = tl.load(input + at, mask=inside, other=float("inf"))
    if HAS_BIAS:
        value = tl.where(c == channels, 1.0, value)
    tl.store(keys + row * length + i, value, mask=i < length)


@triton.jit
def filter_events(
    values, order, times, rows, counts, first_segment, groups, channels, height, width,
    tiles_y, tiles_x, step_y, step_x, sub_y, sub_x, window_y, window_x, length, capacity, inputs,
    start, outputs, KERNEL_Y: tl.constexpr, KERNEL_X: tl.constexpr,
    TILE_Y: tl.constexpr, TILE_X: tl.constexpr, UNROLL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One pixel's events out of its tile's sorted ones: times, and rows of the packed weights.

    The count is -1 where the pixel sees a NaN, 0 for a pixel outside the image. UNROLL events
    without a weight follow, at the last event's time.
    """
    program = tl.program_id(0)
    row = program.to(tl.int64)
    pixel = tl.program_id(1)
    _image, _group, oy, ox = _tile_origin(
        first_segment + program, groups, tiles_y, tiles_x, step_y, step_x, TILE_Y, TILE_X
    )
    py = pixel // TILE_X
    px = pixel % TILE_X
    exists = (oy + py * step_y < height) & (ox + px * step_x < width)
    slot = row * (TILE_Y * TILE_X) + pixel
    base = slot * capacity
    horizon = tl.load(start + groups * outputs)
    count = tl.zeros((), tl.int32)
    undefined = tl.zeros((), tl.int32)
    last = tl.load(values + row * length)
    for first in range(0, length, BLOCK):
        i = first + tl.arange(0, BLOCK)
        value = tl.load(values + row * length + i, mask=i < length, other=float("inf"))
        key = tl.load(order + row * length + i, mask=i < length, other=0).to(tl.int32)
        c = key // (window_y * window_x)
        r = key // window_x % window_y - py * sub_y
        s = key % window_x - px * sub_x
        bias = c == channels
        seen = (r >= 0) & (r < KERNEL_Y) & (s >= 0) & (s < KERNEL_X)
        seen = (seen | bias) & (i < length)
        undefined = tl.maximum(undefined, tl.max((seen & (value != value)).to(tl.int32), axis=0))
        event = seen & (value < horizon)
        kept = event.to(tl.int32)
        place = count + tl.cumsum(kept, axis=0) - 1
        tl.store(times + base + place, value, mask=event)
        weight = tl.where(bias, inputs, (c * KERNEL_Y + r) * KERNEL_X + s)
        tl.store(rows + base + place, weight, mask=event)
        count += tl.sum(kept, axis=0)
        last = tl.maximum(last, tl.max(tl.where(event, value, 0.0), axis=0))
    after = count + tl.arange(0, UNROLL)
    room = after < capacity
    # The first value may be one that is filtered out: then no event needs padding.
    tl.store(times + base + after, tl.zeros((UNROLL,), times.dtype.element_ty) + last, mask=room)
    tl.store(rows + base + after, tl.zeros((UNROLL,), tl.int32) + inputs + 1, mask=room)
    count = tl.where(undefined > 0, -1, count)
    tl.store(counts + slot, tl.where(exists, count, 0))


@triton.jit
def _first_crossing(
    at_time, at_row, column, width_packed, count, slope, waiting, horizon,
    UNROLL: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Where each lane's membrane condition F first reaches 0: B, F and z before it, and its end.

    Lanes that do not fire get what they have after the last event, and the horizon as their end;
    they are still waiting. Also the lowest B that each lane went through.
    """
    rounds = (tl.maximum(count, 0) + UNROLL - 1) // UNROLL
    level = tl.zeros((LANES,), slope.dtype)
    time = tl.zeros((), slope.dtype)
    lowest = slope
    fired_slope = slope
    fired_level = level
    fired_time = level
    latest = level
    e = tl.zeros((), tl.int32)
    while e < rounds:
        before_slope = slope
        before_level = level
        before_time = time
        highest = tl.full((LANES,), float("-inf"), slope.dtype)
        for u in tl.static_range(UNROLL):
            now = tl.load(at_time + e * UNROLL + u)
            row = tl.load(at_row + e * UNROLL + u)
            level = tl.fma(slope, tl.zeros((LANES,), slope.dtype) + (now - time), level)
            highest = tl.maximum(highest, level)
            slope += tl.load(column + row * width_packed)
            time = now
        lowest = tl.where(waiting, tl.minimum(lowest, slope), lowest)
        if tl.max((waiting & (highest >= 0)).to(tl.int32), axis=0) > 0:
            for again in range(UNROLL):
                now = tl.load(at_time + e * UNROLL + again)
                row = tl.load(at_row + e * UNROLL + again)
                elapsed = tl.zeros((LANES,), slope.dtype) + (now - before_time)
                there = tl.fma(before_slope, elapsed, before_level)
                fires = waiting & (there >= 0)
                fired_slope = tl.where(fires, before_slope, fired_slope)
                fired_level = tl.where(fires, before_level, fired_level)
                fired_time = tl.where(fires, before_time, fired_time)
                latest = tl.where(fires, now, latest)
                waiting = waiting & (there < 0)
                before_level = there
                before_slope += tl.load(column + row * width_packed)
                before_time = now
            if tl.max(waiting.to(tl.int32), axis=0) == 0:
                rounds = e
        e += 1
    fired_slope = tl.where(waiting, slope, fired_slope)
    fired_level = tl.where(waiting, level, fired_level)
    fired_time = tl.where(waiting, time, fired_time)
    latest = tl.where(waiting, horizon, latest)
    return fired_slope, fired_level, fired_time, latest, waiting, lowest


@triton.jit
def _sum_in_double(
    input, weight, raw_bias, which, found, horizon, image, group, channels, inputs,
    in_height, in_width, in_n, in_c, in_y, in_x, top, left, dilation_y, dilation_x,
    HAS_BIAS: tl.constexpr, KERNEL_Y: tl.constexpr, KERNEL_X: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A lane's sums in the order of its weights, over the events before a spike value.

    Returns the slope, the spike value that follows, and the event times around the one given.
    """
    sum_slope = tl.zeros((BLOCK,), tl.float64)
    sum_moment = tl.zeros((BLOCK,), tl.float64)
    previous = tl.zeros((BLOCK,), tl.float64)
    following = tl.full((BLOCK,), float("inf"), tl.float64)
    for first in range(0, inputs, BLOCK):
        k = first + tl.arange(0, BLOCK)
        c = k // (KERNEL_Y * KERNEL_X)
        y = top + k // KERNEL_X % KERNEL_Y * dilation_y
        x = left + k % KERNEL_X * dilation_x
        inside = (k < inputs) & (y >= 0) & (y < in_height) & (x >= 0) & (x < in_width)
        at = image * in_n + (group * channels + c) * in_c + y * in_y + x * in_x
        t = tl.load(input + at, mask=inside, other=float("inf")).to(tl.float64)
        w = tl.load(weight + k, mask=k < inputs, other=0.0).to(tl.float64)
        causal = t < found
        sum_slope += tl.where(causal, w, 0.0)
        sum_moment += tl.where(causal, w * tl.where(causal, t, 0.0), 0.0)
        previous = tl.maximum(previous, tl.where(causal, t, 0.0))
        following = tl.minimum(following, tl.where(causal, float("inf"), t))
    slope = tl.sum(sum_slope, axis=0) - 1.0
    moment = tl.sum(sum_moment, axis=0)
    last_time = tl.max(previous, axis=0)
    next_time = tl.minimum(tl.min(following, axis=0), horizon.to(tl.float64))
    if HAS_BIAS:
        bias = tl.load(raw_bias + which).to(tl.float64)
        joins = found > 1.0
        slope += tl.where(joins, bias, 0.0)
        moment += tl.where(joins, bias, 0.0)
        last_time = tl.where(joins, tl.maximum(last_time, 1.0), last_time)
        next_time = tl.where(joins, next_time, tl.minimum(next_time, 1.0))
    return slope, moment / tl.where(slope > 0, slope, 1.0), last_time, next_time


@triton.jit
def _by_definition(
    at_time, at_row, column, width_packed, count, searching, horizon,
    FINITE_HORIZON: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Slopes and spike values of the lanes sought, event by event in double precision."""
    slopes = tl.full((LANES,), -1.0, tl.float64)
    moments = tl.zeros((LANES,), tl.float64)
    spike_slope = tl.zeros((LANES,), tl.float64)
    spike = tl.full((LANES,), float("inf"), tl.float64)
    for i in range(count):
        t = tl.load(at_time + i).to(tl.float64)
        row = tl.load(at_row + i)
        there = slopes * t - moments
        fires = searching & (slopes > 0) & (there >= 0)
        spike_slope = tl.where(fires, slopes, spike_slope)
        spike = tl.where(fires, moments / tl.where(fires, slopes, 1.0), spike)
        searching = searching & (fires == 0)
        w = tl.load(column + row * width_packed).to(tl.float64)
        slopes += w
        moments += w * t
    fires = searching & (slopes > 0)
    if FINITE_HORIZON:
        fires = fires & (slopes * horizon.to(tl.float64) - moments >= 0)
    spike_slope = tl.where(fires, slopes, spike_slope)
    spike = tl.where(fires, moments / tl.where(fires, slopes, 1.0), spike)
    return spike_slope, spike


@triton.jit
def sweep(
    times, rows, counts, weights, start, z, slopes, input, raw_weight, raw_bias,
    first_segment, groups, channels, outputs, first_output, slab, width_packed,
    in_height, in_width, height, width, capacity, inputs,
    in_n, in_c, in_y, in_x, zn, zc, zy, zx,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    tiles_y, tiles_x, step_y, step_x, factor,
    HAS_BIAS: tl.constexpr, FINITE_HORIZON: tl.constexpr,
    KERNEL_Y: tl.constexpr, KERNEL_X: tl.constexpr, TILE_Y: tl.constexpr, TILE_X: tl.constexpr,
    UNROLL: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A pixel's events against a block of outputs: who fires, when.

    For each lane (an output), B = sum w - 1 over the events so far, and F, the membrane condition:
    from one event to the next F rises by B times the step in z, and the lane fires where F first
    reaches 0. UNROLL events go by at a time, with nothing kept but the largest F; only where that
    is not below 0 are they gone through again, to find the event. Lanes whose D = B is small
    against the rounding of the sums are summed again in double precision.
    """
    program = tl.program_id(0)
    slot = program.to(tl.int64)
    block = tl.program_id(1)
    image, group, oy, ox = _tile_origin(
        first_segment + program // (TILE_Y * TILE_X),
        groups, tiles_y, tiles_x, step_y, step_x, TILE_Y, TILE_X,
    )  # fmt: skip
    pixel = program % (TILE_Y * TILE_X)
    oy += pixel // TILE_X * step_y
    ox += pixel % TILE_X * step_x
    lanes = tl.arange(0, LANES)
    local = block * LANES + lanes
    written = (local < slab) & (oy + lanes * 0 < height) & (ox + lanes * 0 < width)
    output = group * outputs + first_output + local  # of all groups
    dtype = times.dtype.element_ty
    horizon = tl.load(start + groups * outputs)
    count = tl.load(counts + slot)

    slope = tl.load(start + output, mask=local < slab, other=-1.0)  # -1, or NaN
    column = weights + group * (inputs + 2) * width_packed + local
    at_time = times + slot * capacity
    at_row = rows + slot * capacity
    fired_slope, fired_level, fired_time, latest, waiting, lowest = _first_crossing(
        at_time, at_row, column, width_packed, count, slope, local < slab, horizon, UNROLL, LANES
    )
    # Equation 4, with A = B z - F at the last event: there both terms are positive.
    silent = waiting & (fired_slope <= 0)
    if FINITE_HORIZON:
        there = tl.fma(fired_slope, latest - fired_time, fired_level)
        silent = silent | (waiting & (there < 0))
    moment = tl.fma(fired_slope, fired_time, -fired_level)
    value = tl.minimum(latest, _quotient(moment, tl.where(fired_slope == 0, 1.0, fired_slope)))
    undefined = (fired_slope != fired_slope) | (count + lanes * 0 < 0)
    silent = silent & (undefined == 0)
    # The error of B counts in full only for a lane that fires long after what its sum went through.
    flat = factor * tl.sqrt(count.to(tl.float32)) * tl.where(waiting, 2.0, 1.0)
    odd = (fired_slope <= -lowest * flat.to(dtype)) | ((value > 0) == 0) | (fired_slope <= 0)
    odd = odd | ((moment < float("inf")) == 0)  # an overflow
    odd = odd & written & (silent == 0) & (undefined == 0)

    # Lane by lane, in the order of the weights: the events before the spike value that was found.
    unsolved = odd & (lanes < 0)
    remaining = odd
    while tl.max(remaining.to(tl.int32), axis=0) > 0:
        lane = tl.min(tl.where(remaining, lanes, LANES), axis=0)
        here = lanes == lane
        remaining = remaining & (lanes > lane)
        found = tl.sum(tl.where(here, value, 0.0), axis=0).to(tl.float64)
        which = (group * outputs + first_output + block * LANES + lane).to(tl.int64)
        exact_slope, exact, last_time, next_time = _sum_in_double(
            input, raw_weight + which * inputs, raw_bias, which, found, horizon,
            image, group, channels, inputs, in_height, in_width, in_n, in_c, in_y, in_x,
            oy * stride_y - padding_y, ox * stride_x - padding_x, dilation_y, dilation_x,
            HAS_BIAS, KERNEL_Y, KERNEL_X, BLOCK,
        )  # fmt: skip
        # Is this the causal set of the spike value that it gives?
        # Compared lane by lane: the interpreter has no "and" of single numbers.
        slopes_there = tl.zeros((LANES,), tl.float64) + exact_slope
        values_there = tl.zeros((LANES,), tl.float64) + exact
        good = (slopes_there > 0) & (values_there > last_time) & (values_there <= next_time)
        value = tl.where(here & good, values_there.to(dtype), value)
        fired_slope = tl.where(here & good, slopes_there.to(dtype), fired_slope)
        unsolved = unsolved | (here & (good == 0))

    # By the definition, event by event in double precision.
    if tl.max(unsolved.to(tl.int32), axis=0) > 0:
        spike_slope, spike = _by_definition(
            at_time, at_row, column, width_packed, count, unsolved, horizon, FINITE_HORIZON, LANES
        )
        value = tl.where(unsolved, spike.to(dtype), value)
        fired_slope = tl.where(unsolved, spike_slope.to(dtype), fired_slope)

    value = tl.where(silent, float("inf"), value)
    fired_slope = tl.where(silent, 0.0, fired_slope)
    value = tl.where(undefined, float("nan"), value)
    fired_slope = tl.where(undefined, float("nan"), fired_slope)
    tl.store(z + image * zn + output * zc + oy * zy + ox * zx, value, mask=written)
    at = ((image * height + oy) * width + ox) * (groups * outputs) + output
    tl.store(slopes + at, fired_slope, mask=written)


# --- gradients -----------------------------------------------------------------------------------


@triton.jit
def prepare(
    z, grad, slopes, ready_z, ready_g, size, first_image, groups, outputs, first_output, slab,
    pixels, width, zn, zc, zy, zx, gn, gc, gy, gx,
    OUTPUTS_LAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """g = grad / D and z of some images and outputs, 0 and 0 where silent, NaN where NaN.

    In the order (image, pixel, output), or (output, image, pixel).
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns = groups * slab
    if OUTPUTS_LAST:
        m = i % columns
        pixel = i // columns
    else:
        m = i // (size // columns)
        pixel = i % (size // columns)
    n = (first_image + pixel // pixels).to(tl.int64)
    y = pixel % pixels // width
    x = pixel % width
    m = (m // slab * outputs + first_output + m % slab).to(tl.int64)
    inside = i < size
    value = tl.load(z + n * zn + m * zc + y * zy + x * zx, mask=inside, other=float("inf"))
    upstream = tl.load(grad + n * gn + m * gc + y * gy + x * gx, mask=inside, other=0.0)
    at = (n * pixels + y * width + x) * (groups * outputs) + m
    slope = tl.load(slopes + at, mask=inside, other=1.0)
    silent = value == float("inf")
    g = _quotient(upstream, tl.where(silent, 1.0, slope))
    g = tl.where(value != value, value, g)
    tl.store(ready_g + i, tl.where(silent, 0.0, g), mask=inside)
    tl.store(ready_z + i, tl.where(silent, 0.0, value), mask=inside)


@triton.jit
def weight_gradient(
    input, ready_z, ready_g, grad_weight, grad_bias, first_image, images, groups,
    channels, outputs, slab, first_output, height, width, in_height, in_width, inputs, terms,
    in_n, in_c, in_y, in_x, weight_split, bias_split,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, pixels_each,
    KERNEL_Y: tl.constexpr, KERNEL_X: tl.constexpr, ACCUMULATE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """dW[j][i] = - sum over pixels of g_j max(z_j - z_i, 0), of a tile of outputs x inputs.

    The bias is one more input, at z = 1. Program axes: tile of one group's outputs x tile of
    inputs, group, share of the pixels; each share has a result of its own.
    """
    tiles_k = (terms + BLOCK_K - 1) // BLOCK_K
    tile = tl.program_id(0)
    group = tl.program_id(1)
    split = tl.program_id(2).to(tl.int64)
    m = tile // tiles_k * BLOCK_M + tl.arange(0, BLOCK_M)  # of the group's, in the slab
    k = tile % tiles_k * BLOCK_K + tl.arange(0, BLOCK_K)
    tap = k // channels  # taps first, channels last: neighbors in a channels-last input
    c = k % channels
    bias = k == inputs
    r = tap // KERNEL_X
    s = tap % KERNEL_X
    known = k < inputs
    columns = groups * slab
    pixels = height * width
    at_m = group * slab + m
    offset = (group * channels + c) * in_c
    total = tl.zeros((BLOCK_M, BLOCK_K), ready_z.dtype.element_ty)
    first = tl.program_id(2) * pixels_each
    end = tl.minimum(first + pixels_each, images * pixels)
    for start in range(first, end, UNROLL):
        for u in tl.static_range(UNROLL):
            p = start + u
            n = p // pixels
            oy = p % pixels // width
            ox = p % width
            y = oy * stride_y - padding_y + r * dilation_y
            x = ox * stride_x - padding_x + s * dilation_x
            inside = known & (y >= 0) & (y < in_height) & (x >= 0) & (x < in_width)
            inside = inside & (p + k * 0 < end)
            image = input + (first_image + n).to(tl.int64) * in_n
            early = tl.load(image + offset + y * in_y + x * in_x, mask=inside, other=float("inf"))
            early = tl.where(bias & (p + k * 0 < end), 1.0, early)
            there = (m < slab) & (p + m * 0 < end)
            late = tl.load(ready_z + p * columns + at_m, mask=there, other=0.0)
            g = tl.load(ready_g + p * columns + at_m, mask=there, other=0.0)
            ahead = late[:, None] - early[None, :]
            # A NaN spreads: it is no less than 0.
            ahead = tl.where(ahead <= 0, 0.0, ahead)
            total = tl.fma(tl.broadcast_to(-g[:, None], (BLOCK_M, BLOCK_K)), ahead, total)
    row = group * outputs + first_output + m
    at = row[:, None].to(tl.int64) * inputs + ((c * KERNEL_Y + r) * KERNEL_X + s)[None, :]
    mask = (m < slab)[:, None] & known[None, :]
    into = grad_weight + split * weight_split + at
    mask_bias = (m < slab)[:, None] & bias[None, :]
    into_bias = grad_bias + split * bias_split + row[:, None] + tl.zeros((1, BLOCK_K), tl.int32)
    if ACCUMULATE:
        total += tl.load(into, mask=mask, other=0.0)
        total += tl.load(into_bias, mask=mask_bias, other=0.0)
    tl.store(into, total, mask=mask)
    tl.store(into_bias, total, mask=mask_bias)


@triton.jit
def input_gradient(
    input, ready_z, ready_g, weight, grad_input, first_image, images,
    channels, outputs, slab, first_output, height, width, in_height, in_width,
    in_n, in_c, in_y, in_x, gn, gc, gy, gx, wm, wc, wr, ws,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, rows_each, columns_each,
    kernel_y, kernel_x, ACCUMULATE: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """dz[i] = sum over taps and outputs of (z_i < z_j) g_j w_ji, of a tile of pixels x channels.

    The input pixels of a program have the same remainders on division by the strides, so that the
    taps which reach an output are the same for all. Program axes: tile of pixels, of a group's
    channels, group and remainders.
    """
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    phase = tl.program_id(2) % (stride_y * stride_x)
    group = tl.program_id(2) // (stride_y * stride_x)
    n = p // (rows_each * columns_each)
    y = p // columns_each % rows_each * stride_y + phase // stride_x
    x = p % columns_each * stride_x + phase % stride_x
    exists = (n < images) & (y < in_height) & (x < in_width)
    known = exists[:, None] & (c < channels)[None, :]
    channel = (group * channels + c)[None, :]
    image = (first_image + n).to(tl.int64)
    at = image * in_n + y * in_y + x * in_x
    early = tl.load(
        input + at[:, None] + channel.to(tl.int64) * in_c, mask=known, other=float("inf")
    )
    total = tl.zeros((BLOCK_P, BLOCK_C), ready_z.dtype.element_ty)
    pixels = images * height * width
    rows = group * outputs + first_output
    row = p // columns_each % rows_each
    column = p % columns_each
    # The sizes of the kernel are no constants, or the compiler would unroll all taps and spill.
    for tap in range(kernel_y * kernel_x):
        r = tap // kernel_x
        s = tap % kernel_x
        # Not below 0 for the sake of division: a multiple of the stride is added.
        up = phase // stride_x + padding_y - r * dilation_y + stride_y * (kernel_y * dilation_y)
        left = phase % stride_x + padding_x - s * dilation_x + stride_x * (kernel_x * dilation_x)
        if (up % stride_y == 0) & (left % stride_x == 0):
            oy = row + (up // stride_y - kernel_y * dilation_y)
            ox = column + (left // stride_x - kernel_x * dilation_x)
            reaches = exists & (oy >= 0) & (oy < height) & (ox >= 0) & (ox < width)
            pixel = (n * height + oy) * width + ox
            for start in range(0, slab, UNROLL):
                for u in tl.static_range(UNROLL):
                    m = start + u
                    there = reaches & (p * 0 + m < slab)
                    at_m = (group * slab + m) * pixels + pixel
                    late = tl.load(ready_z + at_m, mask=there, other=0.0)
                    g = tl.load(ready_g + at_m, mask=there, other=0.0)
                    w = tl.load(
                        weight + (rows + m).to(tl.int64) * wm + (c * wc + r * wr + s * ws),
                        mask=(c < channels) & (c * 0 + m < slab),
                        other=0.0,
                    )
                    # A NaN spreads: it is no later than any.
                    passed = tl.where(late[:, None] <= early, 0.0, g[:, None])
                    w = tl.broadcast_to(w[None, :], (BLOCK_P, BLOCK_C))
                    total = tl.fma(passed, w, total)
    into = grad_input + (image * gn + y * gy + x * gx)[:, None] + channel.to(tl.int64) * gc
    if ACCUMULATE:
        total += tl.load(into, mask=known, other=0.0)
    tl.store(into, total, mask=known)


# --- first-spike pooling -------------------------------------------------------------------------


@triton.jit
def pool(
    input, z, index, size, channels, in_height, in_width, height, width,
    in_n, in_c, in_y, in_x, zn, zc, zy, zx,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    KERNEL_Y: tl.constexpr, KERNEL_X: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The first spike of each window and its place there, -1 where silent."""
    i = _places(tl.program_id(0), WIDE, BLOCK)
    ox = i % width
    oy = i // width % height
    c = (i // (width * height) % channels).to(tl.int64)
    n = (i // (width * height * channels)).to(tl.int64)
    best = tl.full((BLOCK,), float("inf"), input.dtype.element_ty)
    place = tl.full((BLOCK,), -1, tl.int32)
    for r in range(KERNEL_Y):
        for s in range(KERNEL_X):
            y = oy * stride_y - padding_y + r * dilation_y
            x = ox * stride_x - padding_x + s * dilation_x
            inside = (i < size) & (y >= 0) & (y < in_height) & (x >= 0) & (x < in_width)
            at = n * in_n + c * in_c + y * in_y + x * in_x
            value = tl.load(input + at, mask=inside, other=float("inf"))
            better = (value < best) | ((value != value) & (best == best))
            best = tl.where(better, value, best)
            place = tl.where(better, r * KERNEL_X + s, place)
    tl.store(z + n * zn + c * zc + oy * zy + ox * zx, best, mask=i < size)
    tl.store(index + i, place, mask=i < size)


@triton.jit
def pool_gradient(
    grad, index, grad_input, size, channels, in_height, in_width, height, width,
    gn, gc, gy, gx, stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    KERNEL_Y: tl.constexpr, KERNEL_X: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each input's gradient: of the windows in which it spiked first, in the order of its taps."""
    i = _places(tl.program_id(0), WIDE, BLOCK)
    x = i % in_width
    y = i // in_width % in_height
    plane = i // (in_width * in_height)
    c = (plane % channels).to(tl.int64)
    n = (plane // channels).to(tl.int64)
    total = tl.zeros((BLOCK,), grad.dtype.element_ty)
    for r in range(KERNEL_Y):
        for s in range(KERNEL_X):
            up = y + padding_y - r * dilation_y
            left = x + padding_x - s * dilation_x
            oy = up // stride_y
            ox = left // stride_x
            seen = (up >= 0) & (up % stride_y == 0) & (oy < height)
            seen = seen & (left >= 0) & (left % stride_x == 0) & (ox < width) & (i < size)
            at = (plane.to(tl.int64) * height + oy) * width + ox
            first = tl.load(index + at, mask=seen, other=-1)
            won = seen & (first == r * KERNEL_X + s)
            total += tl.load(grad + n * gn + c * gc + oy * gy + ox * gx, mask=won, other=0.0)
    tl.store(grad_input + i, total, mask=i < size)
