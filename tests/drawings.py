"""What is to be seen on a drawn PNG file."""
import matplotlib
import numpy as np
from PIL import Image


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def assert_good_png(path, widest=3500):
    """Whole, not blank, large enough to read and small enough to open; nothing else is left in the folder."""
    with Image.open(path) as image:
        image.load()
        assert image.format == 'PNG'
        assert min(image.size) >= 150
        assert max(image.size) <= widest
        assert len(np.unique(np.asarray(image.convert('L')))) > 10
    assert [p.name for p in path.parent.iterdir() if p.name.startswith('.')] == []
