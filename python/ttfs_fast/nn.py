"""Spiking layers as modules, mirroring torch.nn: same parameters, same state_dict keys."""

import math
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ttfs_fast import functional
from ttfs_fast.encoding import exp_of_times, values_to_times
from ttfs_fast.geometry import IntPair, pair, whole_numbers
from ttfs_fast.init import spiking_uniform_
from ttfs_fast.neurons import NeuronName, neuron_of


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 0:
            raise ValueError(f"{name} is {size}; it must not be negative")


def is_computed(layer: nn.Module, name: str) -> bool:
    """Whether a layer's ``weight`` or ``bias`` is computed from other tensors.

    A parametrization does that (:mod:`torch.nn.utils.parametrize`), and a hook of
    :mod:`torch.nn.utils.prune` and the like.
    """
    if parametrize.is_parametrized(layer, name):
        return True
    value = getattr(layer, name)
    return value is not None and not isinstance(value, nn.Parameter)


def refuse_stale(layer: nn.Module, name: str) -> None:
    """Raise ValueError if a weight or bias is only renewed in a forward pass, as pruned ones are.

    A parametrization computes it whenever it is read.
    """
    for of in ("weight", "bias"):
        if (
            getattr(layer, of, None) is not None
            and is_computed(layer, of)
            and not parametrize.is_parametrized(layer, of)
        ):
            raise ValueError(
                f"{name}: its {of} is computed in the forward pass; remove what computes it first "
                "(torch.nn.utils.prune.remove, remove_weight_norm, ...)"
            )


def refuse_sisters(model: nn.Module, what: str) -> None:
    """Raise an error if a layer has neurons other than n-LIF.

    Parameters
    ----------
    model : Module
        A layer, or a module that contains layers.
    what : str
        For the message: what requires n-LIF neurons.

    Raises
    ------
    ValueError
        If there is such a layer; the message names it.
    """
    for name, module in model.named_modules():
        if isinstance(module, _SpikingLayer | Delay) and module.neuron != "n-lif":
            raise ValueError(
                f"{what} is made of n-LIF neurons only; {name or type(module).__name__} has "
                f"neuron={module.neuron!r}"
            )


def _plain(size: IntPair) -> IntPair:
    """A size in the form in which it was given, with Python numbers instead of numpy's."""
    numbers = whole_numbers(size)
    return numbers[0] if np.ndim(size) == 0 else tuple(numbers)


class _SpikingLayer(nn.Module):
    """Common part of fully connected and convolution layers: weight and bias."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    neuron: NeuronName = "n-lif"  # also of a layer that was pickled before it had one

    def __init__(
        self,
        weight_shape: tuple[int, ...],
        bias: bool,
        t_max: float,
        neuron: NeuronName,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        if math.isnan(t_max):
            raise ValueError("t_max is NaN; it must be a time, or inf for no horizon")
        neuron_of(neuron)
        self.t_max, self.neuron = float(t_max), neuron
        self.weight = nn.Parameter(torch.empty(weight_shape, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(weight_shape[0], device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights from [0, 8 / fan_in] (:func:`ttfs_fast.init.spiking_uniform_`), bias 0."""
        spiking_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _options(self) -> str:
        text = "" if self.t_max == math.inf else f", t_max={self.t_max}"
        return text if self.neuron == "n-lif" else f"{text}, neuron={self.neuron!r}"


