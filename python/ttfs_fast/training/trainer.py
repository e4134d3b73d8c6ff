"""The training loop."""

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel, update_bn

import ttfs_fast
from ttfs_fast._files import replace_file, use_folder
from ttfs_fast.analysis.evaluate import EvaluationResult, evaluate
from ttfs_fast.data import ImageSet
from ttfs_fast.data.stream import refuse_in_starting_worker
from ttfs_fast.encoding import Encoding
from ttfs_fast.gpu.device import describe_device, same_bits, use_threads
from ttfs_fast.horizon import (
    HorizonConv2d,
    estimate_statistics_,
    fold_horizons_,
    horizon_layers,
    renormalize_horizons_,
    synchronize_statistics_,
    unfold_horizons_,
    whiten_,
)
from ttfs_fast.models import DecodeSpikes
from ttfs_fast.models.pretrained import weights_file
from ttfs_fast.optim.averaging import average_weights, averaged_or_trained
from ttfs_fast.optim.centering import fold_, renormalize_weights_
from ttfs_fast.optim.muon import Muon
from ttfs_fast.training.batches import on_device
from ttfs_fast.training.build import load_model, make_model
from ttfs_fast.training.callback import Callback, skipped_text
from ttfs_fast.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    remove_older,
    save_checkpoint,
)
from ttfs_fast.training.config import TrainConfig
from ttfs_fast.training.datasets import (
    DataSet,
    OwnData,
    count,
    image_shape,
    load_data,
    make_batches,
    name_of_data,
)
from ttfs_fast.training.datasets import digest as digest_of
from ttfs_fast.training.distillation import Teachers, load_teachers
from ttfs_fast.training.export import export_weights, read_config
from ttfs_fast.training.log import EpochRecord, write_log
from ttfs_fast.training.objective import TrainingLoss
from ttfs_fast.training.own_network import (
    OwnModel,
    check_description,
    description_of,
    name_of,
)
from ttfs_fast.training.processes import lost_connection, make_fabric
from ttfs_fast.training.run_folder import RunFolder
from ttfs_fast.training.step import StepTotals, TrainingStep, describe_precision
from ttfs_fast.training.tensorboard import Scalars


