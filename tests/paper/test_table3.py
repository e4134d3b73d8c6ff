"""Table 3 from one parameter set, and the energy beside the paper's."""

import itertools

import pytest

from ttfs_fast.circuit import (
    CircuitParameters,
    closed_form,
    is_monotone,
    jitter_sweep,
    quantization_sweep,
    simulate,
)
from ttfs_fast.paper import numbers
from ttfs_fast.paper.table3 import OPERATING_POINT, energy_saving

P = CircuitParameters()


def test_all_figures_are_within_a_factor_of_two() -> None:
    """All ten figures, 20,000 trials each; the intervals too lie within the factor."""
    jitter = jitter_sweep(OPERATING_POINT, list(numbers.TABLE_3_JITTER), trials=20_000)
    bits = quantization_sweep(
        OPERATING_POINT, [int(bits) for bits in numbers.TABLE_3_BITS], trials=20_000
    )
    published = numbers.TABLE_3_JITTER, numbers.TABLE_3_BITS
    for points, figures in zip((jitter, bits), published, strict=True):
        assert [p.value for p in points] == list(figures)
        for point in points:
            figure = figures[point.value]
            assert point.trials == 20_000
            assert point.silent == 0
            assert point.low < point.jitter < point.high
            assert point.high - point.low < 0.12 * point.jitter
            assert point.low / figure >= 0.5, point
            assert point.high / figure <= 2.0, point
    # More input jitter, more output jitter; more bits, less.
    assert all(a.high < b.low for a, b in itertools.pairwise(jitter))
    assert all(a.low > b.high for a, b in itertools.pairwise(bits[:3]))
    assert is_monotone(jitter)
    assert is_monotone(bits)


def test_second_input_arrives_just_too_late() -> None:
    """The first input makes the neuron fire alone; the second comes 1 % after that."""
    point = OPERATING_POINT
    fire = P.network_time(simulate(P, P.seconds(point.times), point.weights).fire_times)[0]
    alone = P.network_time(simulate(P, [0.0], point.weights[:1]).fire_times)[0]
    assert fire == alone
    assert 0.005 < point.times[1] / fire - 1 < 0.015
    assert fire == pytest.approx(closed_form(point.times, point.weights)[0], rel=0.02)


def test_energy_saving_is_at_least_the_papers() -> None:
    """Less than 10 pJ against 19 pJ saves the paper's 45 % and a bit more."""
    assert numbers.CLAIMED_GAIN <= energy_saving(P) < 0.60
