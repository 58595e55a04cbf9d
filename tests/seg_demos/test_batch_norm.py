"""Batch norms end with the statistics of many crops under the last weights."""
import pytest
import torch
import torch.nn as nn

from seg_demos.batch_norm import settle_statistics


def test_statistics_are_the_means_over_all_batches():
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm2d(3, momentum=0.3))
    with torch.no_grad():
        network[0].running_mean.fill_(100)  # what the last batches of training left
    batches = [torch.randn(4, 3, 8, 8) * scale + 5 for scale in (1, 2, 3)]
    settle_statistics(network, batches)

    def over_batches(values):
        return (torch.stack([x.mean((0, 2, 3)) for x in values]).mean(0),
                torch.stack([x.var((0, 2, 3), correction=1) for x in values]).mean(0))

    mean, variance = over_batches(batches)
    torch.testing.assert_close(network[0].running_mean, mean)
    torch.testing.assert_close(network[0].running_var, variance)
    # What the second sees is normalised batch by batch, and no dropout lies before it.
    seen = [((x - x.mean((0, 2, 3), keepdim=True))
             / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()).relu() for x in batches]
    mean, variance = over_batches(seen)
    torch.testing.assert_close(network[3].running_mean, mean)
    torch.testing.assert_close(network[3].running_var, variance)
    assert (network[0].momentum, network[3].momentum) == (0.1, 0.3)
    assert not any(module.training for module in network.modules())


def test_weights_and_norms_without_statistics_are_left_alone():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.GroupNorm(2, 4))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    settle_statistics(network, [torch.randn(2, 3, 8, 8)])
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize('batches', [[], [torch.randn(2, 3, 8, 8)]])
def test_no_gradients_are_made(batches):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    settle_statistics(network, batches)
    assert all(p.grad is None for p in network.parameters())
