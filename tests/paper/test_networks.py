from pathlib import Path

import numpy as np
import pytest
import torch

from support.command import run_command
from support.reproduction import Report
from ttfs_fast.data import ImageSet
from ttfs_fast.encoding import Encoding
from ttfs_fast.models import mnist_scnn
from ttfs_fast.paper import EvaluatedNetwork, NoNetworksError, Plan, figure2, find_networks, run
from ttfs_fast.paper.networks import Networks
from ttfs_fast.paper.part import Context
from ttfs_fast.paper.run import RunLog
from ttfs_fast.paper.table4 import _retraining
from ttfs_fast.training import TrainConfig


@pytest.mark.usefixtures("no_data_folders")
def test_missing_data_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NoNetworksError, match=r"no network to evaluate\. MNIST: "):
        find_networks(quick=False, out=tmp_path, seed=0)
    result = run_command("reproduce", "--out", tmp_path / "report")
    assert result.exit_code == 2
    assert "Or give --quick, which needs no data" in " ".join(result.stderr.split())


@pytest.mark.usefixtures("no_data_folders")
def test_without_mnist_a_run_is_still_looked_at(digits_run: Path, tmp_path: Path) -> None:
    found = find_networks(quick=False, out=tmp_path, seed=0, runs=(digits_run,))
    assert [network.key for network in found.evaluated] == ["digits-demo"]
    assert found.evaluated[0].title == "Digits (mnist_scnn, 3 epochs)"
    assert not found.evaluated[0].comparable
    for word in ("MNIST", "CIFAR-10", "ImageNet"):
        assert any(word in sentence for sentence in found.missing)


def test_invalid_run_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="folder of a finished training run"):
        find_networks(quick=True, out=tmp_path, seed=0, runs=(tmp_path / "nothing",))


def test_folders_that_are_not_there_are_refused(digits_run: Path, tmp_path: Path) -> None:
    for named in ("data_root", "images"):
        with pytest.raises(FileNotFoundError, match=r"there is no folder .*elsewhere"):
            find_networks(
                quick=False,
                out=tmp_path,
                seed=0,
                runs=(digits_run,),
                **{named: tmp_path / "elsewhere"},  # type: ignore[arg-type]
            )


def test_mnist_and_the_authors_weights(data_root: Path, tmp_path: Path) -> None:
    found = find_networks(quick=False, out=tmp_path, seed=0, data_root=data_root)
    keys = [network.key for network in found.evaluated]
    assert keys[:2] == ["mnist", "mnist-authors"]
    if keys[2:]:  # where the folder has CIFAR-10
        assert keys[2:] == [f"pretrained-cifar-{name}" for name in ("scnn", "vgg", "airbench")]
        assert {network.paper_key for network in found.evaluated[2:]} == {"cifar10"}
    else:
        assert any(text.startswith("CIFAR-10: ") for text in found.missing)
    first, authors = found.evaluated[:2]
    assert first.paper_title == authors.paper_title == "paper"
    assert first.stem != authors.stem
    some, whole = first.some(2000), first.test_set
    assert isinstance(some, ImageSet)
    assert isinstance(whole, ImageSet)
    assert np.array_equal(some.images, whole.images[::5])
    assert first.some(10_000) is whole


