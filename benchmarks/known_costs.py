"""Networks whose cost is known, for processes that are measured to import."""
import torch
import torch.nn as nn


class Holds(nn.Module):
    """That many MB (2^20 bytes), all of them written to, while it computes."""

    def __init__(self, megabytes: int) -> None:
        super().__init__()
        self.megabytes = megabytes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held = torch.ones(self.megabytes << 18)
        return x.mean((2, 3)) + held[-1]


class Multiplies(nn.Module):
    """Two matrices of 256 x 256, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.register_buffer('matrix', torch.eye(256))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product = self.matrix
        for _ in range(self.times):
            product = product @ self.matrix
        return x.mean((2, 3)) + product[0, 0]
