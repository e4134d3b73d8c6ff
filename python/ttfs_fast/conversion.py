"""From a ReLU network to first spikes, exactly.

A layer with a horizon is a ReLU layer (`ttfs_fast.horizon`). So any network of convolutions, fully
connected layers, batch normalization, ReLU and max-pooling is a network of the paper's neurons:
activations become leads over the horizon, batch normalization folds into weights and biases, and
each layer's scale is chosen on data so that its leads are as long as wanted.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ttfs_fast.geometry import pair
from ttfs_fast.horizon import HorizonConv2d, HorizonLinear, horizon_layers
from ttfs_fast.nn import SpikingMaxPool2d

_CONVERTED = (
    nn.Conv2d,
    nn.Linear,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.MaxPool2d,
    nn.Flatten,
)
ALLOWED = (
    "Conv2d, Linear, BatchNorm1d, BatchNorm2d, ReLU, MaxPool2d, Flatten, Dropout, Identity and "
    "Sequential"
)


LONGEST_LEAD = 0.02
"""Over the horizon; longer ones gain float32 little."""


class LeadEncoding(nn.Module):
    """Real numbers as spikes: the larger a number, the earlier its spike.

    ``x`` in [low, high] spikes at ``z = T (1 - spread (x - low) / (high - low))``, where the
    horizon T is such that ``high`` spikes at t = 0. Numbers below ``low`` count as ``low``; those
    above ``high`` spike before t = 0, as the same formula says.

    Parameters
    ----------
    low, high : float
        The range of the inputs.
    spread : float
        Lead of the largest input, as a fraction of the horizon.
    """

    def __init__(self, low: float, high: float, spread: float) -> None:
        super().__init__()
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"low must be below high, both finite; got {low} and {high}")
        if not 0 < spread < 1:
            raise ValueError(f"spread must be above 0 and below 1; got {spread}")
        self.low, self.high, self.spread = low, high, spread

    @property
    def t_out(self) -> float:
        """The horizon, in units of tau."""
        return -math.log1p(-self.spread)

    def forward(self, input: Tensor) -> Tensor:
        """Spike values, of the shape of the input."""
        lead = (input - self.low) * (self.spread / (self.high - self.low))
        return math.exp(self.t_out) * (1 - lead.clamp(min=0))

    def spike_value(self, number: float) -> float:
        """The spike value of one number."""
        return float(self(torch.tensor(number, dtype=torch.float64)))

    def extra_repr(self) -> str:
        return f"low={self.low:g}, high={self.high:g}, spread={self.spread:g}"


@dataclass
class _Step:
    """A convolution or fully connected layer, with what belongs to it up to the next one."""

    name: str
    layer: nn.Conv2d | nn.Linear
    norm: nn.BatchNorm1d | nn.BatchNorm2d | None = None
    relu: bool = False
    after: tuple[nn.Module, ...] = ()
    """Pools and Flatten, up to the next step."""

    def weight_and_bias(self) -> tuple[Tensor, Tensor]:
        """In float64, with the batch normalization folded in."""
        weight = self.layer.weight.double()
        bias = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
        if self.layer.bias is not None:
            bias = self.layer.bias.double()
        if self.norm is None:
            return weight, bias
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        gain = (self.norm.running_var.double() + self.norm.eps).rsqrt()
        if self.norm.affine:
            gain = gain * self.norm.weight.double()
        bias = (bias - self.norm.running_mean.double()) * gain
        if self.norm.affine:
            bias = bias + self.norm.bias.double()
        return weight * gain.view(-1, *[1] * (weight.dim() - 1)), bias


@torch.no_grad()
def from_relu(
    model: nn.Module, images: Tensor, *, weight_sum: float = 2.0, spread: float | None = None
) -> nn.Sequential:
    """Turn a trained ReLU network into a network of first spikes that decides alike.

    Parameters
    ----------
    model : Module
        Sequential, nested or not, of Conv2d (no groups, zero padding), Linear, BatchNorm1d,
        BatchNorm2d, ReLU, MaxPool2d and Flatten; Dropout and Identity are left out. Every layer but
        the last ends with a ReLU. Batch normalization uses its running statistics. float32 or
        float64.
    images : Tensor
        Some of its inputs, shape (N, C, H, W) or (N, features), of the same type. They set the
        range of the inputs and the scale of every layer. Where the first convolution pads, its
        zeros belong to that range, too.
    weight_sum : float
        m, the sum of every neuron's weights; see `ttfs_fast.horizon.HorizonConv2d`.
    spread : float, optional
        Longest lead of a spike over its horizon on these images, as a fraction of the horizon. By
        default half of what rules early spikes out on these images, at most 0.02: the longer the
        leads, the less rounding takes of them.

    Returns
    -------
    Sequential
        From the same inputs to the spike values of the classes, (N, classes): the largest logit
        spikes first. It begins with a `LeadEncoding`, its layers have horizons. It can be trained
        further; `ttfs_fast.horizon.fold_horizons_` makes it one of plain modules.

    Raises
    ------
    ValueError
        If a module has no counterpart, the network does not begin and end as it should, the images
        are not finite, rounding would take too much of the leads, or the outputs on the images do
        not agree with the network's; the message names what.
    TypeError
        If images or weights are not of float32 or float64, or not of one type.

    Notes
    -----
    Exact to rounding: the leads of the outputs are the logits, over the largest absolute one on
    ``images``, times ``spread``. In float32 a lead has about seven digits less those of
    1 / ``spread``, and in the folded network less those of ``weight_sum / (weight_sum - 1)``.

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
    head, steps = _steps(model)
    _check_types(model, images)
    if not images.is_floating_point() or not bool(images.isfinite().all()) or len(images) == 0:
        raise ValueError(
            f"images must be finite floating point numbers, at least one image; got "
            f"{tuple(images.shape)} of {images.dtype}"
        )
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        scales, outputs = _scales(model, steps, images)
    finally:
        for module, training in modes.items():
            module.training = training
    low, high = float(images.min()), float(images.max())
    first = steps[0].layer
    pads = isinstance(first, nn.Conv2d) and any(_padding(first))
    if pads:
        low, high = min(low, 0.0), max(high, 0.0)
    high = high if high > low else low + 1

    def build(spread: float) -> nn.Sequential:
        encoding = LeadEncoding(low, high, spread)
        return _build(encoding, head, steps, scales, pads, weight_sum, images.dtype)

    if spread is None:
        draft = 0.0001
        bound = _largest_bound(build(draft), images)
        spread = min(LONGEST_LEAD, 0.5 * draft / bound)
    _check_rounding(images.dtype, weight_sum, spread)
    converted = build(spread)
    _check(converted, images, outputs, scales[-1], spread)
    return converted


