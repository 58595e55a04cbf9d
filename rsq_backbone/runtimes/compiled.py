"""PyTorch with torch.compile."""
from typing import Any

import torch

from rsq_backbone.errors import UserError, one_line
from rsq_backbone.runtimes.eager import Eager

__all__ = ['Compiled']


class Compiled(Eager):
    """torch.compile with its default back end, inductor, for one batch and size.

    Channels last: at one thread Res-SqueezeNet takes about two thirds of the time that it takes channel after channel;
    for MobileNetV3 the difference was lost in the noise, and so was for both what freezing the weights into the code is
    worth.
    """

    prepares = True
    memory_format = torch.channels_last

    def load(self, source: Any) -> None:
        super().load(source)
        self._network = torch.compile(self._network, dynamic=False)

    def prepare(self) -> None:
        try:
            self.run()
        except Exception as e:  # a compiler fails in as many ways as the networks given to it
            raise UserError(
                f'torch.compile cannot compile this network ({one_line(e)}); it needs a C++ compiler, and a network '
                'without Python that it does not understand.') from e
