"""The trained weights that come with the package."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

ShippedName = Literal["mnist_scnn", "cifar_scnn", "cifar_vgg"]

SHIPPED: tuple[ShippedName, ...] = get_args(ShippedName)
"""The networks of `ttfs_fast.models` that have trained weights."""


def shipped_weights(name: ShippedName = "mnist_scnn") -> AbstractContextManager[Path]:
    """The file of a network's trained weights, for the length of a ``with`` block."""
    if name not in SHIPPED:
        raise ValueError(f"no trained weights of {name!r} ship; there are {', '.join(SHIPPED)}")
    file = resources.files("ttfs_fast.models") / "weights" / f"{name}.safetensors"
    return resources.as_file(file)


def shipped_name(path: Path) -> ShippedName | None:
    """The network that a path means: one of this name, where no file has it."""
    names = {Path(name): name for name in SHIPPED}
    return None if path.exists() else names.get(path)


@contextmanager
def weights_file(path: str | Path) -> Iterator[Path]:
    """The file that a path means: itself, or the weights of a network that ships by this name."""
    name = shipped_name(Path(path))
    if name is None:
        yield Path(path)
        return
    with shipped_weights(name) as file:
        yield file
