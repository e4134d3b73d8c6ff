"""Table 4: accuracy against bits of the weights, simulated in float and in the integer engine."""

import copy
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ttfs_fast import quantization
from ttfs_fast._tables import Column, Table
from ttfs_fast.analysis import evaluate
from ttfs_fast.data import ImageSet
from ttfs_fast.layers import layer_places
from ttfs_fast.paper import numbers, pictures
from ttfs_fast.paper.networks import EvaluatedNetwork
from ttfs_fast.paper.part import Context, ReportPart, Values
from ttfs_fast.paper.sections import Picture, Section, StatTile, percent, points, whole
from ttfs_fast.paper.store import WorkUnit, digest
from ttfs_fast.quantization import IntegerNetwork, QuantizeConfig
from ttfs_fast.quantization.config import BITS
from ttfs_fast.quantization.fake import weight_of_code
from ttfs_fast.training import LogLines, TrainConfig, read_recipe
from ttfs_fast.training.run_folder import RunFolder

NAME, TITLE = "table4", "Table 4: few bits"
FULL = 32


def settings(context: Context) -> dict[str, Any]:
    return {}


def units(context: Context) -> list[WorkUnit]:
    found = []
    for network in _suitable(context):
        images = _images(context, network)
        found.append(
            WorkUnit(
                f"{network.stem}/{_images(context, network)}/{FULL}",
                functools.partial(network.accuracy_on, images),
            )
        )
        for bits in BITS:
            key = f"{network.stem}/{_images(context, network)}/{bits}"
            found.append(WorkUnit(key, functools.partial(_plain, network, bits, images)))
    for network in _retrained(context):
        for bits in BITS:
            key = _retrained_key(context, network, bits)
            found.append(
                WorkUnit(key, functools.partial(_after_retraining, context, network, bits))
            )
    return found


def result(context: Context, values: Values) -> dict[str, Any]:
    retrained = [network.key for network in _retrained(context)]
    return {
        network.key: {
            "title": network.title,
            "float": values[f"{network.stem}/{_images(context, network)}/{FULL}"],
            "plain": {
                str(bits): values[f"{network.stem}/{_images(context, network)}/{bits}"]
                for bits in BITS
            },
            "retrained": {
                str(bits): values[_retrained_key(context, network, bits)] for bits in BITS
            }
            if network.key in retrained
            else None,
            "settings": _retraining_settings(context, network)
            if network.key in retrained
            else None,
        }
        for network in _suitable(context)
    }


def section(context: Context, result: dict[str, Any]) -> Section:
    found = Section(NAME, TITLE)
    left_out = {network.title: _problem(network) for network in context.networks}
    reasons = [f"{title} ({why})" for title, why in left_out.items() if why is not None]
    if reasons:
        found.text.append(f"Not turned into integers: {'; '.join(reasons)}.")
    if not result:
        found.text.append("No network can be turned into integers.")
        return found
    found.headline = _headline(context, result)
    found.tiles += _tiles(context, result)
    found.text += [
        "Weights are rounded to 8, 4 or 2 bits with a threshold for every output channel "
        "(docs/integer.md). In float: spike times are computed in float32 with the rounded "
        "weights, the paper's simulation. In integers: the engine of ttfs_fast.quantization, with "
        "spike codes of 16 bits and no floating point from pixels to class.",
        "With retraining the forward pass uses the rounded weights, the gradient goes to the exact "
        "ones, and the bits step down from 8 over 4 to 2 (section 4.2). The paper's column is "
        "after retraining.",
    ]
    for network in _suitable(context):
        own = result[network.key]
        found.tables.append(_table(network, own))
        curves = {
            "not retrained": _curve(own["float"], own["plain"]),
        }
        if own["retrained"]:
            curves["retrained"] = _curve(own["float"], own["retrained"])
        if network.comparable:
            curves["paper, retrained"] = numbers.TABLE_4[network.paper_key]
        found.pictures.append(
            Picture(
                f"{NAME}-{network.key}",
                f"{network.title}: accuracy of the integer engine against bits of the weights",
                pictures.bits_curve(curves),
            )
        )
    return found


def _retrained_key(context: Context, network: EvaluatedNetwork, bits: int) -> str:
    how = digest(_retraining_settings(context, network))
    return f"{network.stem}/retrained/{how[:12]}/{bits}"


def _suitable(context: Context) -> list[EvaluatedNetwork]:
    """Networks that the integer engine can run."""
    return [network for network in context.networks if _problem(network) is None]


@functools.cache
def _problem(network: EvaluatedNetwork) -> str | None:
    """Why a network cannot become integers; None if it can."""
    if not isinstance(network.test_set, ImageSet):
        return "its images are read from files as they are needed"
    if network.encoding.standardize:
        return "its images are standardized first"
    try:
        _convert(network, BITS[0])
    except (TypeError, ValueError, OSError) as error:
        return str(error)
    return None


