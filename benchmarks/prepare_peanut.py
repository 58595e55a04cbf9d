"""Peanut plants and weeds: 400 photographs of fields with masks of three classes, for the segmentation demos.

    git clone https://github.com/ptdkhoa/Peanut-dataset
    git -C Peanut-dataset checkout ec8e68d19b15487c56a6cff6f309f822861b05f9
    python benchmarks/prepare_peanut.py Peanut-dataset/ peanut/
    python -m seg_demos.unet peanut/ --class-names peanut/classes.txt

The Peanut dataset, (c) 2023 Thi Hoang Yen Tran and Tran Dang Khoa Phan, "released under the Creative Commons license
CC BY-SA 4.0" (its README.md). T. H. Y. Tran and T. D. K. Phan, Dense Multi-Scale Convolutional Network for Plant
Segmentation, IEEE Access 11, 2023. The files are checked against SHA256 below.

Photographs and painted masks of 960 x 720 pixels become photographs and class numbers (0 soil, 1 peanut, 2 weed) of
512 x 384. Neighboring photographs were taken in the same field and may show the same ground, so the split goes by
number: of each ten, 1 to 6 train, 8 and 9 validate, and 7 and 10 between them are left out. Five of those chosen are
copies of an earlier one, which leaves 236 for training and 79 for validation.
"""
import hashlib
from pathlib import Path
from typing import Annotated, Dict, Iterable, List, Tuple

import typer
from PIL import Image
from printing import progress_bar, run

from rsq_backbone.files import whole_folder
from seg_demos.masks import MaskCoding, read_mask

SHA256 = 'c5d7ac12305965dd79b5c99667a5e54c049c61cec2261159dbc7b6bb4863375a'
NUMBERS = range(1, 401)
SIZE = (512, 384)  # width and height in pixels
CODING = MaskCoding(('soil', 'peanut', 'weed'), colours={(0, 0, 0): 0, (0, 255, 0): 1, (255, 0, 0): 2})
PALETTE = [channel for color in CODING.colours or () for channel in color]
PARTS = {'train': (1, 2, 3, 4, 5, 6), 'val': (8, 9)}  # last digits of the numbers


def photograph(clone: Path, number: int) -> Path:
    return clone / 'images' / f'{number:04d}.jpg'


def label(clone: Path, number: int) -> Path:
    return clone / 'labels' / f'{number:04d}.png'


def checksum(paths: Iterable[Path]) -> str:
    """SHA-256 of all files' bytes one after the other, hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check(clone: Path) -> None:
    """Refuse anything but the 400 photographs and masks of the pinned commit."""
    paths = [path(clone, number) for path in (photograph, label) for number in NUMBERS]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise typer.BadParameter(f'{missing[0]} is missing; clone the repository as the head of this file says.')
    if checksum(paths) != SHA256:
        raise typer.BadParameter(f'{clone}: not the files of the pinned commit; check it out as the head of this file '
                                 'says.')


def without_copies(clone: Path) -> List[Tuple[str, int]]:
    """Part and number of each photograph to prepare; of copies, the one with the lowest number."""
    first: Dict[bytes, Tuple[str, int]] = {}
    for number in NUMBERS:
        for part, digits in PARTS.items():
            if number % 10 in digits:
                first.setdefault(photograph(clone, number).read_bytes(), (part, number))
    return list(first.values())


def prepare(clone: Path, number: int, part: Path) -> None:
    with Image.open(photograph(clone, number)) as image:
        small = image.convert('RGB').resize(SIZE, Image.Resampling.LANCZOS)
    small.save(part / 'images' / f'{number:04d}.jpg', quality=95, subsampling=0)
    mask = Image.fromarray(read_mask(label(clone, number), CODING)).resize(SIZE, Image.Resampling.NEAREST)
    mask.putpalette(PALETTE)
    mask.save(part / 'masks' / f'{number:04d}.png')


def main(
        clone: Annotated[Path, typer.Argument(help='Clone of the repository at the pinned commit.')],
        output: Annotated[Path, typer.Argument(help='Folder to make: train/ and val/, classes.txt.')],
        every: Annotated[int, typer.Option(min=1, help='Keep one photograph in so many, for short benchmarks.')] = 1,
) -> None:
    """Make the Peanut dataset ready for the segmentation demos.

    \b
    Example:
      python benchmarks/prepare_peanut.py Peanut-dataset/ peanut/
    """
    if output.exists():
        raise typer.BadParameter(f'{output}: exists already; name a new folder, or delete it.')
    if not output.absolute().parent.is_dir():
        raise typer.BadParameter(f'{output}: its parent folder does not exist.')
    check(clone)
    everything = without_copies(clone)
    chosen = [pair for part in PARTS for pair in [one for one in everything if one[0] == part][::every]]
    with whole_folder(output) as folder, progress_bar(len(chosen)) as advance:
        (folder / 'classes.txt').write_text('\n'.join(CODING.classes) + '\n', encoding='utf-8')
        for part in PARTS:
            for kind in ('images', 'masks'):
                (folder / part / kind).mkdir(parents=True)
        for part, number in chosen:
            prepare(clone, number, folder / part)
            advance(part, 1)


if __name__ == '__main__':
    run(main)
