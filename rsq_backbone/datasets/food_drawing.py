"""Drawings of nine foods and of what they are made of.

Most colours occur in most of the foods, and vary from picture to picture, so that shape and texture tell them apart.
"""
import math
from dataclasses import dataclass, replace
from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np

from rsq_backbone.datasets.canvas import TURN, Colour, Pen, disc, leaf, rounded, sector, spread, wobbly, zigzag

__all__ = ['BLACK', 'BROWNS', 'FOODS', 'GREENS', 'REDS', 'SAUCES', 'WHITE', 'YELLOWS', 'Painter', 'basil']

Painter = Callable[[Pen], None]

WHITE = (238, 234, 224)
CREAM = (232, 216, 176)
BLACK = (34, 28, 32)
NORI = (40, 46, 42)
GREENS = ((62, 108, 40), (96, 142, 56), (142, 172, 84), (180, 196, 124))
REDS = ((176, 40, 28), (206, 58, 38), (188, 72, 40), (222, 120, 48))
BROWNS = ((96, 56, 30), (138, 88, 46), (176, 120, 64), (206, 156, 92))
YELLOWS = ((224, 180, 70), (236, 204, 112), (214, 154, 52), (240, 220, 156))
FISH = ((236, 124, 78), (226, 98, 70), (164, 40, 52), (190, 62, 70), (232, 190, 178), (226, 206, 190))
SAUCES = ((196, 40, 26), (226, 182, 48), (236, 228, 204), (70, 38, 24), (120, 150, 60), (214, 104, 40))


# Ingredients: each fills about the unit disc of its pen.

def _drizzle(pen: Pen, colour: Colour, count: int, width: float) -> None:
    rng = pen.rng
    for x, y in spread(rng, count, 0.7):
        path = zigzag(rng, rng.uniform(0.5, 1.3), rng.uniform(0.03, 0.2), int(rng.integers(1, 4)))
        pen.at(x, y, pen.turn()).stroke(path, width * rng.uniform(0.7, 1.3), colour, 0.3)


def _tomato_slice(pen: Pen, colour: np.ndarray) -> None:
    rng = pen.rng
    outline = wobbly(rng, 0.04)
    top = pen.prism(outline, 0.12, colour, colour * 0.75, lift=0.12)
    top.fill(outline * 0.88, np.clip(colour * 1.12 + 22, 0, 255), 0.08, 0)
    chambers = int(rng.integers(3, 7))
    start = pen.turn()
    for i in range(chambers):
        chamber = top.at(turn=start + TURN * i / chambers).at(0.5)
        chamber.fill(rounded(0.46, 1.6 / chambers, 0.8, 16), colour * (0.82, 0.9, 0.7), 0.1, -0.3)
        chamber.at(size=0.22).specks(4, 0.3, (226, 196, 120), 0.8)


def _tomato_wedge(pen: Pen, colour: np.ndarray) -> None:
    pen.fill(rounded(1.9, 1.15, 0.9), colour, 0.06, 0.45, 0.5, 0.15)
    pen.at(0, -0.08).fill(leaf(0.38), np.clip(colour * 1.1 + 24, 0, 255), 0.12, -0.2)
    pen.at(0, -0.05, size=0.4, squash=0.6).specks(6, 0.13, (230, 200, 130))


def _cucumber(pen: Pen, rind: np.ndarray) -> None:
    outline = wobbly(pen.rng, 0.03)
    top = pen.prism(outline, 0.2, rind, rind * 0.75, lift=0.12)
    flesh = pen.tint((196, 208, 146))
    top.fill(outline * 0.86, flesh, 0.05, 0.1)
    top.fill(wobbly(pen.rng, 0.06) * 0.5, flesh * 0.92, 0.08, 0)
    top.specks(9, 0.08, flesh * 1.12, 0.45)


def _olive(pen: Pen, colour: np.ndarray) -> None:
    if pen.rng.random() < 0.5:
        pen.fill(np.stack([disc(), disc() * 0.4]), colour, 0.05, 0.5, 0.5, 0.15)
    else:
        pen.fill(rounded(2.2, 1.6, 1), colour, 0.05, 0.5, 0.9, 0.2)
        pen.at(0.9).fill(disc(14) * 0.25, colour * 0.5, 0, 0)
    light_x, light_y = pen.canvas.light
    pen.upright().at(0.55 * light_x, 0.5 * light_y).fill(rounded(0.25, 0.14, 1, 12), WHITE, 0, 0, opacity=0.5)


def _ring(pen: Pen, colour: Colour) -> None:
    outline = wobbly(pen.rng, 0.06)
    pen.fill(np.stack([outline, outline * 0.84]), colour, 0.05, 0.3, 0.15, 0.05)


