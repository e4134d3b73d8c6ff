"""From pixels to spikes: spike times t and spike values z = exp(t).

Times are in units of the synaptic time constant tau. Every operator of this package computes on
spike values, in which a neuron's membrane is piecewise linear; see :func:`times_to_values`.

An :class:`Encoding` describes how pixels become the input spikes of a network. A network has it as
the attribute ``encoding``, and files of weights store it.
"""

import dataclasses
import json
import math
import numbers
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor

from ttfs_fast._overrides import overridable
from ttfs_fast._untrusted import parse_json
from ttfs_fast.neurons import NEURONS

Polarity = Literal["bright-first", "dark-first", "both"]


def _check_alpha(alpha: float) -> None:
    try:
        allowed = math.isfinite(alpha) and alpha > 0
    except OverflowError:  # an integer that no float holds
        allowed = False
    if not allowed:
        raise ValueError(f"alpha must be a finite number above 0; got {alpha}")


def _check_polarity(polarity: str) -> None:
    if polarity not in get_args(Polarity):
        raise ValueError(
            f"polarity must be one of {', '.join(map(repr, get_args(Polarity)))}; got {polarity!r}"
        )


@dataclass(frozen=True)
class Encoding:
    """How pixels become the input spikes of a network.

    A network has its encoding as the attribute ``encoding``. All functions that run a network on
    images read it there. Files of weights store it.

    Attributes
    ----------
    alpha : float
        Time between the first and the last possible spike, in units of tau; above 0. No input
        spike comes later.
    polarity : {"bright-first", "dark-first", "both"}
        Which pixels spike first; see :func:`pixels_to_times`.
    standardize : bool
        First bring each image to the same mean and standard deviation; see :func:`standardize`.

    Raises
    ------
    ValueError
        If a value is not allowed; the message names it.

    Notes
    -----
    The default is that of the paper's network for MNIST, t = 3 (1 - p) (Zhou et al., AAAI 2021,
    section 4.1).

    Examples
    --------
    >>> import torch
    >>> from ttfs_fast.encoding import Encoding
    >>> from ttfs_fast.models import cifar_scnn
    >>> model = cifar_scnn(pretrained=True)
    >>> model.encoding
    Encoding(alpha=1.0, polarity='both', standardize=False)
    >>> z = model.encoding(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    >>> z.shape
    torch.Size([2, 6, 32, 32])
    """

    alpha: float = 3.0
    polarity: Polarity = "bright-first"
    standardize: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, numbers.Real):
            raise ValueError(f"alpha must be a number; got {self.alpha!r}")
        _check_alpha(self.alpha)
        _check_polarity(self.polarity)
        if not isinstance(self.standardize, bool):
            raise ValueError(f"standardize must be true or false; got {self.standardize!r}")
        object.__setattr__(self, "alpha", float(self.alpha))  # frozen

    def __call__(
        self, pixels: Tensor, *, jitter: float = 0.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Spike values of images, optionally with noise on the spike times.

        Parameters
        ----------
        pixels : Tensor
            Images (..., C, H, W): uint8, or float32 or float64 in [0, 1].
        jitter, generator
            As for :func:`encode`.

        Returns
        -------
        values : Tensor
            Spike values, (..., C, H, W), with twice as many channels for both polarities.

        Raises
        ------
        TypeError, ValueError
            As :func:`encode` and :func:`standardize`.
        """
        return encode(self.shown(pixels), self.alpha, self.polarity, jitter, generator)

    def shown(self, pixels: Tensor) -> Tensor:
        """The intensities that become spike times: standardized if the encoding says so."""
        return standardize(pixels) if self.standardize else pixels

    @property
    def of_unit_times(self) -> Self:
        """The encoding of the same intensities as t = 1 - p."""
        return type(self)(1.0, standardize=self.standardize)

    @property
    def copies(self) -> int:
        """Spike channels per image channel: 2 for both polarities, otherwise 1."""
        return 2 if self.polarity == "both" else 1

    def to_dict(self) -> dict[str, Any]:
        """Its values as JSON types, by name."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """The encoding that :meth:`to_dict` gave.

        Raises
        ------
        ValueError
            If a name is missing, unknown, or its value not allowed.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, dict) or sorted(values) != sorted(names):
            raise ValueError(f"an encoding has the values {', '.join(names)}; got {values!r}")
        return cls(**values)

    def to_json(self) -> str:
        """Its values as JSON: the entry ``encoding`` in the metadata of a file of weights."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the text that :meth:`to_json` wrote; raise ValueError for any other text."""
        return cls.from_dict(parse_json(text))

    def __str__(self) -> str:
        """Text such as ``alpha 3, bright-first``."""
        standardized = ", standardized images" if self.standardize else ""
        return f"alpha {self.alpha:g}, {self.polarity}{standardized}"


