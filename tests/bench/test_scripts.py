"""The programs in bench/ run. Their figures are meaningful on an idle machine only."""

import re
from pathlib import Path

import pytest

from support.machine import run_python

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
def test_benchmark_script_runs(command: str, expected: str, tmp_path: Path) -> None:
    script, *arguments = command.split()
    json = ["--json", "found.json"] if script != "training_step.py" else []
    done = run_python(
        BENCH / script, *arguments, *json, cwd=tmp_path, timeout=300, OMP_NUM_THREADS="1"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(expected, done.stdout), done.stdout
    assert (tmp_path / "found.json").exists() == bool(json)