def _cube(pen: Pen, colour: Colour, pores: Colour, relief: float) -> None:
    rng = pen.rng
    colour = pen.tint(colour, 8)
    outline = rounded(rng.uniform(1.2, 1.7), rng.uniform(1.0, 1.5), 0.22)
    top = pen.prism(outline, rng.uniform(0.35, 0.8), colour, colour * 0.78, 0.1, relief)
    top.at(size=0.55).specks(7, 0.1, pores)


def _lettuce(pen: Pen, green: Colour) -> None:
    """A ragged piece of romaine with its pale rib."""
    rng = pen.rng
    colour = pen.tint(green, 14)
    outline = wobbly(rng, 0.2, 8, 44) * (1.15, rng.uniform(0.5, 0.75))
    pen.fill(outline, colour, 0.16, 0.4, 0.2, 0.1)
    pale = colour * 0.45 + np.multiply((214, 222, 170), 0.55)
    bend = rng.normal(0, 0.15)
    veins = [[(x, bend * (1 - x * x)), (x + 0.35, side * 0.45)] for side in (-1, 1) for x in (-0.5, 0.0, 0.45)]
    x = np.linspace(-0.95, 0.85, 8)
    with pen.inside(outline):
        pen.stroke(np.array(veins), 0.04, pale, opacity=0.8)
        pen.stroke(np.stack([x, bend * (1 - x * x)], axis=1), rng.uniform(0.1, 0.22), pale, 0.3)


def basil(pen: Pen, green: Colour) -> None:
    colour = pen.tint(green)
    pen.fill(leaf(pen.rng.uniform(0.45, 0.65)), colour, 0.1, 0.45, 0.5, 0.1)
    pale = colour * 1.25 + 14
    pen.stroke(np.array([(-0.9, 0), (0.85, 0)]), 0.05, pale)
    veins = [[(x + 0.25, 0.3), (x, 0), (x + 0.25, -0.3)] for x in (-0.45, 0.0, 0.4)]
    pen.stroke(np.array(veins), 0.03, pale, opacity=0.7)


def _mozzarella(pen: Pen, colour: np.ndarray) -> None:
    top = pen.prism(wobbly(pen.rng, 0.05), 0.14, colour, colour * 0.84, 0.03, 0.3, 0.12)
    top.fill(wobbly(pen.rng, 0.15) * 0.6, colour * 0.97, 0.03, 0.15, 0.6)


def _fish_slab(pen: Pen, colour: np.ndarray, length: float, width: float) -> None:
    """Raw fish, `length` along x, with the pale lines between its layers of muscle."""
    rng = pen.rng
    outline = rounded(length, width, 0.5)
    outline += np.stack([0.35 * outline[:, 1], 0.06 * np.sin(3 * outline[:, 0])], axis=1)
    pen.fill(outline, colour, 0.05, 0.35, 0.35, 0.12)
    pale = colour * 0.4 + np.multiply((250, 226, 206), 0.6)
    bend = rng.uniform(-0.3, 0.3)
    across = np.linspace(-width / 2, width / 2, 7)
    line = np.stack([0.35 * across + bend * (1 - 2 * np.cos(across / width * 3)), across], axis=1)
    lines = [line + (x, 0) for x in np.arange(-length / 2, length / 2 + 0.2, rng.uniform(0.14, 0.24))]
    with pen.inside(outline * 0.97):
        pen.stroke(np.stack(lines), rng.uniform(0.025, 0.05), pale, opacity=0.75)
    pen.fill(rounded(length * 0.5, width * 0.1, 1, 14) + np.multiply(pen.canvas.light, 0.12), WHITE, 0, 0, opacity=0.3)


def _garnish(pen: Pen) -> None:
    """Wasabi, ginger or lemon."""
    kind = pen.rng.random()
    if kind < 0.4:
        pen.fill(wobbly(pen.rng, 0.12), pen.tint((160, 186, 100)), 0.1, 0.5, 0.8, 0.2)
    elif kind < 0.7:
        for x, y in spread(pen.rng, 5, 0.5):
            petal = pen.at(x, y, pen.turn(), 0.6)
            petal.fill(wobbly(pen.rng, 0.15) * (1, 0.6), pen.tint((236, 196, 176)), 0.05, 0.35, 0.3, 0.1)
    else:
        top = pen.prism(disc(), 0.12, (226, 196, 70), (196, 160, 50))
        top.fill(disc() * 0.85, (240, 226, 150), 0.06, 0)
        for i in range(8):
            top.at(turn=i * TURN / 8).fill(sector(0.3, 8) * 0.75 + (0.06, 0), (232, 204, 90), 0.1, 0)


# The nine foods: each fills about the unit disc of its pen.

