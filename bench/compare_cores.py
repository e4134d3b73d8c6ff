"""Two builds of the compiled core, side by side in one process: same bits, and same speed?

python bench/compare_cores.py OLD/_core.*.so NEW/_core.*.so
python bench/compare_cores.py OLD/_core.*.so NEW/_core.*.so --repeats 0 --isa avx2 --isa baseline

Draws random layers and integer networks, runs both builds in turn, and compares every output bit by
bit. Prints the time of NEW over that of OLD: the geometric mean and the slowest shapes. Compare
speeds on an idle machine. Exits with 1 where a bit differs.
"""

import argparse
import importlib.util
import math
import time
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = list[NDArray[Any]]
Case = tuple[str, Callable[[Any], Callable[[], Arrays]]]
MAX_SYNAPSES = 1e8


def load(path: str, name: str) -> Any:
    """A build of the core, under a module name of its own."""
    loader = ExtensionFileLoader(f"{name}._core", path)
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def spike_values(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
    """62 % spikes at times in [0, 2]; in every fourth array, ties are common."""
    times = random.uniform(0, 2, shape)
    if random.random() < 0.25:
        times = np.round(4 * times) / 4
    return np.where(random.random(shape) < 0.62, np.exp(times), np.inf)


def window(random: np.random.Generator) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel, stride, padding and dilation."""
    kernel = [int(random.choice([1, 2, 3, 3, 3, 5])) for _ in range(2)]
    stride = [int(random.choice([1, 1, 1, 2, 3])) for _ in range(2)]
    padding = [int(random.integers(0, k)) for k in kernel]
    dilation = [int(random.choice([1, 1, 1, 2, 3])) for _ in range(2)]
    return kernel, stride, padding, dilation


def sizes(random: np.random.Generator, linear: bool) -> dict[str, Any]:
    """Sizes of a layer that takes milliseconds."""
    while True:
        groups = int(random.choice([1, 1, 1, 2, 3]))
        channels = groups * int(random.choice([1, 3, 8, 17, 64, 128, 256]))
        outputs = groups * int(random.choice([1, 10, 16, 33, 64, 128, 256]))
        batch = int(random.choice([1, 2, 4, 16]))
        size = [int(n) for n in random.integers(1, 33, 2)]
        kernel, stride, padding, dilation = window(random)
        if linear:
            kernel, stride, padding, dilation, size = [1, 1], [1, 1], [0, 0], [1, 1], [1, 1]
            groups, channels, batch = 1, int(random.integers(1, 3000)), int(random.integers(1, 65))
            outputs = int(random.integers(1, 1000))
        extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        steps = zip(size, padding, extent, stride, strict=True)
        out = [(n + 2 * p - e) // s + 1 for n, p, e, s in steps]
        fan = channels // groups * kernel[0] * kernel[1]
        if min(out) >= 1 and batch * out[0] * out[1] * outputs * fan <= MAX_SYNAPSES:
            break
    keys = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    shape = {"groups": groups, "channels": channels, "outputs": outputs, "fan": fan}
    return {**keys, **shape, "batch": batch, "size": size, "out": out}


def layer(random: np.random.Generator, threads: int) -> list[Case]:
    """Forward and backward of a layer."""
    dtype = np.dtype(random.choice(["float32", "float32", "float32", "float64"]))
    s = sizes(random, linear=random.random() < 0.3)
    shape = (s["batch"], s["channels"], *s["size"])
    values = spike_values(random, shape).astype(dtype)
    if random.random() < 0.3:  # channels last
        values = np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    normal = random.standard_normal((s["outputs"], s["channels"] // s["groups"], *s["kernel"]))
    weight = (3 / s["fan"] + 3 / math.sqrt(s["fan"]) * normal).astype(dtype)
    has_bias = random.random() < 0.5
    bias = random.normal(0, 0.3, s["outputs"]).astype(dtype) if has_bias else None
    t_max = float(random.choice([math.inf, 1.5]))
    out_shape = (s["batch"], s["outputs"], *s["out"])
    grad = random.standard_normal(out_shape).astype(dtype)
    options = (s["stride"], s["padding"], s["dilation"], s["groups"])

    def forward(core: Any) -> Callable[[], Arrays]:
        output = np.empty(out_shape, dtype)
        slope = np.empty((s["batch"], *s["out"], s["outputs"]), dtype)

        def run() -> Arrays:
            core.conv2d_forward(values, weight, bias, *options, t_max, output, slope, threads)
            return [output, slope]

        return run

    def backward(core: Any) -> Callable[[], Arrays]:
        output, slope = forward(core)()
        grads = [np.empty_like(values), np.empty_like(weight)]
        to_bias = np.empty(s["outputs"], dtype) if has_bias else None

        def run() -> Arrays:
            core.conv2d_backward(
                values, weight, output, slope, grad, *options, *grads, to_bias, threads
            )
            return [*grads, *([] if to_bias is None else [to_bias])]

        return run

    name = f"{dtype} {shape} -> {out_shape}, {s}"
    return [(f"forward {name}", forward), (f"backward {name}", backward)]


def integer_layer(random: np.random.Generator, threads: int) -> list[Case]:
    """An integer network of one layer, and its file."""
    s = sizes(random, linear=random.random() < 0.3)
    bits = int(random.choice([8, 4, 2]))
    weights = (s["outputs"], s["channels"] // s["groups"], *s["kernel"])
    top = 1 << (bits - 1)
    codes = np.clip(np.round(random.normal(0.1, 0.35, weights) * top), -top, top - 1)
    theta = random.integers(1, 200, s["outputs"]).astype(np.int32)
    bias = random.integers(-100, 400, s["outputs"]).astype(np.int32)
    slope = random.integers(1, 500, s["outputs"]).astype(np.int32)
    has_bias, horizon = random.random() < 0.5, random.random() < 0.3
    values = 256 * spike_values(random, (s["batch"], s["channels"], *s["size"]))
    times = np.minimum(np.round(values), 65535).astype(np.uint16)
    encoders = np.arange(1, 257, dtype=np.uint16)[None]

    def network(core: Any) -> Callable[[], Arrays]:
        net = core.IntegerNetwork(16, [s["channels"], *s["size"]], 1 / 256, encoders)
        net.add_neurons(
            codes.astype(np.int8),
            bits,
            theta,
            bias if has_bias else None,
            300,
            1 << 16,
            65534,
            *(s["stride"], s["padding"], s["dilation"], s["groups"], s["out"]),
            1200 if horizon else 0,
            slope if horizon else None,
        )
        file = np.frombuffer(net.serialize(), np.uint8)
        return lambda: [file, *net.run_codes(times, True, threads)]

    return [(f"integer {bits} bits {s}", network)]


def same_bits(a: Arrays, b: Arrays) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def timed(run: Callable[[], Arrays]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def compare(case: Case, cores: list[Any], repeats: int) -> tuple[bool, float]:
    """Whether the bits agree, and the best time of the second core over that of the first."""
    runs = [case[1](core) for core in cores]
    same = same_bits(runs[0](), runs[1]())
    best = [math.inf, math.inf] if repeats else [1.0, 1.0]
    for repeat in range(repeats):
        for which in (0, 1) if repeat % 2 == 0 else (1, 0):
            best[which] = min(best[which], timed(runs[which]))
    return same, best[1] / best[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", help="the extension module of one build")
    parser.add_argument("new", help="that of the other")
    parser.add_argument("--shapes", type=int, default=550)
    parser.add_argument("--isa", action="append", help="an instruction set; default: the best one")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9, help="timed runs; 0: bits only")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cores = [load(args.old, "old"), load(args.new, "new")]
    differing = 0
    for isa in args.isa or [cores[0].instruction_set()]:
        for core in cores:
            core.set_instruction_set(isa)
        random = np.random.default_rng(args.seed)
        ratios: dict[str, dict[str, float]] = {"forward": {}, "backward": {}, "integer": {}}
        for shape in range(args.shapes):
            cases = (integer_layer if shape % 5 == 4 else layer)(random, args.threads)
            for case in cases:
                same, ratio = compare(case, cores, args.repeats)
                ratios[case[0].split()[0]][f"{shape}: {case[0]}"] = ratio
                if not same:
                    differing += 1
                    print(f"{isa}: the bits differ in shape {shape}, {case[0]}")
        for kind, of in ratios.items():
            if of and args.repeats:
                mean = math.exp(sum(math.log(r) for r in of.values()) / len(of))
                print(f"{isa} {kind}: {len(of)} shapes, NEW takes {mean:.3f} of OLD's time")
                for name in sorted(of, key=lambda name: of[name])[-3:]:
                    print(f"    {of[name]:.3f}  {name}")
        print(f"{isa}: {args.shapes} shapes, {sum(map(len, ratios.values()))} calls compared")
    print(f"{differing} calls differ in some bit")
    raise SystemExit(1 if differing else 0)


if __name__ == "__main__":
    main()
