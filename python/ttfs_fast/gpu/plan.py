"""How a layer is divided: tiles, blocks and chunks as plain functions of the sizes.

No measurement and no property of the GPU enters: the same sizes give the same division, and with
it the same bits, on every run. Nothing here needs Triton.
"""

import math
from dataclasses import dataclass

MEMORY = 256 * 2**20
"""Most bytes that a call allocates beside its inputs, outputs and gradients.

A call goes by in chunks of images and tiles, and of outputs, so that it stays within this. What
cannot be divided sets the exception: the events of one tile of one pixel (64 bytes an input of the
receptive field in float32), the packed weights of one output of each group, and the pixels of one
output of each group in one image (8 bytes each in float32) are in memory at once at any size.
"""
EVENTS = 160 * 2**20
"""The part of it for a chunk's events, in forward."""
WEIGHTS = 64 * 2**20
"""The part of it for packed weights; in backward, for copies of weights and inputs."""
OUTPUTS = 64 * 2**20
"""The part of it for z and grad / D of a chunk, in backward."""
PARTIAL = 32 * 2**20
"""The part of it for results of shares of the pixels, in backward."""
UNROLL = 16
"""Events that the sweep takes at a time."""
MOST_KEYS = 4096
"""Keys of a tile that torch sorts within one block of threads."""
MOST_PIXELS = 16
"""Output pixels of a tile."""


def power_of_two(number: int, least: int, most: int) -> int:
    """The power of two at or above `number`, between two others."""
    return min(max(1 << max(number - 1, 0).bit_length(), least), most)


@dataclass(frozen=True)
class Geometry:
    """A convolution, or a linear layer as one with a single pixel.

    Attributes
    ----------
    images, groups, channels, outputs : int
        Batch size; groups, and input and output channels of each.
    size, output_size, kernel, stride, padding, dilation : tuple of int
        Rows and columns; padding at the top and left.
    """

    images: int
    groups: int
    channels: int
    outputs: int
    size: tuple[int, int]
    output_size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def inputs(self) -> int:
        """Inputs of a receptive field."""
        return self.channels * self.kernel[0] * self.kernel[1]

    @property
    def pixels(self) -> int:
        """Output pixels of an image."""
        return self.output_size[0] * self.output_size[1]

    @property
    def empty(self) -> bool:
        """Whether there is no output."""
        return self.images * self.groups * self.outputs * self.pixels == 0


@dataclass(frozen=True)
class Tiling:
    """Output pixels that are sorted together, in one axis or both.

    Attributes
    ----------
    tile : tuple of int
        Rows and columns of output pixels.
    step, sub : tuple of int
        Distance of the tile's pixels in the output, and of their fields on the grid of inputs that
        are `dilation` apart.
    window : tuple of int
        Rows and columns of the inputs that a tile sees, on that grid.
    count : tuple of int
        Tiles in a column and a row of one grid; there are step[0] x step[1] grids.
    length, capacity : int
        Keys of a tile; events that a pixel has room for.
    """

    tile: tuple[int, int]
    step: tuple[int, int]
    sub: tuple[int, int]
    window: tuple[int, int]
    count: tuple[int, int]
    length: int
    capacity: int

    @property
    def tiles(self) -> int:
        """Tiles of an image and group."""
        return self.count[0] * self.count[1] * self.step[0] * self.step[1]


def tiling(geometry: Geometry, *, bias: bool) -> Tiling:
    """The tile with the fewest keys an output pixel, among those that torch sorts quickly.

    Where even one pixel has more keys than that, the tile is one pixel.
    """
    g = geometry
    (step_y, sub_y), (step_x, sub_x) = (
        (d // math.gcd(s, d), s // math.gcd(s, d))
        for s, d in zip(g.stride, g.dilation, strict=True)
    )
    grid = [-(-n // step) for n, step in zip(g.output_size, (step_y, step_x), strict=True)]

    def keys(rows: int, columns: int) -> int:
        return g.channels * ((rows - 1) * sub_y + g.kernel[0]) * (
            (columns - 1) * sub_x + g.kernel[1]
        ) + int(bias)

    def cost(tile: tuple[int, int]) -> tuple[float, int]:
        covered = math.prod(-(-n // t) for n, t in zip(grid, tile, strict=True))
        return covered * keys(*tile), tile[0] * tile[1]

    sizes = [2**e for e in range(MOST_PIXELS.bit_length())]
    candidates = [
        (rows, columns)
        for rows in sizes
        for columns in sizes
        if rows * columns <= MOST_PIXELS and (keys(rows, columns) <= MOST_KEYS)
    ]
    tile = min(candidates or [(1, 1)], key=cost)
    window = ((tile[0] - 1) * sub_y + g.kernel[0], (tile[1] - 1) * sub_x + g.kernel[1])
    return Tiling(
        tile=tile,
        step=(step_y, step_x),
        sub=(sub_y, sub_x),
        window=window,
        count=(-(-grid[0] // tile[0]), -(-grid[1] // tile[1])),
        length=keys(*tile),
        capacity=-(-(g.inputs + int(bias)) // UNROLL) * UNROLL,
    )


def segments_each(tiles: Tiling, item: int) -> int:
    """Tiles of one chunk of the forward pass, for spike values of `item` bytes."""
    # Keys, sorted keys, their 64-bit places, and as much again inside torch.sort.
    key = 2 * (2 * item + 16)
    event = item + 4
    pixels = tiles.tile[0] * tiles.tile[1]
    return max(1, EVENTS // (tiles.length * key + pixels * (tiles.capacity * event + 4)))


def outputs_each(geometry: Geometry, item: int) -> int:
    """Outputs of each group whose weights are packed at a time."""
    column = geometry.groups * (geometry.inputs + 2) * item
    return min(geometry.outputs, max(1, WEIGHTS // column))


def lanes(outputs: int) -> int:
    """Outputs that a program of the sweep follows."""
    return power_of_two(outputs, 32, 128)


@dataclass(frozen=True)
class BackwardPlan:
    """Division of a backward pass.

    Attributes
    ----------
    images, outputs : int
        Of a chunk; outputs of each group.
    block_m, block_k : int
        Outputs and inputs of a tile of the weights' gradient.
    splits : int
        Shares of the pixels, each summed by itself.
    block_p, block_c : int
        Pixels and channels of a tile of the inputs' gradient.
    """

    images: int
    outputs: int
    block_m: int
    block_k: int
    splits: int
    block_p: int
    block_c: int


def backward(geometry: Geometry, item: int) -> BackwardPlan:
    """Chunks and tiles of the two gradients."""
    g = geometry
    one = 2 * item * g.groups * g.pixels  # an output of each group, of one image
    outputs = min(g.outputs, max(1, OUTPUTS // one))
    images = min(g.images, max(1, OUTPUTS // (one * outputs)))
    block = 64 if item == 4 else 32
    block_m = power_of_two(outputs, 16, block)
    block_k = power_of_two(g.inputs + 1, 16, block)
    tiles = -(-outputs // block_m) * -(-(g.inputs + 1) // block_k) * g.groups
    weights = item * g.groups * g.outputs * (g.inputs + 1)
    # Enough programs for a large GPU, at least 64 pixels each, and room for their results.
    splits = min(-(-1024 // tiles), images * g.pixels // 64, PARTIAL // weights)
    block_c = power_of_two(g.channels, 16, 64)
    return BackwardPlan(
        images=images,
        outputs=outputs,
        block_m=block_m,
        block_k=block_k,
        splits=max(1, splits),
        block_p=min(64, (2048 if item == 4 else 1024) // block_c),
        block_c=block_c,
    )
