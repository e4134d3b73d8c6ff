"""Ctrl-C inside a long call of the compiled core."""

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from support.spikes import firing_weights, random_spikes
from ttfs_fast import spiking_conv2d, spiking_linear, spiking_max_pool2d
from ttfs_fast.circuit import CircuitParameters, simulate
from ttfs_fast.encoding import Encoding
from ttfs_fast.nn import SpikingConv2d
from ttfs_fast.quantization import convert

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "pthread_kill"), reason="this system sends no signal to one thread"
)
AFTER = 0.15  # seconds into the call at which the signal comes
WITHIN = 1.0  # seconds of this thread's processor time that the call may go on


spikes = partial(random_spikes, seed=1)


weights = partial(firing_weights, seed=2)


def forward_conv() -> Callable[[], object]:
    z, w = spikes(64, 64, 56, 56), weights(96, 64, 3, 3)
    return lambda: spiking_conv2d(z, w, padding=1)


def forward_linear() -> Callable[[], object]:
    z, w = spikes(4000, 4096), weights(4096, 4096)
    return lambda: spiking_linear(z, w)


def backward_conv() -> Callable[[], object]:
    """Of an output made up: the gradient asks for spike values, not where they come from."""
    z, w = spikes(64, 64, 56, 56), weights(64, 64, 3, 3)
    out, slope = spikes(64, 64, 56, 56) + 3, torch.ones(64, 56, 56, 64)
    geometry = ([1, 1], [1, 1], [1, 1], 1, True, True)
    return lambda: torch.ops.ttfs_fast.spiking_conv2d_backward(out, z, w, out, slope, *geometry)


def pooling() -> Callable[[], object]:
    z = spikes(1, 1, 4000, 4000)
    return lambda: spiking_max_pool2d(z, 61, 1)


def integers() -> Callable[[], object]:
    torch.manual_seed(3)
    net = convert(
        nn.Sequential(SpikingConv2d(64, 96, 5, padding=2)),
        8,
        input_size=(64, 48, 48),
        encoding=Encoding(),
    )
    images = np.random.default_rng(0).integers(0, 256, (300, 64, 48, 48)).astype(np.uint8)
    return lambda: net(images, threads=torch.get_num_threads())


def integer_reference() -> Callable[[], object]:
    net = convert(
        nn.Sequential(SpikingConv2d(64, 96, 5, padding=2)),
        8,
        input_size=(64, 48, 48),
        encoding=Encoding(),
    )
    codes = net.encode(np.full((8, 64, 48, 48), 200, np.uint8))
    return lambda: net.reference(0, codes)


def circuit(model: str, inputs: int) -> Callable[[], object]:
    p = CircuitParameters()
    times = p.seconds(np.linspace(0.1, 2, inputs))
    # Weights that never reach the threshold: every step is taken.
    given = np.full(inputs, 0.1 / inputs)
    return lambda: simulate(
        p,
        np.tile(times, (64, 1)),
        given,
        model=model,  # type: ignore[arg-type]
        duration=float(p.seconds(4.0)),
        step=float(p.seconds(4.0)) / 4e7,
    )


CALLS: dict[str, Callable[[], Callable[[], object]]] = {
    "convolution": forward_conv,
    "linear": forward_linear,
    "gradient": backward_conv,
    "pooling": pooling,
    "integers": integers,
    "integer reference": integer_reference,
    "averaged circuit": lambda: circuit("averaged", 3),
    "switching circuit": lambda: circuit("switching", 3),
}


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Let Ctrl-C raise in the call under test, and nowhere else.

    A shell that starts the tests in the background makes every process ignore the signal. And
    Python drops what is raised inside a callback of the garbage collector, of which hypothesis
    keeps one: where the signal comes during a collection, nobody sees the exception.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()
    yield
    gc.enable()
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What torch imports at an operator's first call is not to be interrupted."""
    z = spikes(1, 1, 4, 4).requires_grad_()
    out = spiking_conv2d(z, weights(1, 1, 3, 3), padding=1)
    spiking_max_pool2d(out, 2).sum().backward()
    spiking_linear(spikes(1, 3), weights(2, 3))


@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c_ends_a_long_call(interrupts: None, threads: int, name: str) -> None:
    call = CALLS[name]()
    came: list[float] = []
    main = threading.main_thread().ident
    assert main is not None

    def send() -> None:
        came.append(time.perf_counter())
        signal.pthread_kill(main, signal.SIGINT)

    timer = threading.Timer(AFTER, send)
    timer.start()
    begin = time.thread_time()
    with pytest.raises(KeyboardInterrupt):
        call()
    used = time.thread_time() - begin
    timer.join()
    assert came
    assert used < AFTER + WITHIN
    # The next call is none the worse for it.
    z, w = spikes(3, 50), weights(20, 50)
    out = spiking_linear(z, w)
    assert out.isfinite().float().mean() > 0.3
    assert torch.equal(out, spiking_linear(z, w))


def test_a_handler_that_returns_does_not_end_the_call() -> None:
    z, w = spikes(600, 2048), weights(2048, 2048)
    expected = spiking_linear(z, w)
    seen: list[float] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(time.perf_counter()))
    try:
        timer = threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        timer.start()
        out = spiking_linear(z, w)
        end = time.perf_counter()
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(seen) == 1
    assert seen[0] < end
    assert expected.isfinite().float().mean() > 0.3
    assert torch.equal(out, expected)


def test_ctrl_c_ends_a_backward_pass(interrupts: None) -> None:
    """Through autograd: the exception crosses torch's engine."""
    z = spikes(16, 64, 28, 28).requires_grad_()
    out = spiking_conv2d(z, weights(256, 64, 3, 3), padding=1)
    assert out.isfinite().float().mean() > 0.3
    main = threading.main_thread().ident
    assert main is not None

    def gradients() -> None:
        for _ in range(100):
            torch.autograd.grad(out.sum(), z, retain_graph=True)

    timer = threading.Timer(0.05, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        gradients()
    timer.join()
