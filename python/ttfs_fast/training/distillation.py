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

from ttfs_fast.data.imageset import listed
from ttfs_fast.loss import MAX_TIME
from ttfs_fast.models.pretrained import PRETRAINED, weights_file
from ttfs_fast.training.build import load_model, read_image_shape
from ttfs_fast.training.config import TrainConfig
from ttfs_fast.training.datasets import DataSet, check_shape
from ttfs_fast.training.export import read_classes

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
        no gradients, weights in channels-last format.
    scale : float
        Factor on its output times that its own loss had.
    sha256 : str
        Digest of its weights.
    """

    network: nn.Module
    scale: float
    sha256: str

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)
        # In this format torch convolves and pools a few channels two to three times as fast.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def distill(
        self, losses: Tensor, output: Tensor, values: Tensor, config: TrainConfig, **max_time: float
    ) -> Tensor:
        """The classification term mixed with the distillation loss, by ``distill_weight``.

        Parameters
        ----------
        losses : Tensor
            The term without a teacher, summed over the samples; scalar.
        output : Tensor
            Output of the student, (N, C).
        values : Tensor
            The spike values of the images, the input of both networks.
        config : TrainConfig
            Has the weight and the temperature.
        max_time : float
            ``max_time``, as for `distillation_loss`.
        """
        with torch.no_grad():
            answers = self.network(values)
        distilled = distillation_loss(
            output,
            answers,
            scale=config.logit_scale,
            teacher_scale=self.scale,
            temperature=config.kd_temperature,
            **max_time,
        )
        return torch.lerp(losses, distilled, config.distill_weight)


def load_teacher(config: TrainConfig, images: DataSet | None = None) -> Teacher | None:
    """The teacher that a configuration names; None if it names none.

    Parameters
    ----------
    config : TrainConfig
        The settings.
    images : ImageSet or StreamedImages, optional
        The training images: the teacher must take such ones, and know their classes in this order.

    Raises
    ------
    FileNotFoundError
        If its file is not there.
    ValueError
        If it is not a network's, or that network takes other images, has other classes, or takes
        its images as other spikes.
    """
    if config.teacher is None:
        return None
    with weights_file(config.teacher) as path:
        if not path.is_file():
            raise FileNotFoundError(
                f"no teacher at {path}: train it first, and give its model.safetensors as "
                f"teacher, or a pretrained network: {', '.join(PRETRAINED)}"
            )
        network, settings = load_model(path)
        shape, known = read_image_shape(path), read_classes(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    for name, own in config.encoding.to_dict().items():
        its = getattr(settings.encoding, name)
        if own != its:
            raise ValueError(
                f"the teacher {config.teacher} was trained with {name} {its}, this network is to "
                f"be with {own}: both see the same spikes, so they must agree"
            )
    if images is not None:
        check_shape(images, shape, f"the teacher {config.teacher}")
        if known is not None and known != images.classes:
            raise ValueError(
                f"the teacher {config.teacher} knows the classes {listed(known)}, and "
                f"{images.name} has {listed(images.classes)}: its answers are learned by their "
                "order, so the classes must be the same; choose another teacher"
            )
    return Teacher(network, settings.logit_scale, sha256)
