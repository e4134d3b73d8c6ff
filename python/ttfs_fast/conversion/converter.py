"""Conversion of a ReLU network to a first-spike network, layer by layer."""

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from ttfs_fast.conversion.network import (
    INPUT,
    Concatenate,
    ConvertedNetwork,
    LeadEncoding,
)
from ttfs_fast.conversion.signals import (
    AfterNode,
    EncodingNode,
    LayerNode,
    MaxPool,
    PadNode,
    Plan,
)
from ttfs_fast.conversion.tracing import Recorder, plan_of, trace
from ttfs_fast.horizon import HorizonConv2d, HorizonLinear, horizon_layers
from ttfs_fast.layers import evaluating
from ttfs_fast.nn import Delay, SpikingMaxPool2d

LONGEST_LEAD = 0.02
"""Largest default lead, relative to the horizon; larger leads add little precision in float32."""

BATCH = 256
"""Images run at a time."""


@torch.no_grad()
def from_relu(
    model: nn.Module, images: Tensor, *, weight_sum: float = 2.0, spread: float | None = None
) -> nn.Sequential | ConvertedNetwork:
    """Convert a trained ReLU network to a first-spike network with the same decisions.

    Parameters
    ----------
    model : Module
        Any network that torch.fx can trace, or a GraphModule: convolutions (with groups, dilation,
        zero padding), fully connected layers, batch normalization (with running statistics), ReLU,
        ReLU6, Hardtanh and LeakyReLU, max and average pools, sums, concatenations of channels,
        flattening, as modules or as functions; dropout and Identity are left out. float32 or
        float64.
    images : Tensor
        Some of its inputs, shape (N, C, H, W) or (N, features), of the same type. They set the
        range of the inputs and the scale of every layer. If the images are padded with zeros, the
        range includes 0.
    weight_sum : float
        m, the sum of every neuron's weights; see `ttfs_fast.horizon.HorizonConv2d`.
    spread : float, optional
        Largest lead of a spike on these images, as a fraction of the horizon. By default half of
        the bound that rules early spikes out on these images, and at most 0.02. The larger the
        leads, the smaller the effect of rounding.

    Returns
    -------
    Sequential or ConvertedNetwork
        Maps the same inputs to the spike values of the classes, (N, classes): the largest logit
        spikes first. It begins with a `LeadEncoding`, and its layers have horizons. A network
        without branches is a Sequential. It can be trained further;
        `ttfs_fast.horizon.fold_horizons_` replaces its layers by plain modules.

    Raises
    ------
    ValueError
        If torch.fx cannot trace the network, an operation has no counterpart, the network does not
        end with one layer, the images are not finite, leads are too small for the precision, or the
        outputs on the images differ from the network's. The message names the cause.
    TypeError
        If images or weights are not of float32 or float64, or not of one type.

    Notes
    -----
    The conversion is exact to rounding. The leads of the outputs are the logits, divided by the
    largest absolute one on ``images``, times ``spread``. In float32 a lead has about seven digits
    minus those of 1 / ``spread``, and in the folded network minus those of ``weight_sum /
    (weight_sum - 1)``. docs/conversion.md explains how sums, clipped ReLUs, pools and numbers of
    both signs become leads.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from ttfs_fast.conversion import from_relu
    >>> relu = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
    >>> images = torch.randn(100, 20)
    >>> spiking = from_relu(relu, images)
    >>> bool((spiking(images).argmin(1) == relu(images).argmax(1)).all())
    True
    """
    _check_types(model, images)
    if not images.is_floating_point() or not bool(images.isfinite().all()) or len(images) == 0:
        raise ValueError(
            f"images must be finite floating point numbers, at least one image; got "
            f"{tuple(images.shape)} of {images.dtype}"
        )
    with evaluating(model):
        graph_module = trace(model)
        recorder = Recorder(graph_module)
        outputs = torch.cat([recorder.logits(some) for some in torch.split(images, BATCH)])
        if not bool(outputs.isfinite().all()):
            raise ValueError("the outputs of the ReLU network on the images are not finite")
        low, high = float(images.min()), float(images.max())
        high = high if high > low else low + 1
        plan = plan_of(graph_module, recorder, low, high)
        if plan.padded and not low <= 0 <= high:
            plan = plan_of(graph_module, recorder, min(low, 0.0), max(high, 0.0))

    if spread is None:
        # The bound grows in proportion to the leads: one measurement is enough.
        draft = 1e-3
        bound = _largest_bound(_build(plan, draft, weight_sum, images), images)
        spread = min(LONGEST_LEAD, 0.5 * draft / bound) if bound else LONGEST_LEAD
    _check_rounding(images.dtype, weight_sum, spread)
    converted = _build(plan, spread, weight_sum, images)
    _check(converted, images, outputs, plan.scale, spread)
    return converted


