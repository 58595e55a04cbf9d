"""Random changes that are the same for the same picture, epoch and seed."""
import numpy as np
import pytest

from rsq_backbone.errors import UserError
from rsq_backbone.training.augmentation import AUGMENTATIONS, Augmentation

RANDOM = [name for name in AUGMENTATIONS if name != 'none']


def noise(height=64, width=64):
    return np.random.default_rng(0).integers(60, 180, (height, width, 3), np.uint8)


@pytest.mark.parametrize('name', AUGMENTATIONS)
def test_a_view_depends_on_its_seed_alone(name):
    """Whatever was augmented before, in whatever order and by whatever instance; also on numpy's own state."""
    keys = [(0, epoch, index) for epoch in range(3) for index in range(3)]
    one, other = Augmentation(name), Augmentation(name)
    first = {key: one(noise(), *key) for key in keys}
    np.random.seed(1)
    for key in reversed(keys):
        np.testing.assert_array_equal(other(noise(), *key), first[key])


@pytest.mark.parametrize('name', RANDOM)
def test_seeds_epochs_and_pictures_get_different_views(name):
    augment = Augmentation(name)
    views = [augment(noise(), *key) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 10), (0, 10, 0)]]
    assert len({view.tobytes() for view in views}) > 4
    # 1 and 11 are not told from 11 and 1 where numbers are written side by side.
    assert not np.array_equal(augment(noise(), 0, 1, 11), augment(noise(), 0, 11, 1))


@pytest.mark.parametrize('size', [(64, 64), (33, 47), (8, 8)])
@pytest.mark.parametrize('name', AUGMENTATIONS)
def test_shape_and_type_are_kept_and_the_original_is_not_touched(name, size):
    picture = noise(*size)
    augment = Augmentation(name)
    for index in range(20):
        view = augment(picture, 0, 0, index)
        assert view.shape == (*size, 3)
        assert view.dtype == np.uint8
    np.testing.assert_array_equal(picture, noise(*size))


def test_none_changes_nothing():
    np.testing.assert_array_equal(Augmentation('none')(noise(), 0, 1, 2), noise())


def paper_views(picture, n=200):
    augment = Augmentation('paper')
    return [augment(picture, 0, 0, index) for index in range(n)]


def test_the_paper_s_changes_brightness_and_neither_contrast_nor_colour():
    picture = np.full((64, 64, 3), (60, 90, 120), np.uint8)
    shifts = []
    for view in paper_views(picture):
        assert (view == view[0, 0]).all()  # no black corners, no holes
        difference = view[0, 0].astype(int) - picture[0, 0]
        assert np.ptp(difference) <= 1
        shifts.append(difference.mean())
    assert min(shifts) < -30
    assert max(shifts) > 30
    assert max(map(abs, shifts)) <= 0.2 * 255 + 1


def test_the_paper_s_flips_turns_and_moves_what_is_in_the_picture_and_keeps_its_size():
    """Followed by two dots 24 pixels apart, one red and one green."""
    picture = np.full((65, 65, 3), 60, np.uint8)
    picture[19:22, 31:34, 0] = picture[43:46, 31:34, 1] = 180
    rows, columns = np.mgrid[:65, :65]
    places = []
    for view in paper_views(picture):
        dots = [view[..., channel].astype(float) - view[..., 2] for channel in (0, 1)]
        places.append([(dot * axis).sum() / dot.sum() for dot in dots for axis in (rows, columns)])
    y, x, y2, x2 = np.array(places).T
    assert np.hypot(y2 - y, x2 - x) == pytest.approx(24, abs=0.5)  # neither zoomed nor sheared
    angles = np.degrees(np.arctan2(x2 - x, y2 - y))
    assert -15.5 < angles.min() < -10 < 10 < angles.max() < 15.5
    for middle in ((x + x2) / 2 - 32, (y + y2) / 2 - 32):
        assert -0.08 * 65 - 0.5 < middle.min() < -3 < 3 < middle.max() < 0.08 * 65 + 0.5


@pytest.mark.parametrize('name', RANDOM)
def test_half_of_the_views_are_mirrored(name):
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :20] = 200
    augment = Augmentation(name)
    views = [augment(picture, 0, 0, index).mean((0, 2)) for index in range(100)]
    mirrored = sum(view[:20].mean() < view[-20:].mean() for view in views)
    assert 30 < mirrored < 70


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(UserError, match='none, light, paper, strong'):
        Augmentation('wild')
