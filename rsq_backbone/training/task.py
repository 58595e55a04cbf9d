"""Classification as Lightning runs it."""
import dataclasses
import math
import statistics
import time
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from rsq_backbone.errors import UserError
from rsq_backbone.results import Epoch, Iteration
from rsq_backbone.training.fitting import Task
from rsq_backbone.training.layers import parameter_groups
from rsq_backbone.training.pictures import EpochBatches, Samples, batches, to_input
from rsq_backbone.training.recipes import Recipe

__all__ = ['ClassificationTask']


class ClassificationTask(Task):
    """Trains what of a network is not frozen, and writes down how that went.

    Args:
        network: Pictures -> logits.
        trained: What follows the frozen part, where samples are its features; shares its parameters with `network`.
        config: timm's data configuration.
        class_counts: Pictures of each class in training.
        training: Samples to learn from, at these indices.
        monitoring: Samples to watch after each epoch, at these indices.
    """

    def __init__(
            self,
            network: nn.Module,
            trained: Optional[nn.Module],
            config: Dict[str, Any],
            recipe: Recipe,
            seed: int,
            class_counts: Sequence[int],
            training: Samples,
            training_indices: Sequence[int],
            monitoring: Samples,
            monitoring_indices: Sequence[int],
    ) -> None:
        super().__init__()
        self.network = network
        self._trained = [trained]  # in a list, so that its parameters are not registered a second time
        self.config = config
        self.recipe = recipe
        self.seed = seed
        self.training_samples, self.training_indices = training, training_indices
        self.monitoring_samples, self.monitoring_indices = monitoring, monitoring_indices
        self.epochs: List[Epoch] = []
        self.iterations: List[Iteration] = []
        self.class_weights: torch.Tensor
        self.register_buffer('class_weights', _class_weights(class_counts, recipe.balance), persistent=False)
        self._monitor_loss = MeanMetric()
        self._monitor_accuracy = MulticlassAccuracy(len(class_counts), average='micro')

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        trained = self._trained[0]
        if trained is None:
            return self.network(to_input(batch, self.config))
        trained.training = self.training  # which of its two graphs is used; the modules in them are the network's
        return trained(to_input(batch, self.config))

    def train_dataloader(self) -> Any:
        """Made anew for each epoch."""
        return batches(
            self.training_samples, self.training_batches(self.trainer.global_rank, self.trainer.world_size))

    def training_batches(self, rank: int, processes: int) -> EpochBatches:
        return EpochBatches(
            self.training_indices, self.recipe.batch_size, self.seed, self.current_epoch, rank, processes)

    def val_dataloader(self) -> Any:
        share = self.monitoring_indices[self.trainer.global_rank::self.trainer.world_size]
        return batches(self.monitoring_samples, [
            [(0, i) for i in share[start:start + 32]] for start in range(0, len(share), 32)])

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        groups = parameter_groups(
            self.network, recipe.learning_rate, recipe.classifier_factor, recipe.stage_factor, recipe.weight_decay)
        # `fused`: one pass over the weights a step, which small batches notice.
        optimizer: torch.optim.Optimizer
        if recipe.optimizer == 'sgd':
            optimizer = torch.optim.SGD(groups, momentum=0.9, fused=True)
        else:
            optimizer = torch.optim.AdamW(groups, fused=True)
        if recipe.schedule == 'constant':
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
        x, target = batch
        logits = self(x)
        # Weighted by hand: divided by the number of pictures and not by the sum of their weights, so that the mean over
        # processes is what one process would get.
        losses = F.cross_entropy(logits, target, reduction='none', label_smoothing=self.recipe.label_smoothing)
        loss = (losses * self.class_weights[target]).mean()
        accuracy = (logits.argmax(1) == target).float().mean()
        mean_loss, mean_accuracy = self.trainer.strategy.reduce(
            torch.stack([loss.detach(), accuracy]), reduce_op='mean').tolist()
        self._refuse_divergence(mean_loss)
        self.iterations.append(Iteration(mean_loss, mean_accuracy))
        return loss

    def validation_step(self, batch: Any, batch_index: int) -> None:
        x, target = batch
        logits = self(x)
        self._monitor_loss.update(F.cross_entropy(logits, target, reduction='none'))
        self._monitor_accuracy.update(logits, target)

    def on_train_epoch_end(self) -> None:
        """After the monitored pictures of this epoch, before its checkpoint."""
        own = self.iterations[self._epoch_iterations:]
        loss, accuracy = self._monitor_loss.compute().item(), self._monitor_accuracy.compute().item()
        self._monitor_loss.reset()
        self._monitor_accuracy.reset()
        self._refuse_divergence(loss)
        self.log('monitor_loss', loss)
        optimizer = self.optimizers()
        self.epochs.append(Epoch(
            number=self.current_epoch + 1,
            learning_rate=max(group['lr'] for group in optimizer.param_groups),  # type: ignore[union-attr]
            train_loss=statistics.fmean(i.loss for i in own),
            train_accuracy=statistics.fmean(i.accuracy for i in own),
            monitor_loss=loss,
            monitor_accuracy=accuracy,
            seconds=time.perf_counter() - self._epoch_start,
        ))

    def _refuse_divergence(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f'the loss became {loss} in epoch {self.current_epoch + 1}; lower --learning-rate (it is '
                f'{self.recipe.learning_rate:g}).')

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


def _class_weights(counts: Sequence[int], balance: float) -> torch.Tensor:
    """Weights with a mean of one over the pictures."""
    present = torch.tensor(counts, dtype=torch.float64)
    weights = present.clamp(min=1) ** -balance
    return (weights * present.sum() / (weights * present).sum()).float()
