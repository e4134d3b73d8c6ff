"""Training of networks and data sets of a user's own."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import own_networks
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, Subset

from ttfs_fast import quantization
from ttfs_fast.analysis import evaluate
from ttfs_fast.data import ExampleError, ImageSet, from_dataset, load
from ttfs_fast.encoding import Encoding
from ttfs_fast.nn import SpikingConv2d, SpikingLinear
from ttfs_fast.optim.centering import center_weights_
from ttfs_fast.training import (
    TrainConfig,
    TrainResult,
    load_model,
    read_classes,
    read_metadata,
    train,
)
from ttfs_fast.training.own_network import find_factory, name_of

if TYPE_CHECKING:
    from click.testing import Result

SMALL = TrainConfig(
    dataset="digits", epochs=2, train_images=60, test_images=30, lr=3e-3, seed=4, threads=1
)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())


def stopped_after_one_epoch(config: TrainConfig, run: Path, **more: Any) -> None:
    """A run that was stopped: of two epochs the first is done."""
    settings = dataclasses.replace(config, schedule="cosine")
    from ttfs_fast.training import Callback

    class Stop(Callback):
        def log(self, line: str) -> None:
            if line.startswith("epoch 1/"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, run, callback=Stop(), **more)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("own_networks:plain", {}),
        ("own_networks:plain", {"weight_sum": 4.0, "relative_lr": True, "fixed_norm": True}),
        ("own_networks:plain", {"polarity": "both", "ema_decay": 0.9, "t_max": 2.0}),
        ("own_networks:Branches", {"horizons": (3.0, 2.5, 4.0, 5.0)}),
        (
            "own_networks:horizon",
            {"neuron": "horizon", "alpha": 0.01, "logit_scale": 300.0, "ema_decay": 0.9},
        ),
    ],
)
def test_a_network_by_its_name_trains_resumes_and_loads(
    name: str, more: dict[str, Any], tmp_path: Path
) -> None:
    config = dataclasses.replace(SMALL, model=name, schedule="cosine", **more)
    whole = train(config, tmp_path / "whole")
    stopped_after_one_epoch(config, tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["model"] == name
    resumed = train(config, tmp_path / "run", resume=True)
    assert same_weights(resumed.model, whole.model)
    loaded, settings = load_model(tmp_path / "run")
    assert settings.model == name
    assert same_weights(loaded, whole.model)
    assert loaded.encoding == config.encoding
    digits = dataclasses.replace(load("digits", train=False))
    digits = ImageSet(digits.images[:30], digits.labels[:30], digits.name, digits.classes)
    again = evaluate(loaded, digits)
    assert again.confusion.tolist() == whole.evaluation.confusion.tolist()
    assert again.silent_images < 30


def test_a_factory_is_seeded(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, model="own_networks:plain", epochs=1, lr=1e-9, min_lr=1e-9)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    one = train(config, tmp_path / "one")
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert same_weights(one.model, train(config, tmp_path / "two").model)
    other = train(dataclasses.replace(config, seed=5), tmp_path / "three")
    assert not same_weights(one.model, other.model)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, TrainResult]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), SpikingLinear(784, 10))
    return model, train(SMALL, tmp_path_factory.mktemp("given") / "run", model=model)


def test_given_module_is_copied_with_its_weights(
    given: tuple[nn.Module, TrainResult], tmp_path: Path
) -> None:
    model, result = given
    before = {name: value.clone() for name, value in model.state_dict().items()}
    barely = dataclasses.replace(SMALL, epochs=1, lr=1e-9, min_lr=1e-9, l2_cost=0)
    start = train(barely, tmp_path / "barely", model=model)
    for name, value in start.model.state_dict().items():
        assert torch.allclose(value, before[name], atol=1e-6)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert not hasattr(model, "encoding")
    assert not same_weights(result.model, model)


def test_a_given_module_must_be_given_again(
    given: tuple[nn.Module, TrainResult], tmp_path: Path
) -> None:
    model, result = given
    with pytest.raises(ValueError, match=r"torch.nn.modules.container.Sequential, was given to t"):
        load_model(result.weights_path)
    loaded, config = load_model(result.weights_path, model=model)
    assert same_weights(loaded, result.model)
    assert config.model == "given: torch.nn.modules.container.Sequential"
    loaded, _ = load_model(result.weights_path, model=result.model)
    assert same_weights(loaded, result.model)
    limited = nn.Sequential(nn.Flatten(), SpikingLinear(784, 10, t_max=2.0))
    with pytest.raises(ValueError, match=r"made otherwise: it was .*bias=True\), and is now .*t_m"):
        load_model(result.weights_path, model=limited)
    longer = nn.Sequential(*model, nn.Identity())
    with pytest.raises(ValueError, match="made otherwise"):
        load_model(result.weights_path, model=longer)
    with pytest.raises(ValueError, match=r"the network is given: torch.*got own_networks:plain"):
        load_model(result.weights_path, model="own_networks:plain")
    with pytest.raises(ValueError, match="comes with ttfs_fast; leave model out"):
        load_model("mnist_scnn", model=model)


def test_resume_refuses_another_network(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), SpikingLinear(784, 10))
    stopped_after_one_epoch(SMALL, tmp_path / "run", model=model)
    config = dataclasses.replace(SMALL, schedule="cosine")
    with pytest.raises(ValueError, match=r"model was given: .*now own_networks:plain"):
        train(config, tmp_path / "run", model=own_networks.plain, resume=True)
    with pytest.raises(ValueError, match=r"model was given: .*, now mnist_scnn"):
        train(config, tmp_path / "run", resume=True)
    other = nn.Sequential(nn.Flatten(), SpikingLinear(784, 10, t_max=3.0))
    with pytest.raises(ValueError, match=r"cannot resume .* its checkpoint is of a network that w"):
        train(config, tmp_path / "run", model=other, resume=True)
    with torch.no_grad():
        model[1].weight.zero_()  # what it started with is in the past
    resumed = train(config, tmp_path / "run", model=model, resume=True)
    assert len(resumed.records) == 2
    assert resumed.model[1].weight.abs().sum() > 1


def test_names_of_networks() -> None:
    assert name_of(own_networks.plain) == "own_networks:plain"
    assert name_of(own_networks.Branches) == "own_networks:Branches"
    assert name_of("a.b:c.d") == "a.b:c.d"
    assert name_of(own_networks.plain(1, 10)).startswith("given: torch.nn")
    assert name_of(lambda: own_networks.plain(1, 10)).startswith("given: ")
    with pytest.raises(TypeError, match="a function that makes one, or its name"):
        name_of(3)  # type: ignore[arg-type]
    for name in ("plain", "own_networks:", ":plain", "own-networks:plain", "a:b:c", "a:b()", ""):
        with pytest.raises(ValueError, match=r"package\.module:factory"):
            name_of(name)
        with pytest.raises(ValueError, match=r"model must be one of mnist_scnn, .*, or package\.m"):
            TrainConfig(model=name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_such_module:net",
            r"no_such_module cannot be imported \(ModuleNotFoundError: .*--model",
        ),
        ("own_networks:nothing", "own_networks has no nothing"),
        ("own_networks:number", r"number is a int; it must be a function or class"),
        ("own_networks:text", r"gives a str; it must give a torch\.nn\.Module"),
        ("own_networks:silent", r"no spiking layer: build it of ttfs_fast\.nn\.SpikingLinear"),
        ("own_networks:too_much", r"needs depth; a factory is given in_channels, image_size, cla"),
        ("own_networks:wrong", r"cannot be made: KeyError: 'no such thing'"),
        ("own_networks:drops_out", r"1 is a Dropout, which has no meaning"),
        ("own_networks:seven", r"gives \(1, 7\) for an image; .* \(1, 10\)"),
        ("own_networks:too_wide", r"does not take spike values of shape \(N, 1, 28, 28\)"),
        ("own_networks:horizon", r"no layer has a horizon, unlike 0: give neuron=horizon"),
        ("os:abort", r"a module of Python's own"),
        ("torch.nn:ReLU", r"no spiking layer"),
    ],
)
def test_bad_networks_are_refused_before_the_folder_is_touched(
    name: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(dataclasses.replace(SMALL, model=name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def parts() -> tuple[nn.Module, nn.Module]:
    return SpikingConv2d(1, 2, 14, stride=14), SpikingLinear(8, 10)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: center_weights_(own_networks.plain(1, 10), (1, 28, 28)), "parametrized weights"),
        (lambda: nn.Sequential(nn.Flatten(), SpikingLinear(784, 10)).double(), "1.weight is torch"),
        (
            lambda: nn.Sequential(parts()[0], nn.BatchNorm2d(2), nn.Flatten(), parts()[1]),
            "1 is a BatchNorm2d",
        ),
    ],
)
def test_modules_that_cannot_train_are_refused(
    model: Callable[[], nn.Module], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(SMALL, tmp_path / "run", model=model())
    assert not (tmp_path / "run").exists()


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    model = own_networks.Branches(Encoding(2.0))
    with pytest.raises(ValueError, match=r"encoding alpha 2, bright-first, .* say alpha 3"):
        train(SMALL, tmp_path / "run", model=model)
    config = dataclasses.replace(SMALL, alpha=2.0, epochs=1)
    assert train(config, tmp_path / "run", model=model).model.encoding == Encoding(2.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0.5}, r"width is for the networks of ttfs_fast.models; got 0.5"),
        ({"neuron": "relu"}, "with own_networks:plain give spiking, or horizon"),
        ({"neuron": "horizon", "weight_sum": 4.0}, "weight_sum must be 0, got 4"),
        ({"neuron": "horizon", "whitening": True}, "whitening is for the networks of"),
        ({"neuron": "horizon", "grad_accum_steps": 2}, "leave grad_accum_steps at 1, got 2"),
    ],
)
def test_settings_that_build_networks_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(model="own_networks:plain", **settings)


def test_a_horizon_network_needs_horizons(tmp_path: Path) -> None:
    config = TrainConfig(
        dataset="digits", model="own_networks:plain", neuron="horizon", train_images=20, threads=1
    )
    with pytest.raises(ValueError, match="every layer has a horizon, unlike 0"):
        train(config, tmp_path / "run")


def test_own_networks_teach_start_and_become_integers(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, model="own_networks:plain", epochs=1)
    first = train(config, tmp_path / "first")
    more = {"initial_checkpoint": str(tmp_path / "first"), "teacher": str(tmp_path / "first")}
    second = train(dataclasses.replace(config, lr=1e-9, min_lr=1e-9, **more), tmp_path / "second")
    for name, value in second.model.state_dict().items():
        assert torch.allclose(value, first.model.state_dict()[name], atol=1e-6)
    images = load("digits", train=False).images[:100]
    model, _ = load_model(tmp_path / "second")
    net = quantization.convert(model, classes=read_classes(tmp_path / "second/model.safetensors"))
    assert net.classes == tuple("0123456789")
    with torch.no_grad():
        own = model(model.encoding(torch.from_numpy(images))).argmin(1).numpy()
    assert (net.classify(images) == own).mean() > 0.9


class Pictures(Dataset[Any]):
    """Images as a user's data set gives them."""

    def __init__(self, kind: str = "uint8", count: int = 40, seed: int = 0) -> None:
        digits = load("digits", train=True)
        self.images, self.labels = digits.images[seed : seed + count], digits.labels[seed:][:count]
        self.kind = kind

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        image, label = self.images[index], self.labels[index]
        if self.kind == "float":
            return torch.from_numpy(image).float() / 255, torch.tensor(label)
        if self.kind == "half":
            return torch.from_numpy(image).to(torch.bfloat16) / 255, int(label)
        if self.kind == "flat":
            return image[0].copy(), np.int32(label)
        if self.kind == "pillow":
            pillow = pytest.importorskip("PIL.Image", reason="needs the extra ttfs_fast[train]")
            return pillow.fromarray(image[0]), int(label)
        return torch.from_numpy(image), int(label)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_pictures_of_more_than_8_bits_are_refused(mode: str) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="needs the extra ttfs_fast[train]")
    with pytest.raises(ExampleError, match=f"a picture of mode {mode}, .* give a uint8 array"):
        from_dataset([(pillow.new(mode, (4, 4)), 0)])


