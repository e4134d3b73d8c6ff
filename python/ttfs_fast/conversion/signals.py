"""The signals of a ReLU network as leads of spikes: populations, and linear maps of them.

A *population* is a map (or vector) of neurons with a horizon. Their leads, in units of the spread,
are 0 or more, and a signal of the ReLU network is a weighted sum of them:

    x = offset + sum_p c_p l_p,

with one part p for a ReLU, two for a clipped ReLU, min(relu(u), c) = relu(u) - relu(u - c), and two
for a signal of both signs, u = relu(u) - relu(-u). An *expression* is a linear map of populations
that no neurons compute yet: convolutions, sums, batch normalization. An activation turns it into a
layer of neurons.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

MOST_WEIGHTS = 1 << 27
"""Of a layer that is laid out densely, for a sum or a concatenation."""

Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Kernel:
    """A linear map: weights of a convolution (4-D) or of a fully connected layer (2-D), float64."""

    weight: Tensor
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def geometry(self) -> tuple[Any, ...]:
        return (tuple(self.weight.shape[2:]), self.stride, self.padding, self.dilation)

    def dense(self) -> Tensor:
        """The weights without groups."""
        if self.groups == 1:
            return self.weight
        out, each, *size = self.weight.shape
        weight = self.weight.new_zeros(out, each * self.groups, *size)
        rows = out // self.groups
        for group in range(self.groups):
            part = slice(group * rows, (group + 1) * rows)
            weight[part, group * each : (group + 1) * each] = self.weight[part]
        return weight


@dataclass(frozen=True, eq=False)
class Population:
    """Neurons with a horizon, and how a signal is computed from their leads.

    Attributes
    ----------
    node : int
        Its number in the plan.
    coefficients : tuple of float
        c_p; the channels of the neurons are channel-major: channel 0 part 0, channel 0 part 1, ...
    offset : float
        Of the input of the network only.
    shape : tuple of int
        Of the signal for one image: (C, H, W) or (features,).
    inner : int
        Positions of a channel that a vector holds side by side, where it is a flattened map.
    low, high : float
        The least and largest value of the signal on the images.
    monotone : bool
        Whether an earlier spike of every part means a larger signal, so that pools commute.
    """

    node: int
    coefficients: tuple[float, ...]
    offset: float
    shape: tuple[int, ...]
    low: float
    high: float
    inner: int = 1
    monotone: bool = False

    @property
    def nonnegative(self) -> bool:
        """Whether the signal is 0 or above by construction."""
        return self.monotone and self.offset >= 0

    def columns(self, weight: Tensor) -> Tensor:
        """Weights on the leads of the neurons from weights (out, in, ...) on the signal."""
        parts = len(self.coefficients)
        factors = torch.tensor(self.coefficients, dtype=weight.dtype, device=weight.device)
        if weight.dim() == 2:
            each = weight.view(len(weight), -1, 1, self.inner) * factors.view(1, 1, parts, 1)
            return each.reshape(len(weight), -1)
        repeated = weight.repeat_interleave(parts, 1)
        return repeated * factors.repeat(weight.shape[1]).view(1, -1, 1, 1)


@dataclass(frozen=True)
class Term:
    """A linear map of a population; without a kernel, the signal itself."""

    population: Population
    kernel: Kernel | None = None


@dataclass(frozen=True)
class MaxPool:
    """Arguments of `ttfs_fast.nn.SpikingMaxPool2d`."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil_mode: bool


@dataclass(frozen=True)
class Flat:
    """A map as a vector."""


@dataclass(frozen=True, eq=False)
class Expression:
    """A sum of linear maps of populations, and the pools and flattening after its activation.

    Attributes
    ----------
    terms : tuple of Term
    bias : Tensor
        float64, one for each output channel (feature).
    shape : tuple of int
        Of the sum for one image, before ``after``.
    shape_after : tuple of int
        Behind ``after``.
    low, high : float
        The least and largest value of the sum on the images.
    name : str
        For messages and names of modules.
    after : tuple
        Pools and `Flat`, which commute with every increasing activation.
    nonnegative : bool
        Whether the sum is 0 or above by construction.
    """

    terms: tuple[Term, ...]
    bias: Tensor
    shape: tuple[int, ...]
    shape_after: tuple[int, ...]
    low: float
    high: float
    name: str
    after: tuple[MaxPool | Flat, ...] = ()
    nonnegative: bool = False

    @property
    def pools(self) -> bool:
        return any(isinstance(step, MaxPool) for step in self.after)


Piece: TypeAlias = Population | Expression


@dataclass(frozen=True)
class Part:
    """One neuron for each output of an expression u: factor relu(sign u + shift)."""

    sign: float
    shift: float
    factor: float


RELU = (Part(1, 0, 1),)
BOTH_SIGNS = (Part(1, 0, 1), Part(-1, 0, -1))


@dataclass(frozen=True, eq=False)
class EncodingNode:
    """The input."""


