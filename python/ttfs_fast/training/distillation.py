"""Knowledge distillation: learning from the outputs of a trained network.

The outputs of a teacher contain more information about an image than its class: which other classes
it resembles, and how much. A small network that cannot fit hard labels of distorted images fits
these outputs better.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ttfs_fast.conversion.network import refuse_converted
from ttfs_fast.data.imageset import listed
from ttfs_fast.horizon import unfold_where_possible_
from ttfs_fast.layers import find_spiking_layers
from ttfs_fast.loss import MAX_TIME
from ttfs_fast.models.pretrained import PRETRAINED, weights_file
from ttfs_fast.training.build import load_model, read_image_shape
from ttfs_fast.training.config import TrainConfig
from ttfs_fast.training.datasets import DataSet, check_shape
from ttfs_fast.training.export import read_classes, weights_digest
from ttfs_fast.training.own_network import OwnModel
from ttfs_fast.training.step import autocast

MAX_TIME_OF_TEACHER = 60.0
"""Latest output time of a teacher, in tau: beyond what a ReLU network's logits become."""


def distillation_loss(
    z: Tensor,
    teacher_z: Tensor,
    *,
    scale: float = 1.0,
    teacher_scale: float = 1.0,
    temperature: float = 2.0,
    max_time: float = MAX_TIME,
) -> Tensor:
    """Divergence of a network's answers from its teacher's, summed over the samples.

    With output times t = ln z, p = softmax(-scale t / T) and the teacher's q likewise, it is
    T^2 sum q ln(q / p). The factor T^2 keeps the size of the gradient at any temperature.

    Parameters
    ----------
    z, teacher_z : Tensor
        Spike values of the output neurons, (N, C); inf where silent. ``teacher_z`` gets no
        gradient.
    scale, teacher_scale : float
        Factor on the times, above 0, as in `ttfs_fast.loss.first_spike_cross_entropy`.
    temperature : float
        T, above 0: larger shows more of the wrong answers.
    max_time : float
        Horizon of the network's own times, as in `ttfs_fast.loss.first_spike_cross_entropy`.

    Returns
    -------
    loss : Tensor
        Scalar, at least 0.

    Notes
    -----
    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015).
    """
    own = functional.log_softmax(z.log().clamp(max=max_time) * (-scale / temperature), dim=-1)
    wanted = functional.log_softmax(
        teacher_z.detach().log().clamp(max=MAX_TIME_OF_TEACHER) * (-teacher_scale / temperature),
        dim=-1,
    )
    divergence = functional.kl_div(own, wanted, reduction="sum", log_target=True)
    return divergence * temperature**2


@dataclass(frozen=True)
class Teacher:
    """A trained network that another one learns from.

    Attributes
    ----------
    network : Module
        Maps the spike values of the images to those of the classes. It is prepared for inference:
        no gradients, weights in channels-last format, folded layers with horizons as dense
        products.
    scale : float
        Factor on its output times that its own loss had.
    sha256 : str
        Digest of its weights, its layers' ``t_max`` and ``scale``.
    """

    network: nn.Module
    scale: float
    sha256: str

    def __post_init__(self) -> None:
        unfold_where_possible_(self.network)
        self.network.eval().requires_grad_(False)
        # In this format torch convolves and pools a few channels two to three times as fast.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Teachers(tuple[Teacher, ...]):
    """The trained networks that another one learns from, one at least."""

    @property
    def sha256(self) -> str:
        """Digest of the weights of all."""
        return ",".join(teacher.sha256 for teacher in self)

    def to(self, device: torch.device) -> "Teachers":
        """Move their networks, in place."""
        for teacher in self:
            teacher.network.to(device)
        return self

    def distill(
        self, losses: Tensor, output: Tensor, values: Tensor, config: TrainConfig, **max_time: float
    ) -> Tensor:
        """The classification term mixed with the distillation loss, by ``distill_weight``.

        The images of a batch are in random order. So each teacher answers for a part of them, all
        parts of one size or nearly so, and with ``teacher_hflip`` sees half of its part mirrored:
        over the epochs, the expected loss has the mean of all answers, for the time of one.

        Parameters
        ----------
        losses : Tensor
            The term without a teacher, summed over the samples; scalar.
        output : Tensor
            Output of the student, (N, C).
        values : Tensor
            The spike values of the images, (N, C, H, W), the input of all networks.
        config : TrainConfig
            Has the weight and the temperature, and whether images are mirrored.
        max_time : float
            ``max_time``, as for `distillation_loss`.
        """
        flips = (False, True) if config.teacher_hflip else (False,)
        views = [(teacher, flip) for teacher in self for flip in flips]
        distilled = torch.zeros_like(losses)
        parts = zip(
            views, values.tensor_split(len(views)), output.tensor_split(len(views)), strict=True
        )
        for (teacher, flip), part, own in parts:
            if not len(part):  # of the last batch of an epoch
                continue
            with torch.no_grad(), autocast(config.precision, part.device):
                answers = teacher.network(part.flip(-1) if flip else part)
            distilled = distilled + distillation_loss(
                own,
                answers,
                scale=config.logit_scale,
                teacher_scale=teacher.scale,
                temperature=config.kd_temperature,
                **max_time,
            )
        return torch.lerp(losses, distilled, config.distill_weight)


def load_teachers(
    config: TrainConfig, images: DataSet | None = None, *, model: OwnModel | None = None
) -> Teachers | None:
    """The teachers that a configuration names; None if it names none.

    Parameters
    ----------
    config : TrainConfig
        The settings.
    images : ImageSet or StreamedImages, optional
        The training images: the teachers must take such ones, and know their classes in this
        order.
    model : Module, callable or str, optional
        The network of all teachers, if it is a user's own that was given as an object.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    ValueError
        If it is not a network's, or that network takes other images, has other classes, or takes
        its images as other spikes.
    """
    if config.teacher is None:
        return None
    return Teachers(_load_teacher(name, config, images, model) for name in config.teachers)


def _load_teacher(
    name: str, config: TrainConfig, images: DataSet | None, model: OwnModel | None
) -> Teacher:
    with weights_file(name) as path:
        if not path.is_file():
            raise FileNotFoundError(
                f"no teacher at {path}: train it first, and give its model.safetensors as "
                f"teacher, or a pretrained network: {', '.join(PRETRAINED)}"
            )
        network, settings = load_model(path, model=model)
        refuse_converted(network, "teach")
        shape, known = read_image_shape(path), read_classes(path)
    for field, own in config.encoding.to_dict().items():
        its = getattr(settings.encoding, field)
        if own != its:
            raise ValueError(
                f"the teacher {name} was trained with {field} {its}, this network is to be with "
                f"{own}: both see the same spikes, so they must agree"
            )
    if images is not None:
        check_shape(images, shape, f"the teacher {name}")
        if known is not None and known != images.classes:
            raise ValueError(
                f"the teacher {name} knows the classes {listed(known)}, and {images.name} has "
                f"{listed(images.classes)}: its answers are learned by their order, so the classes "
                "must be the same; choose another teacher"
            )
    # All that decides its answers, and the loss.
    limits = [layer.t_max for layer in find_spiking_layers(network).values()]
    facts = f"{weights_digest(network)} {settings.logit_scale!r} {limits!r}"
    sha256 = hashlib.sha256(facts.encode()).hexdigest()
    return Teacher(network, settings.logit_scale, sha256)
