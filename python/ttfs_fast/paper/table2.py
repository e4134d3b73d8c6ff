"""Table 2: accuracy, weights, sparsity and energy of trained networks, and when they decide."""

from functools import partial
from typing import Any

import numpy as np

from ttfs_fast.analysis import evaluate, spike_timing
from ttfs_fast.analysis.plotting import spike_raster, training_curve
from ttfs_fast.data import ImageSet
from ttfs_fast.paper import numbers, pictures
from ttfs_fast.paper.part import Context, Part, Values
from ttfs_fast.paper.sections import (
    Column,
    Picture,
    Section,
    Table,
    Tile,
    finite,
    joules,
    percent,
    points,
    relative,
    tau,
    whole,
    wilson,
)
from ttfs_fast.paper.store import Unit
from ttfs_fast.paper.subjects import Subject

NAME, TITLE = "table2", "Table 2: accuracy, sparsity, energy, latency"
GRID = [round(0.05 * step, 2) for step in range(161)]
"""Times, in units of tau, at which the course of the decision is kept."""
MOST_CLASSES = 20
"""Classes up to which wrong answers can be drawn."""


def settings(context: Context) -> dict[str, Any]:
    return {}


def units(context: Context) -> list[Unit]:
    found = []
    for subject in context.subjects:
        found.append(Unit(f"{subject.stem}/evaluation", partial(_evaluate, subject)))
        found.append(Unit(f"{subject.stem}/timing", partial(_timing, subject)))
    return found


def _evaluate(subject: Subject) -> dict[str, Any]:
    found = evaluate(subject.model, subject.test_set, **subject.encoding).to_dict()
    del found["images_per_second"]  # a time, not a result
    found["classes"] = list(subject.test_set.classes)
    if len(found["classes"]) > MOST_CLASSES:
        found["classes"] = found["confusion"] = None
    return found


def _timing(subject: Subject) -> dict[str, Any]:
    timing = spike_timing(subject.model, subject.test_set, **subject.encoding)
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
        "share_by_decision": finite(timing.share_by_decision),
        "decided": timing.decided(grid).tolist(),
        "decided_right": timing.decided_right(grid).tolist(),
        "edges": timing.edges.tolist(),
        "histograms": {name: counts.tolist() for name, counts in timing.histograms.items()},
        "silent": timing.silent,
    }


def result(context: Context, values: Values) -> dict[str, Any]:
    return {
        subject.key: {
            "title": subject.title,
            "origin": subject.origin,
            "evaluation": values[f"{subject.stem}/evaluation"],
            "timing": values[f"{subject.stem}/timing"],
        }
        for subject in context.subjects
    }


def section(context: Context, result: dict[str, Any]) -> Section:
    found = Section(NAME, TITLE, _headline(context, result))
    found.tiles += _tiles(context, result)
    found.text.append(
        "The class is the output that spikes first; an image without an output spike counts as "
        "wrong. Sparsity is the paper's word for the share of neurons that spike. Energy is given "
        "both ways: weights x sparsity x 10 pJ, as the paper counts, and 10 pJ for every neuron "
        "that spikes, as its circuit section defines it."
    )
    found.tables += [
        _accuracy(context, result),
        _sparsity(context, result),
        _energy(context, result),
        _latency(context, result),
        _layers(context, result),
    ]
    found.pictures += [
        picture for subject in context.subjects for picture in _draw(subject, result)
    ]
    return found


def _headline(context: Context, result: dict[str, Any]) -> str:
    subject = context.subjects[0]
    own = result[subject.key]["evaluation"]
    timing = result[subject.key]["timing"]
    claim = numbers.TABLE_2[subject.paper_key]
    text = (
        f"{subject.title}: {percent()(own['accuracy'])} of {own['images']:,} test images "
        "classified correctly"
    )
    if subject.comparable:
        text += (
            f", {percent()(claim.accuracy)} in the paper "
            f"({points(own['accuracy'] - claim.accuracy)} points)"
        )
    if timing["decision"]["mean"] is not None:
        text += (
            f". The decision falls after {timing['decision']['mean']:.2f} tau on average, when "
            f"{percent(0)(timing['share_by_decision'])} of the spikes have come"
        )
    return f"{text}."