MNIST_ENCODING = Encoding()
"""Of the paper's network for MNIST, t = 3 (1 - p); a new network carries it by default."""


def encoding_of(model: nn.Module, encoding: Encoding | None = None) -> Encoding:
    """The encoding to run a network with: the given one, otherwise the network's own.

    Raises
    ------
    TypeError
        If the given one is not an `Encoding`.
    ValueError
        If neither exists, if a layer takes spike times and is not inside a
        :class:`ttfs_fast.nn.OnTimes`, or if the network was converted from a ReLU network and takes
        real numbers.
    """
    if isinstance(model, nn.Module):
        _refuse_bare_times(model)
        _refuse_bare_numbers(model)
    found = encoding if encoding is not None else getattr(model, "encoding", None)
    if isinstance(found, Encoding):
        return found
    if encoding is not None:
        raise TypeError(
            f"encoding must be a ttfs_fast.encoding.Encoding; got {type(encoding).__name__}"
        )
    raise ValueError(
        f"this {type(model).__name__} has no encoding: give "
        "encoding=ttfs_fast.encoding.Encoding(alpha=..., polarity=...), or set the network's "
        "attribute `encoding` to one"
    )


def _refuse_bare_numbers(model: nn.Module) -> None:
    """Refuses a converted network that would take the spike values of an encoding for numbers."""
    modules = list(model.modules())
    if any(getattr(module, "takes_numbers", False) for module in modules) and not any(
        getattr(module, "gives_numbers", False) for module in modules
    ):
        raise ValueError(
            f"this {type(model).__name__} was converted from a ReLU network and takes real "
            "numbers, not the spikes of an encoding: compute with it directly, or give "
            "ttfs_fast.conversion.with_intensities(network, IntensitiesOfSpikes(mean, deviation))"
        )


def _refuse_bare_times(module: nn.Module, name: str = "") -> None:
    """Refuses a network that would take the spike values of an encoding for spike times."""
    if getattr(module, "gives_values", False):
        return
    neuron = getattr(module, "neuron", "n-lif")
    if isinstance(neuron, str) and neuron in NEURONS and NEURONS[neuron].on_times:
        raise ValueError(
            f"{name or type(module).__name__} has neuron={neuron!r} and takes spike times, but an "
            "encoding gives spike values z = exp(t): put the layers on spike times into a "
            "ttfs_fast.nn.OnTimes, which converts"
        )
    for child_name, child in module.named_children():
        _refuse_bare_times(child, f"{name}.{child_name}" if name else child_name)


@overridable
def pixels_to_times(
    pixels: Tensor, alpha: float = 3.0, polarity: Polarity = "bright-first"
) -> Tensor:
    """Turn pixel intensities into spike times.

    Parameters
    ----------
    pixels : Tensor
        Intensities of any shape: uint8 (divided by 255), or float32 or float64 in [0, 1].
    alpha : float
        Time between the first and the last possible spike, in units of tau; above 0.
    polarity : {"bright-first", "dark-first", "both"}
        ``"bright-first"`` gives t = alpha (1 - p), as for MNIST; ``"dark-first"`` gives
        t = alpha p, as for CIFAR-10; ``"both"`` gives the two side by side, as twice as many
        channels (dimension -3), bright-first ones first.

    Returns
    -------
    times : Tensor
        Spike times in [0, alpha], of the shape of ``pixels``, with twice as many channels for
        ``"both"``; torch's default dtype for uint8, otherwise the dtype of ``pixels``.

    Raises
    ------
    TypeError
        If ``pixels`` is not a tensor of one of these dtypes.
    ValueError
        If a pixel is outside [0, 1] or NaN, if ``alpha`` is not above 0 and finite, if
        ``polarity`` is not known, or if it is ``"both"`` and there are no channels.

    Notes
    -----
    Zhou et al., AAAI 2021, section 4.1.
    """
    _check_alpha(alpha)
    _check_polarity(polarity)
    intensity = _intensity(pixels)
    if polarity == "both":
        if intensity.dim() < 3:
            raise ValueError(
                'polarity "both" needs images of shape (..., C, H, W); got '
                f"{tuple(intensity.shape)}"
            )
        return alpha * torch.cat([1 - intensity, intensity], dim=-3)
    return alpha * (1 - intensity) if polarity == "bright-first" else alpha * intensity