def _build(
    encoding: LeadEncoding,
    head: list[nn.Module],
    steps: list[_Step],
    scales: list[float],
    pads: bool,
    weight_sum: float,
    dtype: torch.dtype,
) -> nn.Sequential:
    modules: list[nn.Module] = [encoding, *head]
    t_in, size, offset = encoding.t_out, encoding.high - encoding.low, encoding.low
    for number, (step, scale) in enumerate(zip(steps, scales, strict=True)):
        weight, bias = step.weight_and_bias()
        layer = step.layer
        # Activations are offset + size lead / spread.
        bias = bias + offset * weight.flatten(1).sum(1)
        options: dict[str, Any] = {
            "t_in": t_in,
            "weight_sum": weight_sum,
            "spread": encoding.spread,
            "normalization": "none",
            "device": weight.device,
            "dtype": dtype,
        }
        made: HorizonConv2d | HorizonLinear
        if isinstance(layer, nn.Conv2d):
            padding = _padding(layer)
            if number == 0 and offset != 0 and pads:
                rows, columns = padding
                zero = encoding.spike_value(0.0)
                modules.append(nn.ConstantPad2d((columns, columns, rows, rows), zero))
                padding = (0, 0)
            made = HorizonConv2d(
                layer.in_channels,
                layer.out_channels,
                pair(layer.kernel_size),
                pair(layer.stride),
                padding,
                pair(layer.dilation),
                **options,
            )
        else:
            made = HorizonLinear(layer.in_features, layer.out_features, **options)
        made.set_weights_(weight * (size / scale), bias / scale)
        modules += [made, *step.after]
        t_in, size, offset = made.t_out, scale, 0.0
    return nn.Sequential(*modules).eval()


def _largest_bound(converted: nn.Sequential, images: Tensor) -> float:
    """The largest of the layers' bounds on early spikes."""
    largest = 0.0
    for some in torch.split(images, 256):
        values = some
        for module in converted:
            if isinstance(module, HorizonConv2d | HorizonLinear):
                largest = max(largest, module.early_bound(values))
            values = module(values)
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
    """Refuse leads of which rounding leaves less than about a tenth, in the folded network."""
    if not (weight_sum > 1 and spread > 0):
        return  # refused by the layers
    rounding = torch.finfo(dtype).eps / spread * weight_sum / (weight_sum - 1)
    if rounding > 0.01:
        raise ValueError(
            f"rounding in {dtype} would take too much of leads with spread={spread:g} and "
            f"weight_sum={weight_sum:g}: give a larger spread or weight_sum, or float64 images and "
            "weights"
        )


