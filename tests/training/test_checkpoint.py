import json
import os
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from ttfs_fast import _files
from ttfs_fast.training.checkpoint import (
    FORMAT,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from ttfs_fast.training.run_folder import RunFolder


def some_checkpoint(epoch: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(epoch)
    return Checkpoint(
        epoch=epoch,
        model={"fc.weight": torch.full((3, 4), float(epoch)), "fc.bias": torch.arange(3.0)},
        best={},
        averaged={
            "n_averaged": torch.tensor(epoch),
            "module.fc.weight": torch.full((3, 4), epoch - 0.5),
        },
        optimizer={
            0: {"step": torch.tensor(float(epoch)), "exp_avg": torch.full((3, 4), epoch + 0.5)},
            1: {"step": torch.tensor(float(epoch)), "exp_avg": torch.full((3,), epoch + 0.25)},
        },
        generator=generator.get_state(),
        facts={"log": [{"epoch": n} for n in range(epoch)], "seed": 3},
    )


def assert_same(found: Checkpoint | None, expected: Checkpoint) -> None:
    assert found is not None
    assert (found.epoch, found.facts) == (expected.epoch, expected.facts)
    assert found.model.keys() == expected.model.keys()
    assert all(torch.equal(found.model[name], expected.model[name]) for name in expected.model)
    assert found.averaged.keys() == expected.averaged.keys()
    for name, value in expected.averaged.items():
        assert torch.equal(found.averaged[name], value)
        assert found.averaged[name].dtype == value.dtype
    assert found.optimizer.keys() == expected.optimizer.keys()
    for index, state in expected.optimizer.items():
        assert found.optimizer[index].keys() == state.keys()
        assert all(torch.equal(found.optimizer[index][name], state[name]) for name in state)
    assert torch.equal(found.generator, expected.generator)


def test_round_trip_and_only_the_newest_stays(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    for epoch in (1, 2, 3):
        save_checkpoint(tmp_path, some_checkpoint(epoch))
        assert_same(load_checkpoint(tmp_path), some_checkpoint(epoch))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-0003"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, name: str, damage: str) -> None:
    folder = save_checkpoint(tmp_path, some_checkpoint(4))
    data = bytearray((folder / name).read_bytes())
    if damage == "remove":
        (folder / name).unlink()
    else:
        data[len(data) // 2] ^= 0x80
        (folder / name).write_bytes(data[:-9] if damage == "cut" else data)
    with pytest.raises(ValueError, match="checkpoint-0004"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("format", [FORMAT - 1, FORMAT + 1])
@pytest.mark.parametrize("version", ["9.8.7", None])
def test_a_checkpoint_of_another_format_is_not_called_damaged(
    tmp_path: Path, format: int, version: str | None
) -> None:
    path = save_checkpoint(tmp_path, some_checkpoint(4)) / "state.json"
    state = json.loads(path.read_text()) | {"format": format}
    if version:
        state["facts"]["ttfs_fast_version"] = version
    path.write_text(json.dumps(state))
    written_by = f" ({version})" if version else ""
    with pytest.raises(
        ValueError,
        match=rf"checkpoint-0004 has format {format}, .* reads format {FORMAT}: resume with the "
        rf"version that wrote it{re.escape(written_by)}, or start a new run in another folder$",
    ):
        load_checkpoint(tmp_path)


def test_a_checkpoint_is_put_back_into_its_own_network_only() -> None:
    def objects(inputs: int) -> tuple[nn.Module, torch.optim.Optimizer, torch.Generator]:
        network = nn.Sequential(OrderedDict(fc=nn.Linear(inputs, 3)))
        return network, torch.optim.Adam(network.parameters()), torch.Generator()

    checkpoint = some_checkpoint(5)
    network, optimizer, generator = objects(4)
    checkpoint.restore(network, None, optimizer, generator)
    assert torch.equal(network.state_dict()["fc.weight"], checkpoint.model["fc.weight"])
    assert torch.equal(optimizer.state_dict()["state"][1]["exp_avg"], torch.full((3,), 5.25))
    assert torch.equal(generator.get_state(), checkpoint.generator)
    network, optimizer, generator = objects(5)
    with pytest.raises(ValueError, match="epoch 5 does not fit this network: resume with the"):
        checkpoint.restore(network, None, optimizer, generator)


SYSTEM_CALLS = ("open", "fsync", "mkdir", "rename", "replace", "rmdir", "unlink", "write")


def save_and_die(run: Path, checkpoint: Checkpoint, call: int) -> bool:
    """Save in a forked child that dies at its ``call``-th system call; True if it got through."""
    child = os.fork()
    if child == 0:
        left = call
        real = {name: getattr(os, name) for name in SYSTEM_CALLS}

        def dying(name: str):  # type: ignore[no-untyped-def]
            def counted(*args, **more):  # type: ignore[no-untyped-def]
                nonlocal left
                left -= 1
                if left < 0:
                    os._exit(9)
                return real[name](*args, **more)

            return counted

        def dying_write(path: Path, content: bytes) -> None:
            """Dies before the file exists, half way through it, or before it is flushed."""
            nonlocal left
            for part in (0, len(content) // 2, len(content)):
                left -= 1
                if left < 0:
                    os._exit(9)
                with open(path, "wb") as file:
                    file.write(content[:part])

        try:
            for name in SYSTEM_CALLS:
                setattr(os, name, dying(name))
            from ttfs_fast.training import checkpoint as module

            module.write_durably = dying_write
            save_checkpoint(run, checkpoint)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9)
    return code == 0


def test_death_at_any_system_call_leaves_the_old_checkpoint_or_the_new(tmp_path: Path) -> None:
    outcomes = []
    for call in range(200):
        run = tmp_path / str(call)
        save_checkpoint(run, some_checkpoint(6))
        finished = save_and_die(run, some_checkpoint(7), call)
        found = load_checkpoint(run)
        assert found is not None
        assert_same(found, some_checkpoint(found.epoch))
        outcomes.append(found.epoch)
        save_checkpoint(run, some_checkpoint(8))
        assert_same(load_checkpoint(run), some_checkpoint(8))
        assert [path.name for path in run.iterdir()] == ["checkpoint-0008"]
        if finished:
            break
    assert finished
    assert outcomes == sorted(outcomes)
    assert outcomes.count(6) > 10
    assert outcomes.count(7) > 5


def test_failed_replacement_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.csv"
    _files.replace_file(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        _files.replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_folders_are_not_checkpoints(tmp_path: Path) -> None:
    for name in ("checkpoint-1", "checkpoint-0002.old", ".partial-checkpoint-0003"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-0004").touch()
    assert RunFolder(tmp_path).checkpoints() == []
