"""``ttfs-fast diagnose``."""

import json
from typing import Annotated

from ttfs_fast.cli._common import (
    DataRoot,
    Debug,
    Device,
    OwnNetwork,
    Picture,
    Threads,
    Weights,
    app,
    check_picture,
    choose_spiking_network,
    fit_to_network,
    flag,
    friendly_errors,
    option,
    set_threads,
)
from ttfs_fast.training.config import TrainConfig


@app.command()
def diagnose(
    config: Annotated[
        str | None,
        option(
            "Diagnose a new network with these settings: a recipe of the package, or a .toml file.",
            show_default=False,
        ),
    ] = None,
    weights: Weights = None,
    own: OwnNetwork = None,
    images: Annotated[int, option("Number of training images to run.", min=2)] = 32,
    plot: Picture = None,
    data_root: DataRoot = None,
    threads: Threads = None,
    device: Device = "auto",
    as_json: Annotated[bool, flag("--json", "Print the results as JSON only.")] = False,
    debug: Debug = False,
) -> None:
    """Print spike statistics per layer and flag the first layer with a problem.

    Give --weights for a trained network, or --config for a new one.
    """
    with friendly_errors(debug):
        import torch

        from ttfs_fast import analysis, training
        from ttfs_fast.analysis.style import save_figure
        from ttfs_fast.data import load
        from ttfs_fast.gpu import resolve_device
        from ttfs_fast.training.datasets import image_shape

        if (config is None) == (weights is None):
            raise ValueError("give one of --config RECIPE and --weights WEIGHTS")
        if own is not None and weights is None:
            raise ValueError(
                "--model says which network the file of --weights holds; give --weights"
            )
        check_picture(plot)
        set_threads(threads)
        where = resolve_device(device)
        if weights is not None:
            model, chosen, source = choose_spiking_network(weights, own)
        else:
            chosen = TrainConfig(**training.read_recipe(str(config)))
        image_set = load(chosen.dataset, data_root or chosen.data_root, train=True)
        if weights is not None:
            image_set = fit_to_network(image_set, weights, source)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(chosen.seed)
                model = training.make_model(chosen, image_shape(image_set))
        dtype = next(model.parameters()).dtype
        pixels = image_set.images_as_tensor()[:images].to(dtype) / 255
        values = chosen.encoding(pixels).to(where)
        labels = image_set.labels_as_tensor()[:images].to(where)
        found = analysis.diagnose(model.to(where), (values, labels), scale=chosen.logit_scale)
        print(json.dumps(found.to_dict(), indent=2) if as_json else found)
        if plot is not None:
            save_figure(plot, found.plot())
