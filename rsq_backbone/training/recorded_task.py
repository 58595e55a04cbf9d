"""What every task shares: its batches, its optimizer, and the record of how training went."""
import dataclasses
import math
import statistics
import time
from abc import abstractmethod
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import Dataset

from rsq_backbone.errors import UserError
from rsq_backbone.results import Epoch, Iteration
from rsq_backbone.training.fitting import Task
from rsq_backbone.training.pictures import EpochBatches, batches

__all__ = ['RecordedTask']


class RecordedTask(Task):
    """Trains what of a network is not frozen, and writes down how that went.

    Args:
        network: Its parameters are what the optimizer's groups hold.
        seed: Of the order of the samples and of dropout.
        batch_size: Of all processes together.
        schedule: 'constant' or 'one-cycle'.
        training: Samples to learn from, by (epoch, index), at these indices.
    """

    def __init__(
            self, network: nn.Module, seed: int, batch_size: int, schedule: str, training: Dataset[Any],
            training_indices: Sequence[int],
    ) -> None:
        super().__init__()
        self.network = network
        self.seed = seed
        self.batch_size = batch_size
        self.schedule = schedule
        self.training_samples, self.training_indices = training, training_indices
        self.epochs: List[Epoch] = []
        self.iterations: List[Iteration] = []

    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """Of all that is trained, at the peak of its learning rates."""

    @abstractmethod
    def loss(self, batch: Any) -> Tuple[torch.Tensor, torch.Tensor]:
        """Loss and accuracy of one process's share of a batch; their mean over processes is the batch's."""

    @abstractmethod
    def monitored(self) -> Dict[str, float]:
        """`monitor_loss`, `monitor_accuracy` and the like of the epoch that ends, as Epoch names them."""

    def train_dataloader(self) -> Any:
        """Made anew for each epoch."""
        return batches(
            self.training_samples, self.training_batches(self.trainer.global_rank, self.trainer.world_size))

    def training_batches(self, rank: int, processes: int) -> EpochBatches:
        return EpochBatches(
            self.training_indices, self.batch_size, self.seed, self.current_epoch, rank, processes)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer()
        if self.schedule == 'constant':
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _one_cycle(step / steps))
        return {'optimizer': optimizer, 'lr_scheduler': {'scheduler': schedule, 'interval': 'step'}}

    def on_train_epoch_start(self) -> None:
        self._epoch_start = time.perf_counter()
        self._epoch_iterations = len(self.iterations)

    def training_step(self, batch: Any, batch_index: int) -> torch.Tensor:
        # Dropout depends on nothing before this step, so that a resumed run goes on as the undisturbed one would have.
        generator = np.random.SeedSequence((self.seed, self.current_epoch, batch_index, self.global_rank))
        torch.manual_seed(int(generator.generate_state(1, np.uint64)[0] >> 1))
        loss, accuracy = self.loss(batch)
        mean_loss, mean_accuracy = self.trainer.strategy.reduce(
            torch.stack([loss.detach(), accuracy]), reduce_op='mean').tolist()
        self._refuse_divergence(mean_loss)
        self.iterations.append(Iteration(mean_loss, mean_accuracy))
        return loss

    def on_train_epoch_end(self) -> None:
        """After the monitored pictures of this epoch, before its checkpoint."""
        own = self.iterations[self._epoch_iterations:]
        monitored = self.monitored()
        self._refuse_divergence(monitored['monitor_loss'])
        self.log_dict(monitored)
        optimizer: Any = self.optimizers()
        self.epochs.append(Epoch(
            number=self.current_epoch + 1,
            learning_rate=max(group['lr'] for group in optimizer.param_groups),
            train_loss=statistics.fmean(i.loss for i in own),
            train_accuracy=statistics.fmean(i.accuracy for i in own),
            seconds=time.perf_counter() - self._epoch_start,
            **monitored,
        ))

    def _refuse_divergence(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise UserError(f'the loss became {loss} in epoch {self.current_epoch + 1}; lower --learning-rate.')

    def on_save_checkpoint(self, checkpoint: Dict[str, Any]) -> None:
        checkpoint['history'] = {
            'epochs': [dataclasses.asdict(e) for e in self.epochs],
            'iterations': [(i.loss, i.accuracy) for i in self.iterations]}

    def on_load_checkpoint(self, checkpoint: Dict[str, Any]) -> None:
        history = checkpoint['history']
        self.epochs = [Epoch(**e) for e in history['epochs']]
        self.iterations = [Iteration(*i) for i in history['iterations']]


def _one_cycle(progress: float) -> float:
    """Share of the peak learning rate at a share of all steps."""
    if progress < 0.1:
        return 0.05 + 0.95 * progress / 0.1
    return 0.5 + 0.5 * math.cos(math.pi * min((progress - 0.1) / 0.9, 1.0))
