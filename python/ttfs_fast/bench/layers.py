"""The layers that are timed, their inputs and their weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import ttfs_fast
from ttfs_fast import reference

INPUT_FRACTION = 0.62
"""Fraction of the inputs that spike, as in the paper's CIFAR-10 network."""
OUTPUT_FRACTION = 2 / 3
"""Fraction of the outputs that the weights are made for."""
SPREAD = 3.0
"""Norm of a neuron's weights, about: they have deviation SPREAD / sqrt(N) for N inputs."""

Operator = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """A layer to time: a convolution, or fully connected where `size` is 0.

    Attributes
    ----------
    batch, inputs, outputs : int
        Images; channels, or neurons of a fully connected layer.
    size, kernel, stride, padding : int
        Height and width of the images, and the convolution's parameters.
    goal : float
        The most that it should cost, in dense layers of the same shape.
    """

    batch: int
    inputs: int
    outputs: int
    size: int = 0
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    goal: float = 3.5

    @property
    def name(self) -> str:
        if not self.size:
            return f"linear {self.inputs}->{self.outputs} b{self.batch}"
        stride = f"/{self.stride}" if self.stride > 1 else ""
        kernel = f"{self.kernel}x{self.kernel}{stride}"
        return f"conv {kernel} {self.inputs}->{self.outputs} @{self.size} b{self.batch}"

    @property
    def fan_in(self) -> int:
        return self.inputs * self.kernel**2

    @property
    def gpu_goal(self) -> float:
        """The most that forward should cost on a GPU, in dense layers of the same shape."""
        return 5.0

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Spike values, a dense input, and weights with which about two thirds of outputs fire."""
        torch.manual_seed(0)
        space = (self.size, self.size) if self.size else ()
        z = torch.rand(self.batch, self.inputs, *space).mul(2).exp()
        z[torch.rand_like(z) > INPUT_FRACTION] = math.inf
        shape = (self.outputs, self.inputs) + ((self.kernel, self.kernel) if self.size else ())
        weight = torch.randn(shape)
        fill_for_fraction_(weight, lambda w: self.spiking(z[:1] if self.size else z[:16], w))
        return z, torch.randn_like(z), weight

    def spiking(self, z: Tensor, weight: Tensor) -> Tensor:
        if not self.size:
            return ttfs_fast.spiking_linear(z, weight)
        return ttfs_fast.spiking_conv2d(z, weight, None, self.stride, self.padding)

    def dense(self, x: Tensor, weight: Tensor) -> Tensor:
        if not self.size:
            return F.linear(x, weight)
        return F.conv2d(x, weight, None, self.stride, self.padding)

    def plain(self, z: Tensor, weight: Tensor) -> Tensor:
        """The plain torch formulation: sort, gather, cumsum."""
        if not self.size:
            return reference.spiking_linear(z, weight)
        s, p = self.stride, self.padding
        return reference.spiking_conv2d(z, weight, None, (s, s), (p, p))


@dataclass(frozen=True)
class NearThreshold(Layer):
    """A layer whose weights add up to hardly more than 1, as equation (5) with beta = 1 asks.

    Weights are uniform in [-1.5, 6.5] / N for N inputs, those of 30 % of the neurons lower by
    4 / N, and 62 % of the inputs spike at times in [0, 3]. Many neurons fire long after their last
    input, on a slope that is small against the sums that it is left of: hard for float32.
    """

    @property
    def name(self) -> str:
        return f"near the threshold, {super().name}"

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Spike values, a dense input, and the weights."""
        z, x, weight = super().tensors()
        z = z**1.5  # times up to 3
        torch.nn.init.uniform_(weight, -1.5, 6.5)
        weight[torch.rand(self.outputs) < 0.3] -= 4
        return z, x, weight / self.fan_in


LAYERS = (
    Layer(4, 64, 64, 32, 3, 1, 1),
    Layer(8, 128, 128, 16, 3, 1, 1),
    Layer(16, 256, 256, 8, 3, 1, 1),
    Layer(32, 512, 512, 4, 3, 1, 1),
    Layer(128, 4096, 4096),
    Layer(128, 1024, 4096),
    Layer(16, 3, 64, 32, 3, 1, 1, goal=6),
    Layer(1, 3, 64, 224, 7, 2, 3, goal=6),
    Layer(10, 1, 32, 28, 5, 2, 2, goal=6),
)

NEAR_THRESHOLD = (NearThreshold(16, 256, 256, 8, 3, 1, 1), NearThreshold(32, 512, 512, 4, 3, 1, 1))


@torch.no_grad()
def fill_for_fraction_(
    weight: Tensor, layer: Callable[[Tensor], Tensor], fraction: float = OUTPUT_FRACTION
) -> None:
    """Normal weights, in place, whose mean makes about `fraction` of a layer's outputs fire.

    Parameters
    ----------
    weight : Tensor
        Standard normal values (outputs, ...); scaled by SPREAD / sqrt(N) and shifted by m / N for
        N inputs.
    layer : callable
        From a weight to the spike values of the layer's outputs; more of them are finite the
        larger the weights' mean. m is found by bisection between -16 and 48.
    """
    count = weight[0].numel()
    weight.mul_(SPREAD / math.sqrt(count))
    low, high = -16.0, 48.0
    for _ in range(12):
        mean = (low + high) / 2
        fired = layer(weight + mean / count).isfinite().float().mean().item()
        low, high = (mean, high) if fired < fraction else (low, mean)
    weight.add_((low + high) / 2 / count)


def train(operator: Operator, input: Tensor, weight: Tensor, grad: Tensor) -> None:
    """Forward and backward, with gradients of input and weight."""
    a, b = input.detach().requires_grad_(), weight.detach().requires_grad_()
    torch.autograd.backward(operator(a, b), grad)


def forward(operator: Operator, input: Tensor, weight: Tensor) -> None:
    with torch.no_grad():
        operator(input, weight)