def _tiles(context: Context, result: dict[str, Any]) -> list[Tile]:
    subject = context.subjects[0]
    own = result[subject.key]["evaluation"]
    claim = numbers.TABLE_2[subject.paper_key]
    decision = result[subject.key]["timing"]["decision"]["mean"]

    def beside(text: str) -> str:
        return text if subject.comparable else ""

    found = [
        Tile(
            f"accuracy on {subject.data_title}",
            percent()(own["accuracy"]),
            beside(percent()(claim.accuracy)),
        ),
        Tile("neurons that spike", percent(1)(own["sparsity"]), beside(percent(0)(claim.sparsity))),
        Tile(
            "energy an image, by weights",
            joules(own["energy_by_weights_joule"]),
            beside(claim.energy_text),
        ),
    ]
    if decision is not None:
        found.append(Tile("mean time of the decision", f"{decision:.2f} tau"))
    return found


def _beside(context: Context) -> str:
    """Heading of the paper's columns."""
    titles = {subject.paper_title for subject in context.subjects}
    return titles.pop() if len(titles) == 1 else "paper"


def _claim(context: Context, subject: Subject) -> numbers.Claim | None:
    """The paper's figures beside a network; none under a heading that would not suit them."""
    suits = subject.paper_title == _beside(context)
    return numbers.TABLE_2[subject.paper_key] if suits else None


def _accuracy(context: Context, result: dict[str, Any]) -> Table:
    rows: list[list[Any]] = []
    for subject in context.subjects:
        own = result[subject.key]["evaluation"]
        claim = _claim(context, subject)
        difference = own["accuracy"] - claim.accuracy if claim and subject.comparable else None
        interval = wilson(own["correct"], own["images"])
        rows.append(
            [
                subject.title,
                own["images"],
                own["correct"],
                own["accuracy"],
                *interval,
                claim.accuracy if claim else None,
                difference,
            ]
        )
    columns = [
        Column("network", numeric=False),
        Column("test images", whole),
        Column("correct", whole),
        Column("accuracy", percent()),
        Column("95 % interval, from", percent()),
        Column("to", percent()),
        Column(_beside(context), percent()),
        Column("difference (points)", points),
    ]
    note = (
        "The authors' weights classify fewer of the training images than of the test images "
        "correctly (docs/results/mnist.md): they have met the test images, and are no yardstick."
        if any(subject.key == "mnist-authors" for subject in context.subjects)
        else ""
    )
    return Table(f"{NAME}-accuracy", "Accuracy", columns, rows, note)


def _sparsity(context: Context, result: dict[str, Any]) -> Table:
    rows: list[list[Any]] = []
    for subject in context.subjects:
        own = result[subject.key]["evaluation"]
        claim = _claim(context, subject)
        rows.append(
            [
                subject.title,
                own["weights"],
                claim.weights if claim else None,
                own["sparsity"],
                claim.sparsity if claim else None,
                own["sparsity"] - claim.sparsity if claim and subject.comparable else None,
            ]
        )
    beside = _beside(context)
    columns = [
        Column("network", numeric=False),
        Column("weights", whole),
        Column(beside, whole),
        Column("neurons that spike", percent(1)),
        Column(beside, percent(0)),
        Column("difference (points)", points),
    ]
    return Table(f"{NAME}-sparsity", "Weights and sparsity", columns, rows)


def _energy(context: Context, result: dict[str, Any]) -> Table:
    rows: list[list[Any]] = []
    for subject in context.subjects:
        own = result[subject.key]["evaluation"]
        claim = _claim(context, subject)
        by_weights = own["energy_by_weights_joule"]
        rows.append(
            [
                subject.title,
                by_weights,
                claim.energy if claim else None,
                by_weights / claim.energy - 1 if claim and subject.comparable else None,
                own["energy_by_spikes_joule"],
                own["spikes_per_image"],
                own["neurons"],
            ]
        )
    columns = [
        Column("network", numeric=False),
        Column("by weights", joules),
        Column(_beside(context), joules),
        Column("difference", relative),
        Column("by neuron spikes", joules),
        Column("spikes an image", whole),
        Column("neurons", whole),
    ]
    return Table(f"{NAME}-energy", "Energy of an image", columns, rows)


