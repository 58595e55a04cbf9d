"""Classification as Lightning runs it."""
from typing import Any, Dict, Optional, Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from rsq_backbone.training.layers import parameter_groups
from rsq_backbone.training.pictures import Samples, batches, to_input
from rsq_backbone.training.recipes import Recipe
from rsq_backbone.training.recorded_task import RecordedTask

__all__ = ['ClassificationTask']


class ClassificationTask(RecordedTask):
    """Pictures or features, and their classes.

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
        super().__init__(network, seed, recipe.batch_size, recipe.schedule, training, training_indices)
        self._trained = [trained]  # in a list, so that its parameters are not registered a second time
        self.config = config
        self.recipe = recipe
        self.monitoring_samples, self.monitoring_indices = monitoring, monitoring_indices
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

    def optimizer(self) -> torch.optim.Optimizer:
        recipe = self.recipe
        groups = parameter_groups(
            self.network, recipe.learning_rate, recipe.classifier_factor, recipe.feature_size, recipe.stage_factor,
            recipe.weight_decay)
        # `fused`: one pass over the weights a step, which small batches notice.
        if recipe.optimizer == 'sgd':
            return torch.optim.SGD(groups, momentum=0.9, fused=True)
        return torch.optim.AdamW(groups, fused=True)

    def loss(self, batch: Any) -> Tuple[torch.Tensor, torch.Tensor]:
        x, target = batch
        logits = self(x)
        # Weighted by hand: divided by the number of pictures and not by the sum of their weights, so that the mean over
        # processes is what one process would get.
        losses = F.cross_entropy(logits, target, reduction='none', label_smoothing=self.recipe.label_smoothing)
        return (losses * self.class_weights[target]).mean(), (logits.argmax(1) == target).float().mean()

    def val_dataloader(self) -> Any:
        share = self.monitoring_indices[self.trainer.global_rank::self.trainer.world_size]
        return batches(self.monitoring_samples, [
            [(0, i) for i in share[start:start + 32]] for start in range(0, len(share), 32)])

    def validation_step(self, batch: Any, batch_index: int) -> None:
        x, target = batch
        logits = self(x)
        self._monitor_loss.update(F.cross_entropy(logits, target, reduction='none'))
        self._monitor_accuracy.update(logits, target)

    def monitored(self) -> Dict[str, float]:
        values = {
            'monitor_loss': self._monitor_loss.compute().item(),
            'monitor_accuracy': self._monitor_accuracy.compute().item()}
        self._monitor_loss.reset()
        self._monitor_accuracy.reset()
        return values


def _class_weights(counts: Sequence[int], balance: float) -> torch.Tensor:
    """Weights with a mean of one over the pictures."""
    present = torch.tensor(counts, dtype=torch.float64)
    weights = present.clamp(min=1) ** -balance
    return (weights * present.sum() / (weights * present).sum()).float()
