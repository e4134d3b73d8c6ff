"""What single settings of a training contribute: one change at a time, over several seeds."""

import dataclasses
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ttfs_fast._csv import write_rows
from ttfs_fast._files import use_folder
from ttfs_fast._settings import check_names
from ttfs_fast._untrusted import parse_toml
from ttfs_fast.training.config import TrainConfig
from ttfs_fast.training.log import read_log
from ttfs_fast.training.recipes import read_recipe
from ttfs_fast.training.run_folder import RunFolder
from ttfs_fast.training.trainer import ensure_trained

logger = logging.getLogger(__name__)

AS_GIVEN = "as given"
"""Name of the runs that change nothing."""


@dataclass(frozen=True)
class SettingsStudy:
    """A training, and the changes of its settings to try.

    Attributes
    ----------
    base : TrainConfig
        The settings that are changed.
    changes : mapping of str to mapping
        By a name, fields of `TrainConfig` and their other values.
    seeds : tuple of int
        Each change is trained with each of them, and so are the settings as given.

    Raises
    ------
    ValueError
        If a change names an unknown field, is not allowed, or has no usable name.
    """

    base: TrainConfig
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError(f"seeds must be one or more numbers of at least 0; got {self.seeds}")
        for name, change in self.changes.items():
            if name == AS_GIVEN or not re.fullmatch(r"[\w.,+ -]+", name):
                raise ValueError(
                    f"a change is named by letters, digits, spaces and . , + -, and not "
                    f'"{AS_GIVEN}"; got {name!r}'
                )
            # Some file systems do not tell capitals from small letters.
            folders = [folder_of(other).casefold() for other in (AS_GIVEN, *self.changes)]
            if folders.count(folder_of(name).casefold()) > 1:
                raise ValueError(
                    f'two changes, or "{AS_GIVEN}" and one, would have the folder '
                    f"{folder_of(name)}; give {name!r} another name"
                )
            check_names(TrainConfig, change, f'change "{name}"')
            if "seed" in change:
                raise ValueError(f'change "{name}" sets seed; give the seeds of the study')
            try:
                dataclasses.replace(self.base, **change)
            except ValueError as error:
                raise ValueError(f'change "{name}": {error}') from error

    def configurations(self) -> Iterator[tuple[str, TrainConfig]]:
        """The name and the settings of each run, in the order in which they run."""
        for seed in self.seeds:
            for name, change in {AS_GIVEN: {}, **self.changes}.items():
                yield name, dataclasses.replace(self.base, **change, seed=seed)


@dataclass(frozen=True)
class SettingsRun:
    """A row of the table: one finished training.

    Attributes
    ----------
    change : str
        Name of the change.
    seed : int
        Its seed.
    epochs : int
        Passes over the training images.
    train_accuracy, test_accuracy : float
        After the last epoch; with ``val_images``, on the validation images.
    test_spikes_per_neuron : float
        Fraction of the neurons that spike on test images.
    skipped_steps : int
        Steps that were left out, over all epochs.
    seconds : float
        Duration.
    """

    change: str
    seed: int
    epochs: int
    train_accuracy: float
    test_accuracy: float
    test_spikes_per_neuron: float
    skipped_steps: int
    seconds: float


def folder_of(name: str) -> str:
    """How the folders of a change's runs begin."""
    return name.replace(" ", "-")


def read_study(path: str | Path, **overrides: Any) -> SettingsStudy:
    """Read a study from a TOML file.

    Parameters
    ----------
    path : str or Path
        The file: ``config``, a recipe or a path as for ``ttfs-fast train --config``; ``seeds``,
        their number; a table ``base`` of fields of `TrainConfig` that replace the recipe's; and
        for each change a table ``changes.NAME``.
    **overrides
        Fields of `TrainConfig` that replace those of the file.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is not such a study; the message names it.

    Examples
    --------
    ::

        config = "cifar10-airbench"
        seeds = 3

        [base]
        epochs = 3
        val_images = 2500

        [changes."no dirac"]
        dirac = false
    """
    try:
        tables = parse_toml(Path(path).read_bytes())
        if others := set(tables) - {"config", "seeds", "base", "changes"}:
            raise ValueError(
                f"it names {', '.join(sorted(others))}; known are config, seeds, base, changes"
            )
        seeds, changes = tables.get("seeds", 3), tables.get("changes", {})
        base = tables.get("base", {})
        if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1:
            raise ValueError(f"seeds must be a number of at least 1; got {seeds!r}")
        if not all(isinstance(part, dict) for part in (base, changes, *changes.values())):
            raise ValueError("base and every change must be a table")
        settings = read_recipe(tables["config"]) if "config" in tables else {}
        check_names(TrainConfig, base, "base")
        config = TrainConfig(**{**settings, **base, **overrides})
        return SettingsStudy(config, changes, tuple(range(seeds)))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} holds no study of settings: {error}") from error


def settings_study(
    study: SettingsStudy, out: str | Path, *, log: Callable[[str], None] = logger.info
) -> list[SettingsRun]:
    """Train with every change and every seed, or what is missing of it.

    The folder receives ``settings.csv``, rewritten after each run, and the folder of each run. An
    interrupted study goes on where it stopped; a run whose settings have changed is repeated.

    Parameters
    ----------
    study : SettingsStudy
        What to train. Its ``threads`` must be given.
    out : path
        Folder of the results.
    log : callable
        Gets a line about each run; by default this module's logger.

    Returns
    -------
    runs : list of SettingsRun
        In the order of the study.
    """
    folder = Path(out)
    runs: list[SettingsRun] = []
    with use_folder(folder):
        configurations = list(study.configurations())
        for number, (name, config) in enumerate(configurations, start=1):
            run = _run(name, config, folder / f"{folder_of(name)}-seed{config.seed}")
            runs.append(run)
            write_rows(folder / "settings.csv", SettingsRun, runs)
            log(
                f"{number}/{len(configurations)}  {name:30} seed {run.seed}  "
                f"train {run.train_accuracy:.2%}  test {run.test_accuracy:.2%}  "
                f"{run.seconds:.0f} s"
            )
    return runs


def _run(name: str, config: TrainConfig, folder: Path) -> SettingsRun:
    ensure_trained(config, folder)
    records = read_log(RunFolder(folder).log)
    last = records[-1]
    return SettingsRun(
        change=name,
        seed=config.seed,
        epochs=last.epoch,
        train_accuracy=last.train_accuracy,
        test_accuracy=last.test_accuracy,
        test_spikes_per_neuron=last.test_spikes_per_neuron,
        skipped_steps=sum(record.skipped_steps for record in records),
        seconds=sum(record.seconds for record in records),
    )


@dataclass(frozen=True)
class SettingsSummary:
    """Mean and deviation of a change's accuracies over its seeds; nan for one seed's deviation."""

    change: str
    train: float
    test: float
    deviation: float
    seeds: int


def summary(runs: Sequence[SettingsRun]) -> list[SettingsSummary]:
    """One row for each change, in the order of the runs."""
    rows = []
    for name in dict.fromkeys(run.change for run in runs):
        own = [run for run in runs if run.change == name]
        tests = [run.test_accuracy for run in own]
        deviation = stdev(tests) if len(tests) > 1 else float("nan")
        train = mean(run.train_accuracy for run in own)
        rows.append(SettingsSummary(name, train, mean(tests), deviation, len(own)))
    return rows