def _retrained(context: Context) -> list[EvaluatedNetwork]:
    """The network that is retrained: the first, if it is small and there is time for it."""
    first = [network for network in _suitable(context)[:1] if network.is_small]
    return first if context.plan.retrain_epochs else []


def _images(context: Context, network: EvaluatedNetwork) -> int:
    return network.images if network.is_small else min(network.images, context.plan.deep_images)


@functools.cache
def _convert(network: EvaluatedNetwork, bits: int) -> IntegerNetwork:
    assert isinstance(network.test_set, ImageSet)
    channels, height, width = network.test_set.images.shape[1:]
    return quantization.convert(
        network.model,
        bits,
        input_size=(channels, height, width),
        images=network.calibration_images() if network.has_horizons else None,
    )


def _plain(network: EvaluatedNetwork, bits: int, images: int) -> dict[str, Any]:
    return _both_ways(network, _convert(network, bits), images)


def _both_ways(network: EvaluatedNetwork, converted: IntegerNetwork, images: int) -> dict[str, Any]:
    """An integer network beside the float network with the same weights.

    Rounded weights of a network with horizons do not keep their sum in float: it is compared with
    the exact ones.
    """
    some, threads = network.some(images), torch.get_num_threads()
    counterpart, simulated = network.model, None
    if not network.has_horizons:
        counterpart = dequantized_model(converted, network.model)
        simulated = evaluate(counterpart, some)
    integer = quantization.evaluate(converted, some, threads=threads)
    compared = quantization.compare(counterpart, converted, some, threads=threads)
    return {
        "images": integer.images,
        "float_correct": None if simulated is None else simulated.correct,
        "float_accuracy": None if simulated is None else simulated.accuracy,
        "integer_correct": integer.correct,
        "integer_accuracy": integer.accuracy,
        "same_answer": compared.agreement,
        "spikes_per_neuron": integer.spikes_per_neuron,
        "bytes": len(converted.to_bytes()),
        "weight_snr": None if simulated is None else network.signal_to_noise(counterpart),
    }


def dequantized_model(network: IntegerNetwork, like: nn.Module) -> nn.Module:
    """The float network whose weights are those of an integer network, W / theta.

    Parameters
    ----------
    network : IntegerNetwork
        As `ttfs_fast.quantization.convert` makes it.
    like : Module
        The network that it was made of; it is left as it is.

    Returns
    -------
    Module
        A copy of ``like`` with the rounded weights and biases.
    """
    counterpart = copy.deepcopy(like)
    infos = [(i, info) for i, info in enumerate(network.layer_infos()) if info.kind == "neurons"]
    with torch.no_grad():
        for layer, (i, info) in zip(layer_places(counterpart).values(), infos, strict=True):
            assert info.theta is not None
            theta = torch.from_numpy(info.theta).double()
            codes = torch.from_numpy(network.weight_codes(i)).double()
            weight = weight_of_code(codes, info.bits) / theta.view(-1, 1, 1, 1)
            layer.weight.copy_(weight.reshape(layer.weight.shape))
            if layer.bias is not None:
                bias = torch.zeros_like(theta)
                if info.bias is not None:
                    bias = torch.from_numpy(info.bias).double() / theta
                layer.bias.copy_(bias)
    return counterpart


def _retraining(context: Context, network: EvaluatedNetwork) -> QuantizeConfig:
    """How a network is retrained: MNIST's by the recipe, others as they were trained."""
    training = network.config
    if training.dataset == "mnist":
        training = TrainConfig(**read_recipe("quantize-2bit"))
    training = dataclasses.replace(
        training.with_encoding(network.encoding),
        data_root=network.config.data_root,
        train_images=context.plan.retrain_images,
        test_images=None,
        val_images=0,
        teacher=None,
        teacher_hflip=False,
        generations=1,
        initial_checkpoint=None,
        seed=context.plan.seed,
        threads=context.threads,
        device=str(network.device),
    )
    epochs = context.plan.retrain_epochs
    return QuantizeConfig(
        bits=BITS[-1],
        epochs=epochs,
        last_epochs=4 * epochs,
        tune_epochs=epochs,
        float_teacher=True,
        training=training,
    )


def _retraining_settings(context: Context, network: EvaluatedNetwork) -> dict[str, Any]:
    config = _retraining(context, network)
    found = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    found["training"] = json.loads(config.training.to_json())
    del found["training"]["data_root"]  # the images count by their digest
    del found["training"]["device"]  # decides no more than rounding
    return found


def retraining_folder(context: Context, network: EvaluatedNetwork) -> Path:
    """Where a retraining keeps its checkpoints: a folder for each set of settings."""
    settings = [_retraining(context, network).to_json(), network.identity]
    return context.out / "retraining" / f"{network.key}-{digest(settings)[:12]}"


