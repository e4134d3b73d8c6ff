import ast
import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import ttfs_fast
from ttfs_fast import models, quantization
from ttfs_fast.analysis import evaluate, spike_timing
from ttfs_fast.analysis.robustness import Perturbation, evaluate_perturbed
from ttfs_fast.circuit.network import simulate_network
from ttfs_fast.data import ImageSet, load
from ttfs_fast.encoding import (
    Encoding,
    encode,
    encoding_of,
    pixels_to_times,
    standardize,
    times_to_values,
    values_to_times,
)


def test_bright_first_is_the_papers_mnist_code() -> None:
    times = pixels_to_times(torch.tensor([0.0, 0.25, 1.0]), alpha=3.0)
    assert times.tolist() == [3.0, 2.25, 0.0]


def test_dark_first_is_the_papers_cifar_code() -> None:
    times = pixels_to_times(torch.tensor([0.0, 0.25, 1.0]), alpha=8.0, polarity="dark-first")
    assert times.tolist() == [0.0, 2.0, 8.0]


def test_uint8_is_divided_by_255() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    expected = pixels_to_times(pixels.to(torch.float32) / 255)
    times = pixels_to_times(pixels)
    assert times.dtype == torch.float32
    assert torch.equal(times, expected)
    assert times.min() == 0
    assert times.max() == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_exponentials_of_times_and_back(dtype: torch.dtype) -> None:
    times = torch.linspace(-5, 20, 101, dtype=dtype)
    values = times_to_values(times)
    assert values.dtype == dtype
    torch.testing.assert_close(values, torch.from_numpy(np.exp(times.numpy())))
    torch.testing.assert_close(values_to_times(values), times)


def test_silence_and_nan_pass_through() -> None:
    marks = torch.tensor([math.inf, math.nan])
    assert times_to_values(marks)[0] == math.inf
    assert times_to_values(marks)[1].isnan()
    assert values_to_times(marks)[0] == math.inf
    assert values_to_times(marks)[1].isnan()


def test_encode_without_jitter_is_exact_and_leaves_the_generator_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    pixels = torch.rand(3, 1, 4, 5, dtype=torch.float64)
    z = encode(pixels, alpha=2.0, generator=generator)
    assert torch.equal(z, (2.0 * (1 - pixels)).exp())
    assert torch.equal(generator.get_state(), before)


def test_jitter_has_the_asked_deviation_and_keeps_values_positive() -> None:
    pixels = torch.full((100_000,), 0.9)
    z = encode(pixels, jitter=0.5, generator=torch.Generator().manual_seed(2))
    times = z.log()
    assert (z > 0).all()
    assert (times < 0).any()
    assert times.mean().item() == pytest.approx(0.3, abs=0.01)
    assert times.std().item() == pytest.approx(0.5, abs=0.01)