def _caesar_salad(pen: Pen) -> None:
    rng = pen.rng
    green = pen.pick(GREENS)
    for x, y in spread(rng, int(rng.integers(16, 24)), 0.8):
        _lettuce(pen.at(x, y, pen.turn(), rng.uniform(0.28, 0.42)), green)
    if rng.random() < 0.35:
        meat = pen.tint((206, 156, 104), 12)
        grill = np.array([[(x - 0.1, -0.25), (x + 0.1, 0.25)] for x in (-0.5, 0.0, 0.5)])
        for x, y in spread(rng, int(rng.integers(3, 6)), 0.5):
            strip = pen.at(x, y, pen.turn(), 0.3)
            strip.fill(rounded(1.9, 0.6, 0.5), meat, 0.12, 0.35, 0.4, 0.15)
            strip.stroke(grill, 0.1, meat * 0.5, opacity=0.7)
    if rng.random() < 0.25:
        red = pen.tint(pen.pick(REDS))
        for x, y in spread(rng, int(rng.integers(2, 5)), 0.7):
            _tomato_wedge(pen.at(x, y, pen.turn(), 0.15), red)
    _drizzle(pen, pen.tint((232, 222, 190)), int(rng.integers(2, 7)), 0.05)
    toast = pen.pick(BROWNS[1:])
    for x, y in spread(rng, int(rng.integers(7, 14)), 0.75):
        _cube(pen.at(x, y, pen.turn(), rng.uniform(0.1, 0.15)), toast, np.multiply(toast, 0.7), 0.4)
    cheese = pen.tint((234, 218, 170), 8)
    for x, y in spread(rng, int(rng.integers(6, 16)), 0.8):
        shaving = pen.at(x, y, pen.turn(), rng.uniform(0.1, 0.2))
        shaving.fill(wobbly(rng, 0.15) * (1, 0.35), cheese, 0.04, 0.3, 0.4, 0.15)


def _caprese_salad(pen: Pen) -> None:
    rng = pen.rng
    red, white, green = pen.tint(pen.pick(REDS)), pen.tint(WHITE, 6), pen.pick(GREENS[:3])
    places = _caprese_places(pen)
    for i, place in enumerate(places):
        piece = place.at(turn=rng.normal(0, 0.2), size=rng.uniform(0.92, 1.08))
        if i % 2:
            _tomato_slice(piece, pen.tint(red, 6))
        else:
            _mozzarella(piece, pen.tint(white, 6))
        if rng.random() < 0.2:
            basil(piece.at(rng.normal(0, 0.3), 0, pen.turn(), 0.55), green)
    for x, y in spread(rng, int(rng.integers(3, 9)), 0.7):
        basil(pen.at(x, y, pen.turn(), rng.uniform(0.13, 0.24)), green)
    if rng.random() < 0.5:
        _drizzle(pen, (58, 32, 24), int(rng.integers(2, 5)), 0.03)
    pen.specks(20, 0.012, BLACK)


def _caprese_places(pen: Pen) -> List[Pen]:
    rng = pen.rng
    pairs = int(rng.integers(4, 7))
    style = rng.random()
    if style < 0.5:  # a ring, with or without a middle
        start = pen.turn()
        ring = [pen.at(turn=start + TURN * i / (2 * pairs)).at(0.65, size=0.33) for i in range(2 * pairs)]
        return ring + [pen.at(turn=start + t).at(0.1, size=0.33) for t in (0.0, 2.0) if style < 0.3]
    if style < 0.85:
        rows = int(rng.integers(1, 4))
        size = (0.46, 0.38, 0.3)[rows - 1]
        places = []
        for row in range(rows):
            y = (row - (rows - 1) / 2) * 0.62
            half = math.sqrt(1 - y * y) - size * 0.8
            places += [pen.at(x, y + rng.normal(0, 0.02), size=size) for x in np.linspace(-half, half, 2 * pairs - row)]
        return places
    return [pen.at(x, y, size=0.3) for x, y in spread(rng, 2 * pairs, 0.72)]


def _french_fries(pen: Pen) -> None:
    rng = pen.rng
    gold = pen.tint(pen.pick(YELLOWS + BROWNS[2:] + REDS[3:]), 8)
    width = rng.uniform(0.1, 0.17)
    if rng.random() < 0.55:
        lean, disorder = rng.uniform(0, math.pi), rng.uniform(0.3, 1.5)
        for x, y in spread(rng, int(rng.integers(26, 44)), rng.uniform(0.55, 0.75)):
            _stick(pen.at(x, y, lean + rng.normal(0, disorder)), pen.tint(gold), rng.uniform(0.55, 1.0), width)
    else:
        _fries_in_a_box(pen.upright(rng.normal(0, 0.25)).at(0, 0.15), gold, width)
    if rng.random() < 0.3:
        pen.specks(24, 0.02, pen.pick(GREENS), 0.6)
    if rng.random() < 0.3:
        _drizzle(pen.at(size=0.6), pen.tint(pen.pick(SAUCES)), 3, 0.09)


