"""The shapes of `Scenes` as implicit functions: a pixel is in where an inequality holds at its center.

Every mask function takes the pixel centers in the shape's own frame (origin at its middle, turned with it):

    u, v         float64 [h, w]
    radius       the shape's size in pixels; a disk, a square and a triangle of one radius have similar areas
    proportion   0..1, what else varies from one ring (or triangle, or crescent) to the next

and returns bool [h, w]. Nothing is anti-aliased: a label has one class a pixel; the camera blurs the picture.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Point = tuple[float, float]  # (y, x), in pixels
MaskFunction = Callable[[FloatArray, FloatArray, float, float], BoolArray]

SQUARE_HALF_SIDE = 0.886  # sqrt(pi) / 2: a square of the disk's area
TRIANGLE_APEX = 1.25  # center to apex, in radii
STAR_TIP = 1.3  # center to tip, in radii
REACH = 1.46  # no shape extends further from its center, in radii (the corner of the widest triangle)

THINNEST_BAND = 1.3  # pixels; a thinner ring would break up into dots
SMALLEST_HOLE = 1.5  # pixels, the radius of a hole that still shows what lies beneath

# The five directions 72 degrees apart in which a star's edges face: cos 72 = (sqrt(5) - 1) / 4, and so on.
ROOT5 = math.sqrt(5.0)
COS72, SIN72 = (ROOT5 - 1) / 4, math.sqrt(10 + 2 * ROOT5) / 4
COS144, SIN144 = -(ROOT5 + 1) / 4, math.sqrt(10 - 2 * ROOT5) / 4
STAR_NORMALS = ((1.0, 0.0), (COS72, SIN72), (COS72, -SIN72), (COS144, SIN144), (COS144, -SIN144))


def own_frame(height: int, width: int, center: Point, direction: Point) -> tuple[FloatArray, FloatArray]:
    """Pixel centers of a [height, width] box in a frame at `center`, turned by (cosine, sine) `direction`."""
    cosine, sine = direction
    y = np.arange(height, dtype=np.float64)[:, None] - center[0]
    x = np.arange(width, dtype=np.float64)[None, :] - center[1]
    return x * cosine + y * sine, y * cosine - x * sine


def band_width(radius: float, proportion: float) -> float:
    """Width of a ring's or a frame's band: 25 to 40 % of the radius, never closing the hole."""
    return min(max((0.25 + 0.15 * proportion) * radius, THINNEST_BAND), radius - SMALLEST_HOLE)


def disk(u: FloatArray, v: FloatArray, radius: float, proportion: float) -> BoolArray:
    """Everything within the radius. Pebbles and seeds are small disks."""
    return u * u + v * v <= radius * radius


def ring(u: FloatArray, v: FloatArray, radius: float, proportion: float) -> BoolArray:
    """A disk with a round hole: only the middle tells it from a disk."""
    hole = radius - band_width(radius, proportion)
    return disk(u, v, radius, proportion) & (u * u + v * v > hole * hole)


def square(u: FloatArray, v: FloatArray, radius: float, proportion: float) -> BoolArray:
    """As large as the disk of this radius."""
    return np.maximum(np.abs(u), np.abs(v)) <= SQUARE_HALF_SIDE * radius


def frame(u: FloatArray, v: FloatArray, radius: float, proportion: float) -> BoolArray:
    """A square with a square hole: only the middle tells it from a square."""
    half_side = SQUARE_HALF_SIDE * radius
    hole = half_side - band_width(half_side, proportion)
    distance = np.maximum(np.abs(u), np.abs(v))
    return (distance <= half_side) & (distance > hole)


def triangle(u: FloatArray, v: FloatArray, radius: float, proportion: float) -> BoolArray:
    """Isosceles, apex up; the base is 0.75 (slender) to 1.2 (flat) times an equilateral triangle's."""
    apex = TRIANGLE_APEX * radius
    half_base = (0.75 + 0.45 * proportion) * 0.866 * apex
    return (v <= apex / 2) & (np.abs(u) * (1.5 * apex) <= half_base * (v + apex))


def star(u: FloatArray, v: FloatArray, radius: float, proportion: float) -> BoolArray:
    """The pentagram: the points on the inner side of at least four of its five edge lines."""
    distance = COS72 * STAR_TIP * radius  # of each edge line from the center
    inner_sides = sum((a * u + b * v <= distance).astype(np.int8) for a, b in STAR_NORMALS)
    return np.asarray(inner_sides >= 4)


def crescent(u: FloatArray, v: FloatArray, radius: float, proportion: float) -> BoolArray:
    """A disk minus a shifted disk of nearly its size: a thick or a thin moon."""
    shift = (0.45 + 0.25 * proportion) * radius
    return disk(u, v, radius, proportion) & ~disk(u - shift, v, 0.9 * radius, proportion)


MASKS: dict[str, MaskFunction] = {
    "disk": disk,
    "ring": ring,
    "square": square,
    "frame": frame,
    "triangle": triangle,
    "star": star,
    "pebble": disk,
    "seed": disk,
    "crescent": crescent,
}


def wire(height: int, width: int, points: Sequence[Point], thickness: float) -> BoolArray:
    """bool [height, width]: the pixels whose centers lie within thickness/2 of the polyline."""
    mask = np.zeros((height, width), dtype=np.bool_)
    margin = thickness / 2 + 1
    for (y0, x0), (y1, x1) in pairwise(points):
        top, bottom = max(math.floor(min(y0, y1) - margin), 0), min(math.ceil(max(y0, y1) + margin), height)
        left, right = max(math.floor(min(x0, x1) - margin), 0), min(math.ceil(max(x0, x1) + margin), width)
        dy, dx = y1 - y0, x1 - x0
        if top >= bottom or left >= right or dy == dx == 0:
            continue
        y = np.arange(top, bottom, dtype=np.float64)[:, None] - y0
        x = np.arange(left, right, dtype=np.float64)[None, :] - x0
        along = np.clip((y * dy + x * dx) / (dy * dy + dx * dx), 0.0, 1.0)  # 0 at the start, 1 at the end
        off_y, off_x = y - along * dy, x - along * dx
        mask[top:bottom, left:right] |= off_y * off_y + off_x * off_x <= thickness * thickness / 4
    return mask


def squared_distance(a: Point, b: Point) -> float:
    """Squared, because it is compared with a square and then needs no root."""
    return (a[0] - b[0]) * (a[0] - b[0]) + (a[1] - b[1]) * (a[1] - b[1])


def bend(start: Point, control: Point, end: Point, pieces: int = 14) -> list[Point]:
    """The quadratic Bezier curve from start to end, pulled towards `control`, as `pieces` straight pieces."""
    curve = []
    for step in range(pieces + 1):
        t = step / pieces
        a, b, c = (1 - t) * (1 - t), 2 * t * (1 - t), t * t
        y = a * start[0] + b * control[0] + c * end[0]
        x = a * start[1] + b * control[1] + c * end[1]
        curve.append((y, x))
    return curve


def dilate(mask: BoolArray) -> BoolArray:
    """The mask and its eight neighbors: [h, w] -> [h, w]."""
    tall = mask.copy()
    tall[1:] |= mask[:-1]
    tall[:-1] |= mask[1:]
    grown = tall.copy()
    grown[:, 1:] |= tall[:, :-1]
    grown[:, :-1] |= tall[:, 1:]
    return grown