def _build(
    plan: Plan, spread: float, weight_sum: float, images: Tensor
) -> nn.Sequential | ConvertedNetwork:
    """The modules of a plan; a Sequential where each runs on the output of the one before."""
    builder = _Builder(plan, spread, weight_sum, images)
    steps = builder.steps
    names = [INPUT, *(name for name, _, _ in steps)]
    is_chain = all(inputs == (names[i],) for i, (_, _, inputs) in enumerate(steps))
    network: nn.Sequential | ConvertedNetwork = (
        nn.Sequential(*(module for _, module, _ in steps)) if is_chain else ConvertedNetwork(steps)
    )
    return network.eval()


class _Builder:
    """Makes the modules, in order, and omits unused nodes."""

    def __init__(self, plan: Plan, spread: float, weight_sum: float, images: Tensor) -> None:
        self._plan, self._spread, self._weight_sum = plan, spread, weight_sum
        self._device, self._dtype = images.device, images.dtype
        self.steps: list[tuple[str, nn.Module, tuple[str, ...]]] = []
        self._taken: set[str] = {INPUT}
        self._names: dict[int, str] = {}
        self._times: dict[int, float] = {}
        self._widths: dict[int, int] = {0: images.shape[1]}
        self._delayed: dict[tuple[int, float], str] = {}
        self._encoding = LeadEncoding(plan.low, plan.high, spread)
        needed = _needed(plan)
        for number, node in enumerate(plan.nodes):
            if number in needed:
                self._make(number, node)

    def _add(self, name: str, module: nn.Module, inputs: tuple[str, ...]) -> str:
        name = re.sub(r"\W", "_", name)
        name = name if name.isidentifier() else f"layer_{name}"
        base, count = name, 1
        while name in self._taken or hasattr(nn.Module, name):
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        self.steps.append((name, module, inputs))
        return name

    def _make(self, number: int, node: Any) -> None:
        if isinstance(node, EncodingNode):
            self._names[number] = self._add("leads", self._encoding, (INPUT,))
            self._times[number] = self._encoding.t_out
            return
        if isinstance(node, LayerNode):
            self._layer(number, node)
            return
        source = node.source
        self._times[number] = self._times[source]
        self._widths[number] = node.width if isinstance(node, AfterNode) else self._widths[source]
        module: nn.Module
        if isinstance(node, PadNode):
            silence = self._encoding.spike_value(0.0) if node.zero else math.inf
            kind, module = "pad", nn.ConstantPad2d(node.sides, silence)
        elif isinstance(node, AfterNode) and isinstance(node.step, MaxPool):
            step = node.step
            kind = "pool"
            module = SpikingMaxPool2d(
                step.kernel, step.stride, step.padding, step.dilation, step.ceil_mode
            )
        else:
            kind, module = "flatten", nn.Flatten()
        self._names[number] = self._add(kind, module, (self._names[source],))

    def _layer(self, number: int, node: LayerNode) -> None:
        t_in = max(self._times[source] for source in node.sources)
        names = [self._at(source, t_in) for source in node.sources]
        (name,) = names if len(names) == 1 else (self._add("join", Concatenate(), tuple(names)),)
        kernel = node.kernel
        options: dict[str, Any] = {
            "t_in": t_in,
            "weight_sum": self._weight_sum,
            "spread": self._spread,
            "normalization": "none",
            "device": self._device,
            "dtype": self._dtype,
        }
        rows, each, *size = kernel.weight.shape
        made: HorizonConv2d | HorizonLinear
        if size:
            made = HorizonConv2d(
                each * kernel.groups,
                rows,
                (size[0], size[1]),
                kernel.stride,
                kernel.padding,
                kernel.dilation,
                kernel.groups,
                **options,
            )
        else:
            made = HorizonLinear(each, rows, **options)
        made.set_weights_(kernel.weight.to(self._device), node.bias.to(self._device))
        self._names[number] = self._add(node.name, made, (name,))
        self._times[number], self._widths[number] = made.t_out, rows

    def _at(self, source: int, t: float) -> str:
        """The spikes of a node at a later horizon: a delay does not change leads."""
        if self._times[source] == t:
            return self._names[source]
        key = (source, t)
        if key not in self._delayed:
            duration = t - self._times[source]
            module = Delay(
                self._widths[source], duration, device=self._device, dtype=self._dtype
            ).requires_grad_(False)
            name = f"{self._names[source]}_delayed"
            self._delayed[key] = self._add(name, module, (self._names[source],))
        return self._delayed[key]


