"""One training step, used by float training, QAT, the studies and the benchmarks."""

import dataclasses
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from ttfs_fast.gpu.device import multiplies_bfloat16
from ttfs_fast.layers import SpikeCounter, predict, watch_layers
from ttfs_fast.loss import Layers, SpikingLoss
from ttfs_fast.optim.clipping import clip_gradient_
from ttfs_fast.optim.schedule import set_learning_rate_
from ttfs_fast.training.batches import Batch


@dataclass(frozen=True)
class StepLoss:
    """The loss of a batch, or of the part of one process or one piece.

    Attributes
    ----------
    data : Tensor
        The term that depends on the images: a scalar that is summed over pieces and processes.
    costs : Tensor, optional
        The terms that depend on the weights only, with their coefficients; they count once per
        batch.
    weight_sum, l2 : Tensor, optional
        The costs of equation (5) without their coefficients, for the log.
    """

    data: Tensor
    costs: Tensor | None = None
    weight_sum: Tensor | None = None
    l2: Tensor | None = None


LossFunction = Callable[[Tensor, Batch], StepLoss]
"""Maps the output of a network and its batch to the loss."""


def equation_5(loss: SpikingLoss, layers: Layers) -> LossFunction:
    """`SpikingLoss` of these layers as the loss of a step."""

    def compute(output: Tensor, batch: Batch) -> StepLoss:
        terms = loss.terms(output, batch.labels, layers)
        costs = loss.weight_sum_cost * terms.weight_sum + loss.l2_cost * terms.l2
        return StepLoss(terms.cross_entropy, costs, terms.weight_sum, terms.l2)

    return compute


@dataclass(frozen=True)
class StepResult:
    """Result of a step.

    Attributes
    ----------
    output : Tensor
        Answers of the network to this process's images, before the step.
    data, weight_sum, l2 : float
        Terms of the loss, as in `StepLoss`; ``data`` is this process's part.
    learned : bool
        Whether the batch was used for learning; a batch that is too small is not.
    skipped : bool
        Whether the weights did not change: the batch was too small, or a gradient not finite.
    """

    output: Tensor
    data: float = 0.0
    weight_sum: float = 0.0
    l2: float = 0.0
    learned: bool = True
    skipped: bool = False


def resolve_precision(precision: str, device: torch.device) -> str:
    """The precision of products on a device; "auto" is bfloat16 if it has instructions for it."""
    if precision != "auto":
        return precision
    return "bfloat16" if multiplies_bfloat16(device) else "float32"


def describe_precision(precision: str, device: torch.device) -> str:
    """In which precision a training multiplies, in a line for logs."""
    resolved = resolve_precision(precision, device)
    if resolved == "bfloat16" and not multiplies_bfloat16(device):
        return f"{resolved}, emulated: precision float32 is faster on this {device.type.upper()}"
    return resolved


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which the products of a forward pass have a precision."""
    half = resolve_precision(precision, device) == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


class TrainingStep:
    """Forward, loss, backward, gradient limit, optimizer, constraint and moving average.

    A step whose gradient is not finite leaves the weights as they are.

    Parameters
    ----------
    model : Module
        What is trained.
    optimizer : Optimizer
        Of its parameters.
    loss : callable
        A `LossFunction`.
    clip_grad : float or None
        As for `ttfs_fast.optim.clipping.clip_gradient_`; ``inf`` checks that gradients are finite
        and limits none, None leaves out the check, too.
    constrain : callable, optional
        Called with the model after each step of the optimizer, such as
        `ttfs_fast.optim.centering.renormalize_weights_`.
    averaged : AveragedModel, optional
        Moving average of the weights; see `ttfs_fast.optim.averaging.average_weights`.
    pieces : int
        Pieces in which a batch is run, their gradients added up.
    least_images : int
        Batches with fewer images, over all processes, are skipped, because batch normalization
        needs two. The part of one process may be empty, because all processes must take part in a
        step.
    precision : {"float32", "bfloat16", "auto"}
        Of the products in the forward pass; see `resolve_precision`.
    fabric : Fabric, optional
        Of processes that train together, each with its share of every batch.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: LossFunction,
        *,
        clip_grad: float | None = 10.0,
        constrain: Callable[[nn.Module], object] | None = None,
        averaged: AveragedModel | None = None,
        pieces: int = 1,
        least_images: int = 0,
        precision: str = "float32",
        fabric: Any = None,
    ) -> None:
        self.model, self.loss = model, loss
        self._runs: nn.Module = model
        self._optimizer, self._fabric = optimizer, fabric
        if fabric is not None:
            self._runs, self._optimizer = fabric.setup(model, optimizer)
        self._clip_grad, self._constrain = clip_grad, constrain
        self._averaged, self._pieces, self._least_images = averaged, pieces, least_images
        self._autocast = autocast(precision, next(model.parameters()).device)

    def __call__(
        self, batch: Batch, rate: float | None = None, *, watch: SpikeCounter | None = None
    ) -> StepResult:
        """Learn from a batch.

        Parameters
        ----------
        batch : Batch
            This process's share of it.
        rate : float, optional
            Learning rate; by default the one that the optimizer has.
        watch : SpikeCounter, optional
            Counts the spikes of the forward pass.
        """
        if batch.global_batch_size < self._least_images:
            return StepResult(self._answer(batch), learned=False, skipped=True)
        if not self.model.training:
            self._runs.train()
        if rate is not None:
            set_learning_rate_(self._optimizer, rate)
        self._optimizer.zero_grad()
        result = self._backward(batch, watch)
        if self._is_finite():
            self._optimizer.step()
            if self._constrain is not None:
                self._constrain(self.model)
        else:
            result = dataclasses.replace(result, skipped=True)
        if self._averaged is not None:
            self._averaged.update_parameters(self.model)
        return result

    def _is_finite(self) -> bool:
        if self._clip_grad is None:
            return True
        norm = clip_gradient_(self.model, self._clip_grad, error_if_nonfinite=False)
        return math.isfinite(norm)

    def _answer(self, batch: Batch) -> Tensor:
        """The output of a skipped batch."""
        self._runs.eval()
        with torch.no_grad():
            output: Tensor = self._runs(batch.values)
        self._runs.train()
        return output

    def _backward(self, batch: Batch, watch: SpikeCounter | None) -> StepResult:
        """Add the gradients of a batch, piece by piece."""
        outputs, data, last = [], 0.0, StepLoss(batch.values)
        pieces = min(self._pieces, max(len(batch.labels), 1))
        # Not torch.chunk, which may give fewer pieces than it is asked for: the last one counts.
        parts = zip(
            batch.values.tensor_split(pieces), batch.labels.tensor_split(pieces), strict=True
        )
        for number, (values, labels) in enumerate(parts, start=1):
            with self._no_sync(number < pieces), parametrize.cached():
                watched = nullcontext() if watch is None else watch_layers(self.model, watch)
                with self._autocast, watched:
                    output = self._runs(values)
                last = self.loss(output, Batch(values, labels, batch.global_batch_size))
                # DistributedDataParallel takes the mean over the processes. The data term must be
                # their sum; the costs are the same in all, and count with the last piece.
                total = last.data * self._processes
                if number == pieces and last.costs is not None:
                    total = total + last.costs
                self._backpropagate(total)
            outputs.append(output.detach())
            data += last.data.item()
        weight_sum, l2 = (0.0 if c is None else c.item() for c in (last.weight_sum, last.l2))
        return StepResult(torch.cat(outputs), data, weight_sum, l2)

    @property
    def _processes(self) -> int:
        return 1 if self._fabric is None else int(self._fabric.world_size)

    def _no_sync(self, enabled: bool) -> Any:
        """The gradients of the processes are averaged with the last piece."""
        if self._fabric is None:
            return nullcontext()
        return self._fabric.no_backward_sync(self._runs, enabled=enabled)

    def _backpropagate(self, loss: Tensor) -> None:
        if self._fabric is None:
            torch.autograd.backward(loss)
        else:
            self._fabric.backward(loss)