@dataclass(frozen=True, eq=False)
class PadNode:
    """Padding of a map: (left, right, top, bottom), by silence, or by spikes of the number 0."""

    source: int
    sides: tuple[int, int, int, int]
    zero: bool


@dataclass(frozen=True, eq=False)
class AfterNode:
    """A pool or a flattened map; ``width`` channels or features of neurons come out."""

    source: int
    step: MaxPool | Flat
    width: int


@dataclass(frozen=True, eq=False)
class LayerNode:
    """A layer of neurons on the concatenation of its sources; weights on leads over the spread."""

    sources: tuple[int, ...]
    kernel: Kernel
    bias: Tensor
    name: str


Node: TypeAlias = EncodingNode | PadNode | AfterNode | LayerNode


@dataclass
class Plan:
    """The network to build: nodes in the order in which they run.

    Attributes
    ----------
    low, high : float
        Range of the input.
    nodes : list
    padded : bool
        Whether the input is padded, so that 0 must lie in its range.
    scale : float
        Signal of an output neuron of the last layer over its lead in units of the spread.
    """

    low: float
    high: float
    nodes: list[Node] = field(default_factory=list)
    padded: bool = False
    scale: float = 1.0
    _shared: dict[Any, int] = field(default_factory=dict)

    def add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def after(self, source: int, step: MaxPool | Flat, width: int) -> int:
        """A pool or a flattening of a node, made only once."""
        key = (source, step)
        if key not in self._shared:
            self._shared[key] = self.add(AfterNode(source, step, width))
        return self._shared[key]

    def input(self, shape: tuple[int, ...]) -> Population:
        """The images, one spike a number."""
        return Population(
            self.add(EncodingNode()),
            (self.high - self.low,),
            self.low,
            shape,
            self.low,
            self.high,
            monotone=True,
        )

    def is_input(self, population: Population) -> bool:
        """Whether silence does not stand for the number 0."""
        return population.offset != 0

    def pad(self, population: Population, sides: tuple[int, int, int, int]) -> Population:
        """The map with zeros around it: left, right, top, bottom."""
        zero = self.is_input(population)
        self.padded |= zero
        key = (population.node, sides, zero)
        if key not in self._shared:
            self._shared[key] = self.add(PadNode(population.node, sides, zero))
        channels, rows, columns = population.shape
        left, right, top, bottom = sides
        shape = (channels, rows + top + bottom, columns + left + right)
        low, high = min(population.low, 0.0), max(population.high, 0.0)
        return replace(population, node=self._shared[key], shape=shape, low=low, high=high)

    def expression(self, piece: Piece, name: str) -> Expression:
        """A piece as an expression."""
        if isinstance(piece, Expression):
            return piece
        return Expression(
            (Term(piece),),
            torch.zeros(piece.shape[0], dtype=torch.float64),
            piece.shape,
            piece.shape,
            piece.low,
            piece.high,
            name,
            nonnegative=piece.nonnegative,
        )

    def population(self, piece: Piece) -> Population:
        """A piece as neurons; without an activation, one or two neurons represent each number."""
        if isinstance(piece, Population):
            return piece
        return self.activate(piece, RELU if piece.nonnegative else BOTH_SIGNS)

    def activate(self, expression: Expression, parts: Sequence[Part]) -> Population:
        """A layer of neurons: sum of the parts of every output of an expression."""
        increasing = all(part.sign > 0 for part in parts)
        if expression.pools and not increasing:
            raise ValueError(
                f"the max pool behind {expression.name} must be followed by a ReLU (or a clipped "
                "one): the largest of numbers of both signs is not the first of their spikes"
            )
        highs = [
            max(p.sign * value + p.shift for value in (expression.low, expression.high))
            for p in parts
        ]
        scale = max(highs)
        scale = scale if scale > 0 else 1.0  # silent on all images: any scale will do
        node = self._layer(expression, parts, scale)
        monotone = increasing and sum(p.factor for p in parts) >= 0 and parts[0].factor > 0
        shape, inner = expression.shape, 1
        for step in expression.after:
            if isinstance(step, Flat):
                inner = expression.shape_after[0] // shape[0]
            node = self.after(node, step, shape[0] * inner * len(parts))
        return Population(
            node,
            tuple(part.factor * scale for part in parts),
            0.0,
            expression.shape_after,
            min(expression.low, 0.0) if not monotone else 0.0,
            max(expression.high, 0.0),
            inner,
            monotone,
        )

    def output(self, expression: Expression) -> None:
        """The last layer: positive outputs spike before its horizon, negative ones after it."""
        largest = max(abs(expression.low), abs(expression.high))
        self.scale = largest if largest > 0 else 1.0
        node = self._layer(expression, RELU, self.scale)
        for step in expression.after:
            node = self.after(node, step, expression.shape_after[0])

    def _layer(self, expression: Expression, parts: Sequence[Part], scale: float) -> int:
        kernel, sources, bias = self._joined(expression)
        signs = torch.tensor([p.sign for p in parts], dtype=torch.float64, device=bias.device)
        shifts = torch.tensor([p.shift for p in parts], dtype=torch.float64, device=bias.device)
        count = len(parts)
        rows = len(bias)
        weight = kernel.weight.repeat_interleave(count, 0)
        weight = weight * (signs.repeat(rows) / scale).view(-1, *[1] * (weight.dim() - 1))
        bias = (bias.repeat_interleave(count) * signs.repeat(rows) + shifts.repeat(rows)) / scale
        return self.add(LayerNode(sources, replace(kernel, weight=weight), bias, expression.name))

    def _joined(self, expression: Expression) -> tuple[Kernel, tuple[int, ...], Tensor]:
        """One kernel on the concatenated neurons of all terms."""
        terms, bias = expression.terms, expression.bias
        kernel = common_geometry(terms)
        assert kernel is not None
        device = kernel.weight.device
        bias = bias.to(device)
        populations = [term.population for term in terms]
        for term in terms:
            if term.population.offset:
                weight = _on_signal(term, kernel, device)
                bias = bias + term.population.offset * weight.flatten(1).sum(1)
        if any(kernel.padding) and any(map(self.is_input, populations)):
            rows, columns = kernel.padding
            populations = [self.pad(p, (columns, columns, rows, rows)) for p in populations]
            padding = (0, 0)
        else:
            padding = kernel.padding
        if len(terms) == 1:
            weight = populations[0].columns(_on_signal(terms[0], kernel, device))
            return replace(kernel, weight=weight, padding=padding), (populations[0].node,), bias
        size = len(bias) * sum(
            math.prod(kernel.weight.shape[2:]) * p.shape[0] * len(p.coefficients)
            for p in populations
        )
        if size > MOST_WEIGHTS:
            raise ValueError(
                f"{expression.name} is a sum or a concatenation that would take {size:,} weights "
                f"in one layer; at most {MOST_WEIGHTS:,} are laid out"
            )
        parts: dict[int, Tensor] = {}
        for term, population in zip(terms, populations, strict=True):
            weight = population.columns(_embedded(term, kernel, device))
            before = parts.get(population.node)
            parts[population.node] = weight if before is None else before + weight
        weight = torch.cat(list(parts.values()), 1)
        return replace(kernel, weight=weight, padding=padding, groups=1), tuple(parts), bias