@dataclass(frozen=True)
class TrainResult:
    """A finished training run.

    Attributes
    ----------
    model : torch.nn.Module
        The network with its final weights, averaged if the settings say so, and folded if they
        were centered.
    evaluation : EvaluationResult
        The final network on the test images.
    records : list of EpochRecord
        The log, one record per epoch.
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
    callback: Callback | None = None,
    tensorboard: bool = False,
    model: OwnModel | None = None,
    data: OwnData | None = None,
) -> TrainResult:
    """Train a network and write all files of the run into one folder.

    The folder receives ``config.json``, ``log.csv`` (one row per epoch), the newest checkpoint and,
    at the end, ``model.safetensors``. A run that was interrupted in any way continues from
    its newest checkpoint with ``resume=True`` and ends with the same weights, bit for bit, as a
    run that was not.

    Started by torchrun, the processes train together: each takes its share of every batch, and the
    gradients are averaged over them (torch's DistributedDataParallel, over gloo, or with a GPU for
    each over nccl). The first process writes the files, tests and reports.

    A run can be resumed on another device. It then ends with other bits, because sums are rounded
    in another order.

    Parameters
    ----------
    config : TrainConfig
        The settings; ``processes`` is set to the number that torchrun started.
    out_dir : str or Path
        Folder of the run; made if it does not exist.
    resume : bool
        Continue the run in ``out_dir``. A finished run is evaluated and exported again.
    overwrite : bool
        Remove the run in ``out_dir``, if there is one, and start again.
    callback : Callback, optional
        Receives reports of the run, from the first process; without one the run is silent.
    tensorboard : bool
        Write the log for TensorBoard, too, into the folder ``tensorboard``.
    model : Module, callable or str, optional
        A network of your own in place of ``config.model``: a module of this package's layers, which
        is copied; or what makes one, a function, a class, or its name as package.module:factory. A
        factory is given those of ``in_channels``, ``image_size``, ``classes`` and ``encoding`` that
        its signature names, and called with ``config.seed`` as torch's seed.
    data : Dataset, or pair of Dataset, optional
        Map-style data sets of your own in place of ``config.dataset``, (train, test), or one of
        which ``config.val_images`` are for validation. :func:`~ttfs_fast.data.from_dataset` defines
        valid examples. They are read into memory, once for each of ``config.generations``.

    Returns
    -------
    result : TrainResult

    Raises
    ------
    FileExistsError
        If ``out_dir`` holds a run and neither ``resume`` nor ``overwrite`` is given.
    FileNotFoundError
        If there is nothing to resume, or the data are not found.
    BlockingIOError
        If another process trains in ``out_dir``.
    ValueError
        If the run to resume had other settings, another network or other data, or its checkpoint
        is damaged; if a network of your own cannot be had, or cannot be trained; if the device is
        not there.
    FloatingPointError
        If the loss stops being a finite number.
    ConnectionError
        If another process that trains with this one has died.
    ChildProcessError
        If a process that reads images dies.
    RuntimeError
        If, with ``config.workers`` above 0, a script does not call this function under ``if
        __name__ == "__main__":``.
    KeyboardInterrupt
        On Ctrl-C, after saying how to continue.

    Notes
    -----
    Source: Zhou et al. (AAAI 2021), section 4.1 (schedule, gradient limit, noise) and
    equation (5) (loss).
    """
    refuse_in_starting_worker()
    run = Path(out_dir)
    fabric = make_fabric(config.device)
    is_main_process = fabric.global_rank == 0
    config = dataclasses.replace(config, processes=fabric.world_size)
    if model is not None:
        config = dataclasses.replace(config, model=name_of(model))
    if data is not None:
        config = dataclasses.replace(config, dataset=name_of_data(data))
    with use_folder(run) if is_main_process else nullcontext():
        told = callback if callback is not None and is_main_process else Callback()
        return _train(config, run, fabric, resume, overwrite, told, tensorboard, model, data)


def _train(
    config: TrainConfig,
    run: Path,
    fabric: Any,
    resume: bool,
    overwrite: bool,
    callback: Callback,
    tensorboard: bool,
    model: OwnModel | None,
    data: OwnData | None,
) -> TrainResult:
    """`train`, in a folder that is this run's alone."""
    is_main_process = fabric.global_rank == 0
    # Refuses before anything is replaced.
    curves = Scalars(run, write=tensorboard and is_main_process)
    saved = None
    if is_main_process or resume:
        saved = _saved_config(config, run, resume=resume, overwrite=overwrite)
    if config.threads is None:
        threads = torch.get_num_threads() if saved is None else saved.threads
        config = dataclasses.replace(config, threads=threads)
    if saved is not None and (config.initial_checkpoint is None) != (
        saved.initial_checkpoint is None
    ):
        config = dataclasses.replace(config, initial_checkpoint=saved.initial_checkpoint)
    if saved is not None and (others := _differences(config, saved)):
        raise ValueError(
            f"cannot resume {run} with other settings: {others}. Give the same settings, or train "
            "into another folder"
        )
    if config.teacher_hflip and config.teacher is None and config.generations == 1:
        raise ValueError(
            "teacher_hflip says what a teacher sees; give teacher, or generations, too"
        )
    train_set, test_set = load_data(config, fabric.global_rank, data)
    digest = digest_of(train_set, test_set)
    teachers = load_teachers(config, train_set)
    checkpoint = load_checkpoint(run) if saved is not None else None
    if checkpoint is not None:
        _check_checkpoint(checkpoint, config, run, digest)
    with use_threads(config.threads), same_bits(fabric.device), curves as scalars:
        session = _Session(
            config, run, train_set, test_set, digest, callback, fabric, scalars, model
        )
        if checkpoint is not None:
            session.restore(checkpoint)
            if is_main_process:
                remove_older(run, checkpoint.epoch)
        else:
            session.start()
        if saved is None and is_main_process:
            # Now that nothing in the settings has turned out not to fit the data or each other.
            RunFolder(run).remove_training()
            replace_file(RunFolder(run).config, f"{config.to_json()}\n".encode())
        try:
            if config.generations > 1:
                before = _train_generation_before(config, run, callback, tensorboard, model, data)
                teachers = load_teachers(before, train_set, model=model)
            session.learn_from(teachers, checkpoint)
            session.announce()
            result = session.run_to_end()
            fabric.barrier()  # the run is complete on disk when any process returns
            return result
        except KeyboardInterrupt:
            callback.log(
                f"stopped. {len(session.records)} of {config.epochs} epochs are saved in {run}; "
                "continue with resume=True"
            )
            raise
        except RuntimeError as error:
            if fabric.world_size == 1 or not lost_connection(error):
                raise
            raise ConnectionError(
                f"one of the {fabric.world_size} processes that train together has died, so the "
                f"others stop. {len(session.records)} of {config.epochs} epochs are saved in "
                f"{run}; with as many processes, continue with resume=True"
            ) from error


