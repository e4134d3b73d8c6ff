"""Quantization-aware training: a trained network, retrained for fewer and fewer bits."""

import copy
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ttfs_fast
from ttfs_fast._files import replace_file, use_folder
from ttfs_fast.conversion import refuse_converted
from ttfs_fast.gpu.device import describe_device, resolve_device, same_bits, use_threads
from ttfs_fast.horizon import ReferenceSpikes, has_horizon_layers, unfold_horizons_
from ttfs_fast.optim.averaging import average_weights, averaged_or_trained
from ttfs_fast.quantization.config import BITS, QuantizeConfig, Stage
from ttfs_fast.quantization.conversion import calibrate_time_scales, check_chain, convert
from ttfs_fast.quantization.evaluation import evaluate
from ttfs_fast.quantization.fake import (
    freeze_codes_,
    prepare_qat_,
    recalibrate_,
)
from ttfs_fast.quantization.network import IntegerNetwork, load
from ttfs_fast.training.batches import on_device
from ttfs_fast.training.callback import Callback, skipped_text
from ttfs_fast.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    remove_older,
    save_checkpoint,
)
from ttfs_fast.training.datasets import (
    OwnData,
    digest,
    load_in_memory,
    make_batches,
    name_of_data,
)
from ttfs_fast.training.distillation import Teacher, Teachers, load_teachers
from ttfs_fast.training.export import weights_digest
from ttfs_fast.training.objective import TrainingLoss
from ttfs_fast.training.own_network import check_output
from ttfs_fast.training.run_folder import RunFolder
from ttfs_fast.training.step import StepTotals, TrainingStep, describe_precision

CALIBRATION_IMAGES = 500
"""Training images on which the time scales of the spike codes are calibrated."""


def quantize(
    model: nn.Module,
    config: QuantizeConfig,
    out_dir: str | Path,
    *,
    resume: bool = False,
    callback: Callback | None = None,
    data: OwnData | None = None,
) -> dict[int, IntegerNetwork]:
    """Retrain a network with fewer and fewer bits, and convert it after each stage.

    The folder receives the settings, a checkpoint per epoch, and after each stage an
    integer network, ``model-8bit.ttfs`` and so on. Steps whose gradient is not finite are skipped;
    the epoch's line and the checkpoint's ``state.json`` count them. A run that was stopped
    continues from its newest checkpoint with ``resume=True`` and ends with the same bits.

    Parameters
    ----------
    model : Module
        A trained network that :func:`~ttfs_fast.quantization.convert` can convert; it is not
        changed.
    config : QuantizeConfig
        The settings.
    out_dir : str or Path
        Folder of the run; made if it does not exist.
    resume : bool
        Continue the run in ``out_dir``.
    callback : Callback, optional
        Receives reports of the run; without one the run is silent.
    data : Dataset, or pair of Dataset, optional
        Data sets of your own, as :func:`~ttfs_fast.training.train` takes them.

    Returns
    -------
    networks : dict of int to IntegerNetwork
        The integer network of each number of bits.

    Raises
    ------
    TypeError
        If the network has no integer form; names the module, before the folder is touched.
    FileExistsError
        If ``out_dir`` holds a run and ``resume`` is not given.
    BlockingIOError
        If another process works in ``out_dir``.
    ValueError
        If the run to resume had other settings or other images, if the network was converted from a
        ReLU network, or if its encoding differs from that of ``config.training``.

    Notes
    -----
    Zhou et al., AAAI 2021, section 4.2: the forward pass uses the quantized weights, the gradient
    is applied to the full-precision ones, and the bits are reduced from 32 to 8, 4 and 2.
    """
    refuse_converted(model, "be retrained with few bits: an integer network takes pixels")
    check_chain(model)
    _check_encoding(model, config)
    run = Path(out_dir)
    if data is not None:
        training = dataclasses.replace(config.training, dataset=name_of_data(data))
        config = dataclasses.replace(config, training=training)
    with use_folder(run):
        _check_settings(config, run, resume=resume)
        device = resolve_device(config.training.device)
        with use_threads(config.training.threads), same_bits(device):
            return _Run(model, config, run, callback or Callback(), data, device).all_stages()


def _check_encoding(model: nn.Module, config: QuantizeConfig) -> None:
    """Raise an error if the settings have another encoding than the network was trained with."""
    own, said = getattr(model, "encoding", None), config.training.encoding
    if own is not None and own != said:
        raise ValueError(
            f"the network was trained with {own}, the settings of its retraining say {said}: "
            "give training.with_encoding(model.encoding)"
        )


