"""How the results of a network are printed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ttfs_fast._tables import Column, Table
from ttfs_fast.cli._common import show_table

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
    rows = [
        ("accuracy", f"{result.accuracy:.2%}", f"{result.correct:,} correct"),
        ("silent images", f"{result.silent_fraction:.2%}", "no output spike, counted as wrong"),
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
    columns = [Column("measure", numeric=False), Column("value"), Column("meaning", numeric=False)]
    views = ", each with its mirror image" if result.views > 1 else ""
    title = f"{result.dataset}: {result.images:,} images{views}"
    show_table(Table("result", title, columns, rows))


def print_operations(counts: "OperationCounts", models: "Sequence[EnergyModel]") -> None:
    """What hardware would do, layer by layer, and its energy by each model."""
    show_table(counts.table())
    columns = [
        Column("model", numeric=False, of="name"),
        Column("energy", lambda joules: f"{joules * 1e9:,.1f} nJ", of=counts.energy),
        Column("operations", numeric=False, of="operations"),
        Column("source", numeric=False, of="source"),
    ]
    show_table(Table.of("energy", "energy of these operations, an image", columns, models))


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
    heads = [Column("", numeric=False, wrap=False)]
    heads += [Column(name, lambda count: str(count or "."), wrap=False) for name in columns]
    cells = [[name, *row] for name, row in zip(rows, counts.tolist(), strict=True)]
    show_table(Table("counts", title, heads, cells))


def print_comparison(comparison: "Comparison", classes: tuple[str, ...]) -> None:
    names = (*classes, "silent")
    print_counts("answer in float (row), in integers (column)", names, names, comparison.counts)
