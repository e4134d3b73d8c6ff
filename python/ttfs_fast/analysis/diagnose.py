"""Spike statistics of each layer of a network: spikes, their spread, and gradients."""

import math
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttfs_fast._tables import Column, Table, as_text
from ttfs_fast.analysis.operations import layer_operations
from ttfs_fast.analysis.style import DECISION, add_legend, new_figure, series_color, style_axes
from ttfs_fast.layers import Layer, hook_runs, pad_silent, spiking_layers
from ttfs_fast.loss import first_spike_cross_entropy
from ttfs_fast.nn import SpikingConv2d, SpikingLinear

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST_FIRING = 0.05
"""A layer in which a smaller fraction of neurons spikes is called nearly silent."""

SMALL_SLOPE = 0.05
"""D below which a gradient, which is proportional to 1 / D, is called steep."""

MOST_STEEP = 0.05
"""A layer in which a larger fraction of spikes has a small D is called unstable."""

LEAST_SPREAD = 1e-5
"""Spread of spike times, in units of tau, below which float32's rounding matters."""

STEEPEST_GRADIENT = 10.0
"""The paper's limit of a weight gradient's norm over its rows."""

WEAKEST_GRADIENT = 1e-6
"""Least fraction of the network's strongest gradient by spike times that a layer should get."""

_FIELDS, _OUTPUTS = 64, 64


