"""Table 2: accuracy, weights, spikes, energy and time of decision of trained networks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ttfs_fast._tables import Column, Table
from ttfs_fast.analysis import (
    count_on_images,
    evaluate,
    read_energy_models,
    spike_timing,
)
from ttfs_fast.analysis.plotting import spike_raster
from ttfs_fast.data import ImageSet
from ttfs_fast.gpu.device import placed
from ttfs_fast.layers import ForcedSpikeCounter
from ttfs_fast.paper import numbers, pictures
from ttfs_fast.paper.networks import EvaluatedNetwork
from ttfs_fast.paper.part import Context, ReportPart, Values
from ttfs_fast.paper.sections import (
    Picture,
    Section,
    StatTile,
    finite,
    joules,
    kilobytes,
    percent,
    points,
    relative,
    tau,
    whole,
    wilson,
)
from ttfs_fast.paper.store import WorkUnit
from ttfs_fast.training.curve import training_curve

NAME, TITLE = "table2", "Table 2: accuracy, spikes per neuron, energy, latency"
GRID = [round(0.05 * step, 2) for step in range(161)]
"""Times, in units of tau, at which the course of the decision is kept."""
MOST_CLASSES = 20
"""Classes up to which wrong answers can be drawn."""


def settings(context: Context) -> dict[str, Any]:
    return {}


def units(context: Context) -> list[WorkUnit]:
    found = []
    for network in context.networks:
        found.append(WorkUnit(f"{network.stem}/evaluation", partial(_evaluate, network)))
        found.append(WorkUnit(f"{network.stem}/timing", partial(_timing, network)))
        images = context.plan.operation_images
        found.append(
            WorkUnit(f"{network.stem}/operations:{images}", partial(_count, network, images))
        )
    return found


def _evaluate(network: EvaluatedNetwork) -> dict[str, Any]:
    forced = ForcedSpikeCounter()
    with placed(network.model, network.device) as model, forced.watching(model):
        found = evaluate(model, network.test_set).to_dict()
    del found["images_per_second"]  # a time, not a result
    if network.has_horizons:
        found["forced_spikes_per_image"] = forced.spikes / found["images"]
    found["classes"] = list(network.test_set.classes)
    if len(found["classes"]) > MOST_CLASSES:
        found["classes"] = found["confusion"] = None
    return found


def _timing(network: EvaluatedNetwork) -> dict[str, Any]:
    with placed(network.model, network.device) as model:
        timing = spike_timing(model, network.test_set)
    decision = timing.decision[np.isfinite(timing.decision)]
    margin = timing.margin[np.isfinite(timing.margin)]
    last = timing.last[np.isfinite(timing.last)]
    grid = np.array(GRID)

    def quantiles(values: Any) -> dict[str, float | None]:
        if not len(values):
            return dict.fromkeys(("mean", "q05", "median", "q95"))
        low, middle, high = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
        return {"mean": float(values.mean()), "q05": low, "median": middle, "q95": high}

    return {
        "decision": quantiles(decision),
        "margin": quantiles(margin),
        "last_spike": quantiles(last),
        "fraction_by_decision": finite(timing.fraction_by_decision),
        "decided": timing.decided(grid).tolist(),
        "decided_right": timing.decided_right(grid).tolist(),
        "edges": timing.edges.tolist(),
        "histograms": {name: counts.tolist() for name, counts in timing.histograms.items()},
        "silent": timing.silent,
    }


def _count(network: EvaluatedNetwork, images: int) -> dict[str, Any]:
    """Operations of an image, and its energy by each model, with the models' sources."""
    models = read_energy_models()
    counts = count_on_images(network.model, network.some(images), images)
    return {
        **counts.to_dict(models),
        "reference_causal_per_image": counts.total("reference_causal"),
        "sources": {model.name: model.source for model in models},
    }


def result(context: Context, values: Values) -> dict[str, Any]:
    return {
        network.key: {
            "title": network.title,
            "origin": network.origin,
            "evaluation": values[f"{network.stem}/evaluation"],
            "timing": values[f"{network.stem}/timing"],
            "operations": values[f"{network.stem}/operations:{context.plan.operation_images}"],
        }
        for network in context.networks
    }


