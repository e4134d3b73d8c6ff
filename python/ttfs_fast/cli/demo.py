"""``ttfs-fast demo``: trains a network and writes a report, without other files."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ttfs_fast.cli._common import Debug, app, friendly_errors, option, set_threads
from ttfs_fast.cli._results import print_result
from ttfs_fast.cli.reproduce import write_report
from ttfs_fast.training.config import TrainConfig


@app.command()
def demo(
    out: Annotated[
        Path, option("Folder to write: run, picture and report. Replaces an earlier demo.")
    ] = Path("runs/demo"),
    epochs: Annotated[int, option("Passes over the training images.", min=1)] = 20,
    seed: Annotated[
        int, option("Seed of the first weights, the order of the images and the noise.")
    ] = 0,
    threads: Annotated[int, option("Number of threads.", min=1)] = 1,
    report: Annotated[
        bool,
        typer.Option(
            "--report/--no-report",
            help="End with the short version of ttfs-fast reproduce, about this network.",
        ),
    ] = True,
    debug: Debug = False,
) -> None:
    """Train on the small digits of the package, and write a report about the network.

    Takes some minutes, and needs neither a network nor other files.
    """
    with friendly_errors(debug):
        from ttfs_fast import training
        from ttfs_fast.analysis.plotting import spike_raster
        from ttfs_fast.analysis.style import save_figure
        from ttfs_fast.cli._progress import ShowProgress
        from ttfs_fast.data import load

        config = dataclasses.replace(
            TrainConfig(**training.read_recipe("digits")),
            epochs=epochs,
            seed=seed,
            threads=threads,
        )
        result = training.train(config, out, overwrite=True, callback=ShowProgress())
        print_result(result.evaluation)
        test_set = load("digits", train=False)
        picture = out / "demo.png"
        figure = spike_raster(
            result.model,
            test_set.images[0],
            label=int(test_set.labels[0]),
            classes=test_set.classes,
        )
        save_figure(picture, figure)
        print(f"\nThe spikes of one test image, layer by layer: {picture.resolve()}\n")
        print("Next:")
        for purpose, command in (
            ("test these weights again", f"ttfs-fast eval --weights {result.weights_path}"),
            ("train on MNIST itself", "ttfs-fast train --help"),
            ("test the network that comes with the package", "ttfs-fast eval --weights mnist_scnn"),
            ("the report below, about MNIST", "ttfs-fast reproduce --data-root DIR"),
        ):
            print(f"  {purpose}: {command}")
        if report:
            from ttfs_fast.paper import Plan, find_networks

            print("\nThe paper's tables and figures, with this network, beside the printed ones:")
            set_threads(threads)
            folder = out / "report"
            found = find_networks(quick=True, out=folder, seed=seed, runs=(out,))
            write_report(Plan.quick(seed), found, folder)