def _stick(pen: Pen, colour: np.ndarray, length: float, width: float) -> None:
    """One of the french fries, along x."""
    x = np.linspace(-length / 2, length / 2, 5)
    middle = pen.rng.normal(0, 0.04) * np.cos(x / length * math.pi)
    width *= pen.rng.uniform(0.85, 1.15)
    edges = [np.stack([x, middle + side * width / 2], axis=1) for side in (-1, 1)]
    outline = np.concatenate([edges[0], edges[1][::-1]])
    pen.fill(outline, colour * 0.72, 0.06, 0.25, 0.3, 0.35)
    pen.at(0, -0.2 * width).fill(outline * (0.98, 0.62), colour, 0.08, 0.2, 0.4)
    tip = rounded(width * 0.6, width * 0.7, 0.5, 10)
    tips = np.stack([tip + (end * (length / 2 - 0.03), 0) for end in (-1, 1)])
    pen.fill(tips, colour * (0.86, 0.72, 0.6), 0.05, 0, opacity=0.6)


def _fries_in_a_box(pen: Pen, gold: np.ndarray, width: float) -> None:
    rng = pen.rng
    paper = replace(pen, label=0)
    colours = (REDS[0], WHITE, BROWNS[3], YELLOWS[0], (60, 60, 70), (70, 110, 150), (150, 152, 156))
    colour = pen.tint(pen.pick(colours))
    wide, low = rng.uniform(0.52, 0.7), rng.uniform(0.33, 0.5)
    paper.fill(np.array([(-wide, -0.15), (wide, -0.15), (low, 0.8), (-low, 0.8)]), colour * 0.6, 0.04, 0.1, 0.1, 0.1)
    for x in rng.uniform(-0.85, 0.85, int(rng.integers(22, 32))) * wide:
        top, length = -0.25 - rng.uniform(0.0, 0.6) * (1.2 - abs(x)), rng.uniform(0.75, 1.05)
        stick = pen.at(x, top + length / 2, math.pi / 2 + x * 0.5 + rng.normal(0, 0.12))
        _stick(stick, pen.tint(gold), length, width)
    x = np.linspace(-wide, wide, 9)
    rim = np.stack([x, 0.05 + rng.uniform(-0.1, 0.25) * (1 - (x / wide) ** 2)], axis=1)
    front = np.concatenate([rim, [(low, 0.85), (-low, 0.85)]])
    paper.fill(front, colour, 0.05, 0.15, 0.15)
    ink = pen.tint(pen.pick(colours))
    with paper.inside(front):
        if rng.random() < 0.5:
            stripes = [[(x, -0.2), (x * low / wide, 0.9)] for x in np.linspace(-wide, wide, 6)]
            paper.stroke(np.array(stripes), 0.09, ink)
        else:
            paper.at(0, 0.5, size=0.22).fill(wobbly(rng, 0.1), ink, 0, 0)


def _greek_salad(pen: Pen) -> None:
    rng = pen.rng
    red, rind, onion = pen.tint(pen.pick(REDS)), pen.pick(GREENS[:3]), pen.tint((168, 92, 132), 14)
    olive = pen.tint(pen.pick((BLACK, (70, 44, 56), (92, 96, 48))))
    if rng.random() < 0.4:
        for x, y in spread(rng, 12, 0.8):
            _lettuce(pen.at(x, y, pen.turn(), 0.34), pen.pick(GREENS))
    painters: List[Painter] = [lambda p: _tomato_wedge(p, p.tint(red, 8))] * int(rng.integers(8, 13))
    painters += [lambda p: _cucumber(p, p.tint(rind, 8))] * int(rng.integers(8, 13))
    painters += [lambda p: _ring(p, p.tint(onion))] * int(rng.integers(3, 7))
    painters += [lambda p: _ring(p, p.tint(GREENS[1]))] * int(rng.integers(0, 4))
    for i, (x, y) in zip(rng.permutation(len(painters)), spread(rng, len(painters), 0.8), strict=True):
        painters[i](pen.at(x, y, pen.turn(), rng.uniform(0.17, 0.23)))
    slab = rng.random() < 0.3
    if slab:
        place = pen.at(rng.normal(0, 0.1), rng.normal(0, 0.1), pen.turn())
        top = place.prism(rounded(1.0, 0.75, 0.15), 0.12, WHITE, np.multiply(WHITE, 0.8), 0.1)
        top.at(size=0.45).specks(24, 0.04, (110, 120, 70))
    for x, y in spread(rng, 5 if slab else int(rng.integers(9, 15)), 0.75):
        _cube(pen.at(x, y, pen.turn(), rng.uniform(0.1, 0.14)), WHITE, (206, 204, 190), 0.1)
    for x, y in spread(rng, int(rng.integers(6, 12)), 0.78):
        _olive(pen.at(x, y, pen.turn(), rng.uniform(0.07, 0.1)), olive)
    pen.specks(30, 0.014, GREENS[0])


def _bun_colour(pen: Pen) -> np.ndarray:
    if pen.rng.random() < 0.06:
        return pen.tint((58, 50, 48))
    return pen.tint(pen.pick(BROWNS[1:] + ((222, 176, 110), (190, 110, 50))))


