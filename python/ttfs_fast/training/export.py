"""Trained weights as one safetensors file, with the settings that made them."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ttfs_fast._extras import require
from ttfs_fast._files import replace_file
from ttfs_fast._untrusted import parse_json, read_metadata
from ttfs_fast.data import CLASS_NAMES
from ttfs_fast.layers import storable
from ttfs_fast.training.config import TrainConfig


def weights_digest(model: nn.Module) -> str:
    """A digest of all that a network's ``state_dict`` holds: names, shapes, types, values."""
    sha = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        sha.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def export_weights(
    model: nn.Module,
    path: str | Path,
    config: TrainConfig,
    *,
    test_accuracy: float,
    images: str | None = None,
    classes: Sequence[str] | None = None,
    network: str | None = None,
) -> Path:
    """Write the weights of a network, with the settings that made them.

    The file holds the network's ``state_dict``; its metadata hold ``config`` (JSON of the
    `TrainConfig`), ``encoding`` (JSON of its `Encoding`), ``test_accuracy``, ``ttfs_fast_version``
    and, where they are given, ``images``, ``classes`` and ``network``. A file that is already there
    is replaced in one step.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    path : str or Path
        The file to write, usually ``model.safetensors``.
    config : TrainConfig
        Settings of the training run.
    test_accuracy : float
        Fraction of test images that the network classifies correctly.
    images : str, optional
        Shape of the images it takes, as `ttfs_fast.training.build.ImageShape.to_json` has it.
    classes : sequence of str, optional
        Names of the classes in the order of its outputs.
    network : str, optional
        The modules of a network of the user's, as text: loading compares them.

    Returns
    -------
    path : Path
        The file.
    """
    import ttfs_fast

    safetensors = require("safetensors.torch", "train")
    metadata = {
        "format": "pt",
        "config": config.to_json(),
        "encoding": config.encoding.to_json(),
        "test_accuracy": repr(test_accuracy),
        "ttfs_fast_version": str(ttfs_fast.__version__),
    }
    if images is not None:
        metadata["images"] = images
    if classes is not None:
        metadata["classes"] = json.dumps(list(classes))
    if network is not None:
        metadata["network"] = network
    weights = storable(model)
    path = Path(path)
    replace_file(path, safetensors.save(weights, metadata))
    return path


def read_config(path: str | Path) -> TrainConfig | None:
    """The settings recorded in a file that `export_weights` wrote; None if there are none."""
    text = read_metadata(path).get("config")
    return None if text is None else TrainConfig.from_json(text)


def read_classes(path: str | Path) -> tuple[str, ...] | None:
    """The names of a network's classes, in the order of its outputs.

    Parameters
    ----------
    path : str or Path
        A file that `export_weights` wrote.

    Returns
    -------
    classes : tuple of str or None
        None if the file does not name them, as those of older versions, and the data set that it
        was trained on may have any.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or its class names are not valid.
    """
    text = read_metadata(path).get("classes")
    if text is None:
        return CLASS_NAMES.get((read_config(path) or TrainConfig()).dataset)
    try:
        names = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: its metadata name no classes: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: its metadata name no classes: they must be a list of strings")
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: its metadata name a class twice")
    return tuple(names)
