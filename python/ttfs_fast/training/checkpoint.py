"""Checkpoints: the complete state for the next epoch, written so that a crash cannot damage it.

A checkpoint is a folder ``checkpoint-NNNN`` inside the folder of the run (NNNN counts finished
epochs) with three files: ``model.safetensors`` (weights), ``optimizer.safetensors`` (averaged and
best weights, and the state of the optimizer and of the random generator) and ``state.json``
(position, settings, the log so far, and the digests of the other two). It is written under another
name, flushed to the disk and renamed, and only then the one before it is removed. So at any moment
the folder with the largest number is complete.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ttfs_fast
from ttfs_fast._extras import require
from ttfs_fast._files import new_folder, remove_folder, remove_partials, write_durably
from ttfs_fast._untrusted import parse_json, parse_safetensors
from ttfs_fast.training.run_folder import (
    CHECKPOINT_REST,
    CHECKPOINT_STATE,
    CHECKPOINT_WEIGHTS,
    RunFolder,
)

FORMAT = 4


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training run after a whole number of epochs.

    Attributes
    ----------
    epoch : int
        Finished epochs.
    model : dict of str to Tensor
        The network's ``state_dict``.
    averaged : dict of str to Tensor
        The ``state_dict`` of the averaged network; empty if the run averages none.
    best : dict of str to Tensor
        The ``state_dict`` of the best epoch's network; empty if the run does not keep it.
    optimizer : dict of int to dict of str to Tensor
        The optimizer's state of each parameter, as in ``optimizer.state_dict()["state"]``.
    generator : uint8 Tensor
        State of the random generator.
    facts : dict
        What else a run records, as JSON types: settings, digest of the data, log.
    """

    epoch: int
    model: dict[str, Tensor]
    averaged: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    generator: Tensor
    facts: dict[str, Any]

    def restore(
        self,
        model: nn.Module,
        averaged: nn.Module | None,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> None:
        """Put its state into the objects of a run.

        Raises
        ------
        ValueError
            If the checkpoint is that of another network.
        """
        groups = optimizer.state_dict()["param_groups"]
        try:
            model.load_state_dict(self.model)
            if averaged is not None:
                averaged.load_state_dict(self.averaged)
            optimizer.load_state_dict({"state": self.optimizer, "param_groups": groups})
            _adopt_layouts_(optimizer)
            generator.set_state(self.generator)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"the checkpoint of epoch {self.epoch} does not fit this network: resume with the "
                f"network that the run began with, or start a new run ({error})"
            ) from error


def _adopt_layouts_(optimizer: torch.optim.Optimizer) -> None:
    """Lay an optimizer's state out in memory as its parameters are.

    Files hold tensors row by row. torch's fused optimizers go through a channels_last weight and
    its state in the order of memory, and would pair elements that do not belong together.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into the folder of a run and remove the older ones.

    Returns
    -------
    folder : Path
        The folder of the new checkpoint.
    """
    safetensors = require("safetensors.torch", "train")
    beside = {
        f"optimizer.{i}.{name}": value
        for i, state in checkpoint.optimizer.items()
        for name, value in state.items()
    }
    for kind, state_dict in (("averaged", checkpoint.averaged), ("best", checkpoint.best)):
        beside |= {f"{kind}.{name}": value for name, value in state_dict.items()}
    beside["generator"] = checkpoint.generator
    contents = {
        CHECKPOINT_WEIGHTS: safetensors.save(_contiguous(checkpoint.model)),
        CHECKPOINT_REST: safetensors.save(_contiguous(beside)),
    }
    state = {
        "format": FORMAT,
        "epoch": checkpoint.epoch,
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
        "facts": checkpoint.facts,
    }
    contents[CHECKPOINT_STATE] = json.dumps(state, indent=2).encode()

    folder = RunFolder(run).checkpoint(checkpoint.epoch)
    with new_folder(folder) as partial:
        for file_name, data in contents.items():
            write_durably(partial / file_name, data)
    remove_older(run, checkpoint.epoch)
    return folder


def remove_older(run: Path, epoch: int) -> None:
    """Remove the checkpoints before a complete one.

    Saving it ends with this; a run that was killed in between does it when it resumes.
    """
    for earlier, folder in RunFolder(run).checkpoints():
        if earlier < epoch:
            remove_folder(folder)
    remove_partials(run)


def load_checkpoint(run: Path) -> Checkpoint | None:
    """Read the newest checkpoint of a run.

    Returns
    -------
    checkpoint : Checkpoint or None
        None if the run has none yet.

    Raises
    ------
    ValueError
        If the newest checkpoint is damaged, or was written by a version of ttfs_fast with
        another format; the message names the folder.
    """
    found = RunFolder(run).checkpoints()
    if not found:
        return None
    epoch, folder = found[-1]
    advice = "remove this folder to continue from an earlier checkpoint, or start a new run"
    try:
        state = parse_json((folder / CHECKPOINT_STATE).read_bytes())
        found_format = state["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the checkpoint {folder} is damaged ({error}); {advice}") from error
    if found_format != FORMAT:
        raise ValueError(_other_format(folder, state))
    try:
        if state["epoch"] != epoch:
            raise ValueError(f"it is of epoch {state['epoch']}")
        tensors = {}
        for name in (CHECKPOINT_WEIGHTS, CHECKPOINT_REST):
            data = (folder / name).read_bytes()
            if hashlib.sha256(data).hexdigest() != state["sha256"][name]:
                raise ValueError(f"{name} is not what was written")
            tensors[name] = parse_safetensors(data)
        model, beside = tensors[CHECKPOINT_WEIGHTS], tensors[CHECKPOINT_REST]
        generator = beside.pop("generator")
        networks: dict[str, dict[str, Tensor]] = {"averaged": {}, "best": {}}
        optimizer: dict[int, dict[str, Tensor]] = {}
        for key, value in beside.items():
            kind, name = key.split(".", 1)
            if kind in networks:
                networks[kind][name] = value
            else:
                index, name = name.split(".", 1)
                optimizer.setdefault(int(index), {})[name] = value
        return Checkpoint(
            epoch,
            model,
            networks["averaged"],
            networks["best"],
            optimizer,
            generator,
            state["facts"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the checkpoint {folder} is damaged ({error}); {advice}") from error


def _other_format(folder: Path, state: dict[str, Any]) -> str:
    facts = state.get("facts")
    writer = facts.get("ttfs_fast_version") if isinstance(facts, dict) else None
    return (
        f"the checkpoint {folder} has format {state['format']}, and this version of ttfs_fast "
        f"({ttfs_fast.__version__}) reads format {FORMAT}: resume with the version that wrote it"
        f"{f' ({writer})' if writer else ''}, or start a new run in another folder"
    )


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.clone(value.detach()).contiguous() for name, value in tensors.items()}
