"""What the report shows of Figure 2."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from ttfs_fast._tables import Column, Table
from ttfs_fast.paper import numbers, pictures
from ttfs_fast.paper.networks import EvaluatedNetwork
from ttfs_fast.paper.part import Context
from ttfs_fast.paper.sections import Picture, Section, StatTile, percent, points, whole

NAME, TITLE = "figure2", "Figure 2: accuracy against noise"
SNR = "weight_snr"

KINDS: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "input_jitter": ("jitter of the input spikes", "tau", lambda v: f"{v:g} tau"),
    "output_jitter": (
        "jitter of every neuron's spike",
        "% of its time",
        lambda v: f"{100 * v:g} %",
    ),
    "dropped": ("spikes lost between layers", "% of the spikes", lambda v: f"{100 * v:g} %"),
    "stuck_silent": ("neurons that never spike", "% of the neurons", lambda v: f"{100 * v:g} %"),
    "stuck_early": (
        "neurons that always spike at once",
        "% of the neurons",
        lambda v: f"{100 * v:g} %",
    ),
    "t_max": ("horizon: later spikes are ignored", "tau", lambda v: f"{v:g} tau"),
}
"""Disturbances beyond the paper: what, its unit in a picture, and how a level is written."""

HORIZON_NOTE = (
    " The network has horizons: each neuron's weights have a fixed sum, which noise changes, and "
    "with it the time of its spikes by more than they lie apart. Rounding to few bits without "
    "retraining (Q) is left out: float rounding changes the sum, too. Table 4 has its integers."
)

TOLERATED_LOSS = 0.005
"""Loss of accuracy up to which a disturbance counts as tolerated."""


def section(context: Context, result: dict[str, Any]) -> Section:
    found = Section(NAME, TITLE, _headline(context, result))
    found.tiles += _tiles(context, result)
    found.text += [
        "Noise on the weights is Gaussian, with the same ratio of mean squares in every layer; the "
        "network is not retrained, as in section 4.2. Every draw is other noise; the same draws "
        "serve at every level. Bands reach from the fifth to the 95th percentile of the draws.",
        "Beyond the paper: spikes that come early or late, are lost, neurons that are stuck, an "
        "end of the time that is waited for, and the whole network as circuits with phase noise. "
        "Stuck neurons are the same for all images; lost spikes are drawn for every image.",
    ]
    for network in context.networks:
        own = result[network.key]
        found.tables.append(_noise_table(network, own))
        found.pictures.append(
            Picture(
                f"{NAME}-{network.key}-weights",
                f"{network.title}: accuracy against noise on the weights (N)"
                + (
                    ", beside rounding to 8, 4 and 2 bits without retraining (Q)"
                    if own["rounded"]
                    else ""
                ),
                pictures.noise_curve(
                    own[SNR]["rows"],
                    own[SNR]["undisturbed"],
                    own["rounded"],
                    _paper_points(network),
                ),
            )
        )
        kinds = {kind: own[kind] for kind in KINDS if kind in own}
        if kinds:
            found.tables.append(_tolerance_table(network, kinds))
            found.tables.append(_all_levels(network, kinds))
            found.pictures.append(
                Picture(
                    f"{NAME}-{network.key}-disturbances",
                    f"{network.title}: accuracy against other disturbances",
                    pictures.disturbance_curves(
                        {
                            kind: (*KINDS[kind][:2], found_here["rows"], found_here["undisturbed"])
                            for kind, found_here in kinds.items()
                        }
                    ),
                )
            )
        if own["circuits"]:
            found.tables.append(_circuit_table(network, own["circuits"]))
    return found


def largest_tolerated(
    rows: Iterable[dict[str, Any]], undisturbed: float, *, rising: bool
) -> float | None:
    """The strongest level up to which no level loses more than `TOLERATED_LOSS` on average.

    Parameters
    ----------
    rows : iterable of dict
        Statistics of each level.
    undisturbed : float
        Accuracy without disturbance.
    rising : bool
        Whether larger levels disturb more; false for a signal-to-noise ratio or a horizon.
    """
    found = None
    for row in sorted(rows, key=lambda row: row["level"], reverse=not rising):
        if undisturbed - row["mean"] > TOLERATED_LOSS:
            break
        found = float(row["level"])
    return found


def _paper_points(network: EvaluatedNetwork) -> dict[str, dict[float, float]]:
    """The paper's points of Figure 2, as far as it gives numbers: Table 4, and one for ImageNet."""
    if not network.comparable:
        return {}
    key = network.paper_key
    table = numbers.TABLE_4[key]
    found = {
        "Q, paper, retrained": {
            bits * numbers.DECIBEL_PER_BIT: table[bits] for bits in table if bits < 32
        }
    }
    if key == "imagenet":
        found["N, paper"] = {24.0: numbers.IMAGENET_AT_24_DB}
    return found


