"""Figure 2: accuracy against noise on the weights, and against other disturbances."""

import copy
import statistics
from functools import partial
from typing import Any

import numpy as np

from ttfs_fast.analysis import evaluate
from ttfs_fast.analysis.robustness import Perturbation, evaluate_perturbed
from ttfs_fast.circuit import CircuitParameters, Nonidealities
from ttfs_fast.circuit.network import simulate_network
from ttfs_fast.data import ImageSet
from ttfs_fast.gpu.device import placed
from ttfs_fast.paper.figure2_view import NAME, SNR, TITLE, section
from ttfs_fast.paper.networks import EvaluatedNetwork
from ttfs_fast.paper.part import Context, ReportPart, Values
from ttfs_fast.paper.sections import finite
from ttfs_fast.paper.store import WorkUnit
from ttfs_fast.quantization import dequantize_, prepare_qat_
from ttfs_fast.quantization.config import BITS

DETERMINISTIC = frozenset({"t_max"})


def settings(context: Context) -> dict[str, Any]:
    return {"seed": context.plan.seed}


def units(context: Context) -> list[WorkUnit]:
    found = []
    for network in context.networks:
        levels = _levels(context)
        for images in sorted({_images(context, network, kind) for kind in levels}):
            key = f"{network.stem}/undisturbed/{images}"
            found.append(WorkUnit(key, partial(network.accuracy_on, images)))
        images = _images(context, network, SNR)
        for bits in _rounded_bits(network):
            key = f"{network.stem}/rounded/{images}/{bits}"
            found.append(WorkUnit(key, partial(_rounded, network, images, bits)))
        for kind in levels:
            images = _images(context, network, kind)
            for level in levels[kind]:
                for draw in range(_draws(context, network, kind)):
                    key = f"{network.stem}/{kind}/{images}/{level:g}/{draw}"
                    seed = context.plan.seed
                    work = partial(_disturbed, network, images, kind, level, seed, draw)
                    found.append(WorkUnit(key, work))
        for level in _circuit_levels(context, network):
            key = _circuit_key(context, network, level)
            found.append(WorkUnit(key, partial(_circuits, context, network, level)))
    return found


def result(context: Context, values: Values) -> dict[str, Any]:
    found = {}
    for network in context.networks:
        images = _images(context, network, SNR)
        own: dict[str, Any] = {
            "title": network.title,
            "rounded": {
                str(bits): values[f"{network.stem}/rounded/{images}/{bits}"]
                for bits in _rounded_bits(network)
            },
        }
        for kind, levels in _levels(context).items():
            images = _images(context, network, kind)
            plain = values[f"{network.stem}/undisturbed/{images}"]
            rows = []
            for level in levels:
                start = f"{network.stem}/{kind}/{images}/{level:g}"
                draws = range(_draws(context, network, kind))
                found_here = [values[f"{start}/{draw}"] for draw in draws]
                rows.append(_statistics(level, found_here, plain["images"]))
            own[kind] = {
                "images": plain["images"],
                "undisturbed": plain["accuracy"],
                "rows": rows,
            }
        own["circuits"] = [
            values[_circuit_key(context, network, level)]
            for level in _circuit_levels(context, network)
        ]
        found[network.key] = own
    return found


def _levels(context: Context) -> dict[str, tuple[float, ...]]:
    return {SNR: context.plan.weight_snr, **context.plan.disturbances}


def _draws(context: Context, network: EvaluatedNetwork, kind: str) -> int:
    if kind in DETERMINISTIC:
        return 1
    draws = context.plan.draws if kind == SNR else context.plan.fewer_draws
    return draws if network.is_small else max(2, draws // 4)


def _rounded_bits(network: EvaluatedNetwork) -> tuple[int, ...]:
    """Bits to which its weights are rounded: none with horizons, whose weights keep their sum."""
    return () if network.has_horizons else BITS


def _circuit_levels(context: Context, network: EvaluatedNetwork) -> tuple[float, ...]:
    fits = network.is_small and isinstance(network.test_set, ImageSet)
    return context.plan.phase_noise if fits else ()


def _circuit_key(context: Context, network: EvaluatedNetwork, level: float) -> str:
    return f"{network.stem}/circuits/{level:g}/{context.plan.circuit_images}"


def _images(context: Context, network: EvaluatedNetwork, kind: str) -> int:
    """Test images for a sweep; all of them for the weights of the first network."""
    if not network.is_small:
        return min(network.images, context.plan.deep_images)
    if kind == SNR and network is context.networks[0]:
        return network.images
    return min(network.images, context.plan.sweep_images)


def _disturbed(
    network: EvaluatedNetwork, images: int, kind: str, level: float, seed: int, draw: int
) -> dict[str, int]:
    with placed(network.model, network.device) as model:
        found = evaluate_perturbed(
            model, network.some(images), Perturbation(**{kind: level}), seed=seed, draw=draw
        )
    return {"correct": found.correct, "silent": found.silent_images}


def _rounded(network: EvaluatedNetwork, images: int, bits: int) -> dict[str, Any]:
    """The network with its weights rounded, biases too left as they are."""
    model = copy.deepcopy(network.model)
    dequantize_(prepare_qat_(model, bits), keep_quantized=True)
    weight_snr = network.signal_to_noise(model)  # before the copy goes to the device
    found = evaluate(model.to(network.device), network.some(images))
    return {"correct": found.correct, "accuracy": found.accuracy, "weight_snr": weight_snr}


def _circuits(context: Context, network: EvaluatedNetwork, phase_noise: float) -> dict[str, Any]:
    images = network.test_set
    assert isinstance(images, ImageSet)
    found = simulate_network(
        network.model,
        images,
        CircuitParameters(),
        images=context.plan.circuit_images,
        noise=Nonidealities(phase_noise=phase_noise),
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
        "low": float(np.quantile(accuracies, 0.05)),
        "high": float(np.quantile(accuracies, 0.95)),
        "least": accuracies[0],
        "most": accuracies[-1],
        "silent": statistics.fmean(draw["silent"] / images for draw in draws),
        "correct": [draw["correct"] for draw in draws],
    }


PART = ReportPart(NAME, TITLE, settings, units, result, section)
