"""The simulator's contract beside the physics: same bits, bounds, progress, interruption."""

import dataclasses
import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import ttfs_fast
from support.machine import use_instruction_set
from ttfs_fast import _core
from ttfs_fast.circuit import CircuitParameters, Nonidealities, default_step, simulate

P = CircuitParameters()
EVERYTHING = Nonidealities(
    relative_jitter=0.02,
    jitter=1e-10,
    weight_bits=6,
    weight_full_scale=4.0,
    bank_offset=True,
    phase_noise=-115.0,
    loop_gain_spread=0.02,
    membrane_gain_spread=0.02,
    loop_frequency_spread=1e-5,
    membrane_frequency_spread=1e-5,
    comparator_spread=0.05,
    common_drift=0.01,
    differential_drift=1e-5,
    random_start=True,
)


def neurons(trials: int = 101, inputs: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(trials)
    times = rng.uniform(0, 1.5, (trials, inputs))
    times[rng.random(times.shape) < 0.15] = np.inf
    return P.seconds(times), rng.normal(0.5, 0.6, (trials, inputs))


def run(model: str, noise: Nonidealities, **more: Any) -> tuple[np.ndarray, ...]:
    times, weights = neurons()
    result = simulate(
        P,
        times,
        weights,
        model=model,  # type: ignore[arg-type]
        noise=noise,
        seed=9,
        duration=3 * P.tau,
        record_every=25,
        **more,
    )
    assert 25 < np.isfinite(result.fire_times).sum() < 101
    waves = result.waveforms
    assert waves is not None
    return result.fire_times, result.peak_error, waves.phase_error, waves.membrane_phase


@pytest.mark.parametrize("noise", [Nonidealities(), EVERYTHING], ids=["ideal", "everything"])
@pytest.mark.parametrize("model", ["averaged", "switching"])
def test_same_bits_for_any_thread_count_and_instruction_set(
    model: str, noise: Nonidealities
) -> None:
    expected = None
    for name in ttfs_fast.instruction_sets():
        with use_instruction_set(name):
            for threads in (1, 2, 3, 7):
                found = run(model, noise, threads=threads)
                expected = expected or found
                for a, b in zip(found, expected, strict=True):
                    assert_array_equal(a, b)


@pytest.mark.parametrize("model", ["averaged", "switching"])
def test_a_trial_depends_on_seed_and_number_alone(model: str) -> None:
    times, weights = neurons()

    def fire(first: int, last: int, **more: Any) -> np.ndarray:
        return simulate(
            P,
            times[first:last],
            weights[first:last],
            model=model,  # type: ignore[arg-type]
            noise=EVERYTHING,
            duration=3 * P.tau,
            first_trial=first,
            **more,
        ).fire_times

    whole = fire(0, 101)
    assert_array_equal(np.concatenate([fire(0, 13), fire(13, 14), fire(14, 101)]), whole)
    # Recording, which stops the kernels at other steps, changes nothing either.
    assert_array_equal(fire(0, 101, record_every=3), whole)
    assert (fire(0, 101, seed=1) != whole).sum() > 50


@pytest.mark.parametrize("model", ["averaged", "switching"])
def test_the_peak_of_a_neuron_does_not_depend_on_its_neighbors(model: str) -> None:
    """Inputs after it has fired do not count, whether or not others still wait."""
    times, weights = P.seconds([[0.2, 2.0]] * 3), np.array([[3.0, 6.0], [0.5, 0.3], [0.9, 0.1]])

    def peaks(rows: slice, **more: Any) -> np.ndarray:
        result = simulate(P, times[rows], weights[rows], model=model, **more)  # type: ignore[arg-type]
        assert np.isfinite(result.fire_times[0])
        return result.peak_error

    together = peaks(slice(0, 3))
    assert together[0] == pytest.approx(0.75, rel=0.1)
    assert peaks(slice(0, 1))[0] == together[0]
    assert_array_equal(peaks(slice(0, 3), record_every=50), together)


def test_rows_are_picked() -> None:
    times, weights = neurons(6, 5)
    pick_times, pick_weights = np.array([0, 5, 5, 2]), np.array([3, 3, 0, 1])
    found = simulate(P, times, weights, time_rows=pick_times, weight_rows=pick_weights)
    expected = simulate(P, times[pick_times], weights[pick_weights], duration=found.duration)
    assert_array_equal(found.fire_times, expected.fire_times)
    assert_array_equal(
        simulate(P, times[0], weights, duration=1e-7).fire_times,
        simulate(P, np.repeat(times[:1], 6, 0), weights, duration=1e-7).fire_times,
    )


def test_no_inputs_and_no_trials() -> None:
    assert math.isinf(simulate(P, np.empty((1, 0)), np.empty((1, 0))).fire_times[0])
    assert len(simulate(P, [0.0], [1.0], trials=0).fire_times) == 0
    assert math.isinf(simulate(P, [np.inf], [5.0]).fire_times[0])


BAD_PARAMETERS = {
    "supply": (0.0, -0.8, math.nan, math.inf),
    "vco_gain": (-1.0, 0.0, math.nan),
    "loop_corner": (0.0, -1.0, math.inf),
    "ring_frequency": (0.0, -1e9, math.nan),
    "low_frequency": (-1.0, 2e9),
    "high_frequency": (math.nan, 0.1e9),
    "threshold_frequency": (-1.0, 0.0),
    "phase_per_weight": (0.0, -0.1),
    "threshold_phase": (0.0, -1.0, math.nan),
    "static_power": (-1.0,),
}


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, values in BAD_PARAMETERS.items() for v in values]
)
def test_bad_parameters_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(P, **{name: value})
    # And by the core, for whoever comes past the dataclass.
    core = P.core()
    if name in core:
        core[name] = value
        with pytest.raises(ValueError, match=name):
            call_core(parameters=core)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (n, v)
            for n in ("relative_jitter", "jitter", "comparator_spread")
            for v in (-0.1, np.nan)
        ),
        *((n, -1e-3) for n in ("loop_gain_spread", "membrane_gain_spread")),
        *((n, np.inf) for n in ("loop_frequency_spread", "membrane_frequency_spread")),
        ("common_drift", np.nan),
        ("differential_drift", np.inf),
        ("phase_noise", np.nan),
        ("weight_bits", 53),
        ("weight_bits", -1),
        ("weight_bits", 4.5),
        ("weight_full_scale", -1.0),
    ],
)
def test_bad_nonidealities_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Nonidealities(**{name: value})
    core = Nonidealities().core(P.ring_frequency)
    if name in core:
        core[name] = value
        with pytest.raises(ValueError, match=name):
            call_core(noise=core)


