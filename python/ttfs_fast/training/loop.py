"""The training loop: every step in sight."""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import ttfs_fast
from ttfs_fast._extras import require
from ttfs_fast._files import remove_folder, remove_partials, replace_file
from ttfs_fast.data import ImageSet, load
from ttfs_fast.loss import LossTerms, SpikingLoss, clip_gradient_, weights_and_biases
from ttfs_fast.models import mnist_scnn
from ttfs_fast.training.batches import EpochBatches
from ttfs_fast.training.centring import hold_sums_, project_gradients_, start_centred_
from ttfs_fast.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from ttfs_fast.training.config import TrainConfig
from ttfs_fast.training.evaluate import EvaluationResult, evaluate
from ttfs_fast.training.export import export_weights
from ttfs_fast.training.log import EpochRecord, write_log
from ttfs_fast.training.report import Reporter
from ttfs_fast.training.spikes import SpikeCounter, predict, spiking_layers, watch_layers

CONFIG, LOG, WEIGHTS = "config.json", "log.csv", "model.safetensors"


@dataclass(frozen=True)
class TrainResult:
    """A finished training run.

    Attributes
    ----------
    model : torch.nn.Module
        The network with its final weights, averaged if the settings say so.
    evaluation : EvaluationResult
        The final network on the test images.
    records : list of EpochRecord
        The log, one record an epoch.
    weights_path, log_path : Path
        The exported weights and the CSV log.
    """

    model: nn.Module
    evaluation: EvaluationResult
    records: list[EpochRecord]
    weights_path: Path
    log_path: Path


