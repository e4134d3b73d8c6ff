"""Turns the torch.fx graph of a ReLU network, node by node, into a plan of layers of neurons."""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ttfs_fast.conversion.signals import (
    RELU,
    Expression,
    Flat,
    Kernel,
    MaxPool,
    Part,
    Piece,
    Plan,
    Population,
    Term,
    common_geometry,
)
from ttfs_fast.geometry import pair

ALLOWED = (
    "Conv2d, Linear, BatchNorm1d, BatchNorm2d, ReLU, ReLU6, Hardtanh, LeakyReLU, MaxPool2d, "
    "AvgPool2d, AdaptiveAvgPool2d, Flatten, Dropout and Identity, the functions of the same names, "
    "sums, concatenations of channels, zero padding, products with a number"
)

Signal: TypeAlias = tuple[Piece, ...]
"""Pieces side by side along the channels (features)."""


class Recorder(fx.Interpreter):
    """Runs a network and records, for each node, its extremes and shape, or its value.

    Parameters
    ----------
    module : GraphModule

    Attributes
    ----------
    shapes : dict
        Of floating-point tensors that depend on the input, for one image.
    lows, highs : dict
        Their least and largest numbers over all batches.
    values : dict
        What does not depend on the input, or is no such tensor; of the first batch.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.lows: dict[fx.Node, float] = {}
        self.highs: dict[fx.Node, float] = {}
        self.values: dict[fx.Node, Any] = {}

    def logits(self, images: Tensor) -> Tensor:
        """The network's output, and what `run_node` records."""
        output = self.run(images)
        if not isinstance(output, Tensor):
            raise ValueError(
                f"the network gives a {type(output).__name__}; it must give one tensor, the logits"
            )
        return output

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        depends = _is_input(n) or any(one in self.shapes for one in n.all_input_nodes)
        if isinstance(result, Tensor) and result.is_floating_point() and depends:
            self.shapes[n] = tuple(result.shape[1:])
            if result.numel():
                low, high = (float(value) for value in result.aminmax())
                self.lows[n] = min(self.lows.get(n, math.inf), low)
                self.highs[n] = max(self.highs.get(n, -math.inf), high)
        elif n not in self.values:
            self.values[n] = result
        return result


def _is_input(node: fx.Node) -> bool:
    others = ("call_function", "call_method", "call_module", "get_attr", "output")
    return node.op not in others


def trace(model: nn.Module) -> fx.GraphModule:
    """The graph of a network; modules of torch.nn are nodes of it.

    Raises
    ------
    ValueError
        If torch.fx cannot trace it, or it does not have exactly one input.
    """
    if isinstance(model, fx.GraphModule):
        graph_module = model
    else:
        try:
            graph_module = fx.GraphModule(model, fx.Tracer().trace(model))
        except Exception as error:  # whatever the network's own code raises on a proxy
            raise ValueError(
                f"torch.fx cannot follow {type(model).__name__}: {error}. Its steps must not "
                "depend on the values of the images; or give a torch.fx.GraphModule that you traced"
            ) from error
    inputs = [node for node in graph_module.graph.nodes if _is_input(node)]
    used = [node for node in inputs if node.users or node is inputs[0]]
    if len(used) != 1:
        raise ValueError(
            f"the network must have one input, the images; it has {len(used)}: "
            f"{', '.join(node.name for node in used)}"
        )
    return graph_module


@dataclass
class Place:
    """The node of a handler, for messages, and the recorded facts about it."""

    plan: Plan
    label: str
    name: str
    shape: tuple[int, ...]
    low: float
    high: float
    layers: list[str] = field(default_factory=list)

    def refuse(self, why: str) -> ValueError:
        return ValueError(f"{self.label} {why}")


