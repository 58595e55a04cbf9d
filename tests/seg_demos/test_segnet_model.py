"""SegNet: any size, any encoder, saved and loaded; and unpooling. The rest is in contract/test_smp_models.py."""
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn as nn
import torch.nn.functional as F

import rsq_backbone  # noqa: F401  registers
from seg_demos.segnet_model import MaxUnpool, Pool, SegNet, pools_between_levels

THREE = Pool(3, 2, 1, False)


def network(**kwargs):
    torch.manual_seed(0)
    return SegNet(**{'encoder_weights': None, 'classes': 3, **kwargs}).eval()


def test_unpooling_without_overlap_is_torchs_own():
    read = torch.randn(2, 4, 8, 10)
    pooled, indices = F.max_pool2d(read, 2, 2, return_indices=True)
    values = torch.randn_like(pooled)
    torch.testing.assert_close(
        MaxUnpool(Pool(2, 2, 0, False))(values, read), F.max_unpool2d(values, indices, 2, output_size=read.shape))


def test_a_place_that_two_windows_took_their_maximum_from_gets_both_values():
    read = torch.zeros(1, 1, 5, 5)
    read[0, 0, 1, 1] = 9  # in the windows around (0, 0), (0, 2), (2, 0) and (2, 2)
    read[0, 0, 3, 4] = 5  # in those around (2, 4) and (4, 4)
    values = torch.tensor([[1., 2, 4], [8, 16, 32], [64, 128, 256]])[None, None]
    actual = MaxUnpool(THREE)(values, read)
    assert actual[0, 0, 1, 1] == 1 + 2 + 8 + 16
    assert actual[0, 0, 3, 4] == 32 + 256
    assert actual.sum() == values.sum()  # of windows whose values are equal, any place will do


def test_gradients_reach_every_pooled_value():
    read = torch.randn(1, 2, 7, 7, dtype=torch.float64)
    pooled = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: MaxUnpool(THREE)(x, read), pooled)


@pytest.mark.parametrize(('name', 'pools'), [
    # res_squeezenet: conv1 and res5a have strides, pool1, pool3 and pool5 lie between.
    ('res_squeezenet', [None, THREE, THREE, THREE, None]),
    ('tu-res_squeezenet', [None, THREE, THREE, THREE, None]),
    ('res_squeezenet_lite', [None, THREE, THREE, THREE, None]),  # res5a's shortcut skips positions by a 1 x 1 pool
    ('resnet18', [None, THREE, None, None, None]),
    ('vgg11', [Pool(2, 2, 0, False)] * 5),
    ('mobilenet_v2', [None] * 5),
])
def test_pools_between_levels_are_those_of_the_published_network(name, pools):
    encoder = smp.encoders.get_encoder(name, weights=None)
    encoder.train()
    assert pools_between_levels(encoder, 3) == pools
    assert all(module.training for module in encoder.modules())


@pytest.mark.parametrize('name', [
    'res_squeezenet', 'tu-res_squeezenet', 'res_squeezenet_lite', 'resnet18', 'vgg11', 'mobilenet_v2'])
@pytest.mark.parametrize('depth', [3, 4, 5])
def test_masks_have_the_size_of_the_pictures(name, depth):
    model = network(encoder_name=name, encoder_depth=depth, decoder_channels=(32, 24, 16, 12, 8)[:depth])
    with torch.no_grad():
        assert model(torch.randn(2, 3, 64, 96)).shape == (2, 3, 64, 96)


@pytest.mark.parametrize('size', [(32, 32), (97, 130), (45, 224)])
@pytest.mark.parametrize('in_channels', [1, 3, 4])
def test_any_size_and_number_of_channels(size, in_channels):
    model = network(in_channels=in_channels)
    with torch.no_grad():
        assert model(torch.randn(1, in_channels, *size)).shape == (1, 3, *size)


def test_the_decoder_puts_values_where_the_encoder_had_its_maxima():
    """Without its convolutions the decoder would be the encoder's pools backwards."""
    model = network()
    features = model.encoder(torch.randn(1, 3, 64, 64))
    step_up = model.decoder.steps_up[1]
    assert isinstance(step_up, MaxUnpool)
    read = features[3]
    pooled, indices = F.max_pool2d(read, 3, 2, 1, return_indices=True)
    raised = step_up(pooled, read)
    places = torch.zeros_like(read).flatten(2).scatter(2, indices.flatten(2), 1.).view_as(read)
    assert torch.equal(raised != 0, (places * read) != 0)


def test_trains_a_batch_of_one():
    model = network().train()
    model(torch.randn(1, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_wrong_number_of_decoder_channels_is_refused():
    with pytest.raises(ValueError, match='depth is 5'):
        SegNet(encoder_weights=None, decoder_channels=(64, 32))


def test_classification_head():
    masks, labels = network(aux_params={'classes': 7})(torch.randn(2, 3, 64, 64))
    assert (masks.shape, labels.shape) == ((2, 3, 64, 64), (2, 7))


@torch.no_grad()
def test_saved_it_comes_back_through_smp(tmp_path):
    model = network(encoder_name='res_squeezenet', decoder_channels=(64, 48, 32, 24, 16))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    model.save_pretrained(tmp_path)
    loaded = smp.from_pretrained(tmp_path).eval()
    assert type(loaded) is SegNet
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(x), model(x))
    assert isinstance(smp.create_model('segnet', 'res_squeezenet', encoder_weights=None), SegNet)
