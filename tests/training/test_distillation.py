import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from support.runs import LEARNING, digits
from ttfs_fast.models.pretrained import pretrained_weights
from ttfs_fast.training import TrainResult, load_pretrained, train
from ttfs_fast.training.distillation import distillation_loss, load_teacher
from ttfs_fast.training.export import weights_digest

TAUGHT = digits(90, 40, epochs=2, seed=3, **LEARNING)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    config = dataclasses.replace(TAUGHT, epochs=6, train_images=400, logit_scale=8.0, seed=4)
    result = train(config, tmp_path_factory.mktemp("runs") / "teacher")
    assert result.evaluation.accuracy > 0.7
    return result


def values(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.rand(20, 7, generator=generator, dtype=torch.float64)).exp()


def test_distillation_loss_is_the_divergence() -> None:
    z, wanted = values(0), values(1)
    p = functional.softmax(-3.0 * z.log() / 4, dim=-1)
    q = functional.softmax(-2.0 * wanted.log() / 4, dim=-1)
    expected = 16 * (q * (q / p).log()).sum()
    loss = distillation_loss(z, wanted, scale=3.0, teacher_scale=2.0, temperature=4.0)
    assert loss == pytest.approx(expected.item())
    assert expected > 1


def test_distillation_loss_is_least_for_equal_answers() -> None:
    wanted = values(2)
    assert distillation_loss(7 * wanted, wanted).item() == pytest.approx(0, abs=1e-12)
    z = (7 * wanted).requires_grad_()
    (gradient,) = torch.autograd.grad(distillation_loss(z, wanted), z)
    assert gradient.abs().max() < 1e-12


def test_silent_outputs_of_either_give_finite_numbers() -> None:
    z, wanted = values(3), values(4)
    z[0, 0] = wanted[1, 1] = torch.inf
    z[2] = wanted[3] = torch.inf
    z.requires_grad_()
    loss = distillation_loss(z, wanted, scale=10.0)
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient[0, 0] == 0
    assert gradient[0, 1] != 0


def test_gradient() -> None:
    z, wanted = values(5).requires_grad_(), values(6)
    assert torch.autograd.gradcheck(lambda z: distillation_loss(z, wanted, temperature=3.0), z)


def test_a_weight_of_1_ignores_labels_and_0_the_teacher(
    teacher: TrainResult, tmp_path: Path
) -> None:
    path = str(teacher.weights_path)
    plain = train(TAUGHT, tmp_path / "plain")
    none = train(dataclasses.replace(TAUGHT, teacher=path, distill_weight=0.0), tmp_path / "none")
    for name, value in plain.model.state_dict().items():
        assert torch.equal(none.model.state_dict()[name], value), name
    taught = train(
        dataclasses.replace(TAUGHT, teacher=path, distill_weight=1.0, epochs=8),
        tmp_path / "taught",
    )
    first, last = taught.records[0], taught.records[-1]
    assert last.loss_class < first.loss_class / 2
    assert last.train_accuracy > 0.5


def test_a_resumed_run_needs_the_teacher_it_began_with(
    teacher: TrainResult, tmp_path: Path
) -> None:
    moved = tmp_path / "teacher.safetensors"
    shutil.copy(teacher.weights_path, moved)
    config = dataclasses.replace(TAUGHT, teacher=str(teacher.weights_path))
    train(config, tmp_path / "run")
    elsewhere = dataclasses.replace(config, teacher=str(moved))
    train(elsewhere, tmp_path / "run", resume=True)
    other = train(dataclasses.replace(TAUGHT, epochs=1, seed=9), tmp_path / "other")
    changed = dataclasses.replace(config, teacher=str(other.weights_path))
    with pytest.raises(ValueError, match="not the teacher it began with"):
        train(changed, tmp_path / "run", resume=True)


def test_a_pretrained_network_teaches_and_starts_by_its_name(tmp_path: Path) -> None:
    pretrained, settings = load_pretrained("mnist_scnn")
    config = dataclasses.replace(
        TAUGHT,
        alpha=settings.alpha,
        weight_sum=0.0,
        lr=1e-9,
        min_lr=1e-9,
        epochs=1,
        initial_checkpoint="mnist_scnn",
        teacher="mnist_scnn",
    )
    teacher = load_teacher(config)
    assert teacher is not None
    assert weights_digest(teacher.network) == weights_digest(pretrained)
    result = train(config, tmp_path / "run")
    for name, value in pretrained.state_dict().items():
        torch.testing.assert_close(result.model.state_dict()[name], value, atol=1e-6, rtol=0)
    train(config, tmp_path / "run", resume=True)
    with pretrained_weights("mnist_scnn") as file:
        by_file = dataclasses.replace(config, initial_checkpoint=str(file), teacher=str(file))
        train(by_file, tmp_path / "run", resume=True)
    unknown = dataclasses.replace(config, initial_checkpoint="mnist_cnn")
    with pytest.raises(
        FileNotFoundError, match=r"no weights at mnist_cnn: .*pretrained network: mnist_s"
    ):
        train(unknown, tmp_path / "other")


def test_a_teacher_that_is_not_there_or_sees_other_spikes(
    teacher: TrainResult, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"no teacher at .*train it first"):
        load_teacher(dataclasses.replace(TAUGHT, teacher=str(tmp_path / "none.safetensors")))
    with pytest.raises(ValueError, match=r"alpha 3.0, this network is to be with 2.0"):
        load_teacher(dataclasses.replace(TAUGHT, teacher=str(teacher.weights_path), alpha=2.0))
    assert load_teacher(TAUGHT) is None