def plan_of(graph_module: fx.GraphModule, recorder: Recorder, low: float, high: float) -> Plan:
    """The layers of neurons that compute what the graph does.

    Parameters
    ----------
    graph_module : GraphModule
        Of `trace`.
    recorder : Recorder
        Has run it on the images.
    low, high : float
        Range of the input.

    Raises
    ------
    ValueError
        If a node has no counterpart; the message names it.
    """
    plan = Plan(low, high)
    modules = dict(graph_module.named_modules())
    signals: dict[fx.Node, Signal] = {}
    layers: list[str] = []

    def known(node: fx.Node) -> Any:
        return _Known(signals[node]) if node in signals else recorder.values[node]

    def value(argument: Any) -> Any:
        return fx.node.map_arg(argument, known)

    for node in graph_module.graph.nodes:
        if _is_input(node):
            if node in recorder.shapes:
                signals[node] = (plan.input(recorder.shapes[node]),)
            continue
        if node.op == "output":
            result = node.args[0]
            if not (isinstance(result, fx.Node) and result in signals):
                raise ValueError(
                    "the network must give one tensor that depends on the images: the logits"
                )
            _finish(plan, signals[result], layers)
            break
        if node not in recorder.shapes:
            continue  # a number, a size, weights
        place = Place(
            plan,
            _label(node, modules),
            _name(node),
            recorder.shapes[node],
            recorder.lows.get(node, 0.0),
            recorder.highs.get(node, 0.0),
            layers,
        )
        arguments = [_open(value(argument)) for argument in node.args]
        options = {key: _open(value(argument)) for key, argument in node.kwargs.items()}
        if node.op == "call_module":
            signals[node] = _module(place, modules[str(node.target)], *arguments, **options)
        else:
            signals[node] = _function(place, node, arguments, options)
    return plan


@dataclass(frozen=True)
class _Known:
    """A signal within the arguments of a node: map_arg would look into a bare tuple."""

    signal: Signal


def _open(argument: Any) -> Any:
    if isinstance(argument, _Known):
        return argument.signal
    if isinstance(argument, list | tuple):
        return [_open(one) for one in argument]
    return argument