def _after_retraining(context: Context, network: EvaluatedNetwork, bits: int) -> dict[str, Any]:
    """Retrains, or continues the retraining if there is one; then tests."""
    folder = retraining_folder(context, network)
    written = RunFolder(folder).integer_network(bits)
    last = RunFolder(folder).integer_network(BITS[-1])
    if not last.exists():
        context.log(f"retraining {network.title} for few bits, in {folder}")
        quantization.quantize(
            network.model,
            _retraining(context, network),
            folder,
            resume=folder.exists(),
            callback=LogLines(context.log),
        )
    return _both_ways(network, quantization.load(written), _images(context, network))


def _headline(context: Context, result: dict[str, Any]) -> str:
    network = _suitable(context)[0]
    own = result[network.key]
    best = own["retrained"] or own["plain"]
    whole_accuracy = own["float"]["accuracy"]
    how = "retrained" if own["retrained"] else "without retraining"
    text = ", ".join(
        f"{points(best[str(bits)]['integer_accuracy'] - whole_accuracy)} points with {bits} bits"
        for bits in BITS
    )
    claim = numbers.TABLE_4[network.paper_key]
    losses = ", ".join(points(claim[bits] - claim[FULL]) for bits in BITS)
    where = "in the paper" if network.comparable else "in the paper, on MNIST,"
    return f"In integers, {how}, accuracy changes by {text}; {where} {losses}."


def _tiles(context: Context, result: dict[str, Any]) -> list[StatTile]:
    network = _suitable(context)[0]
    own = result[network.key]
    best = own["retrained"] or own["plain"]
    claim = numbers.TABLE_4[network.paper_key]
    return [
        StatTile(
            f"accuracy with {bits} bits, integers",
            percent()(best[str(bits)]["integer_accuracy"]),
            percent()(claim[bits]) if network.comparable else "",
        )
        for bits in (4, 2)
    ]


def _curve(full: dict[str, Any], found: dict[str, Any]) -> dict[int, float]:
    return {FULL: full["accuracy"]} | {
        int(bits): row["integer_accuracy"] for bits, row in found.items()
    }


def _table(network: EvaluatedNetwork, own: dict[str, Any]) -> Table:
    claim = numbers.TABLE_4[network.paper_key]

    def difference(accuracy: float, bits: int) -> float | None:
        return accuracy - claim[bits] if network.comparable else None

    accuracy = own["float"]["accuracy"]
    beside = [claim[FULL], difference(accuracy, FULL)]
    rows: list[list[Any]] = [[FULL, accuracy, None, None, None, *beside, None, None, None]]
    for bits in BITS:
        plain = own["plain"][str(bits)]
        retrained = own["retrained"][str(bits)] if own["retrained"] else None
        best = (retrained or plain)["integer_accuracy"]
        rows.append(
            [
                bits,
                plain["float_accuracy"],
                plain["integer_accuracy"],
                retrained["float_accuracy"] if retrained else None,
                retrained["integer_accuracy"] if retrained else None,
                claim[bits],
                difference(best, bits),
                (retrained or plain)["same_answer"],
                plain["weight_snr"],
                plain["bytes"],
            ]
        )
    columns = [
        Column("bits", whole),
        Column("not retrained, float", percent()),
        Column("not retrained, integers", percent()),
        Column("retrained, float", percent()),
        Column("retrained, integers", percent()),
        Column(network.paper_title, percent()),
        Column("difference (points)", points),
        Column("same answer, float and integers", percent()),
        Column("weights to rounding error, dB", lambda value: f"{value:.1f}"),
        Column("bytes of the file", whole),
    ]
    count = own["float"]["images"]
    note = (
        f"{count:,} test images. Differences and agreement are those of the "
        f"{'retrained' if own['retrained'] else 'not retrained'} network in integers. The paper "
        f"reckons {numbers.DECIBEL_PER_BIT} dB a bit, 48, 24 and 12 dB: that is for a signal that "
        "fills the range evenly, which weights do not."
    )
    if network.has_horizons:
        note += (
            " The network has horizons: its weights keep their sum when they are rounded to "
            "integers, which neither retraining nor a float network with rounded weights does, so "
            "that both are left out. Agreement is that with the exact weights in float."
        )
    if own["settings"]:
        how, training = own["settings"], own["settings"]["training"]
        note += (
            f" Retrained for {how['epochs']} epochs with each number of bits, {how['last_epochs']} "
            f"with the last, and {how['tune_epochs']} with frozen codes, which train thresholds "
            "and biases only. The network in float is the teacher. Batches of "
            f"{training['batch_size']}, rate {how['lr']:g} falling to {how['min_lr']:g}, "
            f"seed {training['seed']}, threads: {training['threads']}."
        )
    return Table(f"{NAME}-{network.key}", f"{network.title}: accuracy by bits", columns, rows, note)


PART = ReportPart(NAME, TITLE, settings, units, result, section)