def _needed(plan: Plan) -> set[int]:
    """The nodes that the last one depends on."""
    needed: set[int] = set()
    waiting = [len(plan.nodes) - 1]
    while waiting:
        number = waiting.pop()
        if number in needed:
            continue
        needed.add(number)
        node = plan.nodes[number]
        if isinstance(node, LayerNode):
            waiting += node.sources
        elif isinstance(node, PadNode | AfterNode):
            waiting.append(node.source)
    return needed


def _largest_bound(converted: nn.Module, images: Tensor) -> float:
    """The largest of the layers' bounds on early spikes."""
    largest = 0.0

    def measure(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        nonlocal largest
        largest = max(largest, layer.early_bound(inputs[0]))

    layers = horizon_layers(converted).values()
    handles = [layer.register_forward_pre_hook(measure) for layer in layers]
    try:
        for some in torch.split(images, BATCH):
            converted(some)
    finally:
        for handle in handles:
            handle.remove()
    return largest


def _check_types(model: nn.Module, images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, got {type(images).__name__}")
    if not images.is_floating_point():
        return  # refused with the images that are not finite
    for name, tensor in (("images", images), *model.named_parameters()):
        if tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"first spikes are computed in float32 or float64; {name} is {tensor.dtype}: "
                "convert model and images with .float()"
            )
        if tensor.dtype != images.dtype:
            raise TypeError(
                f"{name} is {tensor.dtype} and images are {images.dtype}; convert one of them"
            )


def _check_rounding(dtype: torch.dtype, weight_sum: float, spread: float) -> None:
    """Raise an error for leads whose error by rounding in the folded network is too large."""
    if not (weight_sum > 1 and spread > 0):
        return  # refused by the layers
    rounding = torch.finfo(dtype).eps / spread * weight_sum / (weight_sum - 1)
    if rounding > 0.01:
        raise ValueError(
            f"rounding in {dtype} is too coarse for leads with spread={spread:g} and "
            f"weight_sum={weight_sum:g}: give a larger spread or weight_sum, or float64 images and "
            "weights"
        )


def _check(
    converted: nn.Module,
    images: Tensor,
    outputs: Tensor,
    scale: float,
    spread: float,
) -> None:
    """Raise an error if the network's outputs are not the logits."""
    values = torch.cat([converted(some) for some in torch.split(images, BATCH)])
    *_, last = horizon_layers(converted).values()
    leads = 1 - values.double() / math.exp(last.t_out)
    error = float((leads / spread - outputs.double() / scale).abs().max())
    tolerance = min(100 * torch.finfo(images.dtype).eps / spread, 0.1)
    if error <= tolerance:
        return
    early = any(layer.fallbacks for layer in horizon_layers(converted).values())
    reason = (
        f"some neuron spikes before all its inputs have; give a spread smaller than {spread:g}, or "
        "a smaller weight_sum"
        if early
        else "rounding adds up, or a module does not compute what its class says; try float64 "
        "images and weights, or a larger spread"
    )
    raise ValueError(
        f"the outputs differ from the ReLU network's by up to {error:.2g} of the largest logit, "
        f"more than the {tolerance:.2g} that rounding explains: {reason}"
    )
