"""A moving average of the weights, which is tested and exported instead of the last weights."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def average_weights(model: nn.Module, decay: float) -> AveragedModel | None:
    """An exponential moving average of a network's weights; None with a decay of 0.

    Parameters
    ----------
    model : Module
        The network that is trained. Call ``update_parameters(model)`` after each step.
    decay : float
        Weight of the average so far, from 0 to below 1.

    Returns
    -------
    averaged : AveragedModel or None
        Its ``module`` is the averaged network, at first a copy of ``model``.

    Raises
    ------
    ValueError
        If ``decay`` is outside its range.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be from 0 to below 1; got {decay}")
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]


def averaged_or_trained(model: nn.Module, averaged: AveragedModel | None) -> nn.Module:
    """The network that is tested and exported: the averaged one, if there is one."""
    if averaged is None:
        return model
    module: nn.Module = averaged.module
    return module
