"""The division of a layer: what is covered, and how much memory it takes."""

import itertools

import pytest

from ttfs_fast.bench.layers import LAYERS
from ttfs_fast.gpu import plan
from ttfs_fast.gpu.plan import Geometry


def geometry(
    batch: int, inputs: int, outputs: int, size: int, kernel: int, **rest: int
) -> Geometry:
    s, p, d = rest.get("stride", 1), rest.get("padding", 0), rest.get("dilation", 1)
    groups = rest.get("groups", 1)
    out = (size + 2 * p - d * (kernel - 1) - 1) // s + 1
    return Geometry(
        batch, groups, inputs // groups, outputs // groups, (size, size), (out, out),
        (kernel, kernel), (s, s), (p, p), (d, d),
    )  # fmt: skip


BENCH = [
    geometry(
        s.batch, s.inputs, s.outputs, max(s.size, 1), s.kernel, stride=s.stride, padding=s.padding
    )
    for s in LAYERS
]
LARGE = [
    geometry(256, 512, 512, 32, 3, padding=1),
    geometry(1, 64, 64, 1024, 3, padding=1),
    geometry(4096, 25088, 4096, 1, 1),
    geometry(8, 512, 512, 64, 3, padding=1, groups=512),
    geometry(1, 1024, 1024, 7, 7),
]


def test_tiles_share_their_sorted_events() -> None:
    # 2 x 2 outputs of a 3 x 3 convolution: 16 keys a channel, not 36; here larger tiles fit.
    tiles = plan.tiling(geometry(1, 64, 64, 32, 3, padding=1), bias=False)
    assert tiles.tile == (4, 4)
    assert tiles.length == 64 * 36 <= plan.MOST_KEYS
    tiles = plan.tiling(geometry(1, 256, 64, 32, 3, padding=1), bias=False)
    assert tiles.tile == (2, 2)
    assert tiles.length == 256 * 16
    assert plan.tiling(geometry(1, 4096, 8, 1, 1), bias=False).tile == (1, 1)


@pytest.mark.parametrize(
    ("stride", "dilation", "size"), list(itertools.product([1, 2, 3, 4], [1, 2, 3], [9, 14]))
)
def test_tiles_cover_every_output_once(stride: int, dilation: int, size: int) -> None:
    g = geometry(1, 1, 1, size, 3, stride=stride, padding=1, dilation=dilation)
    tiles = plan.tiling(g, bias=False)
    seen = []
    for phase, place, pixel in itertools.product(
        range(tiles.step[0]), range(tiles.count[0]), range(tiles.tile[0])
    ):
        y = phase + place * tiles.tile[0] * tiles.step[0] + pixel * tiles.step[0]
        if y < g.output_size[0]:
            seen.append(y)
            # The pixel's first input, on the tile's grid of inputs.
            first = (phase + place * tiles.tile[0] * tiles.step[0]) * stride
            assert y * stride == first + pixel * tiles.sub[0] * dilation
    assert sorted(seen) == list(range(g.output_size[0]))


@pytest.mark.parametrize("item", [4, 8])
@pytest.mark.parametrize("g", BENCH + LARGE)
def test_memory_is_bounded(g: Geometry, item: int) -> None:
    tiles = plan.tiling(g, bias=True)
    segments = plan.segments_each(tiles, item)
    keys = segments * tiles.length * 2 * (2 * item + 16)
    events = segments * tiles.tile[0] * tiles.tile[1] * (tiles.capacity * (item + 4) + 4)
    packed = plan.outputs_each(g, item) * g.groups * (g.inputs + 2) * item
    assert keys + events + packed <= plan.MEMORY
    back = plan.backward(g, item)
    ready = back.images * back.outputs * g.groups * g.pixels * 2 * item
    partial = back.splits * g.groups * g.outputs * (g.inputs + 1) * item if back.splits > 1 else 0
    assert ready + partial + plan.PARTIAL + plan.WEIGHTS <= plan.MEMORY
    assert back.images >= 1
    assert back.outputs >= 1
