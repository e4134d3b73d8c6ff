"""Conversion between event streams of cameras or microphones and first-spike tensors.

A stream is a numpy structured array with the fields x, y, t and p (column, row, time, polarity), as
in tonic and the readers of most event data sets. A neuron of this package takes one spike from each
input, so only the first event of each pixel and polarity is used.
"""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttfs_fast.encoding import check_spike_values

EVENT_TYPE = np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", np.bool_)])
"""One event in tonic's format: column, row, time in microseconds, polarity."""

TIME_LIMITS = np.iinfo(np.int64)
"""Limits of a time in such an event."""


def events_to_values(
    events: NDArray[Any],
    sensor_size: Sequence[int],
    time_constant: float,
    *,
    start: float = 0.0,
    stop: float = math.inf,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """First event of each pixel and polarity, as a spike value.

    Parameters
    ----------
    events : structured array
        Fields x (column), t (time, in any unit) and, unless the sensor has one row or one polarity,
        y (row) and p (polarity, counted from 0, or bool); shape (events,), in any order.
    sensor_size : (width, height, polarities)
        Of the sensor, in tonic's order; a data set of tonic has it as ``sensor_size``.
    time_constant : float
        Length of tau, in the unit of t: with t in microseconds, 10,000 makes a synapse decay in 10
        ms.
    start, stop : float
        The window, in the unit of t: events before `start`, and at `stop` or later, are left out.
        `start` becomes t = 0 and z = 1, the time at which the bias of a layer spikes. Integer times
        with an integer `start` keep all their digits, even as nanoseconds since 1970.
    dtype : torch.dtype
        float32 or float64.

    Returns
    -------
    Tensor
        Spike values z = exp((t - start) / time_constant), shape (polarities, height, width), 1 or
        above; ``inf`` where no event is in the window.

    Raises
    ------
    TypeError
        If `events` is not a structured array with these fields, they are not numbers, or `dtype` is
        another type.
    ValueError
        If an event lies outside the sensor or between its pixels, or has no finite time, a number
        is out of its range, or a spike value would exceed `dtype`.

    See Also
    --------
    values_to_events : The inverse.

    Examples
    --------
    >>> import numpy as np
    >>> from ttfs_fast.events import EVENT_TYPE, events_to_values
    >>> events = np.array([(1, 0, 0, True), (0, 0, 7000, True), (1, 0, 9000, True)], EVENT_TYPE)
    >>> events_to_values(events, (2, 1, 2), time_constant=10_000)
    tensor([[[   inf,    inf]],
    <BLANKLINE>
            [[2.0138, 1.0000]]])
    """
    shape = _shape(sensor_size)
    start, stop = _exact(start), _exact(stop)
    _check_scale(time_constant, start)
    if not stop > start:
        raise ValueError(f"the window is empty: stop is {stop} and start {start}")
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be torch.float32 or torch.float64; got {dtype}")
    pixel = _pixels(events, shape)
    inside, elapsed = _window(events["t"], start, stop)
    first = np.full(math.prod(shape), np.inf)
    np.minimum.at(first, pixel[inside], elapsed / time_constant)
    spiking = np.isfinite(first)
    largest = math.log(torch.finfo(dtype).max)
    if spiking.any() and (latest := first[spiking].max()) > largest:
        raise ValueError(
            f"a first event {latest:.4g} time constants after start has no spike value in {dtype} "
            f"(at most {largest:.1f}): raise time_constant, or give stop"
        )
    return torch.from_numpy(np.exp(first).reshape(shape)).to(dtype)


def values_to_events(values: Tensor, time_constant: float, *, start: float = 0.0) -> NDArray[Any]:
    """Spike values as a stream of events, one for each neuron that spikes.

    Parameters
    ----------
    values : Tensor
        Spike values of one sample, shape (polarities, height, width), at most two polarities;
        ``inf`` is silence.
    time_constant : float
        Length of tau, in the unit of t; times are rounded to whole units.
    start : float
        Time of t = 0, z = 1.

    Returns
    -------
    structured array
        Of type :data:`EVENT_TYPE`, in the order of their times; equal times in the order of
        polarity, row, column.

    Raises
    ------
    TypeError
        If `values` is not a tensor of float32 or float64.
    ValueError
        If a value is zero, negative or NaN, the shape is another, or the sensor or a time exceeds
        the types of :data:`EVENT_TYPE`.
    """
    if not isinstance(values, Tensor) or values.dtype not in (torch.float32, torch.float64):
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"values must be a tensor of float32 or float64; got {kind}")
    if values.dim() != 3 or values.shape[0] > 2 or max(values.shape) > np.iinfo(np.int16).max:
        raise ValueError(
            "values must have the shape (polarities, height, width) of one sample, with at most "
            f"two polarities; got {tuple(values.shape)}"
        )
    start = _exact(start)
    _check_scale(time_constant, start)
    check_spike_values(values)
    array = values.detach().cpu().double().numpy()
    if np.isnan(array).any():
        raise ValueError(f"{int(np.isnan(array).sum())} of the values are NaN")
    polarity, row, column = np.nonzero(np.isfinite(array))
    events = np.empty(len(row), EVENT_TYPE)
    events["x"], events["y"], events["p"] = column, row, polarity
    # The whole part of start is added to whole numbers: a sum of floats would round its digits.
    whole = math.floor(start)
    times = np.rint(float(start - whole) + time_constant * np.log(array[polarity, row, column]))
    ends = [0.0, times.min(initial=0.0), times.max(initial=0.0)]
    if not all(
        abs(float(whole) + end) < TIME_LIMITS.max and abs(end) < TIME_LIMITS.max for end in ends
    ):
        raise ValueError(
            f"times of {max(map(abs, ends)):.4g} after a start of {start:.4g} do not fit into "
            "int64: lower time_constant or start"
        )
    events["t"] = times.astype(np.int64) + whole
    return events[np.argsort(events["t"], kind="stable")]


