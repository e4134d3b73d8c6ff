"""Trained networks, with the spikes of real images: layer by layer and as a whole."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttfs_fast.analysis.operations import count_operations, layer_operations
from ttfs_fast.bench.counts import ForwardCounts, count_forward
from ttfs_fast.bench.layers import Operator, forward, train
from ttfs_fast.bench.networks import mnist, training_step
from ttfs_fast.bench.tables import Row
from ttfs_fast.bench.timing import alternate
from ttfs_fast.data import ImageSet, load
from ttfs_fast.functional import spiking_conv2d, spiking_linear
from ttfs_fast.horizon import ReferenceSpikes, unfold_horizons_
from ttfs_fast.layers import Layer, hook_runs
from ttfs_fast.models import (
    HorizonNetwork,
    MnistSCNN,
    SpikingNetwork,
    cifar_airbench,
    cifar_scnn,
    cifar_vgg,
    mnist_scnn,
    relu_counterpart,
)
from ttfs_fast.models.pretrained import PretrainedName
from ttfs_fast.nn import SpikingConv2d
from ttfs_fast.training import TrainConfig, read_recipe
from ttfs_fast.training.trainer import new_network

Network = MnistSCNN | SpikingNetwork | HorizonNetwork

NETWORKS: dict[PretrainedName, Callable[..., Network]] = {
    "mnist_scnn": mnist_scnn,
    "cifar_scnn": cifar_scnn,
    "cifar_vgg": cifar_vgg,
    "cifar_airbench": cifar_airbench,
}

HORIZON_RECIPES: dict[PretrainedName, str] = {"cifar_airbench": "cifar10-airbench"}
"""Recipes of the networks whose layers have horizons."""

GOAL = 1.7
"""What forward and backward should cost, in dense ones."""
HORIZON_GOAL = 1.3
"""The same of a training step, where layers have horizons: it computes dense products."""


def trained_rows(
    names: Sequence[PretrainedName], batches: Sequence[int], repeats: int, seconds: float
) -> Iterator[Row]:
    """Rows of each network: its layers, inference and a training step.

    A network whose layers have horizons has a further row: inference by dense products.

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
        images = _images(name, max(batches))
        if images is None:
            continue
        pixels = torch.from_numpy(images.images).float() / 255
        labels = torch.from_numpy(images.labels).long()
        model = NETWORKS[name](pretrained=True)
        assert model.encoding is not None
        z = model.encoding(pixels)
        counts = dict.fromkeys(batches, ForwardCounts())
        for run in layer_runs(model, z):
            for batch in batches:
                some = dataclasses.replace(run, inputs=run.inputs[:batch])
                counted = count_forward(run.layer, some.inputs)
                counts[batch] += counted
                row = _layer_row(some, repeats, seconds)
                yield {"layer": f"{name} {run.name}, b{batch}"} | row | counted.fractions()
        trained, dense = training_networks(name, model, images)
        for batch in batches:
            row = _inference_row(model, z[:batch], repeats, seconds) | {
                "goal": HORIZON_GOAL if name in HORIZON_RECIPES else GOAL
            }
            steps = [
                training_step(
                    "spiking", trained, pixels[:batch], labels[:batch], encoding=model.encoding
                ),
                training_step("dense", dense, torch.randn_like(z[:batch]), labels[:batch]),
            ]
            own, other = alternate(steps, repeats, seconds=seconds)
            row |= {"training": own, "dense_training": other, "training_ratio": own / other}
            yield {"layer": f"{name}, whole, b{batch}"} | row | counts[batch].fractions()
            if isinstance(model, HorizonNetwork):
                unfolded = unfold_horizons_(copy.deepcopy(model))
                times = _forward_times(unfolded, model, z[:batch], repeats, seconds)
                yield {"layer": f"{name}, unfolded, b{batch}", **times}


def _images(name: PretrainedName, count: int) -> ImageSet | None:
    """The first test images that a network is for."""
    try:
        data = load("mnist" if name == "mnist_scnn" else "cifar10", train=False)
    except OSError:
        if name != "mnist_scnn":
            return None
        data = load("digits", train=False)
    return dataclasses.replace(data, images=data.images[:count], labels=data.labels[:count])


