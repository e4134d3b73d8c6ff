"""Figure 2: accuracy against noise on the weights; and against what else may go wrong."""

import copy
import statistics
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

from ttfs_fast.circuit import CircuitParameters, Nonidealities
from ttfs_fast.circuit.network import simulate_network
from ttfs_fast.data import ImageSet
from ttfs_fast.quantization import QuantizationConfig, dequantize_, quantize_
from ttfs_fast.quantization.fake import BITS
from ttfs_fast.reproduce import paper, pictures
from ttfs_fast.reproduce.part import Context, Part, Values
from ttfs_fast.reproduce.sections import (
    Column,
    Picture,
    Section,
    Table,
    Tile,
    finite,
    percent,
    points,
    whole,
)
from ttfs_fast.reproduce.store import Unit
from ttfs_fast.reproduce.subjects import Subject
from ttfs_fast.robustness import Perturbation, evaluate_perturbed, signal_to_noise
from ttfs_fast.training import evaluate
from ttfs_fast.training.spikes import spiking_layers

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
    "t_max": ("horizon: later spikes are none", "tau", lambda v: f"{v:g} tau"),
}
"""Disturbances beyond the paper: what, its unit in a picture, and how a level is written."""

BEARABLE = 0.005
"""Loss of accuracy up to which a disturbance counts as borne."""

DETERMINISTIC = frozenset({"t_max"})


def settings(context: Context) -> dict[str, Any]:
    return {
        "networks": [subject.identity for subject in context.subjects],
        "seed": context.plan.seed,
        "deep_images": context.plan.deep_images,
    }


def units(context: Context) -> list[Unit]:
    found = []
    for subject in context.subjects:
        found.append(Unit(f"{subject.key}/undisturbed", partial(_undisturbed, context, subject)))
        for bits in BITS:
            found.append(
                Unit(f"{subject.key}/rounded/{bits}", partial(_rounded, context, subject, bits))
            )
        for kind, levels in _levels(context, subject).items():
            for level in levels:
                for draw in range(_draws(context, subject, kind)):
                    key = f"{subject.key}/{kind}/{level:g}/{draw}"
                    work = partial(_disturbed, context, subject, kind, level, draw)
                    found.append(Unit(key, work))
        for level in _circuit_levels(context, subject):
            key = _circuit_key(context, subject, level)
            found.append(Unit(key, partial(_circuits, context, subject, level)))
    return found


def result(context: Context, values: Values) -> dict[str, Any]:
    found = {}
    for subject in context.subjects:
        own: dict[str, Any] = {
            "title": subject.title,
            "undisturbed": values[f"{subject.key}/undisturbed"],
            "rounded": {str(bits): values[f"{subject.key}/rounded/{bits}"] for bits in BITS},
        }
        images = own["undisturbed"]["images"]
        for kind, levels in _levels(context, subject).items():
            draws = range(_draws(context, subject, kind))
            own[kind] = [
                _statistics(
                    level,
                    [values[f"{subject.key}/{kind}/{level:g}/{draw}"] for draw in draws],
                    images,
                )
                for level in levels
            ]
        own["circuits"] = [
            values[_circuit_key(context, subject, level)]
            for level in _circuit_levels(context, subject)
        ]
        found[subject.key] = own
    return found


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
    for subject in context.subjects:
        own = result[subject.key]
        found.tables += [_noise_table(subject, own), _tolerance_table(subject, own)]
        found.pictures += [
            Picture(
                f"{NAME}-{subject.key}-weights",
                f"{subject.title}: accuracy against noise on the weights (N), beside rounding to "
                "8, 4 and 2 bits without retraining (Q)",
                pictures.noise_curve(
                    own[SNR], own["undisturbed"]["accuracy"], own["rounded"], _paper_points(subject)
                ),
            ),
            Picture(
                f"{NAME}-{subject.key}-disturbances",
                f"{subject.title}: accuracy against other disturbances",
                pictures.disturbance_curves(
                    {
                        kind: (what, unit, own[kind])
                        for kind, (what, unit, _) in KINDS.items()
                        if kind in own
                    },
                    own["undisturbed"]["accuracy"],
                ),
            ),
        ]
        if own["circuits"]:
            found.tables.append(_circuit_table(subject, own["circuits"]))
        found.tables.append(_all_levels(subject, own))
    return found


def _levels(context: Context, subject: Subject) -> dict[str, tuple[float, ...]]:
    return {SNR: context.plan.weight_snr, **context.plan.disturbances}