def _train_generation_before(
    config: TrainConfig,
    run: Path,
    callback: Callback,
    tensorboard: bool,
    model: OwnModel | None,
    data: OwnData | None,
) -> TrainConfig:
    """The settings with the generation before as the teacher: found, continued, or trained now."""
    folder, before = RunFolder(run).generation_before, config.generation_before
    begun = folder.config.is_file()
    same = begun and not before.differences(TrainConfig.from_json(folder.config.read_text("utf-8")))
    if not (same and folder.weights.is_file()):
        train(
            before,
            folder.path,
            resume=begun,
            overwrite=not begun,
            callback=callback,
            tensorboard=tensorboard,
            model=model,
            data=data,
        )
    return dataclasses.replace(config, generations=1, teacher=str(folder.path))


def ensure_trained(
    config: TrainConfig, out_dir: str | Path, *, callback: Callback | None = None
) -> Path:
    """The weights of a finished run with these settings: found, continued, or trained now.

    Parameters
    ----------
    config : TrainConfig
        The settings; ``threads`` must be given.
    out_dir : str or Path
        Folder of the run. An existing run with other settings is replaced.
    callback : Callback, optional
        As for `train`.

    Returns
    -------
    path : Path
        The file of the weights.
    """
    run = RunFolder(Path(out_dir))
    same = False
    if run.config.is_file():
        before = TrainConfig.from_json(run.config.read_text("utf-8"))
        sources = [(each.teacher, each.initial_checkpoint) for each in (config, before)]
        same = not config.differences(before) and sources[0] == sources[1]
    if same and run.weights.is_file():
        return run.weights
    return train(config, run.path, resume=same, overwrite=not same, callback=callback).weights_path