@dataclass(frozen=True)
class LayerDiagnosis:
    """One layer of neurons on one batch.

    Attributes
    ----------
    name : str
        Name of the module; of one that runs at several places, that of the place.
    neurons : int
        Outputs for one image.
    firing : float
        Share of the outputs that are spikes.
    silent_neurons : float
        Share of the neurons that spike for no image of the batch.
    time : float
        Mean spike time, in units of tau.
    shift : float
        Standard deviation over the images of the layer's mean spike time. All neurons share it. It
        depends mainly on the brightness of the image, and passes every layer unchanged.
    spread_over_images : float
        Standard deviation over the images of a neuron's spike time relative to the layer's mean for
        that image, mean over the neurons: the information of the layer about the image.
    spread_over_neurons : float
        Deviation of spike times over the neurons of an image, mean over the images.
    causal : float
        Number of inputs that spike before the neuron, its causal set; mean over neurons that spike.
    causal_fraction : float
        The same as a fraction of the inputs of its receptive field that spike at all.
    slope_median, slope_least : float
        D, the sum of the causal set's weights minus 1; median and least over neurons that spike.
    steep : float
        Share of the spikes with D below 0.05.
    weight_gradient : float
        Norm of the gradient of weights and bias, over the number of rows: what the paper limits
        to 10. A module that runs at several places has one for all.
    time_gradient : float
        Norm of the loss's gradient by the spike times of the layer, over all images.
    delivered, causal_operations : float
        Synaptic operations per image, exact counts: all that spikes deliver, and those before a
        neuron's own spike; see :mod:`ttfs_fast.analysis.operations`.
    issues : tuple of str
        Its problems, as "symptom: remedy"; empty without a problem.
    """

    name: str
    neurons: int
    firing: float
    silent_neurons: float
    time: float
    shift: float
    spread_over_images: float
    spread_over_neurons: float
    causal: float
    causal_fraction: float
    slope_median: float
    slope_least: float
    steep: float
    weight_gradient: float
    time_gradient: float
    delivered: float
    causal_operations: float
    issues: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """All layers of a network on one batch; print it for a table.

    Attributes
    ----------
    layers : tuple of LayerDiagnosis
        In the order in which they run.
    loss : float
        Classification term of equation (5) on the batch.
    images : int
        Size of the batch.
    """

    layers: tuple[LayerDiagnosis, ...]
    loss: float
    images: int

    @property
    def first_problem(self) -> LayerDiagnosis | None:
        """The first layer with a problem, counted from the input; None if there is no problem.

        Problems in later layers are often consequences of the first.
        """
        return next((layer for layer in self.layers if layer.issues), None)

    @property
    def summary(self) -> str:
        """One sentence about the network."""
        first = self.first_problem
        if first is None:
            return f"all {len(self.layers)} layers are without problems"
        others = sum(bool(layer.issues) for layer in self.layers) - 1
        more = f" ({others} more layers with problems)" if others else ""
        return f"{first.name} has a problem: {'; '.join(first.issues)}{more}"

    def table(self) -> Any:
        """The layers as a rich.table.Table."""
        shown = {
            "neurons": ("neurons\n", "{:,}"),
            "firing": ("firing\nfraction", "{:.1%}"),
            "time": ("t\nmean", "{:.2f}"),
            "shift": ("\nshift", "{:.2g}"),
            "spread_over_images": ("spread\nimages", "{:.2g}"),
            "spread_over_neurons": ("\nneurons", "{:.2g}"),
            "causal": ("causal set\ninputs", "{:.0f}"),
            "causal_fraction": ("\nfraction", "{:.0%}"),
            "slope_median": ("D\nmedian", "{:.2g}"),
            "steep": ("\n< 0.05", "{:.1%}"),
            "weight_gradient": ("gradient\nweights", "{:.2g}"),
            "time_gradient": ("\ntimes", "{:.2g}"),
            "delivered": ("operations\ndelivered", "{:,.0f}"),
            "causal_operations": ("\ncausal", "{:,.0f}"),
        }
        columns = [Column(t, form.format, of=name) for name, (t, form) in shown.items()]
        return Table.of(
            "diagnosis",
            f"{self.images} images, loss {self.loss:.3f}",
            [
                Column("layer\n", numeric=False, of="name"),
                *columns,
                Column(
                    "issue\n",
                    numeric=False,
                    of=lambda layer: "; ".join(i.partition(":")[0] for i in layer.issues),
                ),
            ],
            self.layers,
            note=self.summary,
            red=[number for number, layer in enumerate(self.layers) if layer.issues],
        ).rich()

    def __str__(self) -> str:
        return as_text(self.table(), width=170)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON types; what is not finite is None."""
        rows = [
            {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in asdict(layer).items()
            }
            for layer in self.layers
        ]
        loss = self.loss if math.isfinite(self.loss) else None
        return {"images": self.images, "loss": loss, "summary": self.summary, "layers": rows}

    def plot(self) -> "Figure":
        """Firing, spread, causal sets, D and gradients by layer, problems on red."""
        figure = new_figure(9, 8, dpi=120, layout="constrained")
        axes = figure.subplots(5, 1, sharex=True)
        at = range(len(self.layers))
        panels: list[tuple[str, dict[str, str], str]] = [
            ("fraction of outputs", {"firing": "spike", "silent_neurons": "never spike"}, "linear"),
            (
                "spread of t in tau",
                {
                    "spread_over_images": "over images",
                    "spread_over_neurons": "over neurons",
                    "shift": "shared shift",
                },
                "log",
            ),
            ("causal set", {"causal_fraction": "fraction of the inputs that spike"}, "linear"),
            ("D", {"slope_median": "median", "slope_least": "least"}, "log"),
            (
                "gradient",
                {"weight_gradient": "weights, norm / rows", "time_gradient": "spike times, norm"},
                "log",
            ),
        ]
        for panel, (title, lines, scale) in zip(axes, panels, strict=True):
            for number, (attribute, label) in enumerate(lines.items()):
                values = [getattr(layer, attribute) for layer in self.layers]
                if scale == "log":
                    values = [value if value > 0 else math.nan for value in values]
                panel.plot(at, values, ".-", color=series_color(number), label=label)
            panel.set_yscale(scale)
            if scale == "linear":
                panel.set_ylim(-0.05, 1.05)
            style_axes(panel, y=title, grid="y")
            add_legend(panel)
            for index, layer in enumerate(self.layers):
                if layer.issues:
                    panel.axvspan(index - 0.4, index + 0.4, color=DECISION, alpha=0.12)
        axes[-1].set_xticks(list(at), [layer.name for layer in self.layers], rotation=90)
        axes[0].set_title(self.summary, fontsize="medium", wrap=True)
        return figure


def diagnose(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    *,
    scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> Diagnosis:
    """Run a batch forward and backward and return spike statistics of each layer.

    The model's parameters and their gradients are not changed.

    Parameters
    ----------
    model : Module
        Holds SpikingLinear and SpikingConv2d layers.
    batch : (Tensor, Tensor)
        Spike values of at least two images, (N, C, H, W), and their classes, int64 (N,).
    scale : float
        Factor on the spike times in the loss, as in training.
    generator : torch.Generator, optional
        Chooses the receptive fields for causal sets and D; by default always the same.

    Returns
    -------
    Diagnosis
        Its ``first_problem`` is the first layer with a problem; print it for a table, ``plot()``
        draws it.

    Raises
    ------
    ValueError
        If the model has no spiking layer, one of them does not run, or the batch holds fewer than
        two images.

    Examples
    --------
    >>> import torch
    >>> from ttfs_fast.models import cifar_scnn
    >>> from ttfs_fast.analysis import diagnose
    >>> batch = (1.5 * torch.rand(8, 3, 32, 32)).exp(), torch.arange(8)
    >>> diagnose(cifar_scnn(), batch).layers[0].name
    'conv1'
    """
    values, target = batch
    if values.shape[0] < 2:
        raise ValueError(
            "diagnose needs at least two images, to see what tells them apart; got "
            f"{values.shape[0]}"
        )
    layers = spiking_layers(model)
    seen: dict[str, tuple[Layer, Tensor, Tensor]] = {}

    def note(name: str, layer: Layer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:  # not behind layers that are frozen
            output.retain_grad()
        seen[name] = (layer, inputs[0].detach(), output)

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    gradients: dict[Layer, float] = {}
    try:
        with torch.enable_grad():
            if not parameters:  # all frozen: follow the gradients of the spikes alone
                values = values.detach().requires_grad_()
            with hook_runs(model, note):
                output = model(values)
            loss = first_spike_cross_entropy(output, target, scale=scale)
            torch.autograd.backward(loss)
        for layer in layers.values():
            trained = (p for p in layer.parameters() if p.requires_grad)
            own = [p.grad for p in trained if p.grad is not None]
            norms = [float(torch.linalg.vector_norm(g, dtype=torch.float64)) for g in own]
            gradients[layer] = math.hypot(*norms) / max(layer.weight.shape[0], 1) if norms else 0.0
    finally:
        for parameter, grad in zip(parameters, kept, strict=True):
            parameter.grad = grad
    ran = {layer for layer, _, _ in seen.values()}
    missing = [name for name, layer in layers.items() if layer not in ran]
    if missing:
        raise ValueError(f"the layer {missing[0]} does not run when the model does")
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    rows = [
        _measure(name, layer, inputs, output, gradients[layer], source)
        for name, (layer, inputs, output) in seen.items()  # in the order in which they ran
    ]
    return Diagnosis(_with_issues(rows), float(loss.detach()), len(values))


def _measure(
    name: str,
    layer: SpikingLinear | SpikingConv2d,
    inputs: Tensor,
    output: Tensor,
    weight_gradient: float,
    generator: torch.Generator,
) -> LayerDiagnosis:
    z = output.detach()
    spiked = z.isfinite()
    times = torch.where(spiked, z, 1).log().double()
    causal, fraction, slopes = _causal_sets(layer, inputs, z, generator)
    grad = output.grad if output.grad is not None else torch.zeros_like(z)
    by_time = torch.where(spiked, grad * torch.where(spiked, z, 0), 0).double()
    flat, fired = times.flatten(1), spiked.flatten(1)
    means = (flat * fired).sum(1, keepdim=True) / fired.sum(1, keepdim=True).clamp(min=1)
    count = int(spiked.sum())
    delivered = causal_operations = math.nan
    if not bool(z.isnan().any()):
        counted = layer_operations(name, layer, inputs, z)
        delivered, causal_operations = counted.delivered / len(z), counted.causal / len(z)
    return LayerDiagnosis(
        name=name,
        neurons=math.prod(z.shape[1:]),
        firing=count / max(z.numel(), 1),
        silent_neurons=float((~spiked.any(0)).double().mean()),
        time=float(times.sum()) / count if count else math.nan,
        shift=_spread(means, fired.any(1, keepdim=True), 0),
        spread_over_images=_spread(flat - means, fired, 0),
        spread_over_neurons=_spread(flat, fired, 1),
        causal=causal,
        causal_fraction=fraction,
        slope_median=float(slopes.median()) if len(slopes) else math.nan,
        slope_least=float(slopes.min()) if len(slopes) else math.nan,
        steep=float((slopes < SMALL_SLOPE).double().mean()) if len(slopes) else 0.0,
        weight_gradient=weight_gradient,
        time_gradient=float(torch.linalg.vector_norm(by_time)),
        delivered=delivered,
        causal_operations=causal_operations,
    )


def _with_issues(rows: list[LayerDiagnosis]) -> tuple[LayerDiagnosis, ...]:
    """The layers, each with its problems."""
    # Silent layers have another problem, and no gradient for that reason.
    alive = [index for index, row in enumerate(rows) if row.firing >= FEWEST_FIRING]
    gradients = [rows[index].time_gradient for index in alive]
    weakest = bool(gradients) and min(gradients) < WEAKEST_GRADIENT * max(gradients)
    # The gradient comes from the output: the problem is in the layer where it shrinks most.
    lost = [before / after if after > 0 else math.inf for before, after in pairwise(gradients)]
    explained = len(alive) < len(rows) and 0 in lost
    shrunk = lost.index(min(lost)) + 1 if weakest and lost and not explained else -1
    culprit = alive[shrunk] if shrunk >= 0 else -1
    judged = []
    for index, row in enumerate(rows):
        found = _issues(row)
        if index == culprit:
            left = gradients[shrunk - 1] / gradients[shrunk]
            found.append(
                f"gradient shrinks by a factor of {left:.0e}: raise the standard deviation of the "
                "weights"
            )
        judged.append(replace(row, issues=tuple(found)))
    return tuple(judged)


def _issues(row: LayerDiagnosis) -> list[str]:
    found = []
    if not all(map(math.isfinite, (row.weight_gradient, row.time_gradient))):
        found.append("gradient not finite: look for NaN in its inputs or weights")
    if row.firing < FEWEST_FIRING:
        found.append(f"only {row.firing:.1%} of the neurons spike: raise the sums of their weights")
    elif row.spread_over_images < LEAST_SPREAD:
        found.append(
            f"spread of {row.spread_over_images:.0e} is lost in rounding: raise the standard "
            "deviation of the weights, here or in earlier layers"
        )
    if row.steep > MOST_STEEP:
        found.append(
            f"{row.steep:.0%} of the spikes have D below {SMALL_SLOPE}: their gradients are 1 / D; "
            "raise the sums of the weights"
        )
    if row.weight_gradient > STEEPEST_GRADIENT:
        found.append(
            f"weight gradient of {row.weight_gradient:.0f}: limit it, or raise the sums of the "
            "weights"
        )
    return found


def _spread(times: Tensor, spiked: Tensor, dim: int) -> float:
    """Deviation along ``dim`` over what spiked, mean over the rest with at least two spikes."""
    count = spiked.sum(dim)
    enough = count >= 2
    if not bool(enough.any()):
        return 0.0
    mean = (times * spiked).sum(dim, keepdim=True) / count.clamp(min=1).unsqueeze(dim)
    square = ((times - mean).square() * spiked).sum(dim) / (count - 1).clamp(min=1)
    return float(square.sqrt()[enough].mean())


def _causal_sets(
    layer: SpikingLinear | SpikingConv2d, inputs: Tensor, z: Tensor, generator: torch.Generator
) -> tuple[float, float, Tensor]:
    """Mean causal set, as inputs and as a fraction of those that spike, and D; of some neurons."""
    weight = layer.weight.detach().flatten(1)
    if isinstance(layer, SpikingConv2d):
        fields, outs = _receptive_fields(layer, inputs, z, generator)
    else:
        fields, outs = inputs.reshape(-1, inputs.shape[-1]), z.reshape(-1, z.shape[-1])
        chosen = torch.randperm(len(fields), generator=generator)[:_FIELDS].to(z.device)
        fields, outs = fields[chosen], outs[chosen]
    some = torch.randperm(outs.shape[1], generator=generator)[:_OUTPUTS].to(z.device)
    outs, weight = outs[:, some], weight[some]
    if isinstance(layer, SpikingConv2d) and layer.groups > 1:
        per_group = layer.out_channels // layer.groups
        chunks = fields.reshape(len(fields), layer.groups, -1)
        own = chunks[:, some // per_group]  # (fields, outputs, inputs)
    else:
        own = fields[:, None, :].expand(-1, len(some), -1)
    causal = own < outs[:, :, None]
    slopes = torch.einsum("roi,oi->ro", causal.to(weight.dtype), weight) - 1
    if layer.bias is not None:
        slopes = slopes + torch.where(outs > 1, layer.bias.detach()[some], 0)
    spiked = outs.isfinite()
    if not bool(spiked.any()):
        return 0.0, 0.0, slopes.new_zeros(0)
    sizes = causal.sum(2)[spiked].double()
    arrived = own.isfinite().sum(2)[spiked].clamp(min=1)
    return float(sizes.mean()), float((sizes / arrived).mean()), slopes[spiked]


def _receptive_fields(
    layer: SpikingConv2d, inputs: Tensor, z: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Some receptive fields, (fields, inputs), and the neurons' outputs, (fields, outputs)."""
    batch = inputs if inputs.dim() == 4 else inputs[None]
    outs = z if z.dim() == 4 else z[None]
    images = torch.randperm(len(batch), generator=generator)[:4].to(z.device)
    padded = pad_silent(layer, batch[images])
    unfolded = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    fields = unfolded.transpose(1, 2).flatten(0, 1)
    rows = outs[images].flatten(2).transpose(1, 2).flatten(0, 1)
    chosen = torch.randperm(len(fields), generator=generator)[:_FIELDS].to(z.device)
    return fields[chosen], rows[chosen]