def call_core(**changed: Any) -> int:
    arguments: dict[str, Any] = {
        "model": "averaged",
        "parameters": P.core(),
        "noise": Nonidealities().core(P.ring_frequency),
        "step": P.tau / 50,
        "duration": P.tau,
        "seed": 0,
        "record_every": 0,
        "first_trial": 0,
        "times": np.zeros((1, 1)),
        "weights": np.ones((1, 1)),
        "time_rows": None,
        "weight_rows": None,
        "chips": None,
        "fire": np.empty(3),
        "peak": np.empty(3),
        "waveforms": None,
        "threads": 1,
    }
    arguments |= changed
    circuit = ("model", "parameters", "noise", "step", "duration", "seed", "record_every")
    simulator = _core.CircuitSimulator(**{name: arguments.pop(name) for name in circuit})
    return simulator.run(**arguments)


def test_parameters_are_those_of_the_core() -> None:
    """The names are exactly those of the core, and each has a value here."""
    assert tuple(P.core()) == _core.circuit_parameters
    assert tuple(EVERYTHING.core(1.0)) == _core.circuit_noise
    own = {"supply", "vco_gain", "stages", "stage_capacitance", "logic_capacitance", "static_power"}
    names = {field.name for field in dataclasses.fields(CircuitParameters)}
    assert names - own == set(_core.circuit_parameters) - {"loop_gain"}
    names = {field.name for field in dataclasses.fields(Nonidealities)}
    assert names - {"phase_noise", "phase_noise_offset"} == {
        name for name in _core.circuit_noise if not name.endswith("_diffusion")
    }


@pytest.mark.parametrize("kind", ["parameters", "noise"])
def test_missing_and_unknown_fields_are_refused(kind: str) -> None:
    whole: dict[str, Any] = P.core() if kind == "parameters" else EVERYTHING.core(1e9)
    for name in whole:
        with pytest.raises(ValueError, match=f"{kind} lacks {name}"):
            call_core(**{kind: {k: v for k, v in whole.items() if k != name}})
        with pytest.raises(ValueError, match=f"{name} must be a number"):
            call_core(**{kind: whole | {name: "fast"}})
    with pytest.raises(ValueError, match="a field that is not known"):
        call_core(**{kind: whole | {"temperature": 300.0}})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"step": P.tau}, r"too coarse for the loop.*2.5e-08"),
        ({"step": 1e-9, "model": "switching"}, r"too coarse for the ring.*eighth.*1\.\d+e-10"),
        ({"step": 0.0}, "step must be"),
        ({"step": math.nan}, "step must be"),
        ({"duration": -1.0}, "duration must be"),
        ({"duration": 1e9}, "at most 1e9 steps"),
        ({"model": "exact"}, "averaged"),
        ({"times": np.full((1, 1), -1e-9)}, "times must be 0 or above"),
        ({"times": np.full((1, 1), np.nan)}, "times must be 0 or above"),
        ({"weights": np.full((1, 1), np.inf)}, "weights must be finite"),
        ({"weights": np.ones((1, 2))}, "weights has shape"),
        ({"peak": np.empty(2)}, "peak has shape"),
        ({"time_rows": np.array([0, 0, 1])}, "time_rows holds 1; there are 1 rows"),
        ({"weight_rows": np.array([0, -1, 0])}, "weight_rows holds -1"),
        ({"chips": np.array([0, -1, 0])}, "chips holds -1"),
        ({"times": np.zeros((0, 1))}, "times has no row|time_rows has no row"),
        ({"waveforms": np.empty((3, 7, 4)), "record_every": 10}, "waveforms has shape"),
        ({"waveforms": np.empty((3, 6, 4)), "record_every": 0}, "waveforms must be given"),
        ({"record_every": 10}, "waveforms must be given"),
        ({"record_every": -1}, "record_every must be 0 or above"),
        ({"first_trial": -1}, "first_trial"),
    ],
)
def test_bad_arguments_name_the_bound_they_break(changed: dict[str, Any], message: str) -> None:
    assert call_core() > 0
    with pytest.raises(ValueError, match=message):
        call_core(**changed)


