"""How the results of a network are printed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ttfs_fast.cli._common import rich, show_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ttfs_fast.analysis import EnergyModel, EvaluationResult, OperationCounts
    from ttfs_fast.quantization import Comparison

MOST_COLUMNS = 20
"""Classes up to which a confusion table can be read."""

MOST_CHARACTERS = 4
"""Of class names that head its columns."""


def print_result(result: "EvaluationResult") -> None:
    table = rich("table").Table(title=f"{result.dataset}: {result.images:,} images")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("meaning", overflow="fold")
    rows = [
        ("accuracy", f"{result.accuracy:.2%}", f"{result.correct:,} correct"),
        ("silent images", f"{result.silent_share:.2%}", "no output spike, counted as wrong"),
        ("first spike", f"{result.first_spike_time:.3f} tau", "mean time of the decision"),
        (
            "spikes per neuron",
            f"{result.spikes_per_neuron:.1%}",
            f"fraction of {result.neurons:,} neurons that spike",
        ),
    ]
    for name, fraction in result.spikes_per_neuron_by_layer.items():
        rows.append((f"  {name}", f"{fraction:.1%}", "the same in this layer"))
    rows += [
        (
            "energy by weights",
            f"{result.energy_by_weights * 1e9:.1f} nJ",
            f"an image: {result.weights:,} weights x spikes per neuron x 10 pJ (the paper's count)",
        ),
        (
            "energy by spikes",
            f"{result.energy_by_spikes * 1e9:.1f} nJ",
            f"an image: {result.spikes_per_image:,.0f} neuron spikes x 10 pJ",
        ),
        ("speed", f"{result.images_per_second:,.0f} /s", "images, encoding included"),
    ]
    for row in rows:
        table.add_row(*row)
    show_table(table)


def print_operations(counts: "OperationCounts", models: "Sequence[EnergyModel]") -> None:
    """What hardware would do, layer by layer, and its energy by each model."""
    show_table(counts.table())
    table = rich("table").Table(title="energy of these operations, an image")
    table.add_column("model")
    table.add_column("energy", justify="right")
    table.add_column("operations")
    table.add_column("source", overflow="fold")
    for model in models:
        joules = f"{counts.energy(model) * 1e9:,.1f} nJ"
        table.add_row(model.name, joules, model.operations, model.source)
    show_table(table)


def print_confusion(result: "EvaluationResult", classes: tuple[str, ...]) -> None:
    print_counts(
        "true class (row), answer (column)", classes, (*classes, "silent"), result.confusion
    )


def print_counts(
    title: str, rows: Sequence[str], columns: Sequence[str], counts: "NDArray[np.int64]"
) -> None:
    """A table of counts; where names would make its columns wide, they are numbered instead."""
    if max(map(len, columns[:-1])) > MOST_CHARACTERS:
        rows = [f"{number} {name}" for number, name in enumerate(rows)]
        columns = [*map(str, range(len(columns) - 1)), columns[-1]]
    table = rich("table").Table(title=title)
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in zip(rows, counts.tolist(), strict=True):
        table.add_row(name, *(str(count) if count else "." for count in row))
    show_table(table)


def print_comparison(comparison: "Comparison", classes: tuple[str, ...]) -> None:
    names = (*classes, "silent")
    print_counts("answer in float (row), in integers (column)", names, names, comparison.counts)