@dataclass(frozen=True)
class LayerRun:
    """A layer as it runs in a network.

    Attributes
    ----------
    name : str
        Its name in the network.
    layer : SpikingLinear or SpikingConv2d
    inputs : Tensor
        The spike values that reach it.
    reference : ReferenceSpikes or None
        What adds reference spikes to these inputs: it belongs to a layer with a horizon, folded.
    """

    name: str
    layer: Layer
    inputs: Tensor
    reference: ReferenceSpikes | None = None

    def spiking(self, z: Tensor, weight: Tensor) -> Tensor:
        """The layer as an operator."""
        layer = self.layer
        bias = None if layer.bias is None else layer.bias.detach()
        if not isinstance(layer, SpikingConv2d):
            return spiking_linear(z, weight, bias, t_max=layer.t_max, neuron=layer.neuron)
        geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
        return spiking_conv2d(z, weight, bias, *geometry, t_max=layer.t_max, neuron=layer.neuron)

    def dense(self) -> tuple[Operator, Tensor, Tensor]:
        """The dense layer with as many inputs and outputs: operator, input, weight.

        Reference spikes are none of its inputs, and its padding is its own.
        """
        layer, weight = self.layer, self.layer.weight.detach()
        bias = None if layer.bias is None else layer.bias.detach()
        x = torch.randn_like(self.inputs)
        if self.reference is not None:
            weight = weight[:, :-1].contiguous()
        if not isinstance(layer, SpikingConv2d):
            return partial(F.linear, bias=bias), x[:, : weight.shape[1]].contiguous(), weight
        # torch has no "same" with a stride; this padding gives as many outputs.
        same = layer.padding == "same"
        padding = tuple(size // 2 for size in layer.kernel_size) if same else layer.padding
        if self.reference is not None:
            assert padding == (0, 0)
            padding = self.reference.padding
            height, width = (n - 2 * p for n, p in zip(x.shape[2:], padding, strict=True))
            x = x[:, : layer.groups * weight.shape[1], :height, :width].contiguous()

        def convolve(x: Tensor, weight: Tensor) -> Tensor:
            return F.conv2d(x, weight, bias, layer.stride, padding, layer.dilation, layer.groups)

        return convolve, x, weight


def layer_runs(model: nn.Module, z: Tensor) -> list[LayerRun]:
    """Each layer that a network runs, and the spike values that reach it."""
    folded: dict[nn.Module, tuple[str, ReferenceSpikes]] = {}
    for name, module in model.named_modules():
        parts = list(module.children()) if isinstance(module, nn.Sequential) else []
        if len(parts) > 1 and isinstance(parts[0], ReferenceSpikes):
            folded[parts[1]] = name, parts[0]
    found: list[LayerRun] = []

    def keep(name: str, layer: Layer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        name, reference = folded.get(layer, (name, None))
        found.append(LayerRun(name, layer, inputs[0].detach(), reference))

    with torch.no_grad(), hook_runs(model, keep):
        model(z)
    return found


def training_networks(
    name: PretrainedName, model: Network, images: ImageSet
) -> tuple[nn.Module, nn.Module]:
    """The network as it trains, and the dense one of the same shapes.

    A folded network does not train. In place of it there is the one that its recipe begins with,
    whose layers with horizons compute dense products and normalize over the batch, as those of its
    dense counterpart do.
    """
    if isinstance(model, MnistSCNN):
        return model, mnist("dense")
    if not isinstance(model, HorizonNetwork):
        return model, relu_counterpart(model)
    config = TrainConfig(**read_recipe(HORIZON_RECIPES[name]))
    dense = relu_counterpart(model.description, batch_norm=True)
    dense.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return new_network(config, images), dense


def _layer_row(run: LayerRun, repeats: int, seconds: float) -> Row:
    z, weight = run.inputs, run.layer.weight.detach()
    with torch.no_grad():
        out = run.spiking(z, weight)
    counts = layer_operations("layer", run.layer, z, out)
    dense, x, dense_weight = run.dense()
    grad = torch.randn_like(out)
    row: Row = {
        "causal": counts.causal / counts.delivered,
        "fired": counts.spikes / out.numel(),
        "goal": GOAL,
    }
    for name, call in (("forward", forward), ("training", partial(train, grad=grad))):
        own, other = alternate(
            [partial(call, run.spiking, z, weight), partial(call, dense, x, dense_weight)],
            repeats,
            seconds=seconds,
        )
        row |= {name: own, f"dense_{name}": other, f"{name}_ratio": own / other}
    return row


def _inference_row(model: Network, z: Tensor, repeats: int, seconds: float) -> Row:
    counts = count_operations(model, z)
    return {
        "causal": counts.total("causal") / counts.total("delivered"),
        "fired": counts.total("spikes") / counts.total("neurons"),
    } | _forward_times(model, model, z, repeats, seconds)


def _forward_times(
    network: nn.Module, model: Network, z: Tensor, repeats: int, seconds: float
) -> Row:
    """Inference by a network, beside the dense one of the same shapes as a model."""
    dense = mnist("dense") if isinstance(model, MnistSCNN) else relu_counterpart(model.description)
    x = torch.randn_like(z)
    with torch.no_grad():
        own, other = alternate([partial(network, z), partial(dense, x)], repeats, seconds=seconds)
    return {"forward": own, "dense_forward": other, "forward_ratio": own / other}