def _hamburger(pen: Pen) -> None:
    if pen.rng.random() < 0.65:
        _hamburger_from_the_side(pen.upright(pen.rng.normal(0, 0.12)))
    else:
        _hamburger_from_above(pen)


def _layer(pen: Pen, width: float, height: float, colour: Colour, wave: float, grain: float) -> None:
    """Wavy at its lower edge; `width` to either side."""
    rng = pen.rng
    x = np.linspace(-width, width, 40)
    ripple = wave * np.sin(x * rng.uniform(9, 22) + pen.turn()) + rng.normal(0, wave / 3 + 0.006, 40)
    lower = np.stack([x, height / 2 + ripple], axis=1)
    upper = np.stack([x, ripple * 0.3 - height / 2], axis=1)[::-1]
    end = width + height * 0.25
    pen.fill(np.concatenate([lower, [(end, 0)], upper, [(-end, 0)]]), colour, grain, 0.35, 0.6, 0.2)


def _cheese(pen: Pen, width: float, height: float, colour: Colour) -> None:
    _layer(pen, width, height, colour, 0.004, 0.03)
    for x in pen.rng.uniform(-0.7, 0.7, 2):
        pen.fill(np.array([(x - 0.22, 0), (x + 0.22, 0), (x, pen.rng.uniform(0.1, 0.22))]), colour, 0.03, 0.2, 0.2)


def _tomatoes(pen: Pen, width: float, height: float, colour: Colour) -> None:
    for x in (-0.5, 0.5):
        pen.at(x * width).fill(rounded(width, height, 0.5), colour, 0.08, 0.3, 0.5, 0.1)


# What may be between the buns: its height, and how it is painted with a pen at its middle, given width and height.
_LAYERS: Dict[str, Tuple[float, Callable[[Pen, float, float, np.ndarray], None]]] = {
    'patty': (0.2, lambda pen, width, height, colour: _layer(pen, width * 1.02, height * 1.1, colour, 0.012, 0.3)),
    'cheese': (0.05, _cheese),
    'lettuce': (0.1, lambda pen, width, height, colour: _layer(pen, width * 1.08, height, colour, 0.05, 0.2)),
    'tomato': (0.1, _tomatoes),
    'onion': (0.07, lambda pen, width, height, colour: _layer(pen, width * 0.95, height, colour, 0.02, 0.08)),
}


def _hamburger_from_the_side(pen: Pen) -> None:
    rng = pen.rng
    bun = _bun_colour(pen)
    width = rng.uniform(0.78, 0.92)
    colours = {
        'patty': pen.tint(pen.pick(((84, 46, 28), (104, 62, 40), (120, 80, 48)))),
        'cheese': pen.tint(pen.pick(YELLOWS)),
        'lettuce': pen.tint(pen.pick(GREENS)),
        'tomato': pen.tint(pen.pick(REDS)),
        'onion': pen.tint((214, 190, 196)),
    }
    names = ['patty', 'cheese'] * int(rng.integers(1, 3))
    names += rng.permutation(['lettuce', 'tomato', 'onion', 'lettuce'])[:rng.integers(1, 5)].tolist()
    thickness = min(1.25, 0.75 / sum(_LAYERS[name][0] for name in names))
    dome = rng.uniform(0.42, 0.6)
    y = (0.24 + thickness * sum(_LAYERS[name][0] for name in names) + dome) / 2
    pen.at(0, y - 0.1).fill(rounded(2 * width, 0.3, 0.5), bun * 0.95, 0.05, 0.3, 0.5, 0.2)
    pen.at(0, y - 0.22).fill(rounded(1.96 * width, 0.1, 0.6), np.multiply(CREAM, 0.95), 0.06, 0.1)
    y -= 0.24
    for name in names:
        height, paint = _LAYERS[name]
        height *= thickness
        paint(pen.at(0, y - height / 2), width, height, pen.tint(colours[name], 5))
        y -= height
    x = np.linspace(-1, 1, 24)
    arch = np.stack([x * width * 1.02, -dome * (1 - np.abs(x) ** rng.uniform(2.2, 3.2)) ** 0.75], axis=1)
    outline = np.concatenate([arch, [(width * 0.96, 0.05), (-width * 0.96, 0.05)]])
    lid = pen.at(0, y)
    lid.fill(outline, bun, 0.05, 0.45, 0.7, 0.12)
    if rng.random() < 0.75:
        with lid.inside(outline * 0.97):
            lid.at(0, -dome * 0.62, size=width * 0.85, squash=0.4).specks(30, 0.05, pen.tint(CREAM), 0.95, 0.8)
    if rng.random() < 0.25:  # a stick that holds it together
        lid.stroke(np.array([(0, -dome * 1.25), (0, -dome * 0.6)]), 0.03, (190, 160, 110))
        lid.at(0, -dome * 1.25, size=0.08).fill(disc(14), colours['lettuce'], 0.05, 0.4, 0.8)


