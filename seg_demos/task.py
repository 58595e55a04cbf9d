"""Segmentation as Lightning runs it."""
from typing import Any, Dict, List, Sequence, Tuple

import segmentation_models_pytorch as smp
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from rsq_backbone.errors import UserError
from rsq_backbone.metrics import mean_iou
from rsq_backbone.training.pictures import EpochBatches, to_input
from rsq_backbone.training.recorded_task import RecordedTask
from seg_demos.crops import Crops, read_pair
from seg_demos.mask_sources import MaskedImage
from seg_demos.masks import IGNORED, MaskCoding
from seg_demos.recipe import SegmentationRecipe
from seg_demos.tiling import extend_to_stride

__all__ = ['SegmentationTask']


class SegmentationTask(RecordedTask):
    """Pictures with masks.

    Args:
        network: An smp model; pictures -> logits.
        config: `mean` and `std` of its input.
        training: Crops to learn from.
        monitoring: Whole pictures to watch after each epoch.
        coding: Of their masks.
    """

    def __init__(
            self, network: nn.Module, config: Dict[str, Any], recipe: SegmentationRecipe, seed: int, training: Crops,
            monitoring: Sequence[MaskedImage], coding: MaskCoding,
    ) -> None:
        super().__init__(network, seed, recipe.batch_size, recipe.schedule, training, range(len(training)))
        self.config = config
        self.recipe = recipe
        self.monitoring = monitoring
        self.coding = coding
        self._dice = smp.losses.DiceLoss('multiclass', ignore_index=IGNORED)
        self._monitor_loss = MeanMetric()
        self._monitor_confusion = MulticlassConfusionMatrix(len(coding.classes), ignore_index=IGNORED)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.network(to_input(batch, self.config))

    def optimizer(self) -> torch.optim.Optimizer:
        groups: Dict[Tuple[bool, bool], List[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                groups.setdefault((name.startswith('encoder.'), parameter.ndim > 1), []).append(parameter)
        recipe = self.recipe
        return torch.optim.AdamW([
            {'params': parameters, 'lr': recipe.learning_rate * (recipe.encoder_factor if of_encoder else 1),
             'weight_decay': recipe.weight_decay if decays else 0.0}
            for (of_encoder, decays), parameters in groups.items()], fused=True)

    def loss(self, batch: Any) -> Tuple[torch.Tensor, torch.Tensor]:
        x, target = batch
        logits = self(x).float()
        counts = target != IGNORED
        accuracy = (logits.argmax(1) == target)[counts].float().sum() / counts.sum().clamp(min=1)
        return self._loss(logits, target), accuracy

    def _loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if (target == IGNORED).all():
            return 0 * logits.sum()  # says nothing; the mean over no pixels would be NaN
        loss = F.cross_entropy(logits, target, ignore_index=IGNORED)
        return loss + self.recipe.dice * self._dice(logits, target) if self.recipe.dice else loss

    def training_batches(self, rank: int, processes: int) -> EpochBatches:
        if processes > 1 and self.batch_size < 2 * processes:
            raise UserError(
                f'a batch of {self.batch_size} leaves each of {processes} processes less than two crops, which batch '
                'norms after a global pooling need; raise --batch-size.')
        return super().training_batches(rank, processes)

    def val_dataloader(self) -> Any:
        share = self.monitoring[self.trainer.global_rank::self.trainer.world_size]
        return DataLoader(_Whole(share, self.coding), batch_size=1)  # pictures of their own sizes

    def validation_step(self, batch: Any, batch_index: int) -> None:
        x, target = batch
        height, width = target.shape[1:]
        logits = self.network(extend_to_stride(to_input(x, self.config))).float()[..., :height, :width]
        self._monitor_confusion.update(logits.argmax(1), target)
        self._monitor_loss.update(self._loss(logits, target))

    def monitored(self) -> Dict[str, float]:
        confusion = self._monitor_confusion.compute().cpu().numpy()
        values = {
            'monitor_loss': self._monitor_loss.compute().item(),
            'monitor_accuracy': int(confusion.trace()) / int(confusion.sum()),
            'monitor_mean_iou': mean_iou(confusion)}
        self._monitor_loss.reset()
        self._monitor_confusion.reset()
        return values


class _Whole(Dataset[Tuple[torch.Tensor, torch.Tensor]]):
    def __init__(self, pairs: Sequence[MaskedImage], coding: MaskCoding) -> None:
        self.pairs = pairs
        self.coding = coding

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Tuple[torch.Tensor, torch.Tensor]:
        picture, mask = read_pair(self.pairs[index], self.coding)
        return torch.from_numpy(picture.copy()), torch.from_numpy(mask).long()