class SpikingLinear(_SpikingLayer):
    """Fully connected layer of neurons that spike at most once; replaces nn.Linear.

    Parameters
    ----------
    in_features, out_features : int
        Sizes of each input and output sample.
    bias : bool
        Whether every neuron has one more input, which spikes at t = 0.
    t_max : float
        The horizon: spikes later than this time are treated as no spike (inf).
    neuron : {"n-lif", "rel-psp", "falling-threshold"}
        The default takes and returns spike values, the others take and return spike times.
    device, dtype
        As :class:`torch.nn.Linear`.

    Attributes
    ----------
    weight : Parameter
        Shape (out_features, in_features).
    bias : Parameter or None
        Shape (out_features,).

    Notes
    -----
    Input (..., in_features) and output (..., out_features) are spike values; see
    :func:`ttfs_fast.spiking_linear`.

    Examples
    --------
    >>> import torch, ttfs_fast.nn as snn
    >>> layer = snn.SpikingLinear(784, 10)
    >>> layer(torch.rand(32, 784).exp()).shape
    torch.Size([32, 10])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        t_max: float = math.inf,
        neuron: NeuronName = "n-lif",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_sizes(in_features=in_features, out_features=out_features)
        in_features, out_features = index(in_features), index(out_features)
        self.in_features, self.out_features = in_features, out_features
        super().__init__((out_features, in_features), bias, t_max, neuron, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return functional.spiking_linear(
            input, self.weight, self.bias, t_max=self.t_max, neuron=self.neuron
        )

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}{self._options()}"
        )


class SpikingConv2d(_SpikingLayer):
    """Convolution layer of neurons that spike at most once; replaces nn.Conv2d.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups
        As :class:`torch.nn.Conv2d`; ``padding="same"`` works for any stride.
    bias : bool
        Whether every neuron has one more input, which spikes at t = 0.
    t_max : float
        The horizon: spikes later than this time are treated as no spike (inf).
    neuron : {"n-lif", "rel-psp", "falling-threshold"}
        The default takes and returns spike values, the others take and return spike times.
    device, dtype
        As :class:`torch.nn.Conv2d`.

    Attributes
    ----------
    weight : Parameter
        Shape (out_channels, in_channels / groups, kernel height, kernel width).
    bias : Parameter or None
        Shape (out_channels,).

    Raises
    ------
    ValueError
        If `groups` does not divide both numbers of channels, `padding` is another word, a size is
        not positive, `t_max` is NaN, or there is no such neuron.

    Notes
    -----
    Input and output are spike values; see :func:`ttfs_fast.spiking_conv2d`.

    Examples
    --------
    >>> import torch, ttfs_fast.nn as snn
    >>> layer = snn.SpikingConv2d(1, 32, 5, stride=2, padding="same")
    >>> layer(torch.rand(8, 1, 28, 28).exp()).shape
    torch.Size([8, 32, 14, 14])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair | str = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        t_max: float = math.inf,
        neuron: NeuronName = "n-lif",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_sizes(in_channels=in_channels, out_channels=out_channels)
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"in_channels ({in_channels}) and out_channels ({out_channels}) must be divisible "
                f"by groups ({groups})"
            )
        in_channels, out_channels, groups = index(in_channels), index(out_channels), index(groups)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size: tuple[int, int] = pair(kernel_size)
        self.stride: tuple[int, int] = pair(stride)
        if isinstance(padding, str) and padding not in ("valid", "same"):
            raise ValueError(f'padding must be "valid", "same" or numbers; got {padding!r}')
        self.padding = padding if isinstance(padding, str) else pair(padding)
        self.dilation: tuple[int, int] = pair(dilation)
        self.groups = groups
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        super().__init__(shape, bias, t_max, neuron, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return functional.spiking_conv2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            t_max=self.t_max,
            neuron=self.neuron,
        )

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", stride={self.stride}"
        if self.padding != (0, 0):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return text + self._options()


