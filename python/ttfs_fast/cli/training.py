"""``ttfs-fast train``."""

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from ttfs_fast.cli._common import (
    OR_SHIPPED,
    DataRoot,
    Dataset,
    Debug,
    Download,
    Threads,
    app,
    download_data,
    flag,
    friendly_errors,
    option,
)
from ttfs_fast.training.config import TrainConfig


class Model(StrEnum):
    """Networks."""

    MNIST_SCNN = "mnist_scnn"
    CIFAR_SCNN = "cifar_scnn"
    CIFAR_VGG = "cifar_vgg"
    CIFAR_AIRBENCH = "cifar_airbench"
    VGG4 = "vgg4"
    VGG8 = "vgg8"
    VGG13 = "vgg13"
    VGG17 = "vgg17"
    SPIKING_VGG16 = "spiking_vgg16"
    SPIKING_GOOGLENET = "spiking_googlenet"


class Neuron(StrEnum):
    """What a network is made of."""

    SPIKING = "spiking"
    HORIZON = "horizon"
    RELU = "relu"
    RELU_NORM = "relu-norm"


class Optimizer(StrEnum):
    """Optimizers."""

    ADAM = "adam"
    MUON = "muon"
    SGD = "sgd"


class Polarity(StrEnum):
    """Which pixels spike first."""

    BRIGHT_FIRST = "bright-first"
    DARK_FIRST = "dark-first"
    BOTH = "both"


