"""The settings of quantization-aware training."""

import dataclasses
import itertools
import json
from dataclasses import dataclass
from typing import Any, Literal, Self

from ttfs_fast._settings import (
    check_settings,
    document_settings,
    setting,
    settings_from_values,
    settings_that_differ,
    settings_to_values,
)
from ttfs_fast._untrusted import parse_json
from ttfs_fast.optim.schedule import cosine
from ttfs_fast.training.config import RENAMED, TrainConfig

Bits = Literal[8, 4, 2]
BITS: tuple[Bits, ...] = (8, 4, 2)
"""Bits of a weight, in the order in which training goes through them."""

GROUP = "Quantization-aware training"


@dataclass(frozen=True)
class Stage:
    """A part of quantization-aware training, with a learning rate that falls from start to end.

    Attributes
    ----------
    bits : {8, 4, 2}
        Bits of a weight.
    first, last : int
        Epochs of the run that are done before it, and after it.
    frozen : bool
        The codes are frozen; thresholds and biases are trained.
    """

    bits: int
    first: int
    last: int
    frozen: bool = False

    @property
    def epochs(self) -> int:
        """Passes over the training images."""
        return self.last - self.first

    def __str__(self) -> str:
        return f"{self.bits} bits, codes frozen" if self.frozen else f"{self.bits} bits"


@document_settings
@dataclass(frozen=True)
class QuantizeConfig:
    """The settings of quantization-aware training.

    {settings}
    training : TrainConfig
        Data, loss, batches, augmentation, noise, weight decay, averaging, seed and threads, as for
        training; its ``epochs``, learning rate, ``grad_accum_steps`` and ``processes`` do not count
        here.

    Raises
    ------
    ValueError
        If a value is outside what is allowed; the message names the field.
    """

    bits: Bits = setting(
        2,
        "Bits of a weight at the end; training passes through those above first.",
        group=GROUP,
        basic=True,
    )
    time_bits: Literal[16, 8] = setting(16, "Bits of a spike code.", group=GROUP, basic=True)
    epochs: int = setting(
        4,
        "Passes over the training images with each number of bits; 0: no retraining.",
        group=GROUP,
        basic=True,
        min=0,
    )
    lr: float = setting(
        1e-3, "Learning rate at the start of each number of bits.", group=GROUP, basic=True, above=0
    )
    min_lr: float = setting(
        1e-5,
        "Learning rate at its end; it falls along half a cosine.",
        group=GROUP,
        basic=True,
        above=0,
    )
    training: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    last_epochs: int | None = setting(
        None,
        "Passes with the last number of bits, which is the hardest to train; if not given, as "
        "many as with the others.",
        group=GROUP,
        basic=True,
        min=0,
    )
    tune_epochs: int = setting(
        0,
        "Passes after all others with frozen weight codes, which train thresholds and biases only.",
        group=GROUP,
        basic=True,
        min=0,
    )
    float_teacher: bool = setting(
        False,
        "Knowledge distillation from the network as it was given, in float.",
        group=GROUP,
        basic=True,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.training.encoding.standardize:
            raise ValueError(
                "an integer network does not standardize images: take a network trained without it"
            )
        if self.float_teacher and self.training.teacher is not None:
            raise ValueError(
                f"two teachers: the network in float, and {self.training.teacher}; give one"
            )
        if self.training.teacher_hflip and not (self.float_teacher or self.training.teacher):
            raise ValueError(
                "teacher_hflip says what a teacher sees; give float_teacher, or a teacher, too"
            )
        if self.training.generations > 1:
            raise ValueError(
                f"generations are for training in float; got {self.training.generations} in the "
                "training settings: replace it by 1. The network in float teaches with "
                "float_teacher=True"
            )
        if self.min_lr > self.lr:
            raise ValueError(f"the learning rate must not rise; got {self.lr} to {self.min_lr}")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What a run does in turn."""
        last_epochs = self.epochs if self.last_epochs is None else self.last_epochs
        parts = [(bits, self.epochs, False) for bits in BITS if bits > self.bits]
        parts.append((self.bits, last_epochs, False))
        if self.tune_epochs:
            parts.append((self.bits, self.tune_epochs, True))
        ends = list(itertools.accumulate(epochs for _, epochs, _ in parts))
        return tuple(
            Stage(bits, end - epochs, end, frozen)
            for (bits, epochs, frozen), end in zip(parts, ends, strict=True)
        )

    def learning_rate(self, epoch: float, epochs: int) -> float:
        """Learning rate at position ``epoch`` of a stage of ``epochs`` epochs."""
        return cosine(self.lr, self.min_lr, epoch, epochs)

    def differences(self, other: "QuantizeConfig") -> list[str]:
        """Names of the fields in which two configurations would give different results."""
        own = settings_that_differ(self, other)
        return own + [f"training.{name}" for name in self.training.differences(other.training)]

    def to_json(self) -> str:
        """All settings as JSON."""
        values = settings_to_values(self)
        values["training"] = json.loads(self.training.to_json())
        return json.dumps(values, indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote; settings that are not there have their defaults.

        Raises
        ------
        ValueError
            If the text is not a JSON object, or a field is unknown or not allowed.
        """
        source = "the settings of quantization-aware training"
        values: Any = parse_json(text)
        if not isinstance(values, dict):
            raise ValueError(f"{source} must be a JSON object")
        training = TrainConfig.from_json(json.dumps(values.pop("training", {})))
        values = {RENAMED.get(name, name): value for name, value in values.items()}
        return dataclasses.replace(settings_from_values(cls, values, source), training=training)
