"""Time of the spiking operators against torch's dense ones of the same shape, in one process.

Every layer is timed in turn with the dense operator, so that a machine whose speed drifts slows
both, and what counts is the ratio of the medians:

    python bench/operators.py                 # a table, and bench-operators.json
    python bench/operators.py --threads 1 --repeats 21 --only conv
    python bench/operators.py --plain         # the plain torch formulation as well (slow)

Inputs: 62 % spike, at times uniform in [0, 2]; weights of mean 2 / N and deviation 3 / sqrt(N),
with which a bit over half of the neurons fire.
"""

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import ttfs_fast
from ttfs_fast import reference


@dataclass(frozen=True)
class Layer:
    """A layer to time: a convolution, or fully connected where `size` is 0."""

    name: str
    batch: int
    inputs: int
    outputs: int
    size: int = 0
    kernel: int = 1
    stride: int = 1
    padding: int = 0

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Spike values, dense input and weight."""
        torch.manual_seed(0)
        space = (self.size, self.size) if self.size else ()
        z = torch.rand(self.batch, self.inputs, *space).mul(2).exp()
        z[torch.rand_like(z) > 0.62] = math.inf
        count = self.inputs * self.kernel**2
        shape = (self.outputs, self.inputs) + ((self.kernel, self.kernel) if self.size else ())
        weight = torch.randn(shape) * 3 / math.sqrt(count) + 2 / count
        return z, torch.randn_like(z), weight

    def spiking(self, z: Tensor, weight: Tensor) -> Tensor:
        if not self.size:
            return ttfs_fast.spiking_linear(z, weight)
        return ttfs_fast.spiking_conv2d(z, weight, None, self.stride, self.padding)

    def dense(self, x: Tensor, weight: Tensor) -> Tensor:
        if not self.size:
            return F.linear(x, weight)
        return F.conv2d(x, weight, None, self.stride, self.padding)

    def plain(self, z: Tensor, weight: Tensor) -> Tensor:
        if not self.size:
            return reference.spiking_linear(z, weight)
        s, p = self.stride, self.padding
        return reference.spiking_conv2d(z, weight, None, (s, s), (p, p))


LAYERS = (
    Layer("conv 3x3 64->64 @32 b4", 4, 64, 64, 32, 3, 1, 1),
    Layer("conv 3x3 128->128 @16 b8", 8, 128, 128, 16, 3, 1, 1),
    Layer("conv 3x3 256->256 @8 b16", 16, 256, 256, 8, 3, 1, 1),
    Layer("conv 3x3 512->512 @4 b32", 32, 512, 512, 4, 3, 1, 1),
    Layer("conv 3x3 3->64 @32 b16", 16, 3, 64, 32, 3, 1, 1),
    Layer("conv 7x7/2 3->64 @224 b1", 1, 3, 64, 224, 7, 2, 3),
    Layer("conv 5x5/2 1->32 @28 b10", 10, 1, 32, 28, 5, 2, 2),
    Layer("linear 4096->4096 b128", 128, 4096, 4096),
    Layer("linear 1024->4096 b128", 128, 1024, 4096),
)
PLAIN_LAYER = Layer("conv 3x3 64->64 @32 b1", 1, 64, 64, 32, 3, 1, 1)


@dataclass(frozen=True)
class Row:
    """Medians in seconds, and the share of outputs that fired."""

    layer: str
    fired: float
    forward: float
    dense_forward: float
    training: float
    dense_training: float
    plain_training: float | None = None


def medians(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median times of the calls, taken in turn after one warm-up each."""
    times: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, record in zip(calls, times, strict=True):
            begin = time.perf_counter()
            call()
            if repeat:
                record.append(time.perf_counter() - begin)
    return [statistics.median(record) for record in times]


def measure(layer: Layer, repeats: int, plain: bool) -> Row:
    z, x, weight = layer.tensors()
    out = layer.spiking(z, weight)
    grad = torch.randn_like(out)

    def train(operator: Callable[[Tensor, Tensor], Tensor], input: Tensor) -> None:
        a, b = input.detach().requires_grad_(), weight.detach().requires_grad_()
        operator(a, b).backward(grad)

    with torch.no_grad():
        forward, dense_forward = medians(
            [lambda: layer.spiking(z, weight), lambda: layer.dense(x, weight)], repeats
        )
    training, dense_training = medians(
        [lambda: train(layer.spiking, z), lambda: train(layer.dense, x)], repeats
    )
    plain_training = None
    if plain:
        training, plain_training = medians(
            [lambda: train(layer.spiking, z), lambda: train(layer.plain, z)], 3
        )
    fired = out.isfinite().float().mean().item()
    return Row(layer.name, fired, forward, dense_forward, training, dense_training, plain_training)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of both")
    parser.add_argument("--repeats", type=int, default=11, help="counted runs of each")
    parser.add_argument("--only", default="", help="layers whose name holds this")
    parser.add_argument("--plain", action="store_true", help="also time the plain torch layer")
    parser.add_argument("--json", type=Path, default=Path("bench-operators.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    machine = {
        "ttfs_fast": ttfs_fast.__version__,
        "torch": str(torch.__version__),
        "instruction_set": ttfs_fast.instruction_set(),
        "threads": args.threads,
        "repeats": args.repeats,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"{'layer':26} {'fired':>5} {'forward':>19} {'ratio':>6} {'fwd+bwd':>19} {'ratio':>6}")
    rows = []
    for layer in (layer for layer in LAYERS if args.only in layer.name):
        row = measure(layer, args.repeats, plain=False)
        rows.append(row)
        times = [f"{1e3 * t:.2f}" for t in (row.forward, row.dense_forward)]
        both = [f"{1e3 * t:.2f}" for t in (row.training, row.dense_training)]
        print(
            f"{row.layer:26} {row.fired:5.0%} {' / '.join(times) + ' ms':>19} "
            f"{row.forward / row.dense_forward:6.2f} {' / '.join(both) + ' ms':>19} "
            f"{row.training / row.dense_training:6.2f}",
            flush=True,
        )
    if args.plain:
        row = measure(PLAIN_LAYER, args.repeats, plain=True)
        rows.append(row)
        assert row.plain_training is not None
        print(
            f"{row.layer}, forward + backward: plain torch formulation {row.plain_training:.2f} s, "
            f"ours {1e3 * row.training:.2f} ms: {row.plain_training / row.training:.0f} x faster"
        )
    args.json.write_text(json.dumps({**machine, "rows": [asdict(r) for r in rows]}, indent=1))
    print(f"written: {args.json}")


if __name__ == "__main__":
    main()