def _hamburger_from_above(pen: Pen) -> None:
    rng = pen.rng
    bun = _bun_colour(pen)
    pen.at(rng.normal(0, 0.08), 0.12).prism(wobbly(rng, 0.02) * 0.8, 0.1, bun * 0.9, bun * 0.75)
    for size in (0.95, 0.9):
        ruffle = pen.at(rng.normal(0, 0.05), 0.06, size=size)
        ruffle.fill(wobbly(rng, 0.12, 14, 70), pen.tint(pen.pick(GREENS)), 0.2, 0.4, 0.08, 0.06)
    if rng.random() < 0.6:
        red = pen.pick(REDS)
        for turn in rng.uniform(0, TURN, 2):
            _tomato_slice(pen.at(turn=turn).at(0.42, size=0.45), pen.tint(red))
    pen.prism(wobbly(rng, 0.04) * 0.84, 0.08, (92, 54, 34), (76, 44, 30), 0.25)
    if rng.random() < 0.7:
        slice_of_cheese = pen.raised(0.06).at(turn=pen.turn())
        slice_of_cheese.fill(rounded(1.6, 1.6, 0.15), pen.tint(pen.pick(YELLOWS)), 0.03, 0.2, 0.1, 0.04)
    lid = pen.raised(0.16)
    lid.fill(wobbly(rng, 0.02) * 0.78, bun, 0.05, 0.5, 0.95, 0.1)
    if rng.random() < 0.8:
        lid.specks(int(rng.integers(25, 60)), 0.035, pen.tint(CREAM), 0.62)


def _hot_dog(pen: Pen) -> None:
    rng = pen.rng
    count = int(rng.integers(1, 4))
    bun = _bun_colour(pen)
    meat = pen.tint(pen.pick(((172, 72, 44), (196, 104, 62), (140, 60, 40), (204, 120, 96))))
    sauces = [pen.tint(pen.pick(SAUCES)) for _ in range(rng.choice(3, p=(0.15, 0.55, 0.3)))]
    salad, onions, grilled = rng.random(3) < (0.35, 0.3, 0.5)
    grill = np.array([[(x - 0.05, -0.09), (x + 0.05, 0.09)] for x in np.linspace(-0.75, 0.75, 7)])
    x = np.linspace(-1.02, 1.02, 16)
    for i in range(count):
        y = (i - (count - 1) / 2) * 0.66
        dog = pen.at(rng.normal(0, 0.06), y, rng.normal(0, 0.08), (1.05, 0.92, 0.85)[count - 1])
        dog.fill(rounded(1.76, 0.6, 0.6), bun * 0.8, 0.05, 0.3, 0.4, 0.3)
        for side in (-1, 1):
            dog.at(0, 0.19 * side).fill(rounded(1.8, 0.46, 0.6), pen.tint(bun, 4), 0.05, 0.45, 0.8, 0.12)
        dog.fill(rounded(1.7, 0.26, 0.7), np.multiply(CREAM, 0.85), 0.08, -0.3, 0.5)
        if salad:
            dog.fill(wobbly(rng, 0.12, 12, 60) * (0.86, 0.2), pen.pick(GREENS), 0.25, 0.4, 0.3, 0.1)
        dog.stroke(np.stack([x, rng.normal(0, 0.05) * (1 - x * x)], axis=1), 0.27, meat, 0.55, 0.25)
        if grilled:
            dog.stroke(grill, 0.03, meat * 0.55, opacity=0.8)
        for sauce in sauces:
            dog.stroke(zigzag(rng, 1.6, 0.09, int(rng.integers(4, 8))), 0.06, sauce, 0.35, 0.1)
        if onions:
            dog.at(squash=0.15).specks(30, 0.05, pen.tint(pen.pick((WHITE, GREENS[1], BROWNS[2]))), 0.8)


@dataclass(frozen=True)
class _Pizza:
    """What all slices of one pizza share."""

    sauce: np.ndarray
    cheese: np.ndarray
    crust: np.ndarray
    toppings: Sequence[Painter]


