"""The compiled module: it refuses invalid arguments and then writes nothing."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ttfs_fast import _core

pytestmark = pytest.mark.usefixtures("instruction_set")
MARK = -123.0


def forward(**changes: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """A call that is right but for `changes`; the output and slopes, marked before it."""
    dtype = changes.pop("dtype", np.float32)
    arguments: dict[str, Any] = {
        "input": np.ones((2, 3, 5, 5), dtype),
        "weight": np.ones((4, 3, 3, 3), dtype),
        "bias": np.zeros(4, dtype),
        "stride": (1, 1),
        "padding": (1, 1),
        "dilation": (1, 1),
        "groups": 1,
        "t_max": math.inf,
        "output": np.full((2, 4, 5, 5), MARK, dtype),
        "slope": np.full((2, 5, 5, 4), MARK, dtype),
        "threads": 2,
    }
    arguments |= changes
    try:
        _core.conv2d_forward(**arguments)
    finally:
        results = arguments["output"], arguments["slope"]
        forward.results = results  # type: ignore[attr-defined]
    return results


def nothing_written() -> bool:
    return all((array == MARK).all() for array in forward.results)  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_valid_call_writes_all_outputs(dtype: type) -> None:
    output, slope = forward(dtype=dtype)
    assert output[0, 0, 2, 2] == pytest.approx(27 / 26)
    assert slope[0, 2, 2, 0] == 26
    assert not (output == MARK).any()
    assert not (slope == MARK).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [0.0, -0.0, -1e-30, -math.inf])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (1, 2, 4, 4), (0, 1, 3, 2)])
def test_invalid_spike_values_leave_the_output_unchanged(
    dtype: type, bad: float, place: tuple[int, ...]
) -> None:
    z = np.ones((2, 3, 5, 5), dtype)
    z[place] = bad
    with pytest.raises(ValueError, match=r"not positive; spike values are z = exp\(t\) > 0"):
        forward(input=z, dtype=dtype)
    assert nothing_written()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t_max": math.nan}, "t_max is NaN"),
        ({"groups": 0}, "groups must be at least 1"),
        ({"groups": 2}, "weight has shape"),
        ({"stride": (0, 1)}, "stride is 0; it must be at least 1"),
        ({"dilation": (1, 0)}, "dilation is 0; it must be at least 1"),
        ({"padding": (-1, 0)}, "top padding is -1; it must be at least 0"),
        ({"weight": np.ones((4, 2, 3, 3), np.float32)}, r"weight has shape \(4, 2, 3, 3\)"),
        ({"weight": np.ones((4, 3, 3), np.float32)}, "must have 4 dimensions"),
        ({"weight": np.ones((4, 3, 3, 6), np.float32)[..., ::2]}, "weight must be contiguous"),
        ({"bias": np.ones(3, np.float32)}, r"bias has shape \(3\), expected \(4\)"),
        ({"counts": np.zeros(2, np.int64)}, r"counts has shape \(2\), expected \(3\)"),
        ({"counts": np.zeros(6, np.int64)[::2]}, "counts must be contiguous"),
    ],
    ids=str,
)
def test_wrong_arguments_are_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        forward(**changes)
    assert nothing_written()


@pytest.mark.parametrize("name", ["input", "weight", "bias", "output", "slope"])
@pytest.mark.parametrize("dtype", [np.float16, np.int32, np.float64, ">f4"])
def test_arrays_are_never_converted(name: str, dtype: Any) -> None:
    shapes = {
        "input": (2, 3, 5, 5),
        "weight": (4, 3, 3, 3),
        "bias": (4,),
        "output": (2, 4, 5, 5),
        "slope": (2, 5, 5, 4),
    }
    with pytest.raises(TypeError, match="incompatible function arguments"):
        forward(**{name: np.full(shapes[name], MARK, dtype)})
    assert nothing_written()


@pytest.mark.parametrize("dtype", [np.int32, np.float64, ">i8"])
def test_counts_of_another_type_are_refused(dtype: Any) -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        forward(counts=np.zeros(3, dtype))
    assert nothing_written()


def test_an_output_that_cannot_be_written_is_refused() -> None:
    output = np.full((2, 4, 5, 5), MARK, np.float32)
    output.flags.writeable = False
    with pytest.raises(ValueError, match=r"writeable|read-only|not writ"):
        forward(output=output)
    assert nothing_written()
