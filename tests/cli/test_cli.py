import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from support.command import run_command
from support.machine import run_python
from support.runs import digits
from ttfs_fast import cli, nir
from ttfs_fast._csv import read_rows, write_rows
from ttfs_fast._extras import require
from ttfs_fast.analysis import evaluate
from ttfs_fast.cli._common import COMMANDS
from ttfs_fast.data import ImageSet, load
from ttfs_fast.encoding import Encoding
from ttfs_fast.models import mnist_scnn
from ttfs_fast.training import TrainConfig, read_log, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    train(digits(100, 40, alpha=2.5), folder)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_exits_with_usage(command: str) -> None:
    result = run_command(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_help_lists_the_commands_in_their_order() -> None:
    first_words = [
        line.strip("│ ").split(" ")[0] for line in run_command("--help").output.splitlines()
    ]
    assert tuple(word for word in first_words if word in COMMANDS) == COMMANDS


def test_help_shows_defaults_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    output = run_command("train", "--help").output
    assert "Default: 50." in output
    assert "Default: 0.001." in output


@pytest.mark.parametrize(
    "arguments",
    [["info"], ["train", "--help"], ["eval", "--weights", "mnist_scnn", "--dataset", "digits"]],
)
def test_a_closed_pipe_is_not_an_error(arguments: list[str]) -> None:
    """As with ``ttfs-fast info | head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "ttfs_fast", *arguments],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_settings_may_begin_with_a_byte_order_mark(trained: Path, tmp_path: Path) -> None:
    run_folder = shutil.copytree(trained, tmp_path / "run")
    config = run_folder / "config.json"
    log = run_folder / "log.csv"
    recipe = tmp_path / "recipe.toml"
    records = read_log(log)
    rows = [Row("a", 1)]
    table = tmp_path / "table.csv"
    write_rows(table, Row, rows)
    recipe.write_text("epochs = 1\n")
    for path in (config, log, recipe, table):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_log(log) == records
    assert read_rows(table, Row) == rows
    assert TrainConfig.from_json(config.read_text("utf-8")).alpha == 2.5
    more = ("--out", str(run_folder), "--resume")
    result = run_command("train", "--config", str(recipe), *more)
    assert result.exit_code == 0, result.output


@dataclasses.dataclass
class Row:
    """A row of a table."""

    name: str
    number: int


def test_train_and_resume(tmp_path: Path) -> None:
    small = ("--dataset", "digits", "--train-images", "60", "--test-images", "20")
    arguments = ("train", *small, "--threads", "1", "--epochs", "2", "--out", str(tmp_path / "a"))
    result = run_command(*arguments)
    assert result.exit_code == 0, result.output
    assert "60 to train, 20 to test" in result.output
    assert "epoch 2/2" in result.output
    assert not any(ord(c) < 32 and c != "\n" for c in result.output)
    for again in (
        run_command("train", "--out", str(tmp_path / "a"), "--resume"),
        run_command(*arguments),
    ):
        assert again.exit_code == 0, again.output
        assert "after epoch 2 of 2" in again.output
    other = run_command(*arguments, "--seed", "1")
    assert other.exit_code == 2
    assert "already holds a training run with other settings (seed was 0, now 1)" in other.stderr


def test_train_from_a_file_of_settings(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text(
        'dataset = "digits"\ntrain_images = 50\nepochs = 1\nthreads = 1\nema_decay = 0.9\n'
        "rotate = 5.0\nval_images = 30\n"
    )
    out = str(tmp_path / "run")
    result = run_command(
        "train", "--config", str(file), "--epochs", "2", "--shift", "1.5", "--out", out
    )
    assert result.exit_code == 0, result.output
    assert "50 to train, 30 to test" in result.output
    assert "jitter 0 tau, rotate 5, shift 1.5" in result.output
    config = TrainConfig.from_json((tmp_path / "run" / "config.json").read_text())
    assert (config.epochs, config.ema_decay, config.shift, config.lr) == (2, 0.9, 1.5, 0.001)
    again = run_command("train", "--config", str(file), "--out", out, "--resume")
    assert again.exit_code == 2
    assert "epochs was 2, now 1" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config", "no-such"), "recipes that come with the package: "),
        (("--epochs", "0"), "epochs must be at least 1; got 0"),
        (("--out", "no/such/run", "--resume"), "no training run to resume"),
        (("--resume", "--overwrite", "--out", "x"), "give one of the two"),
    ],
)
def test_errors_of_train_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = run_command("train", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("ttfs-fast: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    with pytest.raises((ValueError, OSError), match=message.split(";")[0]):
        run_command("train", *arguments, "--debug", catch_exceptions=False)


def test_resume_with_other_settings_names_them(trained: Path) -> None:
    result = run_command("train", "--out", str(trained), "--resume", "--seed", "5")
    assert result.exit_code == 2
    assert "seed was 0, now 5" in result.stderr
    result = run_command("train", "--out", str(trained))
    assert result.exit_code == 2
    assert "already holds a training run with other settings (" in result.stderr
    assert "): give --resume to continue it, --overwrite to remove it" in result.stderr


def test_eval_prints_every_measure(trained: Path) -> None:
    result = run_command("eval", "--weights", str(trained / "model.safetensors"))
    assert result.exit_code == 0, result.output
    for text in (
        "accuracy",
        "spikes per neuron",
        "conv1",
        "energy by weights",
        "silent",
        "360 images",
    ):
        assert text in result.output
    assert "\x1b" not in result.output


def test_eval_as_json_uses_the_settings_of_the_training(trained: Path) -> None:
    weights = str(trained / "model.safetensors")
    result = run_command(
        "eval", "--weights", weights, "--json", "--threads", str(torch.get_num_threads())
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["images"] == 360
    assert found["weights"] == 21440
    assert found["neurons"] == 7066
    assert found["spikes_per_neuron"] > 0.5
    assert len(found["confusion"]) == 10
    assert sum(map(sum, found["confusion"])) == 360
    energy = 21440 * found["spikes_per_neuron"] * 10e-12
    assert found["energy_by_weights_joule"] == pytest.approx(energy)
    spikes = 7066 * found["spikes_per_neuron"] * 10e-12
    assert found["energy_by_spikes_joule"] == pytest.approx(spikes)
    model, digits = mnist_scnn(weights=weights), load("digits", train=False)
    expected = evaluate(model, digits)
    assert found["confusion"] == expected.confusion.tolist()
    assert found["first_spike_time"] == pytest.approx(expected.first_spike_time)
    other = evaluate(model, digits, encoding=Encoding())
    assert found["first_spike_time"] != other.first_spike_time


def test_pretrained_network_loads_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    images = generator.integers(0, 256, (30, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(30, dtype=np.int64) % 10
    names = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    monkeypatch.setattr(
        "ttfs_fast.data.load", lambda *_, **__: ImageSet(images, labels, "CIFAR-10", names)
    )
    result = run_command("eval", "--weights", "cifar_scnn", "--threads", "1")
    assert result.exit_code == 0, result.stderr
    assert "testing the pretrained cifar_scnn on 30 images" in result.output
    # Long names number the columns; all rows are named whole.
    assert all(f"{number} {name} " in result.output for number, name in enumerate(names))
    assert "90,624 weights" in result.output
    # A file of that name goes before it.
    monkeypatch.chdir(tmp_path)
    Path("cifar_scnn").write_bytes(b"no weights")
    result = run_command("eval", "--weights", "cifar_scnn")
    assert result.exit_code == 2
    assert "cifar_scnn" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("eval", "--weights=~/none.x"), "no weights at {home}/none.x"),
        (("eval", "--weights=~"), "no weights at {home}"),
        (("circuit", "layer", "--weights=~/none.x"), "{home}/none.x"),
        (("train", "--config=~/none.toml"), "no settings at {home}/none.toml"),
        (("eval", "--weights", "~/none.x"), "no weights at ~/none.x"),  # given so by quotes only
        (("eval", "--weights=./~/none.x"), "no weights at ~/none.x"),
        (("eval", "--weights=~nobody-has-this-name/x"), "no weights at ~nobody-has-this-name/x"),
    ],
)
def test_a_tilde_after_an_equals_sign_is_the_home_folder(
    arguments: tuple[str, ...], wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = run_command(*arguments)
    assert result.exit_code == 2
    assert wanted.format(home=tmp_path) in result.stderr.replace("\n", "")


def test_tilde_in_output_paths_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    assert run_command("circuit", "waveform", "--out=~/a/wave.csv").exit_code == 0
    assert [p.name for p in (home / "a").iterdir()] == ["wave.csv"]
    assert list(here.iterdir()) == []


def test_a_tilde_without_a_home_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setenv("COLUMNS", "200")
    result = run_command("eval", "--weights=~/x")
    assert result.exit_code == 2
    assert "--weights=~/x: this user has no home folder" in result.stderr


def test_paths_that_are_not_utf8(trained: Path, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run-\xff\xe9"))
    shutil.copytree(trained, folder)
    weights, graph = folder / "model.safetensors", folder / "net.nir"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ttfs_fast",
            "export",
            "--out",
            str(graph),
            "--weights",
            str(weights),
        ],
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "run-\\udcff\\udce9/net.nir: " in done.stdout
    assert len(nir.read(graph)) > 3
    weights.write_bytes(b"")
    result = run_command("eval", "--weights", str(weights))
    assert result.exit_code == 2
    assert "run-\\udcff\\udce9/model.safetensors is not a safetensors file" in result.stderr


@pytest.mark.parametrize("command", ["eval", "quantize", "study silence"])
def test_commands_require_a_network(command: str) -> None:
    result = run_command(*command.split())
    assert result.exit_code == 2
    assert "give a network with --weights: a pretrained network by its name" in result.stderr


def test_weights_may_be_the_folder_of_a_run(trained: Path) -> None:
    figures = [
        json.loads(run_command("eval", "--json", "--weights", str(path)).stdout)
        for path in (trained, trained / "model.safetensors")
    ]
    for found in figures:
        del found["images_per_second"]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("content", [None, b"", b"\x10\0\0\0\0\0\0\0{", b"no weights at all"])
def test_eval_rejects_invalid_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    result = run_command("eval", "--weights", str(path), "--dataset", "digits")
    assert result.exit_code == 2
    assert "weights.safetensors" in result.stderr
    assert result.stderr.count("\n") == 1


def test_info_prints_versions() -> None:
    done = run_python("-m", "ttfs_fast", "info")
    assert done.returncode == 0, done.stderr
    assert torch.__version__ in done.stdout
    assert "instruction set" in done.stdout
    assert "digits: 1,437 + 360 images" in done.stdout
    assert not any(ord(c) < 32 and c != "\n" for c in done.stdout)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_the_openmp_runtime_is_the_one_that_torch_loaded() -> None:
    runtimes = cli.info.openmp_runtimes()
    assert runtimes
    assert all(Path(path).exists() for path in runtimes)


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(ImportError, match=r'pip install "ttfs_fast\[plot\]"'):
        require("no_such_package_of_ours.part", "plot")
    with pytest.raises(ModuleNotFoundError, match="no_such_part"):
        require("ttfs_fast.no_such_part", "plot")


def test_without_typer_the_command_names_the_extra(tmp_path: Path) -> None:
    code = "import sys; sys.modules['typer'] = None; import ttfs_fast.cli"
    done = run_python("-c", code)
    assert done.returncode == 1
    assert 'pip install "ttfs_fast[train]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_messages_name_options_in_place_of_arguments() -> None:
    from ttfs_fast.cli._common import as_options

    text = "give resume=True, or float_teacher=True; lr_start=0.1 and exclude_target=False stay"
    shown = "give --resume, or --float-teacher; lr_start=0.1 and exclude_target=False stay"
    assert as_options(text) == shown
    torchs = "it needs track_running_stats=True"
    assert as_options(torchs) == torchs
    assert as_options("Pass download=True") == "Pass --download to ttfs-fast eval"


def test_a_gpu_without_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    from ttfs_fast.cli._common import friendly_errors

    with pytest.raises(typer.Exit) as ended, friendly_errors(False):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err == ("ttfs-fast: CUDA out of memory. Tried to allocate 2 GiB\n")
    with pytest.raises(RuntimeError, match="a fault of ours"), friendly_errors(False):
        raise RuntimeError("a fault of ours")
