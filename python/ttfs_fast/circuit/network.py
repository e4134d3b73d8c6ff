"""Trained networks as circuits: real input spikes, and every neuron simulated as a circuit."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import unfold

from ttfs_fast.circuit.energy import NetworkEnergy, simulated_energy
from ttfs_fast.circuit.parameters import CircuitParameters, Nonidealities
from ttfs_fast.circuit.simulation import Model, simulate
from ttfs_fast.data import ImageSet
from ttfs_fast.encoding import Encoding, encoding_of
from ttfs_fast.functional import spiking_conv2d, spiking_linear
from ttfs_fast.layers import (
    Layer,
    evaluating,
    hook_runs,
    layer_places,
    pad_silent,
    predict,
    spiking_layers,
)
from ttfs_fast.nn import SpikingConv2d, SpikingLinear, refuse_sisters

DURATION = 8.0
"""Default length of a simulation, in units of tau: later neurons are silent."""

_NEURONS_PER_CALL = 200_000


@dataclass(frozen=True)
class LayerResult:
    """Neurons of one layer, as circuits and by the closed form, for the same input spikes.

    Attributes
    ----------
    layer : str
    ideal, circuit : array, shape (neurons,)
        Spike times in units of tau, +inf for silent.
    peak_error : array, shape (neurons,)
        Largest phase error of each neuron's loop until it fires, rad; above pi / 2 a real detector
        folds over.
    energy : NetworkEnergy
    duration : float
        Length of the simulation, in units of tau: at most the layer's horizon.
    """

    layer: str
    ideal: NDArray[np.float64]
    circuit: NDArray[np.float64]
    peak_error: NDArray[np.float64]
    energy: NetworkEnergy
    duration: float

    @property
    def both(self) -> NDArray[np.bool_]:
        """Neurons that fire in both models within the simulated time."""
        return np.isfinite(self.circuit) & (self.ideal <= self.duration)

    @property
    def deviations(self) -> NDArray[np.float64]:
        """Circuit minus closed form, in units of tau, of the neurons that fire in both."""
        return self.circuit[self.both] - self.ideal[self.both]

    @property
    def jitter(self) -> float:
        """Mean of ``|t - t0|`` / t0 of the neurons that fire in both (paper's definition).

        Neurons whose ideal time is 0 are left out; nan if no neuron remains.
        """
        ideal = self.ideal[self.both]
        ratios = np.abs(self.deviations[ideal > 0]) / ideal[ideal > 0]
        return float(ratios.mean()) if ratios.size else math.nan

    @property
    def lost(self) -> int:
        """Neurons that fire by the closed form only."""
        return int(((self.ideal <= self.duration) & ~np.isfinite(self.circuit)).sum())

    @property
    def extra(self) -> int:
        """Neurons that fire as circuits only."""
        return int((np.isfinite(self.circuit) & ~(self.ideal <= self.duration)).sum())


@dataclass(frozen=True)
class NetworkResult:
    """A network on a data set, by the closed form and with every neuron as a circuit.

    Attributes
    ----------
    images : int
    correct_ideal, correct_circuit : int
        Images classified correctly.
    same_answer : int
        Images with the same answer from both.
    layers : dict of str to LayerResult
        Each layer's neurons, over all images. The inputs of a layer are the spikes of the circuits
        of the layer before, so deviations accumulate along the network as on a chip.
    energy_per_image : float
        Joules of all neurons, silent ones included.
    parameters : dict of str to CircuitParameters
        Those of each layer: `phase_per_weight` fitted to its currents.
    """

    images: int
    correct_ideal: int
    correct_circuit: int
    same_answer: int
    layers: dict[str, LayerResult]
    energy_per_image: float
    parameters: dict[str, CircuitParameters]

    @property
    def accuracy_ideal(self) -> float:
        return self.correct_ideal / self.images

    @property
    def accuracy_circuit(self) -> float:
        return self.correct_circuit / self.images


def receptive_fields(layer: Layer, values: Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    """A layer's neurons as rows of inputs and rows of weights.

    Parameters
    ----------
    layer : SpikingLinear or SpikingConv2d
        Not grouped.
    values : Tensor
        Spike values that the layer receives, shape (N, ...) as the layer takes it.

    Returns
    -------
    times : float64 array, shape (fields, inputs)
        Spike times in units of tau; one field per image, or one per output pixel, image after
        image. With a bias the last input spikes at 0.
    weights : float64 array, shape (outputs, inputs)
        Neuron (field, output) takes one row of each.

    Raises
    ------
    ValueError
        If the convolution has groups.
    """
    refuse_sisters(layer, "a network of circuits")
    weight = layer.weight.detach().to(torch.float64)
    z = values.detach().to(torch.float64)
    if isinstance(layer, SpikingConv2d):
        if layer.groups != 1:
            raise ValueError("a grouped convolution cannot be simulated as circuits")
        padded = pad_silent(layer, z)
        fields = unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
        z = fields.transpose(1, 2).reshape(-1, fields.shape[1])
    else:
        z = z.reshape(-1, z.shape[-1])
    weight = weight.flatten(1)
    if layer.bias is not None:
        z = torch.cat([z, z.new_ones(len(z), 1)], dim=1)
        weight = torch.cat([weight, layer.bias.detach().to(torch.float64)[:, None]], dim=1)
    return z.log().numpy(), weight.numpy()


def fit_to_layer(
    parameters: CircuitParameters, layer: Layer, values: Tensor, *, duration: float = DURATION
) -> CircuitParameters:
    """Scale `phase_per_weight` down, if necessary, so that no loop leaves its detector's range.

    The membrane's threshold is scaled too, so the spike time of a neuron without noise does not
    change. The smaller the phases, the larger the effect of phase noise and of the edges.

    Parameters
    ----------
    parameters : CircuitParameters
    layer, values
        See `receptive_fields`; the spikes of typical images.
    duration : float
        Time simulated, in units of tau, or the layer's horizon if that comes before.

    Returns
    -------
    parameters : CircuitParameters
        Whose phase errors stay below 95 % of pi / 2 for these spikes.
    """
    times, weights = receptive_fields(layer, values)
    duration = _end(layer, duration)
    peak = 0.0
    for start in range(0, len(times), max(1, _NEURONS_PER_CALL // len(weights))):
        part = times[start : start + max(1, _NEURONS_PER_CALL // len(weights))]
        result = _simulate_fields(parameters, part, weights, duration=duration)
        peak = max(peak, float(result.peak_error.max(initial=0.0)))
    most = 0.95 * math.pi / 2
    if peak <= most:
        return parameters
    factor = most / peak
    phase, frequency = parameters.threshold_phase, parameters.threshold_frequency
    middle = parameters.middle_frequency
    return dataclasses.replace(
        parameters,
        phase_per_weight=parameters.phase_per_weight * factor,
        threshold_phase=None if phase is None else phase * factor,
        threshold_frequency=None if frequency is None else middle + (frequency - middle) * factor,
    )


def simulate_layer(
    parameters: CircuitParameters,
    layer: Layer,
    values: Tensor,
    *,
    name: str = "layer",
    neurons: int | None = None,
    noise: Nonidealities | None = None,
    model: Model = "averaged",
    duration: float = DURATION,
    seed: int = 0,
    first_trial: int = 0,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> LayerResult:
    """Simulate a layer's neurons as circuits and compare with the closed form.

    Parameters
    ----------
    parameters : CircuitParameters
        `fit_to_layer` makes them suit the layer.
    layer, values
        See `receptive_fields`.
    name : str
        For the result.
    neurons : int, optional
        Simulate that many neurons, drawn at random; all by default.
    noise, model, seed, first_trial, threads, progress
        See `simulate`. The chip of a neuron is its place in the layer, the same for every image.
    duration : float
        Time simulated, in units of tau, or the layer's horizon if that comes before; what would
        fire later is silent.

    Returns
    -------
    result : LayerResult
        Neurons in the order of the layer's output, channels last: field by field.

    Raises
    ------
    ValueError
        If all inputs, and all neurons that spike, spike after ``duration``.
    """
    times, weights = receptive_fields(layer, values)
    asked, begin = duration, float(values.detach().amin()) if values.numel() else math.inf
    duration = _end(layer, duration)
    count = len(times) * len(weights)
    chosen = np.arange(count)
    if neurons is not None and neurons < count:
        chosen = np.sort(np.random.default_rng(seed).choice(count, neurons, replace=False))
    with torch.no_grad():
        outputs = _in_double(layer, values)
    ideal = _channels_last(outputs).log().numpy()[chosen]
    if math.log(begin) >= asked and np.isfinite(ideal).any() and not (ideal <= duration).any():
        raise ValueError(
            f"the first input spike of {name} comes at {math.log(begin):.4g} tau, and {asked:g} "
            "tau are simulated: give a longer duration"
        )
    per_image = max(1, count // max(1, len(values)))
    first = parameters.seconds(times.min(axis=1, initial=np.inf))
    results, energies = [], []
    for start in range(0, len(chosen), _NEURONS_PER_CALL):
        picked = chosen[start : start + _NEURONS_PER_CALL]
        field, row = np.divmod(picked, len(weights))
        fields, time_rows = np.unique(field, return_inverse=True)

        def advance(done: int, before: int = start) -> None:
            if progress is not None:
                progress(before + done)

        result = simulate(
            parameters,
            parameters.seconds(times[fields]),
            weights,
            time_rows=time_rows,
            weight_rows=row,
            chips=picked % per_image,
            noise=noise,
            model=model,
            duration=float(parameters.seconds(duration)),
            seed=seed,
            first_trial=first_trial + start,
            threads=threads,
            progress=advance,
        )
        results.append(result)
        energies.append(simulated_energy(parameters, result, first[field]))
    fire = np.concatenate([np.empty(0), *(result.fire_times for result in results)])
    peak = np.concatenate([np.empty(0), *(result.peak_error for result in results)])
    return LayerResult(name, ideal, parameters.network_time(fire), peak, _sum(energies), duration)


def simulate_network(
    network: nn.Module,
    image_set: ImageSet,
    parameters: CircuitParameters | None = None,
    *,
    images: int | None = None,
    noise: Nonidealities | None = None,
    model: Model = "averaged",
    duration: float = DURATION,
    encoding: Encoding | None = None,
    batch_size: int = 20,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> NetworkResult:
    """Run a network with every neuron as a circuit, layer by layer, and count correct answers.

    The circuits' spike times, with all their deviations, are the next layer's input spikes.

    Parameters
    ----------
    network : torch.nn.Module
        Maps spike values (N, C, H, W) to (N, classes).
    image_set : ImageSet
    parameters : CircuitParameters, optional
        Fitted to each layer's currents on the first images (`fit_to_layer`).
    images : int, optional
        Only the first N images.
    noise, model, seed, threads
        See `simulate`.
    duration : float
        Time simulated in each layer, in units of tau, or its horizon if that comes before.
    encoding : Encoding, optional
        How the network sees images; by default the one that it carries.
    batch_size : int
        Images at a time.
    progress : callable, optional
        Called with the number of images done.

    Returns
    -------
    result : NetworkResult
        It contains the times of every neuron: 170 kB per image for the MNIST network.

    Raises
    ------
    ValueError
        If `images` or `batch_size` is below 1, or a layer has no circuit.
    """
    total = len(image_set.labels) if images is None else min(images, len(image_set.labels))
    if total < 1 or batch_size < 1:
        raise ValueError(f"images and batch_size must be at least 1; got {total}, {batch_size}")
    encoding = encoding_of(network, encoding)
    base = parameters or CircuitParameters()
    weight = next(iter(spiking_layers(network).values())).weight
    pixels, labels = image_set.images_as_tensor()[:total], image_set.labels_as_tensor()[:total]
    found: dict[str, list[LayerResult]] = {}
    numbers = {name: number for number, name in enumerate(layer_places(network))}
    fitted: dict[str, CircuitParameters] = {}
    done = 0

    def hook(name: str, layer: Layer, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if name not in fitted:
            fitted[name] = fit_to_layer(base, layer, inputs[0][:5], duration=duration)
        per_image = output[0].numel()
        result = simulate_layer(
            fitted[name],
            layer,
            inputs[0],
            name=name,
            noise=noise,
            model=model,
            duration=duration,
            seed=_layer_seed(seed, numbers.setdefault(name, len(numbers))),
            first_trial=done * per_image,
            threads=threads,
        )
        found.setdefault(name, []).append(result)
        values = torch.from_numpy(result.circuit).exp().to(output.dtype)
        if output.ndim == 4:
            n, c, h, w = output.shape
            return values.view(n, h, w, c).permute(0, 3, 1, 2).contiguous()
        return values.view(output.shape)

    right = {"ideal": 0, "circuit": 0, "same": 0}
    with evaluating(network):
        for done in range(0, total, batch_size):
            part = slice(done, min(done + batch_size, total))
            values = encoding(pixels[part].to(weight.dtype).div_(255.0))
            truth = labels[part]
            ideal = predict(network(values))
            with hook_runs(network, hook):
                circuit = predict(network(values))
            right["ideal"] += int((ideal == truth).sum())
            right["circuit"] += int((circuit == truth).sum())
            right["same"] += int((circuit == ideal).sum())
            if progress is not None:
                progress(part.stop)
    results = {name: _join(parts) for name, parts in found.items()}
    joules = sum(result.energy.total for result in results.values())
    return NetworkResult(
        total, right["ideal"], right["circuit"], right["same"], results, joules / total, fitted
    )


def _simulate_fields(
    parameters: CircuitParameters,
    times: NDArray[Any],
    weights: NDArray[Any],
    *,
    duration: float,
) -> Any:
    count = len(times) * len(weights)
    rows = np.arange(count)
    return simulate(
        parameters,
        parameters.seconds(times),
        weights,
        time_rows=rows // len(weights),
        weight_rows=rows % len(weights),
        duration=float(parameters.seconds(duration)),
    )


def _layer_seed(seed: int, number: int) -> int:
    """A seed for each layer; those of neighboring seeds have nothing in common."""
    return int(
        np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )


def _end(layer: Layer, duration: float) -> float:
    """When a layer's circuits stop, in units of tau: no neuron fires after its horizon."""
    if not layer.t_max > 0:
        raise ValueError(
            f"a layer has the horizon {layer.t_max}; a circuit's time begins at t = 0, so its "
            "horizon must be later"
        )
    return min(duration, layer.t_max)


def _in_double(layer: Layer, values: Tensor) -> Tensor:
    """The layer's output in double precision (past its hooks, one of which may be calling)."""
    z, weight = values.to(torch.float64), layer.weight.detach().to(torch.float64)
    bias = None if layer.bias is None else layer.bias.detach().to(torch.float64)
    if isinstance(layer, SpikingLinear):
        return spiking_linear(z, weight, bias, t_max=layer.t_max)
    return spiking_conv2d(
        z,
        weight,
        bias,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        t_max=layer.t_max,
    )


def _channels_last(output: Tensor) -> Tensor:
    return (output.permute(0, 2, 3, 1) if output.ndim == 4 else output).reshape(-1)


def _sum(energies: list[NetworkEnergy]) -> NetworkEnergy:
    return NetworkEnergy(
        sum(e.total for e in energies),
        sum(e.spiking for e in energies),
        sum(e.spikes for e in energies),
        sum(e.neurons for e in energies),
    )


def _join(parts: list[LayerResult]) -> LayerResult:
    return LayerResult(
        parts[0].layer,
        np.concatenate([part.ideal for part in parts]),
        np.concatenate([part.circuit for part in parts]),
        np.concatenate([part.peak_error for part in parts]),
        _sum([part.energy for part in parts]),
        parts[0].duration,
    )
