"""Networks of known cost, for processes that are measured to import."""
import torch
import torch.nn as nn


class Allocates(nn.Module):
    """Holds that many MB (2^20 bytes), all of them written to, while it computes."""

    def __init__(self, megabytes):
        super().__init__()
        self.megabytes = megabytes
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        held = torch.ones(self.megabytes << 18)
        return self.head(x.mean((2, 3)) + held[-1])


class Dies(nn.Module):
    """Takes its process with it at the third call, when it is being measured."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        import os
        import signal

        self.calls += 1
        if self.calls > 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return x.mean((2, 3))


class Scales(nn.Module):
    """A convolution of a picture, times a number for each picture that comes as a second input."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x, factors):
        return self.conv(x) * factors.view(-1, 1, 1, 1)