def test_given_data_and_network_train_and_resume(tmp_path: Path) -> None:
    data = Pictures(), Pictures(seed=500, count=20)
    config = dataclasses.replace(SMALL, schedule="cosine", crop=1)
    options: dict[str, Any] = {"data": data, "model": own_networks.plain}
    whole = train(config, tmp_path / "whole", **options)
    saved = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert saved["dataset"] == "given: test_own_network.Pictures"
    assert (whole.evaluation.images, read_classes(whole.weights_path)) == (20, tuple("0123456789"))
    stopped_after_one_epoch(config, tmp_path / "run", **options)
    resumed = train(config, tmp_path / "run", resume=True, **options)
    assert same_weights(whole.model, resumed.model)
    stopped_after_one_epoch(config, tmp_path / "other", **options)
    options["data"] = Pictures(seed=1), data[1]
    with pytest.raises(ValueError, match="its images are not those of given: test_own_network"):
        train(config, tmp_path / "other", resume=True, **options)
    from_file = TrainConfig.from_json((tmp_path / "other" / "config.json").read_text())
    with pytest.raises(ValueError, match=r"Pictures, was given to train\(\) as an object"):
        train(from_file, tmp_path / "other", resume=True, model=own_networks.plain)


def test_given_data_retrain_an_integer_network(tmp_path: Path) -> None:
    data = Pictures(), Pictures(seed=500, count=20)
    result = train(dataclasses.replace(SMALL, epochs=1), tmp_path / "run", data=data)
    model, settings = load_model(result.weights_path)
    config = quantization.QuantizeConfig(training=settings, bits=8, epochs=1)
    with pytest.raises(ValueError, match=r"was given to train\(\) as an object"):
        quantization.quantize(model, config, tmp_path / "none")
    nets = quantization.quantize(model, config, tmp_path / "few", data=data)
    assert nets[8].classes == tuple("0123456789")


