"""The integer engine against the reference, and the reference against the definition."""

import functools
import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import ttfs_fast
from support.machine import use_instruction_set
from ttfs_fast import _core
from ttfs_fast.data import load_mnist
from ttfs_fast.models import mnist_scnn
from ttfs_fast.quantization import IntegerNetwork, calibrate_time_scales, convert

INTEGER_WEIGHT = {8: lambda q: q, 4: lambda q: 16 * q, 2: lambda q: 64 * q + 32}
THREADS = (1, 2, 3, 7)
Codes = NDArray[np.uint16]


def network(time_bits: int = 16, size: tuple[int, int, int] = (1, 1, 1)) -> Any:
    return _core.IntegerNetwork(time_bits, size, 1 / 256, np.full((1, 256), 1, np.uint16))


def one_neuron(
    weights: list[int],
    theta: int,
    bits: int = 8,
    bias: int | None = None,
    time_bits: int = 16,
    **changes: Any,
) -> Any:
    core = network(time_bits, (len(weights), 1, 1))
    arguments: dict[str, Any] = {
        "bias_code": 1,
        "ratio": 1 << 16,
        "latest": (1 << time_bits) - 2,
        "stride": (1, 1),
        "padding": (0, 0),
        "dilation": (1, 1),
        "groups": 1,
        "output": (1, 1),
    }
    core.add_neurons(
        np.array(weights, np.int8).reshape(1, -1, 1, 1),
        bits,
        np.array([theta], np.int32),
        None if bias is None else np.array([bias], np.int32),
        **(arguments | changes),
    )
    return core


def by_definition(
    pairs: list[tuple[int, int]], theta: int, ratio: int, latest: int, silent: int
) -> int:
    """F at every code and beyond, from its definition; (code, integer weight) of each input."""

    def membrane(z: Fraction) -> Fraction:
        return sum((w * (z - c) for c, w in pairs if c < z), Fraction(0)) - theta * z

    ends = sorted({c for c, _ in pairs})
    crossing = None
    for left, right in itertools.pairwise([*ends, None]):
        slope = sum(w for c, w in pairs if c <= left) - theta
        at_left = membrane(Fraction(left))
        assert at_left < 0
        if slope <= 0:
            continue
        z = left - at_left / slope
        if right is None or z <= right:
            crossing = z
            break
    if crossing is None:
        return silent
    code = max(math.floor(crossing * ratio / 2**16 + Fraction(1, 2)), 1)
    return silent if code > latest else code


def test_example_of_the_specification() -> None:
    core = one_neuron([96, -16, 64], theta=64)
    run = lambda *codes: int(  # noqa: E731
        core.run_codes(np.array(codes, np.uint16).reshape(1, -1, 1, 1), False, 1)[0].item()
    )
    assert run(256, 512, 600) == 685
    assert run(256, 512, 65535) == 1024  # without the third B is 16: 512 + 8192 / 16
    assert run(65535, 512, 65535) == 65535
    four = one_neuron([96, -16, 64, 127], theta=64)
    for late, expected in ((685, 685), (684, 684), (660, None)):
        codes = np.array([256, 512, 600, late], np.uint16).reshape(1, 4, 1, 1)
        out = int(four.run_codes(codes, False, 1)[0].item())
        pairs = list(zip(codes.ravel().tolist(), [96, -16, 64, 127], strict=True))
        assert out == by_definition(pairs, 64, 1 << 16, 65534, 65535)
        assert expected is None or out == expected


