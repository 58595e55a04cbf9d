"""The whole path from a picture's file to its classes, beside Pillow's and timm's."""
import io

import cv2
import numpy as np
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from rsq_backbone.profiler.end_to_end import end_to_end, jpeg


class Played:
    """A runtime whose class is the channel that is the brightest at that place."""

    def bind(self, inputs):
        [self.input] = inputs

    def run(self):
        self.output = 2 * self.input

    def outputs(self):
        return [self.output]


def test_the_file_is_a_camera_s_and_the_same_for_the_same_seed():
    picture = Image.open(io.BytesIO(jpeg(0)))
    assert (picture.format, picture.size, picture.mode) == ('JPEG', (640, 480), 'RGB')
    assert np.asarray(picture).std() > 30
    assert jpeg(0) == jpeg(0) != jpeg(1)


def test_it_decodes_resizes_normalises_and_takes_the_largest_class():
    runtime = Played()
    end_to_end(runtime, (2, 3, 48, 64), 0)()
    picture = np.asarray(Image.open(io.BytesIO(jpeg(0)))) / 255
    small = cv2.resize(picture, (64, 48), interpolation=cv2.INTER_AREA)
    expected = (small - IMAGENET_DEFAULT_MEAN) / IMAGENET_DEFAULT_STD
    assert runtime.input.shape == (2, 3, 48, 64)
    assert runtime.input.dtype == np.float32
    for one in runtime.input:
        np.testing.assert_allclose(one.transpose(1, 2, 0), expected, atol=0.03)  # rounded to 256 levels in between
    np.testing.assert_array_equal(runtime.output, 2 * runtime.input)
