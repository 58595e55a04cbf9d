"""Statistics of batch norms for use, where training saw few pictures a batch."""
from typing import Iterable

import torch
import torch.nn as nn

__all__ = ['settle_statistics']


@torch.no_grad()
def settle_statistics(network: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Take the mean and variance of every batch norm anew, with the weights that training ended with.

    The running ones are dominated by the last ten batches, of six crops each, and by weights that have moved on since.
    As "precise batch norm" in Wu and Johnson, https://arxiv.org/abs/2105.07576, section 3. Dropout, which would
    widen the variances after it, stays off.

    Args:
        network: Left in evaluation mode.
        batches: Inputs (N, C, H, W).
    """
    network.eval()
    norms = [
        module for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    for batch in batches:
        network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
