"""What bfloat16 gets wrong is computed in float32."""
import pytest
import torch
import torch.nn as nn

from rsq_backbone.training.mixed_precision import keep_dilated_groups_in_float32


@pytest.mark.parametrize('groups', [4, 32])
def test_gradients_of_dilated_grouped_convolutions_are_those_of_float32(groups):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, padding=2, dilation=2, groups=groups))
    network.to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 40, 40).contiguous(memory_format=torch.channels_last)

    def gradient(bfloat16):
        network.zero_grad()
        with torch.autocast('cpu', torch.bfloat16, enabled=bfloat16):
            y = network(x)
        y.float().square().mean().backward()
        return network[1].weight.grad.clone()

    expected = gradient(False)
    keep_dilated_groups_in_float32(network)
    # What comes before is still in bfloat16.
    torch.testing.assert_close(gradient(True), expected, rtol=0, atol=0.02 * expected.abs().max().item())


def test_no_other_layer_is_touched():
    network = nn.Sequential(
        nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, dilation=2), nn.Conv2d(8, 8, 3, dilation=2, groups=2))
    keep_dilated_groups_in_float32(network)
    with torch.autocast('cpu', torch.bfloat16):
        x = torch.randn(1, 8, 16, 16)
        kinds = [module(x).dtype for module in network]
    assert kinds == [torch.bfloat16, torch.bfloat16, torch.float32]
