"""The settings that determine the result of a training run."""

import json
import math
import os
import re
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

from ttfs_fast._settings import (
    check_settings,
    document_settings,
    setting,
    settings_from_values,
    settings_that_differ,
    settings_to_values,
)
from ttfs_fast._untrusted import parse_json
from ttfs_fast.data import DatasetName
from ttfs_fast.data.augment import CropPadding
from ttfs_fast.encoding import Encoding, Polarity
from ttfs_fast.gpu.device import check_device_name
from ttfs_fast.loss import CostReduction
from ttfs_fast.optim.schedule import cosine

Schedule = Literal["linear", "cosine"]
Neuron = Literal["spiking", "horizon", "relu", "relu-norm"]
Optimizer = Literal["adam", "muon", "sgd"]
Precision = Literal["float32", "bfloat16", "auto"]
ModelName = Literal[
    "mnist_scnn",
    "cifar_scnn",
    "cifar_vgg",
    "cifar_airbench",
    "vgg4",
    "vgg8",
    "vgg13",
    "vgg17",
    "spiking_vgg16",
    "spiking_googlenet",
]

GIVEN = "given: "
"""How the name of a network or data set begins that was given to `train` as an object."""
_FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_given(name: str) -> bool:
    """Whether a network or data set was given as an object, and its name only tells which."""
    return name.startswith(GIVEN)


def is_factory(name: str) -> bool:
    """Whether a network is named as package.module:factory."""
    return _FACTORY.fullmatch(name) is not None


DATA, NETWORK, LOSS = "Data", "Network", "Loss, equation (5)"
TEACHER, AUGMENTATION, INPUT = "Distillation", "Augmentation of training images", "Input spikes"
WEIGHTS = "Weights of a fixed sum"

RENAMED = {
    "K": "weight_sum_cost",
    "accumulate": "grad_accum_steps",
    "average": "ema_decay",
    "flip": "hflip",
    "hold_spread": "fixed_norm",
    "holdout": "val_images",
    "lambda_": "l2_cost",
    "lr_end": "min_lr",
    "lr_start": "lr",
    "max_gradient": "clip_grad",
    "patience": "patience_epochs",
    "relative_rate": "relative_lr",
    "scale": "logit_scale",
    "spread": "weight_norm",
    "start": "initial_checkpoint",
    "stretch": "zoom",
    "teacher_share": "distill_weight",
    "temperature": "kd_temperature",
    "warmup": "warmup_epochs",
    "whiten": "standardize",
}
"""Fields as version 0.1 named them, and their names: its weights and runs are read by these."""

DISTORTIONS = ("rotate", "zoom", "shear", "shift", "elastic")
"""Fields that limit the random distortion of training images."""

OF_HORIZONS = ("whitening", "dirac", "average_pool", "mirrored_pairs", "horizon_spread")
"""Fields for networks of the package whose layers have horizons."""