def test_an_unstable_loop_is_refused_with_its_bound() -> None:
    core = P.core() | {"loop_gain": 5e9}
    with pytest.raises(
        ValueError, match=r"unstable: loop_gain must be below 4 ring_frequency = 4e"
    ):
        call_core(parameters=core)
    with pytest.raises(ValueError, match="unstable"):
        simulate(CircuitParameters(vco_gain=3e9), [0.0], [1.0])
    with pytest.raises(ValueError, match="unstable"):
        call_core(parameters=P.core() | {"loop_gain": -1.0})


def test_a_step_too_coarse_for_the_oscillation_or_the_filter_is_refused() -> None:
    slow = CircuitParameters(loop_corner=3.9 * P.loop_gain)
    with pytest.raises(ValueError, match=r"oscillation.*pi / \(4 sqrt"):
        simulate(slow, [0.0], [1.0], step=0.45 * P.tau)
    wide = CircuitParameters(loop_corner=1e11)
    with pytest.raises(ValueError, match="1 / loop_corner"):
        simulate(wide, [0.0], [1.0], step=1e-10 / 1.2, model="switching")
    with pytest.raises(ValueError, match="would stop"):
        simulate(
            P,
            [0.0],
            [1.0],
            model="switching",
            noise=Nonidealities(differential_drift=-0.95),
            step=1e-11,
        )
    with pytest.raises(ValueError, match="pi phase_range"):
        simulate(CircuitParameters(phase_range=1), [0.0], [1.0])


@pytest.mark.parametrize(
    "spreads",
    [
        {"loop_frequency_spread": 0.2},
        {"membrane_frequency_spread": 0.2},
        {"membrane_gain_spread": 0.5},
        {"loop_gain_spread": 1.0},
    ],
    ids=lambda spreads: next(iter(spreads)),
)
def test_spreads_that_would_stop_a_ring_are_refused(spreads: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"a ring would stop: .* six times the spreads .*; got -"):
        simulate(P, [0.0], [2.0], model="switching", noise=Nonidealities(**spreads))
    half = Nonidealities(**{name: value / 3 for name, value in spreads.items()})
    assert simulate(P, [0.0], [2.0], model="switching", noise=half).fire_times[0] > 0


def test_shapes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="as many inputs"):
        simulate(P, [0.0, 1e-9], [1.0])
    with pytest.raises(ValueError, match="rows"):
        simulate(P, np.zeros((3, 1)), np.ones((2, 1)))
    with pytest.raises(ValueError, match="chips"):
        simulate(P, [0.0], [1.0], trials=4, chips=[1, 2])
    for rows in ([0, 2], [-1, 0]):
        with pytest.raises(ValueError, match="there is no row"):
            simulate(P, np.zeros((2, 1)), [1.0], time_rows=rows)
    with pytest.raises(ValueError, match="seed"):
        simulate(P, [0.0], [1.0], seed=-1)
    with pytest.raises(ValueError, match="model"):
        simulate(P, [0.0], [1.0], model="spice")  # type: ignore[arg-type]


def test_progress_is_reported_and_can_interrupt() -> None:
    seen: list[int] = []
    arguments = {"trials": 40_000, "duration": 200 * P.tau, "step": P.tau / 200}
    simulate(P, [0.0], [0.3], progress=seen.append, threads=1, **arguments)
    assert seen[-1] == 40_000
    assert seen == sorted(set(seen))
    assert len(seen) > 3

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(P, [0.0], [0.3], progress=interrupt, threads=1, **arguments)


@pytest.fixture
def beside() -> Iterator[list[int]]:
    """A thread that counts while it can take the interpreter lock."""
    counted, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            counted[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    yield counted
    stop.set()
    thread.join()


def test_interpreter_lock_is_released(beside: list[int]) -> None:
    """If the call into the core kept the lock, the other thread would wait."""
    before = beside[0]
    call_core(
        fire=np.empty(4000),
        peak=np.empty(4000),
        weights=np.full((1, 1), 0.3),
        duration=2000 * P.tau,
    )
    assert beside[0] - before > 1000


def test_default_steps_are_allowed() -> None:
    for ratio in (0.1, 1.0, 4.0, 1e3):
        p = CircuitParameters(loop_corner=ratio * P.loop_gain)
        for model in ("averaged", "switching"):
            assert default_step(p, model) > 0  # type: ignore[arg-type]
            assert math.isfinite(
                simulate(p, [0.0], [3.0], model=model).fire_times[0]  # type: ignore[arg-type]
            )
