import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from support.runs import LEARNING, check_same_weights, digits
from ttfs_fast.conversion import IntensitiesOfSpikes, from_relu, save_converted, with_intensities
from ttfs_fast.encoding import Encoding
from ttfs_fast.horizon import HorizonLinear, fold_horizons_
from ttfs_fast.layers import find_spiking_layers
from ttfs_fast.models import cifar_airbench
from ttfs_fast.models.pretrained import pretrained_weights
from ttfs_fast.quantization.config import QuantizeConfig
from ttfs_fast.training import TrainResult, load_pretrained, train
from ttfs_fast.training.callback import Callback
from ttfs_fast.training.distillation import (
    Teacher,
    Teachers,
    distillation_loss,
    load_teachers,
)
from ttfs_fast.training.export import export_weights, read_config, weights_digest
from ttfs_fast.training.trainer import ensure_trained

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


def test_a_teacher_that_answers_otherwise_is_noticed(teacher: TrainResult, tmp_path: Path) -> None:
    """Weights of the same network, exported with another limit of time or another scale."""
    digests = set()
    for number, change in enumerate(({}, {"t_max": 3.0}, {"logit_scale": 9.0})):
        settings = dataclasses.replace(read_config(teacher.weights_path), **change)
        path = tmp_path / f"{number}.safetensors"
        export_weights(teacher.model, path, settings, test_accuracy=0.5)
        loaded = load_teachers(dataclasses.replace(TAUGHT, teacher=str(path)))
        assert loaded is not None
        digests.add(loaded.sha256)
    assert len(digests) == 3


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
    teachers = load_teachers(config)
    assert teachers is not None
    assert weights_digest(teachers[0].network) == weights_digest(pretrained)
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
        load_teachers(dataclasses.replace(TAUGHT, teacher=str(tmp_path / "none.safetensors")))
    with pytest.raises(ValueError, match=r"alpha 3.0, this network is to be with 2.0"):
        load_teachers(dataclasses.replace(TAUGHT, teacher=str(teacher.weights_path), alpha=2.0))
    assert load_teachers(TAUGHT) is None


