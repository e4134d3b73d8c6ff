"""Table 1: the networks, layer by layer, and whether the paper's counts fit them."""

import dataclasses
from functools import partial
from typing import Any

from ttfs_fast._tables import Column, Table
from ttfs_fast.models import spiking_googlenet, spiking_vgg16
from ttfs_fast.models.description import Conv, Dense, Description, numbered
from ttfs_fast.paper import numbers
from ttfs_fast.paper.part import Context, ReportPart, Values
from ttfs_fast.paper.sections import Section, joules, percent, relative, whole
from ttfs_fast.paper.store import WorkUnit

NAME, TITLE = "table1", "Table 1: the networks"


def descriptions() -> dict[str, Description]:
    """The three networks of Table 1, by the data set they are for."""
    mnist = numbered([Conv(5, 32, 2), Conv(5, 16, 2), Dense(10)])
    return {
        "mnist": Description("MNIST network", tuple(mnist), 1, (28, 28)),
        "cifar10": spiking_vgg16(device="meta").description,
        "imagenet": spiking_googlenet(device="meta").description,
    }


def settings(context: Context) -> dict[str, Any]:
    return {"networks": list(descriptions())}


def units(context: Context) -> list[WorkUnit]:
    return [WorkUnit(key, partial(_count, it)) for key, it in descriptions().items()]


def _count(description: Description) -> dict[str, Any]:
    rows = [dataclasses.asdict(row) for row in description.counts()]
    return {
        "name": description.name,
        "input": [description.in_channels, *description.image_size],
        "layers": rows,
        "neurons": description.neurons,
        "weights": description.weights,
        "synapses": sum(row["synapses"] for row in rows),
    }


def result(context: Context, values: Values) -> dict[str, Any]:
    found: dict[str, Any] = {"networks": values}
    found["energy"] = {
        key: {
            "weights_in_table_2": claim.weights,
            "energy": claim.energy,
            "weights_that_fit_its_energy": claim.energy / claim.sparsity / numbers.JOULE_PER_SPIKE,
            "energy_by_weights": values[key]["weights"] * claim.sparsity * numbers.JOULE_PER_SPIKE,
            "energy_by_spikes": values[key]["neurons"] * claim.sparsity * numbers.JOULE_PER_SPIKE,
        }
        for key, claim in numbers.TABLE_2.items()
    }
    return found


def section(context: Context, result: dict[str, Any]) -> Section:
    vgg = result["networks"]["cifar10"]
    fits = result["energy"]["cifar10"]["weights_that_fit_its_energy"]
    found = Section(
        NAME,
        TITLE,
        f"SpikingVGG16 as listed has {vgg['weights'] / 1e6:.1f} million weights, not the "
        f"{numbers.TABLE_2['cifar10'].weights / 1e6:.0f} million of Table 2; the paper's own "
        f"energy fits {fits / 1e6:.1f} million.",
    )
    found.text.append(
        "Weights are counted without biases, synapses without padding. Synaptic events a spike are "
        "the synapses that one input spike drives, on average over a layer's inputs."
    )
    found.tables += [_summary(result), _contradictions(result)]
    for key, network in result["networks"].items():
        columns = [
            Column("layer", numeric=False),
            Column("as in Table 1", numeric=False),
            Column("output", numeric=False),
            Column("neurons", whole),
            Column("weights", whole),
            Column("synapses", whole),
            Column("events a spike", lambda value: f"{value:,.1f}"),
        ]
        rows = [
            [
                row["name"],
                row["text"],
                " x ".join(map(str, row["output"])),
                row["neurons"],
                row["weights"],
                row["synapses"],
                row["events_per_spike"],
            ]
            for row in network["layers"]
        ]
        rows.append(
            ["all", None, None, network["neurons"], network["weights"], network["synapses"], None]
        )
        size = " x ".join(map(str, network["input"]))
        caption = f"{network['name']}, layer by layer, for images of {size}"
        found.tables.append(Table(f"{NAME}-{key}", caption, columns, rows, folded=len(rows) > 10))
    return found


def _summary(result: dict[str, Any]) -> Table:
    rows = [
        {"claim": claim.weights} | result["networks"][key] for key, claim in numbers.TABLE_2.items()
    ]
    columns = [
        Column("network", numeric=False, of="name"),
        Column("layers of neurons", whole, of=lambda row: len(row["layers"])),
        Column("neurons", whole, of="neurons"),
        Column("synapses", whole, of="synapses"),
        Column("weights, from Table 1", whole, of="weights"),
        Column("weights, Table 2", whole, of="claim"),
        Column("difference", relative, of=lambda row: row["weights"] / row["claim"] - 1),
    ]
    return Table.of(f"{NAME}-networks", "The three networks", columns, rows)


def _contradictions(result: dict[str, Any]) -> Table:
    """Contradictions within the paper, and with Table 1."""
    networks, energy = result["networks"], result["energy"]
    rows = []
    for key, claim in numbers.TABLE_2.items():
        own, weights = energy[key], networks[key]["weights"]
        off = claim.weights / own["weights_that_fit_its_energy"] - 1
        rows.append(
            [
                f"{claim.network}: weights",
                f"{claim.weights / 1e6:.3g} million (Table 2)",
                f"{weights / 1e6:.3g} million (Table 1); {claim.energy_text} at sparsity "
                f"{claim.sparsity} and 10 pJ is {own['weights_that_fit_its_energy'] / 1e6:.3g} "
                "million",
                "contradicts itself" if abs(off) > 0.1 else "consistent",
            ]
        )
    for key, claim in numbers.TABLE_2.items():
        own = energy[key]
        rows.append(
            [
                f"{claim.network}: energy an image",
                f"{claim.energy_text} (section 4.1)",
                f"{joules(own['energy_by_weights'])} if every weight counts as a spike; "
                f"{joules(own['energy_by_spikes'])} if every spike of a neuron does",
                "counts weights, although 10 pJ is defined as the energy of a neuron's spike",
            ]
        )
    gain = 1 - numbers.JOULE_PER_SPIKE / numbers.PRIOR_JOULE_PER_SPIKE
    implied = (1 - numbers.CLAIMED_GAIN) * numbers.PRIOR_JOULE_PER_SPIKE
    rows.append(
        [
            "Gain in energy over the circuit before",
            f"{percent(0)(numbers.CLAIMED_GAIN)} (section 3.1)",
            f"less than {joules(numbers.JOULE_PER_SPIKE)} in place of "
            f"{joules(numbers.PRIOR_JOULE_PER_SPIKE)} is more than {percent(0)(gain)}",
            f"{percent(0)(numbers.CLAIMED_GAIN)} would be {implied / 1e-12:.2f} pJ, not below 10",
        ]
    )
    columns = [
        Column(title, numeric=False)
        for title in ("what", "the paper says", "what follows", "conclusion")
    ]
    return Table(
        f"{NAME}-contradictions", "Where the paper's counts meet, and where not", columns, rows
    )


PART = ReportPart(NAME, TITLE, settings, units, result, section)