def _pizza(pen: Pen) -> None:
    rng = pen.rng
    pizza = _Pizza(
        pen.tint(pen.pick(((190, 62, 34), (206, 90, 44), (228, 208, 160), (120, 140, 60)))),
        pen.tint(pen.pick((YELLOWS[1], YELLOWS[3], (230, 190, 110), (236, 226, 196)))),
        pen.tint(pen.pick(BROWNS[2:] + ((222, 186, 126),))),
        [_TOPPINGS[i] for i in rng.permutation(len(_TOPPINGS))[:rng.integers(1, 4)]])
    if rng.random() < 0.4:
        _pizza_part(pen, math.pi, pizza)
        return
    cut = int(rng.integers(6, 10))
    half = math.pi / cut
    slices, apart = int(rng.integers(cut // 2, cut + 1)), 0.03
    if rng.random() < 0.4:  # a few, closer
        slices, apart = int(rng.integers(1, 4)), 0.1
        pen = pen.at(-0.75, size=1.45)
    for i in rng.permutation(slices):
        turn = half * (2 * i - slices + 1) + rng.normal(0, 0.02)
        _pizza_part(pen.at(turn=turn).at(apart * rng.uniform(0.7, 1.6)), half, pizza)


def _pizza_part(pen: Pen, half: float, pizza: _Pizza) -> None:
    """The slice from the angle -half to half, or all with half a turn."""
    rng = pen.rng
    whole = half == math.pi
    outline = wobbly(rng, 0.02, 6, 60) if whole else sector(half)
    inner = outline * rng.uniform(0.82, 0.9)
    pen = pen.prism(outline, 0.05, pizza.crust, pizza.crust * 0.75, 0.1, 0.4, 0.05)
    with pen.inside(outline):
        for turn in rng.uniform(-half, half, 1 + int(4 * half)):
            burn = pen.at(turn=turn).at(0.93, size=rng.uniform(0.03, 0.1))
            burn.fill(wobbly(rng, 0.2), pizza.crust * 0.5, 0.1, 0, opacity=0.5)
    pen.fill(inner, pizza.sauce, 0.1, -0.2, 0.06)
    with pen.inside(inner):
        pen.fill(inner * 0.96, pizza.cheese, 0.14, 0.15, 0.1)
        for x, y in spread(rng, 14, 0.85):
            size, colour = (0.16, pizza.sauce) if rng.random() < 0.6 else (0.1, pizza.crust * 0.8)
            pen.at(x, y, size=size * rng.uniform(0.5, 1.2)).fill(wobbly(rng, 0.2), colour, 0.1, 0, opacity=0.6)
    for topping in pizza.toppings:
        for x, y in spread(rng, int(rng.integers(8, 15)), 0.76):
            if whole or abs(y) + 0.07 < x * math.tan(half):
                topping(pen.at(x, y, pen.turn(), rng.uniform(0.09, 0.14)))


def _pepperoni(pen: Pen) -> None:
    pen.fill(wobbly(pen.rng, 0.04), pen.tint((172, 54, 38), 8), 0.2, 0.3, 0.15, 0.05)
    pen.specks(5, 0.12, (206, 110, 80), 0.7)


def _mushroom(pen: Pen) -> None:
    colour = pen.tint((206, 186, 158), 8)
    cap = [(math.cos(t), -0.1 - 0.8 * math.sin(t)) for t in np.linspace(0, math.pi, 14)]
    stem = [(-0.8, 0.1), (-0.25, 0.1), (-0.3, 0.85), (0.3, 0.85), (0.25, 0.1), (0.8, 0.1)]
    pen.fill(np.array(cap + stem), colour, 0.08, 0.3, 0.2, 0.08)
    pen.stroke(np.array([(-0.75, 0.02), (-0.2, -0.15), (0.2, -0.15), (0.75, 0.02)]), 0.12, colour * 0.6)


def _pepper(pen: Pen) -> None:
    t = np.linspace(0, 2.6, 10)
    colour = pen.tint(pen.pick((GREENS[0], GREENS[1], REDS[0], YELLOWS[2])))
    pen.stroke(np.stack([np.cos(t), np.sin(t) - 0.5], axis=1), 0.25, colour, 0.4, 0.2)


_TOPPINGS: Sequence[Painter] = (
    _pepperoni,
    _mushroom,
    _pepper,
    lambda pen: _olive(pen.at(size=0.6), pen.tint(BLACK, 6)),
    lambda pen: basil(pen, GREENS[0]),
    lambda pen: _tomato_slice(pen, pen.tint(REDS[1])),
    lambda pen: pen.fill(rounded(1.5, 1.3, 0.2), pen.tint((222, 146, 130), 8), 0.08, 0.3, 0.2, 0.05),  # ham
    lambda pen: pen.fill(wobbly(pen.rng, 0.15) * 1.3, pen.tint((240, 232, 208), 6), 0.06, 0.25, 0.5),  # molten cheese
)


def _sashimi(pen: Pen) -> None:
    rng = pen.rng
    if rng.random() < 0.5:  # shredded radish
        for x, y in spread(rng, 26, 0.75):
            path = zigzag(rng, rng.uniform(0.3, 0.6), 0.06, 1)
            pen.at(x, y, pen.turn()).stroke(path, 0.025, pen.tint(WHITE, 8), 0.2, 0.3)
    if rng.random() < 0.35:  # a rosette
        kinds = [pen.pick(FISH), pen.pick(FISH)]
        count = int(rng.integers(9, 14))
        for i in range(count):
            slab = pen.at(turn=TURN * i / count).at(0.52, turn=0.35, size=0.46)
            _fish_slab(slab, pen.tint(kinds[i * 2 // count], 5), 2.0, 1.0)
        _garnish(pen.at(size=0.3))
        return
    rows = int(rng.integers(2, 5))
    for row in range(rows):
        y = (row - (rows - 1) / 2) * 1.7 / rows
        basil(pen.at(-0.6, y, 2.0, 0.4), pen.pick(GREENS))
        kind = pen.pick(FISH)
        for x in np.linspace(-0.62, 0.62, int(rng.integers(4, 8))):
            slab = pen.at(x + rng.normal(0, 0.015), y, 1.35 + rng.normal(0, 0.06), 0.36)
            _fish_slab(slab, pen.tint(kind, 5), min(2.0, 4.4 / rows), rng.uniform(0.85, 1.0))
    for x, y in spread(rng, 2, 0.8):
        _garnish(pen.at(x, y, size=0.2))


def _sushi(pen: Pen) -> None:
    rng = pen.rng
    fillings = [pen.pick(FISH + (GREENS[1], YELLOWS[0], REDS[1])) for _ in range(3)]
    painters = [(_maki, _uramaki, _nigiri)[i] for i in rng.permutation(3)[:rng.integers(1, 4)]]
    columns, rows = pen.pick(((3, 2), (3, 3), (4, 3), (4, 2), (2, 2)))
    step = 1.75 / max(columns, rows)
    places = [(pen.at((column - (columns - 1) / 2) * step + rng.normal(0, 0.03),
                      (row - (rows - 1) / 2) * step + rng.normal(0, 0.03), size=step * 0.46), row)
              for row in range(rows) for column in range(columns)]
    for place, row in sorted(places, key=lambda entry: entry[0].y):  # what is nearer covers what is behind
        painters[row % len(painters)](place, fillings[row % 3])
    if rng.random() < 0.5:
        x, y = spread(rng, 2, 1.0)[0]
        _garnish(pen.at(x, y, size=0.18))


def _filling(pen: Pen, colour: Colour) -> None:
    for x, y in spread(pen.rng, int(pen.rng.integers(1, 4)), 0.22):
        pen.at(x, y, pen.turn()).fill(rounded(0.42, 0.34, 0.4, 16), pen.tint(colour, 14), 0.1, 0.3, 0.3)


def _grains(pen: Pen, rice: np.ndarray) -> None:
    pen.specks(22, 0.11, rice * 0.86, 0.85, 0.5)
    pen.specks(18, 0.1, np.clip(rice * 1.08, 0, 255), 0.85, 0.5)


def _maki(pen: Pen, colour: Colour) -> None:
    """Seaweed outside, rice inside."""
    nori, rice = pen.tint(NORI, 5), pen.tint(WHITE, 5)
    top = pen.prism(wobbly(pen.rng, 0.03), 0.75, nori, nori * 0.85, 0.12, 0.3, 0.2)
    top.fill(disc() * 0.86, rice, 0.06, 0.2, 0.3)
    _grains(top.at(size=0.86), rice)
    _filling(top.at(size=1.2), colour)


def _uramaki(pen: Pen, colour: Colour) -> None:
    """Rice outside, seaweed inside."""
    rice = pen.tint(WHITE, 5)
    top = pen.prism(wobbly(pen.rng, 0.04), 0.7, rice, rice * 0.85, 0.12, 0.3, 0.2)
    _grains(top, rice)
    pen.upright().at(0, -0.1, squash=0.7).specks(24, 0.07, pen.tint(pen.pick((BLACK, REDS[3], CREAM))), 0.85)
    top.fill(np.stack([wobbly(pen.rng, 0.05) * 0.62, disc(36) * 0.52]), NORI, 0.1, 0)
    _filling(top.at(size=1.1), colour)


def _nigiri(pen: Pen, colour: Colour) -> None:
    """A slab of fish on a ball of rice."""
    rice = pen.tint(WHITE, 5)
    pen = pen.at(turn=1.2 + pen.rng.normal(0, 0.12), size=1.05)
    pen.prism(rounded(1.9, 1.0, 0.7), 0.25, rice, rice * 0.86, 0.12, 0.3, 0.2)
    pen.at(squash=0.5).specks(30, 0.09, rice * 0.85, 0.85)
    top = pen.raised(0.3)
    _fish_slab(top, np.asarray(colour), 2.05, 0.95)
    if pen.rng.random() < 0.3:
        top.fill(rounded(0.35, 1.05, 0.3), NORI, 0.1, 0.2)


FOODS: Dict[str, Painter] = {
    'caesar_salad': _caesar_salad,
    'caprese_salad': _caprese_salad,
    'french_fries': _french_fries,
    'greek_salad': _greek_salad,
    'hamburger': _hamburger,
    'hot_dog': _hot_dog,
    'pizza': _pizza,
    'sashimi': _sashimi,
    'sushi': _sushi,
}
