"""One step of training, the same for all that train."""

import dataclasses
import importlib
import math
import platform
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from support.horizons import SMALL
from support.runs import TINY, assert_same_run, interrupted, without_seconds
from ttfs_fast import quantization
from ttfs_fast.bench import networks
from ttfs_fast.data import ImageSet
from ttfs_fast.gpu.device import multiplies_bfloat16
from ttfs_fast.loss import SpikingLoss
from ttfs_fast.models import mnist_scnn
from ttfs_fast.nn import SpikingLinear
from ttfs_fast.optim.averaging import average_weights
from ttfs_fast.paper.studies import DepthStudy
from ttfs_fast.paper.studies.depth import train_one
from ttfs_fast.training import Callback, step, train, trainer
from ttfs_fast.training.batches import Batch
from ttfs_fast.training.step import StepLoss, StepResult, StepTotals, TrainingStep, equation_5


def colors() -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32)).astype(np.uint8)
    return ImageSet(pixels, np.arange(20) % 10, "colors", tuple("abcdefghij"))


def by_float_training(folder: Path) -> None:
    train(TINY, folder)


def by_quantization(folder: Path) -> None:
    settings = quantization.QuantizeConfig(bits=8, epochs=1, training=TINY)
    quantization.quantize(mnist_scnn(pretrained=True), settings, folder)


def by_the_depth_study(folder: Path) -> None:
    study = DepthStudy(depths=(4,), width=0.25, epochs=1, batch_size=10)
    train_one(study, "relu", 4, 0, colors(), colors())


def by_the_benchmark(folder: Path) -> None:
    step = networks.training_step("dense", networks.mnist("dense"), *networks.digits(10))
    step()
    step()


@pytest.mark.parametrize(
    "run", [by_float_training, by_quantization, by_the_depth_study, by_the_benchmark]
)
def test_all_training_uses_the_same_step(
    run: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call of an optimizer's step but in TrainingStep: without it no weight changes."""
    calls = 0
    real = TrainingStep.__call__

    def counted(self: TrainingStep, *args: object, **more: object) -> StepResult:
        nonlocal calls
        calls += 1
        return real(self, *args, **more)  # type: ignore[arg-type]

    steps = 0
    for optimizer in (torch.optim.AdamW, torch.optim.Adam):
        make = optimizer.step

        def step(self: object, *args: object, make: Callable[..., object] = make) -> object:
            nonlocal steps
            steps += 1
            return make(self, *args)

        monkeypatch.setattr(optimizer, "step", step)
    monkeypatch.setattr(TrainingStep, "__call__", counted)
    run(tmp_path)
    assert calls == 2
    assert steps == 2 or steps == 4  # AdamW's step may be Adam's


def test_no_other_module_makes_steps() -> None:
    package = Path(importlib.import_module("ttfs_fast").__file__ or "").parent
    calls = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "optimizer.step()" in path.read_text("utf-8").replace("self._", "")
        and ">>> " not in path.read_text("utf-8")
    ]
    assert calls == ["training/step.py"]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(SpikingLinear(12, 9), SpikingLinear(9, 5))