class _Session:
    """The objects of a run, and its loop."""

    def __init__(
        self,
        config: TrainConfig,
        run: Path,
        train_set: DataSet,
        test_set: DataSet,
        digest: str,
        callback: Callback,
        fabric: Any,
        scalars: Scalars,
        model: OwnModel | None,
    ) -> None:
        self.config, self.run, self.test_set = config, run, test_set
        self.digest, self.callback = digest, callback
        self.teachers: Teachers | None = None
        self.fabric, self.scalars = fabric, scalars
        self.records: list[EpochRecord] = []
        self.own = model
        self.shape, self.classes = image_shape(train_set), train_set.classes
        self.device: torch.device = fabric.device
        self.model = new_network(config, train_set, model)
        self.description = description_of(self.model) if config.own_network else None
        if config.initial_checkpoint is not None and config.neuron == "horizon":
            # A trained network has layers of another kind: their statistics are fixed.
            self.model = self._tunable(config.initial_checkpoint)
        self.model.to(self.device)
        if fabric.world_size > 1:
            synchronize_statistics_(self.model)
        self.averaged = average_weights(self.model, config.ema_decay)
        self.best: dict[str, Tensor] = {}
        self.optimizer = make_optimizer(config, self.model)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.batches = make_batches(config, train_set, self.generator, fabric.global_rank)
        self.sample = _sample(config, train_set) if self.averaged is not None else None
        if self.sample is not None:
            self.sample = self.sample.to(self.device)

    @property
    def network(self) -> nn.Module:
        """The network that is tested and exported: the averaged one, if there is one."""
        return averaged_or_trained(self.model, self.averaged)

    def announce(self) -> None:
        config = self.config
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        limits = [f"{name} {value:g}" for name, value in config.distortion.items() if value]
        name = {"adam": "Adam", "muon": "Muon", "sgd": "SGD"}[config.optimizer]
        rate = f"{name}, {config.lr:g} falling to {config.min_lr:g}, {config.schedule}"
        if config.warmup_epochs:
            rate += f", rising first for {config.warmup_epochs:g} epochs"
        products = {}
        if config.neuron != "spiking":
            products["products"] = describe_precision(config.precision, self.device)
        if self.records:
            start = f"from {self.run}, after epoch {len(self.records)} of {config.epochs}"
        else:
            start = f"new run in {self.run}"
        self.callback.log_facts(
            f"training {config.model} on {config.dataset}",
            {
                "start": start,
                "network": f"{len(matrices)} {config.neuron} layers, "
                f"{sum(matrix.numel() for matrix in matrices):,} weights",
                "images": f"{self.batches.images:,} to train, {count(self.test_set):,} to test",
                "steps": f"{config.epochs} epochs of {len(self.batches):,} batches of "
                f"{config.batch_size}"
                + (f" in {config.grad_accum_steps} pieces" if config.grad_accum_steps > 1 else ""),
                "rate": rate,
                "teacher": "none"
                if self.teachers is None
                else f"{', '.join(config.teachers) or 'the generation before'}, "
                f"share {config.distill_weight:g}, "
                f"temperature {config.kd_temperature:g}"
                + (", half of the images mirrored" if config.teacher_hflip else ""),
                "average": f"of the weights, decay {config.ema_decay:g}"
                if config.ema_decay
                else "none",
                "noise": ", ".join([f"jitter {config.jitter:g} tau", *limits]),
                **products,
                "device": describe_device(self.device)
                + (f", processes: {config.processes}" if config.processes > 1 else ""),
                "seed": str(config.seed),
            },
        )

    def start(self) -> None:
        """Copy the weights of a trained network, if the run starts from one."""
        path = self.config.initial_checkpoint
        if path is None or self.config.neuron == "horizon":
            return
        with torch.no_grad():
            for name, value in self._trained(path).state_dict().items():
                owner, _, key = name.rpartition(".")
                module = self.model.get_submodule(owner)
                if parametrize.is_parametrized(module, key):
                    setattr(module, key, value.to(self.device))
                else:
                    getattr(module, key).copy_(value)
        if self.averaged is not None:
            self.averaged.module.load_state_dict(self.model.state_dict())

    def _tunable(self, path: str) -> nn.Module:
        """A trained network whose layers compute dense products again, its statistics fixed."""
        network = unfold_horizons_(self._trained(path), self.config.horizon_spread)
        if self.config.whitening:
            next(iter(horizon_layers(network).values())).weight.requires_grad_(False)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def _trained(self, path: str) -> nn.Module:
        """The network of a weights file, if it is one of this run's shape and horizons."""
        with weights_file(path) as file:
            recorded = read_config(file) if file.is_file() else None
        same = recorded is not None and recorded.model == self.config.model
        start, settings = load_model(path, model=self.own if same else None)
        with torch.random.fork_rng(devices=[]):
            plain = make_model(self.config, self.shape, centered=False, model=self.own).state_dict()
        found = start.state_dict()
        if {n: v.shape for n, v in plain.items()} != {n: v.shape for n, v in found.items()}:
            raise ValueError(
                f"{path} holds another network, {settings.model} of width {settings.width:g} with "
                f"neuron={settings.neuron} for {settings.dataset}: its weights cannot be the first "
                "ones of this run"
            )
        for name, value in found.items():
            if name.endswith(".reference") and not torch.allclose(value, plain[name].to(value)):
                raise ValueError(
                    f"{path} holds a network with another weight_sum, alpha or delay: in front of "
                    f"{name.removesuffix('.reference')} its horizon is {math.log(value):.6g}, that "
                    f"of this run is {math.log(plain[name]):.6g}"
                )
        for name, own in self.config.spike_settings.items():
            if (its := settings.spike_settings[name]) != own:
                self.callback.log(f"  {path} was trained with {name} {its}; this run uses {own}")
        return start

    def learn_from(self, teachers: Teachers | None, checkpoint: Checkpoint | None) -> None:
        """Let these teach the network; a run that is resumed must have begun with them."""
        if checkpoint is not None:
            _check_teachers(checkpoint, self.config, self.run, teachers)
        if teachers is not None:
            self.teachers = teachers.to(self.device)

    def restore(self, checkpoint: Checkpoint) -> None:
        if self.description is not None:
            recorded = checkpoint.facts.get("network")
            what = f"cannot resume {self.run}: its checkpoint"
            check_description(self.description, recorded, what)
        checkpoint.restore(self.model, self.averaged, self.optimizer, self.generator)
        self.records = [EpochRecord.from_dict(record) for record in checkpoint.facts["log"]]
        self.best = checkpoint.best

    def save(self) -> None:
        facts = {
            "ttfs_fast_version": str(ttfs_fast.__version__),
            "config": json.loads(self.config.to_json()),
            "data_sha256": self.digest,
            "teacher_sha256": None if self.teachers is None else self.teachers.sha256,
            "log": [dataclasses.asdict(record) for record in self.records],
        }
        if self.description is not None:
            facts["network"] = self.description
        save_checkpoint(
            self.run,
            Checkpoint(
                epoch=len(self.records),
                model=self.model.state_dict(),
                averaged={} if self.averaged is None else self.averaged.state_dict(),
                best=self.best,
                optimizer=self.optimizer.state_dict()["state"],
                generator=self.generator.get_state(),
                facts=facts,
            ),
        )
        write_log(RunFolder(self.run).log, self.records)

    def run_to_end(self) -> TrainResult:
        config = self.config
        step = make_step(
            config,
            self.model,
            self.optimizer,
            averaged=self.averaged,
            teachers=self.teachers,
            fabric=self.fabric,
        )
        steps = len(self.batches)
        done = len(self.records)
        is_main_process = self.fabric.global_rank == 0
        if done and is_main_process:
            write_log(RunFolder(self.run).log, self.records)
            self.scalars.write(self.records)
        evaluation: EvaluationResult | None = None
        with self.callback.progress(total=steps * config.epochs, done=steps * done):
            for epoch in range(done, config.epochs):
                if self._patience_is_over():
                    break
                begin = time.perf_counter()
                totals = self._epoch(epoch, step)
                evaluation = self._evaluate_together()
                record = EpochRecord(
                    epoch=epoch + 1,
                    learning_rate=config.learning_rate(epoch),
                    test_accuracy=evaluation.accuracy,
                    test_spikes_per_neuron=evaluation.spikes_per_neuron,
                    first_spike_time=evaluation.first_spike_time,
                    skipped_steps=totals.skipped,
                    seconds=time.perf_counter() - begin,
                    **totals.means(),
                )
                self.records.append(record)
                if config.patience_epochs and self._best_epoch() == len(self.records) - 1:
                    state = self.network.state_dict()
                    self.best = {name: value.clone() for name, value in state.items()}
                if is_main_process:
                    self.save()
                    self.scalars.write(self.records)
                self.callback.log(_line(record, config.epochs))
        if self._patience_is_over():
            self.callback.log(
                f"stopped early: epoch {self._best_epoch() + 1} was the best of {len(self.records)}"
            )
        if self.best:
            self.network.load_state_dict(self.best)
            evaluation = None
        if evaluation is None:
            evaluation = self._evaluate_together()
        return self._finish(evaluation)

    def _best_epoch(self) -> int:
        accuracies = [record.test_accuracy for record in self.records]
        return accuracies.index(max(accuracies))

    def _patience_is_over(self) -> bool:
        patience = self.config.patience_epochs
        return bool(
            patience and self.records and len(self.records) - 1 - self._best_epoch() >= patience
        )

    def _epoch(self, epoch: int, step: TrainingStep) -> StepTotals:
        config = self.config
        totals = StepTotals(config.weight_sum_cost, config.l2_cost, self.fabric)
        for chunk in on_device(self.batches.epoch(epoch), self.device):
            outputs: list[Tensor] = []
            for batch in chunk.batches:
                rate = config.learning_rate(epoch, (totals.steps + 1) / len(self.batches))
                result = step(batch, rate, watch=None if outputs else totals.spikes)
                totals.add(result)
                outputs.append(result.output)
            totals.add_answers(torch.cat(outputs), chunk.labels)
            totals.reduce()
            totals.check_loss(epoch + 1, f"{len(self.records)} epochs are saved in {self.run}")
            self._report(epoch, totals)
        return totals

    def _report(self, epoch: int, totals: StepTotals) -> None:
        figures = totals.means()
        text = f"loss {figures['loss']:.3f}  accuracy {figures['train_accuracy']:.1%}"
        if not math.isnan(figures["train_spikes_per_neuron"]):
            text += f"  spikes/neuron {figures['train_spikes_per_neuron']:.1%}"
        self.callback.step(
            f"epoch {epoch + 1}/{self.config.epochs}",
            epoch * len(self.batches) + totals.steps,
            text,
        )

    def _evaluate_together(self) -> EvaluationResult:
        """The first process tests; the others wait, and receive the accuracy only."""
        self._estimate_statistics()
        if self.fabric.world_size == 1:
            return self.evaluate()
        evaluation = self.evaluate() if self.fabric.global_rank == 0 else None
        correct = torch.zeros(2, dtype=torch.int64)
        if evaluation is not None:
            correct = torch.tensor([evaluation.correct, evaluation.images])
        correct = self.fabric.all_reduce(correct, reduce_op="sum")
        if evaluation is not None:
            return evaluation
        nothing = math.nan
        return EvaluationResult(
            dataset=self.test_set.name,
            images=int(correct[1]),
            correct=int(correct[0]),
            confusion=np.zeros((self.shape.classes, self.shape.classes + 1), np.int64),
            spikes_per_neuron=nothing,
            spikes_per_neuron_by_layer={},
            first_spike_time=nothing,
            silent_images=0,
            weights=0,
            neurons=0,
            spikes_per_image=nothing,
            images_per_second=nothing,
            answers=np.zeros(0, np.int64),
        )

    def _estimate_statistics(self) -> None:
        """Those of the averaged weights; every process, because each returns the network."""
        if self.sample is None:
            return
        # Parts of about one size: a last one of a single image would have no deviation.
        parts = self.sample.tensor_split(math.ceil(len(self.sample) / 256))
        if self.config.neuron == "horizon":
            estimate_statistics_(self.network, parts)
        else:
            update_bn(parts, self.network)

    def evaluate(self) -> EvaluationResult:
        with parametrize.cached():
            return evaluate(self.network, self.test_set, encoding=self.config.encoding)

    def _finish(self, evaluation: EvaluationResult) -> TrainResult:
        network = fold_horizons_(fold_(copy.deepcopy(self.network)))
        if self.config.neuron == "horizon" and self.fabric.global_rank == 0:
            # The network that is exported, by the spiking operators; training took dense products.
            evaluation = evaluate(network, self.test_set)
        path, log = RunFolder(self.run).weights, RunFolder(self.run).log
        if self.fabric.global_rank == 0:
            export_weights(
                network,
                path,
                self.config,
                test_accuracy=evaluation.accuracy,
                images=self.shape.to_json(),
                classes=self.classes,
                network=self.description,
            )
        facts = {
            "accuracy": f"{evaluation.accuracy:.2%} "
            f"({evaluation.correct:,} of {evaluation.images:,} test images)",
            "spikes per neuron": f"{evaluation.spikes_per_neuron:.1%} of the neurons spike",
            "weights": str(path),
            "log": str(log),
        }
        if math.isnan(evaluation.spikes_per_neuron):
            del facts["spikes per neuron"]
        self.callback.log_facts(
            f"trained {len(self.records)} epochs in "
            f"{_duration(sum(record.seconds for record in self.records))}",
            facts,
        )
        return TrainResult(network, evaluation, self.records, path, log)


