"""Event streams and first-spike tensors."""

import math

import numpy as np
import pytest
import torch

from ttfs_fast.events import EVENT_TYPE, events_to_values, values_to_events


def stream(generator: np.random.Generator, count: int) -> np.ndarray:
    events = np.empty(count, EVENT_TYPE)
    events["x"] = generator.integers(0, 7, count)
    events["y"] = generator.integers(0, 5, count)
    events["t"] = generator.integers(0, 30_000, count)
    events["p"] = generator.integers(0, 2, count)
    return events


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_first_event_of_each_pixel_counts(ordered: bool, dtype: torch.dtype, seed: int) -> None:
    events = stream(np.random.default_rng(seed), 200)
    if ordered:
        events = events[np.argsort(events["t"], kind="stable")]
    expected = torch.full((2, 5, 7), math.inf, dtype=torch.float64)
    for x, y, t, p in events.tolist():
        if 2_000 <= t < 25_000:
            z = math.exp((t - 2_000) / 10_000)
            expected[int(p), y, x] = min(expected[int(p), y, x], z)
    found = events_to_values(events, (7, 5, 2), 10_000, start=2_000, stop=25_000, dtype=dtype)
    assert found.dtype == dtype
    assert 0.5 < found.isfinite().double().mean() < 1
    torch.testing.assert_close(found, expected.to(dtype))


def test_round_trip(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = (3 * torch.rand(2, 5, 7, generator=generator, dtype=torch.float64)).exp()
    z[torch.rand(2, 5, 7, generator=generator) < 0.3] = math.inf
    events = values_to_events(z, 10_000, start=500)
    assert events.dtype == EVENT_TYPE
    assert len(events) == int(z.isfinite().sum())
    assert (np.diff(events["t"]) >= 0).all()
    again = events_to_values(events, (7, 5, 2), 10_000, start=500, dtype=torch.float64)
    assert torch.equal(again.isfinite(), z.isfinite())
    spiking = z.isfinite()
    # Times are rounded to whole microseconds.
    assert ((again.log() - z.log())[spiking].abs() <= 0.5e-4 + 1e-12).all()
    assert np.array_equal(values_to_events(again, 10_000, start=500), events)


def test_recordings_of_sound_have_neither_rows_nor_polarities() -> None:
    kind = np.dtype([("t", np.int64), ("x", np.int64), ("p", np.int64)])
    events = np.array([(300, 2, 1), (100, 2, 1), (200, 0, 1)], kind)
    found = events_to_values(events, (3, 1, 1), 100)
    expected = torch.tensor([[[math.exp(2), math.inf, math.exp(1)]]])
    torch.testing.assert_close(found, expected)


def test_no_events_are_silence() -> None:
    assert events_to_values(np.empty(0, EVENT_TYPE), (4, 3, 2), 1.0).isinf().all()
    assert len(values_to_events(torch.full((2, 3, 4), math.inf), 1.0)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": 7}, r"event 3 has x = 7, outside 0 to 6 of a sensor of 7 x 5 with 2 polarities"),
        ({"y": -1}, r"event 3 has y = -1, outside 0 to 4"),
    ],
)
def test_events_outside_the_sensor_are_named(change: dict[str, int], message: str) -> None:
    events = stream(np.random.default_rng(0), 10)
    for name, value in change.items():
        events[name][3] = value
    with pytest.raises(ValueError, match=message):
        events_to_values(events, (7, 5, 2), 10_000)


@pytest.mark.parametrize(("name", "value"), [("x", -0.9), ("y", 1.5), ("x", math.nan), ("p", 0.5)])
def test_events_between_two_pixels_are_refused(name: str, value: float) -> None:
    kind = np.dtype([("x", np.float32), ("y", np.float64), ("t", np.int64), ("p", np.float16)])
    events = stream(np.random.default_rng(0), 10)
    whole = events.astype(kind)
    expected = events_to_values(events, (7, 5, 2), 10_000)
    assert torch.equal(events_to_values(whole, (7, 5, 2), 10_000), expected)
    whole[name][3] = value
    with pytest.raises(ValueError, match=rf"event 3 has {name} = .*, between two pixels: round"):
        events_to_values(whole, (7, 5, 2), 10_000)


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
@pytest.mark.parametrize("of_numpy", [False, True])
def test_nanoseconds_since_1970_keep_their_digits(kind: type, of_numpy: bool) -> None:
    begin = 1_700_000_000_123_456_789  # float64 counts in steps of 256 there
    later = np.array([1, 2, 300, 1000, -1])
    events = np.zeros(5, [("x", np.int16), ("y", np.int16), ("t", kind), ("p", np.bool_)])
    events["x"], events["t"] = np.arange(5), [begin + int(t) for t in later]
    start, stop = (np.int64(begin), np.int64(begin + 1000)) if of_numpy else (begin, begin + 1000)
    z = events_to_values(events, (5, 1, 2), 100, start=start, stop=stop, dtype=torch.float64)
    assert z[0, 0].log().tolist() == pytest.approx([0.01, 0.02, 3.0, math.inf, math.inf])
    back = values_to_events(z, 100, start=start)
    assert (back["t"] - begin).tolist() == [1, 2, 300]


