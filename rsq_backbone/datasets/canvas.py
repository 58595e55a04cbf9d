"""Shapes with texture, relief and shadow, painted into a picture and into its pixel mask at once."""
import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Iterator, Optional, Sequence, Tuple, TypeVar, Union

import cv2
import numpy as np

__all__ = ['TURN', 'Canvas', 'Colour', 'Pen', 'disc', 'leaf', 'rounded', 'sector', 'spread', 'wobbly', 'zigzag']

Outline = np.ndarray  # (points, 2), or several at once as (outlines, points, 2); x to the right, y downwards
Colour = Union[Sequence[float], np.ndarray]  # RGB, 0..255
_T = TypeVar('_T')

TURN = 2 * math.pi
_GOLDEN_ANGLE = 2.39996
_SUBPIXEL_BITS = 4


def disc(points: int = 32) -> Outline:
    """Of radius one."""
    t = np.arange(points) * (TURN / points)
    return np.stack([np.cos(t), np.sin(t)], axis=1)


def wobbly(rng: np.random.Generator, wobble: float = 0.08, waves: int = 5, points: int = 36) -> Outline:
    """A disc of radius one whose edge goes in and out by about `wobble`."""
    t = np.arange(points) * (TURN / points)
    heights = rng.normal(0, wobble * math.sqrt(2 / waves), (waves, 1))
    ripples = heights * np.cos(np.arange(2, 2 + waves)[:, None] * t + rng.uniform(0, TURN, (waves, 1)))
    return disc(points) * np.clip(1 + ripples.sum(axis=0), 0.3, 1.7)[:, None]


def rounded(width: float, height: float, corner: float = 0.4, points: int = 32) -> Outline:
    """A box around the origin; corner 1 makes it an ellipse, near 0 it has sharp corners."""
    unit = disc(points)
    return np.sign(unit) * np.abs(unit) ** corner * (width / 2, height / 2)


def leaf(width: float) -> Outline:
    """From its tip at (-1, 0) to that at (1, 0), `width` to either side."""
    unit = disc(24)
    return np.stack([unit[:, 0], width * np.sign(unit[:, 1]) * np.abs(unit[:, 1]) ** 1.6], axis=1)


def sector(half: float, points: int = 20) -> Outline:
    """A slice of the unit disc, its tip at the origin, from the angle -half to half."""
    t = np.linspace(-half, half, points)
    return np.concatenate([np.zeros((1, 2)), np.stack([np.cos(t), np.sin(t)], axis=1)])


def zigzag(rng: np.random.Generator, length: float, height: float, turns: int) -> Outline:
    """A wave along x around the origin."""
    x = np.linspace(-length / 2, length / 2, 12 * turns)
    return np.stack([x, height * np.sin(x / length * TURN * turns + rng.uniform(0, TURN))], axis=1)


def spread(rng: np.random.Generator, count: int, radius: float) -> np.ndarray:
    """Points (count, 2) all over a disc, evenly but not regularly, in random order."""
    distance = radius * np.sqrt((np.arange(count) + 0.5) / count)
    angle = np.arange(count) * _GOLDEN_ANGLE + rng.uniform(0, TURN)
    points = np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)
    return rng.permutation(points + rng.normal(0, 0.35 * radius / math.sqrt(count), (count, 2)))


class Canvas:
    """The picture as float32 (3, size, size) in 0..255 and the mask as uint8 (size, size)."""

    def __init__(self, size: int, light: float, rng: np.random.Generator):
        """Args:
            light: direction towards the light, an angle in the picture.
        """
        self.size = size
        self.image = np.zeros((3, size, size), np.float32)
        self.mask = np.zeros((size, size), np.uint8)
        self.light = (math.cos(light), math.sin(light))
        self.clip: Optional[np.ndarray] = None  # uint8 (size, size), how far each pixel may be painted
        # Textures are cut from this. Its grids do not depend on the size, so that a scene looks the same at any.
        grids = [rng.standard_normal((cells, cells)).astype(np.float32) for cells in (24, 100)]
        coarse, fine = (cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) for grid in grids)
        self._noise = np.tile(np.clip(0.6 * coarse + 0.7 * fine, -2, 2), (2, 2))

    def texture(self, place: Tuple[slice, slice], offset: Tuple[float, float]) -> np.ndarray:
        """For that part of the picture, a cut of about zero mean and standard deviation 0.6; `offset` is in 0..1."""
        y, x = (int(share * self.size) for share in offset)
        return self._noise[y:y + place[0].stop - place[0].start, x:x + place[1].stop - place[1].start]

    def visible(self, x: int, y: int, shape: Tuple[int, int]) -> Tuple[Tuple[slice, slice], Tuple[slice, slice]]:
        """What a patch with its corner at (x, y) shares with the picture: where it is there, and in the patch."""
        rows, columns = (slice(max(start, 0), max(min(start + length, self.size), 0))
                         for start, length in zip((y, x), shape, strict=True))
        return (rows, columns), (slice(rows.start - y, rows.stop - y), slice(columns.start - x, columns.stop - x))

    def clipped(self, cover: np.ndarray, place: Tuple[slice, slice]) -> np.ndarray:
        """As much of `cover`, which is of that part of the picture, as may be painted."""
        return cover if self.clip is None else np.minimum(cover, self.clip[place])


