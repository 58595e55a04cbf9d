import numpy as np
import pytest
from skimage.color import rgb2lab

from seg_demos.masks import IGNORED
from seg_demos.overlays import error_map, overlay, palette

WHITE = np.full((40, 60, 3), 255, np.uint8)

# What dichromats see of linear RGB, after Machado, Oliveira and Fernandes (2009), severity 1.
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]


def seen(colours, vision):
    shares = np.asarray(colours) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.transpose(vision), 0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize('vision', [np.eye(3), DEUTERANOPIA, PROTANOPIA])
def test_twenty_classes_and_the_background_are_told_apart_by_the_colour_blind_too(vision):
    """2.3 is what is just noticed between colours side by side."""
    lab = seen([*palette(21), (255, 255, 255)], vision)
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)
    assert distances[~np.eye(len(lab), dtype=bool)].min() > 15


def test_colours_are_of_their_own_for_all_classes_that_a_mask_can_hold():
    colours = palette(255)
    assert len(set(colours)) == 255
    assert colours[0] == (0, 0, 0)
    assert all(0 <= channel <= 255 for colour in colours for channel in colour)


def test_a_class_has_one_colour_whatever_the_number_of_classes():
    assert palette(3) == palette(255)[:3]
    assert palette(30) == palette(255)[:30]


def test_an_object_is_tinted_and_outlined_and_the_background_left_alone():
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:50] = 2
    shown = overlay(WHITE, mask)
    blue = np.array([86, 180, 233])
    assert (shown.shape, shown.dtype) == ((40, 60, 3), np.uint8)
    np.testing.assert_allclose(shown[20, 35], 0.6 * 255 + 0.4 * blue, atol=1)  # within
    assert shown[10, 20].tolist() == shown[29, 49].tolist() == blue.tolist()  # its rim
    assert shown[9, 35].tolist() == shown[20, 50].tolist() == [0, 0, 0]  # around it
    assert shown[8, 35].tolist() == shown[0, 0].tolist() == [255, 255, 255]
    assert WHITE.min() == 255  # the picture itself is not drawn on


def test_ignored_pixels_are_hatched_in_grey():
    mask = np.ones((40, 60), np.uint8)
    mask[:, 30:] = IGNORED
    colours = {tuple(pixel) for pixel in overlay(WHITE, mask)[:, 30:].reshape(-1, 3).tolist()}
    assert colours == {(190, 190, 190), (90, 90, 90)}


def test_a_large_picture_is_painted_as_one_however_it_is_worked_through():
    """600 rows take three strips; by symmetry the overlay of the turned picture is the turned overlay."""
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (600, 90, 3), np.uint8)
    mask = np.kron(random.integers(0, 4, (60, 9)), np.ones((10, 10))).astype(np.uint8)
    np.testing.assert_array_equal(overlay(picture, mask), np.rot90(overlay(np.rot90(picture), np.rot90(mask)), -1))


def test_errors_say_what_kind_they_are():
    truth = np.array([[0, 1, 1, 0, 1, IGNORED]] * 8, np.uint8)
    prediction = np.array([[0, 1, 0, 2, 2, 1]] * 8, np.uint8)
    shown = error_map(np.full((8, 6, 3), 200, np.uint8), truth, prediction)
    assert shown[0, :5].tolist() == [
        [100, 100, 100], [100, 100, 100],  # right: the picture, darkened
        [86, 180, 233],  # missed
        [213, 94, 0],  # too much
        [240, 228, 66],  # another class
    ]
    assert shown[0, 5].tolist() in ([190, 190, 190], [90, 90, 90])