def test_jitter_repeats_with_its_seed() -> None:
    pixels = torch.rand(2, 7)
    first, again = (
        encode(pixels, jitter=0.1, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    other = encode(pixels, jitter=0.1, generator=torch.Generator().manual_seed(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_empty_batch() -> None:
    assert encode(torch.empty(0, 1, 28, 28)).shape == (0, 1, 28, 28)
    assert encode(torch.empty(0, 3, dtype=torch.uint8), jitter=0.1).shape == (0, 3)


@pytest.mark.parametrize("bad", [-0.01, 1.01, 255.0, math.nan, math.inf])
def test_float_pixels_outside_the_unit_interval_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        pixels_to_times(torch.tensor([0.5, bad]))


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf])
def test_alpha_must_be_positive_and_finite(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        pixels_to_times(torch.zeros(1), alpha=alpha)


@pytest.mark.parametrize("jitter", [-0.1, math.nan, math.inf])
def test_jitter_must_not_be_negative(jitter: float) -> None:
    with pytest.raises(ValueError, match="jitter"):
        encode(torch.zeros(1), jitter=jitter)


def test_alpha_beyond_the_dtype_is_refused() -> None:
    assert encode(torch.zeros(1), alpha=88.0).isfinite().all()
    with pytest.raises(ValueError, match="alpha must be at most 88"):
        encode(torch.zeros(1), alpha=90.0)
    assert encode(torch.zeros(1, dtype=torch.float64), alpha=90.0).isfinite().all()


def test_other_types_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="ndarray"):
        pixels_to_times(np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="int64"):
        pixels_to_times(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(TypeError, match="float16"):
        times_to_values(torch.zeros(3, dtype=torch.float16))
    with pytest.raises(TypeError, match="values"):
        values_to_times([1.0])  # type: ignore[arg-type]


def test_unknown_polarity_is_refused() -> None:
    with pytest.raises(ValueError, match="'bright-first', 'dark-first', 'both'; got 'dim'"):
        pixels_to_times(torch.zeros(1), polarity="dim")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0.0, -1.0, -math.inf])
def test_values_without_a_time_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        values_to_times(torch.tensor([1.0, bad]))


def test_times_too_early_for_the_dtype_are_refused() -> None:
    with pytest.raises(ValueError, match="too early"):
        times_to_values(torch.tensor([-200.0]))
    assert times_to_values(torch.tensor([-200.0], dtype=torch.float64)) > 0


def test_both_polarities_side_by_side() -> None:
    pixels = torch.rand(2, 3, 4, 5)
    times = pixels_to_times(pixels, 1.5, "both")
    assert times.shape == (2, 6, 4, 5)
    assert torch.equal(times[:, :3], pixels_to_times(pixels, 1.5, "bright-first"))
    assert torch.equal(times[:, 3:], pixels_to_times(pixels, 1.5, "dark-first"))
    assert encode(pixels[0], 1.5, "both").shape == (6, 4, 5)
    with pytest.raises(ValueError, match="needs images of shape"):
        pixels_to_times(pixels[0, 0], 1.5, "both")


def test_standardize_each_image() -> None:
    pixels = torch.rand(3, 3, 16, 16) * torch.tensor([0.1, 0.5, 1.0])[:, None, None, None]
    out = standardize(pixels, reach=5.0)
    assert out.min() > 0  # nothing clipped
    assert out.max() < 1
    assert torch.allclose(out.mean((1, 2, 3)), torch.tensor(0.5), atol=1e-5)
    assert torch.allclose(out.flatten(1).std(1, unbiased=False), torch.tensor(0.1), atol=1e-4)
    clipped = standardize(pixels, reach=1.0)
    assert clipped.min() == 0
    assert clipped.max() == 1
    even = standardize(torch.full((1, 3, 2, 2), 0.7))
    assert torch.allclose(even, torch.tensor(0.5), atol=1e-4)


def test_standardize_by_channel() -> None:
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    mean, deviation = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    out = standardize(pixels, mean, deviation, reach=2.0)
    by_hand = (pixels[:, 1].float() / 255 - 0.5) / (4 * 0.3) + 0.5
    assert torch.allclose(out[:, 1], by_hand.clamp(0, 1))
    assert out.dtype == torch.get_default_dtype()
    for arguments, message in (
        ((mean, None), "give both"),
        ((mean[:2], deviation[:2]), r"must have shape \(3,\)"),
        ((mean, 0 * deviation), "must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            standardize(pixels, *arguments)
    with pytest.raises(ValueError, match="reach must be"):
        standardize(pixels, reach=0)
    with pytest.raises(ValueError, match="must be"):
        standardize(pixels[0, 0])


def test_encoding_of_the_meta_device_has_shapes_only() -> None:
    pixels = torch.empty(2, 3, 4, 4, device="meta")
    colors = torch.empty(3, device="meta")
    z = encode(standardize(standardize(pixels, colors, colors)), polarity="both")
    assert z.is_meta
    assert values_to_times(z).shape == (2, 6, 4, 4)
    assert times_to_values(z).shape == (2, 6, 4, 4)


ENCODING = Encoding(1.5, "dark-first", standardize=True)


def test_encoding_is_standardize_then_encode(seed: int) -> None:
    pixels = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    for encoding in (Encoding(), Encoding(2, "both"), ENCODING):
        shown = standardize(pixels) if encoding.standardize else pixels
        expected = encode(shown, encoding.alpha, encoding.polarity)
        assert torch.equal(encoding(pixels), expected)
        assert expected.shape[1] == 3 * encoding.copies
        noise = torch.Generator().manual_seed(3)
        jittered = encoding(pixels, jitter=0.1, generator=noise)
        noise.manual_seed(3)
        by_hand = encode(shown, encoding.alpha, encoding.polarity, 0.1, noise)
        assert torch.equal(jittered, by_hand)


def test_encoding_is_a_value() -> None:
    assert Encoding(3) == Encoding(3.0)
    assert hash(Encoding(3)) == hash(Encoding())
    for encoding in (Encoding(), Encoding(0.1, "both"), ENCODING):
        assert Encoding.from_json(encoding.to_json()) == encoding
        assert copy.deepcopy(encoding) == encoding
    assert str(ENCODING) == "alpha 1.5, dark-first, standardized images"
    with pytest.raises(AttributeError):
        ENCODING.alpha = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": 0.0}, "alpha must be a finite number above 0; got 0"),
        ({"alpha": math.inf}, "alpha must be a finite number above 0; got inf"),
        ({"alpha": "3"}, "alpha must be a number; got '3'"),
        ({"alpha": True}, "alpha must be a number; got True"),
        ({"polarity": "dim"}, "polarity must be one of 'bright-first'.*got 'dim'"),
        ({"standardize": 1}, "standardize must be true or false; got 1"),
    ],
)
def test_encoding_rejects(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoding(**values)
    with pytest.raises(ValueError, match=message):
        Encoding.from_dict(Encoding().to_dict() | values)


@pytest.mark.parametrize("text", ["", "3", "[]", "{}", '{"alpha": 3}', '{"alpha"', "null"])
def test_encoding_rejects_json_of_something_else(text: str) -> None:
    with pytest.raises(ValueError):
        Encoding.from_json(text)
    more = json.dumps(Encoding().to_dict() | {"gamma": 1})
    with pytest.raises(ValueError, match="an encoding has the values alpha, polarity, standardize"):
        Encoding.from_json(more)


@pytest.mark.parametrize(
    "make",
    [
        lambda e: models.mnist_scnn(encoding=e),
        lambda e: models.cifar_scnn(encoding=e, width=0.1),
        lambda e: models.cifar_vgg(encoding=e, width=0.1),
        lambda e: models.cifar_airbench(encoding=e, width=0.1),
        lambda e: models.vgg_stack(4, encoding=e, width=0.1),
        lambda e: models.spiking_vgg16(encoding=e, width=0.01, image_size=32),
        lambda e: models.spiking_googlenet(encoding=e, width=0.05, image_size=64),
        lambda e: models.HorizonNetwork(
            models.vgg_stack(4, width=0.1).description, encoding=e
        ).fold_(),
    ],
)
def test_every_network_carries_its_encoding(make: Any) -> None:
    assert make(ENCODING).encoding == ENCODING
    assert encoding_of(copy.deepcopy(make(ENCODING))) == ENCODING


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mnist_scnn", Encoding(3.0)),
        ("cifar_scnn", Encoding(1.0, "both")),
        ("cifar_vgg", Encoding(1.0, "both")),
        ("cifar_airbench", Encoding(0.01)),
    ],
)
def test_pretrained_networks_carry_the_encoding_of_their_training(
    name: Any, expected: Encoding
) -> None:
    from ttfs_fast.models.pretrained import pretrained_weights
    from ttfs_fast.training import load_model, load_pretrained

    assert getattr(models, name)(pretrained=True).encoding == expected
    assert load_model(name)[0].encoding == expected
    model, config = load_pretrained(name)
    assert model.encoding == config.encoding == expected
    with pretrained_weights(name) as path, safe_open(path, "pt") as file:
        assert Encoding.from_json(file.metadata()["encoding"]) == expected
    if name == "cifar_airbench":  # its horizons fit the times of one encoding
        with pytest.raises(ValueError, match=r"have horizons that fit alpha 0.01, bright-first; "):
            models.cifar_airbench(pretrained=True, encoding=ENCODING)
    else:
        assert getattr(models, name)(pretrained=True, encoding=ENCODING).encoding == ENCODING


