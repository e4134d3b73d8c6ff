"""Counts of hardware operations of a network: synaptic operations, updates, memory traffic."""

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttfs_fast._tables import Column, Table, as_text
from ttfs_fast.analysis.energy import EnergyModel
from ttfs_fast.analysis.evaluate import encoded_batches
from ttfs_fast.data import ImageSet, StreamedImages
from ttfs_fast.encoding import Encoding, encoding_of
from ttfs_fast.geometry import conv_axis
from ttfs_fast.horizon import ReferenceSpikes, fold_horizons_, has_horizon_layers
from ttfs_fast.layers import (
    Layer,
    evaluating,
    hook_runs,
    pad_silent,
    refuse_nan,
    spiking_layers,
)
from ttfs_fast.neurons import neuron_of
from ttfs_fast.nn import SpikingConv2d, SpikingLinear

CHUNK = 1 << 22
"""Most numbers of receptive fields that are laid out at a time."""


_FIXED = ("neurons", "synapses")
_COUNTS = (
    "input_spikes",
    "spikes",
    "delivered",
    "causal",
    "updates",
    "reference_delivered",
    "reference_causal",
)


@dataclass(frozen=True)
class MemoryModel:
    """Bytes that an event-driven processor reads and writes.

    Each synaptic operation reads a weight; each update of a neuron reads and writes its state; each
    spike is an event, written once by the neuron that sends it and read once by each layer that
    receives it.

    Attributes
    ----------
    weight : float
        Bytes of a weight.
    state : float
        Bytes of a neuron's state: membrane and synaptic current.
    event : float
        Bytes of an event: address and time.

    Raises
    ------
    ValueError
        If a number of bytes is negative or not finite.
    """

    weight: float = 4.0
    state: float = 8.0
    event: float = 8.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a number of bytes, 0 or above; got {value}")


@dataclass(frozen=True)
class LayerOperations:
    """Operations of one layer of neurons, in all images together. All counts are exact.

    Attributes
    ----------
    name : str
        Name of the place of the layer in the network.
    images : int
        Images counted.
    neurons : int
        Neurons for one image.
    synapses : int
        Synapses for one image, without those on padding; a bias is one more input.
    input_spikes : int
        Spikes that arrive at the layer, each counted once, however many synapses it has. The bias
        counts as one spike per image.
    spikes : int
        Spikes that its neurons send.
    delivered : int
        Synaptic operations if every spike is delivered to all its synapses: its fan-out.
    causal : int
        Synaptic operations if a neuron ignores inputs after its own spike: the spikes before it,
        its causal set. For a silent neuron all that are delivered.
    reference_delivered, reference_causal : int
        Of these, how many come at the horizon or after it, in a layer with a horizon: reference
        spikes, of inputs that are late, of padding and of the added input. A layer that knows the
        sum of its weights needs no event for them.
    """

    name: str
    images: int
    neurons: int
    synapses: int
    input_spikes: int
    spikes: int
    delivered: int
    causal: int
    reference_delivered: int = 0
    reference_causal: int = 0

    @property
    def updates(self) -> int:
        """Updates of neurons: at each causal synaptic operation, and at each own spike."""
        return self.causal + self.spikes

    def bytes(self, memory: MemoryModel | None = None, *, operations: int | None = None) -> float:
        """Memory traffic in all images: weights, states and events read and written.

        Parameters
        ----------
        memory : MemoryModel, optional
            Sizes; by default 4 bytes per weight, 8 per state, 8 per event.
        operations : int, optional
            Synaptic operations that read a weight; by default `causal`.
        """
        memory = MemoryModel() if memory is None else memory
        read = self.causal if operations is None else operations
        events = self.input_spikes + self.spikes
        return read * memory.weight + 2 * self.updates * memory.state + events * memory.event


