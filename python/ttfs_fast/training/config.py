"""Everything that decides the result of a training run, in one value."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args, get_origin

from ttfs_fast._untrusted import parse_json
from ttfs_fast.data import DatasetName
from ttfs_fast.data.augment import CropPadding
from ttfs_fast.encoding import Polarity
from ttfs_fast.loss import CostReduction
from ttfs_fast.optim.schedule import cosine

Schedule = Literal["linear", "cosine"]
Neuron = Literal["spiking", "horizon", "relu", "relu-norm"]
Optimizer = Literal["adam", "muon", "sgd"]
Precision = Literal["float32", "bfloat16"]
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

DISTORTIONS = ("rotate", "stretch", "shear", "shift", "elastic")
"""Fields that limit the random distortion of training images."""

MAY_BE_INFINITE = ("t_max", "max_gradient")

MAY_DIFFER_ON_RESUME = frozenset({"data_root", "teacher", "start", "workers"})
"""Fields that do not decide the result. Data and teacher are compared by content instead; the
weights that a run began with are in its checkpoint."""


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run; the defaults are the paper's for MNIST.

    Two runs with equal settings on the same machine end with the same bits.

    Attributes
    ----------
    dataset : {"mnist", "digits", "cifar10", "folder"}
        MNIST or CIFAR-10 from files; scikit-learn's 8 x 8 digits, which come with the package; or
        images in class folders, ``train/CLASS/NAME.jpg`` and ``val/CLASS/NAME.jpg`` in
        ``data_root``, which may be a zip file.
    data_root : str or None
        Folder of the data set; None looks where the environment variable ``TTFS_FAST_DATA``
        points. The digits need none, ``"folder"`` needs one.
    model : str
        The network: ``"mnist_scnn"``, or one of `ttfs_fast.models`: ``"cifar_scnn"``,
        ``"cifar_vgg"``, ``"cifar_airbench"``, ``"vgg4"``, ``"vgg8"``, ``"vgg13"``, ``"vgg17"``,
        ``"spiking_vgg16"``, ``"spiking_googlenet"``.
    width : float
        Factor on the channels of its layers, but of the last; mnist_scnn has 1 only.
    neuron : {"spiking", "horizon", "relu", "relu-norm"}
        Spiking neurons; spiking neurons in layers with a horizon (`ttfs_fast.horizon`), which
        train like a batch-normalized ReLU network and become plain spiking layers at the end; or
        for comparison the ReLU network of the same shape, without or with batch normalisation.
    horizon_spread : float
        With ``neuron="horizon"``: how early the spikes of a layer come, as a fraction of its
        horizon; see `ttfs_fast.horizon.HorizonConv2d`.
    whitening : bool
        With ``neuron="horizon"``: the first convolution holds the whitening filters of image
        patches, and is not trained; see `ttfs_fast.horizon.whiten_`.
    dirac : bool
        With ``neuron="horizon"``: convolutions start with neurons that pass their inputs on; see
        `ttfs_fast.horizon.dirac_`.
    precision : {"float32", "bfloat16"}
        With ``neuron="horizon"``: in which the dense products of training are computed. Spike
        values, weights and every evaluation are float32.
    epochs, batch_size : int
        Passes over the training images, and images per step.
    accumulate : int
        Pieces that each batch is run in, their gradients added up: less memory, the same result
        but for rounding.
    optimizer : {"adam", "muon", "sgd"}
        Adam; Muon, see `ttfs_fast.optim.muon`; or gradient descent with momentum.
    momentum : float
        Of ``optimizer="sgd"`` and ``"muon"``.
    lr_start, lr_end : float
        Learning rate, from the first to the last; see ``relative_rate``.
    schedule : {"linear", "cosine"}
        ``"linear"`` is the paper's: epoch e (from 0) uses
        ``lr_start + e * (lr_end - lr_start) / epochs``. ``"cosine"`` falls along half a cosine,
        step by step.
    warmup : float
        Epochs in which the learning rate rises from 0 to its schedule, step by step; 0 for none.
    adam_beta2 : float
        Adam's decay of the squared gradients, from 0 to below 1.
    weight_decay : float
        Share of every weight and bias that each step takes away, in units of the learning rate
        (AdamW). Unlike the squared weights of equation (5), Adam does not rescale it. 0 for none.
        With ``optimizer="sgd"``, torch's weight decay.
    weight_sum : float
        With ``neuron="horizon"``, the sum m of every neuron's weights, above 1. Otherwise the sum
        at which every neuron's weights are held, biases apart, see `ttfs_fast.optim.centering`;
        above 1, or 0 to leave the sums free and start with weights uniform in [0, 8 / N], as
        published.
    spread : float
        If the sums are held: norm of the deviations of a neuron's first weights from their mean.
    relative_rate : bool
        If the sums are held, count the learning rate in units of the deviation of each layer's
        first weights: layers of different sizes then learn alike, which deep networks need.
    hold_spread : bool
        With `relative_rate`: keep that norm at ``spread`` while training, too, and bring weights
        from ``start`` to it. A step of Muon then turns a neuron's weights by the learning rate, in
        radians.
    average : float
        Decay of a moving average of the weights, updated after every step; above 0, the
        averaged network is tested and exported in place of the last one. 0 for none.
    K, beta : float
        Weight-sum cost of equation (5): ``K * max(0, beta - sum of a neuron's weights)``. Of
        spiking neurons only: those of ``neuron="horizon"`` have the sum ``weight_sum``.
    lambda_ : float
        Factor of the squared weights in equation (5), of spiking neurons only.
    max_gradient : float
        Limit on the row-normalised Frobenius norm of each weight's gradient.
    alpha : float
        Time, in units of tau, between the earliest and the latest input spike.
    polarity : {"bright-first", "dark-first", "both"}
        Which pixels spike first; both give twice as many input channels.
    whiten : bool
        Bring every image to the same mean and deviation of its intensities first; see
        `ttfs_fast.encoding.standardise`.
    image_size : int
        Height and width that the images of ``dataset="folder"`` are brought to.
    crop : int
        Pixels of black that are put around a training image before a piece of its own size is cut
        out at random; 0 for none. Images of a folder are scaled first.
    crop_padding : {"black", "reflect"}
        What is put around it: black, or the image mirrored at its borders.
    flip : bool
        Mirror half of the training images.
    resized_crop : float
        Least share of a training image's area that is cut out, at random and with a ratio of
        its sides from 3/4 to 4/3, and scaled to the image's size; 0 for none.
    jitter : float
        Standard deviation of the Gaussian noise on the input spike times in training, in
        units of tau; 0 for none.
    rotate, stretch, shear, shift, elastic : float
        Random distortion of training images: largest rotation in degrees, largest relative
        change of height and width, largest shear, largest displacement in pixels, standard
        deviation of an elastic displacement field in pixels; 0 for none. See
        `ttfs_fast.data.distort.distort`.
    scale : float
        Factor on the spike times inside the classification term of the loss. With
        ``neuron="horizon"`` the output spikes lie about ``horizon_spread`` apart, so that it must
        be about 1 / ``horizon_spread`` for the network to learn.
    exclude_target : bool
        Leave the target class out of the sum of equation (5), as printed.
    label_smoothing : float
        Share of the target that is spread evenly over all classes, from 0 to below 1.
    teacher : str or None
        File of a trained network, or the name of one that ships, whose answers are learned besides
        the classes; see `ttfs_fast.training.distillation`. None for none.
    teacher_share : float
        Share of its answers in the classification term, from 0 to 1.
    temperature : float
        Temperature at which they are compared.
    cost_reduction : {"sum", "mean"}
        Whether the weight costs of equation (5) are summed over neurons and weights, as the
        paper writes, or averaged.
    t_max : float
        Horizon: later spikes are none, in units of tau. ``inf`` for no horizon.
    horizons : tuple of float
        A horizon for each spiking layer, in their order, in place of ``t_max``; empty for none.
        `ttfs_fast.analysis.horizons` finds those that silence a given share of the neurons.
    start : str or None
        File of a trained network, or the name of one that ships, of the same shape, whose weights
        are the first ones; for training it further under other conditions. None starts anew.
    seed : int
        Seed of the weights, the order of the images and the noise.
    threads : int or None
        Threads of torch and of the operators; None leaves torch's own number.
    processes : int
        Processes that train together, each on its share of every batch; set by `train` from what
        torchrun started.
    workers : int
        Of ``dataset="folder"``: processes that read and cut images; 0 reads in the training one.
    patience : int
        Stop after so many epochs without a better test accuracy, and end with the weights of the
        best epoch; 0 for never. To be used with ``holdout``.
    train_images, test_images : int or None
        Use only the first so many images; None for all.
    holdout : int
        Hold out the last so many training images and test on them, instead of on the test
        images: for choosing settings. 0 for none.

    Raises
    ------
    ValueError
        If a value is outside what is allowed; the message names the field.

    Notes
    -----
    Source: Zhou et al., "Temporal-Coded Deep Spiking Neural Network with Easy Training and
    Robust Performance" (AAAI 2021), section 4.1 and equation (5).
    """

    dataset: DatasetName = "mnist"
    data_root: str | None = None
    model: ModelName = "mnist_scnn"
    width: float = 1.0
    neuron: Neuron = "spiking"
    horizon_spread: float = 0.002
    whitening: bool = False
    dirac: bool = False
    precision: Precision = "float32"
    epochs: int = 50
    batch_size: int = 10
    accumulate: int = 1
    optimizer: Optimizer = "adam"
    momentum: float = 0.9
    lr_start: float = 1e-3
    lr_end: float = 1e-4
    schedule: Schedule = "linear"
    warmup: float = 0.0
    adam_beta2: float = 0.999
    weight_decay: float = 0.0
    weight_sum: float = 0.0
    spread: float = 1.0
    relative_rate: bool = False
    hold_spread: bool = False
    average: float = 0.0
    K: float = 100.0
    lambda_: float = 1e-3
    beta: float = 1.0
    max_gradient: float = 10.0
    alpha: float = 3.0
    polarity: Polarity = "bright-first"
    whiten: bool = False
    image_size: int = 224
    crop: int = 0
    crop_padding: CropPadding = "black"
    flip: bool = False
    resized_crop: float = 0.0
    jitter: float = 0.0
    rotate: float = 0.0
    stretch: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    scale: float = 1.0
    exclude_target: bool = False
    label_smoothing: float = 0.0
    teacher: str | None = None
    teacher_share: float = 0.8
    temperature: float = 2.0
    cost_reduction: CostReduction = "sum"
    t_max: float = math.inf
    horizons: tuple[float, ...] = ()
    start: str | None = None
    seed: int = 0
    threads: int | None = None
    processes: int = 1
    workers: int = 2
    patience: int = 0
    train_images: int | None = None
    test_images: int | None = None
    holdout: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _typed(field, getattr(self, field.name)))
        for name in (
            "epochs",
            "batch_size",
            "accumulate",
            "image_size",
            "threads",
            "processes",
            "train_images",
            "test_images",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        for name in ("lr_start", "lr_end", "alpha", "scale", "width", "spread", "temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be finite and above 0; got {value}")
        if not self.max_gradient > 0:
            raise ValueError(f"max_gradient must be above 0, or inf; got {self.max_gradient}")
        for name in (
            "K",
            "lambda_",
            "beta",
            "jitter",
            "warmup",
            "weight_decay",
            "holdout",
            "crop",
            "workers",
            "patience",
            *DISTORTIONS,
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and not negative; got {value}")
        for name in ("adam_beta2", "average", "stretch", "momentum", "label_smoothing"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and below 1; got {value}")
        if self.weight_sum and not (math.isfinite(self.weight_sum) and self.weight_sum > 1):
            raise ValueError(
                f"weight_sum must be finite and above 1, or no neuron spikes, or 0 to leave the "
                f"sums free; got {self.weight_sum}"
            )
        if self.weight_sum and self.neuron not in ("spiking", "horizon"):
            raise ValueError("weight_sum is for spiking neurons; a ReLU network starts as He's")
        self._check_horizon()
        if self.relative_rate and not self.weight_sum:
            raise ValueError("relative_rate needs a weight_sum, such as 4")
        if self.hold_spread and not self.relative_rate:
            raise ValueError("hold_spread needs relative_rate, and with it a weight_sum, such as 4")
        for name in ("resized_crop", "teacher_share"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name} must be from 0 to 1; got {value}")
        if self.crop and self.resized_crop:
            raise ValueError("crop and resized_crop are two ways to cut; give one of them")
        if self.neuron != "spiking" and self.polarity == "both":
            raise ValueError(
                f'neuron="{self.neuron}" sees each pixel once; polarity must not be "both"'
            )
        if self.label_smoothing and self.exclude_target:
            raise ValueError("label_smoothing and exclude_target contradict each other; give one")
        if self.neuron == "relu-norm" and self.processes > 1:
            raise ValueError("batch normalisation counts on one process; train it with one")
        if self.neuron == "relu-norm" and self.accumulate > 1:
            raise ValueError(
                f"batch normalisation counts over whole batches; accumulate must be 1 with neuron "
                f"relu-norm, got {self.accumulate}"
            )
        if self.normalizes and self.batch_size == 1:
            raise ValueError("batch normalisation needs a batch_size of at least 2; got 1")
        if math.isnan(self.t_max):
            raise ValueError("t_max must be a time in units of tau, or inf; got nan")
        if self.horizons and not math.isinf(self.t_max):
            raise ValueError("horizons replace t_max; give one of the two")
        if self.horizons and self.neuron != "spiking":
            raise ValueError("horizons are for spiking neurons")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be between 0 and 2**63 - 1; got {self.seed}")

    def _check_horizon(self) -> None:
        if self.neuron != "horizon":
            for name in ("whitening", "dirac", "precision", "horizon_spread"):
                if getattr(self, name) != getattr(TrainConfig, name):
                    raise ValueError(
                        f'{name} is for neuron="horizon"; got {getattr(self, name)!r} with '
                        f"neuron={self.neuron!r}"
                    )
            return
        if not self.weight_sum:
            raise ValueError(
                'neuron="horizon" needs a weight_sum, the sum of every neuron\'s weights, such as 4'
            )
        if not 0 < self.horizon_spread < 1:
            raise ValueError(
                f"horizon_spread must be above 0 and below 1; got {self.horizon_spread}"
            )
        for name, instead in (
            ("relative_rate", "every step holds the deviation of the weights; leave it out"),
            ("spread", "give horizon_spread"),
        ):
            if getattr(self, name) != getattr(TrainConfig, name):
                raise ValueError(
                    f'{name} is for neuron="spiking"; got {getattr(self, name)!r} with '
                    f'neuron="horizon": {instead}'
                )
        if self.accumulate > 1 or self.processes > 1:
            raise ValueError(
                'neuron="horizon" takes its statistics from whole batches; train it with one '
                "process and accumulate=1"
            )
        if self.start is not None:
            raise ValueError(
                'neuron="horizon" starts anew: the statistics of a trained network are folded into '
                "its weights; leave start out"
            )
        if self.horizons or not math.isinf(self.t_max):
            raise ValueError(
                'with neuron="horizon" every layer has a horizon already; leave t_max and horizons '
                "out"
            )

    @property
    def normalizes(self) -> bool:
        """Whether layers of the network take their statistics from the batch."""
        return self.neuron in ("horizon", "relu-norm")

    def learning_rate(self, epoch: int, share: float = 1.0) -> float:
        """Learning rate of a step.

        Parameters
        ----------
        epoch : int
            The epoch, counted from 0.
        share : float
            Share of the epoch that is done after the step; 1 for its last step.

        Notes
        -----
        The paper's section 4.1, if the schedule is linear.
        """
        position = epoch + share
        if self.schedule == "linear":
            rate = self.lr_start + epoch * ((self.lr_end - self.lr_start) / self.epochs)
        else:
            rate = cosine(self.lr_start, self.lr_end, position, self.epochs)
        return rate * min(1.0, position / self.warmup) if self.warmup else rate

    @property
    def encoding(self) -> dict[str, Any]:
        """How pixels become spikes, as arguments of the functions that test a network."""
        return {"alpha": self.alpha, "polarity": self.polarity, "whiten": self.whiten}

    @property
    def spike_settings(self) -> dict[str, Any]:
        """The spikes that the weights are trained for: encoding and horizons."""
        return {**self.encoding, "t_max": self.t_max, "horizons": tuple(self.horizons)}

    @property
    def distortion(self) -> dict[str, float]:
        """The limits of the random distortion of training images, by name."""
        return {name: getattr(self, name) for name in DISTORTIONS}

    def differences(self, other: "TrainConfig") -> list[str]:
        """Names of the fields in which two configurations would give different results."""
        return [
            field.name
            for field in dataclasses.fields(self)
            if field.name not in MAY_DIFFER_ON_RESUME
            and getattr(self, field.name) != getattr(other, field.name)
        ]

    def to_json(self) -> str:
        """The configuration as JSON; an infinite number is the string ``"inf"``."""
        values = dataclasses.asdict(self)
        for name in MAY_BE_INFINITE:
            if math.isinf(values[name]):
                values[name] = str(values[name])
        values["horizons"] = [str(t) if math.isinf(t) else t for t in values["horizons"]]
        return json.dumps(values, indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        ValueError
            If the text is not a JSON object, or a field is unknown or not allowed.
        """
        try:
            values = parse_json(text)
        except ValueError as error:
            raise ValueError(f"the training configuration is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError("the training configuration must be a JSON object")
        check_fields(values, "the training configuration")
        for name in MAY_BE_INFINITE:
            if values.get(name) in ("inf", "-inf"):
                values[name] = float(values[name])
        horizons = values.get("horizons", [])
        if isinstance(horizons, list):
            values["horizons"] = [float(t) if t in ("inf", "-inf") else t for t in horizons]
        return cls(**values)


def check_fields(values: Mapping[str, Any], source: str) -> None:
    """Raise ValueError if a name is no field of `TrainConfig`."""
    unknown = sorted(set(values) - {field.name for field in dataclasses.fields(TrainConfig)})
    if unknown:
        raise ValueError(f"{source} has fields this version does not know: {', '.join(unknown)}")


def _typed(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """``value`` as the type that ``field`` declares, so that equal settings compare equal."""
    wanted = field.type
    if get_origin(wanted) is Literal:
        if value not in get_args(wanted):
            allowed = ", ".join(map(str, get_args(wanted)))
            raise ValueError(f"{field.name} must be one of {allowed}; got {value!r}")
        return value
    if value is None and wanted in (int | None, str | None):
        return None
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _as_float(field.name, value)
    if wanted in (int, int | None) and isinstance(value, int) and not isinstance(value, bool):
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{field.name} must be an integer of 64 bits; got a longer one")
        return value
    if wanted in (str, str | None) and isinstance(value, str):
        return value
    if wanted is bool and isinstance(value, bool):
        return value
    if get_origin(wanted) is tuple and isinstance(value, list | tuple):
        times = [t for t in value if isinstance(t, int | float) and not isinstance(t, bool)]
        if len(times) == len(value) and not any(map(math.isnan, times)):
            return tuple(map(float, times))
    kind = wanted.__name__ if isinstance(wanted, type) else str(wanted)
    raise ValueError(f"{field.name} must be {kind}; got {value!r}")


def _as_float(name: str, value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        raise ValueError(f"{name} must be below 1e308; got an integer above it") from None