def section(context: Context, result: dict[str, Any]) -> Section:
    found = Section(NAME, TITLE, _headline(context, result))
    found.tiles += _tiles(context, result)
    found.text.append(
        "The class is the output that spikes first; an image without an output spike counts as "
        "wrong. Spikes per neuron are the fraction of neurons that spike; the paper calls them "
        "sparsity. Energy is given both ways: weights x spikes per neuron x 10 pJ, as the paper "
        "counts, and 10 pJ for every neuron that spikes, as its circuit section defines it."
    )
    if any(network.has_horizons for network in context.networks):
        found.text.append(
            "A network with horizons (docs/horizon.md) makes every neuron that has not spiked by "
            "its layer's horizon spike then. These forced spikes are no spikes of the fraction and "
            "the energies above; they are counted apart, behind the layers' pools."
        )
    found.tables += [
        _accuracy(context, result),
        _spikes_per_neuron(context, result),
        _energy(context, result),
        _operations(context, result),
        _energy_models(context, result),
        _latency(context, result),
        _layers(context, result),
    ]
    found.pictures += [
        picture for network in context.networks for picture in _draw(network, result)
    ]
    return found


def _headline(context: Context, result: dict[str, Any]) -> str:
    network = context.networks[0]
    own = result[network.key]["evaluation"]
    timing = result[network.key]["timing"]
    claim = numbers.TABLE_2[network.paper_key]
    text = (
        f"{network.title}: {percent()(own['accuracy'])} of {own['images']:,} test images "
        "classified correctly"
    )
    if network.comparable:
        text += (
            f", {percent()(claim.accuracy)} in the paper "
            f"({points(own['accuracy'] - claim.accuracy)} points)"
        )
    if timing["decision"]["mean"] is not None:
        text += (
            f". The decision falls after {timing['decision']['mean']:.2f} tau on average, when "
            f"{percent(0)(timing['fraction_by_decision'])} of the spikes have come"
        )
    return f"{text}."


def _tiles(context: Context, result: dict[str, Any]) -> list[StatTile]:
    network = context.networks[0]
    own = result[network.key]["evaluation"]
    claim = numbers.TABLE_2[network.paper_key]
    decision = result[network.key]["timing"]["decision"]["mean"]

    def beside(text: str) -> str:
        return text if network.comparable else ""

    found = [
        StatTile(
            f"accuracy on {network.data_title}",
            percent()(own["accuracy"]),
            beside(percent()(claim.accuracy)),
        ),
        StatTile(
            "neurons that spike",
            percent(1)(own["spikes_per_neuron"]),
            beside(percent(0)(claim.sparsity)),
        ),
        StatTile(
            "energy an image, by weights",
            joules(own["energy_by_weights_joule"]),
            beside(claim.energy_text),
        ),
    ]
    if decision is not None:
        found.append(StatTile("mean time of the decision", f"{decision:.2f} tau"))
    return found


def _beside(context: Context) -> str:
    """Heading of the paper's columns."""
    titles = {network.paper_title for network in context.networks}
    return titles.pop() if len(titles) == 1 else "paper"


@dataclass(frozen=True)
class _Row:
    """A network with its results, and the paper's figures beside it.

    There are none under a heading that would not suit them.
    """

    network: EvaluatedNetwork
    evaluation: dict[str, Any]
    timing: dict[str, Any]
    operations: dict[str, Any]
    claim: numbers.Claim | None

    @property
    def title(self) -> str:
        return self.network.title

    @property
    def compared(self) -> numbers.Claim | None:
        """The paper's figures, if they are for the same data set."""
        return self.claim if self.network.comparable else None


def _rows(context: Context, result: dict[str, Any]) -> list[_Row]:
    found = []
    for network in context.networks:
        suits = network.paper_title == _beside(context)
        claim = numbers.TABLE_2[network.paper_key] if suits else None
        own = result[network.key]
        found.append(_Row(network, own["evaluation"], own["timing"], own["operations"], claim))
    return found


NETWORK = Column("network", numeric=False, of="title")


