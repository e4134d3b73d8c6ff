"""Muon: an optimizer that orthogonalizes its steps.

A few directions dominate the gradient of a spiking layer's weights. Every factor z_i - z_j has the
same sign. Even without a neuron's mean, the gradient mainly points along the mean image, and along
directions that all neurons of a layer share. So do steps along the gradient, or scaled weight by
weight. Muon makes the singular values of the step's matrix equal, so that directions that
distinguish inputs get the same share of the step as the common ones.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of Jordan's quintic, which brings singular values of 0.01 to 1 near 1 in five steps."""

SMALL = 1e-15
"""Frobenius norms below this are scaled up before they are trusted."""


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """A matrix with the same singular vectors, and singular values near 1.

    Parameters
    ----------
    matrix : Tensor
        Shape (rows, columns).
    steps : int
        Of the Newton-Schulz iteration; with 5 a singular value of more than a hundredth of the
        Frobenius norm comes to between 0.7 and 1.2.

    Returns
    -------
    Tensor
        Of the same shape; 0 for a matrix of zeros.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    tiny = torch.finfo(matrix.dtype).tiny
    if wide.numel() and float(wide.norm()) < SMALL:  # squares of its elements may underflow
        wide = wide / wide.abs().amax().clamp(min=tiny)
    x: Tensor = wide / wide.norm().clamp(min=tiny)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


class Muon(torch.optim.Optimizer):
    """Muon for weights, Adam for biases.

    A step of a weight matrix, seen as (outputs, inputs), is its gradient's moving average with
    Nesterov's correction, with its singular values made equal, and scaled so that the root mean
    square of its elements is the learning rate. Parameters of fewer than two dimensions get
    Adam's steps, whose elements are of that size, too; so do the matrices of a parameter group with
    ``adam=True``, such as the weights of a classifier.

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        What to train, or groups of it.
    lr : float
        Learning rate: size of a step's elements.
    momentum : float
        Decay of the moving average.
    beta2 : float
        Adam's decay of the squared gradients.
    weight_decay : float
        Fraction by which each step shrinks the weights, in units of the learning rate.

    Raises
    ------
    ValueError
        If a setting is negative, or ``momentum`` or ``beta2`` is not below 1.

    Notes
    -----
    Source: K. Jordan and others, "Muon: An optimizer for hidden layers in neural networks" (2024).
    ``torch.optim.Muon`` takes matrices only and orthogonalizes in bfloat16, which is slow on CPUs.
    A step of centered gradients is centered, so sums that are fixed stay fixed.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.95,
        beta2: float = 0.99,
        weight_decay: float = 0.0,
    ) -> None:
        for name, value, most in (
            ("lr", lr, math.inf),
            ("momentum", momentum, 1),
            ("beta2", beta2, 1),
            ("weight_decay", weight_decay, math.inf),
        ):
            if not 0 <= value < most:
                bound = "" if math.isinf(most) else f", below {most}"
                raise ValueError(f"{name} must be at least 0{bound} and finite; got {value}")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "beta2": beta2,
                "weight_decay": weight_decay,
                "adam": False,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if group["weight_decay"]:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                matrix = parameter.dim() > 1 and not group["adam"]
                step = self._matrix_step if matrix else self._vector_step
                step(parameter, group)
        return loss

    def _matrix_step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        grad, state = parameter.grad, self.state[parameter]
        assert grad is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
        ahead = torch.lerp(grad, state["momentum_buffer"], group["momentum"])
        step = orthogonalize(ahead.flatten(1))
        size = step.square().mean().sqrt().clamp(min=torch.finfo(step.dtype).tiny)
        parameter.sub_((step * (group["lr"] / size)).view_as(parameter))

    def _vector_step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        grad, state = parameter.grad, self.state[parameter]
        assert grad is not None
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["step"] = torch.zeros((), dtype=torch.float64)
        state["step"] += 1
        steps = state["step"].item()
        state["exp_avg"].lerp_(grad, 0.1)
        state["exp_avg_sq"].lerp_(grad.square(), 1 - group["beta2"])
        size = (state["exp_avg_sq"] / (1 - group["beta2"] ** steps)).sqrt().add_(1e-8)
        parameter.addcdiv_(state["exp_avg"], size, value=-group["lr"] / (1 - 0.9**steps))
