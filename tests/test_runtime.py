"""Threads, processes, instruction sets and memory."""

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import ttfs_fast
from support.machine import run_children, run_python, torch_threads, use_instruction_set
from support.spikes import firing_weights, random_spikes
from ttfs_fast import spiking_conv2d, spiking_linear, spiking_max_pool2d

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads /proc, which only Linux has"
)
TIMEOUT = 60  # seconds, of a process that could hang


spikes = partial(random_spikes, silent=0.38)


def linear(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> list[Tensor]:
    given = [spikes(rows, inputs, seed=1, dtype=dtype), firing_weights(outputs, inputs, seed=2)]
    given.append(firing_weights(outputs, 4, seed=3)[:, 0])
    given = [t.to(dtype).requires_grad_() for t in given]
    return with_gradients(spiking_linear(*given), given)


def conv(
    batch: int, channels: int, outputs: int, size: int, dtype: torch.dtype, **geometry: object
) -> list[Tensor]:
    groups = int(str(geometry.get("groups", 1)))
    given = [
        spikes(batch, channels, size, size + 3, seed=4),
        firing_weights(outputs, channels // groups, 3, 3, seed=5),
        firing_weights(outputs, 4, seed=6)[:, 0],
    ]
    given = [t.to(dtype).requires_grad_() for t in given]
    return with_gradients(spiking_conv2d(*given, **geometry), given)


def pool(dtype: torch.dtype) -> list[Tensor]:
    z = spikes(5, 7, 20, 21, seed=7).to(dtype).requires_grad_()
    return with_gradients(spiking_max_pool2d(z, 3, 2, 1), [z])


def with_gradients(out: Tensor, given: list[Tensor]) -> list[Tensor]:
    assert out.isfinite().float().mean() > 0.4
    upstream = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    grads = torch.autograd.grad(out, given, upstream)
    assert all(g.any() and g.isfinite().all() for g in grads)
    return [out.detach(), *grads]


WORK: dict[str, Callable[[torch.dtype], list[Tensor]]] = {
    "linear": lambda dtype: linear(37, 300, 129, dtype),
    "one row": lambda dtype: linear(1, 1000, 500, dtype),
    "conv": lambda dtype: conv(5, 16, 33, 14, dtype, padding=1),
    "strides": lambda dtype: conv(2, 6, 40, 19, dtype, stride=2, dilation=(1, 2), groups=2),
    # Few threads pack a block of weights as they come to it, many pack all ahead.
    "few pixels": lambda dtype: conv(1, 520, 264, 4, dtype, padding=1, groups=2),
    "large image": lambda dtype: conv(1, 8, 64, 90, dtype, padding=1),
    "pool": pool,
}
each_work = pytest.mark.parametrize("work", WORK)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def differing(results: list[Tensor], expected: list[Tensor]) -> list[int]:
    """Places of the tensors that are not the same to the bit."""
    assert len(results) == len(expected)
    return [
        i for i, (a, b) in enumerate(zip(results, expected, strict=True)) if not torch.equal(a, b)
    ]


@each_work
@each_dtype
def test_same_bits_for_any_number_of_threads(
    instruction_set: str, work: str, dtype: torch.dtype
) -> None:
    with torch_threads(1):
        expected = WORK[work](dtype)
    for threads in (2, 3, 7, 1):
        with torch_threads(threads):
            assert differing(WORK[work](dtype), expected) == []


@each_work
def test_same_bits_with_more_threads_than_processors(work: str) -> None:
    with torch_threads(1):
        expected = WORK[work](torch.float32)
    for threads in (5, 16, 33, 64):
        with torch_threads(threads):
            assert differing(WORK[work](torch.float32), expected) == []


@each_work
@each_dtype
def test_same_bits_for_every_instruction_set(work: str, dtype: torch.dtype) -> None:
    """With fused multiply-adds; the baseline of a processor without them may round twice."""
    results = {}
    for name in ttfs_fast.instruction_sets():
        with use_instruction_set(name):
            results[name] = WORK[work](dtype)
    fused = [name for name in results if name != "baseline"]
    if len(fused) < 2:
        pytest.skip("this processor has fewer than two instruction sets with fused operations")
    assert differing(results[fused[0]], results[fused[1]]) == []
    for a, b in zip(results["baseline"], results[fused[0]], strict=True):
        assert torch.isclose(a, b, rtol=1e-3, atol=1e-4).float().mean() > 0.99


@each_work
def test_same_bits_run_after_run(work: str) -> None:
    expected = WORK[work](torch.float32)
    for _ in range(3):
        assert differing(WORK[work](torch.float32), expected) == []


def test_python_threads_run_concurrently() -> None:
    names = [name for name in WORK for _ in range(2)]
    expected = {name: WORK[name](torch.float32) for name in WORK}
    wrong: list[str] = []
    done: list[str] = []

    def run(name: str) -> None:
        torch.set_num_threads(2)  # of this thread: OpenMP keeps one number for each
        for _ in range(4):
            if differing(WORK[name](torch.float32), expected[name]):
                wrong.append(name)
        done.append(name)

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(done) == sorted(names)
    assert wrong == []


def test_errors_in_one_thread_do_not_affect_others() -> None:
    expected = WORK["linear"](torch.float32)
    outcomes: list[str] = []

    def bad() -> None:
        for _ in range(20):
            try:
                spiking_linear(torch.zeros(64, 64), torch.ones(64, 64))
            except ValueError:
                outcomes.append("refused")

    thread = threading.Thread(target=bad)
    thread.start()
    for _ in range(4):
        assert differing(WORK["linear"](torch.float32), expected) == []
    thread.join(TIMEOUT)
    assert outcomes == ["refused"] * 20


def in_child(
    queue: "multiprocessing.Queue[list[bool]]", given: list[Tensor], expected: list[Tensor]
) -> None:
    """The operators alone: torch's own hang in a forked child of a process with threads."""
    out = spiking_conv2d(*given, padding=1)
    results = [out.detach(), *torch.autograd.grad(out, given, torch.ones_like(out))]
    same = [bool((a.numpy() == b.numpy()).all()) for a, b in zip(results, expected, strict=True)]
    queue.put(same)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_child_does_not_hang(threads: int) -> None:
    given = [spikes(4, 16, 14, 17, seed=8), firing_weights(33, 16, 3, 3, seed=9)]
    given = [t.requires_grad_() for t in given]
    out = spiking_conv2d(*given, padding=1)  # a parallel region, where there are threads for it
    assert out.isfinite().float().mean() > 0.4
    expected = [out.detach(), *torch.autograd.grad(out, given, torch.ones_like(out))]
    assert torch.get_num_threads() == threads
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=in_child, args=(queue, given, expected), daemon=True)
    child.start()
    try:
        assert queue.get(timeout=TIMEOUT) == [True] * 3
        child.join(TIMEOUT)
        assert child.exitcode == 0
    finally:
        child.kill()
    assert torch.equal(spiking_conv2d(*given, padding=1), out)  # the parent still works


class Encoded(Dataset[Tensor]):
    """Runs an operator in the worker process."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        z = spikes(4, 8, 9, 9, seed=index)
        return spiking_conv2d(z, firing_weights(16, 8, 3, 3, seed=0), padding=1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_data_loader_workers(threads: int) -> None:
    data = Encoded()
    expected = [data[i] for i in range(len(data))]
    assert torch.stack(expected).isfinite().float().mean() > 0.4
    loader = DataLoader(data, batch_size=None, num_workers=2, timeout=TIMEOUT)
    for got, want in zip(loader, expected, strict=True):
        assert torch.equal(got, want)


@linux
def test_one_openmp_runtime() -> None:
    done = run_python(
        "-c",
        "import ttfs_fast, torch\n"
        "torch.set_num_threads(3)\n"
        "z = ttfs_fast.spiking_linear(torch.ones(64, 64), torch.ones(64, 64))\n"
        "assert z.isfinite().all()\n"
        "print(open('/proc/self/maps').read())\n",
    )
    assert done.returncode == 0, done.stderr
    files = {line.split()[-1] for line in done.stdout.splitlines() if ".so" in line}
    assert any("_core" in file for file in files)
    runtimes = {f for f in files if any(n in Path(f).name for n in ("gomp", "iomp", "libomp"))}
    assert len(runtimes) == 1, runtimes


def test_import_needs_only_torch_and_numpy() -> None:
    done = run_python(
        "-c",
        "import sys, torch, numpy\n"
        "before = set(sys.modules)\n"
        "import ttfs_fast\n"
        "print({m.split('.')[0] for m in set(sys.modules) - before}"
        " - set(sys.stdlib_module_names) - {'torch', 'numpy'})\n",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{'ttfs_fast'}"


def test_environment_chooses_the_instruction_set() -> None:
    program = (
        "import ttfs_fast, torch\n"
        "print(ttfs_fast.spiking_linear(torch.ones(1), torch.full((1, 1), 3.0)).item())\n"
        "print(ttfs_fast.instruction_set())"
    )
    names = (*ttfs_fast.instruction_sets(), "avx1024")
    *known, unknown = run_children(
        "import numpy, torch._dynamo", [(program, {"TTFS_FAST_ISA": name}) for name in names]
    )
    assert known
    for name, done in zip(ttfs_fast.instruction_sets(), known, strict=True):
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["1.5", name]
    assert unknown.returncode == 1
    last = unknown.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: ")
    assert 'TTFS_FAST_ISA is "avx1024"' in last
    assert all(name in last for name in ttfs_fast.instruction_sets())


def test_function_names_no_instruction_set() -> None:
    before = ttfs_fast.instruction_set()
    with pytest.raises(ValueError, match=r'instruction set is "sse9".*offer: baseline'):
        ttfs_fast.set_instruction_set("sse9")
    assert ttfs_fast.instruction_set() == before


MEMORY = """
import gc, torch, ttfs_fast
from ttfs_fast import spiking_conv2d, spiking_linear

torch.set_num_threads({threads})

def status(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) * 1024

def step(layer, z, weight):
    out = layer(z, weight)
    assert out[:2].isfinite().float().mean() > 0.9
    out.backward(torch.ones((), dtype=out.dtype).expand_as(out))

def tensors(shape, weight_shape):
    z = torch.empty(shape).uniform_(0, 2).exp_().requires_grad_()
    top = 8 / torch.Size(weight_shape[1:]).numel()
    return z, torch.empty(weight_shape).uniform_(0, top).requires_grad_()

{layer}
step(layer, *tensors({small}))
z, weight = tensors({large})
gc.collect()
open("/proc/self/clear_refs", "w").write("5")  # the peak starts again at what is used now
before = status("VmRSS")
step(layer, z, weight)
print(status("VmHWM") - before)
"""

LAYERS = {
    "linear": (
        "layer = spiking_linear",
        "(8, 64), (64, 64)",
        "(128, 4096), (4096, 4096)",
        128 * 4096,
    ),
    "conv": (
        "layer = lambda z, weight: spiking_conv2d(z, weight, padding=1)",
        "(2, 8, 9, 9), (8, 8, 3, 3)",
        "(128, 64, 32, 32), (64, 64, 3, 3)",
        128 * 64 * 32 * 32,
    ),
}


@pytest.fixture(scope="module")
def peaks() -> "dict[tuple[str, int], subprocess.CompletedProcess[str]]":
    """The memory that a training step of each layer takes, each in a process of its own."""
    cases = [(name, threads) for name in LAYERS for threads in (1, 2)]
    programs = []
    for name, threads in cases:
        layer, small, large, _ = LAYERS[name]
        programs.append(MEMORY.format(threads=threads, layer=layer, small=small, large=large))
    found = run_children("import torch._dynamo, ttfs_fast", [(program, {}) for program in programs])
    return dict(zip(cases, found, strict=True))


@linux
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_memory_of_a_training_step(
    peaks: "dict[tuple[str, int], subprocess.CompletedProcess[str]]", name: str, threads: int
) -> None:
    """Beside inputs and weights: output, D, their gradients, and one packed copy of the weights.

    For scratch memory 8 MB, and 4 MB more a thread, are allowed: receptive fields unfolded, or
    causal sets stored, would take some hundred.
    """
    *_, outputs = LAYERS[name]
    done = peaks[name, threads]
    assert done.returncode == 0, done.stderr
    used = int(done.stdout)
    weight = 4096 * 4096 if name == "linear" else 64 * 64 * 9
    inputs = outputs  # as many in these layers
    least = 4 * (2 * outputs + inputs + weight)
    print(f"{name}, {threads} threads: {used / 1e6:.1f} MB, results {least / 1e6:.1f} MB")
    assert used > 0.9 * 4 * (inputs + outputs)  # the measurement measures
    assert used < least + 4 * weight + 8e6 + threads * 4e6
