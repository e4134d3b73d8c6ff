"""Disturbed networks: noisy weights, and spikes that come early, late or not at all.

`perturbed` disturbs a network inside a ``with`` block; `evaluate_perturbed` tests a disturbed
network on a data set. docs/reproduction.md shows what the MNIST network tolerates.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ttfs_fast.analysis.evaluate import EvaluationResult, evaluate
from ttfs_fast.data import ImageSet, StreamedImages
from ttfs_fast.encoding import Encoding
from ttfs_fast.layers import Layer, hook_runs, layer_places, spiking_layers
from ttfs_fast.nn import is_computed

MOST_DECIBELS = 300.0
"""Largest ratio of weights to noise, either way, that a float can express."""


@dataclass(frozen=True)
class Perturbation:
    """Disturbances of a network; by default none.

    Attributes
    ----------
    weight_snr : float
        Gaussian noise on the weights, as the ratio of signal to noise in dB: in every layer its
        variance is the mean square of the layer's weights over 10^(snr / 10). The weights of the
        bias neurons are weights like the others. inf for none.
    input_jitter : float
        Standard deviation of Gaussian noise on the times of the input spikes, in units of tau.
    output_jitter : float
        Standard deviation of Gaussian noise on the time of every neuron's spike, as a fraction of
        that time. The paper's measure of jitter, the mean of ``|t - t0| / t0``, is sqrt(2 / pi) =
        0.80 of it. A spike moved beyond its layer's horizon is dropped.
    dropped : float
        Probability, from 0 to 1, that a spike is lost on its way to the next layer: of the inputs,
        and of every layer but the last. Drawn again for every image.
    stuck_silent : float
        Fraction of the neurons, of every layer but the last, that never spike. The neurons are
        drawn once and are the same for all images, like defects of a chip.
    stuck_early : float
        Likewise, neurons that spike at t = 0 for any input.
    t_max : float
        Horizon: a neuron that would spike later does not. In units of tau; inf for none. Layers
        with an earlier horizon of their own keep it.

    Raises
    ------
    ValueError
        If a value is outside what is allowed; the message names it.
    """

    weight_snr: float = math.inf
    input_jitter: float = 0.0
    output_jitter: float = 0.0
    dropped: float = 0.0
    stuck_silent: float = 0.0
    stuck_early: float = 0.0
    t_max: float = math.inf

    def __post_init__(self) -> None:
        if math.isnan(self.t_max) or self.t_max == -math.inf:
            raise ValueError(f"t_max must be a number, or inf for none; got {self.t_max}")
        if not (self.weight_snr == math.inf or abs(self.weight_snr) <= MOST_DECIBELS):
            raise ValueError(
                f"weight_snr must be a number of dB from {-MOST_DECIBELS:g} to {MOST_DECIBELS:g}, "
                f"or inf for none; got {self.weight_snr}"
            )
        for name in ("input_jitter", "output_jitter"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be 0 or a finite number above; got {value}")
        for name in ("dropped", "stuck_silent", "stuck_early"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1; got {value}")
        if self.stuck_silent + self.stuck_early > 1:
            raise ValueError(
                "stuck_silent and stuck_early must add up to at most 1; "
                f"got {self.stuck_silent} and {self.stuck_early}"
            )

    @property
    def spares_outputs(self) -> bool:
        """Whether every layer but the last is disturbed, so that the last layer must be known."""
        return bool(self.stuck_silent or self.stuck_early or self.dropped)


def draw_generator(seed: int, draw: int) -> torch.Generator:
    """The random generator of one draw, which depends only on the two numbers.

    Levels of a sweep that use the same draw share their random numbers, so that curves are smooth.

    Parameters
    ----------
    seed, draw : int
        Not negative.
    """
    state = np.random.SeedSequence([seed, draw]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


@contextmanager
def perturbed(
    model: nn.Module, perturbation: Perturbation, generator: torch.Generator
) -> Iterator[None]:
    """Disturb a network inside the ``with`` block; afterwards it is restored to the last bit.

    Parameters
    ----------
    model : Module
        Maps spike values to spike values; its spiking layers run in the order of its modules. A
        layer that stands at two places has neurons of its own at each, and its weights once.
    perturbation : Perturbation
        The disturbances.
    generator : torch.Generator
        Source of all that is random, on the CPU. Weights and stuck neurons are drawn once; what
        happens to spikes is drawn for every image that passes.

    Raises
    ------
    ValueError
        If the model has no spiking layer, or weights are to be disturbed that are computed from
        others (quantized or centered ones): fold them first. In a pass through the model, if
        spikes are lost or neurons stuck in every layer but the last, and another layer than the
        last of the modules runs last.
    """
    layers = spiking_layers(model)
    last = list(layer_places(model))[-1]
    horizons = {name: layer.t_max for name, layer in layers.items()}
    saved = _noisy_weights(layers, perturbation.weight_snr, generator)
    disturb = _OutputHook(perturbation, generator, last)
    at_input = _input_hook(perturbation, generator)
    try:
        for layer in layers.values():
            layer.t_max = min(layer.t_max, perturbation.t_max)
        with ExitStack() as handles:
            if at_input is not None:
                handles.callback(model.register_forward_pre_hook(at_input).remove)
            handles.enter_context(hook_runs(model, disturb))
            if perturbation.spares_outputs:
                handles.callback(model.register_forward_hook(disturb.check_last).remove)
            yield
    finally:
        for name, layer in layers.items():
            layer.t_max = horizons[name]
        with torch.no_grad():
            for parameter, values in saved:
                parameter.copy_(values)


def evaluate_perturbed(
    model: nn.Module,
    image_set: ImageSet | StreamedImages,
    perturbation: Perturbation,
    *,
    seed: int = 0,
    draw: int = 0,
    encoding: Encoding | None = None,
    batch_size: int = 200,
) -> EvaluationResult:
    """Test a disturbed network on a data set.

    Parameters
    ----------
    model, image_set, encoding, batch_size
        As for `ttfs_fast.analysis.evaluate`. ``batch_size`` is part of what decides the random
        numbers.
    perturbation : Perturbation
        The disturbances.
    seed, draw : int
        See `draw_generator`.

    Returns
    -------
    result : EvaluationResult

    Examples
    --------
    >>> from ttfs_fast.data import load
    >>> from ttfs_fast.models import mnist_scnn
    >>> from ttfs_fast.analysis.robustness import Perturbation, evaluate_perturbed
    >>> digits = load("digits", train=False)
    >>> evaluate_perturbed(mnist_scnn(), digits, Perturbation(weight_snr=25.0)).images
    360
    """
    with perturbed(model, perturbation, draw_generator(seed, draw)):
        return evaluate(model, image_set, encoding=encoding, batch_size=batch_size)


def signal_to_noise(weight: Tensor, changed: Tensor) -> float:
    """Ratio of a weight to its change, in dB: 10 log10(sum w^2 / sum (w' - w)^2); inf for none."""
    power = _power(weight)
    noise = _power(changed.detach().double() - weight.detach().double())
    return (
        10 * math.log10(power / noise) if noise and power else math.inf if not noise else -math.inf
    )


def _power(values: Tensor) -> float:
    """Sum of squares; by numpy, whose sums do not depend on the number of threads."""
    return float(np.square(values.detach().cpu().double().numpy()).sum())


def _noisy_weights(
    layers: dict[str, Layer], snr: float, generator: torch.Generator
) -> list[tuple[nn.Parameter, Tensor]]:
    """Adds noise to the weights and biases; returns them with the values they had."""
    if snr == math.inf:
        return []
    for name, layer in layers.items():
        if is_computed(layer, "weight") or is_computed(layer, "bias"):
            raise ValueError(
                f"{name}: its weights are computed from others; fold them first (fold_, "
                "dequantize_, prune.remove), then disturb them"
            )
    saved: dict[nn.Parameter, Tensor] = {}
    with torch.no_grad():
        for layer in layers.values():
            # Layers that share a parameter get its noise once.
            parameters = [p for p in (layer.weight, layer.bias) if p is not None and p not in saved]
            count = sum(p.numel() for p in parameters)
            power = sum(map(_power, parameters)) / max(count, 1)
            deviation = math.sqrt(power / 10 ** (snr / 10))
            for parameter in parameters:
                saved[parameter] = parameter.clone()
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(noise.to(parameter.device), alpha=deviation)
    return list(saved.items())


def _input_hook(p: Perturbation, generator: torch.Generator) -> Callable[..., Any] | None:
    if not (p.input_jitter or p.dropped):
        return None

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = inputs[0]
        if p.input_jitter:
            values = values * (p.input_jitter * _normal(values, generator)).exp()
        return (_drop(values, p.dropped, generator), *inputs[1:])

    return hook


class _OutputHook:
    """Disturbs the spikes of a layer, after each of its runs in a pass."""

    def __init__(self, p: Perturbation, generator: torch.Generator, last: str) -> None:
        self._p, self._generator, self._last = p, generator, last
        self._ran = ""
        self._fates: dict[str, Tensor] = {}  # of the neurons, by the name of the run

    def __call__(
        self, name: str, layer: Layer, inputs: tuple[Tensor, ...], output: Tensor
    ) -> Tensor:
        p, generator, values = self._p, self._generator, output
        self._ran = name
        if p.output_jitter:
            # t (1 + s n) is z^(1 + s n); a silent neuron stays silent.
            factor = 1 + p.output_jitter * _normal(values, generator)
            values = torch.where(values.isfinite(), values**factor, values)
            if layer.t_max < math.inf:
                values = values.masked_fill(values.log() > layer.t_max, math.inf)
        if name == self._last:
            return values
        if p.stuck_silent or p.stuck_early:
            if name not in self._fates:
                self._fates[name] = torch.rand(values.shape[1:], generator=generator)
            fate = self._fates[name]
            values = values.masked_fill((fate < p.stuck_silent).to(values.device), math.inf)
            early = (fate >= 1 - p.stuck_early).to(values.device)
            values = values.masked_fill(early, 1.0)
        return _drop(values, p.dropped, generator)

    def check_last(self, model: nn.Module, inputs: Any, output: Any) -> None:
        """Refuses a pass in which another layer ran last than the one that is left whole."""
        if self._ran != self._last:
            raise ValueError(
                f"the last spiking layer of the modules is {self._last}, but the last to run is "
                f"{self._ran}: register the layers in the order in which they run, one for each run"
            )


def _normal(values: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(values.shape, generator=generator, dtype=values.dtype)
    return noise.to(values.device)


def _drop(values: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    if not fraction:
        return values
    lost = torch.rand(values.shape, generator=generator) < fraction
    return values.masked_fill(lost.to(values.device), math.inf)
