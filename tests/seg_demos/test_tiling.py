"""Tiled segmentation gives what the whole picture would, in bounded memory."""
import numpy as np
import pytest
import torch
import torch.nn as nn

from seg_demos.tiling import segment

CONFIG = {'mean': (0.5, 0.4, 0.3), 'std': (0.2, 0.3, 0.4)}


def small_field(stride):
    """Looks 21 pixels far at most, on a grid of `stride` pixels."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(stride), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Upsample(scale_factor=stride), nn.Conv2d(8, 5, 3, padding=1)).eval()


def picture(height, width):
    # Smooth, so that the classes form areas.
    small = torch.from_numpy(np.random.default_rng(0).random((1, 3, height // 16 + 2, width // 16 + 2)))
    large = nn.functional.interpolate(small, size=(height, width), mode='bicubic').clamp(0, 1)
    return (255 * large[0]).permute(1, 2, 0).numpy().astype(np.uint8)


@pytest.mark.parametrize('size', [(256, 256), (320, 800), (1000, 333), (257, 511)])
def test_tiles_give_the_mask_of_the_whole_picture(size):
    """Exactly, where the network looks no further than the part of a tile that does not count."""
    model = small_field(8)
    image = picture(*size)
    whole = segment(model, image, CONFIG, tile=2048, overlap=64, stride=8)
    tiled = segment(model, image, CONFIG, tile=256, overlap=96, stride=8)
    assert len(np.unique(whole)) > 2
    assert (tiled == whole).mean() > 0.9999  # sums in another order may turn a tie


def test_seams_would_show_without_overlap_that_does_not_count():
    """The test above can fail: with a field larger than the discarded margin the masks differ."""
    model = small_field(32)
    image = picture(512, 512)
    whole = segment(model, image, CONFIG, tile=2048, overlap=64)
    tiled = segment(model, image, CONFIG, tile=160, overlap=32)
    assert 0.9 < (tiled == whole).mean() < 0.9999


@pytest.mark.parametrize('size', [(1, 1), (8, 300), (31, 33), (64, 64), (100, 100)])
def test_any_size_is_padded_to_the_stride_and_cropped_back(size):
    shapes = []

    def model(x):
        shapes.append(x.shape[2:])
        return torch.stack([x[:, 0], x[:, 1] + 100], 1)  # the second class everywhere

    mask = segment(model, picture(*size), CONFIG)
    assert mask.shape == size
    assert mask.dtype == np.uint8
    assert (mask == 1).all()
    assert all(h % 32 == 0 and w % 32 == 0 and h - 32 < size[0] and w - 32 < size[1] for h, w in shapes)


def test_pixels_are_normalised_and_stay_in_their_places():
    image = np.zeros((200, 300, 3), np.uint8)
    image[50:60, 250:270] = 255

    def model(x):
        torch.testing.assert_close(x.amin((0, 2, 3)), torch.tensor([-2.5, -4 / 3, -0.75]), msg='black')
        return torch.stack([torch.zeros_like(x[:, 0]), x[:, 0]], 1)

    mask = segment(model, image, CONFIG, tile=128, overlap=32)
    assert np.array_equal(mask, (image[..., 0] > 0).astype(np.uint8))


@pytest.mark.parametrize(('tile', 'overlap', 'stride'), [(64, 16, 16), (96, 32, 32), (160, 64, 32), (104, 48, 8)])
@pytest.mark.parametrize('size', [(65, 300), (97, 129), (200, 321), (288, 192)])
def test_each_pixel_is_classified_once_and_by_itself_however_tiles_fall(size, tile, overlap, stride):
    values = np.random.default_rng(0).integers(0, 3, size, np.uint8)

    def model(x):
        # 0, 100 and 200 of the picture's first channel, as logits of three classes
        return -(x[:, :1] * 0.2 + 0.5 - torch.tensor([0, 100, 200]).view(1, 3, 1, 1) / 255).abs()

    mask = segment(model, np.repeat(100 * values[..., None], 3, 2), CONFIG, tile, overlap, stride)
    assert np.array_equal(mask, values)


@pytest.mark.parametrize(('size', 'most'), [((1080, 1920), 1.7), ((1000, 1040), 1.7), ((720, 1280), 1.3)])
def test_a_little_more_than_a_tile_is_not_twice_the_work(size, most):
    shapes = []

    def model(x):
        shapes.append(x.shape[2:])
        return x

    segment(model, np.zeros((*size, 3), np.uint8), CONFIG)
    assert max(max(shape) for shape in shapes) <= 1024
    assert sum(h * w for h, w in shapes) < most * size[0] * size[1]


def test_progress_counts_the_tiles():
    told = []
    segment(
        lambda x: x, picture(300, 300), CONFIG, tile=128, overlap=32,
        progress=lambda what, done, total: told.append((done, total)))
    assert told[-1] == (9, 9)  # of 320 padded pixels, tiles begin at 0, 96 and 192
    assert len(told) == 9


@pytest.mark.parametrize(('tile', 'overlap'), [(100, 32), (128, 20), (128, 64), (128, 0)])
def test_tiles_off_the_grid_are_refused(tile, overlap):
    with pytest.raises(ValueError, match='multiples of 32'):
        segment(lambda x: x, picture(64, 64), CONFIG, tile=tile, overlap=overlap)