def _identity(population: Population, device: torch.device) -> Kernel:
    """The map of a signal to itself: depthwise for a map, diagonal for a vector."""
    features = population.shape[0]
    if len(population.shape) == 3:
        weight = torch.ones(features, 1, 1, 1, dtype=torch.float64, device=device)
        return Kernel(weight, groups=features)
    if features**2 > MOST_WEIGHTS:
        raise ValueError(
            f"a vector of {features:,} numbers would be passed on by as many neurons, with "
            f"{features**2:,} weights; at most {MOST_WEIGHTS:,} are laid out. Put a layer before it"
        )
    return Kernel(torch.eye(features, dtype=torch.float64, device=device))


def _on_signal(term: Term, like: Kernel, device: torch.device) -> Tensor:
    kernel = term.kernel or _identity(term.population, device)
    return kernel.weight


def _embedded(term: Term, main: Kernel, device: torch.device) -> Tensor:
    """Dense weights of a term in the window of the main kernel."""
    kernel = term.kernel or _identity(term.population, device)
    weight = kernel.dense()
    if kernel.geometry == main.geometry or weight.dim() == 2:
        return weight
    rows, columns = (p // d for p, d in zip(main.padding, main.dilation, strict=True))
    window = weight.new_zeros(*weight.shape[:2], *main.weight.shape[2:])
    window[:, :, rows, columns] = weight[:, :, 0, 0]
    return window


def common_geometry(terms: Sequence[Term]) -> Kernel | None:
    """The kernel whose window holds those of all terms; None if there is none.

    A 1 x 1 map of the same stride fits wherever the window has a tap at the output's own place.
    """
    devices = [term.kernel.weight.device for term in terms if term.kernel is not None]
    device = devices[0] if devices else torch.device("cpu")
    kernels = [term.kernel or _identity(term.population, device) for term in terms]
    main = max(kernels, key=lambda kernel: math.prod(kernel.weight.shape[2:]))
    if main.weight.dim() == 2:
        return main
    if len({term.population.shape[1:] for term in terms}) > 1:
        return None
    for kernel in kernels:
        if kernel.geometry == main.geometry:
            continue
        single = tuple(kernel.weight.shape[2:]) == (1, 1) and kernel.padding == (0, 0)
        if not single or kernel.stride != main.stride:
            return None
        for axis in range(2):
            padding, hole = main.padding[axis], main.dilation[axis]
            if padding % hole or padding // hole >= main.weight.shape[2 + axis]:
                return None
    return main
