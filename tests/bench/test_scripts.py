"""The programs in bench/ run. Their figures are meaningful on an idle machine only."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from support.machine import torch_threads

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            "training_step.py --model vgg4 --width 0.25 --batch 2 --repeats 1 --dense",
            r"spiking / ReLU: \d+\.\d+\n(.*\n)*outside the spiking operators: \d+\.\d% ",
        ),
        (
            "training_step.py --config cifar10-airbench --batch 2 --repeats 1 --dense",
            r"spiking / ReLU: \d+\.\d+\nfloat32 / ReLU: \d+\.\d+\noutside the spiking oper",
        ),
        (
            "integer.py --threads 1 --repeats 1 --batch 1 --only 512->10",
            r"fc 512->10 b1 +\d+% +\d+\.\d+ ms",
        ),
        (
            "circuit.py --threads 1 --repeats 1 --trials 20",
            r"averaged +\d\.\d+e\+\d+ neuron-steps/s",
        ),
    ],
)
def test_benchmark_script_runs(
    command: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Run in this process: a new one would spend its time on imports."""
    script, *arguments = command.split()
    json = ["--json", "found.json"] if script != "training_step.py" else []
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.setattr(sys, "argv", [script, *arguments, *json])
    with torch_threads(1):
        runpy.run_path(str(BENCH / script), run_name="__main__")
    output = capsys.readouterr().out
    assert re.search(expected, output), output
    assert (tmp_path / "found.json").exists() == bool(json)