def _draws(context: Context, subject: Subject, kind: str) -> int:
    if kind in DETERMINISTIC:
        return 1
    draws = context.plan.draws if kind == SNR else context.plan.fewer_draws
    return draws if subject.is_small else max(2, draws // 4)


def _circuit_levels(context: Context, subject: Subject) -> tuple[float, ...]:
    fits = subject.is_small and isinstance(subject.test_set, ImageSet)
    return context.plan.phase_noise if fits and not subject.config.whiten else ()


def _circuit_key(context: Context, subject: Subject, level: float) -> str:
    return f"{subject.key}/circuits/{level:g}/{context.plan.circuit_images}"


def _images(context: Context, subject: Subject) -> int | None:
    return None if subject.is_small else context.plan.deep_images


def _undisturbed(context: Context, subject: Subject) -> dict[str, Any]:
    images = subject.first(_images(context, subject))
    found = evaluate(subject.model, images, **subject.encoding)
    return {"correct": found.correct, "images": found.images, "accuracy": found.accuracy}


def _disturbed(
    context: Context, subject: Subject, kind: str, level: float, draw: int
) -> dict[str, int]:
    found = evaluate_perturbed(
        subject.model,
        subject.first(_images(context, subject)),
        Perturbation(**{kind: level}),
        seed=context.plan.seed,
        draw=draw,
        **subject.encoding,
    )
    return {"correct": found.correct, "silent": found.silent_images}


def _rounded(context: Context, subject: Subject, bits: int) -> dict[str, Any]:
    """The network with its weights rounded, biases too left as they are."""
    model = copy.deepcopy(subject.model)
    dequantize_(quantize_(model, QuantizationConfig(bits)), keep_quantized=True)
    pairs = zip(spiking_layers(subject.model).values(), spiking_layers(model).values(), strict=True)
    before, after = zip(*((a.weight.flatten(), b.weight.flatten()) for a, b in pairs), strict=True)
    found = evaluate(model, subject.first(_images(context, subject)), **subject.encoding)
    return {
        "correct": found.correct,
        "accuracy": found.accuracy,
        "weight_snr": finite(signal_to_noise(torch.cat(before), torch.cat(after))),
    }


def _circuits(context: Context, subject: Subject, phase_noise: float) -> dict[str, Any]:
    images = subject.test_set
    assert isinstance(images, ImageSet)
    found = simulate_network(
        subject.model,
        images,
        CircuitParameters(),
        images=context.plan.circuit_images,
        noise=Nonidealities(phase_noise=phase_noise),
        alpha=subject.config.alpha,
        polarity=subject.config.polarity,
        seed=context.plan.seed,
    )
    return {
        "phase_noise": phase_noise,
        "images": found.images,
        "correct_closed_form": found.correct_ideal,
        "correct": found.correct_circuit,
        "same_answer": found.same_answer,
        "jitter": {name: finite(layer.jitter) for name, layer in found.layers.items()},
        "energy_joule": found.energy_per_image,
    }


def _statistics(level: float, draws: list[dict[str, int]], images: int) -> dict[str, Any]:
    accuracies = sorted(draw["correct"] / images for draw in draws)
    return {
        "level": level,
        "draws": len(draws),
        "mean": statistics.fmean(accuracies),
        "deviation": statistics.stdev(accuracies) if len(draws) > 1 else None,
        "low": _quantile(accuracies, 0.05),
        "high": _quantile(accuracies, 0.95),
        "least": accuracies[0],
        "most": accuracies[-1],
        "silent": statistics.fmean(draw["silent"] / images for draw in draws),
        "correct": [draw["correct"] for draw in draws],
    }


def _quantile(ordered: list[float], share: float) -> float:
    """Linear between the neighbours, as numpy's default."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def bearable(rows: Iterable[dict[str, Any]], undisturbed: float, *, rising: bool) -> float | None:
    """The strongest level up to which no level loses more than `BEARABLE` on average.

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
        if undisturbed - row["mean"] > BEARABLE:
            break
        found = float(row["level"])
    return found


def _paper_points(subject: Subject) -> dict[str, dict[float, float]]:
    """The paper's points of Figure 2, as far as it gives numbers: Table 4, and one for ImageNet."""
    key = subject.paper_key
    table = paper.TABLE_4[key]
    found = {
        f"Q, {subject.paper_title}, retrained": {
            bits * paper.DECIBEL_PER_BIT: table[bits] for bits in table if bits < 32
        }
    }
    if key == "imagenet":
        found["N, paper"] = {24.0: paper.IMAGENET_AT_24_DB}
    return found


def _headline(context: Context, result: dict[str, Any]) -> str:
    own = result[context.subjects[0].key]
    whole_accuracy = own["undisturbed"]["accuracy"]
    at = {row["level"]: row["mean"] - whole_accuracy for row in own[SNR]}
    chosen = [level for level in (25.0, 20.0, 10.0) if level in at] or sorted(at)[-1:]
    losses = ", ".join(f"{points(at[level])} points at {level:g} dB" for level in chosen)
    least = bearable(own[SNR], whole_accuracy, rising=False)
    text = f"Noise on the weights changes accuracy by {losses}"
    if least is not None:
        text += f"; from {least:g} dB on it costs no more than half a point"
    return f"{text}. The paper calls the loss negligible from 25 dB on."


def _tiles(context: Context, result: dict[str, Any]) -> list[Tile]:
    own = result[context.subjects[0].key]
    return [
        Tile(
            f"accuracy lost to noise at {row['level']:g} dB",
            f"{100 * (own['undisturbed']['accuracy'] - row['mean']):.2f} points",
            "negligible",
        )
        for row in own[SNR]
        if row["level"] == 25
    ]


def _noise_table(subject: Subject, own: dict[str, Any]) -> Table:
    columns = [
        Column("SNR (dB)", lambda value: f"{value:g}"),
        Column("accuracy, mean", percent()),
        Column("change (points)", points),
        Column("deviation (points)", lambda value: f"{100 * value:.2f}"),
        Column("5 %", percent()),
        Column("95 %", percent()),
        Column("least", percent()),
        Column("draws", whole),
    ]
    rows = [
        [
            row["level"],
            row["mean"],
            row["mean"] - own["undisturbed"]["accuracy"],
            row["deviation"],
            row["low"],
            row["high"],
            row["least"],
            row["draws"],
        ]
        for row in own[SNR]
    ]
    return Table(
        f"{NAME}-{subject.key}-weights",
        f"{subject.title}: Gaussian noise on the weights",
        columns,
        rows,
        f"{own['undisturbed']['images']:,} test images; "
        f"{percent()(own['undisturbed']['accuracy'])} without noise.",
    )


def _tolerance_table(subject: Subject, own: dict[str, Any]) -> Table:
    """How far each disturbance may go, and what the strongest one looked at does."""
    whole_accuracy = own["undisturbed"]["accuracy"]
    rows: list[list[Any]] = []
    for kind, (what, _, write) in KINDS.items():
        if kind not in own:
            continue
        rising = kind != "t_max"
        most = bearable(own[kind], whole_accuracy, rising=rising)
        strongest = (max if rising else min)(own[kind], key=lambda row: row["level"])
        rows.append(
            [
                what,
                None if most is None else write(most),
                write(strongest["level"]),
                strongest["mean"],
                strongest["silent"],
            ]
        )
    columns = [
        Column("disturbance", numeric=False),
        Column("borne up to"),
        Column("strongest looked at"),
        Column("accuracy there", percent()),
        Column("undecided images there", percent(1)),
    ]
    return Table(
        f"{NAME}-{subject.key}-tolerance",
        f"{subject.title}: what it bears",
        columns,
        rows,
        "Borne: at that level and all weaker ones looked at, the mean accuracy is at most half a "
        "point below the undisturbed one. A dash: at none of them.",
    )


def _circuit_table(subject: Subject, rows: list[dict[str, Any]]) -> Table:
    columns = [
        Column(
            "phase noise at 1 MHz (dBc/Hz)",
            lambda value: f"{value:g}".replace("-", "\N{MINUS SIGN}"),
        ),
        Column("images", whole),
        Column("correct, closed form", whole),
        Column("correct, circuits", whole),
        Column("same answer", whole),
        Column("spike jitter, layer by layer", numeric=False),
        Column("energy an image", lambda value: f"{value / 1e-9:.1f} nJ"),
    ]
    cells = [
        [
            row["phase_noise"],
            row["images"],
            row["correct_closed_form"],
            row["correct"],
            row["same_answer"],
            ", ".join(
                f"{name} {100 * jitter:.2g} %"
                for name, jitter in row["jitter"].items()
                if jitter is not None
            ),
            row["energy_joule"],
        ]
        for row in rows
    ]
    return Table(
        f"{NAME}-{subject.key}-circuits",
        f"{subject.title}: every neuron a circuit, with phase noise in every oscillator",
        columns,
        cells,
        "The energy is that of all simulated neurons, silent ones included.",
    )


def _all_levels(subject: Subject, own: dict[str, Any]) -> Table:
    columns = [
        Column("disturbance", numeric=False),
        Column("level"),
        Column("accuracy, mean", percent()),
        Column("5 %", percent()),
        Column("95 %", percent()),
        Column("undecided images", percent(1)),
        Column("draws", whole),
    ]
    rows = [
        [
            what,
            write(row["level"]),
            row["mean"],
            row["low"],
            row["high"],
            row["silent"],
            row["draws"],
        ]
        for kind, (what, _, write) in KINDS.items()
        for row in own.get(kind, [])
    ]
    name = f"{NAME}-{subject.key}-disturbances"
    caption = f"{subject.title}: every disturbance at every level"
    return Table(name, caption, columns, rows, folded=True)


PART = Part(NAME, TITLE, settings, units, result, section)