def _check_settings(config: QuantizeConfig, run: Path, *, resume: bool) -> None:
    """Raise an error if the folder contains a run; when resuming, if its settings differ."""
    saved = RunFolder(run).qat_config
    if not resume and (saved.exists() or RunFolder(run).checkpoints()):
        raise FileExistsError(
            f"{run} already holds a run: give resume=True to continue it, or another folder"
        )
    if resume and saved.exists():
        _check_same(config, saved.read_text("utf-8"), f"cannot resume {run}", f"{saved} holds")


def _check_same(config: QuantizeConfig, text: str, problem: str, other: str) -> None:
    """Raise an error if the settings would not give the result of those in ``text``."""
    try:
        others = ", ".join(config.differences(QuantizeConfig.from_json(text)))
    except ValueError as error:
        others = str(error)
    if others:
        raise ValueError(
            f"{problem} with other settings than {other} ({others}): give those, or another folder"
        )


class _Run:
    """The objects of a run, and its loop."""

    def __init__(
        self,
        model: nn.Module,
        config: QuantizeConfig,
        run: Path,
        callback: Callback,
        data: OwnData | None,
        device: torch.device,
    ) -> None:
        self.config, self.run, self.callback, self.device = config, run, callback, device
        training = config.training
        self.train_set, self.test_set = load_in_memory(training, data)
        channels, *size = self.train_set.images.shape[1:]
        shape = (channels * training.encoding.copies, *size)
        check_output(model, type(model).__name__, shape, len(self.train_set.classes))
        self.model = copy.deepcopy(model)
        if any(isinstance(module, ReferenceSpikes) for module in model.modules()):
            self.model = unfold_horizons_(self.model, training.horizon_spread)
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        prepare_qat_(self.model.to(device), BITS[0])
        self.averaged = average_weights(self.model, training.ema_decay)
        self.generator = torch.Generator().manual_seed(training.seed)
        # Whole batches, even with the settings of a network that several processes trained.
        # Mirrored pairs are not tied any more: the images teach the symmetry.
        flip = training.hflip or training.mirrored_pairs
        alone = dataclasses.replace(training, processes=1, hflip=flip)
        self.batches = make_batches(alone, self.train_set, self.generator)
        self.teachers = load_teachers(training, self.train_set)
        if config.float_teacher:
            itself = Teacher(copy.deepcopy(model), training.logit_scale, weights_digest(model))
            self.teachers = Teachers([itself])
        if self.teachers is not None:
            self.teachers.to(device)
        self.begun_with = {
            "network_sha256": weights_digest(model),
            "teacher_sha256": None if self.teachers is None else self.teachers.sha256,
            "data_sha256": digest(self.train_set, self.test_set),
        }
        self.loss = TrainingLoss(training, self.model, self.teachers)
        self.optimizer: torch.optim.Optimizer
        self.done = 0  # epochs, of all stages
        self.skipped: list[int] = []  # steps without a finite gradient, by epoch

    @property
    def network(self) -> nn.Module:
        return averaged_or_trained(self.model, self.averaged)

    def all_stages(self) -> dict[int, IntegerNetwork]:
        stages = self.config.stages
        checkpoint = load_checkpoint(self.run)
        if checkpoint is not None:
            self._restore(checkpoint)
            remove_older(self.run, checkpoint.epoch)
        replace_file(RunFolder(self.run).qat_config, f"{self.config.to_json()}\n".encode())
        self._announce()
        networks = {}
        for stage, after in zip(stages, (*stages[1:], None), strict=True):
            written = RunFolder(self.run).integer_network(stage.bits)
            ends = after is None or after.bits != stage.bits
            if self.done >= stage.last and not ends:
                continue
            if self.done >= stage.last and written.exists():
                networks[stage.bits] = load(written)  # of a stage before the restart
                continue
            if self.done > stage.last:
                raise FileNotFoundError(
                    f"{written} is gone, and what it was made of has been trained further: put it "
                    "back, or start a new run in another folder"
                )
            if self.done <= stage.first:
                self._begin(stage)
            for epoch in range(self.done - stage.first, stage.epochs):
                begin = time.perf_counter()
                totals = self._epoch(epoch, stage.epochs)
                self.done += 1
                self.skipped.append(totals.skipped)
                self._save()
                figures = f"loss {totals.means()['loss']:8.4f}  {time.perf_counter() - begin:.1f} s"
                figures += skipped_text(self.skipped[-1])
                self.callback.log(f"{stage}, epoch {epoch + 1}/{stage.epochs}  {figures}")
            if ends:
                networks[stage.bits] = self._finish(stage.bits)
        return networks

    def _enter(self, stage: Stage) -> None:
        """Prepare the networks for a stage."""
        for model in (self.model, self.network):
            prepare_qat_(model, stage.bits)
            if stage.frozen:
                freeze_codes_(model)
        training = self.config.training
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=self.config.lr,
            betas=(0.9, training.adam_beta2),
            weight_decay=0.0 if stage.frozen else training.weight_decay,
            fused=True,
        )

    def _begin(self, stage: Stage) -> None:
        """Start a stage from the result of the one before."""
        if self.averaged is not None:
            self.model.load_state_dict(self.averaged.module.state_dict())
            self.averaged.n_averaged.zero_()
        self._enter(stage)

    def _epoch(self, epoch: int, epochs: int) -> StepTotals:
        training = self.config.training
        step = TrainingStep(
            self.model,
            self.optimizer,
            self.loss,
            clip_grad=training.clip_grad,
            averaged=self.averaged,
            precision=training.precision,
        )
        totals = StepTotals(training.weight_sum_cost, training.l2_cost)
        for chunk in on_device(self.batches.epoch(self.done), self.device):
            recalibrate_(self.model)
            for batch in chunk.batches:
                position = epoch + totals.steps / len(self.batches)
                totals.add(step(batch, self.config.learning_rate(position, epochs)))
            totals.reduce()
            totals.check_loss(self.done + 1, f"{self.done} epochs are saved in {self.run}")
        return totals

    def _finish(self, bits: int) -> IntegerNetwork:
        recalibrate_(self.network)
        network = self._converted(bits)
        path = network.save(RunFolder(self.run).integer_network(bits))
        result = evaluate(network, self.test_set, threads=torch.get_num_threads())
        self.callback.log(
            f"{bits} bits: {result.accuracy:.2%} of {result.images:,} test images in integers, "
            f"{path} ({path.stat().st_size:,} bytes)"
        )
        return network

    def _converted(self, bits: int) -> IntegerNetwork:
        encoding = self.config.training.encoding
        network = copy.deepcopy(self.network).cpu()  # integers are made there
        images = self.train_set.some(CALIBRATION_IMAGES).images
        calibrated: dict[str, Any] = {"images": images}
        if not has_horizon_layers(network):
            scales = calibrate_time_scales(
                network, images, self.config.time_bits, encoding=encoding
            )
            calibrated = {"time_scales": scales}
        return convert(
            network,
            bits,
            self.config.time_bits,
            input_size=self.test_set.images.shape[1:],
            encoding=encoding,
            classes=self.test_set.classes,
            **calibrated,
        )

    def _save(self) -> None:
        save_checkpoint(
            self.run,
            Checkpoint(
                epoch=self.done,
                model=self.model.state_dict(),
                averaged={} if self.averaged is None else self.averaged.state_dict(),
                best={},
                optimizer=self.optimizer.state_dict()["state"],
                generator=self.generator.get_state(),
                facts={
                    "ttfs_fast_version": str(ttfs_fast.__version__),
                    "config": json.loads(self.config.to_json()),
                    "skipped_steps": self.skipped,
                    **self.begun_with,
                },
            ),
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        for name, own in self.begun_with.items():
            if checkpoint.facts.get(name, own) != own:  # runs of older versions do not say
                what = {"data_sha256": "set of images"}.get(name, name.removesuffix("_sha256"))
                raise ValueError(
                    f"cannot resume {self.run} with another {what} than it began with: give that "
                    "one, or another folder"
                )
        begun_with = json.dumps(checkpoint.facts["config"])
        _check_same(self.config, begun_with, f"cannot resume {self.run}", "its checkpoint holds")
        stages = self.config.stages
        self._enter(next((s for s in stages if checkpoint.epoch <= s.last), stages[-1]))
        checkpoint.restore(self.model, self.averaged, self.optimizer, self.generator)
        self.done = checkpoint.epoch
        self.skipped = list(checkpoint.facts.get("skipped_steps", []))

    def _announce(self) -> None:
        config, training = self.config, self.config.training
        bits = ", ".join(str(stage.bits) for stage in config.stages if not stage.frozen)
        epochs = ", ".join(
            f"{stage.epochs} (codes frozen)" if stage.frozen else str(stage.epochs)
            for stage in config.stages
        )
        facts: dict[str, Any] = {
            "bits": f"{bits}; {config.time_bits}-bit spike codes",
            "images": f"{self.batches.images:,} to train, {len(self.test_set):,} to test",
            "steps": f"{epochs} epochs of {len(self.batches):,} batches of "
            f"{training.batch_size}, {self.done} epochs done",
            "rate": f"{config.lr:g} falling to {config.min_lr:g}",
            "device": describe_device(self.device),
            "seed": str(training.seed),
        }
        if training.neuron != "spiking":
            facts["products"] = describe_precision(training.precision, self.device)
        self.callback.log_facts(f"quantizing {type(self.model).__name__}", facts)
