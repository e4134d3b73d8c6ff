"""Spike times of the neurons of a network, and the time of its decision."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ttfs_fast.analysis.evaluate import encoded_batches
from ttfs_fast.data import ImageSet, StreamedImages
from ttfs_fast.encoding import Encoding, encoding_of
from ttfs_fast.layers import SpikeRecorder, evaluating, predict, refuse_nan, watch_layers
from ttfs_fast.nn import refuse_sisters

INPUT = "input"


@dataclass(frozen=True)
class SpikeTiming:
    """Spike times of a network on a data set. All times are in units of tau.

    Attributes
    ----------
    edges : float64 array, shape (bins + 1,)
        Bounds of the bins of ``histograms``.
    histograms : dict of str to int64 array, shape (bins,)
        Spikes of the input (``"input"``) and of each layer by time, over all images. Spikes beyond
        the last edge are counted in the last bin.
    silent : dict of str to int
        Neurons without a spike, likewise.
    decision : float64 array, shape (images,)
        Time of the first output spike; inf if there is none.
    margin : float64 array, shape (images,)
        Time from the first output spike to the second; inf if there is no second.
    last : float64 array, shape (images,)
        Time of the last spike of all layers; -inf if there is none.
    correct : bool array, shape (images,)
        Whether the output that spikes first is the right one.
    spikes, spikes_by_decision : int
        Spikes of all neurons over the images that are decided, and how many of them come no later
        than the decision.
    """

    edges: NDArray[np.float64]
    histograms: dict[str, NDArray[np.int64]]
    silent: dict[str, int]
    decision: NDArray[np.float64]
    margin: NDArray[np.float64]
    last: NDArray[np.float64]
    correct: NDArray[np.bool_]
    spikes: int
    spikes_by_decision: int

    @property
    def fraction_by_decision(self) -> float:
        """Fraction of a decided image's spikes no later than the decision; nan if none."""
        return self.spikes_by_decision / self.spikes if self.spikes else math.nan

    def decided(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fraction of the images that are decided by each of ``times``."""
        ordered = np.sort(self.decision[np.isfinite(self.decision)])
        return np.searchsorted(ordered, times, side="right") / max(len(self.decision), 1)

    def decided_right(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fraction of the images that are decided correctly by each of ``times``."""
        ordered = np.sort(self.decision[self.correct])
        return np.searchsorted(ordered, times, side="right") / max(len(self.decision), 1)


def spike_timing(
    model: nn.Module,
    image_set: ImageSet | StreamedImages,
    *,
    encoding: Encoding | None = None,
    batch_size: int = 200,
    max_time: float = 8.0,
    bins: int = 80,
    on_progress: Callable[[int], None] | None = None,
) -> SpikeTiming:
    """Run a network over a data set and record its spike times.

    Parameters
    ----------
    model, image_set, encoding, batch_size, on_progress
        As for `ttfs_fast.analysis.evaluate`.
    max_time : float
        Upper bound of the histograms, in units of tau; their lower bound is 0.
    bins : int
        Bins of the histograms.

    Returns
    -------
    timing : SpikeTiming

    Raises
    ------
    ValueError
        If there are no images, ``max_time`` or ``bins`` is not above 0, or a layer is on spike
        times.

    Notes
    -----
    Zhou et al. (AAAI 2021), section 3.2: the class is decided at the first spike among the output
    neurons, so later spikes need not be computed.
    """
    if bins < 1 or not (max_time > 0 and math.isfinite(max_time)) or batch_size < 1:
        raise ValueError(
            "bins and batch_size must be at least 1, and max_time finite and above 0; got "
            f"{bins}, {batch_size} and {max_time}"
        )
    encoding = encoding_of(model, encoding)
    refuse_sisters(model, "this analysis")
    edges = np.linspace(0.0, max_time, bins + 1)
    weight = next(model.parameters())
    histograms: dict[str, NDArray[np.int64]] = {}
    silent: dict[str, int] = {}
    decision, margin, last, correct = [], [], [], []
    spikes = by_decision = 0
    with evaluating(model):
        for values, truth in encoded_batches(image_set, encoding, batch_size, weight.dtype):
            recorder = SpikeRecorder()
            with watch_layers(model, recorder):
                output = model(values.to(weight.device)).cpu()
            first = _times(output.amin(dim=1))
            final = np.full(len(truth), -math.inf)
            for name, found in with_input(values, recorder):
                times = _times(found).reshape(len(truth), -1)
                spiked = np.isfinite(times)
                counts = np.histogram(times[spiked].clip(edges[0], edges[-1]), edges)[0]
                histograms[name] = histograms.get(name, 0) + counts.astype(np.int64)
                silent[name] = silent.get(name, 0) + int((~spiked).sum())
                if name != INPUT:
                    final = np.maximum(final, np.where(spiked, times, -math.inf).max(axis=1))
                    decided = spiked & np.isfinite(first)[:, None]
                    spikes += int(decided.sum())
                    by_decision += int((decided & (times <= first[:, None])).sum())
            ordered = np.sort(_times(output), axis=1)
            second = ordered[:, 1] if ordered.shape[1] > 1 else np.full(len(truth), math.inf)
            decision.append(first)
            margin.append(
                np.where(
                    np.isfinite(second), second - np.where(np.isfinite(first), first, 0), math.inf
                )
            )
            last.append(final)
            refuse_nan(output)
            correct.append((predict(output) == truth).numpy())
            if on_progress is not None:
                on_progress(sum(map(len, decision)))
    if not decision:
        raise ValueError(f"the data set {image_set.name!r} has no images to run")
    return SpikeTiming(
        edges,
        histograms,
        silent,
        np.concatenate(decision),
        np.concatenate(margin),
        np.concatenate(last),
        np.concatenate(correct),
        spikes,
        by_decision,
    )


def with_input(values: Tensor, recorder: SpikeRecorder) -> list[tuple[str, Tensor]]:
    """The spikes of the pixels, named `INPUT`, then of the layers; one of that name is renamed."""
    layers = recorder.values.items()
    named = [(f"{name} (layer)" if name == INPUT else name, found) for name, found in layers]
    return [(INPUT, values), *named]


def _times(values: Any) -> NDArray[np.float64]:
    times: NDArray[np.float64] = values.detach().cpu().double().log().numpy()
    return times