@overridable
def standardize(
    pixels: Tensor,
    mean: Tensor | None = None,
    deviation: Tensor | None = None,
    *,
    reach: float = 2.5,
) -> Tensor:
    """Bring the intensities of each channel to mean 0.5 and the same standard deviation.

    p becomes 0.5 + (p - mean) / (2 reach deviation), clipped to [0, 1]. Without ``mean`` and
    ``deviation`` those of each image are taken, over all its channels, as CIFAR-10 is often trained
    with (the paper calls it whitening).

    Parameters
    ----------
    pixels : Tensor
        Images (..., C, H, W): uint8 (divided by 255), or float32 or float64 in [0, 1].
    mean, deviation : Tensor, optional
        Of each channel, shape (C,), in intensities; both or neither.
    reach : float
        Deviations from the mean that still fit into [0, 1]; above 0.

    Returns
    -------
    Tensor
        Intensities in [0, 1], of the shape of ``pixels``; torch's default dtype for uint8.

    Raises
    ------
    TypeError
        As :func:`pixels_to_times`.
    ValueError
        If pixels lie outside [0, 1], a deviation is not above 0, or shapes do not fit.
    """
    intensity = _intensity(pixels)
    if intensity.dim() < 3:
        raise ValueError(f"pixels must be (..., C, H, W); got {tuple(intensity.shape)}")
    if (mean is None) != (deviation is None):
        raise ValueError("give both mean and deviation, or neither")
    if not (math.isfinite(reach) and reach > 0):
        raise ValueError(f"reach must be a finite number above 0; got {reach}")
    if mean is None or deviation is None:
        inside = (-3, -2, -1)
        mean = intensity.mean(inside, keepdim=True)
        # An image of one color has no deviation; it becomes a uniform 0.5.
        least = 1 / 255
        deviation = intensity.std(inside, unbiased=False, keepdim=True).clamp(min=least)
    else:
        channels = intensity.shape[-3]
        if mean.shape != (channels,) or deviation.shape != (channels,):
            raise ValueError(
                f"mean and deviation must have shape ({channels},), one for each channel; got "
                f"{tuple(mean.shape)} and {tuple(deviation.shape)}"
            )
        if has_values(deviation) and not bool((deviation > 0).all()):
            raise ValueError(f"deviations must be above 0; got {deviation.tolist()}")
        mean = mean.to(intensity)[:, None, None]
        deviation = deviation.to(intensity)[:, None, None]
    return ((intensity - mean) / (2 * reach * deviation) + 0.5).clamp(0, 1)


@overridable
def times_to_values(times: Tensor) -> Tensor:
    """Turn spike times into spike values, z = exp(t).

    Parameters
    ----------
    times : Tensor
        Spike times in units of tau, float32 or float64, any shape; +inf is a silent neuron.

    Returns
    -------
    values : Tensor
        Spike values above 0, of the same shape and dtype; +inf is a silent neuron. A time whose
        exponential exceeds the dtype (above about 88.7 in float32) becomes silent. NaN stays NaN.

    Raises
    ------
    TypeError
        If ``times`` is not a float32 or float64 tensor.
    ValueError
        If a time is so early (below about -103 in float32) that its value would be 0.
    """
    _check_float(times, "times")
    # A trace has one graph, with and without gradients.
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    values = exp_of_times(times) if times.requires_grad or traced else times.exp()
    if has_values(values) and bool((values == 0).any()):
        raise ValueError(
            f"a spike time of {times.min().item():g} is too early for {times.dtype}: its spike "
            "value exp(t) rounds to 0; shift the times later or use float64"
        )
    return values


def exp_of_times(times: Tensor) -> Tensor:
    """exp(t), and inf without a gradient where that exceeds the type."""
    # inf never meets the gradient of exp: 0 times inf would be NaN.
    silent = times.detach().exp() == math.inf
    return torch.where(silent, math.inf, torch.where(silent, 0, times).exp())


