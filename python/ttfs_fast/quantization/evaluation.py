"""Accuracy of an integer network on a data set, alone and compared with its float network."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ttfs_fast.analysis.decisions import Decisions, decisions_of
from ttfs_fast.analysis.evaluate import EvaluationResult, Tally
from ttfs_fast.analysis.evaluate import evaluate as evaluate_float
from ttfs_fast.data import ImageSet
from ttfs_fast.encoding import Encoding
from ttfs_fast.layers import SpikeCounter
from ttfs_fast.quantization.network import IntegerNetwork, first_spikes


def evaluate(
    network: IntegerNetwork,
    image_set: ImageSet,
    *,
    batch_size: int = 200,
    threads: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> EvaluationResult:
    """Run an integer network over a data set and count.

    Parameters
    ----------
    network : IntegerNetwork
        Has one output per class.
    image_set : ImageSet
        The images with their labels.
    batch_size : int
        Images run at a time.
    threads : int, optional
        As when calling the network.
    on_progress : callable, optional
        Called after each batch with the number of images done so far.

    Returns
    -------
    result : EvaluationResult
        As :func:`ttfs_fast.analysis.evaluate` gives it for a float network. ``images_per_second``
        counts the network alone, encoding included.

    Raises
    ------
    ValueError
        If there are no images, or the output does not have one neuron per class.
    """
    images, classes = len(image_set), len(image_set.classes)
    if images == 0:
        raise ValueError(f"the data set {image_set.name!r} has no images to evaluate")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    if network.output_size != (classes, 1, 1):
        raise ValueError(
            f"the network's output has size {network.output_size}; the data set "
            f"{image_set.name!r} has {classes} classes"
        )
    infos = network.layer_infos()
    neurons = [i for i, info in enumerate(infos) if info.kind == "neurons"]
    counter, tally, seconds = SpikeCounter(), Tally(image_set.name, classes), 0.0
    for start in range(0, images, batch_size):
        pixels = image_set.images[start : start + batch_size]
        begin = time.perf_counter()
        network(pixels, threads=threads)
        seconds += time.perf_counter() - begin
        layers = network.layers(pixels, threads=threads)
        for i in neurons:
            spikes = int((layers[i] != network.silent).sum())
            counter.add(f"layer {i + 1}", layers[i].size, spikes)
        output = layers[-1].reshape(len(pixels), classes)
        answers = first_spikes(output, network.silent)
        first = output.min(axis=1)[answers >= 0].astype(np.float64)
        times = float(np.log(first * network.time_scales[-1]).sum())
        tally.add(answers, image_set.labels[start : start + batch_size], times)
        if on_progress is not None:
            on_progress(tally.images)
    return tally.result(counter, sum(network.weight_codes(i).size for i in neurons), seconds)


def decide(
    network: IntegerNetwork,
    images: NDArray[np.uint8],
    *,
    batch_size: int = 200,
    threads: int | None = None,
) -> Decisions:
    """Decisions of an integer network: class, time and runner-up of each image.

    Parameters
    ----------
    network : IntegerNetwork
        Has one output per class.
    images : uint8 array, shape (N, C, H, W)
        Pixels.
    batch_size, threads
        As for :func:`evaluate`.

    Returns
    -------
    decisions : Decisions
        As :func:`ttfs_fast.analysis.decide` gives them; times are those of the output codes. Where
        layers have horizons, these are the times of widened leads (docs/integer.md). They differ
        from those of the network in float; the classes are the same, apart from rounding.

    Raises
    ------
    ValueError
        If the output of the network is not one value per class.
    """
    if network.output_size[1:] != (1, 1):
        raise ValueError(
            f"the network's output has size {network.output_size}; to decide, it must be one value "
            "a class"
        )
    codes = [
        network(images[start : start + batch_size], threads=threads)
        for start in range(0, len(images), batch_size)
    ]
    outputs = np.concatenate(codes) if codes else np.empty((0, network.output_size[0]), np.uint16)
    times = np.log(outputs * network.time_scales[-1])
    return decisions_of(np.where(outputs == network.silent, np.inf, times))


@dataclass(frozen=True, eq=False)
class Comparison:
    """Decisions of a float network and of an integer network on the same images.

    Attributes
    ----------
    images : int
        Images shown.
    counts : int64 array, shape (classes + 1, classes + 1)
        Images by the float network's answer (row) and the integer network's (column); the last of
        each is "no output spike".
    float_correct, integer_correct : int
        Correct answers of each.
    """

    images: int
    counts: NDArray[np.int64]
    float_correct: int
    integer_correct: int

    @property
    def agreement(self) -> float:
        """Fraction of the images with the same decision."""
        return float(np.trace(self.counts)) / self.images


def compare(
    model: nn.Module,
    network: IntegerNetwork,
    image_set: ImageSet,
    *,
    encoding: Encoding | None = None,
    batch_size: int = 200,
    threads: int | None = None,
) -> Comparison:
    """Compare the decisions of a float network and of an integer network.

    Parameters
    ----------
    model : Module
        Maps spike values (N, C, H, W) to (N, classes).
    network, image_set, batch_size, threads
        As for :func:`evaluate`.
    encoding : Encoding, optional
        How the float network sees images; by default the one that it carries.

    Returns
    -------
    comparison : Comparison
    """
    found = evaluate_float(model, image_set, encoding=encoding, batch_size=batch_size)
    integer = [
        network.classify(image_set.images[start : start + batch_size], threads=threads)
        for start in range(0, len(image_set), batch_size)
    ]
    answers = np.concatenate(integer)
    classes = len(image_set.classes)
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    # The last row and column, which -1 names, are of images without an answer.
    np.add.at(counts, (found.answers, answers), 1)
    return Comparison(found.images, counts, found.correct, int((answers == image_set.labels).sum()))
