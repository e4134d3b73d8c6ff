"""The trained weights that come with the package."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from ttfs_fast._extras import require
from ttfs_fast._files import replace_file
from ttfs_fast._untrusted import parse_json, read_metadata, read_safetensors
from ttfs_fast.encoding import Encoding

PretrainedName = Literal["mnist_scnn", "cifar_scnn", "cifar_vgg", "cifar_airbench"]

PRETRAINED: tuple[PretrainedName, ...] = get_args(PretrainedName)
"""The networks of `ttfs_fast.models` that have trained weights."""


def pretrained_weights(name: PretrainedName = "mnist_scnn") -> AbstractContextManager[Path]:
    """The file of a network's trained weights, for the length of a ``with`` block."""
    if name not in PRETRAINED:
        raise ValueError(
            f"there are no trained weights of {name!r}; choose one of {', '.join(PRETRAINED)}"
        )
    file = resources.files("ttfs_fast.models") / "weights" / f"{name}.safetensors"
    return resources.as_file(file)


def pretrained_encoding(name: PretrainedName = "mnist_scnn") -> Encoding:
    """How a pretrained network sees images."""
    with pretrained_weights(name) as file:
        found = read_encoding(file)
    assert found is not None
    return found


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The ``state_dict`` in a file of weights, in the precision of a network.

    A file whose metadata have the entry ``completed_sum`` holds weights of layers with horizons in
    half precision: they become float32, and the weights of each layer's reference inputs are
    computed, so that weights and bias of every neuron sum to that number.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is damaged.
    """
    state = read_safetensors(Path(path))
    total = read_metadata(path).get("completed_sum")
    if total is None:
        return state
    state = {
        name: value.float() if value.dtype == torch.float16 else value
        for name, value in state.items()
    }
    try:
        for name in _behind_references(state):
            _complete_sums_(state[f"{name}.weight"], state[f"{name}.bias"], float(total))
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: not weights of layers with horizons: {error}") from error
    return state


def halve_file(path: str | Path, out: str | Path) -> int:
    """Write the weights in a file, of layers with horizons, again in half precision.

    Parameters
    ----------
    path : str or Path
        A file that `ttfs_fast.training.train` wrote.
    out : str or Path
        The file to write; `read_weights` reads it.

    Returns
    -------
    size : int
        Its bytes.

    Raises
    ------
    ValueError
        If the network is none of `ttfs_fast.models`, has no layers with horizons, or float16 does
        not hold its weights.
    """
    safetensors = require("safetensors.torch", "train")
    state, metadata = read_safetensors(Path(path)), read_metadata(path)
    config = parse_json(metadata.get("config", "{}"))
    if not isinstance(config, dict) or config.get("neuron") != "horizon":
        raise ValueError(f"{path} holds no network whose layers have horizons")
    if not config["weight_sum"]:
        raise ValueError(
            f"{path} holds a network of your own: only the networks of ttfs_fast.models record the "
            "sum of their weights, which completes the weights of the references"
        )
    for name in _behind_references(state):
        weight = state[f"{name}.weight"]
        weight[:, -1] = 0
        half = weight.half()
        if not bool(half.isfinite().all()):
            raise ValueError(f"{path}: weights of {name} are too large for float16")
        state[f"{name}.weight"] = half
    more = metadata | {"completed_sum": repr(float(config["weight_sum"]))}
    data: bytes = safetensors.save(state, more)
    replace_file(Path(out), data)
    return len(data)


def _behind_references(state: dict[str, Tensor]) -> list[str]:
    """Names of the layers behind `ReferenceSpikes`: folded, a layer is a Sequential of the two."""
    ends = ".0.reference"
    return [f"{key.removesuffix(ends)}.1" for key in state if key.endswith(ends)]


def _complete_sums_(weight: Tensor, bias: Tensor, total: float) -> None:
    """Set the weight of the reference, the last input, at the kernel's middle; others stay 0."""
    rest = total - (weight.double().flatten(1).sum(1) + bias.double())
    taps = weight[:, -1].reshape(len(weight), -1)
    taps[:, taps.shape[1] // 2] = rest.to(weight.dtype)
    weight[:, -1] = taps.view_as(weight[:, -1])


def read_encoding(path: str | Path) -> Encoding | None:
    """How the network in a file of weights sees images; None if the file does not say.

    Parameters
    ----------
    path : str or Path
        A safetensors file; its metadata hold the entry ``encoding``, JSON as
        :meth:`ttfs_fast.encoding.Encoding.to_json` writes it.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or its encoding is not valid.
    """
    metadata = read_metadata(path)
    try:
        if "encoding" in metadata:
            return Encoding.from_json(metadata["encoding"])
        config = parse_json(metadata.get("config", "{}"))
        if not isinstance(config, dict) or "alpha" not in config:
            return None
        # Files of runs before version 0.2 name it among the settings of their training.
        shown = config.get("standardize", config.get("whiten", False))
        return Encoding(config["alpha"], config["polarity"], bool(shown))
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: its metadata hold no encoding: {error}") from error


def pretrained_name(path: Path) -> PretrainedName | None:
    """The network that a path means: one of this name, where no file has it."""
    names = {Path(name): name for name in PRETRAINED}
    return None if path.exists() else names.get(path)


WEIGHTS = "model.safetensors"
"""The file of the final weights in the folder of a training run."""


@contextmanager
def weights_file(path: str | Path) -> Iterator[Path]:
    """The file that a path means: itself, that of a run's folder, or of a pretrained network.

    A name of a pretrained network counts where no file or folder has it.
    """
    name = pretrained_name(Path(path))
    if name is None:
        is_run = Path(path).is_dir() and (Path(path) / WEIGHTS).is_file()
        yield Path(path) / WEIGHTS if is_run else Path(path)
        return
    with pretrained_weights(name) as file:
        yield file