@dataclass(frozen=True)
class OperationCounts:
    """Operations of a network; print it for a table.

    Attributes
    ----------
    layers : tuple of LayerOperations
        In the order in which they ran.
    images : int
        Images counted.
    """

    layers: tuple[LayerOperations, ...]
    images: int

    def total(self, what: str) -> float:
        """Sum over the layers of one of their counts, for one image on average.

        Parameters
        ----------
        what : str
            "neurons", "synapses", "input_spikes", "spikes", "delivered", "causal", "updates",
            "reference_delivered" or "reference_causal".

        Raises
        ------
        ValueError
            If there is no such count.
        """
        if what not in (*_FIXED, *_COUNTS):
            raise ValueError(f"what must be one of {', '.join((*_FIXED, *_COUNTS))}; got {what!r}")
        found = sum(float(getattr(layer, what)) for layer in self.layers)
        return found if what in _FIXED else found / self.images

    def energy(self, model: EnergyModel, memory: MemoryModel | None = None) -> float:
        """Joules of an image.

        Parameters
        ----------
        model : EnergyModel
            Joules of a spike, a synaptic operation, an update and a byte; 0 by default.
        memory : MemoryModel, optional
            Sizes of weights, states and events.
        """
        joules = 0.0
        for layer in self.layers:
            operations = layer.causal if model.operations == "causal" else layer.delivered
            joules += layer.spikes * model.per_spike
            joules += operations * model.per_synaptic_operation
            joules += layer.updates * model.per_neuron_update
            if model.per_byte:
                joules += layer.bytes(memory, operations=operations) * model.per_byte
        return joules / self.images

    def table(self) -> Any:
        """The layers, for one image on average, as a rich.table.Table."""
        whole = "{:,.0f}".format
        heads = ("neurons", "synapses", "spikes in", "spikes out", "delivered", "causal")
        columns = [Column("layer", numeric=False), *(Column(head, whole) for head in heads)]
        columns += [
            Column("fraction", "{:.0%}".format),
            Column("updates", whole),
            Column("kB", lambda size: f"{size / 1000:,.1f}"),
        ]
        sizes = [
            (
                *(layer.neurons, layer.synapses, layer.input_spikes, layer.spikes),
                *(layer.delivered, layer.causal, layer.updates, layer.bytes()),
            )
            for layer in self.layers
        ]
        names = [*(layer.name for layer in self.layers), "all"]
        rows = []
        for name, row in zip(names, [*sizes, [*map(sum, zip(*sizes, strict=True))]], strict=True):
            spikes_in, spikes, delivered, causal, updates, size = (n / self.images for n in row[2:])
            fraction = causal / delivered if delivered else None
            counts = [spikes_in, spikes, delivered, causal, fraction, updates, size]
            rows.append([name, *row[:2], *counts])
        title = f"operations for an image, mean of {self.images:,}"
        table = Table("operations", title, columns, rows).rich()
        table.rows[-2].end_section = True
        return table

    def __str__(self) -> str:
        return as_text(self.table())

    def to_dict(self, models: Iterable[EnergyModel] = ()) -> dict[str, Any]:
        """All counts as JSON types, with the energy of an image by each of some models."""
        keys = ("input_spikes", "spikes", "delivered", "causal", "updates")
        found: dict[str, Any] = {
            "images": self.images,
            "per_image": {key: self.total(key) for key in keys},
            "bytes_per_image": sum(layer.bytes() for layer in self.layers) / self.images,
            "layers": [
                asdict(layer) | {"updates": layer.updates, "bytes": layer.bytes()}
                for layer in self.layers
            ],
            "energy_joule": {model.name: self.energy(model) for model in models},
        }
        return found