def _headline(context: Context, result: dict[str, Any]) -> str:
    own = result[context.networks[0].key]
    whole_accuracy = own[SNR]["undisturbed"]
    at = {row["level"]: row["mean"] - whole_accuracy for row in own[SNR]["rows"]}
    chosen = [level for level in (25.0, 20.0, 10.0) if level in at] or sorted(at)[-1:]
    losses = ", ".join(f"{points(at[level])} points at {level:g} dB" for level in chosen)
    least = largest_tolerated(own[SNR]["rows"], whole_accuracy, rising=False)
    text = f"Noise on the weights changes accuracy by {losses}"
    if least is not None:
        text += f"; from {least:g} dB on it costs no more than half a point"
    return f"{text}. The paper calls the loss negligible from 25 dB on."


def _tiles(context: Context, result: dict[str, Any]) -> list[StatTile]:
    own = result[context.networks[0].key][SNR]
    return [
        StatTile(
            f"accuracy lost to noise at {row['level']:g} dB",
            f"{100 * (own['undisturbed'] - row['mean']):.2f} points",
            "negligible",
        )
        for row in own["rows"]
        if row["level"] == 25
    ]


def _noise_table(network: EvaluatedNetwork, own: dict[str, Any]) -> Table:
    undisturbed = own[SNR]["undisturbed"]
    columns = [
        Column("SNR (dB)", lambda value: f"{value:g}", of="level"),
        Column("accuracy, mean", percent(), of="mean"),
        Column("change (points)", points, of=lambda row: row["mean"] - undisturbed),
        Column("deviation (points)", lambda value: f"{100 * value:.2f}", of="deviation"),
        Column("5 %", percent(), of="low"),
        Column("95 %", percent(), of="high"),
        Column("least", percent(), of="least"),
        Column("draws", whole, of="draws"),
    ]
    return Table.of(
        f"{NAME}-{network.key}-weights",
        f"{network.title}: Gaussian noise on the weights",
        columns,
        own[SNR]["rows"],
        note=f"{own[SNR]['images']:,} test images; {percent()(undisturbed)} without noise."
        + (HORIZON_NOTE if network.has_horizons else ""),
    )


def _tolerance_table(network: EvaluatedNetwork, kinds: dict[str, Any]) -> Table:
    """The tolerated level of each disturbance, and the effect of the strongest level."""
    rows: list[list[Any]] = []
    for kind, own in kinds.items():
        what, _, write = KINDS[kind]
        rising = kind != "t_max"
        most = largest_tolerated(own["rows"], own["undisturbed"], rising=rising)
        strongest = (max if rising else min)(own["rows"], key=lambda row: row["level"])
        rows.append(
            [
                what,
                None if most is None else write(most),
                write(strongest["level"]),
                strongest["mean"],
                strongest["silent"],
            ]
        )
    largest = max(numbers.TABLE_3_JITTER.values())
    columns = [
        Column("disturbance", numeric=False),
        Column("tolerated up to"),
        Column("strongest looked at"),
        Column("accuracy there", percent()),
        Column("undecided images there", percent(1)),
    ]
    return Table(
        f"{NAME}-{network.key}-tolerance",
        f"{network.title}: tolerated disturbances",
        columns,
        rows,
        "Tolerated: at that level and all weaker ones looked at, the mean accuracy is at most half "
        "a point below the undisturbed one. A dash: at no level. Jitter is a standard deviation; "
        f"the paper's measure is its mean size, so that Table 3's largest, {largest:g} %, is "
        f"{largest * math.sqrt(math.pi / 2):.3g} % here. "
        f"{max(own['images'] for own in kinds.values()):,} test images.",
    )


def _circuit_table(network: EvaluatedNetwork, rows: list[dict[str, Any]]) -> Table:
    def jitter(row: dict[str, Any]) -> str:
        known = {name: value for name, value in row["jitter"].items() if value is not None}
        return ", ".join(f"{name} {100 * value:.2g} %" for name, value in known.items())

    columns = [
        Column(
            "phase noise at 1 MHz (dBc/Hz)",
            lambda value: f"{value:g}".replace("-", "\N{MINUS SIGN}"),
            of="phase_noise",
        ),
        Column("images", whole, of="images"),
        Column("correct, closed form", whole, of="correct_closed_form"),
        Column("correct, circuits", whole, of="correct"),
        Column("same answer", whole, of="same_answer"),
        Column("spike jitter, layer by layer", numeric=False, of=jitter),
        Column("energy an image", lambda value: f"{value / 1e-9:.1f} nJ", of="energy_joule"),
    ]
    return Table.of(
        f"{NAME}-{network.key}-circuits",
        f"{network.title}: every neuron as a circuit, with phase noise in every oscillator",
        columns,
        rows,
        note="The energy is that of all simulated neurons, silent ones included.",
    )


def _all_levels(network: EvaluatedNetwork, kinds: dict[str, Any]) -> Table:
    columns = [
        Column("disturbance", numeric=False, of="what"),
        Column("level", of="written"),
        Column("accuracy, mean", percent(), of="mean"),
        Column("5 %", percent(), of="low"),
        Column("95 %", percent(), of="high"),
        Column("undecided images", percent(1), of="silent"),
        Column("draws", whole, of="draws"),
    ]
    rows = [
        row | {"what": KINDS[kind][0], "written": KINDS[kind][2](row["level"])}
        for kind, own in kinds.items()
        for row in own["rows"]
    ]
    name = f"{NAME}-{network.key}-disturbances"
    caption = f"{network.title}: every disturbance at every level"
    return Table.of(name, caption, columns, rows, folded=True)
