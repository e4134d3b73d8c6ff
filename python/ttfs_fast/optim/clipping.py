"""The limit on gradients of Zhou et al. (AAAI 2021), section 4.1."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

LARGE = 1 << 20
"""Elements of a gradient from which its norm is taken row by row."""


def clip_gradient_(
    parameters: nn.Module | Tensor | Iterable[Tensor],
    max_norm: float = 10.0,
    *,
    error_if_nonfinite: bool = True,
) -> float:
    """Keep each weight matrix's row-normalized gradient norm at or below a limit, in place.

    The gradient of a weight matrix, seen as (out, inputs), is scaled down as a whole if its
    Frobenius norm divided by its number of rows, the output neurons, exceeds ``max_norm``. Call
    it between ``backward()`` and the optimizer's step.

    Parameters
    ----------
    parameters : Module, Tensor or iterable of Tensor
        With a module, the bias of a layer is one more column of its weight matrix, as in the
        paper, unless one of them is computed from other tensors, as of pruned or centered layers.
        Otherwise every tensor, viewed as (out, -1), is a matrix of its own. Parameters
        without a gradient are passed over.
    max_norm : float
        The limit; above 0.
    error_if_nonfinite : bool
        What to do about a gradient that holds NaN or infinity, which no scaling corrects: raise
        and leave all gradients as they are, or leave that one as it is and return its norm, so
        that the caller can skip the step.

    Returns
    -------
    largest : float
        Largest row-normalized norm before clipping; NaN or infinity if a gradient has one; 0
        if there was no gradient.

    Raises
    ------
    ValueError
        If ``max_norm`` is not above 0.
    RuntimeError
        If a gradient is not finite and ``error_if_nonfinite`` is true.

    Notes
    -----
    Zhou et al., AAAI 2021, section 4.1: gradients hold 1 / (sum of the causal weights - 1),
    which has no bound. Norms are taken in float64, so that large float32 gradients do not
    overflow on the way.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0; got {max_norm}")
    groups = [
        grads
        for group in _matrices(parameters)
        if (grads := [p.grad for p in group if p.grad is not None])
    ]
    if not groups:
        return 0.0
    largest = 0.0
    ratios = _row_normalized_norms(groups)
    nonfinite = [ratio for ratio in ratios if not math.isfinite(ratio)]
    if nonfinite and error_if_nonfinite:
        shapes = ", ".join(
            str(tuple(grads[0].shape))
            for grads, ratio in zip(groups, ratios, strict=True)
            if not math.isfinite(ratio)
        )
        raise RuntimeError(
            f"the gradient of the weights of shape {shapes} holds NaN or infinity; skip this step "
            "or lower the learning rate; error_if_nonfinite=False returns the norm instead"
        )
    for grads, ratio in zip(groups, ratios, strict=True):
        if max_norm < ratio < math.inf:
            for grad in grads:
                grad.mul_(max_norm / ratio)
        largest = max(largest, ratio)
    return nonfinite[0] if nonfinite else largest


def _matrices(parameters: nn.Module | Tensor | Iterable[Tensor]) -> list[list[Tensor]]:
    if isinstance(parameters, Tensor):
        return [[parameters]]
    if not isinstance(parameters, nn.Module):
        return [[parameter] for parameter in dict.fromkeys(parameters)]
    groups: list[list[Tensor]] = []
    seen: set[Tensor] = set()
    for module in parameters.modules():
        own = {
            name: parameter
            for name, parameter in module._parameters.items()
            if parameter is not None and parameter not in seen
        }
        seen.update(own.values())
        weight, bias = own.get("weight"), own.get("bias")
        if weight is not None and bias is not None and bias.shape == weight.shape[:1]:
            groups.append([weight, bias])
            del own["weight"], own["bias"]
        groups.extend([parameter] for parameter in own.values())
    return groups


def _norm(grad: Tensor) -> Tensor:
    """Norm in float64; of a large matrix by rows first, which need no copy in float64."""
    if grad.numel() >= LARGE and grad.dim() > 1:
        rows = torch.linalg.vector_norm(grad.flatten(1), dim=1)
        norm: Tensor = torch.linalg.vector_norm(rows, dtype=torch.float64)
        if bool(norm.isfinite()):  # else float32 may only have overflowed
            return norm
    whole: Tensor = torch.linalg.vector_norm(grad, dtype=torch.float64)
    return whole


def _row_normalized_norms(groups: list[list[Tensor]]) -> list[float]:
    norms = [_norm(g) for grads in groups for g in grads]
    values = iter(torch.stack([norm.to(norms[0].device) for norm in norms]).tolist())
    ratios = []
    for grads in groups:
        rows = grads[0].shape[0] if grads[0].dim() > 0 else 1
        ratios.append(math.hypot(*(next(values) for _ in grads)) / max(rows, 1))
    return ratios