def test_one_data_set_needs_held_out_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"give a pair, \(train, test\), or hold some of the"):
        train(SMALL, tmp_path / "run", data=Pictures())
    config = dataclasses.replace(SMALL, val_images=10, epochs=1)
    result = train(config, tmp_path / "run", data=Subset(Pictures(), list(range(30))))
    assert result.evaluation.images == 10


@pytest.mark.parametrize("kind", ["uint8", "float", "flat", "pillow", "half"])
def test_examples_of_every_kind_are_read(kind: str) -> None:
    pictures = Pictures(kind)
    found = from_dataset(pictures)
    assert found.classes == tuple("0123456789")
    assert found.labels.tolist() == pictures.labels.tolist()
    difference = np.abs(found.images.astype(int) - pictures.images.astype(int)).max()
    assert difference <= (1 if kind == "half" else 0)
    assert from_dataset(found) is found


class Examples(Dataset[Any]):
    def __init__(self, *examples: Any) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        example = self.examples[index]
        return example() if callable(example) else example


BYTES = torch.zeros(1, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ((), "holds no images"),
        ((BYTES,), r"example 0 must be \(image, label\); got Tensor"),
        (((BYTES, 0, 1),), r"must be \(image, label\)"),
        ((("x", 0),), "a tensor, an array or a picture of Pillow; got str"),
        (((BYTES, 0), (BYTES[:, :3], 1)), r"example 1 has the shape \(1, 3, 4\), the first"),
        (((BYTES[0, 0], 0),), r"must be \(C, H, W\) or \(H, W\)"),
        (((np.zeros((8, 8, 3), np.uint8), 0),), "channels last"),
        (((torch.zeros(1, 4, 4, dtype=torch.int64), 0),), r"uint8, or floating point in \[0, 1\]"),
        (((torch.full((1, 4, 4), -0.4), 0),), r"in \[0, 1\]; got -0.4 to .*standardize"),
        (((torch.full((1, 4, 4), float("nan")), 0),), r"in \[0, 1\]; got nan"),
        (((BYTES, -1),), "label must be a whole number from 0 to 1048575; got -1"),
        (((BYTES, 1.0),), "label must be a whole number"),
        (((BYTES, torch.tensor([1, 2])),), "label must be a whole number"),
        (((BYTES, True),), "label must be a whole number"),
        ((lambda: (torch.rand(1, 4, 4), 0),), "another image each time .* crop, hflip, shift"),
    ],
)
def test_bad_examples_are_named(examples: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ExampleError, match=message):
        from_dataset(Examples(*examples))