@document_settings
@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run; the defaults are the paper's for MNIST.

    Two runs with equal settings on the same machine end with the same bits. A setting is one
    field: its option of ``ttfs-fast train``, its help there, its check, its key in recipes and in
    ``config.json`` follow from it.

    {settings}

    Raises
    ------
    ValueError
        If a value is outside what is allowed; the message names the field.

    Notes
    -----
    Source: Zhou et al., "Temporal-Coded Deep Spiking Neural Network with Easy Training and
    Robust Performance" (AAAI 2021), section 4.1 and equation (5). The guide is docs/training.md;
    `ttfs_fast.horizon`, `ttfs_fast.optim.centering`, `ttfs_fast.optim.muon`,
    `ttfs_fast.data.distort` and `ttfs_fast.training.distillation` derive what stands here in a
    sentence.
    """

    dataset: str = setting(
        "mnist",
        f"Data set: {', '.join(get_args(DatasetName))}. digits: 1,437 small images that come with "
        "the package; folder: train/CLASS/NAME.jpg and val/CLASS/NAME.jpg in the data root; the "
        "others are read from their published files.",
        group=DATA,
        basic=True,
        choices=get_args(DatasetName),
        also=is_given,
    )
    data_root: str | None = setting(
        None,
        "Folder (or for dataset folder, zip file) of the data set. If not given, the folder that "
        "TTFS_FAST_DATA names, then ~/.cache/ttfs_fast. The digits need none.",
        group=DATA,
        basic=True,
        path=True,
        decides=False,  # the images are compared instead
    )
    model: str = setting(
        "mnist_scnn",
        f"Network, by its name in ttfs_fast.models: {', '.join(get_args(ModelName))}. Or one of "
        "your own, package.module:factory (docs/training.md).",
        group=NETWORK,
        basic=True,
        choices=get_args(ModelName),
        also=lambda name: is_factory(name) or is_given(name),
        also_text="package.module:factory",
    )
    width: float = setting(
        1.0,
        "Factor on the channels of all layers but the last; mnist_scnn has width 1 only.",
        group=NETWORK,
        above=0,
    )
    neuron: Neuron = setting(
        "spiking",
        "Neurons. spiking: as in the paper. horizon: spiking neurons in layers with a horizon, "
        "which train like a batch-normalized ReLU network and become plain spiking layers at the "
        "end (docs/horizon.md). relu, relu-norm: the ReLU network of the same shape, without or "
        "with batch normalization, for comparison.",
        group=NETWORK,
        basic=True,
    )
    horizon_spread: float = setting(
        0.002,
        "With neuron horizon: how early the spikes of a layer come, as a fraction of its horizon.",
        group=NETWORK,
        above=0,
        below=1,
    )
    whitening: bool = setting(
        False,
        "With neuron horizon: the first convolution is a fixed whitening filter, computed from "
        "patches of the training images.",
        group=NETWORK,
    )
    dirac: bool = setting(
        False,
        "With neuron horizon: convolutions start with neurons that pass their inputs on.",
        group=NETWORK,
    )
    average_pool: bool = setting(
        False,
        "With neuron horizon: the global pool averages a map, instead of taking its first spike.",
        group=NETWORK,
    )
    mirrored_pairs: bool = setting(
        False,
        "With neuron horizon: neurons in pairs with mirrored weights, so that an image and its "
        "mirror image get the same answer.",
        group=NETWORK,
    )
    overlapping_pools: bool = setting(
        False,
        "With model cifar_airbench: pools of 3 x 3 with stride 2, instead of 2 x 2.",
        group=NETWORK,
    )
    precision: Precision = setting(
        "float32",
        "Precision of the dense products in training, with every neuron but spiking; auto: "
        "bfloat16 on processors and GPUs with instructions for it, float32 on others. Spike "
        "values, weights and evaluation stay float32.",
    )
    epochs: int = setting(50, "Passes over the training images.", basic=True, min=1)
    batch_size: int = setting(10, "Images per step.", basic=True, min=1)
    grad_accum_steps: int = setting(
        1,
        "Split each batch into N parts and accumulate their gradients: less memory, the same "
        "result up to rounding.",
        min=1,
    )
    optimizer: Optimizer = setting("adam", "Adam, Muon, or SGD with momentum.", basic=True)
    momentum: float = setting(0.9, "Momentum of SGD and Muon.", min=0, below=1)
    lr: float = setting(1e-3, "Learning rate at the start, after the warmup.", basic=True, above=0)
    min_lr: float = setting(
        1e-4,
        "Learning rate at the end; with schedule linear, the last epoch is one step above it.",
        basic=True,
        above=0,
    )
    schedule: Schedule = setting(
        "linear",
        "How the learning rate falls. linear: by the same amount after every epoch, as in the "
        "paper. cosine: along half a cosine, step by step.",
    )
    warmup_epochs: float = setting(
        0.0, "Epochs in which the learning rate first rises from 0, step by step.", min=0
    )
    adam_beta2: float = setting(
        0.999, "Decay rate of the mean of squared gradients (Adam, Muon).", min=0, below=1
    )
    weight_decay: float = setting(
        0.0,
        "Decoupled weight decay, in units of the learning rate (AdamW); with SGD, torch's.",
        min=0,
    )
    weight_sum: float = setting(
        0.0,
        "Fix the sum of every neuron's weights, biases apart, at this value above 1. 0: the sums "
        "are free, and weights start uniform in [0, 8 / N], as published.",
        group=WEIGHTS,
        min=0,
    )
    weight_norm: float = setting(
        1.0,
        "With a weight sum: norm of the deviations of a neuron's first weights from their mean.",
        group=WEIGHTS,
        above=0,
    )
    relative_lr: bool = setting(
        False,
        "With a weight sum: the learning rate is relative to the initial standard deviation of "
        "each layer's weights, so that layers of different sizes learn alike. Deep networks need "
        "it.",
        group=WEIGHTS,
    )
    fixed_norm: bool = setting(
        False,
        "With the relative learning rate: keep that norm fixed during training. A step of Muon "
        "then turns a neuron's weights by the learning rate, in radians.",
        group=WEIGHTS,
    )
    ema_decay: float = setting(
        0.0,
        "Decay of an exponential moving average of the weights, updated after every step; the "
        "averaged network is tested and exported. 0: none.",
        min=0,
        below=1,
    )
    weight_sum_cost: float = setting(
        100.0,
        "Factor K of the weight-sum cost, of neurons whose weights sum to less than beta.",
        group=LOSS,
        min=0,
    )
    l2_cost: float = setting(
        1e-3, "Factor lambda of the L2 cost, the squared weights.", group=LOSS, min=0
    )
    beta: float = setting(1.0, "Sum that the weights of a neuron should reach.", group=LOSS, min=0)
    clip_grad: float = setting(
        10.0,
        "Limit on each weight's gradient: its Frobenius norm divided by its number of rows.",
        above=0,
        infinite=True,
    )
    alpha: float = setting(
        3.0,
        "Time between the earliest and the latest input spike, in units of tau.",
        group=INPUT,
        above=0,
    )
    polarity: Polarity = setting(
        "bright-first",
        "Which pixels spike first; both: twice as many input channels.",
        group=INPUT,
    )
    standardize: bool = setting(
        False,
        "Bring every image to the same mean and standard deviation of its intensities first.",
        group=INPUT,
    )
    image_size: int = setting(
        224, "With dataset folder: height and width that images are scaled to.", group=DATA, min=1
    )
    crop: int = setting(
        0,
        "Random crop after padding by N pixels; 0: none. Images of a folder are scaled first.",
        group=AUGMENTATION,
        min=0,
    )
    crop_padding: CropPadding = setting(
        "black", "What the crop pads with: black, or the reflected image.", group=AUGMENTATION
    )
    hflip: bool = setting(
        False, "Flip half of the training images horizontally.", group=AUGMENTATION
    )
    alternating_hflip: bool = setting(
        False,
        "With hflip: flip half of the images in the first epoch and the other half in the next, in "
        "turn, in place of drawing anew.",
        group=AUGMENTATION,
    )
    resized_crop: float = setting(
        0.0,
        "Random resized crop: least fraction of the area that is cut out, with an aspect ratio "
        "from 3/4 to 4/3; 0: none.",
        group=AUGMENTATION,
        min=0,
        max=1,
    )
    cutout: int = setting(
        0,
        "Side in pixels of a square that is erased from each training image; 0: none.",
        group=AUGMENTATION,
        min=0,
    )
    jitter: float = setting(
        0.0,
        "Standard deviation of Gaussian noise on the input spike times in training, in units of "
        "tau.",
        group=INPUT,
        min=0,
    )
    rotate: float = setting(0.0, "Largest random rotation, in degrees.", group=AUGMENTATION, min=0)
    zoom: float = setting(
        0.0,
        "Largest random change of height and width, as a fraction.",
        group=AUGMENTATION,
        min=0,
        below=1,
    )
    shear: float = setting(
        0.0, "Largest random shear, in columns per row.", group=AUGMENTATION, min=0
    )
    shift: float = setting(0.0, "Largest random shift, in pixels.", group=AUGMENTATION, min=0)
    elastic: float = setting(
        0.0,
        "Standard deviation of random elastic displacements, in pixels.",
        group=AUGMENTATION,
        min=0,
    )
    logit_scale: float = setting(
        1.0,
        "Factor on the output spike times in the classification term. With neuron horizon these "
        "lie about horizon_spread apart, so give about 1 / horizon_spread.",
        group=LOSS,
        above=0,
    )
    exclude_target: bool = setting(
        False, "Leave the target class out of the sum of equation (5), as printed.", group=LOSS
    )
    label_smoothing: float = setting(
        0.0,
        "Fraction of the target that is spread evenly over all classes.",
        group=LOSS,
        min=0,
        below=1,
    )
    teacher: str | None = setting(
        None,
        "Teacher for knowledge distillation: a weights file, the folder of a run, or the name of a "
        "pretrained network. With several, separated by commas, each answers for a part of every "
        "batch.",
        group=TEACHER,
        path=True,
        decides=False,  # its weights are compared instead
    )
    generations: int = setting(
        1,
        "Train this many networks in turn with the same settings. The first learns from the "
        "classes alone; each of the others has the one before as its teacher.",
        group=TEACHER,
        min=1,
    )
    teacher_hflip: bool = setting(
        False,
        "Show half of the images to the teacher mirrored: the network learns the mean of its "
        "answers to an image and its mirror image.",
        group=TEACHER,
    )
    distill_weight: float = setting(
        0.8,
        "Fraction of the classification term that comes from the teacher.",
        group=TEACHER,
        min=0,
        max=1,
    )
    kd_temperature: float = setting(2.0, "Temperature of the distillation.", group=TEACHER, above=0)
    cost_reduction: CostReduction = setting(
        "sum",
        "Sum the weight costs over neurons and weights, as the paper writes, or average them.",
        group=LOSS,
    )
    t_max: float = setting(
        math.inf,
        "Spikes later than this are treated as no spike, in units of tau.",
        group=NETWORK,
        infinite=True,
    )
    horizons: tuple[float, ...] = setting(
        (),
        "One t_max for each spiking layer, in their order, in place of a common one; "
        "ttfs_fast.analysis.horizons finds those that silence a given fraction of the neurons.",
        group=NETWORK,
    )
    initial_checkpoint: str | None = setting(
        None,
        "Weights to start from, of a network of the same shape: a weights file, the folder of a "
        "run, or the name of a pretrained network.",
        basic=True,
        path=True,
        decides=False,  # the weights of a run are in its checkpoint
    )
    seed: int = setting(
        0, "Seed of the first weights, the order of the images and the noise.", basic=True, min=0
    )
    device: str = setting(
        "auto",
        "Where to compute: auto (a GPU where there is one), cpu, cuda or cuda:N (docs/gpu.md).",
        basic=True,
        decides=False,  # a run may go on elsewhere, to within rounding
    )
    threads: int | None = setting(
        None,
        "Threads of torch and of the operators; if not given, torch's number.",
        basic=True,
        min=1,
    )
    processes: int = setting(
        1,
        "Processes that train together, each on its part of every batch; torchrun sets it.",
        min=1,
        option=False,
    )
    workers: int = setting(
        2,
        "With dataset folder: processes that read images; 0: the training process reads them.",
        group=DATA,
        min=0,
        decides=False,
    )
    patience_epochs: int = setting(
        0,
        "Stop after N epochs without a better test accuracy, and return to the best weights; 0: "
        "never. Use it with val_images.",
        min=0,
    )
    train_images: int | None = setting(None, "Train on the first N images only.", group=DATA, min=1)
    test_images: int | None = setting(None, "Test on the first N images only.", group=DATA, min=1)
    val_images: int = setting(
        0,
        "Hold out the last N training images for validation, and test on them in place of the "
        "test images: for choosing settings.",
        group=DATA,
        min=0,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        check_device_name(self.device)
        if 0 < self.weight_sum <= 1:
            raise ValueError(
                f"weight_sum must be above 1, or no neuron spikes, or 0 to leave the sums free; "
                f"got {self.weight_sum}"
            )
        if self.weight_sum and self.neuron not in ("spiking", "horizon"):
            raise ValueError("weight_sum is for spiking neurons; a ReLU network starts as He's")
        self._check_own()
        self._check_horizon()
        if self.relative_lr and not self.weight_sum:
            raise ValueError("relative_lr needs a weight_sum, such as 4")
        if self.fixed_norm and not self.relative_lr:
            raise ValueError("fixed_norm needs relative_lr, and with it a weight_sum, such as 4")
        if self.alternating_hflip and not self.hflip:
            raise ValueError("alternating_hflip says how hflip flips; give hflip, too")
        self._check_teachers()
        if self.crop and self.resized_crop:
            raise ValueError("crop and resized_crop are two ways to cut; give one of them")
        if self.neuron != "spiking" and self.polarity == "both":
            raise ValueError(
                f'neuron="{self.neuron}" sees each pixel once; polarity must not be "both"'
            )
        if self.label_smoothing and self.exclude_target:
            raise ValueError("label_smoothing and exclude_target contradict each other; give one")
        if self.neuron == "relu-norm" and self.processes > 1:
            raise ValueError("batch normalization counts on one process; train it with one")
        if self.neuron == "relu-norm" and self.grad_accum_steps > 1:
            raise ValueError(
                f"batch normalization counts over whole batches; grad_accum_steps must be 1 with "
                f"neuron relu-norm, got {self.grad_accum_steps}"
            )
        if self.normalizes and self.batch_size == 1:
            raise ValueError("batch normalization needs a batch_size of at least 2; got 1")
        if self.horizons and not math.isinf(self.t_max):
            raise ValueError("horizons replace t_max; give one of the two")
        if self.horizons and self.neuron != "spiking":
            raise ValueError("horizons are for spiking neurons")

    def _check_own(self) -> None:
        """Refuse what would build a network, where it is the user's own."""
        if not self.own_network:
            return
        if self.neuron not in ("spiking", "horizon"):
            raise ValueError(
                f"neuron={self.neuron} makes the ReLU network of the shape of one of "
                f"ttfs_fast.models; with {self.model} give spiking, or horizon if its layers have "
                "horizons"
            )
        for name in ("width", *OF_HORIZONS):
            if getattr(self, name) != getattr(TrainConfig, name):
                raise ValueError(
                    f"{name} is for the networks of ttfs_fast.models; got {getattr(self, name)!r} "
                    f"with {self.model}: build it as you want it instead"
                )
        if self.neuron == "horizon" and self.weight_sum:
            raise ValueError(
                f"the layers of {self.model} have horizons and with them a sum of their weights; "
                f"weight_sum must be 0, got {self.weight_sum:g}"
            )

    @property
    def teachers(self) -> tuple[str, ...]:
        """The teachers in their order. A file or folder of this whole name is one teacher."""
        if self.teacher is None:
            return ()
        names = [self.teacher] if os.path.exists(self.teacher) else self.teacher.split(",")
        return tuple(os.path.expanduser(name.strip()) for name in names)

    def _check_teachers(self) -> None:
        if not all(self.teachers):
            raise ValueError(
                f"teacher must be a name, or several with commas between them; got {self.teacher!r}"
            )
        if self.generations > 1 and self.teacher is not None:
            raise ValueError(
                "with generations, each network has the one before as its teacher: leave teacher "
                f"out; got {self.teacher}"
            )
        if self.generations > 1 and self.processes > 1:
            raise ValueError(
                f"generations are trained by one process; got {self.processes}. With several, "
                "train the networks one by one, and name the one before as teacher"
            )
        number = 1 if self.generations > 1 else len(self.teachers)
        views = number * (1 + self.teacher_hflip)
        piece = self.batch_size // (self.processes * self.grad_accum_steps)
        if views > 1 and piece < views:
            who = "1 teacher" if number == 1 else f"{number} teachers"
            raise ValueError(
                f"{who}{' with teacher_hflip' * self.teacher_hflip} must answer "
                f"for {views} parts of a batch, but a process takes {piece} images of it at a "
                "time; give a larger batch_size, or fewer teachers"
            )

    @property
    def generation_before(self) -> "TrainConfig":
        """The settings of the network that teaches this one, with ``generations`` above 1."""
        before = self.generations - 1
        return replace(self, generations=before, teacher_hflip=self.teacher_hflip and before > 1)

    @property
    def own_network(self) -> bool:
        """Whether the network is none of `ttfs_fast.models` but the user's own."""
        return self.model not in get_args(ModelName)

    def _check_horizon(self) -> None:
        if self.overlapping_pools and self.model != "cifar_airbench":
            raise ValueError(
                f'overlapping_pools is for model="cifar_airbench"; got model={self.model!r}'
            )
        if self.neuron != "horizon":
            for name in OF_HORIZONS:
                if getattr(self, name) != getattr(TrainConfig, name):
                    raise ValueError(
                        f'{name} is for neuron="horizon"; got {getattr(self, name)!r} with '
                        f"neuron={self.neuron!r}"
                    )
            if self.neuron == "spiking" and self.precision != "float32":
                raise ValueError(
                    'neuron="spiking" computes in float32: its layers take no dense products; got '
                    f"precision={self.precision!r}"
                )
            return
        for name, instead in (
            ("relative_lr", "every step holds the deviation of the weights; leave it out"),
            ("weight_norm", "give horizon_spread"),
        ):
            if getattr(self, name) != getattr(TrainConfig, name):
                raise ValueError(
                    f'{name} is for neuron="spiking"; got {getattr(self, name)!r} with '
                    f'neuron="horizon": {instead}'
                )
        if self.grad_accum_steps > 1:
            raise ValueError(
                'neuron="horizon" takes its statistics from whole batches; leave grad_accum_steps '
                f"at 1, got {self.grad_accum_steps}"
            )
        if self.initial_checkpoint is not None and self.optimizer == "muon":
            raise ValueError(
                'with neuron="horizon", the statistics of a trained network are part of its '
                "weights, which no longer have the fixed norm that Muon is for: with "
                "initial_checkpoint, give optimizer adam, and a learning rate such as 0.001"
            )
        if self.horizons or not math.isinf(self.t_max):
            raise ValueError(
                'with neuron="horizon" every layer has a horizon already; leave t_max and horizons '
                "out"
            )

    @property
    def normalizes(self) -> bool:
        """Whether layers of the network take their statistics from the batch."""
        return self.neuron == "relu-norm" or (
            self.neuron == "horizon" and self.initial_checkpoint is None
        )

    def learning_rate(self, epoch: int, fraction: float = 1.0) -> float:
        """Learning rate of a step.

        Parameters
        ----------
        epoch : int
            The epoch, counted from 0.
        fraction : float
            Fraction of the epoch that is done after the step; 1 for its last step.

        Notes
        -----
        The paper's section 4.1, if the schedule is linear.
        """
        position = epoch + fraction
        if self.schedule == "linear":
            rate = self.lr + epoch * ((self.min_lr - self.lr) / self.epochs)
        else:
            rate = cosine(self.lr, self.min_lr, position, self.epochs)
        return rate * min(1.0, position / self.warmup_epochs) if self.warmup_epochs else rate

    @property
    def encoding(self) -> Encoding:
        """How the network sees images."""
        return Encoding(self.alpha, self.polarity, self.standardize)

    def with_encoding(self, encoding: Encoding) -> Self:
        """The same settings for a network that sees images in another way."""
        return replace(self, **encoding.to_dict())

    @property
    def spike_settings(self) -> dict[str, Any]:
        """The spikes that the weights are trained for: encoding and horizons."""
        return {**self.encoding.to_dict(), "t_max": self.t_max, "horizons": tuple(self.horizons)}

    @property
    def distortion(self) -> dict[str, float]:
        """The limits of the random distortion of training images, by name."""
        return {name: getattr(self, name) for name in DISTORTIONS}

    def differences(self, other: "TrainConfig") -> list[str]:
        """Names of the fields in which two configurations would give different results."""
        return settings_that_differ(self, other)

    def to_json(self) -> str:
        """The configuration as JSON; an infinite number is the string ``"inf"``."""
        return json.dumps(settings_to_values(self), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote, here or in version 0.1 with the names of `RENAMED`.

        Raises
        ------
        ValueError
            If the text is not a JSON object, or a field is unknown or not allowed.
        """
        source = "the training configuration"
        try:
            values = parse_json(text)
        except ValueError as error:
            raise ValueError(f"{source} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{source} must be a JSON object")
        values = {RENAMED.get(name, name): value for name, value in values.items()}
        return settings_from_values(cls, values, source)
