"""The trained weights that come with the package."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

from ttfs_fast._untrusted import parse_json, read_metadata
from ttfs_fast.encoding import Encoding

PretrainedName = Literal["mnist_scnn", "cifar_scnn", "cifar_vgg"]

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