_SUMS = ("data", "weight_sum", "l2", "images", "correct")
"""What an epoch adds up: the terms of the loss, its images, and those with the right answer."""


class StepTotals:
    """Sums over the steps of an epoch, and over the processes.

    Parameters
    ----------
    weight_sum_cost, l2_cost : float
        Coefficients of the costs of equation (5).
    fabric : Fabric, optional
        Of processes that train together.

    Attributes
    ----------
    steps, skipped : int
        Batches that changed the weights, and skipped steps.
    spikes : SpikeCounter
        Of the forward passes that it watched.
    """

    def __init__(self, weight_sum_cost: float, l2_cost: float, fabric: Any = None) -> None:
        self._fabric, self._weight_sum_cost, self._l2_cost = fabric, weight_sum_cost, l2_cost
        self._processes = 1 if fabric is None else int(fabric.world_size)
        self.steps = self.skipped = 0
        self.spikes = SpikeCounter()
        self._sums = dict.fromkeys(_SUMS, 0.0)
        self._own = dict.fromkeys(_SUMS, 0.0)  # of this process, since the last `reduce`

    def add(self, result: StepResult) -> None:
        """Count a step."""
        self.steps += result.learned
        self.skipped += result.skipped
        self._own["data"] += result.data
        self._own["weight_sum"] += result.weight_sum / self._processes
        self._own["l2"] += result.l2 / self._processes

    def add_answers(self, output: Tensor, labels: Tensor) -> None:
        """Count the right answers of some steps."""
        self._own["images"] += len(labels)
        if len(labels):
            self._own["correct"] += int((predict(output) == labels).sum())

    def reduce(self) -> None:
        """Add up what the processes have counted since the last time."""
        counted = torch.tensor([self._own[name] for name in _SUMS], dtype=torch.float64)
        if self._processes > 1:
            counted = self._fabric.all_reduce(counted, reduce_op="sum")
        for name, value in zip(_SUMS, counted.tolist(), strict=True):
            self._sums[name] += value
        self._own = dict.fromkeys(_SUMS, 0.0)

    def check_loss(self, epoch: int, saved: str) -> None:
        """Raise an error if the mean loss is not a finite number.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 1.
        saved : str
            What is saved, and where.

        Raises
        ------
        FloatingPointError
            If it is not.
        """
        loss = self.means()["loss"]
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss} in epoch {epoch}, step {self.steps}: try a lower learning "
                f"rate, or another seed. {saved}"
            )

    def means(self) -> dict[str, float]:
        """The loss and its terms by step, accuracy by image, and the fraction of spikes."""
        sums, steps = self._sums, self.steps or math.nan
        data, weight_sum, l2 = (sums[name] / steps for name in ("data", "weight_sum", "l2"))
        return {
            "loss": data + self._weight_sum_cost * weight_sum + self._l2_cost * l2,
            "loss_class": data,
            "loss_weight_sum": weight_sum,
            "loss_l2": l2,
            "train_accuracy": sums["correct"] / max(sums["images"], 1.0),
            "train_spikes_per_neuron": self.spikes.spikes_per_neuron,
        }
