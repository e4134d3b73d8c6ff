"""``ttfs-fast train``."""

import dataclasses
from pathlib import Path
from typing import Annotated

from ttfs_fast.cli._common import (
    Debug,
    Download,
    allow_current_folder,
    app,
    download_data,
    flag,
    friendly_errors,
    option,
)
from ttfs_fast.cli._options import Command, Given, settings_options
from ttfs_fast.training.config import TrainConfig
from ttfs_fast.training.recipes import names


@app.command(cls=Command)
@settings_options(TrainConfig)
def train(
    given: Given,
    config: Annotated[
        str | None,
        option(
            f"Settings: a .toml file, or a recipe of the package: {', '.join(names())}. "
            "Other options override them. A,B trains A, then B.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "Folder to write: settings, log.csv, checkpoint and, at the end, model.safetensors. "
            "Default: runs/DATASET; with --config A,B: runs, which gets a folder for each.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        flag(
            "--resume",
            "Continue the run in --out with its own settings; fails if there is no run. The result "
            "is the same as without the interruption.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, flag("--overwrite", "Remove the run in --out and start again.")
    ] = False,
    tensorboard: Annotated[
        bool, flag("--tensorboard", "Write the log for TensorBoard, too.")
    ] = False,
    download: Download = False,
    debug: Debug = False,
) -> None:
    """Train a network, by default the paper's for MNIST.

    If a run is interrupted, even by a power cut, the same command continues it.
    """
    with friendly_errors(debug):
        from ttfs_fast import training
        from ttfs_fast.cli._progress import ShowProgress
        from ttfs_fast.cli._recipes import plan_runs
        from ttfs_fast.training.run_folder import RunFolder

        runs = plan_runs(config, given, out)
        if "model" in given:
            allow_current_folder()
        callback = ShowProgress()
        for number, run in enumerate(runs, 1):
            saved = RunFolder(run.folder).config
            base = TrainConfig()
            if resume and saved.is_file():
                base = TrainConfig.from_json(saved.read_text("utf-8"))
            chosen = dataclasses.replace(base, **run.settings)
            same = not overwrite and _is_same_run(chosen, saved)
            if len(runs) > 1:
                title = f"recipe {run.recipe}, {number} of {len(runs)}"
                if same and RunFolder(run.folder).weights.is_file():
                    callback.log(f"{title}: is trained, in {run.folder}")
                    continue
                callback.log(f"{title}:")
            if download:
                download_data(chosen.dataset, chosen.data_root)
            # A later recipe may not have begun when --resume continues the first.
            training.train(
                chosen,
                run.folder,
                resume=same or (resume and (number == 1 or saved.is_file())),
                overwrite=overwrite,
                callback=callback,
                tensorboard=tensorboard,
            )


def _is_same_run(chosen: TrainConfig, saved: Path) -> bool:
    """Whether a folder holds a run with these settings, which the same command continues."""
    if not saved.is_file():
        return False
    try:
        before = TrainConfig.from_json(saved.read_text("utf-8"))
    except ValueError:
        return False
    threads = before.threads if chosen.threads is None else chosen.threads
    again = dataclasses.replace(chosen, threads=threads, processes=before.processes)
    return not again.differences(before)
