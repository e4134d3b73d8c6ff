"""Trained networks, with the spikes of real images: layer by layer and as a whole."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttfs_fast.analysis.operations import count_operations, layer_operations
from ttfs_fast.bench.layers import forward, train
from ttfs_fast.bench.networks import mnist, training_step
from ttfs_fast.bench.tables import Row
from ttfs_fast.bench.timing import alternate
from ttfs_fast.data import load
from ttfs_fast.functional import spiking_conv2d, spiking_linear
from ttfs_fast.layers import Layer, hook_runs
from ttfs_fast.models import (
    MnistSCNN,
    SpikingNetwork,
    cifar_scnn,
    cifar_vgg,
    mnist_scnn,
    relu_counterpart,
)
from ttfs_fast.models.pretrained import PretrainedName
from ttfs_fast.nn import SpikingConv2d

NETWORKS: dict[PretrainedName, Callable[..., MnistSCNN | SpikingNetwork]] = {
    "mnist_scnn": mnist_scnn,
    "cifar_scnn": cifar_scnn,
    "cifar_vgg": cifar_vgg,
}

GOAL = 1.7
"""What forward and backward should cost, in dense ones."""


def trained_rows(
    names: Sequence[PretrainedName], batches: Sequence[int], repeats: int, seconds: float
) -> Iterator[Row]:
    """Rows of each network: its layers, inference and a training step.

    Parameters
    ----------
    names : sequence of str
        Networks with pretrained weights.
    batches : sequence of int
        Images of each measurement: the first ones of the test set. Where MNIST is not found, the
        MNIST network sees the embedded digits; where CIFAR-10 is not, its networks are left out.
    repeats : int
        Least number of counted runs of each call.
    seconds : float
        Short calls are repeated for that long.
    """
    for name in names:
        found = _images(name, max(batches))
        if found is None:
            continue
        pixels, labels = found
        model = NETWORKS[name](pretrained=True)
        assert model.encoding is not None
        z = model.encoding(pixels)
        for layer, module, inputs in _layer_inputs(model, z):
            for batch in batches:
                row = _layer_row(module, inputs[:batch], repeats, seconds)
                row["layer"] = f"{name} {layer}, b{batch}"
                yield row
        for batch in batches:
            some = (z[:batch], pixels[:batch], labels[:batch])
            row = _network_row(model, *some, repeats, seconds)
            row["layer"] = f"{name}, whole, b{batch}"
            yield row


def _images(name: PretrainedName, count: int) -> tuple[Tensor, Tensor] | None:
    """The first test images (N, C, H, W) in [0, 1] that a network is for, and their classes."""
    try:
        data = load("mnist" if name == "mnist_scnn" else "cifar10", train=False)
    except OSError:
        if name != "mnist_scnn":
            return None
        data = load("digits", train=False)
    pixels = torch.from_numpy(data.images[:count]).float() / 255
    return pixels, torch.from_numpy(data.labels[:count]).long()


def _layer_inputs(model: nn.Module, z: Tensor) -> list[tuple[str, Layer, Tensor]]:
    """Each layer that a network runs, and the spike values that reach it."""
    found: list[tuple[str, Layer, Tensor]] = []

    def keep(name: str, layer: Layer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((name, layer, inputs[0].detach()))

    with torch.no_grad(), hook_runs(model, keep):
        model(z)
    return found


def _layer_row(layer: Layer, z: Tensor, repeats: int, seconds: float) -> Row:
    weight = layer.weight.detach()
    bias = None if layer.bias is None else layer.bias.detach()
    if isinstance(layer, SpikingConv2d):
        ours = partial(_convolution, layer, bias)
        # torch has no "same" with a stride; this padding gives as many outputs.
        same = layer.padding == "same"
        padding = tuple(size // 2 for size in layer.kernel_size) if same else layer.padding
        dense = partial(_dense_convolution, layer, bias, padding)
    else:
        ours = partial(spiking_linear, bias=bias)
        dense = partial(F.linear, bias=bias)
    with torch.no_grad():
        out = ours(z, weight)
    counts = layer_operations("layer", layer, z, out)
    x, grad = torch.randn_like(z), torch.randn_like(out)
    row: Row = {
        "causal": counts.causal / counts.delivered,
        "fired": counts.spikes / out.numel(),
        "goal": GOAL,
    }
    for name, call in (("forward", forward), ("training", partial(train, grad=grad))):
        own, other = alternate(
            [partial(call, ours, z, weight), partial(call, dense, x, weight)],
            repeats,
            seconds=seconds,
        )
        row |= {name: own, f"dense_{name}": other, f"{name}_ratio": own / other}
    return row


def _convolution(layer: SpikingConv2d, bias: Tensor | None, z: Tensor, weight: Tensor) -> Tensor:
    rest = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return spiking_conv2d(z, weight, bias, *rest)


def _dense_convolution(
    layer: SpikingConv2d, bias: Tensor | None, padding: Any, x: Tensor, weight: Tensor
) -> Tensor:
    return F.conv2d(x, weight, bias, layer.stride, padding, layer.dilation, layer.groups)


def _network_row(
    model: MnistSCNN | SpikingNetwork,
    z: Tensor,
    pixels: Tensor,
    labels: Tensor,
    repeats: int,
    seconds: float,
) -> Row:
    dense = mnist("dense") if isinstance(model, MnistSCNN) else relu_counterpart(model)
    x = torch.randn_like(z)
    with torch.no_grad():
        own, other = alternate([partial(model, z), partial(dense, x)], repeats, seconds=seconds)
    counts = count_operations(model, z)
    row: Row = {
        "causal": counts.total("causal") / counts.total("delivered"),
        "fired": counts.total("spikes") / counts.total("neurons"),
        "goal": GOAL,
        "forward": own,
        "dense_forward": other,
        "forward_ratio": own / other,
    }
    own, other = alternate(
        [
            training_step("spiking", model, pixels, labels, encoding=model.encoding),
            training_step("dense", dense, x, labels),
        ],
        repeats,
        seconds=seconds,
    )
    return row | {"training": own, "dense_training": other, "training_ratio": own / other}
