"""Settings of published training runs, as TOML files of the package."""

from importlib import resources
from pathlib import Path
from typing import Any

from ttfs_fast._settings import check_names, expand_paths
from ttfs_fast._untrusted import parse_toml
from ttfs_fast.training.config import RENAMED, TrainConfig


def names() -> list[str]:
    """Names of the recipes of the package."""
    files = resources.files(__package__).iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def read_recipe(name_or_path: str | Path) -> dict[str, Any]:
    """Settings from a recipe of the package, or from a TOML file.

    Parameters
    ----------
    name_or_path : str or Path
        One of :func:`names`, or the path of a file that ends in ``.toml``.

    Returns
    -------
    settings : dict of str to object
        Fields of `TrainConfig` with their values; fields that are not named keep their defaults.
        In paths, ``~`` stands for the home folder.

    Raises
    ------
    FileNotFoundError
        If there is neither such a recipe nor such a file.
    ValueError
        If the file is not TOML, names a field that `TrainConfig` has not, or a value is not
        allowed; the message names the file.
    """
    text = str(name_or_path)
    if text in names():
        content = (resources.files(__package__) / f"{text}.toml").read_bytes()
    elif text.endswith(".toml") and Path(text).is_file():
        content = Path(text).read_bytes()
    else:
        raise FileNotFoundError(
            f"no settings at {text}: give the path of a .toml file, or one of the recipes that "
            f"come with the package: {', '.join(names())}"
        )
    try:
        settings = parse_toml(content)
        if old := [name for name in settings if name in RENAMED]:
            names_now = ", ".join(f"{name} is now {RENAMED[name]}" for name in old)
            raise ValueError(f"fields have other names since version 0.2: {names_now}")
        check_names(TrainConfig, settings, "it")
        settings = expand_paths(TrainConfig, settings)
        TrainConfig(**settings)
    except ValueError as error:
        raise ValueError(f"{text} holds no training settings: {error}") from error
    return settings
