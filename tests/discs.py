"""Pictures with masks of three classes that a small network learns in seconds, and such a network."""
import numpy as np
import segmentation_models_pytorch as smp
from PIL import Image

from seg_demos.recipe import SegmentationRecipe

RECIPE = SegmentationRecipe(epochs=3, batch_size=4, crop=64, learning_rate=3e-3, precision='32-true')


def tiny(encoder, weights, classes, *, width=8):
    return smp.Unet(
        'tu-test_resnet', encoder_weights=None, classes=classes, decoder_channels=(16, 16, 8, 8, width))


def draw(folder, count, size=(72, 90), seed=0):
    """Noise with a bright disc (class 1) and a dark square (class 2)."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size[0], :size[1]]
    (folder / 'images').mkdir(parents=True)
    (folder / 'masks').mkdir()
    for number in range(count):
        y, x, y2, x2 = random.integers(15, 55, 4)
        mask = np.zeros(size, np.uint8)
        mask[(abs(rows - y2) < 12) & (abs(columns - x2) < 12)] = 2
        mask[(rows - y) ** 2 + (columns - x) ** 2 < 150] = 1
        level = np.array([110, 200, 30])[mask]
        picture = (level[..., None] + random.normal(0, 15, (*size, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / 'images' / f'{number:02d}.png')
        Image.fromarray(mask).save(folder / 'masks' / f'{number:02d}.png')
    return folder