def _steps(model: nn.Module) -> tuple[list[nn.Module], list[_Step]]:
    """What comes before the first layer, and the layers."""
    head: list[nn.Module] = []
    steps: list[_Step] = []
    for name, module in _leaves("", model):
        step = steps[-1] if steps else None
        if not isinstance(module, _CONVERTED):
            raise ValueError(
                f"{name} ({type(module).__name__}) has no counterpart in first spikes; allowed are "
                f"{ALLOWED}"
            )
        if isinstance(module, nn.Conv2d | nn.Linear):
            if step is not None and not step.relu:
                raise ValueError(
                    f"{step.name} and {name} follow each other without a ReLU; put one between "
                    "them, or multiply them into one layer"
                )
            _check_layer(name, module)
            steps.append(_Step(name, module))
        elif isinstance(module, nn.Flatten):
            if (module.start_dim, module.end_dim) != (1, -1):
                raise ValueError(
                    f"{name} flattens dimensions {module.start_dim} to {module.end_dim}; only all "
                    "but the first, Flatten(), converts"
                )
            if step is None:
                head.append(nn.Flatten())
            else:
                step.after += (nn.Flatten(),)
        elif step is None:
            raise ValueError(
                f"{name} ({type(module).__name__}) comes before the first convolution or fully "
                "connected layer; the network must begin with one"
            )
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            if step.relu or step.norm is not None or step.after:
                raise ValueError(
                    f"{name} must follow a convolution or fully connected layer directly, to be "
                    "folded into it"
                )
            if module.running_mean is None:
                raise ValueError(
                    f"{name} has no running statistics; it needs track_running_stats=True"
                )
            step.norm = module
        elif isinstance(module, nn.ReLU):
            step.relu = True
        else:
            if module.return_indices:
                raise ValueError(f"{name} returns indices; a first-spike pool has none to give")
            pool = SpikingMaxPool2d(
                module.kernel_size,
                module.stride,
                module.padding,
                module.dilation,
                module.ceil_mode,
            )
            step.after += (pool,)
    if not steps:
        raise ValueError("the model has no Conv2d and no Linear layer to convert")
    last = steps[-1]
    if last.relu or any(isinstance(module, SpikingMaxPool2d) for module in last.after):
        raise ValueError(
            f"the network ends with a ReLU or a pool behind {last.name}; it must end with the "
            "layer whose outputs are the logits"
        )
    return head, steps


def _leaves(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a Sequential in the order in which they run, those without effect left out."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        # named_children would leave out a module's second place.
        for name, child in module._modules.items():
            assert child is not None
            yield from _leaves(f"{prefix}.{name}" if prefix else name, child)
    elif not isinstance(module, nn.Dropout | nn.Dropout2d | nn.Identity):
        yield prefix or type(module).__name__, module


def _check_layer(name: str, layer: nn.Conv2d | nn.Linear) -> None:
    if isinstance(layer, nn.Linear):
        return
    if layer.groups != 1:
        raise ValueError(f"{name} has {layer.groups} groups; only convolutions of one convert")
    if layer.padding_mode != "zeros":
        raise ValueError(f'{name} pads with "{layer.padding_mode}"; only "zeros" converts')
    _padding(layer)


def _padding(layer: nn.Conv2d) -> tuple[int, int]:
    if layer.padding == "valid":
        return 0, 0
    if layer.padding == "same":
        reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(r % 2 for r in reach):
            raise ValueError(
                f'padding "same" with a kernel of {layer.kernel_size} is not the same on both '
                "sides; pad with a number"
            )
        return reach[0] // 2, reach[1] // 2
    assert not isinstance(layer.padding, str)
    return pair(layer.padding)


def _scales(
    model: nn.Module, steps: list[_Step], images: Tensor, batch: int = 256
) -> tuple[list[float], Tensor]:
    """Largest activation behind each step, and the outputs."""
    largest = [0.0] * len(steps)
    outputs = []

    handles = [
        (step.norm or step.layer).register_forward_hook(_Watch(largest, number, step))
        for number, step in enumerate(steps)
    ]
    try:
        for some in torch.split(images, batch):
            outputs.append(model(some))
    finally:
        for handle in handles:
            handle.remove()
    whole = torch.cat(outputs)
    if not bool(whole.isfinite().all()):
        raise ValueError("the outputs of the ReLU network on the images are not finite")
    largest[-1] = float(whole.abs().max())
    # A layer that is silent on all images may have any scale.
    return [value if value > 0 else 1.0 for value in largest], whole


class _Watch:
    """Keeps the largest output of a step, and looks at its shape."""

    def __init__(self, largest: list[float], number: int, step: _Step) -> None:
        self._largest, self._number, self._step = largest, number, step

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        dimensions = self._step.layer.weight.dim()
        if output.dim() != dimensions:
            wanted = (
                "images (N, C, H, W)" if dimensions == 4 else "(N, features), as from Flatten()"
            )
            raise ValueError(
                f"{self._step.name} must get {wanted}; it got {output.dim()} dimensions"
            )
        self._largest[self._number] = max(self._largest[self._number], float(output.max()))


def _check(
    converted: nn.Sequential,
    images: Tensor,
    outputs: Tensor,
    scale: float,
    spread: float,
) -> None:
    """Refuse a network whose outputs are not the logits."""
    values = torch.cat([converted(some) for some in torch.split(images, 256)])
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