def test_another_network_has_another_stem() -> None:
    def stem(seed: int, alpha: float = 3.0) -> str:
        torch.manual_seed(seed)
        model = mnist_scnn(encoding=Encoding(alpha))
        return EvaluatedNetwork(
            "digits", "Digits", "new", model, TrainConfig(dataset="digits")
        ).stem

    assert stem(0) == stem(0)
    assert len({stem(0), stem(1), stem(0, 2.5)}) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"draws": 1}, "draws must be at least 2"), ({"seed": -1}, "seed must not be negative")],
)
def test_invalid_plans_are_rejected(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(**wrong)  # type: ignore[arg-type]


def test_the_command(digits_run: Path, tmp_path: Path) -> None:
    arguments = ["reproduce", "--quick", "--weights", str(digits_run), "--out", str(tmp_path)]
    arguments += ["--only", "table1,table3", "--threads", str(torch.get_num_threads())]
    result = run_command(*arguments)
    assert result.exit_code == 0, result.output
    assert "table3: 11 of 11" in result.output
    assert f"The report: {tmp_path / 'report.html'}" in result.output
    result = run_command(*arguments[:-4], "--only", "figure3")
    assert result.exit_code == 2
    assert "there is no part 'figure3'" in result.stderr


def test_the_report_names_its_networks(report: Report) -> None:
    assert report.found.missing == []
    assert "digits-demo" in report.results["table2"]


def test_runs_of_one_name_get_different_keys(digits_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "a b" / "demo"
    other.parent.mkdir()
    other.symlink_to(digits_run)
    odd = tmp_path / "my run, 1"
    odd.symlink_to(digits_run)
    found = find_networks(quick=True, out=tmp_path, seed=0, runs=(digits_run, other, odd))
    keys = [network.key for network in found.evaluated]
    assert keys == ["digits-demo", "digits-demo-2", "digits-my-run--1"]
    numbered = tmp_path / "demo-2"
    numbered.symlink_to(digits_run)
    found = find_networks(quick=True, out=tmp_path, seed=0, runs=(digits_run, other, numbered))
    keys = [network.key for network in found.evaluated]
    assert keys == ["digits-demo", "digits-demo-2", "digits-demo-2-2"]


def test_a_log_that_no_report_wrote_is_named(tmp_path: Path) -> None:
    for text in ("[]", "{}", '{"seconds": {}, "sessions": 3}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ValueError, match=r"run.json is not what a report writes; remove it"):
            RunLog(tmp_path / "run.json", "", "cpu")


def test_demo_ends_with_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the parts, the ones that take no time."""
    quick = {name: run.PARTS[name] for name in ("table1", "table3")}
    monkeypatch.setattr(run, "PARTS", quick)
    out = tmp_path / "demo"
    arguments = ["demo", "--out", str(out), "--epochs", "1", "--threads", "1"]
    result = run_command(*arguments)
    assert result.exit_code == 0, result.output
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "model.safetensors").exists()
    assert "demo.png" in result.output
    assert "energy by weights" in result.output
    last = result.output.strip().splitlines()[-1]
    assert last == f"The report: {out / 'report' / 'report.html'}"
    text = (out / "report" / "report.md").read_text()
    assert "## Table 1" in text
    assert "short version" in text


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
def test_retraining_keeps_the_encoding_of_its_network(dataset: str, tmp_path: Path) -> None:
    model = mnist_scnn(encoding=Encoding(2.0, "dark-first"))
    network = EvaluatedNetwork("own", "Own", "own", model, TrainConfig(dataset=dataset), None)
    context = Context(Plan(), [network], tmp_path, 1, print)
    assert _retraining(context, network).training.encoding == model.encoding


def test_noise_of_rounded_weights_is_measured_before_the_copy_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The network itself stays on the CPU while the copy is tested on another device."""
    network = EvaluatedNetwork("d", "D", "new", mnist_scnn(), TrainConfig(dataset="digits"))
    network.device = torch.device("meta")
    tested: list[str] = []

    class Tested:
        correct, accuracy = 3, 0.3

    def evaluated(model: torch.nn.Module, images: object) -> type[Tested]:
        tested.append(next(model.parameters()).device.type)
        return Tested

    monkeypatch.setattr(figure2, "evaluate", evaluated)
    found = figure2._rounded(network, 10, 8)
    assert tested == ["meta"]
    assert 30 < found["weight_snr"] < 70


def test_a_report_of_other_networks_than_digits_is_not_called_short(digits_run: Path) -> None:
    (digits,) = find_networks(quick=True, out=Path("x"), seed=0, runs=(digits_run,)).evaluated
    mnist = EvaluatedNetwork("m", "MNIST", "new", mnist_scnn(), TrainConfig())
    assert "short version" in " ".join(run._lead(Networks([digits], [])))
    both = " ".join(run._lead(Networks([mnist, digits], [])))
    assert "short version" not in both
    assert "Networks looked at: MNIST and Digits" in both


def test_unknown_parts_are_refused_before_networks_are_trained(tmp_path: Path) -> None:
    result = run_command("reproduce", "--quick", "--only", "tabel3", "--out", tmp_path / "report")
    assert result.exit_code == 2
    assert "there is no part 'tabel3'; the parts are: table1" in " ".join(result.stderr.split())
    assert not (tmp_path / "report").exists()