class Linear(torch.nn.Module):
    """Positive answers that depend on where in the image a spike is, and count the images."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.rand(8, 7, generator=generator))
        self.seen = 0

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        self.seen += len(values)
        return 1 + values.flatten(1) @ self.weight


@pytest.mark.parametrize("images", [2, 8, 13])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_teacher_answers_for_its_part(number: int, flip: bool, images: int) -> None:
    generator = torch.Generator().manual_seed(images)
    spikes = 1 + torch.rand(images, 2, 2, 2, generator=generator)
    output = 1 + torch.rand(images, 7, generator=generator)
    losses = torch.tensor(3.0)
    teachers = Teachers(Teacher(Linear(k), 1.0 + k, f"{k}") for k in range(number))
    config = dataclasses.replace(TAUGHT, teacher_hflip=flip, distill_weight=0.25, logit_scale=5.0)
    found = teachers.distill(losses, output, spikes, config)
    views = [(k, mirrored) for k in range(number) for mirrored in ([False, True][: 1 + flip])]
    expected, begin = 0.75 * losses, 0
    for i, (k, mirrored) in enumerate(views):
        size = images // len(views) + (i < images % len(views))
        part = slice(begin, begin + size)
        seen = spikes[part].flip(3) if mirrored else spikes[part]
        expected = expected + 0.25 * distillation_loss(
            output[part], Linear(k)(seen), scale=5.0, teacher_scale=1.0 + k, temperature=2.0
        )
        begin += size
    torch.testing.assert_close(found, expected)
    assert sum(teacher.network.seen for teacher in teachers) == images
    assert teachers.sha256 == ",".join(map(str, range(number)))


def test_several_teachers_by_name(teacher: TrainResult, tmp_path: Path) -> None:
    other = train(dataclasses.replace(TAUGHT, epochs=1, seed=9), tmp_path / "other")
    both = f"{teacher.weights_path},{other.weights_path.parent}"
    config = dataclasses.replace(TAUGHT, teacher=both, teacher_hflip=True, epochs=1)
    train(config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True)
    turned = ",".join(reversed(both.split(",")))
    with pytest.raises(ValueError, match=r"it began with other teachers than .*another order"):
        train(dataclasses.replace(config, teacher=turned), tmp_path / "run", resume=True)
    # Where no resume is asked for, a run with another teacher is repeated.
    kept = ensure_trained(config, tmp_path / "run")
    assert kept.read_bytes() == ensure_trained(config, tmp_path / "run").read_bytes()
    other_order = dataclasses.replace(config, teacher=turned)
    assert read_config(ensure_trained(other_order, tmp_path / "run")) == other_order
    with pytest.raises(FileNotFoundError, match="no teacher at none"):
        load_teachers(dataclasses.replace(TAUGHT, teacher=f"{teacher.weights_path}, none"))
    comma = tmp_path / "lr=0.1,seed=1"
    comma.mkdir()
    shutil.copy(teacher.weights_path, comma / "model.safetensors")
    found = load_teachers(dataclasses.replace(TAUGHT, teacher=str(comma)))
    assert found is not None
    assert len(found) == 1


def test_teachers_that_would_not_all_answer() -> None:
    with pytest.raises(ValueError, match=r"a name, or several with commas .*; got 'mnist_scnn,'"):
        dataclasses.replace(TAUGHT, teacher="mnist_scnn,")
    dataclasses.replace(TAUGHT, teacher="mnist_scnn", batch_size=4, grad_accum_steps=8)
    two = dataclasses.replace(TAUGHT, teacher="mnist_scnn,mnist_scnn", batch_size=16)
    assert two.teachers == ("mnist_scnn", "mnist_scnn")
    with pytest.raises(ValueError, match=r"2 teachers must answer for 2 parts .* takes 1 images"):
        dataclasses.replace(two, grad_accum_steps=16)
    with pytest.raises(ValueError, match=r"2 teachers with teacher_hflip must answer for 4 parts"):
        dataclasses.replace(two, teacher_hflip=True, processes=8)


def test_a_mirrored_teacher_needs_a_teacher(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="teacher_hflip says what a teacher sees; give teacher, or gen"
    ):
        train(dataclasses.replace(TAUGHT, teacher_hflip=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


TWO = dataclasses.replace(TAUGHT, generations=2, distill_weight=0.9)


def test_each_generation_is_taught_by_the_one_before(tmp_path: Path) -> None:
    three = dataclasses.replace(TWO, generations=3, teacher_hflip=True)
    found = train(three, tmp_path / "three")
    before = tmp_path / "three" / "generation-before"
    first = before / "generation-before"
    for teacher, student in ((None, first), (first, before), (before, tmp_path / "three")):
        taught = {} if teacher is None else {"teacher": str(teacher), "teacher_hflip": True}
        config = dataclasses.replace(TWO, generations=1, **taught)
        by_name = train(config, tmp_path / f"{student.parent.name}-{student.name}")
        check_same_weights(student, by_name.weights_path.parent)
    assert not (first / "generation-before").exists()
    assert read_config(found.weights_path).generations == 3


@pytest.fixture(scope="module")
def two_generations(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(TWO, tmp_path_factory.mktemp("runs") / "two")


class StopsAfter(Callback):
    """Ends the process that trains, as Ctrl-C does, after so many epochs."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def log(self, text: str) -> None:
        self.left -= text.startswith("epoch")
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_stopped_generations_continue(
    two_generations: TrainResult, tmp_path: Path, epochs: int
) -> None:
    run = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train(TWO, run, callback=StopsAfter(epochs))
    with pytest.raises(FileExistsError, match="already holds a training run"):
        train(TWO, run)
    with pytest.raises(ValueError, match="generations was 2, now 1"):
        train(TAUGHT, run, resume=True)
    train(TWO, run, resume=True)
    check_same_weights(run, two_generations.weights_path.parent)
    # Without its settings, what is left of a run is not taken for nothing, nor for another run.
    (run / "config.json").unlink()
    with pytest.raises(FileExistsError, match="already holds a training run"):
        train(TAUGHT, run)
    train(TAUGHT, run, overwrite=True)
    assert not (run / "generation-before" / "model.safetensors").exists()


