"""Horizons that leave a given fraction of a network's spikes.

A neuron that spikes late has little effect: most of its successors have spiked before, and in a
pooling window only the first spike counts. With a horizon t_max for each layer, late neurons stay
silent, which saves their energy, and no later layer waits for them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ttfs_fast.layers import Layer, hook_runs, spiking_layers


def set_horizons_(model: nn.Module, horizons: Sequence[float]) -> None:
    """Set the horizon of each spiking layer.

    Parameters
    ----------
    model : Module
        Holds spiking layers.
    horizons : sequence of float
        One for each, in the order of the modules, in units of tau. A layer that stands at two
        places has one for both.

    Raises
    ------
    ValueError
        If there are more or fewer than layers.
    """
    layers = spiking_layers(model)
    if len(horizons) != len(layers):
        raise ValueError(
            f"the network has {len(layers)} spiking layers ({', '.join(layers)}); got "
            f"{len(horizons)} horizons"
        )
    for layer, horizon in zip(layers.values(), horizons, strict=True):
        layer.t_max = float(horizon)


def find_horizons(model: nn.Module, values: Tensor, fraction: float) -> list[float]:
    """Horizons with which a fraction of the neurons of each layer spikes.

    Horizons are found layer by layer, on the remaining spikes of the layers before. The last layer,
    whose first spike is the answer, keeps its own.

    Parameters
    ----------
    model : Module
        Holds spiking layers, each used once; left as it is.
    values : Tensor
        Spike values of some hundred images, the input of ``model``.
    fraction : float
        Largest fraction of the outputs of a layer that is to spike, above 0 and at most 1.

    Returns
    -------
    horizons : list of float
        For `set_horizons_`; a layer in which no more than ``fraction`` spikes keeps its own.

    Raises
    ------
    ValueError
        If ``fraction`` is outside its range, a layer runs more than once, or no output spikes.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1; got {fraction}")
    layers = spiking_layers(model)
    names = list(layers)
    horizons = [layer.t_max for layer in layers.values()]
    ran: set[Layer] = set()
    order: list[str] = []

    def limit(name: str, layer: Layer, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if layer in ran:
            raise ValueError(
                f"the layer {name} runs more than once, but has one horizon for all its runs; give "
                "each place a layer of its own (copy.deepcopy)"
            )
        ran.add(layer)
        order.append(name)
        place = names.index(name)
        if place == len(names) - 1:
            return output
        keep = int(fraction * output.numel())
        spikes = output[output.isfinite()]
        if len(spikes) <= keep:
            return output
        latest = spikes.kthvalue(max(keep, 1)).values
        earlier = spikes[spikes < latest]
        if int((spikes <= latest).sum()) > keep and len(earlier):
            latest = earlier.max()  # of equal spikes all stay, or none
        later = spikes[spikes > latest]
        if not len(later):
            return output
        # Between two spikes, because one at the horizon may be lost in rounding.
        horizons[place] = float(torch.stack([latest, later.min()]).double().log().mean())
        return output.masked_fill(output > latest, torch.inf)

    with torch.no_grad(), hook_runs(model, limit):
        output = model(values)
    if order and order[-1] != names[-1]:
        raise ValueError(
            f"the last spiking layer of the modules is {names[-1]}, but the last to run is "
            f"{order[-1]}: register the layers in the order in which they run"
        )
    if not output.isfinite().any():
        raise ValueError(f"with a fraction of {fraction} no output spikes; take a larger one")
    return horizons