@overridable
def values_to_times(values: Tensor) -> Tensor:
    """Turn spike values into spike times, t = ln(z).

    Parameters
    ----------
    values : Tensor
        Spike values above 0, float32 or float64, any shape; +inf is a silent neuron.

    Returns
    -------
    times : Tensor
        Spike times in units of tau, of the same shape and dtype; +inf is a silent neuron.
        NaN stays NaN.

    Raises
    ------
    TypeError
        If ``values`` is not a float32 or float64 tensor.
    ValueError
        If a value is 0 or negative, which no spike time has.
    """
    _check_float(values, "values")
    check_spike_values(values)
    return values.log()


@overridable
def encode(
    pixels: Tensor,
    alpha: float = 3.0,
    polarity: Polarity = "bright-first",
    jitter: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Turn pixel intensities into spike values, optionally with noise on the spike times.

    Parameters
    ----------
    pixels : Tensor
        Intensities of any shape: uint8 (divided by 255), or float32 or float64 in [0, 1].
    alpha, polarity
        As for :func:`pixels_to_times`; exp(alpha) must be finite in the dtype of the result.
    jitter : float
        Standard deviation of Gaussian noise added to the times, in units of tau; 0 or above.
        A jittered time may be negative; its spike value is still above 0.
    generator : torch.Generator, optional
        Source of the noise, on the device of ``pixels``; torch's global one by default. It is
        not touched when ``jitter`` is 0.

    Returns
    -------
    values : Tensor
        Spike values z = exp(t) above 0, of the shape that :func:`pixels_to_times` gives;
        torch's default dtype for uint8, otherwise the dtype of ``pixels``.

    Raises
    ------
    TypeError, ValueError
        As :func:`pixels_to_times`; also if ``jitter`` is negative, infinite or NaN, or if
        ``alpha`` is too large for the dtype.

    Notes
    -----
    Zhou et al., AAAI 2021, section 4.1, where noisy input times trained better than exact ones.
    """
    if not (math.isfinite(jitter) and jitter >= 0):
        raise ValueError(f"jitter must be 0 or a finite number above; got {jitter}")
    times = pixels_to_times(pixels, alpha, polarity)
    latest = math.log(torch.finfo(times.dtype).max)
    if alpha > latest:
        raise ValueError(
            f"alpha must be at most {latest:.1f} in {times.dtype}, else late spikes become "
            f"silent; got {alpha}"
        )
    if jitter > 0:
        noise = torch.randn(
            times.shape, generator=generator, dtype=times.dtype, device=times.device
        )
        times = times + jitter * noise
    return times_to_values(times)


def in_transform(tensor: Tensor) -> bool:
    """Whether vmap or another transform of torch.func runs on a tensor."""
    return not torch.compiler.is_compiling() and is_functorch_wrapped_tensor(tensor)


def has_values(tensor: Tensor) -> bool:
    """Whether checks may read values: not on the meta device, while torch traces, or in vmap."""
    if tensor.is_meta or torch.compiler.is_compiling() or in_transform(tensor):
        return False
    return not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]


def check_spike_values(values: Tensor) -> None:
    """Raise ValueError if a spike value is 0 or negative, if values can be read."""
    if has_values(values) and bool((values <= 0).any()):
        raise ValueError(
            "spike values are exp(t) and must be above 0 (+inf where silent); got "
            f"{values.min().item():g}; if these are spike times, pass times.exp()"
        )


def _check_float(tensor: Tensor, name: str) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch tensor; got {type(tensor).__name__}")
    if tensor.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64; got {tensor.dtype}")


def _intensity(pixels: Tensor) -> Tensor:
    if not isinstance(pixels, Tensor):
        raise TypeError(
            f"pixels must be a torch tensor; got {type(pixels).__name__} (torch.as_tensor "
            "converts a NumPy array)"
        )
    if pixels.dtype == torch.uint8:
        return pixels.to(torch.get_default_dtype()) / 255
    if pixels.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"pixels must be uint8 in 0..255, or float32 or float64 in [0, 1]; got {pixels.dtype}"
        )
    if has_values(pixels) and pixels.numel() > 0:
        low, high = (bound.item() for bound in torch.aminmax(pixels.detach()))
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"float pixels must lie in [0, 1]; got values from {low:g} to {high:g}; divide "
                "by the largest possible intensity first"
            )
    return pixels
