"""Accuracy, spikes per neuron, spike times and energy of a network on a data set."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ttfs_fast.data import ImageSet, StreamedImages
from ttfs_fast.encoding import Encoding, encoding_of, values_to_times
from ttfs_fast.layers import Neurons, SpikeCounter, evaluating, hook_runs, predict, refuse_nan

JOULE_PER_SPIKE = 10e-12
"""Energy of one spike in the paper's neuron circuit: 10 pJ."""


@dataclass(frozen=True)
class EvaluationResult:
    """Results of a network on a data set.

    Attributes
    ----------
    dataset : str
        Name of the data set.
    images, correct : int
        Images shown, and how many of them were classified correctly. The class is the output
        that spikes first; an image without an output spike counts as wrong.
    confusion : int64 array, shape (C, C + 1)
        Images of each true class (row) by predicted class (column); the last column holds the
        images without an output spike.
    spikes_per_neuron : float
        Fraction of all neurons that spiked, over all images, since a neuron spikes at most once;
        the paper calls it sparsity. It is nan for a network without spiking layers.
    spikes_per_neuron_by_layer : dict of str to float
        The same for each layer.
    first_spike_time : float
        Mean time of the first output spike, in units of tau, over the images that have one; nan
        if none has, and for a network without spiking layers.
    silent_images : int
        Images without an output spike.
    weights : int
        Weights of the spiking layers that ran, biases not counted. A layer that runs at two places
        counts twice, as its neurons do.
    neurons : int
        Neurons of the spiking layers.
    spikes_per_image : float
        Mean number of neuron spikes per image, without input spikes; in all its views.
    images_per_second : float
        Speed of encoding and network together, as measured.
    answers : int64 array, shape (images,)
        Class of each image, in their order; -1 where no output spikes.
    views : int
        How often the network saw each image: 2 if its mirror image counts, too.
    """

    dataset: str
    images: int
    correct: int
    confusion: NDArray[np.int64]
    spikes_per_neuron: float
    spikes_per_neuron_by_layer: dict[str, float]
    first_spike_time: float
    silent_images: int
    weights: int
    neurons: int
    spikes_per_image: float
    images_per_second: float
    answers: NDArray[np.int64]
    views: int = 1

    @property
    def accuracy(self) -> float:
        """Fraction of the images that are classified correctly."""
        return self.correct / self.images

    @property
    def silent_fraction(self) -> float:
        """Fraction of the images without an output spike."""
        return self.silent_images / self.images

    @property
    def energy_by_weights(self) -> float:
        """Joules per image, counted as in the paper: weights x spikes per neuron x 10 pJ a view."""
        return self.views * self.weights * self.spikes_per_neuron * JOULE_PER_SPIKE

    @property
    def energy_by_spikes(self) -> float:
        """Energy of an image in joules at 10 pJ for each neuron that spikes."""
        return self.spikes_per_image * JOULE_PER_SPIKE

    def to_dict(self) -> dict[str, Any]:
        """All results as JSON types; a time that does not exist is None."""
        no_time = math.isnan(self.first_spike_time)
        spiking = not math.isnan(self.spikes_per_neuron)
        return {
            "dataset": self.dataset,
            "images": self.images,
            "views": self.views,
            "correct": self.correct,
            "accuracy": self.accuracy,
            "confusion": self.confusion.tolist(),
            "spikes_per_neuron": self.spikes_per_neuron if spiking else None,
            "spikes_per_neuron_by_layer": self.spikes_per_neuron_by_layer,
            "first_spike_time": None if no_time else self.first_spike_time,
            "silent_images": self.silent_images,
            "silent_fraction": self.silent_fraction,
            "weights": self.weights,
            "neurons": self.neurons,
            "spikes_per_image": self.spikes_per_image,
            "energy_by_weights_joule": self.energy_by_weights if spiking else None,
            "energy_by_spikes_joule": self.energy_by_spikes,
            "images_per_second": self.images_per_second,
        }


class Tally:
    """Answers of a network on a data set, counted batch by batch.

    Parameters
    ----------
    dataset : str
        Name of the data set.
    classes : int
        Number of its classes.
    views : int
        How often the network sees each image.

    Attributes
    ----------
    images : int
        Images counted so far.
    """

    def __init__(self, dataset: str, classes: int, views: int = 1) -> None:
        self._dataset, self._classes, self._views = dataset, classes, views
        self._confusion = np.zeros((classes, classes + 1), np.int64)
        self._answers: list[NDArray[np.integer[Any]]] = []
        self._times = 0.0
        self.images = 0

    def add(
        self, answers: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]], times: float
    ) -> None:
        """Count a batch.

        Parameters
        ----------
        answers : integer array, shape (n,)
            Class of each image; -1 where no output spikes.
        truth : integer array, shape (n,)
            True classes.
        times : float
            Sum of the times of the first output spikes, in units of tau.
        """
        np.add.at(self._confusion, (truth, answers), 1)  # -1 is the last column
        self._answers.append(answers)
        self._times += times
        self.images += len(truth)

    def result(self, counter: SpikeCounter, weights: int, seconds: float) -> EvaluationResult:
        """Everything counted.

        Parameters
        ----------
        counter : SpikeCounter
            Neurons and spikes of the layers, over all images.
        weights : int
            Weights of the spiking layers; 0 if there are none.
        seconds : float
            Duration.

        Raises
        ------
        ValueError
            If no image was counted.
        """
        if self.images == 0:
            raise ValueError(f"the data set {self._dataset!r} has no images to evaluate")
        silent = int(self._confusion[:, -1].sum())
        timed = weights and silent < self.images
        return EvaluationResult(
            dataset=self._dataset,
            images=self.images,
            correct=int(np.trace(self._confusion)),
            confusion=self._confusion,
            spikes_per_neuron=counter.spikes_per_neuron,
            spikes_per_neuron_by_layer=counter.spikes_per_neuron_by_layer,
            first_spike_time=self._times / (self.images - silent) if timed else math.nan,
            silent_images=silent,
            weights=weights,
            neurons=sum(counter.neurons.values()) // (self.images * self._views),
            spikes_per_image=sum(counter.spikes.values()) / self.images,
            images_per_second=self.images / seconds,
            answers=np.concatenate(self._answers, dtype=np.int64),
            views=self._views,
        )