def train(
    config: TrainConfig,
    out_dir: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> TrainResult:
    """Train the MNIST network and keep everything in one folder.

    The folder receives ``config.json``, ``log.csv`` (one row an epoch), the newest checkpoint and,
    at the end, ``model.safetensors``. A run that was interrupted, in whatever way, continues from
    its newest checkpoint with ``resume=True`` and ends with the same weights, bit for bit, as a
    run that was not.

    Parameters
    ----------
    config : TrainConfig
        The settings.
    out_dir : str or Path
        Folder of the run; made if it does not exist.
    resume : bool
        Continue the run in ``out_dir``. A finished run is evaluated and exported again.
    overwrite : bool
        Remove the run in ``out_dir``, if there is one, and start anew.
    quiet : bool
        Print nothing.

    Returns
    -------
    result : TrainResult

    Raises
    ------
    FileExistsError
        If ``out_dir`` holds a run and neither ``resume`` nor ``overwrite`` is given.
    FileNotFoundError
        If there is nothing to resume, or the data are not found.
    ValueError
        If the run to resume had other settings or other data, or its checkpoint is damaged.
    FloatingPointError
        If the loss stops being a finite number.
    KeyboardInterrupt
        On Ctrl-C, after saying how to continue.

    Notes
    -----
    Source: Zhou et al. (AAAI 2021), section 4.1 (schedule, gradient limit, noise) and
    equation (5) (loss).
    """
    run = Path(out_dir)
    reporter = Reporter(quiet=quiet)
    saved = _saved_config(run, resume=resume, overwrite=overwrite)
    if config.threads is None:
        threads = torch.get_num_threads() if saved is None else saved.threads
        config = dataclasses.replace(config, threads=threads)
    if saved is not None and (names := config.differences(saved)):
        raise ValueError(
            f"cannot resume {run} with other settings: "
            + "; ".join(f"{n} was {getattr(saved, n)}, now {getattr(config, n)}" for n in names)
            + ". Give the same settings, or train into another folder"
        )
    train_set, test_set = load_data(config)
    digest = _digest(train_set, test_set)
    checkpoint = load_checkpoint(run) if saved is not None else None
    if checkpoint is not None and checkpoint.facts["data_sha256"] != digest:
        raise ValueError(
            f"cannot resume {run}: its images are not those of {config.dataset} in "
            f"{config.data_root or 'the default data folder'}"
        )
    if saved is None:
        _remove_run(run)
        replace_file(run / CONFIG, f"{config.to_json()}\n".encode())

    with _threads(config.threads):
        session = _Session(config, run, train_set, test_set, digest, reporter)
        if checkpoint is not None:
            session.restore(checkpoint)
        session.announce()
        try:
            return session.run_to_end()
        except KeyboardInterrupt:
            reporter.say(
                f"stopped. {len(session.records)} of {config.epochs} epochs are saved in {run}; "
                f"continue with: ttfs-fast train --out {run} --resume"
            )
            raise


def load_data(config: TrainConfig) -> tuple[ImageSet, ImageSet]:
    """The training and test images that a configuration asks for."""
    train_set = load(config.dataset, config.data_root, train=True)
    if config.holdout:
        last = len(train_set) - config.holdout
        if last < 1:
            raise ValueError(
                f"holdout must leave at least one of {len(train_set):,} training images; "
                f"got {config.holdout}"
            )
        test_set = _part(train_set, slice(last, None))
        train_set = _part(train_set, slice(last))
    else:
        test_set = load(config.dataset, config.data_root, train=False)
    return (
        _part(train_set, slice(config.train_images)),
        _part(test_set, slice(config.test_images)),
    )


class _EpochTotals:
    """Sums over the steps of an epoch."""

    def __init__(self) -> None:
        self.steps, self.skipped, self.images, self.correct = 0, 0, 0, 0
        self.loss = self.loss_class = self.loss_weight_sum = self.loss_l2 = 0.0
        self.spikes = SpikeCounter()

    def add_loss(self, terms: LossTerms) -> None:
        self.steps += 1
        self.loss += terms.total.item()
        self.loss_class += terms.cross_entropy.item()
        self.loss_weight_sum += terms.weight_sum.item()
        self.loss_l2 += terms.l2.item()

    def add_answers(self, output: Tensor, labels: Tensor) -> None:
        self.images += len(labels)
        self.correct += int((predict(output) == labels).sum())

    def means(self) -> dict[str, float]:
        return {
            "loss": self.loss / self.steps,
            "loss_class": self.loss_class / self.steps,
            "loss_weight_sum": self.loss_weight_sum / self.steps,
            "loss_l2": self.loss_l2 / self.steps,
            "train_accuracy": self.correct / self.images,
            "train_sparsity": self.spikes.sparsity,
        }


class _Session:
    """The objects of a run, and its loop."""

    def __init__(
        self,
        config: TrainConfig,
        run: Path,
        train_set: ImageSet,
        test_set: ImageSet,
        digest: str,
        reporter: Reporter,
    ) -> None:
        self.config, self.run, self.test_set = config, run, test_set
        self.digest, self.reporter = digest, reporter
        self.records: list[EpochRecord] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = mnist_scnn(t_max=config.t_max)
            self.layers = list(spiking_layers(self.model).values())
            if config.weight_sum:
                start_centred_(self.layers, config.weight_sum, config.spread)
        self.averaged: AveragedModel | None = None
        if config.average:
            mean = get_ema_multi_avg_fn(config.average)  # type: ignore[no-untyped-call]
            self.averaged = AveragedModel(self.model, multi_avg_fn=mean)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.lr_start,
            betas=(0.9, config.adam_beta2),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        self.batches = EpochBatches(
            train_set,
            config.batch_size,
            self.generator,
            alpha=config.alpha,
            polarity=config.polarity,
            jitter=config.jitter,
            distortion=config.distortion,
        )
        self.loss = SpikingLoss(
            config.K,
            config.lambda_,
            config.beta,
            scale=config.scale,
            exclude_target=config.exclude_target,
            cost_reduction=config.cost_reduction,
        )

    @property
    def network(self) -> nn.Module:
        """The network that is tested and exported: the averaged one, if the run averages."""
        return self.model if self.averaged is None else self.averaged.module

    def announce(self) -> None:
        config = self.config
        weights = sum(layer.weight.numel() for layer in self.layers)
        limits = [f"{name} {value:g}" for name, value in config.distortion.items() if value]
        rate = f"{config.lr_start:g} falling to {config.lr_end:g}, {config.schedule}"
        if config.warmup:
            rate += f", rising first for {config.warmup:g} epochs"
        if self.records:
            start = f"from {self.run}, after epoch {len(self.records)} of {config.epochs}"
        else:
            start = f"new run in {self.run}"
        self.reporter.say_facts(
            f"training {type(self.model).__name__} on {config.dataset}",
            {
                "start": start,
                "network": f"{len(self.layers)} spiking layers, {weights:,} weights",
                "images": f"{self.batches.images:,} to train, {len(self.test_set):,} to test",
                "steps": f"{config.epochs} epochs of {len(self.batches):,} batches of "
                f"{config.batch_size}",
                "rate": rate,
                "average": f"of the weights, decay {config.average:g}"
                if config.average
                else "none",
                "noise": ", ".join([f"jitter {config.jitter:g} tau", *limits]),
                "device": f"cpu, threads: {config.threads}, "
                f"{ttfs_fast.instruction_set()} instructions",
                "seed": str(config.seed),
            },
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        self.model.load_state_dict(checkpoint.model)
        if self.averaged is not None:
            self.averaged.load_state_dict(checkpoint.averaged)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": checkpoint.optimizer, "param_groups": groups})
        self.generator.set_state(checkpoint.generator)
        self.records = [EpochRecord(**record) for record in checkpoint.facts["log"]]

    def save(self) -> None:
        facts = {
            "ttfs_fast_version": str(ttfs_fast.__version__),
            "config": json.loads(self.config.to_json()),
            "data_sha256": self.digest,
            "log": [dataclasses.asdict(record) for record in self.records],
        }
        save_checkpoint(
            self.run,
            Checkpoint(
                epoch=len(self.records),
                model=self.model.state_dict(),
                averaged={} if self.averaged is None else self.averaged.state_dict(),
                optimizer=self.optimizer.state_dict()["state"],
                generator=self.generator.get_state(),
                facts=facts,
            ),
        )
        write_log(self.run / LOG, self.records)

    def run_to_end(self) -> TrainResult:
        config = self.config
        fabric = require("lightning_fabric", "train").Fabric(accelerator="cpu", devices=1)
        model, optimizer = fabric.setup(self.model, self.optimizer)
        steps = len(self.batches)
        done = len(self.records)
        if done:
            write_log(self.run / LOG, self.records)
        evaluation: EvaluationResult | None = None
        with self.reporter.start_bar(total=steps * config.epochs, done=steps * done):
            for epoch in range(done, config.epochs):
                begin = time.perf_counter()
                totals = self._epoch(epoch, fabric, model, optimizer)
                evaluation = self.evaluate()
                record = EpochRecord(
                    epoch=epoch + 1,
                    learning_rate=config.learning_rate(epoch),
                    test_accuracy=evaluation.accuracy,
                    test_sparsity=evaluation.sparsity,
                    first_spike_time=evaluation.first_spike_time,
                    skipped_steps=totals.skipped,
                    seconds=time.perf_counter() - begin,
                    **totals.means(),
                )
                self.records.append(record)
                self.save()
                self.reporter.say(_line(record, config.epochs))
        if evaluation is None:
            evaluation = self.evaluate()
        return self._finish(evaluation)

    def _epoch(
        self, epoch: int, fabric: Any, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> _EpochTotals:
        model.train()
        totals = _EpochTotals()
        layers = weights_and_biases(self.model)
        for chunk in self.batches.epoch():
            outputs: list[Tensor] = []
            for values, labels in chunk.batches:
                rate = self.config.learning_rate(epoch, (totals.steps + 1) / len(self.batches))
                for group in optimizer.param_groups:
                    group["lr"] = rate
                if outputs:
                    output = model(values)
                else:
                    with watch_layers(self.model, totals.spikes):
                        output = model(values)
                loss = self.loss.terms(output, labels, layers)
                optimizer.zero_grad()
                fabric.backward(loss.total)
                if self.config.weight_sum:
                    project_gradients_(self.layers)
                norm = clip_gradient_(
                    self.model, self.config.max_gradient, error_if_nonfinite=False
                )
                if math.isfinite(norm):
                    optimizer.step()
                    if self.config.weight_sum:
                        hold_sums_(self.layers, self.config.weight_sum)
                else:
                    totals.skipped += 1
                if self.averaged is not None:
                    self.averaged.update_parameters(self.model)
                totals.add_loss(loss)
                outputs.append(output.detach())
            totals.add_answers(torch.cat(outputs), chunk.labels)
            self._report(epoch, totals)
        return totals

    def _report(self, epoch: int, totals: _EpochTotals) -> None:
        figures = totals.means()
        if not math.isfinite(figures["loss"]):
            raise FloatingPointError(
                f"the loss became {figures['loss']} in epoch {epoch + 1}, step {totals.steps}: "
                f"try a lower learning rate, or another seed. "
                f"{len(self.records)} epochs are saved in {self.run}"
            )
        self.reporter.step(
            f"epoch {epoch + 1}/{self.config.epochs}",
            epoch * len(self.batches) + totals.steps,
            f"loss {figures['loss']:.3f}  accuracy {figures['train_accuracy']:.1%}  "
            f"sparsity {figures['train_sparsity']:.1%}",
        )

    def evaluate(self) -> EvaluationResult:
        return evaluate(
            self.network,
            self.test_set,
            alpha=self.config.alpha,
            polarity=self.config.polarity,
        )

    def _finish(self, evaluation: EvaluationResult) -> TrainResult:
        path = export_weights(
            self.network, self.run / WEIGHTS, self.config, test_accuracy=evaluation.accuracy
        )
        log = self.run / LOG
        self.reporter.say_facts(
            f"trained {self.config.epochs} epochs in "
            f"{_duration(sum(record.seconds for record in self.records))}",
            {
                "accuracy": f"{evaluation.accuracy:.2%} "
                f"({evaluation.correct:,} of {evaluation.images:,} test images)",
                "sparsity": f"{evaluation.sparsity:.1%} of the neurons spike",
                "weights": str(path),
                "log": str(log),
            },
        )
        return TrainResult(self.network, evaluation, self.records, path, log)


def _line(record: EpochRecord, epochs: int) -> str:
    return (
        f"epoch {record.epoch:>{len(str(epochs))}}/{epochs}  loss {record.loss:8.4f}  "
        f"train {record.train_accuracy:7.2%}  test {record.test_accuracy:7.2%}  "
        f"sparsity {record.test_sparsity:6.1%}  first spike {record.first_spike_time:.2f} tau  "
        f"{_duration(record.seconds)}"
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _saved_config(run: Path, *, resume: bool, overwrite: bool) -> TrainConfig | None:
    """The settings of the run to resume; None for a new run."""
    if resume and overwrite:
        raise ValueError("resume continues a run and overwrite removes it: give one of the two")
    path = run / CONFIG
    if resume:
        if not path.is_file():
            raise FileNotFoundError(
                f"{run} holds no training run to resume; leave out --resume to start one"
            )
        return TrainConfig.from_json(path.read_text())
    if not overwrite and (path.exists() or list_checkpoints(run)):
        raise FileExistsError(
            f"{run} already holds a training run: give --resume to continue it, "
            f"--overwrite to remove it and start anew, or another folder"
        )
    return None


def _remove_run(run: Path) -> None:
    """Remove a run; without its settings, which go first, nothing can resume from the rest."""
    (run / CONFIG).unlink(missing_ok=True)
    for _, folder in list_checkpoints(run):
        remove_folder(folder)
    for name in (LOG, WEIGHTS):
        (run / name).unlink(missing_ok=True)
    if run.is_dir():
        remove_partials(run)


def _part(image_set: ImageSet, part: slice) -> ImageSet:
    return dataclasses.replace(
        image_set, images=image_set.images[part], labels=image_set.labels[part]
    )


def _digest(*image_sets: ImageSet) -> str:
    """A digest of all images and labels."""
    digest = hashlib.sha256()
    for image_set in image_sets:
        digest.update(image_set.images.data)
        digest.update(image_set.labels.data)
    return digest.hexdigest()


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Set torch's number of threads, and put the old one back at the end."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