def _sample(config: TrainConfig, images: DataSet, count: int = 2560) -> Tensor | None:
    """Training images for the statistics of averaged weights."""
    if not config.normalizes:
        return None
    if not isinstance(images, ImageSet):
        raise ValueError(
            "the statistics of averaged weights are taken from training images in memory; for a "
            "folder of images train with ema_decay=0"
        )
    return config.encoding(images.some(count).images_as_tensor())


def whiten_first_(model: nn.Module, images: DataSet, encoding: Encoding, count: int = 5000) -> None:
    """Fill the first convolution with whitening filters of some training images.

    They are taken as the network sees them: standardized if the encoding does so, and inverted if
    dark pixels spike first.
    """
    first = next(iter(model.children()), None)
    if not isinstance(first, HorizonConv2d) or not isinstance(images, ImageSet):
        raise ValueError(
            "whitening needs a network that begins with a convolution, and images in memory"
        )
    shown = encoding.shown(images.some(count).images_as_tensor().double() / 255)
    whiten_(first, 1 - shown if encoding.polarity == "dark-first" else shown)


def new_network(config: TrainConfig, images: DataSet, model: OwnModel | None = None) -> nn.Module:
    """The network that a configuration starts with, the same for the same seed.

    Parameters
    ----------
    config : TrainConfig
        Which network, and how it starts.
    images : ImageSet or StreamedImages
        The training images, which decide its shape and its whitening filters.
    model : Module, callable or str, optional
        The network, where it is the user's own, as `train` takes it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = make_model(config, image_shape(images), model=model)
        if config.whitening:
            whiten_first_(network, images, config.encoding)
        if config.neuron != "spiking":
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def make_step(
    config: TrainConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    averaged: AveragedModel | None = None,
    teachers: Teachers | None = None,
    fabric: Any = None,
) -> TrainingStep:
    """The step that a configuration repeats.

    Parameters
    ----------
    config : TrainConfig
        Loss, gradient limit, constraint, pieces and precision.
    model : Module
        What is trained.
    optimizer : Optimizer
        Of its parameters; see `make_optimizer`.
    averaged, fabric
        As for `ttfs_fast.training.step.TrainingStep`.
    teachers : Teachers, optional
        Trained networks; their answers are learned along with the classes.
    """
    constrain: Callable[[nn.Module], object] | None = None
    if config.neuron == "horizon":
        constrain = renormalize_horizons_
    elif config.fixed_norm:
        constrain = renormalize_weights_
    return TrainingStep(
        model,
        optimizer,
        TrainingLoss(config, model, teachers),
        clip_grad=config.clip_grad,
        constrain=constrain,
        averaged=averaged,
        pieces=config.grad_accum_steps,
        least_images=2 if config.normalizes else 1,
        precision=config.precision,
        fabric=fabric,
    )


def muon_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Parameters for `ttfs_fast.optim.muon.Muon`, with Adam's steps for the classifier.

    The rows of a classifier are not directions of one space. It is known in networks whose layers
    have horizons, and in ReLU networks.
    """
    layers = horizon_layers(model).values()
    classifiers: list[Tensor] = [layer.weight for layer in layers if layer.normalization == "none"]
    if isinstance(model, DecodeSpikes):
        classifiers = [m.weight for m in model.modules() if isinstance(m, nn.Linear)][-1:]
    apart = {id(weight) for weight in classifiers}
    others = [parameter for parameter in model.parameters() if id(parameter) not in apart]
    groups: list[dict[str, Any]] = [{"params": others}]
    if classifiers:
        groups.append({"params": classifiers, "adam": True})
    return groups


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=True,
        )
    if config.optimizer == "muon":
        return Muon(
            muon_groups(model),
            config.lr,
            momentum=config.momentum,
            beta2=config.adam_beta2,
            weight_decay=config.weight_decay,
        )
    return torch.optim.AdamW(
        model.parameters(),
        lr=config.lr,
        betas=(0.9, config.adam_beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )


def _line(record: EpochRecord, epochs: int) -> str:
    spikes = (
        f"spikes/neuron {record.test_spikes_per_neuron:6.1%}  "
        f"first spike {record.first_spike_time:.2f} tau  "
    )
    return (
        f"epoch {record.epoch:>{len(str(epochs))}}/{epochs}  loss {record.loss:8.4f}  "
        f"train {record.train_accuracy:7.2%}  test {record.test_accuracy:7.2%}  "
        f"{'' if math.isnan(record.test_spikes_per_neuron) else spikes}{_duration(record.seconds)}"
        f"{skipped_text(record.skipped_steps)}"
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _differences(config: TrainConfig, before: TrainConfig) -> str:
    """The settings in which a run differs from an earlier one; empty if there are none."""
    return "; ".join(
        f"{name} was {getattr(before, name)}, now {getattr(config, name)}"
        for name in config.differences(before)
    )


def _saved_config(
    config: TrainConfig, run: Path, *, resume: bool, overwrite: bool
) -> TrainConfig | None:
    """The settings of the run to resume; None for a new run."""
    if resume and overwrite:
        raise ValueError("resume continues a run and overwrite removes it: give one of the two")
    path = RunFolder(run).config
    if resume:
        if not path.is_file():
            raise FileNotFoundError(
                f"{run} holds no training run to resume; leave out resume=True to start one"
            )
        return TrainConfig.from_json(path.read_text("utf-8"))
    if not overwrite and RunFolder(run).holds_training:
        others = _differences_on_disk(config, path)
        raise FileExistsError(
            f"{run} already holds a training run{others}: give resume=True to continue it, "
            f"overwrite=True to remove it and start again, or another folder"
        )
    return None


def _check_checkpoint(checkpoint: Checkpoint, config: TrainConfig, run: Path, digest: str) -> None:
    """Raise ValueError unless a checkpoint is of these settings and images."""
    begun_with = TrainConfig.from_json(json.dumps(checkpoint.facts["config"]))
    if others := _differences(config, begun_with):
        raise ValueError(
            f"cannot resume {run}: its checkpoint is of a run with other settings than its "
            f"config.json: {others}. Start again with overwrite=True, or train into another folder"
        )
    if checkpoint.facts["data_sha256"] != digest:
        raise ValueError(
            f"cannot resume {run}: its images are not those of {config.dataset} in "
            f"{config.data_root or 'the default data folder'}"
        )


def _check_teachers(
    checkpoint: Checkpoint, config: TrainConfig, run: Path, teachers: Teachers | None
) -> None:
    """Raise ValueError unless a checkpoint is of a run with these teachers."""
    taught_by = None if teachers is None else teachers.sha256
    if checkpoint.facts.get("teacher_sha256") == taught_by:
        return
    if len(config.teachers) > 1:
        raise ValueError(
            f"cannot resume {run}: it began with other teachers than {config.teacher}, or with "
            "another order of them"
        )
    name = RunFolder(run).generation_before.path if config.generations > 1 else config.teacher
    raise ValueError(f"cannot resume {run}: {name} is not the teacher it began with")


def _differences_on_disk(config: TrainConfig, path: Path) -> str:
    """The settings in which a run differs from the one in its folder, for an error."""
    try:
        before = TrainConfig.from_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    if config.threads is None:
        config = dataclasses.replace(config, threads=before.threads)
    others = _differences(config, before)
    return f" with other settings ({others})" if others else ""