def _latency(context: Context, result: dict[str, Any]) -> Table:
    rows: list[list[Any]] = []
    for subject in context.subjects:
        own, timing = result[subject.key]["evaluation"], result[subject.key]["timing"]
        rows.append(
            [
                subject.title,
                timing["decision"]["mean"],
                timing["decision"]["q05"],
                timing["decision"]["median"],
                timing["decision"]["q95"],
                timing["margin"]["median"],
                timing["last_spike"]["mean"],
                timing["share_by_decision"],
                own["silent_share"],
            ]
        )
    columns = [
        Column("network", numeric=False),
        Column("decision, mean", tau),
        Column("5 %", tau),
        Column("median", tau),
        Column("95 %", tau),
        Column("lead over the second output, median", tau),
        Column("last spike of all, mean", tau),
        Column("spikes by the decision", percent(1)),
        Column("undecided images", percent()),
    ]
    return Table(
        f"{NAME}-latency",
        "When the decision falls: time of the first output spike, in units of tau",
        columns,
        rows,
        "The paper gives no times. The input spikes from 0 to alpha, 3 tau for MNIST.",
    )


def _layers(context: Context, result: dict[str, Any]) -> Table:
    rows = [
        [subject.title, name, share]
        for subject in context.subjects
        for name, share in result[subject.key]["evaluation"]["sparsity_by_layer"].items()
    ]
    columns = [
        Column("network", numeric=False),
        Column("layer", numeric=False),
        Column("neurons that spike", percent(1)),
    ]
    return Table(f"{NAME}-layers", "Neurons that spike, layer by layer", columns, rows, folded=True)


def _draw(subject: Subject, result: dict[str, Any]) -> list[Picture]:
    own, timing = result[subject.key]["evaluation"], result[subject.key]["timing"]
    name = f"{NAME}-{subject.key}"
    found = [
        Picture(
            f"{name}-decision",
            f"{subject.title}: images decided, and decided rightly, by a time",
            pictures.decision_curve(GRID, timing["decided"], timing["decided_right"]),
        ),
        Picture(
            f"{name}-times",
            f"{subject.title}: spike times by layer, over all test images",
            pictures.spike_histograms(timing["edges"], timing["histograms"], timing["silent"]),
        ),
    ]
    if own["classes"] is not None:
        found.append(
            Picture(
                f"{name}-confusion",
                f"{subject.title}: images answered wrongly, by true class and answer",
                pictures.confusion(own["confusion"], own["classes"]),
            )
        )
    if _can_look_inside(subject):
        found.append(
            Picture(
                f"{name}-filters",
                f"{subject.title}: weights of the first layer; red excites, blue inhibits",
                pictures.first_filters(subject.model),
                photo=True,
            )
        )
    if subject.log is not None:
        found.append(
            Picture(
                f"{name}-training", f"{subject.title}: its training", training_curve(subject.log)
            )
        )
    if _can_look_inside(subject):
        found.append(_raster(subject, name))
    return found


def _can_look_inside(subject: Subject) -> bool:
    """Whether its neurons are few enough to draw each."""
    is_plain = isinstance(subject.test_set, ImageSet) and not subject.config.standardize
    return is_plain and subject.is_small


def _raster(subject: Subject, name: str) -> Picture:
    images = subject.test_set
    assert isinstance(images, ImageSet)
    raster = spike_raster(
        subject.model,
        images.images[0],
        label=int(images.labels[0]),
        classes=images.classes,
        alpha=subject.config.alpha,
        polarity=subject.config.polarity,
    )
    caption = f"{subject.title}: one image, spike by spike"
    return Picture(f"{name}-raster", caption, raster, photo=True)


PART = Part(NAME, TITLE, settings, units, result, section)