def evaluate(
    model: nn.Module,
    image_set: ImageSet | StreamedImages,
    *,
    encoding: Encoding | None = None,
    batch_size: int = 200,
    jitter: float = 0.0,
    generator: torch.Generator | None = None,
    mirror: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> EvaluationResult:
    """Run a network over a data set and count.

    Parameters
    ----------
    model : torch.nn.Module
        Maps spike values (N, C, H, W) to those of one output neuron per class, (N, classes).
    image_set : ImageSet or StreamedImages
        The images with their labels: in memory, or read as they are needed.
    encoding : Encoding, optional
        How the network sees images; by default the one that it carries.
    batch_size : int
        Images run at a time; streamed images have their own.
    jitter, generator
        Noise on the times of the input spikes; see `ttfs_fast.encoding.encode`.
    mirror : bool
        Show each image and its mirror image, and take the class by the mean of their output spike
        times. An output that is silent in one of them counts as silent. It takes twice the time and
        the spikes.
    on_progress : callable, optional
        Called after each batch with the number of images done so far.

    Returns
    -------
    result : EvaluationResult

    Raises
    ------
    ValueError
        If there are no images, if ``batch_size`` is below 1, if the model's output does not
        have one neuron per class, or if there is no encoding.

    Notes
    -----
    Layers with horizons that are not folded are counted as they train: a layer's neurons are those
    after its pool, and tied weights count once. Call `ttfs_fast.horizon.fold_horizons_` on the
    network first to count the neurons and weights of its plain layers.

    Source: Zhou et al. (AAAI 2021), section 4.1. Its energies count 10 pJ for each weight times
    the fraction of neurons that spike; its circuit section defines 10 pJ as the energy of one
    neuron's spike, which gives far less. Both are reported.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    encoding = encoding_of(model, encoding)
    classes = len(image_set.classes)
    weight = next(model.parameters())
    counter = SpikeCounter()
    weights: dict[str, int] = {}

    def count(name: str, layer: Neurons, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counter(name, output)
        if name not in weights:
            weights[name] = layer.weight.numel()

    tally = Tally(image_set.name, classes, 2 if mirror else 1)
    begin = time.perf_counter()
    with evaluating(model), hook_runs(model, count):
        batches = encoded_batches(
            image_set,
            encoding,
            batch_size,
            weight.dtype,
            jitter=jitter,
            generator=generator,
        )
        for values, truth in batches:
            output = model(values.to(weight.device)).cpu()
            if mirror:
                mirrored = model(values.to(weight.device).flip(-1)).cpu()
                output = output.sqrt() * mirrored.sqrt()  # the mean of the times
            if output.shape != (len(truth), classes):
                raise ValueError(
                    f"the model's output has shape {tuple(output.shape)}; the data set "
                    f"{image_set.name!r} has {classes} classes, so it must be "
                    f"{(len(truth), classes)}"
                )
            refuse_nan(output)
            answer = predict(output)
            first = output.amin(dim=1)[answer >= 0].to(torch.float64)
            tally.add(answer.numpy(), truth.numpy(), float(values_to_times(first).sum()))
            if on_progress is not None:
                on_progress(tally.images)
    seconds = time.perf_counter() - begin
    return tally.result(counter, sum(weights.values()), seconds)


def encoded_batches(
    image_set: ImageSet | StreamedImages,
    encoding: Encoding,
    batch_size: int,
    dtype: torch.dtype,
    *,
    jitter: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Spike values and classes, batch by batch."""
    for pixels, truth in _shown(image_set, batch_size):
        shown = pixels.to(dtype)
        if pixels.dtype == torch.uint8:
            shown /= 255
        yield encoding(shown, jitter=jitter, generator=generator), truth


def _shown(
    image_set: ImageSet | StreamedImages, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels, as bytes or in [0, 1], and classes, batch by batch."""
    if isinstance(image_set, StreamedImages):
        yield from image_set.epoch(0)
        return
    pixels, labels = image_set.images_as_tensor(), image_set.labels_as_tensor()
    for start in range(0, len(labels), batch_size):
        some = slice(start, start + batch_size)
        yield pixels[some], labels[some]