def _is_signal(value: Any) -> TypeGuard[Signal]:
    return isinstance(value, tuple) and all(isinstance(p, Population | Expression) for p in value)


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _label(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    if node.op == "call_module":
        return f"{node.target} ({type(modules[str(node.target)]).__name__})"
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if stack and stack[-1][0]:
        path, kind = stack[-1]
        return f"{target} in {path} ({getattr(kind, '__name__', kind)})"
    return f"{target} ({node.name})"


def _finish(plan: Plan, signal: Signal, layers: list[str]) -> None:
    """The last layer."""
    if not layers:
        raise ValueError("the model has no Conv2d and no Linear layer to convert")
    if len(signal) != 1:
        raise ValueError("the network ends with a concatenation; it must end with one layer")
    (piece,) = signal
    if isinstance(piece, Population) or piece.pools:
        raise ValueError(
            f"the network ends with a ReLU or a pool behind {layers[-1]}; it must end with the "
            "layer whose outputs are the logits"
        )
    plan.output(piece)


def _pieces(place: Place, signal: Signal, change: Callable[[Piece], Piece]) -> Signal:
    return tuple(change(piece) for piece in signal)


# Operations of a network, one function each, with torch's arguments.


def _conv2d(
    place: Place,
    x: Signal,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Signal:
    if len(_shape(x)) != 3:
        raise place.refuse(f"must get images (N, C, H, W); it got {len(_shape(x)) + 1} dimensions")
    populations = [place.plan.population(piece) for piece in x]
    kernel = Kernel(weight.detach().double(), pair(stride), (0, 0), pair(dilation), groups)
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(kernel.dilation, weight.shape[2:], strict=True)]
        if any(r % 2 for r in reach):
            rows, columns = reach
            sides = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
            populations = [place.plan.pad(p, sides) for p in populations]
        else:
            kernel = replace(kernel, padding=(reach[0] // 2, reach[1] // 2))
    elif padding != "valid":
        kernel = replace(kernel, padding=pair(padding))
    place.layers.append(place.name)
    return _linear_map(place, populations, kernel, bias)


def _linear(place: Place, x: Signal, weight: Tensor, bias: Tensor | None = None) -> Signal:
    if len(_shape(x)) != 1:
        raise place.refuse(
            f"must get (N, features), as from Flatten(); it got {len(_shape(x)) + 1} dimensions"
        )
    populations = [place.plan.population(piece) for piece in x]
    place.layers.append(place.name)
    return _linear_map(place, populations, Kernel(weight.detach().double()), bias)


def _linear_map(
    place: Place, populations: list[Population], kernel: Kernel, bias: Tensor | None
) -> Signal:
    if len(populations) > 1:
        kernel = replace(kernel, weight=kernel.dense(), groups=1)
    sizes = [p.shape[0] for p in populations]
    slices = [kernel.weight] if len(sizes) == 1 else torch.split(kernel.weight, sizes, 1)
    terms = tuple(
        Term(p, replace(kernel, weight=weight))
        for p, weight in zip(populations, slices, strict=True)
    )
    rows = len(kernel.weight)
    offset = torch.zeros(rows, dtype=torch.float64, device=kernel.weight.device)
    if bias is not None:
        offset = offset + bias.detach().double()
    return (_expression(place, terms, offset),)


def _expression(
    place: Place, terms: tuple[Term, ...], bias: Tensor, *, nonnegative: bool = False
) -> Expression:
    return Expression(
        terms,
        bias,
        place.shape,
        place.shape,
        place.low,
        place.high,
        place.name,
        nonnegative=nonnegative,
    )


def _batch_norm(
    place: Place,
    x: Signal,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Signal:
    if running_mean is None or running_var is None:
        raise place.refuse("has no running statistics; it needs track_running_stats=True")
    gain = (running_var.double() + eps).rsqrt()
    if weight is not None:
        gain = gain * weight.detach().double()
    shift = -running_mean.double() * gain
    if bias is not None:
        shift = shift + bias.detach().double()
    sizes = [_shape((piece,))[0] for piece in x]
    return tuple(
        _scaled(place, piece, g, s)
        for piece, g, s in zip(x, torch.split(gain, sizes), torch.split(shift, sizes), strict=True)
    )


def _scaled(place: Place, piece: Piece, gain: Tensor, shift: Tensor) -> Expression:
    """gain times a piece plus shift, channel by channel."""
    mixed = isinstance(piece, Population) and len(piece.shape) == 1 and piece.inner > 1
    if mixed or gain.numel() != piece.shape[0]:
        raise place.refuse(
            "must follow a convolution or fully connected layer directly, to be folded into it"
        )
    if isinstance(piece, Expression) and piece.pools and bool((gain < 0).any()):
        raise place.refuse("has negative gains behind a max pool, which would become a min pool")
    expression = place.plan.expression(piece, place.name)
    terms = []
    for term in expression.terms:
        kernel = term.kernel
        if kernel is None:
            features = term.population.shape[0]
            if len(term.population.shape) == 3:
                diagonal = Kernel(gain.view(-1, 1, 1, 1), groups=features)
            else:
                diagonal = Kernel(gain.diag())
            terms.append(Term(term.population, diagonal))
            continue
        sizes = (-1, *[1] * (kernel.weight.dim() - 1))
        terms.append(
            Term(term.population, replace(kernel, weight=kernel.weight * gain.view(sizes)))
        )
    bias = expression.bias.to(gain.device) * gain + shift
    # Behind a pool the node's extremes are those of pooled numbers; widen them by the formula.
    low, high = place.low, place.high
    if expression.after:
        ends = torch.stack([gain * expression.low + shift, gain * expression.high + shift])
        low, high = float(ends.min()), float(ends.max())
    return replace(
        expression,
        terms=tuple(terms),
        bias=bias,
        low=low,
        high=high,
        name=expression.name if isinstance(piece, Expression) else place.name,
        nonnegative=False,
    )


def _activation(place: Place, x: Signal, parts: tuple[Part, ...]) -> Signal:
    def change(piece: Piece) -> Piece:
        if parts == RELU and isinstance(piece, Population) and piece.nonnegative:
            return piece
        return place.plan.activate(place.plan.expression(piece, place.name), parts)

    return _pieces(place, x, change)


def _relu(place: Place, x: Signal, inplace: bool = False) -> Signal:
    return _activation(place, x, RELU)


def _relu6(place: Place, x: Signal, inplace: bool = False) -> Signal:
    return _hardtanh(place, x, 0.0, 6.0)


def _hardtanh(
    place: Place, x: Signal, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Signal:
    return _clipped(place, x, min_val, max_val)


def _clamp(
    place: Place,
    x: Signal,
    min: float | None = None,
    max: float | None = None,
) -> Signal:
    return _clipped(place, x, -math.inf if min is None else min, math.inf if max is None else max)


def _clipped(place: Place, x: Signal, low: Any, high: Any) -> Signal:
    """relu(u) - relu(u - high), and the same for numbers below 0."""
    if not (isinstance(low, int | float) and isinstance(high, int | float)):
        raise place.refuse("clips to tensors; only two numbers convert")
    if not low <= 0 <= high or low == high:
        raise place.refuse(f"clips to [{low:g}, {high:g}]; the range must hold 0")
    parts = []
    if high > 0:
        parts.append(Part(1, 0, 1))
    if 0 < high < math.inf:
        parts.append(Part(1, -float(high), -1))
    if low < 0:
        parts.append(Part(-1, 0, -1))
    if -math.inf < low < 0:
        parts.append(Part(-1, float(low), 1))
    return _activation(place, x, tuple(parts))


def _leaky_relu(
    place: Place, x: Signal, negative_slope: float = 0.01, inplace: bool = False
) -> Signal:
    return _activation(place, x, (Part(1, 0, 1), Part(-1, 0, -float(negative_slope))))


def _max_pool2d(
    place: Place,
    x: Signal,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Signal:
    if return_indices:
        raise place.refuse("returns indices; a first-spike pool has none to give")
    if len(_shape(x)) != 3:
        raise place.refuse(f"must get images (N, C, H, W); it got {len(_shape(x)) + 1} dimensions")
    stride = kernel_size if stride is None or stride == [] else stride
    sizes = (pair(kernel_size), pair(stride), pair(padding), pair(dilation))
    step = MaxPool(*sizes, bool(ceil_mode))
    return _pieces(place, x, lambda piece: _pooled(place, piece, step))


def _pooled(place: Place, piece: Piece, step: MaxPool) -> Piece:
    if isinstance(piece, Expression) and piece.nonnegative:
        piece = place.plan.population(piece)
    if isinstance(piece, Population) and piece.monotone:
        node = place.plan.after(piece.node, step, piece.shape[0] * len(piece.coefficients))
        return replace(piece, node=node, shape=(piece.shape[0], *place.shape[1:]))
    expression = place.plan.expression(piece, place.name)
    shape = (expression.shape[0], *place.shape[1:])
    return replace(expression, after=(*expression.after, step), shape_after=shape)


def _avg_pool2d(
    place: Place,
    x: Signal,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Signal:
    kernel = pair(kernel_size)
    stride = kernel if stride is None or stride == [] else pair(stride)
    padding = pair(padding)
    if any(padding) and not count_include_pad:
        raise place.refuse("leaves its padding out of the means; count_include_pad=True converts")
    if len(_shape(x)) != 3:
        raise place.refuse(f"must get images (N, C, H, W); it got {len(_shape(x)) + 1} dimensions")
    floor = [
        (size + 2 * pad - k) // s + 1
        for size, pad, k, s in zip(_shape(x)[1:], padding, kernel, stride, strict=True)
    ]
    if list(place.shape[1:]) != floor:
        raise place.refuse(
            "has windows that reach over the border (ceil_mode); they do not convert"
        )
    factor = 1 / (divisor_override or math.prod(kernel))

    def change(piece: Piece) -> Piece:
        population = place.plan.population(piece)
        channels = population.shape[0]
        weight = torch.full((channels, 1, *kernel), factor, dtype=torch.float64)
        mean = Kernel(weight, stride, padding, (1, 1), channels)
        expression = _expression(
            place,
            (Term(population, mean),),
            torch.zeros(channels, dtype=torch.float64),
            nonnegative=population.nonnegative and factor > 0,
        )
        shape = (channels, *place.shape[1:])
        return replace(expression, shape=shape, shape_after=shape)

    return _pieces(place, x, change)


def _adaptive_avg_pool2d(place: Place, x: Signal, output_size: Any) -> Signal:
    return _avg_pool2d(place, x, _adaptive_window(place, x))


def _adaptive_max_pool2d(
    place: Place, x: Signal, output_size: Any, return_indices: bool = False
) -> Signal:
    window = _adaptive_window(place, x)
    return _max_pool2d(place, x, window, return_indices=return_indices)


def _adaptive_window(place: Place, x: Signal) -> tuple[int, int]:
    shape = _shape(x)
    if len(shape) != 3:
        raise place.refuse(f"must get images (N, C, H, W); it got {len(shape) + 1} dimensions")
    if any(size % out for size, out in zip(shape[1:], place.shape[1:], strict=True)):
        raise place.refuse(
            f"makes maps of {place.shape[1]} x {place.shape[2]} out of {shape[1]} x {shape[2]}: "
            "its windows differ in size; sizes that divide convert"
        )
    return shape[1] // place.shape[1], shape[2] // place.shape[2]


def _mean(
    place: Place, x: Signal, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Signal:
    shape = _shape(x)
    axes = sorted(
        axis % (len(shape) + 1) for axis in ([dim] if isinstance(dim, int) else dim or [])
    )
    if len(shape) != 3 or axes != [2, 3]:
        raise place.refuse(
            "takes a mean; only that of whole maps, over dimensions 2 and 3, converts"
        )
    pooled = _avg_pool2d(replace(place, shape=(place.shape[0], 1, 1)), x, (shape[1], shape[2]))
    return pooled if keepdim else _flattened(place, pooled)


def _flatten(place: Place, x: Signal, start_dim: int = 0, end_dim: int = -1) -> Signal:
    last = len(_shape(x))
    if start_dim != 1 or end_dim not in (-1, last):
        raise place.refuse(
            f"flattens dimensions {start_dim} to {end_dim}; only all but the first, Flatten(), "
            "converts"
        )
    return _flattened(place, x)


def _view(place: Place, x: Signal, *sizes: Any) -> Signal:
    if place.shape == _shape(x):
        return x
    if place.shape != (math.prod(_shape(x)),):
        raise place.refuse(
            f"makes shape {place.shape} of {_shape(x)}, the first dimension not counted; only a "
            "vector of the whole image, as from Flatten(), converts"
        )
    return _flattened(place, x)


def _flattened(place: Place, x: Signal) -> Signal:
    if len(_shape(x)) == 1:
        return x

    def change(piece: Piece) -> Piece:
        shape = (math.prod(_shape((piece,))),)
        if isinstance(piece, Population):
            inner = shape[0] // piece.shape[0]
            node = place.plan.after(piece.node, Flat(), shape[0] * len(piece.coefficients))
            return replace(piece, node=node, shape=shape, inner=inner)
        return replace(piece, after=(*piece.after, Flat()), shape_after=shape)

    return _pieces(place, x, change)


def _same(place: Place, x: Signal, *_: Any, **__: Any) -> Signal:
    return x


def _dropout(
    place: Place, x: Signal, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Signal:
    if training and p > 0:
        raise place.refuse("drops at random in evaluation, too; give training=self.training")
    return x


def _pad(
    place: Place, x: Signal, pad: Any, mode: str = "constant", value: float | None = None
) -> Signal:
    if mode != "constant" or (value or 0) != 0:
        raise place.refuse(f'pads with "{mode}" of {value}; only zeros convert')
    sides = [int(side) for side in pad] + [0] * (4 - len(pad))
    if len(sides) != 4 or min(sides) < 0 or len(_shape(x)) != 3:
        raise place.refuse(f"pads by {list(pad)}; only 0 or more rows and columns of maps convert")
    left, right, top, bottom = sides
    return tuple(
        place.plan.pad(place.plan.population(piece), (left, right, top, bottom)) for piece in x
    )


def _add(place: Place, x: Any, y: Any, *, alpha: float = 1) -> Signal:
    if not _is_signal(x):
        x, y = y, x
        if alpha != 1:
            raise place.refuse("adds with alpha to a number; write the product out")
    if not _is_signal(y):
        return _affine(place, x, 1.0, alpha * _number(place, y))
    if alpha != 1:
        y = _affine(place, y, _number(place, alpha), 0.0)
    if _shape(x) != _shape(y):
        raise place.refuse(f"adds shapes {_shape(x)} and {_shape(y)}; only equal ones convert")
    if [_shape((p,)) for p in x] != [_shape((p,)) for p in y]:
        raise place.refuse(
            "adds concatenations of different pieces; put a convolution before the sum"
        )
    if len(x) > 1:
        raise place.refuse("adds concatenations; put a convolution before the sum")
    return (_sum(place, x[0], y[0]),)


def _sum(place: Place, one: Piece, other: Piece) -> Expression:
    plan = place.plan
    nonnegative = one.nonnegative and other.nonnegative
    # What a pool or a flattening follows is computed first.
    pieces = [
        plan.population(p) if isinstance(p, Expression) and p.after else p for p in (one, other)
    ]
    inners = [p.inner for p in pieces if isinstance(p, Population)]
    if len(place.shape) == 1 and any(inner > 1 for inner in inners):
        raise place.refuse("adds flattened maps; add the maps, and flatten the sum")
    expressions = [plan.expression(p, place.name) for p in pieces]
    if common_geometry(expressions[0].terms + expressions[1].terms) is None:
        # One of the two becomes neurons of its own: the one with the smaller window.
        sizes = [
            max((t.kernel.weight[0, 0].numel() for t in e.terms if t.kernel), default=0)
            for e in expressions
        ]
        for place_of in sorted(range(2), key=sizes.__getitem__):
            piece = pieces[place_of]
            if isinstance(piece, Expression):
                expressions[place_of] = plan.expression(plan.population(piece), place.name)
            if common_geometry(expressions[0].terms + expressions[1].terms) is not None:
                break
    first, second = expressions
    device = first.bias.device if first.bias.is_cuda else second.bias.device
    names = [p.name for p in pieces if isinstance(p, Expression)]
    return replace(
        _expression(
            place,
            first.terms + second.terms,
            first.bias.to(device) + second.bias.to(device),
            nonnegative=nonnegative,
        ),
        name=f"{place.name}" if not names else f"{names[0]}_{place.name}",
    )


def _affine(place: Place, x: Signal, factor: float, shift: float) -> Signal:
    """factor x + shift, with numbers."""
    if factor == 1 and shift == 0:
        return x

    def change(piece: Piece) -> Piece:
        if isinstance(piece, Population) and shift == 0 and factor > 0 and not piece.offset:
            return replace(
                piece,
                coefficients=tuple(factor * c for c in piece.coefficients),
                low=factor * piece.low,
                high=factor * piece.high,
            )
        if isinstance(piece, Population) and len(piece.shape) == 1 and piece.inner > 1:
            raise place.refuse("changes a flattened map; change the map, and flatten the result")
        channels = piece.shape[0]
        gain = torch.full((channels,), factor, dtype=torch.float64)
        if isinstance(piece, Expression):
            gain = gain.to(piece.bias.device)
        return _scaled(place, piece, gain, torch.full_like(gain, shift))

    return _pieces(place, x, change)


def _sub(place: Place, x: Any, y: Any, *, alpha: float = 1) -> Signal:
    if _is_signal(x) and not _is_signal(y):
        return _affine(place, x, 1.0, -alpha * _number(place, y))
    if not _is_signal(x):
        return _affine(place, y, -float(alpha), _number(place, x))
    return _add(place, x, y, alpha=-alpha)


def _mul(place: Place, x: Any, y: Any) -> Signal:
    if _is_signal(x) and _is_signal(y):
        raise place.refuse(f"multiplies signals, which has no counterpart; allowed are {ALLOWED}")
    if not _is_signal(x):
        x, y = y, x
    return _affine(place, x, _number(place, y), 0.0)


def _div(place: Place, x: Any, y: Any) -> Signal:
    if not _is_signal(x) or _is_signal(y):
        raise place.refuse(f"divides by a signal, which has no counterpart; allowed are {ALLOWED}")
    return _affine(place, x, 1 / _number(place, y), 0.0)


def _neg(place: Place, x: Signal) -> Signal:
    return _affine(place, x, -1.0, 0.0)


def _number(place: Place, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise place.refuse("takes something else than a number; only numbers convert")
    return float(value)


def _cat(place: Place, tensors: Any, dim: int = 0) -> Signal:
    if dim % (len(place.shape) + 1) != 1 or not all(map(_is_signal, tensors)):
        raise place.refuse(f"joins dimension {dim}; only channels (features), dimension 1, convert")
    return tuple(piece for signal in tensors for piece in signal)


def _shape(signal: Signal) -> tuple[int, ...]:
    shapes = [p.shape if isinstance(p, Population) else p.shape_after for p in signal]
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


Handler: TypeAlias = Callable[..., Signal]

FUNCTIONS: dict[Any, Handler] = {
    F.conv2d: _conv2d,
    torch.conv2d: _conv2d,
    F.linear: _linear,
    F.batch_norm: _batch_norm,
    F.relu: _relu,
    F.relu_: _relu,
    torch.relu: _relu,
    torch.relu_: _relu,
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
    F.hardtanh_: _hardtanh,
    torch.clamp: _clamp,
    F.leaky_relu: _leaky_relu,
    F.leaky_relu_: _leaky_relu,
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
    F.avg_pool2d: _avg_pool2d,
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    F.adaptive_max_pool2d: _adaptive_max_pool2d,
    torch.flatten: _flatten,
    F.dropout: _dropout,
    F.dropout2d: _dropout,
    F.pad: _pad,
    torch.add: _add,
    operator.add: _add,
    operator.iadd: _add,
    torch.sub: _sub,
    operator.sub: _sub,
    operator.isub: _sub,
    torch.mul: _mul,
    operator.mul: _mul,
    operator.imul: _mul,
    torch.div: _div,
    operator.truediv: _div,
    operator.neg: _neg,
    torch.neg: _neg,
    torch.cat: _cat,
    torch.concat: _cat,
    torch.mean: _mean,
    torch.reshape: _view,
}
METHODS: dict[str, Handler] = {
    "relu": _relu,
    "relu_": _relu,
    "clamp": _clamp,
    "clamp_": _clamp,
    "flatten": _flatten,
    "view": _view,
    "reshape": _view,
    "squeeze": _view,
    "mean": _mean,
    "add": _add,
    "add_": _add,
    "sub": _sub,
    "sub_": _sub,
    "mul": _mul,
    "mul_": _mul,
    "div": _div,
    "div_": _div,
    "neg": _neg,
    "contiguous": _same,
    "clone": _same,
    "detach": _same,
}


def _function(place: Place, node: fx.Node, arguments: list[Any], options: Any) -> Signal:
    table: Mapping[Any, Handler] = METHODS if node.op == "call_method" else FUNCTIONS
    handler = table.get(node.target)
    if handler is None:
        raise place.refuse(f"has no counterpart in first spikes; allowed are {ALLOWED}")
    ours = {"input": "x", "other": "y"}
    options = {ours.get(key, key): one for key, one in options.items()}
    try:
        return handler(place, *arguments, **options)
    except TypeError as error:
        raise place.refuse(f"has arguments that do not convert: {error}") from error


def _module(place: Place, module: nn.Module, x: Any, *more: Any, **options: Any) -> Signal:
    handler = MODULES.get(type(module))
    if handler is None or more or options or not _is_signal(x):
        raise place.refuse(f"has no counterpart in first spikes; allowed are {ALLOWED}")
    return handler(place, module, x)


def _conv_module(place: Place, module: Any, x: Signal) -> Signal:
    if module.padding_mode != "zeros":
        raise place.refuse(f'pads with "{module.padding_mode}"; only "zeros" converts')
    m = module
    return _conv2d(place, x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


def _norm_module(place: Place, module: Any, x: Signal) -> Signal:
    m = module
    return _batch_norm(place, x, m.running_mean, m.running_var, m.weight, m.bias, eps=m.eps)


def _max_pool_module(place: Place, module: Any, x: Signal) -> Signal:
    m = module
    size = (m.kernel_size, m.stride, m.padding, m.dilation)
    return _max_pool2d(place, x, *size, m.ceil_mode, m.return_indices)


def _avg_pool_module(place: Place, module: Any, x: Signal) -> Signal:
    m = module
    size = (m.kernel_size, m.stride, m.padding)
    return _avg_pool2d(place, x, *size, m.ceil_mode, m.count_include_pad, m.divisor_override)


def _pad_module(place: Place, module: Any, x: Signal) -> Signal:
    return _pad(place, x, module.padding, value=getattr(module, "value", 0))


MODULES: dict[type[nn.Module], Callable[[Place, Any, Signal], Signal]] = {
    nn.Conv2d: _conv_module,
    nn.Linear: lambda place, m, x: _linear(place, x, m.weight, m.bias),
    nn.BatchNorm1d: _norm_module,
    nn.BatchNorm2d: _norm_module,
    nn.ReLU: lambda place, m, x: _relu(place, x),
    nn.ReLU6: lambda place, m, x: _relu6(place, x),
    nn.Hardtanh: lambda place, m, x: _hardtanh(place, x, m.min_val, m.max_val),
    nn.LeakyReLU: lambda place, m, x: _leaky_relu(place, x, m.negative_slope),
    nn.MaxPool2d: _max_pool_module,
    nn.AvgPool2d: _avg_pool_module,
    nn.AdaptiveAvgPool2d: lambda place, m, x: _adaptive_avg_pool2d(place, x, m.output_size),
    nn.AdaptiveMaxPool2d: lambda place, m, x: _adaptive_max_pool2d(
        place, x, m.output_size, m.return_indices
    ),
    nn.Flatten: lambda place, m, x: _flatten(place, x, m.start_dim, m.end_dim),
    nn.Dropout: lambda place, m, x: x,
    nn.Dropout2d: lambda place, m, x: x,
    nn.Identity: lambda place, m, x: x,
    nn.ZeroPad2d: _pad_module,
    nn.ConstantPad2d: _pad_module,
}