class Precision(StrEnum):
    """In what the dense products of layers with a horizon are computed."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class CropPadding(StrEnum):
    """What is put around an image before it is cut."""

    BLACK = "black"
    REFLECT = "reflect"


class Schedule(StrEnum):
    """Courses of the learning rate."""

    LINEAR = "linear"
    COSINE = "cosine"


class Reduction(StrEnum):
    """Reductions of the weight costs."""

    SUM = "sum"
    MEAN = "mean"


@app.command()
def train(
    config: Annotated[
        str | None,
        option(
            "Settings to start from: a recipe that comes with the package (mnist), or a .toml "
            "file with fields of TrainConfig. Options given beside it count more.",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        Dataset | None,
        option(
            "mnist, cifar10: from files. digits: 1,437 small ones that come with the package. "
            "folder: train/CLASS/NAME.jpg and val/CLASS/NAME.jpg in --data-root.",
            "dataset",
            rich_help_panel="Data",
        ),
    ] = None,
    model: Annotated[
        Model | None, option("The network.", "model", rich_help_panel="Network")
    ] = None,
    width: Annotated[
        float | None,
        option("Factor on the channels of its layers.", "width", rich_help_panel="Network"),
    ] = None,
    neuron: Annotated[
        Neuron | None,
        option(
            "Spiking neurons; horizon: in layers with a horizon, see docs/horizon.md; or the ReLU "
            "network of the same shape.",
            "neuron",
            rich_help_panel="Network",
        ),
    ] = None,
    horizon_spread: Annotated[
        float | None,
        option(
            "With --neuron horizon: how early spikes come, as a fraction of the horizon.",
            "horizon_spread",
            rich_help_panel="Network",
        ),
    ] = None,
    whitening: Annotated[
        bool | None,
        flag(
            "--whitening/--no-whitening",
            "With --neuron horizon: whitening filters as the first convolution, not trained.",
            rich_help_panel="Network",
        ),
    ] = None,
    dirac: Annotated[
        bool | None,
        flag(
            "--dirac/--no-dirac",
            "With --neuron horizon: convolutions start with neurons that pass their inputs on.",
            rich_help_panel="Network",
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        option(
            "With --neuron horizon: precision of the dense products in training.",
            "precision",
            rich_help_panel="Network",
        ),
    ] = None,
    data_root: DataRoot = None,
    download: Download = False,
    workers: Annotated[
        int | None,
        option("Processes that read the images of a folder.", "workers", rich_help_panel="Data"),
    ] = None,
    image_size: Annotated[
        int | None,
        option("Height and width that they are brought to.", "image_size", rich_help_panel="Data"),
    ] = None,
    train_images: Annotated[
        int | None,
        option(
            "Train on the first so many images only.", show_default=False, rich_help_panel="Data"
        ),
    ] = None,
    test_images: Annotated[
        int | None,
        option(
            "Test on the first so many images only.", show_default=False, rich_help_panel="Data"
        ),
    ] = None,
    holdout: Annotated[
        int | None,
        option(
            "Test on the last so many training images, which are then not trained on.",
            "holdout",
            rich_help_panel="Data",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "Folder of the run: settings, log.csv, checkpoint and, at the end, "
            "model.safetensors. Default: runs/DATASET.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        flag(
            "--resume",
            "Continue the run in the folder of the run, with its settings, after its newest "
            "checkpoint. It ends with the same weights as if it had never stopped.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, flag("--overwrite", "Remove the run that is in the folder and start anew.")
    ] = False,
    tensorboard: Annotated[
        bool, flag("--tensorboard", "Write the log for TensorBoard, too.")
    ] = False,
    seed: Annotated[
        int | None, option("Decides first weights, order of the images and noise.", "seed")
    ] = None,
    threads: Threads = None,
    epochs: Annotated[
        int | None,
        option("Passes over the training images.", "epochs", rich_help_panel="Learning"),
    ] = None,
    batch_size: Annotated[
        int | None, option("Images per step.", "batch_size", rich_help_panel="Learning")
    ] = None,
    start: Annotated[
        Path | None,
        option(
            f"Weights of a trained network of the same shape to begin with, {OR_SHIPPED}.",
            show_default=False,
            rich_help_panel="Learning",
        ),
    ] = None,
    accumulate: Annotated[
        int | None,
        option(
            "Run each batch in so many pieces: less memory, the same result.",
            "accumulate",
            rich_help_panel="Learning",
        ),
    ] = None,
    optimizer: Annotated[
        Optimizer | None,
        option("Adam, Muon, or descent with momentum.", "optimizer", rich_help_panel="Learning"),
    ] = None,
    momentum: Annotated[
        float | None,
        option("Momentum of --optimizer sgd and muon.", "momentum", rich_help_panel="Learning"),
    ] = None,
    patience: Annotated[
        int | None,
        option(
            "Stop after so many epochs without a better test accuracy; 0 for never. Use it with "
            "--holdout.",
            "patience",
            rich_help_panel="Learning",
        ),
    ] = None,
    lr_start: Annotated[
        float | None,
        option("Learning rate at the start.", "lr_start", rich_help_panel="Learning"),
    ] = None,
    lr_end: Annotated[
        float | None,
        option("Learning rate that it falls to.", "lr_end", rich_help_panel="Learning"),
    ] = None,
    schedule: Annotated[
        Schedule | None,
        option(
            "How it falls: linear, in equal steps, one an epoch; cosine, along half a cosine.",
            "schedule",
            rich_help_panel="Learning",
        ),
    ] = None,
    warmup: Annotated[
        float | None,
        option(
            "Epochs in which the learning rate first rises from 0.",
            "warmup",
            rich_help_panel="Learning",
        ),
    ] = None,
    adam_beta2: Annotated[
        float | None,
        option("Adam's decay of the squared gradients.", "adam_beta2", rich_help_panel="Learning"),
    ] = None,
    weight_decay: Annotated[
        float | None,
        option(
            "Share of the weights that each step takes away, in units of the learning rate.",
            "weight_decay",
            rich_help_panel="Learning",
        ),
    ] = None,
    weight_sum: Annotated[
        float | None,
        option(
            "Hold the sum of every neuron's weights at this, above 1; 0 leaves the sums free.",
            "weight_sum",
            rich_help_panel="Learning",
        ),
    ] = None,
    spread: Annotated[
        float | None,
        option(
            "With it: norm of the deviations of a neuron's first weights from their mean.",
            "spread",
            rich_help_panel="Learning",
        ),
    ] = None,
    relative_rate: Annotated[
        bool | None,
        flag(
            "--relative-rate/--absolute-rate",
            "With it: the learning rate counts in units of each layer's first deviation.",
            rich_help_panel="Learning",
        ),
    ] = None,
    hold_spread: Annotated[
        bool | None,
        flag(
            "--hold-spread/--free-spread",
            "With --relative-rate: keep that norm while training, too.",
            rich_help_panel="Learning",
        ),
    ] = None,
    average: Annotated[
        float | None,
        option(
            "Decay of a moving average of the weights, which is then tested and exported.",
            "average",
            rich_help_panel="Learning",
        ),
    ] = None,
    max_gradient: Annotated[
        float | None,
        option(
            "Limit of the gradient of each weight matrix: its norm over its rows.",
            "max_gradient",
            rich_help_panel="Learning",
        ),
    ] = None,
    jitter: Annotated[
        float | None,
        option(
            "Noise on the input spike times: standard deviation in units of tau.",
            "jitter",
            rich_help_panel="Learning",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        option(
            "Time between the brightest pixel's spike and the darkest's, in units of tau.",
            "alpha",
            rich_help_panel="Learning",
        ),
    ] = None,
    polarity: Annotated[
        Polarity | None,
        option(
            "Which pixels spike first; both give twice the channels.",
            "polarity",
            rich_help_panel="Learning",
        ),
    ] = None,
    whiten: Annotated[
        bool | None,
        flag(
            "--whiten/--no-whiten",
            "Bring every image to the same mean and deviation first.",
            rich_help_panel="Learning",
        ),
    ] = None,
    t_max: Annotated[
        float | None,
        option(
            "A neuron that would spike later than this is silent, in units of tau.",
            "t_max",
            rich_help_panel="Learning",
        ),
    ] = None,
    weight_sum_cost: Annotated[
        float | None,
        option(
            "Factor K of the cost of neurons whose weights sum to less than beta.",
            "K",
            rich_help_panel="Loss, equation (5)",
        ),
    ] = None,
    beta: Annotated[
        float | None,
        option(
            "Sum that the weights of a neuron should reach.",
            "beta",
            rich_help_panel="Loss, equation (5)",
        ),
    ] = None,
    l2_cost: Annotated[
        float | None,
        option(
            "Factor lambda of the squared weights.",
            "lambda_",
            rich_help_panel="Loss, equation (5)",
        ),
    ] = None,
    cost_reduction: Annotated[
        Reduction | None,
        option(
            "Sum these two costs over neurons and weights, as the paper writes, or average them.",
            "cost_reduction",
            rich_help_panel="Loss, equation (5)",
        ),
    ] = None,
    scale: Annotated[
        float | None,
        option(
            "Factor on the output times in the classification term; with --neuron horizon about "
            "1 / --horizon-spread.",
            "scale",
            rich_help_panel="Loss, equation (5)",
        ),
    ] = None,
    exclude_target: Annotated[
        bool | None,
        flag(
            "--exclude-target",
            "Leave the target class out of the classification term's sum, as printed.",
            rich_help_panel="Loss, equation (5)",
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None,
        option(
            "Share of the target that is spread evenly over all classes.",
            "label_smoothing",
            rich_help_panel="Loss, equation (5)",
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        option(
            "Weights of a trained network whose answers are learned besides the classes, "
            f"{OR_SHIPPED}.",
            show_default=False,
            rich_help_panel="Teacher",
        ),
    ] = None,
    teacher_share: Annotated[
        float | None,
        option(
            "Share of its answers in the classification term.",
            "teacher_share",
            rich_help_panel="Teacher",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        option("Temperature at which they are compared.", "temperature", rich_help_panel="Teacher"),
    ] = None,
    crop: Annotated[
        int | None,
        option(
            "Put so many black pixels around each training image and cut a random piece out.",
            "crop",
            rich_help_panel="Distortion of training images",
        ),
    ] = None,
    crop_padding: Annotated[
        CropPadding | None,
        option(
            "With --crop: black pixels, or reflect: the image mirrored at its borders.",
            "crop_padding",
            rich_help_panel="Distortion of training images",
        ),
    ] = None,
    flip: Annotated[
        bool | None,
        flag(
            "--flip/--no-flip",
            "Mirror half of them.",
            rich_help_panel="Distortion of training images",
        ),
    ] = None,
    resized_crop: Annotated[
        float | None,
        option(
            "Cut a random piece of at least this share of the area, and scale it.",
            "resized_crop",
            rich_help_panel="Distortion of training images",
        ),
    ] = None,
    rotate: Annotated[
        float | None,
        option(
            "Turn each training image at random by up to so many degrees.",
            "rotate",
            rich_help_panel="Distortion of training images",
        ),
    ] = None,
    stretch: Annotated[
        float | None,
        option(
            "Change its height and its width at random by up to this share.",
            "stretch",
            rich_help_panel="Distortion of training images",
        ),
    ] = None,
    shear: Annotated[
        float | None,
        option(
            "Shear it at random by up to so many columns a row.",
            "shear",
            rich_help_panel="Distortion of training images",
        ),
    ] = None,
    shift: Annotated[
        float | None,
        option(
            "Move it at random by up to so many pixels.",
            "shift",
            rich_help_panel="Distortion of training images",
        ),
    ] = None,
    elastic: Annotated[
        float | None,
        option(
            "Bend it: standard deviation of smooth random displacements, in pixels.",
            "elastic",
            rich_help_panel="Distortion of training images",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Train a network: by default the paper's for MNIST.

    A run can be stopped at any moment, even by a power cut, and continued with --resume.
    """
    given: dict[str, Any] = {
        "dataset": None if dataset is None else str(dataset),
        "data_root": None if data_root is None else str(data_root),
        "model": None if model is None else str(model),
        "width": width,
        "neuron": None if neuron is None else str(neuron),
        "horizon_spread": horizon_spread,
        "whitening": whitening,
        "dirac": dirac,
        "precision": None if precision is None else str(precision),
        "workers": workers,
        "image_size": image_size,
        "accumulate": accumulate,
        "optimizer": None if optimizer is None else str(optimizer),
        "momentum": momentum,
        "patience": patience,
        "polarity": None if polarity is None else str(polarity),
        "whiten": whiten,
        "crop": crop,
        "crop_padding": None if crop_padding is None else str(crop_padding),
        "flip": flip,
        "resized_crop": resized_crop,
        "train_images": train_images,
        "test_images": test_images,
        "holdout": holdout,
        "seed": seed,
        "threads": threads,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr_start": lr_start,
        "lr_end": lr_end,
        "schedule": None if schedule is None else str(schedule),
        "warmup": warmup,
        "adam_beta2": adam_beta2,
        "weight_decay": weight_decay,
        "weight_sum": weight_sum,
        "spread": spread,
        "relative_rate": relative_rate,
        "hold_spread": hold_spread,
        "average": average,
        "max_gradient": max_gradient,
        "jitter": jitter,
        "rotate": rotate,
        "stretch": stretch,
        "shear": shear,
        "shift": shift,
        "elastic": elastic,
        "alpha": alpha,
        "t_max": t_max,
        "start": None if start is None else str(start),
        "K": weight_sum_cost,
        "beta": beta,
        "lambda_": l2_cost,
        "cost_reduction": None if cost_reduction is None else str(cost_reduction),
        "scale": scale,
        "exclude_target": exclude_target,
        "label_smoothing": label_smoothing,
        "teacher": None if teacher is None else str(teacher),
        "teacher_share": teacher_share,
        "temperature": temperature,
    }
    with friendly_errors(debug):
        from ttfs_fast import training
        from ttfs_fast.training.run_folder import RunFolder

        settings = training.read_recipe(config) if config is not None else {}
        settings |= {name: value for name, value in given.items() if value is not None}
        name = settings.get("dataset", TrainConfig.dataset)
        folder = out if out is not None else Path("runs") / name
        saved = RunFolder(folder).config
        base = TrainConfig()
        if resume and saved.is_file():
            base = TrainConfig.from_json(saved.read_text("utf-8"))
        chosen = dataclasses.replace(base, **settings)
        if download:
            download_data(chosen.dataset, chosen.data_root)
        training.train(chosen, folder, resume=resume, overwrite=overwrite, tensorboard=tensorboard)
