"""Several processes train one network: the same steps as one, and a killed one resumes."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from support.command import run_command
from support.runs import DEEP
from ttfs_fast.training import (
    TrainConfig,
    read_log,
)
from ttfs_fast.training.build import load_model


def torchrun(processes: int, run: Path, config: TrainConfig, *more: str) -> list[str]:
    """The command; the settings go through a file, as a recipe."""
    recipe = run.parent / f"{run.name}.toml"
    default = TrainConfig()
    lines = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != getattr(default, field.name):
            text = str(value).lower() if isinstance(value, bool) else repr(value)
            lines.append(f"{field.name} = {text}\n")
    recipe.write_text("".join(lines))
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    return [*start, "ttfs_fast", "train", "--config", str(recipe), "--out", str(run), *more]


def in_shell(command: list[str], limit: float = 900) -> "subprocess.CompletedProcess[str]":
    tests = str(Path(__file__).parents[1])  # for the package support
    path = os.pathsep.join(filter(None, (tests, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=limit, env=environment, check=False
    )


JOINT = dataclasses.replace(
    DEEP,
    weight_sum=0.0,
    relative_lr=False,
    weight_sum_cost=1.0,
    l2_cost=1e-3,
    epochs=12,
    train_images=91,  # the last batch holds a single image: one process has none of it
    jitter=0.1,
    grad_accum_steps=2,
)


@pytest.fixture(scope="module")
def together(
    tmp_path_factory: pytest.TempPathFactory,
) -> "tuple[Path, subprocess.CompletedProcess[str]]":
    """The run of two processes, whole."""
    run = tmp_path_factory.mktemp("together") / "run"
    done = in_shell(torchrun(2, run, JOINT))
    assert done.returncode == 0, done.stderr
    return run, done


def test_two_processes_are_one_with_the_joint_batch(
    together: "tuple[Path, subprocess.CompletedProcess[str]]", tmp_path: Path
) -> None:
    run, done = together
    assert "processes: 2" in done.stdout
    assert done.stdout.count("training vgg4") == 1  # only the first process prints
    alone = tmp_path / "alone"
    output = run_command(*torchrun(1, alone, JOINT)[3:]).output
    assert "processes: 2" not in output
    assert output.count("training vgg4") == 1
    first, second = read_log(alone / "log.csv"), read_log(run / "log.csv")
    assert len(first) == len(second) == JOINT.epochs
    for one, two in zip(first[:2], second[:2], strict=True):
        assert two.loss == pytest.approx(one.loss, rel=1e-4)
        assert two.loss_class == pytest.approx(one.loss_class, rel=1e-4)
        assert two.loss_l2 == pytest.approx(one.loss_l2, rel=1e-4)
        assert two.train_accuracy == pytest.approx(one.train_accuracy, abs=0.03)
        assert two.test_accuracy == pytest.approx(one.test_accuracy, abs=0.05)
    assert second[1].loss < second[0].loss
    refused = run_command(*torchrun(1, run, JOINT, "--resume")[3:])
    assert refused.exit_code == 2
    assert "processes was 2, now 1" in refused.stderr


def test_two_processes_divide_batches_without_changing_the_step(tmp_path: Path) -> None:
    """Shares and pieces of different sizes, and more pieces than one process has images."""
    start = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = Path(__file__).with_name("divisions.py")
    done = in_shell([sys.executable, "-m", *start, str(script), str(tmp_path)], limit=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("compared 72 divisions") == 2
    assert done.stdout.count("compared 10 statistics") == 2
    returned = re.findall("returned network ([0-9a-f]{64})", done.stdout)
    assert len(returned) == 4
    assert len(set(returned)) == 1


def test_a_killed_process_ends_the_job_and_it_resumes(
    together: "tuple[Path, subprocess.CompletedProcess[str]]", tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = torchrun(2, run, JOINT)
    job = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    limit = time.monotonic() + 900
    while not list(run.glob("checkpoint-*")):
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.02)
    children = subprocess.run(
        ["pgrep", "-P", str(job.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    output, errors = job.communicate(timeout=900)
    assert job.returncode != 0
    assert "SIGKILL" in errors or "exitcode: -9" in errors or "has died" in errors
    done = len(list(run.glob("checkpoint-*")))
    assert done == 1, output
    assert not (run / "model.safetensors").exists()
    resumed = in_shell(torchrun(2, run, JOINT, "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    weights = [(folder / "model.safetensors") for folder in (run, together[0])]
    states = [load_model(path)[0].state_dict() for path in weights]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