@pytest.mark.parametrize("neuron", ["spiking", "horizon", "relu"])
def test_files_of_weights_store_the_encoding(neuron: str, tmp_path: Path) -> None:
    from ttfs_fast.training import TrainConfig, export_weights, load_model, make_model
    from ttfs_fast.training.build import ImageShape

    config = TrainConfig(
        model="vgg4",
        width=0.1,
        neuron=neuron,  # type: ignore[arg-type]
        weight_sum=4.0 if neuron == "horizon" else 0.0,
    ).with_encoding(ENCODING)
    shape = ImageShape(1, 16, 16, 10)
    model = make_model(config, shape, centered=False)
    assert model.encoding == ENCODING
    path = tmp_path / "model.safetensors"
    export_weights(model, path, config, test_accuracy=0.5, images=shape.to_json())
    with safe_open(path, "pt") as file:
        assert Encoding.from_json(file.metadata()["encoding"]) == ENCODING
    again, settings = load_model(path)
    assert again.encoding == settings.encoding == ENCODING


def test_mnist_network_takes_the_encoding_of_its_file(tmp_path: Path) -> None:
    from ttfs_fast.training import TrainConfig, load_model

    state = models.mnist_scnn().state_dict()
    path = tmp_path / "model.safetensors"

    def saved(**metadata: str) -> Path:
        save_file(state, path, metadata)
        return path

    # A file without metadata: the paper's, or what is given.
    assert models.mnist_scnn(weights=saved()).encoding == Encoding()
    assert models.mnist_scnn(weights=path, encoding=ENCODING).encoding == ENCODING
    assert load_model(path)[0].encoding == Encoding()
    # A file of a run before version 0.2: its settings alone.
    old = TrainConfig().with_encoding(ENCODING).to_json()
    assert models.mnist_scnn(weights=saved(config=old)).encoding == ENCODING
    assert load_model(path)[0].encoding == ENCODING
    # One that contradicts itself, or names none.
    saved(config=old, encoding=Encoding().to_json())
    with pytest.raises(ValueError, match=r"contradict each other: the encoding is alpha 3, bright"):
        load_model(path)
    saved(encoding='{"alpha": -1, "polarity": "both", "standardize": false}')
    for load_it in (lambda: models.mnist_scnn(weights=path), lambda: load_model(path)):
        with pytest.raises(ValueError, match=r"its metadata hold no encoding: alpha must be"):
            load_it()