def _accuracy(context: Context, result: dict[str, Any]) -> Table:
    def interval(row: _Row) -> tuple[float, float]:
        return wilson(row.evaluation["correct"], row.evaluation["images"])

    def difference(row: _Row) -> float | None:
        return row.evaluation["accuracy"] - row.compared.accuracy if row.compared else None

    columns = [
        NETWORK,
        Column("test images", whole, of="evaluation.images"),
        Column("correct", whole, of="evaluation.correct"),
        Column("accuracy", percent(), of="evaluation.accuracy"),
        Column("95 % interval, from", percent(), of=lambda row: interval(row)[0]),
        Column("to", percent(), of=lambda row: interval(row)[1]),
        Column(_beside(context), percent(), of=lambda row: row.claim and row.claim.accuracy),
        Column("difference (points)", points, of=difference),
    ]
    note = (
        "The authors' weights classify fewer of the training images than of the test images "
        "correctly (docs/results/mnist.md). This suggests that they were trained on test images, "
        "too, and makes them no fair comparison."
        if any(network.key == "mnist-authors" for network in context.networks)
        else ""
    )
    rows = _rows(context, result)
    return Table.of(f"{NAME}-accuracy", "Accuracy", columns, rows, note=note)


def _spikes_per_neuron(context: Context, result: dict[str, Any]) -> Table:
    def difference(row: _Row) -> float | None:
        own = row.evaluation["spikes_per_neuron"]
        return own - row.compared.sparsity if row.compared else None

    beside = _beside(context)
    columns = [
        NETWORK,
        Column("weights", whole, of="evaluation.weights"),
        Column(beside, whole, of=lambda row: row.claim and row.claim.weights),
        Column("neurons that spike", percent(1), of="evaluation.spikes_per_neuron"),
        Column(beside, percent(0), of=lambda row: row.claim and row.claim.sparsity),
        Column("difference (points)", points, of=difference),
    ]
    name, caption = f"{NAME}-spikes", "Weights and spikes per neuron"
    return Table.of(name, caption, columns, _rows(context, result))


def _energy(context: Context, result: dict[str, Any]) -> Table:
    def difference(row: _Row) -> float | None:
        own = row.evaluation["energy_by_weights_joule"]
        return own / row.compared.energy - 1 if row.compared else None

    columns = [
        NETWORK,
        Column("by weights", joules, of="evaluation.energy_by_weights_joule"),
        Column(_beside(context), joules, of=lambda row: row.claim and row.claim.energy),
        Column("difference", relative, of=difference),
        Column("by neuron spikes", joules, of="evaluation.energy_by_spikes_joule"),
        Column("spikes per image", whole, of="evaluation.spikes_per_image"),
        Column(
            "forced at horizons, an image",
            whole,
            of=lambda row: row.evaluation.get("forced_spikes_per_image"),
        ),
        Column("neurons", whole, of="evaluation.neurons"),
    ]
    return Table.of(f"{NAME}-energy", "Energy of an image", columns, _rows(context, result))


def _operations(context: Context, result: dict[str, Any]) -> Table:
    def fraction(row: _Row) -> float | None:
        each = row.operations["per_image"]
        return each["causal"] / each["delivered"] if each["delivered"] else None

    def of_reference_spikes(row: _Row) -> float | None:
        own: float = row.operations["reference_causal_per_image"]
        return own if row.network.has_horizons else None

    columns = [
        NETWORK,
        Column("images counted", whole, of="operations.images"),
        Column(
            "synapses",
            whole,
            of=lambda row: sum(layer["synapses"] for layer in row.operations["layers"]),
        ),
        Column("spikes", whole, of="operations.per_image.spikes"),
        Column("delivered operations", whole, of="operations.per_image.delivered"),
        Column("causal operations", whole, of="operations.per_image.causal"),
        Column("causal of delivered", percent(0), of=fraction),
        Column("of reference spikes, causal", whole, of=of_reference_spikes),
        Column("neuron updates", whole, of="operations.per_image.updates"),
        Column("memory traffic", kilobytes, of="operations.bytes_per_image"),
    ]
    note = (
        "Exact counts, mean per image. Delivered: every spike reaches all its synapses. Causal: "
        "a neuron ignores inputs after its own spike. Memory: 4 bytes per weight, 8 per state, 8 "
        "per event (docs/hardware.md)."
    )
    name, caption = f"{NAME}-operations", "Operations of an image"
    return Table.of(name, caption, columns, _rows(context, result), note=note)


