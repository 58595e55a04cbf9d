"""What users profile by the API: importable by the processes that measure it, and quickly."""
import torch
import torch.nn as nn


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 1, 1), 2.))

    def forward(self, picture, shift):
        return picture * self.weight + shift[:, :, None, None] + (1 if self.training else 0)


def double(x):
    return 2 * x


def halve_if_large(x):
    return x / 2 if x.abs().max() > 10 else x
