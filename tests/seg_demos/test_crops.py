"""Crops show the same part of a picture and of its mask, and are the same for the same seed, epoch and index."""
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from seg_demos.augmentation import AUGMENTATIONS
from seg_demos.crops import Crops, read_pair
from seg_demos.mask_sources import MaskedImage
from seg_demos.masks import IGNORED, MaskCoding

CODING = MaskCoding(('dark', 'bright'), {0: 0, 1: 1, 255: IGNORED})
DARK, BRIGHT = 40, 200


def blobs(height, width, seed=0):
    """Areas of about 16 pixels, 0 or 1."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 2, (-(-height // 16), -(-width // 16)), np.uint8)
    return np.kron(small, np.ones((16, 16), np.uint8))[:height, :width]


@pytest.fixture
def draw(tmp_path):
    """Pictures whose brightness is their mask; gives the pairs."""
    def saved(*sizes):
        pairs = []
        for number, (height, width) in enumerate(sizes):
            mask = blobs(height, width, number)
            pair = MaskedImage(tmp_path / f'{number}.png', tmp_path / f'{number}-mask.png')
            Image.fromarray(np.where(mask, BRIGHT, DARK).astype(np.uint8)).convert('RGB').save(pair.picture)
            Image.fromarray(mask).save(pair.mask)
            pairs.append(pair)
        return pairs
    return saved


def inside(mask):
    """Away from the border between classes, where interpolation mixes them."""
    near = np.lib.stride_tricks.sliding_window_view(np.pad(mask, 2, 'edge'), (5, 5))
    return (near == mask[..., None, None]).all((2, 3))


@pytest.mark.parametrize('size', [(64, 64), (200, 150), (70, 300), (40, 90), (30, 20)])
@pytest.mark.parametrize('augmentation', AUGMENTATIONS)
def test_picture_and_mask_stay_aligned(draw, augmentation, size):
    crops = Crops(draw(size), CODING, 64, augmentation, seed=0)
    compared = 0
    for epoch in range(25):
        picture, mask = (x.numpy() for x in crops[epoch, 0])
        assert (picture.shape, picture.dtype) == ((64, 64, 3), np.uint8)
        assert (mask.shape, mask.dtype) == ((64, 64), np.int64)
        held = picture.max(2) > 0  # not one of the patches that `strong` cuts out
        counted = inside(mask) & held & (mask != IGNORED)
        grey = picture.mean(2)
        if len(np.unique(mask[counted])) < 2:
            continue
        # Brightness and contrast shift both levels, and never as far as to swap them.
        assert grey[counted & (mask == 0)].max() < grey[counted & (mask == 1)].min()
        compared += 1
    assert compared >= 20


def test_without_augmentation_a_crop_is_a_part_of_the_picture(draw):
    [pair] = draw((100, 140))
    whole, whole_mask = read_pair(pair, CODING)
    crops = Crops([pair], CODING, 64, 'none', seed=0)
    corners = []
    for epoch in range(60):
        picture, mask = (x.numpy() for x in crops[epoch, 0])
        windows = np.lib.stride_tricks.sliding_window_view(whole_mask, (64, 64))
        [top, left] = np.argwhere((windows == mask).all((2, 3)))[0]
        np.testing.assert_array_equal(picture, whole[top:top + 64, left:left + 64])
        corners.append((top, left))
    tops, lefts = np.array(corners).T
    # Every place can come, the outermost included.
    assert tops.min() <= 3
    assert tops.max() >= 33
    assert lefts.min() <= 4
    assert lefts.max() >= 72


def test_beyond_a_small_picture_there_is_its_reflection_and_nothing_to_learn(draw):
    [pair] = draw((40, 90))
    whole, whole_mask = read_pair(pair, CODING)
    crops = Crops([pair], CODING, 64, 'none', seed=0)
    tops = set()
    for epoch in range(40):
        picture, mask = (x.numpy() for x in crops[epoch, 0])
        rows = np.flatnonzero((mask != IGNORED).any(1))
        top = rows[0]
        assert rows.tolist() == list(range(top, top + 40))
        assert (mask[rows] != IGNORED).all()
        windows = np.lib.stride_tricks.sliding_window_view(whole_mask, 64, axis=1)
        left = np.flatnonzero((windows == mask[rows][:, None]).all((0, 2)))[0]
        np.testing.assert_array_equal(picture[rows], whole[:, left:left + 64])
        if top:
            np.testing.assert_array_equal(picture[:top], picture[top + 1:2 * top + 1][::-1])
        tops.add(int(top))
    assert min(tops) <= 2
    assert max(tops) >= 22


def test_a_picture_far_smaller_than_the_crop_is_reflected_again_and_again(draw):
    picture, mask = Crops(draw((8, 9)), CODING, 64, 'none', seed=0)[0, 0]
    assert picture.shape == (64, 64, 3)
    assert (mask != IGNORED).sum() == 8 * 9
    assert set(picture.unique().tolist()) <= {DARK, BRIGHT}


@pytest.mark.parametrize('augmentation', AUGMENTATIONS)
def test_seed_epoch_and_index_alone_decide(draw, augmentation):
    pairs = draw((100, 100), (80, 130), (50, 90))
    keys = [(epoch, index) for epoch in range(3) for index in range(3)]
    one, other = (Crops(pairs, CODING, 64, augmentation, seed=5) for _ in range(2))
    first = {key: one[key] for key in keys}
    np.random.seed(1)
    torch.manual_seed(1)
    for key in reversed(keys):
        for a, b in zip(first[key], other[key], strict=True):
            assert torch.equal(a, b)
    assert len({first[epoch, 0][1].numpy().tobytes() for epoch in range(3)}) > 1
    # The same file twice, and still not the same crop twice.
    twice = Crops([pairs[0], pairs[0]], CODING, 64, augmentation, seed=5)
    assert any(not torch.equal(twice[epoch, 0][1], twice[epoch, 1][1]) for epoch in range(3))
    elsewhere = Crops(pairs, CODING, 64, augmentation, seed=6)
    assert any(not torch.equal(elsewhere[key][0], first[key][0]) for key in keys)


def test_where_a_crop_lies_says_nothing_about_whether_it_is_mirrored(draw):
    """As it would if both were drawn from the same seed by the same generator."""
    [pair] = draw((64, 164))
    Image.fromarray(np.tile(np.linspace(0, 250, 164).astype(np.uint8), (64, 1))).convert('RGB').save(pair.picture)
    crops = Crops([pair], CODING, 64, 'light', seed=0)
    left, mirrored = [], []
    for epoch in range(300):
        columns = crops[epoch, 0][0].numpy().astype(float).mean((0, 2))
        left.append(columns.mean())
        mirrored.append(columns[0] > columns[-1])
    assert abs(np.corrcoef(left, mirrored)[0, 1]) < 0.2


def test_small_sets_are_decoded_once_and_what_is_kept_cannot_be_spoilt(draw, monkeypatch):
    pairs = draw((100, 100), (90, 90))
    read = []
    monkeypatch.setattr('seg_demos.crops.read_pair', lambda pair, coding: read.append(pair) or read_pair(pair, coding))
    crops = Crops(pairs, CODING, 64, 'none', seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # torch warns of arrays that may not be written to
        before = [x.clone() for x in crops[0, 0]]
        for x in crops[0, 0]:
            x.zero_()
    for a, b in zip(before, crops[0, 0], strict=True):
        assert torch.equal(a, b)
    crops[0, 1], crops[1, 1]
    assert read == pairs


def test_large_sets_are_read_anew_rather_than_kept(draw, monkeypatch):
    monkeypatch.setattr('seg_demos.crops._KEPT_BYTES', 4 * 100 * 100 + 10)
    pairs = draw((100, 100), (90, 90))
    read = []
    monkeypatch.setattr('seg_demos.crops.read_pair', lambda pair, coding: read.append(pair) or read_pair(pair, coding))
    crops = Crops(pairs, CODING, 64, 'none', seed=0)
    for _ in range(3):
        crops[0, 0], crops[0, 1]
    assert [read.count(pair) for pair in pairs] == [1, 3]


def test_a_turned_photograph_and_its_upright_mask_fit(tmp_path):
    mask = blobs(60, 100)
    stored = np.rot90(np.where(mask, BRIGHT, DARK).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    pair = MaskedImage(tmp_path / 'a.png', tmp_path / 'a-mask.png')
    Image.fromarray(stored).save(pair.picture, exif=exif)
    Image.fromarray(mask).save(pair.mask)
    picture, read = read_pair(pair, CODING)
    np.testing.assert_array_equal(picture[..., 0] == BRIGHT, read == 1)
