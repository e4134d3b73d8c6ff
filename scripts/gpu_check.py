"""Kernels on a GPU against those on the CPU, times, training, an epoch; see gpu_check.sh."""

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ttfs_fast
from ttfs_fast import bench, ops
from ttfs_fast.bench.layers import Layer

TIGHT = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Largest relative difference of spike values that counts as none."""
LOOSE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""The same of gradients, of the norm of all."""

# batch, inputs, outputs, height, width, kernel, stride, padding, dilation, groups, bias, t_max
WALKS = {
    "same": (3, 3, 140, 9, 8, (3, 3), (1, 1), (1, 1), (1, 1), 1, True, math.inf),
    "groups": (2, 8, 12, 10, 7, (2, 3), (2, 1), (0, 1), (1, 1), 2, False, math.inf),
    "dilated": (2, 2, 40, 9, 11, (3, 2), (1, 1), (2, 0), (2, 3), 1, True, math.inf),
    "horizon": (4, 1, 30, 9, 9, (3, 3), (2, 3), (1, 2), (2, 2), 1, True, 1.2),
    "depthwise": (2, 6, 6, 11, 11, (2, 2), (3, 3), (1, 1), (1, 1), 6, True, math.inf),
    "one pixel": (64, 700, 300, 1, 1, (1, 1), (1, 1), (0, 0), (1, 1), 1, True, math.inf),
}
DRY = {"same": (1, 2, 5, 3, 3, (3, 3), (1, 1), (1, 1), (1, 1), 1, True, math.inf)}

Operators = Callable[..., list[Tensor]]


class Prepared(Layer):
    """A layer whose tensors were made once, by the CPU's operators."""

    made: dict[str, tuple[Tensor, Tensor, Tensor]] = {}  # noqa: RUF012 - of all of them

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.name not in self.made:
            self.made[self.name] = super().tensors()
        return self.made[self.name]


def of_layer(layer: Layer, dtype: torch.dtype) -> tuple[Operators, list[Tensor]]:
    z, _, weight = layer.tensors()

    def run(x: Tensor, w: Tensor) -> list[Tensor]:
        out = layer.spiking(x, w)
        return [out, *torch.autograd.grad(out, (x, w), torch.ones_like(out))]

    return run, [z.to(dtype), weight.to(dtype)]