def test_whole_and_other_times_have_the_same_window() -> None:
    times = np.array([-3, -2, -1, 0, 1, 2, 3])
    for start, stop in ((-2.5, 2.5), (-2, 2), (0.5, math.inf), (-1e30, 1e30), (-(2**63), 2**64)):
        found = []
        for kind in (np.int8, np.int64, np.float64):
            events = np.zeros(7, [("x", np.int64), ("t", kind)])
            events["x"], events["t"] = np.arange(7), times
            scale = max(1.0, -float(start))
            found.append(events_to_values(events, (7, 1, 1), scale, start=start, stop=stop))
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
        assert found[0].isfinite().sum() == sum(start <= t < stop for t in times.tolist())


def test_events_reject_invalid_arguments() -> None:
    events = stream(np.random.default_rng(0), 10)
    size = (7, 5, 2)
    signed = events.astype([("x", "i2"), ("y", "i2"), ("t", "f8"), ("p", "i1")])
    signed["p"] = -1
    with pytest.raises(ValueError, match=r"p = -1, .* become 0 and 1 by \(p \+ 1\) // 2"):
        events_to_values(signed, size, 10_000)
    signed["p"], signed["t"][4] = 0, math.nan
    with pytest.raises(ValueError, match="event 4 has no finite time"):
        events_to_values(signed, size, 10_000)
    with pytest.raises(TypeError, match=r"fields x, y, t and p; y, p not among x, t"):
        events_to_values(events[["x", "t"]], size, 10_000)
    with pytest.raises(TypeError, match=r"structured array .* it has none"):
        events_to_values(np.zeros((3, 4)), size, 10_000)
    with pytest.raises(ValueError, match=r"of one stream; got \(2, 5\)"):
        events_to_values(events.reshape(2, 5), size, 10_000)
    with pytest.raises(ValueError, match=r"time constants after start has no spike value"):
        events_to_values(events, size, 10.0)
    named = events.astype([("x", "S3"), ("y", "i2"), ("t", "M8[ns]"), ("p", "i1")])
    with pytest.raises(TypeError, match=r"field x must hold numbers; got \|S3"):
        events_to_values(named, size, 10_000)
    for bad in ((7, 5), (7, 0, 2)):
        with pytest.raises(ValueError, match="sensor_size must be"):
            events_to_values(events, bad, 10_000)
    for bad_time in (0.0, math.nan):
        with pytest.raises(ValueError, match="time_constant must be"):
            events_to_values(events, size, bad_time)
    with pytest.raises(ValueError, match="start must be a finite time"):
        events_to_values(events, size, 10_000, start=math.nan)
    with pytest.raises(ValueError, match="the window is empty"):
        events_to_values(events, size, 10_000, start=5.0, stop=5.0)
    with pytest.raises(TypeError, match=r"float32 or torch.float64"):
        events_to_values(events, size, 10_000, dtype=torch.float16)


def test_invalid_spike_values_are_refused() -> None:
    with pytest.raises(TypeError, match=r"tensor of float32 or float64; got torch.int64"):
        values_to_events(torch.ones(1, 2, 2, dtype=torch.int64), 1.0)
    with pytest.raises(TypeError, match="got ndarray"):
        values_to_events(np.ones((1, 2, 2)), 1.0)  # type: ignore[arg-type]
    for shape in ((2, 2), (3, 2, 2), (1, 1, 40_000)):
        with pytest.raises(ValueError, match="at most two polarities"):
            values_to_events(torch.ones(shape), 1.0)
    with pytest.raises(ValueError, match="must be above 0"):
        values_to_events(torch.zeros(1, 2, 2), 1.0)
    for start, time_constant in ((1e19, 1.0), (9.2e18, 1e18), (0.0, 1e300)):
        with pytest.raises(ValueError, match="do not fit into int64: lower time_constant or start"):
            values_to_events(torch.full((1, 1, 1), math.e), time_constant, start=start)
    with pytest.raises(ValueError, match="1 of the values are NaN"):
        values_to_events(torch.tensor([[[1.0, math.nan]]]), 1.0)