def _energy_models(context: Context, result: dict[str, Any]) -> Table:
    rows = _rows(context, result)
    sources: dict[str, str] = {}
    for row in rows:
        sources |= row.operations["sources"]

    def energy(name: str) -> Callable[[_Row], float]:
        return lambda row: row.operations["energy_joule"][name]

    models = [Column(name, joules, of=energy(name)) for name in sources]
    note = " ".join(f"{name}: {source}." for name, source in sources.items())
    note += " Figures of different models are no comparison of chips."
    name, caption = f"{NAME}-energy-models", "Energy of an image by model"
    return Table.of(name, caption, [NETWORK, *models], rows, note=note)


def _latency(context: Context, result: dict[str, Any]) -> Table:
    columns = [
        NETWORK,
        Column("decision, mean", tau, of="timing.decision.mean"),
        Column("5 %", tau, of="timing.decision.q05"),
        Column("median", tau, of="timing.decision.median"),
        Column("95 %", tau, of="timing.decision.q95"),
        Column("lead over the second output, median", tau, of="timing.margin.median"),
        Column("last spike of all, mean", tau, of="timing.last_spike.mean"),
        Column("spikes by the decision", percent(1), of="timing.fraction_by_decision"),
        Column("undecided images", percent(), of="evaluation.silent_fraction"),
    ]
    return Table.of(
        f"{NAME}-latency",
        "When the decision falls: time of the first output spike, in units of tau",
        columns,
        _rows(context, result),
        note="The paper gives no times. The input spikes from 0 to alpha, 3 tau for MNIST.",
    )


def _layers(context: Context, result: dict[str, Any]) -> Table:
    rows = [
        [row.title, name, fraction]
        for row in _rows(context, result)
        for name, fraction in row.evaluation["spikes_per_neuron_by_layer"].items()
    ]
    columns = [
        Column("network", numeric=False),
        Column("layer", numeric=False),
        Column("neurons that spike", percent(1)),
    ]
    return Table(f"{NAME}-layers", "Neurons that spike, layer by layer", columns, rows, folded=True)


def _draw(network: EvaluatedNetwork, result: dict[str, Any]) -> list[Picture]:
    own, timing = result[network.key]["evaluation"], result[network.key]["timing"]
    name = f"{NAME}-{network.key}"
    found = [
        Picture(
            f"{name}-decision",
            f"{network.title}: images decided, and decided rightly, by a time",
            pictures.decision_curve(GRID, timing["decided"], timing["decided_right"]),
        ),
        Picture(
            f"{name}-times",
            f"{network.title}: spike times by layer, over all test images",
            pictures.spike_histograms(timing["edges"], timing["histograms"], timing["silent"]),
        ),
    ]
    if own["classes"] is not None:
        found.append(
            Picture(
                f"{name}-confusion",
                f"{network.title}: images answered wrongly, by true class and answer",
                pictures.confusion(own["confusion"], own["classes"]),
            )
        )
    if _can_look_inside(network):
        found.append(
            Picture(
                f"{name}-filters",
                f"{network.title}: weights of the first layer; red excites, blue inhibits",
                pictures.first_filters(network.model),
                photo=True,
            )
        )
    if network.log is not None:
        found.append(
            Picture(
                f"{name}-training", f"{network.title}: its training", training_curve(network.log)
            )
        )
    if _can_look_inside(network):
        found.append(_raster(network, name))
    return found


def _can_look_inside(network: EvaluatedNetwork) -> bool:
    """Whether its neurons are few enough to draw each."""
    is_plain = isinstance(network.test_set, ImageSet) and not network.encoding.standardize
    return is_plain and network.is_small


def _raster(network: EvaluatedNetwork, name: str) -> Picture:
    images = network.test_set
    assert isinstance(images, ImageSet)
    raster = spike_raster(
        network.model,
        images.images[0],
        label=int(images.labels[0]),
        classes=images.classes,
    )
    caption = f"{network.title}: one image, spike by spike"
    return Picture(f"{name}-raster", caption, raster, photo=True)


PART = ReportPart(NAME, TITLE, settings, units, result, section)
