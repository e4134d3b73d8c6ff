"""Time of the integer engine against the float operators and torch's dense layers, in one process.

The layers are those of SpikingVGG16 (Table 1 of Zhou et al.) on CIFAR-10's images, and the MNIST
network as a whole. Each is timed in turn by the integer engine, by the float operator and by
torch's dense float32 layer of the same shape; what counts is the ratio of the medians:

    python bench/integer.py --threads 2             # a table, and bench-integer.json
    python bench/integer.py --only fc --bits 4
    python bench/integer.py --memory                # resident size of SpikingVGG16, 4-bit and float

Inputs and weights are those of `ttfs-fast bench`: 62 % of the inputs spike, at times uniform in
[0, 2]; a bit over half of the neurons fire.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import ttfs_fast
from ttfs_fast import _core
from ttfs_fast.encoding import Encoding
from ttfs_fast.models import mnist_scnn
from ttfs_fast.nn import SpikingConv2d, SpikingLinear, SpikingMaxPool2d
from ttfs_fast.quantization import IntegerNetwork, convert

UNIT = 1 / 256
CONVOLUTIONS = (
    (3, 64, 32),
    (64, 64, 32),
    (64, 128, 16),
    (128, 128, 16),
    (128, 256, 8),
    (256, 256, 8),
    (256, 512, 4),
    (512, 512, 4),
    (512, 1024, 2),
    (1024, 1024, 2),
)
LINEARS = ((1024, 4096), (4096, 4096), (4096, 512), (512, 10))
# How often each layer occurs in SpikingVGG16.
TIMES = {(256, 256, 8): 2, (512, 512, 4): 2, (1024, 1024, 2): 2}


@dataclass(frozen=True)
class Row:
    """Medians in seconds."""

    layer: str
    batch: int
    occurs: int
    fired: float
    integer: float
    floats: float
    dense: float


def medians(calls: list[Callable[[], object]], repeats: int, statistic: str) -> list[float]:
    """Times of the calls, taken in turn after one warm-up each."""
    times: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, record in zip(calls, times, strict=True):
            begin = time.perf_counter()
            call()
            if repeat:
                record.append(time.perf_counter() - begin)
    of = min if statistic == "min" else statistics.median
    return [of(record) for record in times]


def random_weights(layer: nn.Module) -> None:
    count = layer.weight[0].numel()
    nn.init.normal_(layer.weight, 2 / count, 3 / math.sqrt(count))


def measure(
    name: str, layer: Any, size: tuple[int, int, int], batch: int, occurs: int, args: Any
) -> Row:
    torch.manual_seed(0)
    random_weights(layer)
    z = torch.rand(batch, *size).mul(2).exp()
    z[torch.rand_like(z) > 0.62] = math.inf
    chain = nn.Sequential(layer) if size[1] > 1 else nn.Sequential(nn.Flatten(), layer)
    net = convert(chain, args.bits, input_size=size, encoding=Encoding(2.0), time_scales=UNIT)
    codes = torch.where(z.isinf(), 65535.0, (z / UNIT).round()).numpy().astype(np.uint16)
    x, weight = torch.randn_like(z), layer.weight.detach()
    if isinstance(layer, SpikingConv2d):
        dense: Callable[[], object] = lambda: F.conv2d(x, weight, padding=1)  # noqa: E731
        values: Callable[[], object] = lambda: layer(z)  # noqa: E731
    else:
        flat_x, flat_z = x.flatten(1), z.flatten(1)
        dense = lambda: F.linear(flat_x, weight)  # noqa: E731
        values = lambda: layer(flat_z)  # noqa: E731
    fired = float((net(codes, threads=args.threads) != net.silent).mean())
    with torch.no_grad():
        times = medians(
            [lambda: net(codes, threads=args.threads), values, dense], args.repeats, args.statistic
        )
    return Row(name, batch, occurs, fired, *times)


def measure_mnist(batch: int, args: Any) -> Row:
    """The whole network, from pixels to spike codes; dense: the same layers and ReLUs."""
    model = mnist_scnn(pretrained=True)
    net = convert(model, args.bits)
    rng = np.random.default_rng(0)
    from ttfs_fast.data import load
    from ttfs_fast.encoding import encode

    digits = load("digits", train=False).images
    pixels = digits[rng.integers(0, len(digits), batch)]
    tensor = torch.from_numpy(pixels)
    x = tensor.float() / 255

    def dense() -> object:
        a = F.conv2d(F.pad(x, (1, 2, 1, 2)), model.conv1.weight, model.conv1.bias, 2).relu()
        a = F.conv2d(F.pad(a, (1, 2, 1, 2)), model.conv2.weight, model.conv2.bias, 2).relu()
        return F.linear(a.flatten(1), model.fc.weight, model.fc.bias)

    codes = net(pixels, threads=args.threads)
    with torch.no_grad():
        times = medians(
            [lambda: net(pixels, threads=args.threads), lambda: model(encode(tensor)), dense],
            10 * args.repeats,
            args.statistic,
        )
    return Row("MNIST network", batch, 0, float((codes != net.silent).mean()), *times)


def spiking_vgg16() -> nn.Sequential:
    """SpikingVGG16 of Table 1, with random weights."""
    layers: list[nn.Module] = []
    channels = 3
    for item in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 1024, 1024, 1024, 0):
        if item == 0:
            layers.append(SpikingMaxPool2d(2))
        else:
            layers.append(SpikingConv2d(channels, item, 3, padding=1))
            channels = item
    layers.append(nn.Flatten())
    for inputs, outputs in LINEARS:
        layers.append(SpikingLinear(inputs, outputs))
    return nn.Sequential(*layers)


def integer_vgg16() -> IntegerNetwork:
    """The same with random 4-bit weights."""
    encoders = np.linspace(5000, 256, 256).astype(np.uint16)[None]
    core = _core.IntegerNetwork(16, (3, 32, 32), UNIT, encoders)
    rng = np.random.default_rng(0)
    for layer in spiking_vgg16():
        channels, rows, columns = core.output_size
        if isinstance(layer, SpikingMaxPool2d):
            core.add_pooling((2, 2), (2, 2), (0, 0), (1, 1), (rows // 2, columns // 2))
        elif not isinstance(layer, nn.Flatten):
            outputs, kernel = layer.weight.shape[0], 3 if layer.weight.dim() == 4 else 1
            codes = rng.integers(-7, 8, (outputs, channels, kernel, kernel), np.int8)
            theta = np.full(outputs, 60, np.int32)
            pad = (kernel // 2, kernel // 2)
            core.add_neurons(
                codes, 4, theta, None, 1, 1 << 16, 65534, (1, 1), pad, (1, 1), 1, (rows, columns)
            )
    return IntegerNetwork(core)


RESIDENT = """
import sys
def resident(key="VmRSS"):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key)) * 1024
import numpy as np
images = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32)).astype(np.uint8)
kind, path = sys.argv[1:]
if kind == "float":
    import torch, ttfs_fast
    from ttfs_fast.encoding import encode
    sys.path.insert(0, {bench!r})
    from integer import spiking_vgg16
    before = resident()
    model = spiking_vgg16()
    with torch.no_grad():
        model(encode(torch.from_numpy(images)))
