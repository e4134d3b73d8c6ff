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
from ttfs_fast.analysis import evaluate
from ttfs_fast.analysis.robustness import signal_to_noise
from ttfs_fast.data import ImageSet
from ttfs_fast.layers import layer_places, spiking_layers
from ttfs_fast.paper import numbers, pictures
from ttfs_fast.paper.part import Context, Part, Values
from ttfs_fast.paper.sections import (
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
from ttfs_fast.paper.store import Unit, digest
from ttfs_fast.paper.subjects import Subject
from ttfs_fast.quantization import IntegerNetwork, QuantizeConfig
from ttfs_fast.quantization.config import BITS
from ttfs_fast.quantization.fake import weight_of_code
from ttfs_fast.training import LogLines, TrainConfig, read_recipe
from ttfs_fast.training.run_folder import RunFolder

NAME, TITLE = "table4", "Table 4: few bits"
FULL = 32


def settings(context: Context) -> dict[str, Any]:
    return {}


def units(context: Context) -> list[Unit]:
    found = []
    for subject in _suitable(context):
        images = _images(context, subject)
        found.append(
            Unit(
                f"{subject.stem}/{_images(context, subject)}/{FULL}",
                functools.partial(_full, subject, images),
            )
        )
        for bits in BITS:
            key = f"{subject.stem}/{_images(context, subject)}/{bits}"
            found.append(Unit(key, functools.partial(_plain, subject, bits, images)))
    for subject in _retrained(context):
        for bits in BITS:
            key = _retrained_key(context, subject, bits)
            found.append(Unit(key, functools.partial(_after_retraining, context, subject, bits)))
    return found


def result(context: Context, values: Values) -> dict[str, Any]:
    retrained = [subject.key for subject in _retrained(context)]
    return {
        subject.key: {
            "title": subject.title,
            "float": values[f"{subject.stem}/{_images(context, subject)}/{FULL}"],
            "plain": {
                str(bits): values[f"{subject.stem}/{_images(context, subject)}/{bits}"]
                for bits in BITS
            },
            "retrained": {
                str(bits): values[_retrained_key(context, subject, bits)] for bits in BITS
            }
            if subject.key in retrained
            else None,
            "settings": _retraining_settings(context, subject)
            if subject.key in retrained
            else None,
        }
        for subject in _suitable(context)
    }


def section(context: Context, result: dict[str, Any]) -> Section:
    found = Section(NAME, TITLE)
    if not result:
        found.text.append("None of the networks can be turned into integers: see what is missing.")
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
    for subject in _suitable(context):
        own = result[subject.key]
        found.tables.append(_table(subject, own))
        curves = {
            "not retrained": _curve(own["float"], own["plain"]),
        }
        if own["retrained"]:
            curves["retrained"] = _curve(own["float"], own["retrained"])
        if subject.comparable:
            curves["paper, retrained"] = numbers.TABLE_4[subject.paper_key]
        found.pictures.append(
            Picture(
                f"{NAME}-{subject.key}",
                f"{subject.title}: accuracy of the integer engine against bits of the weights",
                pictures.bits_curve(curves),
            )
        )
    return found


def _retrained_key(context: Context, subject: Subject, bits: int) -> str:
    how = digest(_retraining_settings(context, subject))
    return f"{subject.stem}/retrained/{how[:12]}/{bits}"


def _suitable(context: Context) -> list[Subject]:
    """Networks that the integer engine can run: chains, with images in memory, not whitened."""
    found = []
    for subject in context.subjects:
        if not isinstance(subject.test_set, ImageSet) or subject.config.standardize:
            continue
        if _can_convert(subject):
            found.append(subject)
    return found


@functools.cache
def _can_convert(subject: Subject) -> bool:
    try:
        _convert(subject, BITS[0])
    except (TypeError, ValueError):
        return False
    return True


def _retrained(context: Context) -> list[Subject]:
    """The network that is retrained: the first, if there is time for it."""
    first = [subject for subject in _suitable(context)[:1] if subject.is_small]
    return first if context.plan.retrain_epochs else []


def _images(context: Context, subject: Subject) -> int:
    return subject.images if subject.is_small else min(subject.images, context.plan.deep_images)


def _convert(subject: Subject, bits: int) -> IntegerNetwork:
    assert isinstance(subject.test_set, ImageSet)
    channels, height, width = subject.test_set.images.shape[1:]
    return quantization.convert(
        subject.model,
        bits,
        input_size=(channels, height, width),
        alpha=subject.config.alpha,
        polarity=subject.config.polarity,
    )


def _full(subject: Subject, images: int) -> dict[str, Any]:
    found = evaluate(subject.model, subject.some(images), **subject.encoding)
    return {"correct": found.correct, "images": found.images, "accuracy": found.accuracy}


def _plain(subject: Subject, bits: int, images: int) -> dict[str, Any]:
    return _both_ways(subject, _convert(subject, bits), images)


def _both_ways(subject: Subject, network: IntegerNetwork, images: int) -> dict[str, Any]:
    """An integer network, and the float network with the same weights."""
    some = subject.some(images)
    twin = float_twin(network, subject.model)
    simulated = evaluate(twin, some, **subject.encoding)
    integer = quantization.evaluate(network, some, threads=torch.get_num_threads())
    compared = quantization.compare(
        twin,
        network,
        some,
        alpha=subject.config.alpha,
        polarity=subject.config.polarity,
        threads=torch.get_num_threads(),
    )
    pairs = zip(spiking_layers(subject.model).values(), spiking_layers(twin).values(), strict=True)
    before, after = zip(*((a.weight.flatten(), b.weight.flatten()) for a, b in pairs), strict=True)
    return {
        "images": integer.images,
        "float_correct": simulated.correct,
        "float_accuracy": simulated.accuracy,
        "integer_correct": integer.correct,
        "integer_accuracy": integer.accuracy,
        "same_answer": compared.agreement,
        "sparsity": integer.sparsity,
        "bytes": len(network.to_bytes()),
        "weight_snr": finite(signal_to_noise(torch.cat(before), torch.cat(after))),
    }


def float_twin(network: IntegerNetwork, like: nn.Module) -> nn.Module:
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
    twin = copy.deepcopy(like)
    infos = [(i, info) for i, info in enumerate(network.layer_infos()) if info.kind == "neurons"]
    with torch.no_grad():
        for layer, (i, info) in zip(layer_places(twin).values(), infos, strict=True):
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
    return twin


def _retraining(context: Context, subject: Subject) -> QuantizeConfig:
    """How a network is retrained: MNIST's by the recipe, others as they were trained."""
    training = subject.config
    if training.dataset == "mnist":
        training = TrainConfig(**read_recipe("quantize-2bit"))
    training = dataclasses.replace(
        training,
        **subject.encoding,
        data_root=subject.config.data_root,
        train_images=context.plan.retrain_images,
        test_images=None,
        val_images=0,
        teacher=None,
        initial_checkpoint=None,
        seed=context.plan.seed,
        threads=context.threads,
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


def _retraining_settings(context: Context, subject: Subject) -> dict[str, Any]:
    config = _retraining(context, subject)
    found = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    found["training"] = json.loads(config.training.to_json())
    del found["training"]["data_root"]  # the images count by their digest
    return found


def retraining_folder(context: Context, subject: Subject) -> Path:
    """Where a retraining keeps its checkpoints: a folder for each set of settings."""
    settings = [_retraining(context, subject).to_json(), subject.identity]
    return context.out / "retraining" / f"{subject.key}-{digest(settings)[:12]}"


def _after_retraining(context: Context, subject: Subject, bits: int) -> dict[str, Any]:
    """Retrains, or goes on with it, or finds it done; then tests."""
    folder = retraining_folder(context, subject)
    written = RunFolder(folder).integer_network(bits)
    last = RunFolder(folder).integer_network(BITS[-1])
    if not last.exists():
        context.say(f"retraining {subject.title} for few bits, in {folder}")
        quantization.quantize(
            subject.model,
            _retraining(context, subject),
            folder,
            resume=folder.exists(),
            callback=LogLines(context.say),
        )
    return _both_ways(subject, quantization.load(written), _images(context, subject))


def _headline(context: Context, result: dict[str, Any]) -> str:
    subject = _suitable(context)[0]
    own = result[subject.key]
    best = own["retrained"] or own["plain"]
    whole_accuracy = own["float"]["accuracy"]
    how = "retrained" if own["retrained"] else "without retraining"
    text = ", ".join(
        f"{points(best[str(bits)]['integer_accuracy'] - whole_accuracy)} points with {bits} bits"
        for bits in BITS
    )
    claim = numbers.TABLE_4[subject.paper_key]
    losses = ", ".join(points(claim[bits] - claim[FULL]) for bits in BITS)
    where = "in the paper" if subject.comparable else "in the paper, on MNIST,"
    return f"In integers, {how}, accuracy changes by {text}; {where} {losses}."


def _tiles(context: Context, result: dict[str, Any]) -> list[Tile]:
    subject = _suitable(context)[0]
    own = result[subject.key]
    best = own["retrained"] or own["plain"]
    claim = numbers.TABLE_4[subject.paper_key]
    return [
        Tile(
            f"accuracy with {bits} bits, integers",
            percent()(best[str(bits)]["integer_accuracy"]),
            percent()(claim[bits]) if subject.comparable else "",
        )
        for bits in (4, 2)
    ]


def _curve(full: dict[str, Any], found: dict[str, Any]) -> dict[int, float]:
    return {FULL: full["accuracy"]} | {
        int(bits): row["integer_accuracy"] for bits, row in found.items()
    }


def _table(subject: Subject, own: dict[str, Any]) -> Table:
    claim = numbers.TABLE_4[subject.paper_key]

    def difference(accuracy: float, bits: int) -> float | None:
        return accuracy - claim[bits] if subject.comparable else None

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
        Column(subject.paper_title, percent()),
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
    if own["settings"]:
        how, training = own["settings"], own["settings"]["training"]
        note += (
            f" Retrained for {how['epochs']} epochs with each number of bits, {how['last_epochs']} "
            f"with the last, and {how['tune_epochs']} with the codes held, which train thresholds "
            "and biases only. The network in float is the teacher. Batches of "
            f"{training['batch_size']}, rate {how['lr']:g} falling to {how['min_lr']:g}, "
            f"seed {training['seed']}, threads: {training['threads']}."
        )
    return Table(f"{NAME}-{subject.key}", f"{subject.title}: accuracy by bits", columns, rows, note)


PART = Part(NAME, TITLE, settings, units, result, section)
