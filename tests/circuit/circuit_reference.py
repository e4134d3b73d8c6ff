"""A slow and simple simulation of the circuit, to compare the simulator with."""

import math

import numpy as np
from scipy.integrate import solve_ivp

from ttfs_fast.circuit import CircuitParameters

TURN = 2 * math.pi


def integrate(p: CircuitParameters, times, weights, end, *, detuning=0.0, leak=0.0):
    """Spike time of the averaged neuron by numerical integration in units of tau, or inf.

    detuning and leak: VCO1 less VCO2, and VCO4 at rest less VCO3, in rad per tau.
    """
    corner = p.loop_corner * p.tau
    gain = p.membrane_gain * p.tau
    order = np.argsort(times, kind="stable")
    order = [i for i in order if times[i] < end and weights[i] != 0]
    if not order:
        return math.inf
    # Before the first input the loop is in lock and the membrane is reset.
    state = np.array([detuning, detuning, 0.0])

    def slope(_, y):
        return [detuning - y[1], corner * (y[0] - y[1]), gain * y[0] + leak]

    def crossing(_, y):
        return y[2] - p.threshold

    crossing.terminal, crossing.direction = True, 1
    stops = [*(times[i] for i in order[1:]), end]
    for i, stop in zip(order, stops, strict=True):
        state[0] += p.phase_per_weight * weights[i]
        if stop <= times[i]:
            continue
        done = solve_ivp(
            slope,
            (times[i], stop),
            state,
            method="DOP853",
            events=crossing,
            rtol=1e-12,
            atol=1e-13,
            max_step=0.1,
        )
        if done.t_events[0].size:
            return done.t_events[0][0]
        state = done.y[:, -1].copy()
    return math.inf


def switch(p: CircuitParameters, times, weights, end, step, start=0.0):
    """Spike time of the switching neuron in seconds, or inf: the same steps, one at a time.

    Between inputs and grid points the oscillators run evenly, UP acts on the loop filter by its
    mean, and the flip-flop samples where VCO4 completes a turn.
    """
    order = [i for i in np.argsort(times, kind="stable") if times[i] < end]
    inputs = [(times[i], weights[i]) for i in order]
    reference, output, control = start, (start - 0.25) % 1.0, 0.5
    clock, lead, running = 0.0, -p.threshold / TURN, False
    middle = 0.5 * (p.low_frequency + p.high_frequency)
    threshold_frequency = p.threshold_frequency or middle

    def until_switch(phase, rate, length):
        return min((0.5 - phase % 0.5) / rate, length)

    def wrapped(phase):
        return (phase + p.phase_range / 2) % p.phase_range - p.phase_range / 2

    for number in range(math.ceil(end / step * (1 - 1e-12))):
        now, stop = number * step, (number + 1) * step
        while now < stop:
            length = (inputs[0][0] if inputs and inputs[0][0] < stop else stop) - now
            if length > 0:
                pulled = p.ring_frequency + p.loop_gain / 2 * (control - 0.5)
                gap = abs(
                    until_switch(reference, p.ring_frequency, length)
                    - until_switch(output, pulled, length)
                )
                differ = (reference >= 0.5) != (output >= 0.5)
                duty = (1 - gap / length) if differ else gap / length
                decay = math.exp(-p.loop_corner * length)
                mean = duty + (control - duty) * (1 - decay) / (p.loop_corner * length)
                control = duty + (control - duty) * decay
                reference = (reference + p.ring_frequency * length) % 1.0
                output = (output + (p.ring_frequency + p.loop_gain / 2 * (mean - 0.5)) * length) % 1
                if running:
                    rate = p.low_frequency + (p.high_frequency - p.low_frequency) * duty
                    if clock + rate * length >= 1:
                        edge = (1 - clock) / rate
                        if wrapped(lead + (rate - threshold_frequency) * edge) >= 0:
                            return now + edge
                    clock = (clock + rate * length) % 1.0
                    lead = wrapped(lead + (rate - threshold_frequency) * length)
                now += length
            if inputs and inputs[0][0] < stop and inputs[0][0] <= now:
                weight = inputs.pop(0)[1]
                reference = (reference + p.phase_per_weight * weight / TURN) % 1.0
                running = True
    return math.inf


def random_neurons(
    seed: int, neurons: int, inputs: int, *, latest: float = 2.5, deviation: float = 1.5
) -> tuple[np.ndarray, np.ndarray]:
    """Times in tau and weights of both signs, a fifth of the inputs silent."""
    rng = np.random.default_rng(seed)
    times = rng.uniform(0, latest, (neurons, inputs))
    times[rng.random(times.shape) < 0.2] = np.inf
    return times, rng.normal(2.5 / inputs, deviation / math.sqrt(inputs), (neurons, inputs))
