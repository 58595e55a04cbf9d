"""A drawn dish on a table: the plate, the clutter, the light and the camera around one of nine foods."""
import math
from dataclasses import replace
from typing import Sequence, Tuple

import cv2
import numpy as np

from rsq_backbone.datasets.canvas import TURN, Canvas, Pen, disc, rounded, spread, wobbly, zigzag
from rsq_backbone.datasets.food_drawing import (
    BLACK,
    BROWNS,
    FOODS,
    GREENS,
    REDS,
    SAUCES,
    WHITE,
    YELLOWS,
    Painter,
    basil,
)
from rsq_backbone.errors import UserError

__all__ = ['CLASSES', 'MIN_SIZE', 'draw_food']

CLASSES: Tuple[str, ...] = tuple(FOODS)
MIN_SIZE = 64


def draw_food(class_index: int, size: int, rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
    """A picture of one of the CLASSES, and what is where in it.

    Only the food depends on the class: from the same state of `rng`, all classes get the same surroundings. The size
    changes how finely the scene is drawn, and not the scene.

    Returns:
        RGB as uint8 (size, size, 3), and uint8 (size, size): class_index + 1 where that food is to be seen, else 0.
        Some pictures show part of a second dish at their edge, which is marked as the class that it is.

    Raises:
        UserError: if the size is less than MIN_SIZE.
    """
    if size < MIN_SIZE:
        raise UserError(f'{size} pixels are too few to draw food; ask for {MIN_SIZE} or more.')
    table_rng, texture_rng, dish_rng, food_rng, clutter_rng, camera_rng = (
        np.random.default_rng(seed) for seed in rng.integers(2 ** 63, size=6))
    canvas = Canvas(size, table_rng.uniform(0, TURN), texture_rng)
    painters = list(FOODS.values())
    half = size / 2
    table = Pen(canvas, table_rng, 0, half, half, (half, 0.0, 0.0, half))
    _table(table)
    if table_rng.random() < 0.4:
        side = _dish(table.at(turn=table.turn()).at(1.24), table_rng.uniform(0.32, 0.44))
        _vessel(side)
        other = int(table_rng.integers(len(painters)))
        painters[other](replace(side, label=other + 1))
    dish = _dish(replace(table, rng=dish_rng).at(*dish_rng.uniform(-0.4, 0.4, 2)), 0.48 * 2.4 ** dish_rng.random())
    _vessel(dish)
    food = replace(dish, rng=food_rng, label=class_index + 1)
    painters[class_index](food.at(turn=food.turn()))
    for _ in range(clutter_rng.integers(7)):
        _clutter(replace(dish, rng=clutter_rng))
    return _photograph(canvas.image, canvas.light, camera_rng), canvas.mask


def _any_colour(pen: Pen, saturation: float = 0.5) -> np.ndarray:
    hue, grey = pen.rng.uniform(0, 6), 1 - saturation * pen.rng.random() ** 1.5
    pure = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)  # the three ramps of HSV
    return pen.rng.uniform(50, 245) * (grey + (1 - grey) * pure)


def _table(pen: Pen) -> None:
    """`pen`'s unit is half the picture's side."""
    rng = pen.rng
    colour = _any_colour(pen) if rng.random() < 0.6 else pen.tint(pen.pick(BROWNS), 14)
    other = _any_colour(pen) if rng.random() < 0.5 else colour * rng.uniform(0.6, 1.3)
    pen.fill(rounded(3.2, 3.2, 0.05), colour, rng.uniform(0.02, 0.12), 0)
    pen = pen.at(turn=pen.turn())
    step = rng.uniform(0.12, 0.5)
    lines = np.arange(-1.5, 1.5, step)
    kind = rng.random()
    if kind < 0.3:  # planks
        planks = np.stack([rounded(3.2, step, 0.05) + (0, y) for y in lines])
        pen.fill(planks[::2], colour * rng.uniform(0.85, 1.1), 0.1, 0.2, 0.02)
        grain = [zigzag(rng, 3.2, step * 0.1, 1) + (0, y) for y in rng.uniform(-1.5, 1.5, 2 * len(lines))]
        pen.stroke(np.stack(grain), 0.012, colour * 0.7, opacity=0.4)
    elif kind < 0.5:  # striped or checked cloth
        stripes = np.stack([rounded(3.2, step / 2, 0.05) + (0, y) for y in lines])
        pen.fill(stripes, other, 0.05, 0, opacity=0.5)
        if rng.random() < 0.7:
            pen.fill(stripes[..., ::-1], other, 0.05, 0, opacity=0.5)
    elif kind < 0.65:  # stone
        for x, y in spread(rng, 9, 1.3):
            vein = zigzag(rng, rng.uniform(1, 3), 0.12, 1)
            pen.at(x, y, rng.normal(0, 0.5)).stroke(vein, rng.uniform(0.005, 0.03), other, opacity=0.4)
        pen.specks(60, 0.02, other, 1.4)


