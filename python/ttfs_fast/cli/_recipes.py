"""The runs of ``ttfs-fast train``: one, or one for each of several recipes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttfs_fast.cli._options import Given
from ttfs_fast.training import TrainConfig, read_recipe
from ttfs_fast.training.processes import number_of_processes
from ttfs_fast.training.run_folder import RunFolder

RUNS = Path("runs")
SOURCES = ("initial_checkpoint", "teacher")
"""Settings that name trained networks."""


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes
    ----------
    recipe : str or None
        Name or path of its recipe.
    settings : dict of str to object
        Fields of `TrainConfig` with their values.
    folder : Path
        Where it is written.
    """

    recipe: str | None
    settings: dict[str, Any]
    folder: Path


def plan_runs(config: str | None, given: Given, out: Path | None) -> list[Run]:
    """The runs of a command, in their order.

    Parameters
    ----------
    config : str or None
        A recipe, or several with commas between them. What one names as
        ``runs/EARLIER/model.safetensors`` is the network of the recipe EARLIER.
    given : dict of str to object
        Settings that override those of every recipe.
    out : Path or None
        Folder of the run; of several runs, the folder that theirs are in.

    Raises
    ------
    FileNotFoundError, ValueError
        If a recipe cannot be read, or the recipes cannot be trained in turn.
    """
    if config is None or "," not in config or Path(config).is_file():
        settings = ({} if config is None else read_recipe(config)) | given
        default = RUNS / settings.get("dataset", TrainConfig.dataset)
        return [Run(config, settings, default if out is None else out)]
    recipes = [recipe.strip() for recipe in config.split(",")]
    names = [Path(recipe).name.removesuffix(".toml") for recipe in recipes]
    _check(recipes, names, given)
    runs: list[Run] = []
    networks: dict[Path, str] = {}
    for recipe, name in zip(recipes, names, strict=True):
        settings = read_recipe(recipe)
        used = [_replace_networks(settings, source, networks) for source in SOURCES]
        if runs and not any(used):
            raise ValueError(
                f"{recipe} uses no network of the recipes before it: name {next(iter(networks))} "
                "as its initial_checkpoint or teacher, or train it by itself"
            )
        settings |= given
        TrainConfig(**settings)  # refused before the first one is trained
        folder = (RUNS if out is None else out) / name
        runs.append(Run(recipe, settings, folder))
        networks[RunFolder(RUNS / name).weights] = str(RunFolder(folder).weights)
        networks[RUNS / name] = str(folder)
    return runs


def _replace_networks(settings: dict[str, Any], source: str, networks: dict[Path, str]) -> bool:
    """Whether a setting names some of these networks; now it names where they will be."""
    names = [name.strip() for name in str(settings.get(source)).split(",")]
    used = any(Path(name) in networks for name in names)
    if used:
        settings[source] = ",".join(networks.get(Path(name), name) for name in names)
    return used


def _check(recipes: Sequence[str], names: Sequence[str], given: Given) -> None:
    """Raise ValueError if recipes cannot be trained in turn."""
    if len(set(names)) < len(names):
        raise ValueError(
            "each recipe is trained in a folder of its name, so the names must differ; got "
            f"{', '.join(recipes)}"
        )
    if both := [source for source in SOURCES if source in given]:
        raise ValueError(
            f"with several recipes, leave --{both[0].replace('_', '-')} out: the recipes name the "
            f"networks that they start and learn from; got {given[both[0]]}"
        )
    if number_of_processes() > 1:
        raise ValueError(
            "several recipes are trained by one process; with several processes, train them one by "
            f"one, the first with --config {recipes[0]} --out {RUNS / names[0]}"
        )
