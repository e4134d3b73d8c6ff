"""The networks that are timed, each beside a dense one of the same shape."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ttfs_fast.bench.layers import fill_for_fraction_
from ttfs_fast.data import load_digits
from ttfs_fast.encoding import encode
from ttfs_fast.horizon import has_horizon_layers, renormalize_horizons_
from ttfs_fast.layers import watch_layers
from ttfs_fast.loss import SpikingLoss
from ttfs_fast.models import mnist_scnn, relu_counterpart, spiking_vgg16
from ttfs_fast.nn import SpikingConv2d, SpikingLinear
from ttfs_fast.training.batches import Batch
from ttfs_fast.training.step import StepLoss, StepResult, TrainingStep, equation_5

Kind = Literal["spiking", "dense"]

IMAGE_SIZE = 32


def vgg16(kind: Kind, width: float = 1.0) -> nn.Sequential:
    """SpikingVGG16 of Table 1, or the dense network of the same shapes with ReLU.

    Parameters
    ----------
    kind : {"spiking", "dense"}
        What the layers are.
    width : float
        Factor on all layers but the last.
    """
    if kind == "spiking":
        return spiking_vgg16(width=width, image_size=IMAGE_SIZE)
    return relu_counterpart(spiking_vgg16(width=width, image_size=IMAGE_SIZE, device="meta"))


def images(batch: int) -> Tensor:
    """Random images (N, 3, 32, 32), every pixel uniform in [0, 1]."""
    return torch.rand(batch, 3, IMAGE_SIZE, IMAGE_SIZE)


@torch.no_grad()
def keep_firing_(model: nn.Sequential, z: Tensor) -> None:
    """Random weights with which two thirds of every layer's neurons fire for the images `z`.

    From the first layer to the last, each gets normal weights whose mean is found from the spikes
    that reach it (:func:`ttfs_fast.bench.layers.fill_for_fraction_`).
    """
    for layer in model:
        if isinstance(layer, (SpikingConv2d, SpikingLinear)):
            nn.init.normal_(layer.weight)
            fill_for_fraction_(layer.weight, partial(_with_weight, layer, z))
        z = layer(z)


def _with_weight(layer: nn.Module, z: Tensor, weight: Tensor) -> Tensor:
    out: Tensor = functional_call(layer, {"weight": weight}, (z,))
    return out


def firing_fractions(model: nn.Module, z: Tensor) -> list[float]:
    """Fraction of the neurons that fire in each layer, pools not counted."""
    fractions: list[float] = []
    with (
        torch.no_grad(),
        watch_layers(
            model, lambda name, out: fractions.append(out.isfinite().float().mean().item())
        ),
    ):
        model(z)
    return fractions


def mnist(kind: Kind, *, trained: bool = False) -> nn.Sequential:
    """The paper's MNIST network, or the dense network of the same shapes with ReLU."""
    if kind == "spiking":
        return mnist_scnn(pretrained=trained)
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(32, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 10),
    )


def digits(batch: int) -> tuple[Tensor, Tensor]:
    """Handwritten digits (N, 1, 28, 28) in [0, 1], and their classes."""
    data = load_digits(train=True)
    pixels = torch.from_numpy(data.images[:batch]).float() / 255
    return pixels, torch.from_numpy(data.labels[:batch]).long()


def training_step(
    kind: Kind,
    model: nn.Module,
    pixels: Tensor,
    target: Tensor,
    *,
    encoding: Callable[[Tensor], Tensor] = encode,
) -> Callable[[], StepResult]:
    """A function that makes one whole training step.

    Spiking: forward, the loss of equation (5), backward, gradient limit, Adam; layers with horizons
    have no costs of weights, and theirs are brought back to their norm. Dense: forward,
    cross-entropy, backward, Adam. Adam is torch's fused one; its learning rate is 0, with which it
    does the same work and leaves the weights alone, so that every step is the same.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, fused=True)
    if kind == "dense":
        step = TrainingStep(model, optimizer, _cross_entropy, clip_grad=None)
    elif has_horizon_layers(model):
        loss = equation_5(SpikingLoss(weight_sum_cost=0.0, l2_cost=0.0), model)
        step = TrainingStep(model, optimizer, loss, constrain=renormalize_horizons_)
    else:
        step = TrainingStep(model, optimizer, equation_5(SpikingLoss(), model))
    batch = Batch(encoding(pixels) if kind == "spiking" else pixels, target, len(target))
    return lambda: step(batch)


def _cross_entropy(logits: Tensor, batch: Batch) -> StepLoss:
    return StepLoss(F.cross_entropy(logits, batch.labels))