def digits(count: int = 6) -> ImageSet:
    images = load("digits", train=False)
    return ImageSet(images.images[:count], images.labels[:count], "digits", images.classes)


RUNS: dict[str, Any] = {
    "evaluate": evaluate,
    "spike_timing": spike_timing,
    "evaluate_perturbed": lambda model, images, **how: evaluate_perturbed(
        model, images, Perturbation(), **how
    ),
    "simulate_network": simulate_network,
    "convert": lambda model, images, **how: quantization.convert(model, **how),
    "calibrate_time_scales": lambda model, images, **how: quantization.calibrate_time_scales(
        model, images.images, **how
    ),
    "compare": lambda model, images, **how: quantization.compare(
        model, quantization.convert(models.mnist_scnn()), images, **how
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_network_without_an_encoding_is_refused(name: str) -> None:
    model, images = nn.Sequential(*models.mnist_scnn(pretrained=True)), digits(2)
    with pytest.raises(ValueError, match=r"this Sequential has no encoding: give"):
        RUNS[name](model, images)
    with pytest.raises(TypeError, match=r"encoding must be a ttfs_fast.encoding.Encoding; got d"):
        RUNS[name](model, images, encoding={"alpha": 3.0})
    RUNS[name](model, images, encoding=Encoding())


def test_functions_use_the_encoding_of_the_network() -> None:
    images, other = digits(), Encoding(1.0, "dark-first")
    model = models.mnist_scnn(pretrained=True)
    plain = nn.Sequential(*model)
    model.encoding = other
    seen = evaluate(model, images)
    expected = evaluate(plain, images, encoding=other)
    assert seen.first_spike_time == expected.first_spike_time
    assert seen.first_spike_time != evaluate(plain, images, encoding=Encoding()).first_spike_time
    assert np.array_equal(
        spike_timing(model, images).decision, spike_timing(plain, images, encoding=other).decision
    )
    network = quantization.convert(model)
    assert network.to_bytes() == quantization.convert(plain, encoding=other).to_bytes()
    assert network.encoders[0].argmax() == 255
    assert quantization.calibrate_time_scales(
        model, images.images
    ) == quantization.calibrate_time_scales(plain, images.images, encoding=other)


def test_integer_networks_refuse_standardized_images() -> None:
    model = models.mnist_scnn(encoding=Encoding(standardize=True))
    for run in (
        lambda: quantization.convert(model),
        lambda: quantization.calibrate_time_scales(model, digits().images),
    ):
        with pytest.raises(ValueError, match="by a table, and does not standardize"):
            run()


@pytest.mark.parametrize("polarity", ["bright-first", "dark-first"])
def test_spike_values_become_the_intensities_again(polarity: Any, seed: int) -> None:
    pixels = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2).double())
    adapter = models.DecodeSpikes(network, Encoding(2.0, polarity), 0.0, 1.0).double()
    found = -adapter(adapter.encoding(pixels)).log()
    torch.testing.assert_close(found, network(pixels))
    with pytest.raises(ValueError, match="sees each pixel once"):
        models.DecodeSpikes(network, Encoding(2.0, "both"))


def test_no_signature_passes_the_parts_of_an_encoding() -> None:
    """Outside encoding.py an encoding is one value; the settings of a training run make it."""
    root = Path(ttfs_fast.__file__).parent
    parts = {"alpha", "polarity", "standardize", "whiten"}
    found = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        # (alpha of torch.add and torch.sub, which tracing.py follows, is a factor.)
        if name in ("encoding.py", "conversion/tracing.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                arguments = node.args
                named = {
                    one.arg for one in arguments.posonlyargs + arguments.args + arguments.kwonlyargs
                }
                if named & parts:
                    found.append(f"{name}:{node.lineno} takes {named & parts}")
            if isinstance(node, ast.Call):
                named = {keyword.arg for keyword in node.keywords} & (parts - {"alpha"})
                if named and name != "training/config.py":
                    found.append(f"{name}:{node.lineno} passes {named}")
    assert found == []


def test_numbers_of_other_types_as_alpha() -> None:
    assert Encoding(np.float32(1.5)) == Encoding(1.5)
    with pytest.raises(ValueError, match="alpha must be a finite number above 0"):
        Encoding.from_json(Encoding(1.0).to_json().replace("1.0", "1" + "0" * 400))