def _dish(pen: Pen, radius: float) -> Pen:
    """Seen somewhat from the side and turned."""
    return pen.at(size=radius, squash=pen.rng.uniform(0.7, 1.0)).at(turn=pen.turn())


def _vessel(pen: Pen) -> None:
    """What the food is served on, which reaches somewhat beyond the unit disc; sometimes nothing."""
    rng = pen.rng
    colour = pen.tint(WHITE) if rng.random() < 0.45 else _any_colour(pen, 0.7)
    kind = rng.random()
    if kind < 0.4:  # round or oval plate
        outline = disc(56) * (1.25, rng.uniform(0.95, 1.25))
        pen.fill(outline, colour, 0.02, 0.3, 0.12, 0.05)
        if rng.random() < 0.4:
            band = np.stack([outline * 0.96, outline * rng.uniform(0.86, 0.93)])
            pen.fill(band, _any_colour(pen, 0.8), 0.02, 0)
        pen.fill(outline * 0.8, colour * rng.uniform(0.93, 1.03), 0.02, -0.3, 0.1)
    elif kind < 0.5:  # square plate or tray
        outline = rounded(2.5, rng.uniform(1.9, 2.5), rng.uniform(0.15, 0.4), 48)
        pen.fill(outline, colour, 0.02, 0.3, 0.1, 0.05)
        pen.fill(outline * 0.84, colour * 0.97, 0.02, -0.3, 0.08)
    elif kind < 0.6:  # bowl
        pen.fill(disc(56) * 1.2, colour, 0.02, 0.4, 0.1, 0.1)
        pen.fill(disc(56) * 1.1, colour * 0.75, 0.03, -0.6, 0.4)
    elif kind < 0.75:  # board or slate, with or without a handle
        wood = pen.tint(pen.pick(BROWNS + (BLACK, (70, 72, 78))), 14)
        outline = rounded(rng.uniform(2.3, 2.9), rng.uniform(1.9, 2.3), pen.pick((0.1, 0.25, 1.0)), 48)
        if rng.random() < 0.4:
            pen.at(1.5).fill(rounded(0.9, 0.3, 0.4), wood, 0.1, 0.2, 0.2, 0.1)
        pen.prism(outline, 0.06, wood, wood * 0.7, 0.12, 0.2, 0.05)
        grain = [zigzag(rng, 3, 0.04, 1) + (0, y) for y in rng.uniform(-1, 1, 7)]
        with pen.inside(outline):
            pen.stroke(np.stack(grain), 0.02, wood * 0.8, opacity=0.6)
    elif kind < 0.9:  # plain or striped paper
        sheet = rounded(rng.uniform(2.1, 2.7), rng.uniform(2.0, 2.5), 0.1, 40)
        pen.fill(sheet, colour, 0.05, 0.15, 0.05, 0.03)
        if rng.random() < 0.5:
            stripes = np.array([[(-1.3, y), (1.3, y)] for y in np.arange(-1.2, 1.2, 0.25)])
            with pen.inside(sheet * 0.9):
                pen.stroke(stripes, 0.04, _any_colour(pen), opacity=0.7)


def _clutter(dish: Pen) -> None:
    """One of the things that lie about, at the edge of the food or beside it."""
    place = dish.at(turn=dish.turn()).at(dish.rng.uniform(0.9, 1.6), turn=dish.turn())
    dish.pick(_CLUTTER)(place)


def _cutlery(pen: Pen) -> None:
    rng = pen.rng
    metal = pen.pick(((176, 178, 184), (206, 206, 204), (190, 150, 70), (60, 60, 64)))
    pen.stroke(np.array([(0.0, 0.0), (1.5, 0.0)]), 0.09, metal, 0.5, 0.4)
    if rng.random() < 0.5:  # fork
        pen.at(-0.1).fill(rounded(0.4, 0.26, 0.6), metal, 0.02, 0.4, 0.4, 0.3)
        prongs = np.array([[(-0.55, y), (-0.2, y)] for y in (-0.09, 0.0, 0.09)])
        pen.stroke(prongs, 0.045, metal, 0.4, 0.5)
    else:  # spoon or knife
        pen.at(-0.3).fill(rounded(0.7, rng.uniform(0.15, 0.4), 0.9), metal, 0.02, -0.5, 0.8, 0.2)


