"""``ttfs-fast train --config A,B``: several recipes, each from the network of one before."""

from pathlib import Path
from typing import Any

import pytest

from support.command import output_of, run_command
from support.runs import check_same_weights
from ttfs_fast.cli._recipes import plan_runs
from ttfs_fast.training import TrainConfig, read_config, read_recipe, trainer
from ttfs_fast.training.checkpoint import save_checkpoint

SMALL = 'dataset = "digits"\ntrain_images = 50\ntest_images = 20\nthreads = 1\nepochs = 2\n'
TAUGHT = f"""{SMALL}teacher = "runs/first/model.safetensors"
initial_checkpoint = "runs/first/model.safetensors"
"""


@pytest.fixture
def recipes(tmp_path: Path) -> str:
    (tmp_path / "first.toml").write_text(SMALL)
    (tmp_path / "second.toml").write_text(TAUGHT)
    return f"{tmp_path}/first.toml, {tmp_path}/second.toml"


def test_the_same_as_two_commands(recipes: str, tmp_path: Path) -> None:
    both = ("train", "--config", recipes, "--seed", 3, "--out", tmp_path / "both")
    told = output_of(*both)
    assert "first.toml, 1 of 2" in told
    assert "second.toml, 2 of 2" in told
    first, second = recipes.split(", ")
    apart = tmp_path / "apart"
    output_of("train", "--config", first, "--seed", 3, "--out", apart / "first")
    source = apart / "first" / "model.safetensors"
    output_of(
        "train", "--config", second, "--seed", 3, "--out", apart / "second",
        "--teacher", source, "--initial-checkpoint", source,
    )  # fmt: skip
    for name in ("first", "second"):
        check_same_weights(tmp_path / "both" / name, apart / name)
    config = read_config(tmp_path / "both" / "second" / "model.safetensors")
    assert config.seed == 3
    assert config.teacher == config.initial_checkpoint
    assert config.teacher == str(tmp_path / "both" / "first" / "model.safetensors")


def stop_after(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """Press Ctrl-C when so many more epochs are saved; 0 for never."""
    left = epochs

    def save_and_stop(*arguments: Any, **more: Any) -> None:
        nonlocal left
        left -= 1
        save_checkpoint(*arguments, **more)
        if left == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "save_checkpoint", save_and_stop)


def test_the_same_command_continues(
    recipes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    both = ("train", "--config", recipes, "--out", out)
    second = out / "second"
    output_of("train", "--config", recipes, "--out", tmp_path / "whole")
    # Stopped after the first epoch of the first run, then of the second, which is the third in all.
    stop_after(monkeypatch, epochs=1)
    assert run_command(*both).exit_code == 130
    assert not second.exists()
    stop_after(monkeypatch, epochs=2)
    stopped = run_command(*both, "--resume")
    assert stopped.exit_code == 130
    assert "after epoch 1 of 2" in stopped.stdout
    assert not (second / "model.safetensors").exists()
    stop_after(monkeypatch, epochs=0)
    before = (out / "first" / "model.safetensors").stat().st_mtime_ns
    told = output_of(*both)
    assert f"first.toml, 1 of 2: is trained, in {out / 'first'}" in told
    assert "after epoch 1 of 2" in told
    assert (out / "first" / "model.safetensors").stat().st_mtime_ns == before
    check_same_weights(second, tmp_path / "whole" / "second")
    # Other settings replace nothing.
    other = run_command(*both, "--seed", 1)
    assert other.exit_code == 2
    assert "seed was 0, now 1" in other.stderr
    check_same_weights(out / "first", tmp_path / "whole" / "first")
    output_of(*both, "--seed", 1, "--overwrite")
    assert read_config(second / "model.safetensors").seed == 1
    assert read_config(out / "first" / "model.safetensors").seed == 1


def test_recipes_of_the_package_in_turn(tmp_path: Path) -> None:
    """By default the runs lie where the recipes expect them."""
    first, second = plan_runs("cifar10-airbench,cifar10-airbench-on", {"width": 0.5}, None)
    assert first.folder == Path("runs/cifar10-airbench")
    assert second.folder == Path("runs/cifar10-airbench-on")
    assert second.settings == read_recipe("cifar10-airbench-on") | {"width": 0.5}
    assert first.settings == read_recipe("cifar10-airbench") | {"width": 0.5}
    teacher, student = plan_runs("mnist-teacher, mnist", {}, tmp_path)
    assert student.folder == tmp_path / "mnist"
    assert student.settings["teacher"] == str(teacher.folder / "model.safetensors")
    assert TrainConfig(**student.settings).initial_checkpoint is None


def test_a_recipe_may_name_folders_and_several_networks(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.toml").write_text('dataset = "digits"\n')
    (tmp_path / "b.toml").write_text('teacher = "./runs/a, mnist_scnn"\n')
    (tmp_path / "c.toml").write_text(
        'teacher = "runs/b/model.safetensors,runs/a/model.safetensors"\n'
    )
    out = tmp_path / "out"
    _, second, third = plan_runs(",".join(f"{tmp_path}/{name}.toml" for name in "abc"), {}, out)
    assert second.settings["teacher"] == f"{out / 'a'},mnist_scnn"
    weights = [str(out / name / "model.safetensors") for name in "ba"]
    assert third.settings["teacher"] == ",".join(weights)


def test_one_recipe_is_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a,b.toml").write_text(SMALL)
    (run,) = plan_runs("a,b.toml", {"epochs": 3}, None)
    assert run.folder == Path("runs/digits")
    assert run.settings == read_recipe("a,b.toml") | {"epochs": 3}
    (run,) = plan_runs(None, {}, None)
    assert (run.folder, run.settings) == (Path("runs/mnist"), {})


@pytest.mark.parametrize(
    ("config", "more", "message"),
    [
        ("{0},{0}", (), "the names must differ; got"),
        (
            "{1},{0}",
            (),
            "uses no network of the recipes before it: name runs/second/model.safetensors",
        ),
        ("{0},no-such", (), "recipes that come with the package"),
        ("{0},", (), "recipes that come with the package"),
        ("{0},{1}", ("--teacher", "mnist_scnn"), "leave --teacher out"),
        ("{0},{1}", ("--initial-checkpoint", "x"), "leave --initial-checkpoint out"),
        ("{0},{1}", ("--epochs", 0), "epochs must be at least 1; got 0"),
        ("{0},{1}", ("--optimizer", "sgd", "--momentum", 2), "momentum"),
    ],
)
def test_what_cannot_be_trained_in_turn_is_refused_at_once(
    recipes: str, tmp_path: Path, config: str, more: tuple[object, ...], message: str
) -> None:
    text = config.format(*recipes.split(", "))
    result = run_command("train", "--config", text, *more, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_several_processes_train_one_recipe_at_a_time(
    recipes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = run_command("train", "--config", recipes, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "several recipes are trained by one process" in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()