def _shape(sensor_size: Sequence[int]) -> tuple[int, int, int]:
    sizes = tuple(sensor_size)
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(
            f"sensor_size must be (width, height, polarities), each at least 1; got {sizes}"
        )
    width, height, polarities = sizes
    return polarities, height, width


def _exact(time: float) -> float:
    """A Python number; an integer keeps all its digits."""
    return int(time) if isinstance(time, numbers.Integral) else float(time)


def _check_scale(time_constant: float, start: float) -> None:
    if not (math.isfinite(time_constant) and time_constant > 0):
        raise ValueError(f"time_constant must be a finite number above 0; got {time_constant}")
    if not math.isfinite(start):
        raise ValueError(f"start must be a finite time; got {start}")


def _pixels(events: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[np.intp]:
    """Index of each event's pixel into the flattened (polarities, height, width)."""
    sizes = dict(zip("pyx", shape, strict=True))
    names = getattr(getattr(events, "dtype", None), "names", None) or ()
    needed = [name for name in ("x", "y", "p") if name == "x" or sizes[name] > 1] + ["t"]
    if missing := [name for name in needed if name not in names]:
        raise TypeError(
            "events must be a structured array with the fields x, y, t and p; "
            + (f"{', '.join(missing)} not among {', '.join(names)}" if names else "it has none")
        )
    if events.ndim != 1:
        raise ValueError(f"events must have the shape (events,) of one stream; got {events.shape}")
    for name in needed:
        if events[name].dtype.kind not in "biuf":
            raise TypeError(f"the field {name} must hold numbers; got {events[name].dtype}")
    index = np.zeros(len(events), np.intp)
    for name, size in sizes.items():
        # One polarity is often recorded as p = 1 throughout, and one row without a y.
        position = events[name] if name in needed else np.zeros_like(index)
        if position.dtype.kind == "f" and (between := position != np.rint(position)).any():
            worst = int(np.argmax(between))
            raise ValueError(
                f"event {worst} has {name} = {position[worst]}, between two pixels: round the "
                "coordinates first, so that each names a pixel"
            )
        outside = (position < 0) | (position >= size)
        if outside.any():
            worst = int(np.argmax(outside))
            hint = "; polarities of -1 and 1 become 0 and 1 by (p + 1) // 2" if name == "p" else ""
            raise ValueError(
                f"event {worst} has {name} = {position[worst]}, outside 0 to {size - 1} of a "
                f"sensor of {shape[2]} x {shape[1]} with {shape[0]} polarities{hint}"
            )
        index = index * size + position.astype(np.intp)
    return index


def _window(
    times: NDArray[Any], start: float, stop: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which events are in the window, and how long after its start."""
    if times.dtype.kind == "f":
        if not np.isfinite(times).all():
            raise ValueError(f"event {int(np.argmin(np.isfinite(times)))} has no finite time")
        exact = times.astype(np.float64)
        inside = (exact >= start) & (exact < stop)
        return inside, exact[inside] - float(start)
    # Whole numbers above 2**53, such as nanoseconds since 1970, lose digits as float64.
    signed = times.dtype.kind != "u"
    first = math.ceil(start)
    inside = times >= first
    if math.isfinite(stop):
        inside &= times < math.ceil(stop)
    if first < (TIME_LIMITS.min if signed else 0):
        return inside, times[inside].astype(np.float64) - float(start)
    # Modulo 2**64, in which these differences, none below 0, are exact.
    whole = times[inside].astype(np.int64 if signed else np.uint64).astype(np.uint64)
    return inside, (whole - np.uint64(first % 2**64)).astype(np.float64) + float(first - start)