@dataclass(frozen=True)
class Pen:
    """Paints in coordinates of its own: `at` gives a pen that is moved, turned and scaled against this one."""

    canvas: Canvas
    rng: np.random.Generator
    label: int  # what the mask becomes where this pen paints
    x: float  # of the origin, in pixels
    y: float
    axes: Tuple[float, float, float, float]  # one step along x in columns and rows, then one along y

    def at(self, x: float = 0.0, y: float = 0.0, turn: float = 0.0, size: float = 1.0, squash: float = 1.0) -> 'Pen':
        """`squash` shortens the new pen's y axis."""
        a, b, c, d = self.axes
        cos, sin = math.cos(turn) * size, math.sin(turn) * size
        return replace(self, x=self.x + a * x + c * y, y=self.y + b * x + d * y, axes=(
            a * cos + c * sin, b * cos + d * sin, (c * cos - a * sin) * squash, (d * cos - b * sin) * squash))

    def upright(self, lean: float = 0.0) -> 'Pen':
        """At the same place and as large, for what is seen from the front instead of from above."""
        return replace(self, axes=(self.scale, 0.0, 0.0, self.scale)).at(turn=lean)

    def raised(self, height: float) -> 'Pen':
        """Above the same place, which is further up in the picture."""
        return replace(self, y=self.y - height * self.scale)

    @property
    def scale(self) -> float:
        """How many pixels long one unit is, along the longer axis."""
        a, b, c, d = self.axes
        return max(math.hypot(a, b), math.hypot(c, d))

    def pixels(self, outline: Outline) -> np.ndarray:
        """From this pen's coordinates to the picture's."""
        a, b, c, d = self.axes
        return outline @ ((a, b), (c, d)) + (self.x, self.y)

    def turn(self) -> float:
        """Any angle."""
        return self.rng.uniform(0, TURN)

    def pick(self, options: Sequence[_T]) -> _T:
        return options[int(self.rng.integers(len(options)))]

    def tint(self, colour: Colour, amount: float = 10.0) -> np.ndarray:
        """`colour`, somewhat lighter or darker and somewhat off."""
        return np.clip(np.asarray(colour) + self.rng.normal(0, amount) + self.rng.normal(0, amount / 2, 3), 0, 255)

    def fill(self, outline: Outline, colour: Colour, grain: float = 0.05, relief: float = 0.25, bevel: float = 0.3,
             lift: float = 0.0, opacity: float = 1.0) -> None:
        """Paint a shape; of several outlines the even-odd rule makes holes.

        Args:
            grain: how strong the texture is.
            relief: how strongly the edges catch the light; negative for a hollow.
            bevel: how far the edges' slope reaches, as a share of the shape's shorter side.
            lift: how far the shape is above what it throws its shadow on, likewise.
        """
        self._lay(self.pixels(outline), colour, grain, relief, bevel, lift, opacity)

    def stroke(self, path: Outline, width: float, colour: Colour, relief: float = 0.0, lift: float = 0.0,
               opacity: float = 1.0) -> None:
        """Paint a line of that width through the points of `path`, which stays open."""
        thickness = max(1, round(width * self.scale))
        self._lay(self.pixels(path), colour, 0.0, relief, 1.0, lift, opacity, thickness)

    def specks(self, count: int, size: float, colour: Colour, radius: float = 0.9, roundness: float = 0.6) -> None:
        """Seeds, crumbs, salt or herbs, all over a disc."""
        turns = self.rng.uniform(0, TURN, count)
        cos, sin = size * np.cos(turns), size * np.sin(turns)
        turned = rounded(2, 2 * roundness, 0.8, 10) @ np.stack([cos, sin, -sin, cos], axis=1).reshape(-1, 2, 2)
        self.fill(turned + spread(self.rng, count, radius)[:, None], colour, 0, 0)

    def prism(self, outline: Outline, height: float, top: Colour, side: Colour, grain: float = 0.05,
              relief: float = 0.2, lift: float = 0.15) -> 'Pen':
        """A flat-topped body that rises towards the top of the picture; returns the pen for its top."""
        raised = self.raised(height)
        body = np.concatenate([self.pixels(outline), raised.pixels(outline)]).astype(np.float32)
        self._lay(cv2.convexHull(body)[:, 0], side, grain, relief, 0.25, lift, 1.0)
        raised.fill(outline, top, grain, relief * 0.5, 0.15)
        return raised

    @contextmanager
    def inside(self, outline: Outline) -> Iterator[None]:
        """Whatever is painted meanwhile, with whichever pen, ends at this outline."""
        canvas, outer = self.canvas, self.canvas.clip
        clip = np.zeros((canvas.size, canvas.size), np.uint8)
        _cover(clip, self.pixels(outline), (0, 0))
        canvas.clip = clip if outer is None else np.minimum(clip, outer)
        yield
        canvas.clip = outer

    def _lay(self, points: np.ndarray, colour: Colour, grain: float, relief: float, bevel: float, lift: float,
             opacity: float, thickness: int = 0) -> None:
        canvas = self.canvas
        # Taken in any case, so that what is outside the picture, or too small for it, has no effect on the rest.
        offset = self.rng.random(), self.rng.random()
        flat = points.reshape(-1, 2)
        (left, top), (right, bottom) = flat.min(axis=0).tolist(), flat.max(axis=0).tolist()
        if left > canvas.size or top > canvas.size or right < 0 or bottom < 0:
            return
        side = max(2.0, thickness or min(right - left, bottom - top))
        reach = 2 * max(1, int(bevel * side / 4)) + 1
        soften = 2 * int(lift * side) + 1
        # The patch ends where the picture does, but for as much of the surroundings as the blurs below look at.
        margin = thickness // 2 + 2 + max(reach, soften)
        x, y = max(math.floor(left), 0) - margin, max(math.floor(top), 0) - margin
        width = min(math.ceil(right), canvas.size) + margin - x
        height = min(math.ceil(bottom), canvas.size) + margin - y
        cover = np.zeros((height, width), np.uint8)
        _cover(cover, points, (x, y), thickness)
        light_x, light_y = canvas.light
        if lift:
            shift = 0.8 * lift * side
            place, part = canvas.visible(x - round(light_x * shift), y - round(light_y * shift), cover.shape)
            shadow = cv2.blur(cover, (soften, soften), borderType=cv2.BORDER_CONSTANT)[part]
            canvas.image[:, place[0], place[1]] *= 1 - canvas.clipped(shadow, place) * np.float32(0.5 * opacity / 255)
        place, part = canvas.visible(x, y, cover.shape)
        tone: np.ndarray = np.ones((1, 1), np.float32)
        if grain:
            tone = 1 + grain * canvas.texture(place, offset)
        if relief:
            slope = cover
            for _ in range(2):  # one box alone has kinks that show as edges
                slope = cv2.blur(slope, (reach, reach), borderType=cv2.BORDER_CONSTANT)
            across, down = cv2.spatialGradient(slope)
            strength = relief * reach / (8 * 255)  # Sobel's weights make 8 of a slope of one grey level per pixel
            tone = tone - (across[part] * np.float32(strength * light_x) + down[part] * np.float32(strength * light_y))
        cover = canvas.clipped(cover[part], place)
        region = canvas.image[:, place[0], place[1]]
        paint = np.asarray(colour, np.float32).reshape(3, 1, 1) * tone
        region += cover * np.float32(opacity / 255) * (paint - region)
        if opacity > 0.5:
            canvas.mask[place][cover > 127] = self.label


def _cover(cover: np.ndarray, points: np.ndarray, origin: Tuple[int, int], thickness: int = 0) -> None:
    """Set to 255 what the outlines enclose, or with a thickness what a line along them covers; edges in between."""
    fixed = ((points - origin) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    outlines = list(fixed) if fixed.ndim == 3 else [fixed]
    if thickness:
        cv2.polylines(cover, outlines, False, 255, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
    else:
        cv2.fillPoly(cover, outlines, 255, cv2.LINE_AA, _SUBPIXEL_BITS)
