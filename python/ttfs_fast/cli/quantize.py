"""``ttfs-fast quantize``."""

import dataclasses
from pathlib import Path
from typing import Annotated

from ttfs_fast._settings import settings_of
from ttfs_fast.cli._common import (
    Debug,
    OwnNetwork,
    Weights,
    app,
    choose_spiking_network,
    fit_to_network,
    flag,
    friendly_errors,
    option,
    set_threads,
)
from ttfs_fast.cli._options import Command, Given, settings_options
from ttfs_fast.cli._results import print_comparison
from ttfs_fast.quantization.config import QuantizeConfig
from ttfs_fast.training.config import INPUT, NETWORK, WEIGHTS, TrainConfig

UNUSED = (
    *(
        name
        for name, (_, known) in settings_of(TrainConfig).items()
        if known.group in (NETWORK, WEIGHTS, INPUT) and name != "jitter"
    ),
    "grad_accum_steps",
    "image_size",
    "label_smoothing",
    "momentum",
    "optimizer",
    "patience_epochs",
    "schedule",
    "initial_checkpoint",
    "warmup_epochs",
    "workers",
)
"""Settings of training that the network has already, or that retraining does without."""


@app.command(cls=Command)
@settings_options(QuantizeConfig, TrainConfig, leave_out=UNUSED, inherited=TrainConfig)
def quantize(
    given: Given,
    weights: Weights = None,
    own: OwnNetwork = None,
    out: Annotated[Path, option("Folder to write: settings, checkpoint, networks.")] = Path(
        "runs/quantized"
    ),
    resume: Annotated[
        bool, flag("--resume", "Continue the run in --out; fails if there is no run.")
    ] = False,
    config: Annotated[
        str | None,
        option(
            "Settings that replace those of the training: a recipe of the package, or a .toml file "
            "with fields of TrainConfig. Other options override them.",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Retrain a network with few-bit weights, and write it as an integer network.

    Example: ttfs-fast quantize --weights mnist_scnn --bits 4. The folder --out receives
    model-8bit.ttfs and so on; ttfs-fast eval --weights takes such a file. If a run is interrupted,
    the same command continues it.
    """
    with friendly_errors(debug):
        from ttfs_fast import quantization, training
        from ttfs_fast.cli._progress import ShowProgress
        from ttfs_fast.training.datasets import load_in_memory
        from ttfs_fast.training.run_folder import RunFolder

        model, base, source = choose_spiking_network(weights, own)
        base = dataclasses.replace(
            base,
            teacher=None,
            teacher_hflip=False,
            generations=1,
            processes=1,
            grad_accum_steps=1,
            initial_checkpoint=None,
            device=TrainConfig.device,
            precision="float32" if base.precision == "float32" else "auto",
        )
        known = base.spike_settings
        of_stages = {name: given.pop(name) for name in settings_of(QuantizeConfig) if name in given}
        settings = training.read_recipe(config) if config is not None else {}
        base = dataclasses.replace(base, **settings | given)
        for name, its in known.items():
            if (asked := base.spike_settings[name]) != its:
                raise ValueError(
                    f"the network was trained with {name} {its}, {config} says {asked}: it is "
                    f"retrained for the spikes that it knows, so leave {name} out of the settings"
                )
        assert weights is not None  # choose_spiking_network has refused it
        test_set = load_in_memory(base)[1]
        fitted = fit_to_network(test_set, weights, source)
        if fitted.classes != test_set.classes:
            raise ValueError(
                f"{source} counts its classes otherwise than {test_set.name} does "
                f"({', '.join(fitted.classes[:5])}, ... in this order): retrain it in Python, "
                "ttfs_fast.quantization.quantize(..., data=...)"
            )
        chosen = QuantizeConfig(training=base, **of_stages)
        saved = RunFolder(out).qat_config
        if resume and not saved.is_file():
            raise FileNotFoundError(f"{out} holds no run to resume; leave out --resume")
        networks = quantization.quantize(
            model,
            chosen,
            out,
            resume=resume or _is_same_run(chosen, saved),
            callback=ShowProgress(),
        )
        set_threads(base.threads)
        for number, network in networks.items():
            comparison = quantization.compare(model, network, test_set, encoding=base.encoding)
            print(
                f"{number} bits: {comparison.integer_correct / comparison.images:.2%} correct, "
                f"float {comparison.float_correct / comparison.images:.2%}; the same decision on "
                f"{comparison.agreement:.2%}"
            )
        print_comparison(comparison, test_set.classes)


def _is_same_run(chosen: QuantizeConfig, saved: Path) -> bool:
    """Whether a folder holds a run with these settings, which the same command continues."""
    if not saved.is_file():
        return False
    try:
        return not chosen.differences(QuantizeConfig.from_json(saved.read_text("utf-8")))
    except ValueError:
        return False