def count_operations(model: nn.Module, images: Tensor | Iterable[Tensor]) -> OperationCounts:
    """Count the hardware operations of a network on some images, exactly.

    Parameters
    ----------
    model : Module
        Holds SpikingLinear and SpikingConv2d layers. Layers with horizons are counted as the plain
        layers that they fold into (:func:`ttfs_fast.horizon.fold_horizons_`); the model is left as
        it is.
    images : Tensor or iterable of Tensor
        Spike values of images, (N, ...), as the model takes them; or batches of such, one after
        the other.

    Returns
    -------
    OperationCounts

    Raises
    ------
    ValueError
        If there is no image or no spiking layer, or an output is NaN.

    Notes
    -----
    A synapse counts even if its weight is 0. A bias is one more synapse of each neuron, whose
    input spikes at t = 0. Pools and delays pass spikes on and hold no synapses. Causal operations
    are the inputs i of a neuron j with z_i < z_j, the causal set of equation (4), found by sorting
    each receptive field and looking each of its neurons up: time grows with inputs + outputs of a
    field, not with their product, and memory is bounded.

    Examples
    --------
    >>> import torch
    >>> from ttfs_fast.analysis import count_operations
    >>> from ttfs_fast.nn import SpikingLinear
    >>> layer = SpikingLinear(3, 1, bias=False)
    >>> _ = torch.nn.init.ones_(layer.weight)
    >>> counts = count_operations(layer, torch.tensor([[1.0, 1.2, 9.0]]))
    >>> counts.layers[0].delivered, counts.layers[0].causal  # it spikes at z = 2.2
    (3, 2)
    """
    if has_horizon_layers(model):
        model = fold_horizons_(copy.deepcopy(model))
    spiking_layers(model, any_neuron=True)  # says what is missing
    found: dict[str, LayerOperations] = {}
    shown = 0
    with evaluating(model), _references(model) as horizon_of:

        def count(name: str, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if inputs[0].dim() != (4 if isinstance(layer, SpikingConv2d) else 2):
                raise ValueError(
                    f"images must be a batch; the layer {name} gets inputs of shape "
                    f"{tuple(inputs[0].shape)}"
                )
            one = layer_operations(name, layer, inputs[0], output, horizon_of(inputs[0]))
            found[name] = _added(found[name], one) if name in found else one

        with hook_runs(model, count):
            for batch in [images] if isinstance(images, Tensor) else images:
                shown += len(batch)
                if len(batch):
                    model(batch)
    if shown == 0:
        raise ValueError("there are no images to count on; give batches of spike values")
    return OperationCounts(tuple(found.values()), shown)


def count_on_images(
    model: nn.Module,
    image_set: ImageSet | StreamedImages,
    images: int,
    *,
    batch_size: int = 50,
    encoding: Encoding | None = None,
) -> OperationCounts:
    """`count_operations` on the first images of a data set.

    Parameters
    ----------
    model : Module
        As for :func:`count_operations`.
    image_set : ImageSet or StreamedImages
    images : int
        How many; all, if there are fewer.
    batch_size : int
        Images run at a time; streamed images have their own.
    encoding : Encoding, optional
        How the network sees images; by default the one that it carries.

    Raises
    ------
    ValueError
        If `images` is below 1.
    """
    if images < 1:
        raise ValueError(f"images must be at least 1; got {images}")
    how = encoding_of(model, encoding)

    def batches() -> Iterator[Tensor]:
        left = images
        first = next(model.parameters())
        shown = encoded_batches(image_set, how, min(batch_size, images), first.dtype)
        for values, _ in shown:
            yield values[:left].to(first.device)
            left -= len(values)
            if left <= 0:
                return

    return count_operations(model, batches())


@torch.no_grad()
def layer_operations(
    name: str, layer: Layer, inputs: Tensor, outputs: Tensor, horizon: float = math.inf
) -> LayerOperations:
    """The counts of one layer, from the spike values that it received and gave.

    Parameters
    ----------
    name : str
        For the result.
    layer : SpikingLinear or SpikingConv2d
    inputs, outputs : Tensor
        Spike values; for a convolution (N, C, H, W) or (C, H, W), else (..., features).
    horizon : float
        Spike value from which on inputs count as reference spikes.
    """
    refuse_nan(outputs, name or "the layer")
    inputs, outputs = inputs.detach(), outputs.detach()
    if isinstance(layer, SpikingConv2d):
        inputs = inputs if inputs.dim() == 4 else inputs[None]
        outputs = outputs if outputs.dim() == 4 else outputs[None]
    else:
        inputs = inputs.reshape(-1, inputs.shape[-1])
        outputs = outputs.reshape(-1, outputs.shape[-1])
    images, bias = len(inputs), layer.bias is not None
    neurons = outputs[0].numel() if images else 0
    reach = fan_out(layer, inputs.shape[1:]).to(inputs.device)
    heard = inputs.isfinite()
    late = heard & (inputs >= horizon)
    delivered, late_delivered = (int((spikes * reach).sum()) for spikes in (heard, late))
    causal = early_causal = 0
    for fields, outs in _fields(layer, inputs, outputs):
        causal += _before(fields, outs)
        if horizon < math.inf:
            early_causal += _before(fields.masked_fill(fields >= horizon, math.inf), outs)
    if bias:
        delivered += outputs.numel()
        behind = int((outputs > neuron_of(layer.neuron).origin).sum())
        causal += behind
        early_causal += behind
    return LayerOperations(
        name=name,
        images=images,
        neurons=neurons,
        synapses=int(reach.sum()) * (inputs[0].numel() // max(reach.numel(), 1) if images else 0)
        + bias * neurons,
        input_spikes=int(heard.sum()) + bias * images,
        spikes=int(outputs.isfinite().sum()),
        delivered=delivered,
        causal=causal,
        reference_delivered=late_delivered,
        reference_causal=causal - early_causal if horizon < math.inf else 0,
    )


def fan_out(layer: Layer, size: Iterable[int]) -> Tensor:
    """Synapses of each input of a layer, its bias not counted.

    Parameters
    ----------
    layer : SpikingLinear or SpikingConv2d
    size : iterable of int
        Of one input: (channels, height, width), or (features,).

    Returns
    -------
    Tensor
        int64, shape (1, height, width), the same for every channel; or (1,).
    """
    if isinstance(layer, SpikingLinear):
        return torch.tensor([layer.weight.shape[0]])
    _, *lengths = size
    rows, columns = (_windows_over(layer, axis, lengths[axis]) for axis in range(2))
    return (rows[:, None] * columns * (layer.out_channels // layer.groups))[None]


def fan_in(layer: Layer, size: Iterable[int]) -> Tensor:
    """Synapses of each neuron of a layer, its bias counted as one.

    Parameters
    ----------
    layer, size
        As for :func:`fan_out`.

    Returns
    -------
    Tensor
        int64, shape (1, height, width) of the output, the same for every channel; or (1,).
    """
    bias = int(layer.bias is not None)
    if isinstance(layer, SpikingLinear):
        return torch.tensor([layer.weight.shape[1] + bias])
    _, *lengths = size
    rows, columns = (_taps(layer, axis, lengths[axis]).sum(1) for axis in range(2))
    return (rows[:, None] * columns * layer.weight.shape[1] + bias)[None]


def _taps(layer: SpikingConv2d, axis: int, size: int) -> Tensor:
    """Whether each output's taps along an axis lie on an input, (outputs, taps)."""
    at = _positions(layer, axis, size)
    return (at >= 0) & (at < size)


def _windows_over(layer: SpikingConv2d, axis: int, size: int) -> Tensor:
    """How many windows cover each position of an axis."""
    at = _positions(layer, axis, size)
    return torch.bincount(at[(at >= 0) & (at < size)], minlength=size)


def _positions(layer: SpikingConv2d, axis: int, size: int) -> Tensor:
    """Position of each output's taps along an axis, (outputs, taps); outside it lies padding."""
    kernel, stride, hole = layer.kernel_size[axis], layer.stride[axis], layer.dilation[axis]
    given = layer.padding if isinstance(layer.padding, str) else layer.padding[axis]
    out, before = conv_axis(size, kernel, stride, given, hole)
    return torch.arange(out)[:, None] * stride - before + torch.arange(kernel) * hole


def _before(fields: Tensor, outs: Tensor) -> int:
    """Number of inputs of each field (rows, inputs) before its outputs (rows, outputs)."""
    # Silence is not before silence.
    ordered = fields.contiguous().sort(dim=1).values
    return int(torch.searchsorted(ordered, outs.contiguous()).sum())


def _fields(layer: Layer, inputs: Tensor, outputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Receptive fields (rows, inputs) and the neurons that see them (rows, outputs), in chunks."""
    if isinstance(layer, SpikingLinear):
        rows = max(1, CHUNK // max(sum(layer.weight.shape), 1))
        yield from zip(torch.split(inputs, rows), torch.split(outputs, rows), strict=True)
        return
    taps = math.prod(layer.weight.shape[1:])
    per_group = layer.out_channels // layer.groups
    width = outputs.shape[3]
    rows = max(1, CHUNK // max(width * (taps + per_group), 1))
    for image, out in zip(inputs, outputs, strict=True):
        padded = pad_silent(layer, image[None]).chunk(layer.groups, dim=1)
        for channels, neurons in zip(padded, torch.split(out, per_group), strict=True):
            for first in range(0, out.shape[1], rows):
                some = neurons[:, first : first + rows]
                top = first * layer.stride[0]
                height = (some.shape[1] - 1) * layer.stride[0]
                height += layer.dilation[0] * (layer.kernel_size[0] - 1) + 1
                band = channels[:, :, top : top + height]
                fields = F.unfold(band, layer.kernel_size, layer.dilation, 0, layer.stride)[0].t()
                yield fields, some.flatten(1).t()


@contextmanager
def _references(model: nn.Module) -> Iterator[Any]:
    """A function from the input of a layer to the horizon at which its reference spikes."""
    last: list[tuple[Tensor, float]] = []

    def note(module: Any, inputs: Any, output: Tensor) -> None:
        # As a layer's input holds it: rounded to the type of the spikes.
        last[:] = [(output, float(module.reference.to(output.dtype)))]

    def horizon_of(inputs: Tensor) -> float:
        return last[0][1] if last and last[0][0] is inputs else math.inf

    with ExitStack() as handles:
        for module in model.modules():
            if isinstance(module, ReferenceSpikes):
                handles.callback(module.register_forward_hook(note).remove)
        yield horizon_of


def _added(one: LayerOperations, other: LayerOperations) -> LayerOperations:
    sums = (
        "images",
        "input_spikes",
        "spikes",
        "delivered",
        "causal",
        "reference_delivered",
        "reference_causal",
    )
    more = {name: getattr(one, name) + getattr(other, name) for name in sums}
    return LayerOperations(**asdict(one) | more)
