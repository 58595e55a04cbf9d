"""Looking at a model without changing it."""
from contextlib import contextmanager
from typing import Iterator

import torch.nn as nn

__all__ = ['in_evaluation_mode']


@contextmanager
def in_evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Run the block in evaluation mode; afterwards every module is in its own mode again.

    Modules that were frozen (in evaluation mode) inside a training network stay frozen.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