def of_walk(
    walk: tuple[Any, ...], dtype: torch.dtype, ties: bool
) -> tuple[Operators, list[Tensor]]:
    """A random convolution and a pool behind it; with ties, on a grid where sums are exact."""
    n, inputs, outputs, height, width, kernel, stride, padding, dilation, groups, bias, t_max = walk
    torch.manual_seed(len(str(walk)))
    fan_in = inputs // groups * math.prod(kernel)
    x = (torch.rand(n, inputs, height, width, dtype=torch.float64) * 2 - 0.7).exp()
    w = torch.randn(outputs, inputs // groups, *kernel, dtype=torch.float64)
    w = w * 3 / math.sqrt(fan_in) + 3 / fan_in
    b = torch.randn(outputs, dtype=torch.float64) * 0.4
    if ties:
        x = torch.randint(1, 9, x.shape).double() / 2
        w, b = (torch.randint(-8, 30, t.shape).double() / 16 for t in (w, b))
    x[torch.rand(x.shape) < 0.3] = math.inf
    x[0, 0, 0, 0] = math.nan
    given = [t.to(dtype) for t in ((x, w, b) if bias else (x, w))]

    def run(*tensors: Tensor) -> list[Tensor]:
        last = tensors[0].contiguous(memory_format=torch.channels_last)
        out = ttfs_fast.spiking_conv2d(
            last, *tensors[1:], stride=stride, padding=padding, dilation=dilation, groups=groups,
            t_max=t_max,
        )  # fmt: skip
        first = ttfs_fast.spiking_max_pool2d(out, 2, padding=1)
        total = out[out.isfinite()].sum() + first[first.isfinite()].sum()
        return [out, first, *torch.autograd.grad(total, tensors)]

    return run, given


def once(run: Operators, given: list[Tensor], device: torch.device) -> list[Tensor]:
    leaves = [t.detach().to(device).requires_grad_() for t in given]
    return [t.detach().cpu() for t in run(*leaves)]


def compared(
    name: str, run: Operators, given: list[Tensor], expected: list[Tensor], device: torch.device
) -> dict[str, Any]:
    """How far the GPU's results are from those of the CPU's core, and from themselves."""
    ours, again = (once(run, given, device) for _ in range(2))
    dtype = given[0].dtype
    z, theirs = ours[0], expected[0]
    odd = (z.isinf() != theirs.isinf()) | (z.isnan() != theirs.isnan())
    both = z.isfinite() & theirs.isfinite()
    odd[both] |= ((z - theirs).abs() / theirs)[both] > TIGHT[dtype]
    grads = [t for t in zip(ours, expected, strict=True) if t[0].dtype == dtype][-len(given) :]
    errors = []
    for a, b in grads:
        sound = b.isfinite() & a.isfinite()
        errors.append(((a - b)[sound].norm() / b[sound].norm().clamp(min=1e-30)).item())
    bits = all(
        torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(ours, again, strict=True)
    )
    share = odd.double().mean().item()
    # A neuron whose membrane just touches may go either way, and takes its gradient along.
    right = bits and share <= 1e-3 and max(errors) < (LOOSE[dtype] if share == 0 else 0.1)
    return {
        "operator": name,
        "dtype": str(dtype).removeprefix("torch."),
        "right": right,
        "same bits again": bits,
        "spike values off": share,
        "gradients off": max(errors),
    }


def expected_of(layers: tuple[Layer, ...], dry: bool) -> list[tuple[Any, ...]]:
    """Every comparison, with what the CPU's core computes."""
    found = []
    for dtype in (torch.float32, torch.float64):
        cases = {
            f"{name}{', ties' if ties else ''}": of_walk(walk, dtype, ties)
            for name, walk in (DRY if dry else WALKS).items()
            for ties in ((False,) if dry else (False, True))
        }
        if dtype == torch.float32:
            small = [Prepared(**{**vars(layer), "batch": min(layer.batch, 2)}) for layer in layers]
            cases |= {layer.name: of_layer(layer, dtype) for layer in small}
        for name, (run, given) in cases.items():
            found.append((name, run, given, once(run, given, torch.device("cpu"))))
    return found


def refusals(device: torch.device) -> dict[str, Any]:
    """Bad and empty input, as one more comparison."""
    right = ttfs_fast.spiking_linear(
        torch.ones(0, 3, device=device), torch.ones(2, 3, device=device)
    ).shape == (0, 2)
    try:
        ttfs_fast.spiking_linear(torch.zeros(1, 3, device=device), torch.ones(2, 3, device=device))
        right = False
    except ValueError:
        pass
    return {"operator": "empty, not positive", "dtype": "float32", "right": right}


def epoch(device: torch.device, data: Path | None, out: Path, dry: bool) -> dict[str, Any]:
    """An epoch of SpikingVGG16 on CIFAR-10, with the package's own `train`."""
    from ttfs_fast.training import TrainConfig, read_recipe, train

    settings = read_recipe("cifar10-vgg16") | {"batch_size": 128, "device": str(device)}
    left_out = ""
    if find_spec("kornia") is None:
        left_out = "; kornia is not installed: no crop, no flip"
        settings |= {"crop": 0, "hflip": False}
    if dry:
        settings |= {"width": 1 / 16, "batch_size": 10}
    with tempfile.TemporaryDirectory() as folder:
        images = "CIFAR-10"
        if data is None:
            images, data = "random images of CIFAR-10's shape", Path(folder) / "cifar10"
            write_random(data, 10 if dry else 10_000)
        config = TrainConfig(**(settings | {"data_root": str(data)}))
        begin = time.perf_counter()
        result = train(config, out / "epoch", overwrite=True)
        seconds = time.perf_counter() - begin
    return {
        "network": f"SpikingVGG16, width {config.width:g}, batches of {config.batch_size}",
        "images": images + left_out,
        "epoch, s": result.records[0].seconds,
        "with loading and export, s": seconds,
        "accuracy": result.evaluation.accuracy,
        "goal, s": 120.0,
    }


def write_random(folder: Path, images: int) -> None:
    """Files like CIFAR-10's, whose images mean nothing."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        records = generator.integers(0, 256, (images, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(images) % 10
        records.tofile(folder / f"{name}.bin")


def table(rows: list[dict[str, Any]]) -> str:
    def text(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    heads = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(text(row.get(key, "")) for key in heads) + " |" for row in rows]
    return "\n".join(lines)


def picture(rows: list[dict[str, Any]]) -> str:
    """Time in dense layers of every layer, as an SVG: this machine may lack matplotlib."""
    kinds = (("forward_ratio", "#3b6ea5", "forward"), ("training_ratio", "#c8703a", "fwd + bwd"))
    top, height, left, width = 40, 22, 230, 420
    most = max([6.0, *(row[key] for row in rows for key, _, _ in kinds)])
    parts = []
    for number, row in enumerate(rows):
        y = top + number * (2 * height + 10)
        parts.append(
            f'<text x="{left - 8}" y="{y + height}" text-anchor="end">{row["layer"]}</text>'
        )
        for place, (key, color, name) in enumerate(kinds):
            bar, at = width * row[key] / most, y + place * height
            parts.append(
                f'<rect x="{left}" y="{at}" width="{bar:.1f}" height="19" fill="{color}"/>'
                f'<text x="{left + bar + 4:.1f}" y="{at + 15}">{row[key]:.2f} {name}</text>'
            )
    size = top + len(rows) * (2 * height + 10)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 120}" height="{size}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{left}" y="22">time in dense float32 layers (TF32 off)</text>'
        + "".join(parts)
        + "</svg>\n"
    )


class Report:
    """What was found so far, written after each part: a machine that is taken away leaves it."""

    def __init__(self, out: Path, device: str, seconds: int) -> None:
        self.out, self.begin, self.limit = out, time.perf_counter(), seconds
        self.content: dict[str, Any] = {
            "ttfs_fast": str(ttfs_fast.__version__),
            "torch": str(torch.__version__),
            "device": device,
            "parts": {},
            "failed": {},
        }
        out.mkdir(parents=True, exist_ok=True)

    def part(self, name: str, find: Callable[[], Any]) -> Any:
        """Find something out, within the time that is left; a failure is written down."""
        print(f"{time.perf_counter() - self.begin:6.1f} s  {name}", flush=True)
        begin, found = time.perf_counter(), None

        def late(*_: Any) -> None:
            raise TimeoutError(f"the {self.limit} s were over")

        before = signal.signal(signal.SIGALRM, late)
        signal.alarm(max(1, int(self.limit - (begin - self.begin))))
        try:
            found = find()
        except Exception as error:
            traceback.print_exc()
            self.content["failed"][name] = f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        self.content["parts"][name] = {"seconds": time.perf_counter() - begin, "found": found}
        self.write()
        return found

    def write(self) -> None:
        parts = self.content["parts"]
        (self.out / "gpu.json").write_text(json.dumps(self.content, indent=1, default=str) + "\n")
        text = [f"# {self.content['device']}, torch {self.content['torch']}"]
        for name in ("operators", "epoch"):
            if (rows := parts.get(name, {}).get("found")) is not None:
                text += [f"## {name}", table(rows)]
        for name in bench.GPU_GROUPS:
            if (result := parts.get(name, {}).get("found")) is not None:
                text += [f"## {bench.GPU_GROUPS[name].title}"]
                text += [bench.GPU_GROUPS[name].table(result["rows"]).markdown()]
                if name == "gpu":
                    (self.out / "gpu.svg").write_text(picture(result["rows"]))
                    text += ["![time in dense layers](gpu.svg)"]
        for name, why in self.content["failed"].items():
            text.append(f"Failed: {name}: {why}")
        seconds = ", ".join(f"{name} {part['seconds']:.0f} s" for name, part in parts.items())
        text.append(f"Time: {seconds}.")
        (self.out / "gpu.md").write_text("\n\n".join(text) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10's binary files")
    parser.add_argument("--seconds", type=int, default=330, help="what is not done by then is left")
    parser.add_argument("--dry", action="store_true", help="the interpreter and tiny sizes")
    options = parser.parse_args()
    device = torch.device("cpu" if options.dry else "cuda")
    if not options.dry and not torch.cuda.is_available():
        print("torch finds no GPU: nothing to check (a dry run works without)", file=sys.stderr)
        return 1
    device = ttfs_fast.gpu.resolve_device(device)
    name = "Triton's interpreter" if options.dry else torch.cuda.get_device_name(device)
    report = Report(options.out, name, options.seconds)
    settings = bench.Settings(threads=torch.get_num_threads(), device=device, seconds=0.2)
    if options.dry:
        settings = replace(
            bench.Settings.quick(1), layers=(Layer(1, 2, 3, 2, 3, 1, 1), Layer(2, 5, 4)), repeats=1
        )
    layers = tuple(Prepared(**vars(layer)) for layer in settings.layers)
    settings = replace(settings, layers=layers)

    def operators() -> list[dict[str, Any]]:
        rows = [compared(*case, device) for case in cases]
        return [*rows, refusals(device)]

    def group(name: str) -> dict[str, Any]:
        return vars(bench.run(name, settings))

    def train() -> list[dict[str, Any]]:
        return [epoch(device, options.data, options.out, options.dry)]

    with warnings.catch_warnings():
        # The reference in the kernels' place is a failure here.
        warnings.filterwarnings("error", message="spiking layers on the GPU run in plain torch")
        cases = expected_of(layers, options.dry)
        for layer in layers:
            layer.tensors()
        later = [("gpu-steps", lambda: group("gpu-steps")), ("epoch", train)]
        if options.dry:  # these with the CPU's kernels, all others with the GPU's
            for name, find in later:
                report.part(name, find)
            for operator, implementation in ops.GPU_IMPLEMENTATIONS:
                operator.register_kernel("cpu")(implementation)
        checks = report.part("operators", operators)
        report.part("gpu", lambda: group("gpu"))
        if not options.dry:
            for name, find in later:
                report.part(name, find)
    wrong = [row["operator"] for row in checks or [] if not row["right"]]
    if wrong:
        report.content["failed"]["operators"] = f"wrong: {', '.join(wrong)}"
        report.write()
    print((options.out / "gpu.md").read_text())
    return 1 if report.content["failed"] else 0


if __name__ == "__main__":
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    sys.exit(main())