def _chopsticks(pen: Pen) -> None:
    colour = pen.tint(pen.pick(BROWNS + (BLACK, REDS[0])))
    for y in (0.0, pen.rng.uniform(0.1, 0.2)):
        pen.at(0, y, pen.rng.normal(0, 0.05)).stroke(np.array([(-1.1, 0), (1.4, 0)]), 0.055, colour, 0.4, 0.6)


def _napkin(pen: Pen) -> None:
    colour = _any_colour(pen, 0.7)
    pen.at(0.4).fill(rounded(1.0, 0.8, 0.1), colour, 0.08, 0.2, 0.06, 0.05)
    pen.at(0.4).fill(np.array([(-0.45, -0.35), (0.45, -0.35), (0.45, 0.3)]), colour * 0.9, 0.08, 0.2, 0.06)


def _glass(pen: Pen) -> None:
    pen.at(0.3).fill(disc() * 0.42, (210, 216, 220), 0.02, 0.4, 0.1, 0.3, opacity=0.8)
    pen.at(0.3).fill(disc() * 0.36, _any_colour(pen), 0.03, -0.5, 0.4)
    pen.at(0.35, -0.1).fill(rounded(0.25, 0.1, 1), WHITE, 0, 0, opacity=0.5)


def _dip(pen: Pen) -> None:
    pen.fill(disc() * 0.34, pen.tint(WHITE, 12), 0.02, 0.4, 0.15, 0.15)
    pen.fill(wobbly(pen.rng, 0.02) * 0.27, pen.tint(pen.pick(SAUCES)), 0.03, -0.3, 0.2)


def _crumbs(pen: Pen) -> None:
    colour = pen.tint(pen.pick(BROWNS + YELLOWS + GREENS))
    pen.at(size=0.8).specks(int(pen.rng.integers(8, 30)), 0.025, colour)


def _herb(pen: Pen) -> None:
    green = pen.pick(GREENS)
    for turn in (-0.6, 0.0, 0.7):
        basil(pen.at(turn=turn).at(0.2, size=0.2), green)


def _spill(pen: Pen) -> None:
    outline = wobbly(pen.rng, 0.2) * pen.rng.uniform(0.08, 0.25)
    pen.fill(outline, pen.tint(pen.pick(SAUCES)), 0.04, 0.4, 0.3)


_CLUTTER: Sequence[Painter] = (_cutlery, _chopsticks, _napkin, _glass, _dip, _crumbs, _herb, _spill)


def _photograph(image: np.ndarray, light: Tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Light, lens and sensor: float32 (3, size, size) to uint8 (size, size, 3)."""
    size = image.shape[1]
    x, y = np.meshgrid(*[np.linspace(-1, 1, size, dtype=np.float32)] * 2)
    brightness = 1 + rng.uniform(0, 0.35) * (light[0] * x + light[1] * y) - rng.uniform(0, 0.25) * (x * x + y * y)
    if rng.random() < 0.35:  # the shadow of a window frame or of somebody
        angle, edge = rng.uniform(0, TURN), rng.uniform(-0.8, 0.8)
        across = math.cos(angle) * x + math.sin(angle) * y - edge
        brightness *= 1 - rng.uniform(0.2, 0.5) / (1 + np.exp(across * rng.uniform(5, 40)))
    picture: np.ndarray = cv2.transform(np.ascontiguousarray(image.transpose(1, 2, 0)), _colour_cast(rng))
    picture *= brightness[..., None]
    blur = rng.uniform(-0.002, 0.006) * size
    if blur > 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    picture = (picture - 118) * rng.uniform(0.75, 1.15) + 118 + rng.normal(0, 10)  # contrast around middle grey
    picture += rng.uniform(0.5, 8) * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def _colour_cast(rng: np.random.Generator) -> np.ndarray:
    """RGB to RGB (3, 3): a turn of the hues around grey, saturation, and a gain for each channel."""
    grey = np.full((3, 3), 1 / 3)
    turn = rng.normal(0, 0.1)
    around = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    hues = math.cos(turn) * (np.eye(3) - grey) + math.sin(turn) * around
    warm, tinge = rng.normal(0, 0.09), rng.normal(0, 0.03)
    gains = np.array([1 + warm, 1 + tinge, 1 - warm]) * rng.lognormal(0, 0.2)
    return gains[:, None] * (grey + rng.uniform(0.55, 1.2) * hues)