def test_a_generation_before_that_has_changed_is_refused(
    two_generations: TrainResult, teacher: TrainResult, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(two_generations.weights_path.parent, run)
    before = run / "generation-before" / "model.safetensors"
    shutil.copy(teacher.weights_path, before)
    with pytest.raises(ValueError, match=r"generation-before is not the teacher it began with"):
        train(TWO, run, resume=True)
    before.unlink()
    train(TWO, run, resume=True)  # writes its weights again
    # What an interrupted removal leaves is not taken for the generation before.
    config = before.with_name("config.json")
    text = config.read_text()
    (run / "config.json").unlink()
    config.unlink()
    for checkpoint in [*run.glob("checkpoint-*"), *config.parent.glob("checkpoint-*")]:
        shutil.rmtree(checkpoint)
    other = dataclasses.replace(TWO, seed=TWO.seed + 1)
    train(other, run)
    assert config.read_text() != text
    train(TWO, run, overwrite=True)
    check_same_weights(before.parent, two_generations.weights_path.parent / "generation-before")


def test_generations_that_are_not_possible(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave teacher out; got mnist_scnn"):
        dataclasses.replace(TWO, teacher="mnist_scnn")
    with pytest.raises(ValueError, match=r"trained by one process; got 2\."):
        dataclasses.replace(TWO, processes=2)
    with pytest.raises(ValueError, match=r"1 teacher with teacher_hflip must answer for 2 parts"):
        dataclasses.replace(TWO, teacher_hflip=True, batch_size=16, grad_accum_steps=16)
    with pytest.raises(ValueError, match="generations are for training in float; got 2"):
        QuantizeConfig(training=TWO)
    # Nothing is left of a run whose settings do not fit the images.
    with pytest.raises(FileNotFoundError, match="no weights at none"):
        train(dataclasses.replace(TWO, initial_checkpoint="none"), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
    assert not (tmp_path / "run" / "generation-before").exists()


def test_a_folded_teacher_answers_by_dense_products() -> None:
    folded = cifar_airbench(pretrained=True)
    config = dataclasses.replace(
        TAUGHT, dataset="cifar10", alpha=folded.encoding.alpha, teacher="cifar_airbench"
    )
    teachers = load_teachers(config)
    assert teachers is not None
    network = teachers[0].network
    assert not find_spiking_layers(network)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    spikes = folded.encoding(pixels)
    with torch.no_grad():
        torch.testing.assert_close(network(spikes).log(), folded(spikes).log(), rtol=0, atol=2e-6)
    # With bfloat16, the times differ by much less than those of two classes.
    output = spikes.new_ones(2, 10).requires_grad_()
    losses = []
    for precision in ("float32", "bfloat16"):
        neuron = {"neuron": "horizon", "weight_sum": 2.0, "precision": precision, "lr": 0.01}
        own = dataclasses.replace(config, logit_scale=2000.0, distill_weight=1.0, **neuron)
        losses.append(teachers.distill(output.sum(), output, spikes, own))
    exact, rounded = losses
    assert exact != rounded
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0)


def test_a_teacher_without_dense_counterpart_stays_as_it_is() -> None:
    layer = HorizonLinear(5, 3, t_in=0.01)
    folded = fold_horizons_(torch.nn.Sequential(layer))
    with torch.no_grad():
        folded[0][1].weight[0, 0] += 1
    spikes = 1 + 0.01 * torch.rand(4, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = folded(spikes)
    teacher = Teacher(folded, 1.0, "")
    assert find_spiking_layers(teacher.network)
    assert torch.equal(teacher.network(spikes), expected)


def test_a_converted_network_does_not_teach(tmp_path: Path) -> None:
    relu = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    pixels = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    file = tmp_path / "converted.safetensors"
    network = with_intensities(from_relu(relu, pixels), IntensitiesOfSpikes(0.0, 1.0))
    metadata = {"encoding": Encoding(1.0).to_json(), "dataset": "digits"}
    save_converted(network, file, metadata)
    with pytest.raises(ValueError, match=r"was converted from a ReLU network .* cannot teach"):
        load_teachers(dataclasses.replace(TAUGHT, teacher=str(file)))