def some_batch(images: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(images, 12, generator=generator).exp()
    return Batch(values, torch.arange(images) % 5, images)


def test_a_step_is_loss_limit_optimizer_constraint_and_average_in_turn() -> None:
    model, plain = small(), small()
    averaged = average_weights(model, 0.9)
    called: list[Tensor] = []

    def halve(network: nn.Module) -> None:
        called.append(next(network.parameters()).detach().clone())
        with torch.no_grad():
            next(network.parameters()).mul_(0.5)

    loss = SpikingLoss(0.5, 0.01)
    step = TrainingStep(
        model,
        torch.optim.SGD(model.parameters(), lr=123.0),
        equation_5(loss, model),
        clip_grad=0.004,
        constrain=halve,
        averaged=averaged,
    )
    batch = some_batch()
    result = step(batch, 0.25)

    terms = loss.terms(plain(batch.values), batch.labels, plain)
    terms.total.backward()
    torch.testing.assert_close(result.data, terms.cross_entropy.item())
    torch.testing.assert_close(result.weight_sum, terms.weight_sum.item())
    torch.testing.assert_close(result.l2, terms.l2.item())
    torch.testing.assert_close(result.output, plain(batch.values).detach())
    assert not result.skipped
    weight = plain[0].weight
    rows = torch.cat([weight.grad, plain[0].bias.grad[:, None]], 1)
    ratio = rows.norm() / len(rows)
    assert ratio > 0.004  # the limit has something to do
    torch.testing.assert_close(called[0], weight.detach() - 0.25 * weight.grad * 0.004 / ratio)
    torch.testing.assert_close(model[0].weight.detach(), called[0] / 2)
    assert averaged is not None
    assert torch.equal(averaged.module[0].weight, model[0].weight)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_leaves_the_weights(wrong: float) -> None:
    model = small()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    called: list[object] = []

    def loss(output: Tensor, batch: Batch) -> StepLoss:
        return StepLoss(model[0].weight.sum() * wrong)

    step = TrainingStep(
        model, torch.optim.SGD(model.parameters(), lr=1.0), loss, constrain=called.append
    )
    totals = StepTotals(0.0, 0.0)
    result = step(some_batch())
    totals.add(result)
    assert result.skipped
    assert (totals.steps, totals.skipped) == (1, 1)
    assert called == []
    for parameter, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
    totals.reduce()
    with pytest.raises(FloatingPointError, match=r"in epoch 3, step 1: try .* 2 epochs are saved"):
        totals.check_loss(3, "2 epochs are saved")


def test_a_batch_that_is_too_small_is_answered_only() -> None:
    model = small()
    before = model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = TrainingStep(model, optimizer, equation_5(SpikingLoss(), model), least_images=2)
    totals = StepTotals(100.0, 0.001)
    for images in (1, 2):
        result = step(some_batch(images))
        totals.add(result)
        assert result.output.shape == (images, 5)
        assert result.learned == (images == 2)
    assert (totals.steps, totals.skipped) == (1, 1)
    assert model.training
    assert not torch.equal(model[0].weight, before)


def test_label_smoothing_reaches_quantization(tmp_path: Path) -> None:
    networks = []
    for smoothing in (0.0, 0.3):
        training = dataclasses.replace(TINY, label_smoothing=smoothing, lr=0.01)
        settings = quantization.QuantizeConfig(bits=8, epochs=2, training=training)
        folder = tmp_path / str(smoothing)
        model = mnist_scnn(pretrained=True)
        networks.append(quantization.quantize(model, settings, folder)[8])
    assert networks[0].to_bytes() != networks[1].to_bytes()


class Facts(Callback):
    """Keeps what a run says when it begins."""

    def log_facts(self, title: str, facts: Mapping[str, str]) -> None:
        if title.startswith("training"):
            self.facts = dict(facts)


@pytest.mark.parametrize("in_hardware", [False, True])
def test_auto_precision_is_that_of_the_processor(
    in_hardware: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bits as with the precision given by name, of a teacher's answers, too."""
    named = "bfloat16" if in_hardware else "float32"
    monkeypatch.setattr(step, "multiplies_bfloat16", lambda device: in_hardware)
    config = dataclasses.replace(SMALL, precision="auto", epochs=2, train_images=200)
    facts = Facts()
    whole = train(config, tmp_path / "auto", callback=facts)
    assert facts.facts["products"] == named
    by_name = train(dataclasses.replace(config, precision=named), tmp_path / "named")
    assert_same_run(whole, by_name)
    taught = dataclasses.replace(config, epochs=1, teacher=str(whole.weights_path))
    assert_same_run(
        train(taught, tmp_path / "taught"),
        train(dataclasses.replace(taught, precision=named), tmp_path / "taught-named"),
    )
    with interrupted(trainer, "save_checkpoint"):
        train(config, tmp_path / "stopped")
    assert_same_run(train(config, tmp_path / "stopped", resume=True), whole)
    # A processor of another kind goes on with its own products.
    with interrupted(trainer, "save_checkpoint"):
        train(config, tmp_path / "moved")
    monkeypatch.setattr(step, "multiplies_bfloat16", lambda device: not in_hardware)
    moved = train(config, tmp_path / "moved", resume=True, callback=facts)
    assert facts.facts["products"] != named
    assert without_seconds(moved)[0] == without_seconds(whole)[0]
    assert without_seconds(moved)[1] != without_seconds(whole)[1]


def test_emulated_products_are_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "multiplies_bfloat16", lambda device: False)
    facts = Facts()
    config = dataclasses.replace(SMALL, precision="bfloat16", epochs=1, train_images=100)
    train(config, tmp_path, callback=facts)
    assert facts.facts["products"].startswith("bfloat16, emulated: precision float32 is faster")


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not Path("/proc/cpuinfo").is_file(),
    reason="compares with the flags of an x86-64 processor in /proc/cpuinfo, which only Linux has",
)
def test_bfloat16_instructions_are_found() -> None:
    flags = set(re.findall(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)[0].split())
    expected = bool(flags & {"avx512_bf16", "amx_bf16"})
    assert multiplies_bfloat16(torch.device("cpu")) == expected
