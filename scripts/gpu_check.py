"""The GPU's kernels against the CPU's, and their times beside dense layers; see gpu_check.sh."""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ttfs_fast
from ttfs_fast import ops
from ttfs_fast.bench.layers import LAYERS, Layer
from ttfs_fast.bench.measure import forward, train

Call = Callable[[], object]


def alternate(calls: list[Call], rounds: int, device: torch.device) -> list[float]:
    """Median seconds of each call; they take turns after two rounds that are not counted."""
    times: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 2):
        for call, record in zip(calls, times, strict=True):
            if device.type == "cuda":
                events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
                events[0].record()
                call()
                events[1].record()
                events[1].synchronize()
                seconds = events[0].elapsed_time(events[1]) / 1000
            else:
                begin = time.perf_counter()
                call()
                seconds = time.perf_counter() - begin
            if number >= 2:
                record.append(seconds)
    return [statistics.median(record) for record in times]


def with_tf32(call: Call, allowed: bool) -> Call:
    def run() -> None:
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
        call()

    return run


def checked(layer: Layer, expected: list[Tensor], device: torch.device) -> dict[str, Any]:
    """How far the GPU's results are from those of the CPU's core, and from themselves."""
    x, _, weight = layer.tensors()
    on = [run_once(layer, x.to(device), weight.to(device)) for _ in range(2)]
    ours = [t.cpu() for t in on[0]]
    both = expected[0].isfinite() & ours[0].isfinite()
    error = ((ours[0] - expected[0]).abs() / expected[0])[both]
    return {
        "layer": layer.name,
        "same bits again": all(map(torch.equal, on[0], on[1])),
        "silence differs": (expected[0].isinf() != ours[0].isinf()).float().mean().item(),
        "beyond 1e-5": (error > 1e-5).float().mean().item(),
        "gradients": [
            ((a - b).norm() / b.norm()).item() for a, b in zip(ours[1:], expected[1:], strict=True)
        ],
    }


def run_once(layer: Layer, x: Tensor, weight: Tensor) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in (x, weight)]
    out = layer.spiking(*leaves)
    grads = torch.autograd.grad(out, leaves, torch.ones_like(out))
    return [out.detach(), *grads]


def timed(layer: Layer, device: torch.device, rounds: int) -> dict[str, Any]:
    z, x, weight = (t.to(device) for t in layer.tensors())
    grad = torch.randn_like(layer.spiking(z, weight))
    row: dict[str, Any] = {"layer": layer.name}
    for name, call in (("forward", forward), ("forward + backward", partial(train, grad=grad))):
        dense = partial(call, layer.dense, x, weight)
        row[name], row[f"{name}, dense"], row[f"{name}, dense TF32"] = alternate(
            [
                with_tf32(partial(call, layer.spiking, z, weight), False),
                with_tf32(dense, False),
                with_tf32(dense, True),
            ],
            rounds,
            device,
        )
        row[f"{name}, ratio"] = row[name] / row[f"{name}, dense"]
    return row


def table(rows: list[dict[str, Any]]) -> str:
    def text(value: Any) -> str:
        if isinstance(value, list):
            return " ".join(map(text, value))
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(map(text, row.values())) + " |" for row in rows]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json and gpu.md")
    parser.add_argument("--dry", action="store_true", help="the interpreter and tiny sizes")
    options = parser.parse_args()
    device = torch.device("cpu" if options.dry else "cuda")
    if not options.dry and not torch.cuda.is_available():
        print("torch finds no GPU: nothing to check (a dry run works without)", file=sys.stderr)
        return 1
    layers = LAYERS
    if options.dry:
        layers = (Layer(2, 2, 3, 4, 3, 1, 1), Layer(2, 8, 5))
    start = time.perf_counter()
    with warnings.catch_warnings():
        # The reference in the kernels' place is a failure here.
        warnings.filterwarnings("error", message="spiking layers on the GPU run in plain torch")
        small = [replace(layer, batch=2) for layer in layers]
        expected = [run_once(layer, *layer.tensors()[::2]) for layer in small]
        if options.dry:  # from here on the kernels serve the CPU
            for operator, implementation in ops.GPU_IMPLEMENTATIONS:
                operator.register_kernel("cpu")(implementation)
        checks = [checked(*each, device) for each in zip(small, expected, strict=True)]
        times = [timed(layer, device, 1 if options.dry else 21) for layer in layers]
    result = {
        "ttfs_fast": ttfs_fast.__version__,
        "torch": torch.__version__,
        "device": "interpreter" if options.dry else torch.cuda.get_device_name(),
        "seconds": time.perf_counter() - start,
        "checks": checks,
        "times": times,
    }
    wrong = [c["layer"] for c in checks if not c["same bits again"] or c["beyond 1e-5"] > 1e-3]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    parts = [f"# {result['device']}, torch {torch.__version__}", table(checks), table(times)]
    parts += [f"Failed: {', '.join(wrong)}"] if wrong else []
    (options.out / "gpu.md").write_text("\n\n".join(parts) + "\n\nTimes in seconds.\n")
    print("\n\n".join(parts))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