@given(st.data())
@settings(max_examples=300)
def test_reference_is_the_definition(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from([8, 4, 2]))
    time_bits = data.draw(st.sampled_from([8, 16]))
    silent = (1 << time_bits) - 1
    low = -(1 << (bits - 1))
    count = data.draw(st.integers(1, 12))
    codes_of = st.one_of(
        st.integers(1, silent), st.sampled_from([1, 2, 3, silent - 1, silent]), st.integers(1, 6)
    )
    weights = data.draw(st.lists(st.integers(low, -low - 1), min_size=count, max_size=count))
    codes = data.draw(st.lists(codes_of, min_size=count, max_size=count))
    theta = data.draw(st.integers(1, 400))
    bias = data.draw(st.none() | st.integers(-500, 500))
    bias_code = data.draw(st.integers(1, silent - 1))
    ratio = data.draw(st.sampled_from([1, 1 << 15, 1 << 16, 70000, 1 << 23]))
    latest = data.draw(st.sampled_from([1, silent // 2, silent - 1]))
    core = one_neuron(
        weights, theta, bits, bias, time_bits, bias_code=bias_code, ratio=ratio, latest=latest
    )
    given_codes = np.array(codes, np.uint16).reshape(1, -1, 1, 1)
    pairs = [
        (c, INTEGER_WEIGHT[bits](w)) for c, w in zip(codes, weights, strict=True) if c < silent
    ]
    if bias is not None:
        pairs.append((bias_code, bias))
    expected = by_definition(pairs, theta, ratio, latest, silent) if pairs else silent
    assert core.reference(0, given_codes).item() == expected
    assert core.run_codes(given_codes, False, 1)[0].item() == expected


@given(st.data())
@settings(max_examples=200)
def test_reference_code_replaces_late_inputs_and_padding(data: st.DataObject) -> None:
    """The stored slope against the full sum: every late input at the horizon, and the reference."""
    bits = data.draw(st.sampled_from([8, 4, 2]))
    time_bits = data.draw(st.sampled_from([8, 16]))
    silent, low = (1 << time_bits) - 1, -(1 << (bits - 1))
    count = data.draw(st.integers(1, 12))
    horizon = data.draw(st.integers(2, silent - 1) | st.sampled_from([2, 5, silent - 1]))
    codes_of = st.one_of(
        st.integers(1, silent), st.integers(1, 6), st.sampled_from([horizon, horizon - 1, silent])
    )
    weights = data.draw(st.lists(st.integers(low, -low - 1), min_size=count, max_size=count))
    codes = data.draw(st.lists(codes_of, min_size=count, max_size=count))
    theta = data.draw(st.integers(1, 400))
    slope = data.draw(st.integers(1, 1000) | st.just(1 << 22))
    bias = data.draw(st.none() | st.integers(-500, 500))
    bias_code = data.draw(st.integers(1, horizon - 1))
    ratio = data.draw(st.sampled_from([1, 1 << 15, 1 << 16, 70000, 1 << 23]))
    latest = data.draw(st.sampled_from([1, silent // 2, silent - 1]))
    core = one_neuron(
        weights,
        theta,
        bits,
        bias,
        time_bits,
        bias_code=bias_code,
        ratio=ratio,
        latest=latest,
        reference_code=horizon,
        slope=np.array([slope], np.int32),
    )
    pairs = [
        (min(c, horizon), INTEGER_WEIGHT[bits](w)) for c, w in zip(codes, weights, strict=True)
    ]
    if bias is not None:
        pairs.append((bias_code, bias))
    pairs.append((horizon, slope + theta - sum(w for _, w in pairs)))
    expected = by_definition(pairs, theta, ratio, latest, silent)
    given_codes = np.array(codes, np.uint16).reshape(1, -1, 1, 1)
    assert core.reference(0, given_codes).item() == expected
    assert core.run_codes(given_codes, False, 1)[0].item() == expected


@st.composite
def layers(draw: st.DrawFn) -> tuple[Any, Codes]:
    """A convolution and its input, of any kind, from the seed of numpy's generator."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pick = lambda *options: options[rng.integers(len(options))]  # noqa: E731
    time_bits, bits = pick(8, 16), pick(8, 4, 2)
    silent, groups = (1 << time_bits) - 1, int(pick(1, 1, 1, 2, 3))
    channels = groups * int(rng.integers(1, 40))
    outputs = groups * pick(1, 3, 10, 15, 16, 17, 32, 33, 48, 63, 64, 65, 100)
    kernel, stride, padding, dilation = (
        tuple(int(n) for n in rng.integers(low, high, 2))
        for low, high in ((1, 6), (1, 4), (0, 3), (1, pick(2, 4)))
    )
    height, width = (
        int(rng.integers(1, 14)) + d * (k - 1) for d, k in zip(dilation, kernel, strict=True)
    )
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip((height, width), padding, dilation, kernel, stride, strict=True)
    ]
    extreme = 1 << (bits - 1)
    codes = rng.integers(-extreme, extreme, (outputs, channels // groups, *kernel)).astype(np.int8)
    if rng.random() < 0.2:
        codes = rng.choice(np.array([-extreme, extreme - 1], np.int8), codes.shape)
    fan_in = channels // groups * kernel[0] * kernel[1]
    top = pick(silent, silent, min(silent, 3000), 12)
    horizon = int(pick(0, 0, 2, rng.integers(2, top), rng.integers(2, silent), silent - 1))
    slope = rng.integers(1, pick(10, 5000, 1 << 22), outputs).astype(np.int32) if horizon else None
    core = network(time_bits, (channels, height, width))
    core.add_neurons(
        codes,
        bits,
        rng.integers(1, pick(2, max(3, int(40 * fan_in**0.5))), outputs).astype(np.int32),
        rng.integers(-300, 600, outputs).astype(np.int32) if rng.random() < 0.7 else None,
        int(rng.integers(1, horizon or silent)),
        pick(1 << 16, 1 << 16, 50000, 200000, 1, 1 << 23),
        pick(silent - 1, silent - 1, silent // 3),
        stride,
        padding,
        dilation,
        groups,
        size,
        horizon,
        slope,
    )
    images = rng.integers(1, top, (int(rng.integers(1, 4)), channels, height, width))
    if rng.random() < 0.2:
        images = rng.choice([1, silent - 1], images.shape)  # the extreme codes, all of them ties
    images[rng.random(images.shape) < pick(0, 0.38, 0.9, 1.0)] = silent
    return core, images.astype(np.uint16)


@given(layers())
@settings(max_examples=40)
def test_engine_is_the_reference(layer: tuple[Any, Codes]) -> None:
    core, images = layer
    expected = core.reference(0, images)
    for name in ttfs_fast.instruction_sets():
        with use_instruction_set(name):
            for threads in THREADS:
                out = core.run_codes(images, True, threads)[0]
                assert np.array_equal(out, expected), (name, threads)


def test_enough_of_these_neurons_spike() -> None:
    shares = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        core = network(16, (20, 6, 6))
        codes = rng.integers(-128, 128, (65, 20, 3, 3)).astype(np.int8)
        theta = rng.integers(1, 500, 65).astype(np.int32)
        core.add_neurons(
            codes, 8, theta, None, 1, 1 << 16, 65534, (1, 1), (1, 1), (1, 1), 1, (6, 6)
        )
        images = rng.integers(1, 5000, (2, 20, 6, 6)).astype(np.uint16)
        out = core.run_codes(images, False, 1)[0]
        assert np.array_equal(out, core.reference(0, images))
        shares.append((out < 65535).mean())
    assert np.mean(shares) > 0.5


@pytest.mark.parametrize("inputs", [2000, 9216])
def test_large_sums_use_the_exact_sweep(instruction_set: str, inputs: int) -> None:
    """Weights of one sign for which F exceeds 32 bits, and gaps that exceed 32 bits."""
    rng = np.random.default_rng(inputs)
    core = network(16, (inputs, 1, 1))
    outputs = 40
    codes = rng.integers(-128, 128, (outputs, inputs, 1, 1)).astype(np.int8)
    codes[::4] = -128
    codes[1::4] = 127
    codes[2::4, : inputs // 3] = -128
    codes[2::4, inputs // 3 :] = 127
    theta = rng.integers(1, 2000, outputs).astype(np.int32)
    theta[1] = 1 << 20
    core.add_neurons(codes, 8, theta, None, 1, 1 << 16, 65534, (1, 1), (0, 0), (1, 1), 1, (1, 1))
    for top in (40, 65535):
        images = np.sort(rng.integers(1, top, (3, inputs, 1, 1)), axis=1).astype(np.uint16)
        images[0, 5:-5] = 65535
        images[0, -5:] = 65534
        out = core.run_codes(images, False, 2)[0]
        assert np.array_equal(out, core.reference(0, images))
        assert (out < 65535).mean() > 0.2


def test_horizon_with_sums_beyond_32_bits(instruction_set: str) -> None:
    """The exact way, by the first gap, by a deep membrane, and by a long gap before the horizon."""
    rng = np.random.default_rng(5)
    for theta, top in ((30000, 60000), (3000, 60000), (100, 3000)):
        core = network(16, (500, 1, 1))
        codes = rng.integers(-128, 128, (70, 500, 1, 1)).astype(np.int8)
        codes[::3] = -128
        thetas = np.full(70, theta, np.int32)
        sizes = (1, 1 << 14, 65534, (1, 1), (0, 0), (1, 1), 1, (1, 1))
        core.add_neurons(codes, 8, thetas, None, *sizes, 61000, np.full(70, 1 << 22, np.int32))
        images = rng.integers(top // 2, top, (3, 500, 1, 1)).astype(np.uint16)
        images[0] = 65535
        out = core.run_codes(images, False, 2)[0]
        assert np.array_equal(out, core.reference(0, images))
        assert (out < 65535).mean() > 0.5


def test_threshold_beyond_32_bits(instruction_set: str) -> None:
    core = one_neuron([127] * 40, theta=3000, bias=1 << 21, bias_code=65000)
    images = np.full((1, 40, 1, 1), 64000, np.uint16)
    assert core.run_codes(images, False, 1)[0].item() == core.reference(0, images).item() != 65535


@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.integers(0, 99)
)
@settings(max_examples=40)
def test_pooling(kernel: int, stride: int, padding: int, dilation: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    core = network(16, (5, 9, 11))
    size = [(n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for n in (9, 11)]
    core.add_pooling(
        (kernel, kernel), (stride, stride), (padding, padding), (dilation, dilation), size
    )
    images = rng.integers(1, 50, (3, 5, 9, 11)).astype(np.uint16)
    images[rng.random(images.shape) < 0.6] = 65535
    out = core.run_codes(images, False, 3)[0]
    assert np.array_equal(out, core.reference(0, images))
    assert (out < 65535).mean() > 0.05


def test_layers_that_could_overflow_are_refused() -> None:
    with pytest.raises(ValueError, match=r"could overflow.*output channel 0.*2\^22"):
        one_neuron([127] * 40000, theta=1)
    with pytest.raises(ValueError, match="could overflow"):
        one_neuron([1], theta=1, bias=1 << 23)
    with pytest.raises(ValueError, match="inputs a neuron"):
        one_neuron([0] * 65536, theta=1)
    one_neuron([32] * 65535, theta=1)  # the most inputs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"theta": 0}, "threshold 0"),
        ({"bits": 3}, "3 bits"),
        ({"bits": 4, "weights": [9]}, "code 9"),
        ({"ratio": 0}, "scales its spike codes"),
        ({"ratio": (1 << 23) + 1}, "scales its spike codes"),
        ({"latest": 65535}, "latest spike code"),
        ({"bias": 3, "bias_code": 0}, "bias at the spike code 0"),
        ({"groups": 2}, "codes has shape"),
        ({"reference_code": 65535, "slope": np.ones(1, np.int32)}, "reference code 65535"),
        ({"reference_code": 9}, "needs a slope"),
        ({"reference_code": 9, "slope": np.zeros(1, np.int32)}, "has the slope 0"),
        ({"reference_code": 9, "slope": np.ones(2, np.int32)}, "slope has shape"),
        ({"slope": np.ones(1, np.int32)}, "no reference code"),
        (
            {"reference_code": 9, "slope": np.ones(1, np.int32), "bias": 3, "bias_code": 9},
            "before the reference code 9",
        ),
        ({"stride": (0, 1)}, "stride"),
        ({"output": (0, 1)}, "output has size"),
    ],
)
def test_layers_reject_invalid_parameters(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"weights": [1], "theta": 1} | changes
    with pytest.raises(ValueError, match=message):
        one_neuron(**arguments)


def test_network_rejects_invalid_images() -> None:
    net = IntegerNetwork(one_neuron([3, 4], theta=2))
    with pytest.raises(TypeError, match="array of float64"):
        net(np.zeros((1, 2, 1, 1)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="list"):
        net([1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(N, 2, 1, 1\)"):
        net(np.zeros((1, 1, 1, 1), np.uint8))
    with pytest.raises(ValueError, match="no spike code"):
        net(np.zeros((1, 2, 1, 1), np.uint16))
    with pytest.raises(ValueError, match="threads"):
        net(np.ones((1, 2, 1, 1), np.uint16), threads=0)
    with pytest.raises(TypeError, match="uint8"):
        net.encode(np.zeros(3))  # type: ignore[arg-type]
    empty = net(np.zeros((0, 2, 1, 1), np.uint8))
    assert empty.shape == (0, 1)
    assert net.classify(np.full((2, 2, 1, 1), 65535, np.uint16)).tolist() == [-1, -1]
    small = IntegerNetwork(one_neuron([3], theta=2, time_bits=8))
    with pytest.raises(ValueError, match="no spike code"):
        small(np.full((1, 1, 1, 1), 256, np.uint16))


@pytest.mark.parametrize(("bits", "time_bits"), [(8, 16), (4, 16), (2, 16), (8, 8)])
def test_every_layer_on_mnist(
    data_root: Any, bits: int, time_bits: int, record_property: Any
) -> None:
    """All 10,000 test images, every output of every layer, all instruction sets and threads."""
    model = mnist_scnn(pretrained=True)
    some = load_mnist(data_root, train=True).images[:500]
    net = convert(model, bits, time_bits, time_scales=calibrate_time_scales(model, some, time_bits))
    images = load_mnist(data_root, train=False).images
    codes = net.encode(images)
    expected = []
    with ThreadPoolExecutor(2) as halves:  # the slow reference releases the interpreter lock
        for i in range(len(net.layer_infos())):
            parts = halves.map(functools.partial(net.reference, i), np.array_split(codes, 2))
            codes = np.concatenate(list(parts))
            expected.append(codes)
    spikes = [float((layer != net.silent).mean()) for layer in expected]
    assert min(spikes) > 0.4, spikes
    record_property("spikes", spikes)
    before = ttfs_fast.instruction_set()
    for name in ttfs_fast.instruction_sets():
        with use_instruction_set(name):
            # All images by two threads, and with one instruction set a third of them by each other
            # number: what a thread does to an image does not depend on the other images.
            runs = [(2, slice(None))]
            if name == before:
                runs += [(threads, slice(k, None, 3)) for k, threads in enumerate((1, 3, 7))]
            for threads, part in runs:
                for out, want in zip(
                    net.layers(images[part], threads=threads), expected, strict=True
                ):
                    assert np.array_equal(out, want[part]), (name, threads)