def test_other_data_sets_and_classes_are_refused() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter([(BYTES, 0)])

    for wrong in (Stream(), 3):
        with pytest.raises(TypeError, match="must be a map-style data set"):
            from_dataset(wrong)  # type: ignore[arg-type]
    with pytest.raises(ExampleError, match="has the label 5, and 2 classes"):
        from_dataset(Examples((BYTES, 5)), classes=["a", "b"])


def test_test_images_of_fewer_classes_count_as_those_of_training(tmp_path: Path) -> None:
    train_set = Examples(*((BYTES + 60 * k, k) for k in range(4)))
    test_set = Examples((BYTES, 0), (BYTES, 1))
    model = nn.Sequential(nn.Flatten(), SpikingLinear(16, 4))
    config = dataclasses.replace(SMALL, epochs=1)
    result = train(config, tmp_path / "run", model=model, data=(train_set, test_set))
    assert result.evaluation.confusion.shape == (4, 5)
    wide = Examples((torch.zeros(1, 5, 5), 0))
    with pytest.raises(ValueError, match="give images of one size"):
        train(config, tmp_path / "other", model=model, data=(train_set, wide))
    named = from_dataset(train_set, classes=list("abcd"))
    others = from_dataset(test_set, classes=["b", "z"])
    with pytest.raises(ValueError, match="the classes z are not among the 4 that are known"):
        train(config, tmp_path / "other", model=model, data=(named, others))


