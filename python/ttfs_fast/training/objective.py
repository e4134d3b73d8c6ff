"""The loss of a configuration."""

from typing import Any

from torch import Tensor, nn

from ttfs_fast.layers import find_spiking_layers
from ttfs_fast.loss import first_spike_cross_entropy, l2_cost, weight_sum_cost
from ttfs_fast.training.batches import Batch
from ttfs_fast.training.config import TrainConfig
from ttfs_fast.training.distillation import Teachers
from ttfs_fast.training.step import StepLoss

MAX_LOGIT = 50.0
"""Latest output time, in tau, that a ReLU network's loss sees: its logits are no spike times."""


class TrainingLoss:
    """Equation (5), with a part of teachers, as the loss of a step.

    The classification term is summed over the images of a piece and divided by those of the whole
    batch, so that the terms of pieces and processes add up. A cost whose coefficient is 0 is not
    computed.

    Parameters
    ----------
    config : TrainConfig
        Coefficients, and how the classification term is computed.
    model : Module
        The network whose spiking layers have the costs; networks without any have none.
    teachers : Teachers, optional
        Trained networks; their answers are learned along with the classes.
    """

    def __init__(self, config: TrainConfig, model: nn.Module, teachers: Teachers | None) -> None:
        self._config, self._teachers = config, teachers
        self._layers = list(find_spiking_layers(model).values())
        self._max_time: dict[str, Any] = {} if self._layers else {"max_time": MAX_LOGIT}

    def __call__(self, output: Tensor, batch: Batch) -> StepLoss:
        """The loss of a piece of a batch."""
        config = self._config
        data = self._classification(output, batch)
        if not self._layers:
            return StepLoss(data)
        costs = weight_sum = l2 = output.new_zeros(())
        if config.weight_sum_cost:
            weight_sum = weight_sum_cost(self._layers, config.beta, config.cost_reduction)
            costs = costs + config.weight_sum_cost * weight_sum
        if config.l2_cost:
            l2 = l2_cost(self._layers, config.cost_reduction)
            costs = costs + config.l2_cost * l2
        return StepLoss(data, costs, weight_sum, l2)

    def _classification(self, output: Tensor, batch: Batch) -> Tensor:
        config = self._config
        if not len(batch.labels):
            return output.sum()  # 0, with a gradient of 0 for every weight
        losses = first_spike_cross_entropy(
            output,
            batch.labels,
            scale=config.logit_scale,
            exclude_target=config.exclude_target,
            label_smoothing=config.label_smoothing,
            reduction="sum",
            **self._max_time,
        )
        if self._teachers is not None:
            losses = self._teachers.distill(losses, output, batch.values, config, **self._max_time)
        return losses / batch.global_batch_size