else:
    import ttfs_fast
    before = resident()
    net = ttfs_fast.quantization.load(path)
    net(images, threads=2)
    assert "torch" not in sys.modules
print(before, resident(), resident("VmHWM"))
"""


def measure_memory() -> dict[str, list[int]]:
    """Resident size of processes that load and run SpikingVGG16: before, after, peak."""
    code = RESIDENT.format(bench=str(Path(__file__).parent))
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        path = integer_vgg16().save(Path(folder) / "vgg.ttfs")
        for kind in ("integer", "float"):
            done = subprocess.run(
                [sys.executable, "-c", code, kind, str(path)],
                capture_output=True,
                text=True,
                check=True,
            )
            sizes[kind] = [int(n) for n in done.stdout.split()]
            before, after, peak = (n / 1e6 for n in sizes[kind])
            print(
                f"{kind:8} process {after:6.1f} MB (peak {peak:.1f}), of which the network "
                f"{after - before:6.1f} MB"
            )
    a, b = sizes["integer"], sizes["float"]
    process, network = b[1] / a[1], (b[1] - b[0]) / (a[1] - a[0])
    print(f"integer / float: process 1/{process:.1f}, network 1/{network:.1f}")
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of all three")
    parser.add_argument("--repeats", type=int, default=11, help="counted runs of each")
    parser.add_argument("--statistic", choices=("median", "min"), default="median")
    parser.add_argument("--bits", type=int, default=8, help="of a weight")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--only", default="", help="layers whose name holds this")
    parser.add_argument("--memory", action="store_true", help="resident sizes instead")
    parser.add_argument("--json", type=Path, default=Path("bench-integer.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    facts = {
        "ttfs_fast": ttfs_fast.__version__,
        "torch": str(torch.__version__),
        "instruction_set": ttfs_fast.instruction_set(),
        "threads": args.threads,
        "repeats": args.repeats,
        "statistic": args.statistic,
        "bits": args.bits,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    }
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    if args.memory:
        measure_memory()
        return
    print(
        f"{'layer':26} {'fired':>5} {'integer':>9} {'float / integer':>22} {'dense / integer':>22}"
    )
    rows: list[Row] = []

    def report(row: Row) -> None:
        rows.append(row)
        a, b, c = row.integer, row.floats, row.dense
        print(
            f"{row.layer + f' b{row.batch}':26} {row.fired:5.0%} {1e3 * a:6.3f} ms "
            f"{1e3 * b:10.3f} ms {b / a:6.2f} x {1e3 * c:10.3f} ms {c / a:6.2f} x",
            flush=True,
        )

    for batch in args.batch:
        for inputs, outputs, size in CONVOLUTIONS:
            name = f"conv 3x3 {inputs}->{outputs} @{size}"
            if args.only in name:
                layer = SpikingConv2d(inputs, outputs, 3, padding=1, bias=False)
                occurs = TIMES.get((inputs, outputs, size), 1)
                report(measure(name, layer, (inputs, size, size), batch, occurs, args))
        for inputs, outputs in LINEARS:
            name = f"fc {inputs}->{outputs}"
            if args.only in name:
                fc = SpikingLinear(inputs, outputs, bias=False)
                report(measure(name, fc, (inputs, 1, 1), batch, 1, args))
        whole = [row for row in rows if row.batch == batch and row.occurs]
        if len(whole) == len(CONVOLUTIONS) + len(LINEARS):
            sums = [
                sum(row.occurs * getattr(row, kind) for row in whole)
                for kind in ("integer", "floats", "dense")
            ]
            report(Row("all of SpikingVGG16", batch, 0, math.nan, *sums))
        if args.only in "MNIST network":
            report(measure_mnist(batch, args))
    args.json.write_text(json.dumps({**facts, "rows": [asdict(r) for r in rows]}, indent=1))
    print(f"written: {args.json}")


if __name__ == "__main__":
    main()