def run_command(*arguments: str, cwd: Path, processes: int = 1) -> subprocess.CompletedProcess[str]:
    """``ttfs-fast``, as its script runs it: without the current folder on Python's path."""
    program = (
        "import sys; sys.path[:] = [p for p in sys.path if p not in ('', sys.argv[1])];"
        "sys.argv[1:2] = []; from ttfs_fast.cli import main; main()"
    )
    start = [sys.executable]
    command = [*start, "-c", program, str(cwd), *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_command_line_finds_networks_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("typer", reason="needs the extra ttfs_fast[train]")
    from support import command

    def run(*arguments: str) -> "Result":
        """The same in this process, to which the module is as new as to one of its own."""
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            patch.setattr(sys, "path", [folder for folder in sys.path if folder])
            try:
                return command.run_command(*arguments)
            finally:
                sys.modules.pop("mine", None)

    source = Path(own_networks.__file__).read_text()
    (tmp_path / "mine.py").write_text(source)
    small = "--dataset digits --train-images 40 --test-images 20 --epochs 1 --threads 1"
    begin = ("train", "--model", "mine:plain", *small.split(), "--out", "run")
    done = run_command(*begin, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "training mine:plain on digits" in done.stdout
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"] == "mine:plain"
    refused = run("eval", "--weights", "run")
    assert refused.exit_code == 2
    assert "mine cannot be imported" in refused.stderr
    assert "name it on the command line with --model mine:plain" in refused.stderr
    found = run("eval", "--weights", "run", "--model", "mine:plain", "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["images"] == 360
    again = run(*begin)
    assert "after epoch 1 of 1" in again.stdout, again.stderr
    exported = run("export", "--weights", "run", "--model", "mine:plain", "--out", "net.pt2")
    assert exported.exit_code == 0, exported.stderr
    wrong = run(*begin[:2], "mine:nothing", *begin[3:-1], "other")
    assert wrong.exit_code == 2
    assert "mine has no nothing" in wrong.stderr
    assert not (tmp_path / "other").exists()


def test_file_does_not_import_the_standard_library(
    given: tuple[nn.Module, TrainResult], tmp_path: Path
) -> None:
    """A file of weights is untrusted: naming a module of Python's own runs nothing."""
    for name in ("os:abort", "webbrowser:open", "antigravity:x"):
        with pytest.raises(ValueError, match="a module of Python's own"):
            find_factory(name)
    assert "antigravity" not in sys.modules


def test_several_processes_train_a_network_of_a_user(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, model="own_networks:plain", epochs=1)
    run = tmp_path / "run"
    code = (
        "import sys, json; from ttfs_fast.training import train, TrainConfig\n"
        f"train(TrainConfig.from_json({config.to_json()!r}), {str(run)!r})\n"
    )
    (tmp_path / "script.py").write_text(code)
    folders = [str(Path(own_networks.__file__).parent), os.environ.get("PYTHONPATH")]
    path = os.pathsep.join(filter(None, folders))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node=2",
            "--standalone",
            str(tmp_path / "script.py"),
        ],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    saved = json.loads((run / "config.json").read_text())
    assert (saved["model"], saved["processes"]) == ("own_networks:plain", 2)
    digits = load("digits", train=False)
    digits = ImageSet(digits.images[:30], digits.labels[:30], digits.name, digits.classes)
    told = float(read_metadata(run / "model.safetensors")["test_accuracy"])
    assert evaluate(load_model(run)[0], digits).accuracy == told


def test_a_network_given_as_an_object_starts_from_a_run_of_it(tmp_path: Path) -> None:
    def network(in_channels: int, classes: int) -> nn.Module:
        return own_networks.plain(in_channels, classes)

    first = train(SMALL, tmp_path / "first", model=network)
    still = dataclasses.replace(
        SMALL, epochs=1, lr=1e-9, min_lr=1e-9, initial_checkpoint=str(tmp_path / "first")
    )
    second = train(still, tmp_path / "second", model=network)
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="holds another network"):
        train(
            dataclasses.replace(still, initial_checkpoint="mnist_scnn", alpha=3.0),
            tmp_path / "third",
            model=network,
        )


@pytest.mark.parametrize("label", [2**63, 10**9])
def test_labels_that_are_no_classes_are_refused(label: int) -> None:
    examples = [(np.zeros((1, 4, 4), np.uint8), 0), (np.ones((1, 4, 4), np.uint8), label)]
    with pytest.raises(ExampleError, match="example 1: the label must be a whole number from 0 to"):
        from_dataset(examples)


def test_a_data_set_that_changes_the_image_it_returned_is_refused() -> None:
    class Noisy(Dataset):
        buffer, asked = torch.zeros(1, 4, 4, dtype=torch.uint8), 0

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            self.asked += 1
            return self.buffer.fill_(self.asked), 0

    with pytest.raises(ExampleError, match="is another image each time"):
        from_dataset(Noisy())


def test_generations_of_a_network_given_as_an_object(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, generations=2)
    result = train(config, tmp_path / "run", model=own_networks.plain(1, 10))
    first, _ = load_model(tmp_path / "run" / "generation-before", model=own_networks.plain(1, 10))
    assert not same_weights(first, result.model)
    again = train(config, tmp_path / "run", model=own_networks.plain(1, 10), resume=True)
    assert same_weights(again.model, result.model)