class SpikingMaxPool2d(nn.Module):
    """First spike of each window; replaces nn.MaxPool2d.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode
        As :class:`torch.nn.MaxPool2d`.

    Notes
    -----
    See :func:`ttfs_fast.spiking_max_pool2d`.
    """

    def __init__(
        self,
        kernel_size: IntPair,
        stride: IntPair | None = None,
        padding: IntPair = 0,
        dilation: IntPair = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = _plain(kernel_size)
        self.stride = self.kernel_size if stride is None else _plain(stride)
        self.padding = _plain(padding)
        self.dilation = _plain(dilation)
        self.ceil_mode = bool(ceil_mode)

    def forward(self, input: Tensor) -> Tensor:
        return functional.spiking_max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class OnTimes(nn.Sequential):
    """Layers on spike times within a network on spike values: its input and output are values.

    An encoding, the losses and the functions that run a network on images use spike values z =
    exp(t). Layers whose `neuron` is "rel-psp" or "falling-threshold" take and return spike times t.
    This module converts values to times before its first layer, and times to values after its last.

    Parameters
    ----------
    *layers : Module
        As :class:`torch.nn.Sequential`. SpikingConv2d, SpikingLinear and Delay on spike times;
        pools and nn.Flatten take either.

    Raises
    ------
    ValueError
        If a layer works on spike values; the message names it.

    Notes
    -----
    In float32 a spike time above 88.7 has no finite spike value and becomes silent. Silent outputs
    get no gradient.

    Examples
    --------
    >>> import torch, ttfs_fast.nn as snn
    >>> model = snn.OnTimes(snn.SpikingLinear(784, 10, neuron="rel-psp"))
    >>> model(torch.rand(32, 784).exp()).shape
    torch.Size([32, 10])
    """

    gives_values = True  # for encoding_of

    def __init__(self, *layers: Any) -> None:
        super().__init__(*layers)
        self._check()

    def _check(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, OnTimes) and module is not self:
                raise ValueError(f"OnTimes translates once; {name} is another OnTimes")
            neuron = getattr(module, "neuron", None)
            if (neuron == "n-lif" and isinstance(module, _SpikingLayer | Delay)) or getattr(
                module, "takes_values", False
            ):
                what = "neuron='n-lif'" if neuron == "n-lif" else "a horizon"
                raise ValueError(
                    f"OnTimes holds layers on spike times; {name} has {what}: give it another "
                    "neuron, or leave it outside"
                )

    def forward(self, input: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self._check()  # layers may have been added
        times: Tensor = super().forward(values_to_times(input))  # type: ignore[no-untyped-call]
        return exp_of_times(times)


class Delay(nn.Module):
    """One learnable delay of 0 or more for each channel or feature.

    Put it between layers: it delays the spikes from one layer to the next. After a layer it is a
    delay of its neurons' outputs (an axonal delay).

    Parameters
    ----------
    num_features : int
        Channels of maps (N, C, H, W), or features of (N, F).
    initial : float
        The initial delay of every channel, in units of the synaptic time constant; 0 or above.
    neuron : {"n-lif", "rel-psp", "falling-threshold"}
        The neuron that sends the spikes: the default multiplies spike values, the others add to
        spike times.
    device, dtype
        As :class:`torch.nn.Linear`.

    Attributes
    ----------
    delay : Parameter
        Shape (num_features,), in units of the synaptic time constant. A value below 0, which an
        optimizer's step may leave, counts as 0; :meth:`delays` returns the effective delays.

    Raises
    ------
    ValueError
        If `initial` is not a finite delay of 0 or above.

    Notes
    -----
    See :func:`ttfs_fast.spiking_delay` for shapes, silence and gradients. The parameter is the
    delay itself, so its gradient is that of the spike times, ``dL/dd = sum dL/dt``. Only a gradient
    that would decrease a delay of 0 is dropped. So a delay can be exactly 0 and still grow again.

    A delay common to all inputs of a layer without bias can move to its outputs. Different delays
    do not fold into weights; docs/delays.md shows why. :meth:`to_neurons` expresses delays by
    neurons, for formats without delays.

    Source: J. Göltz et al., "DelGrad: exact event-based gradients for training delays and weights
    on spiking neuromorphic hardware", Nature Communications 16, 8245 (2025), learns delays by
    exact gradients of spike times, too.

    Examples
    --------
    >>> import torch, ttfs_fast.nn as snn
    >>> delay = snn.Delay(3, initial=0.5)
    >>> delay(torch.ones(2, 3)).log()
    tensor([[0.5000, 0.5000, 0.5000],
            [0.5000, 0.5000, 0.5000]], grad_fn=<LogBackward0>)
    """

    delay: nn.Parameter
    neuron: NeuronName = "n-lif"  # also of one that was pickled before it had one

    def __init__(
        self,
        num_features: int,
        initial: float = 0.0,
        *,
        neuron: NeuronName = "n-lif",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(num_features=num_features)
        if not (math.isfinite(initial) and initial >= 0):
            raise ValueError(f"initial is {initial}; a delay must be finite and 0 or above")
        neuron_of(neuron)
        self.num_features, self.initial, self.neuron = index(num_features), float(initial), neuron
        self.delay = nn.Parameter(torch.empty(self.num_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every delay to the initial one."""
        nn.init.constant_(self.delay, self.initial)

    def delays(self) -> Tensor:
        """The effective delays, 0 or above, shape (num_features,), without a gradient."""
        return self.delay.detach().clamp(min=0)

    def forward(self, input: Tensor) -> Tensor:
        return functional.spiking_delay(input, self.delay, neuron=self.neuron)

    @torch.no_grad()
    def to_neurons(self, *, maps: bool) -> SpikingConv2d | SpikingLinear:
        """Neurons that delay by the same times: one per channel or feature, with a single synapse.

        A neuron with one input of weight w > 1 spikes at ``z = z_in w / (w - 1)``: d later, with
        ``d = ln(w / (w - 1))`` and ``w = 1 / (1 - exp(-d))``. Chips and simulators without delays,
        and integer networks, can represent such neurons.

        Parameters
        ----------
        maps : bool
            For channels of maps a grouped 1 x 1 convolution; else a fully connected layer with a
            diagonal weight.

        Returns
        -------
        SpikingConv2d or SpikingLinear
            Without bias. Delays below 2^-22 become 2^-22 in float32 (2^-51 in float64), because a
            delay of 0 would need an infinite weight. Rounding cannot distinguish so small a delay
            from 0.

        Raises
        ------
        ValueError
            If it delays spike times, or by so much that w is hardly above 1 and loses its digits in
            rounding: more than 9 tau in float32, 29 in float64.
        """
        refuse_sisters(self, "a delay by neurons")
        eps = torch.finfo(self.delay.dtype).eps
        delays = self.delays()
        longest = float(delays.max()) if delays.numel() else 0.0
        if longest > (most := math.log(1e-3 / eps)):
            raise ValueError(
                f"a delay of {longest:g} tau is too long for a neuron: up to {most:.3g} in "
                f"{str(delays.dtype).removeprefix('torch.')}; put several delays in a row"
            )
        weight = 1 / -torch.expm1(-delays.clamp(min=2 * eps))
        like: dict[str, Any] = {"bias": False, "device": weight.device, "dtype": weight.dtype}
        count = self.num_features
        layer: SpikingConv2d | SpikingLinear
        if maps:
            layer = SpikingConv2d(count, count, 1, groups=max(count, 1), **like)
            layer.weight.copy_(weight.view(-1, 1, 1, 1))
        else:
            layer = SpikingLinear(count, count, **like)
            layer.weight.copy_(weight.diag())
        return layer

    def extra_repr(self) -> str:
        text = f"{self.num_features}"
        text = text if self.initial == 0 else f"{text}, initial={self.initial:g}"
        return text if self.neuron == "n-lif" else f"{text}, neuron={self.neuron!r}"
