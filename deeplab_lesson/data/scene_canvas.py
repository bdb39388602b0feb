"""The painter of `Scenes`: lays one object after the other, and keeps colors, label and instances in step."""

import math
from dataclasses import dataclass

import numpy as np

from deeplab_lesson.data import shapes
from deeplab_lesson.data.palette import VOID
from deeplab_lesson.data.scene_light import Int16Array, object_color, random_point, texture
from deeplab_lesson.data.scene_random import Stream

LEAST_VISIBLE = 0.25  # of each object's area, whatever is laid on it later
LEAST_INSIDE = 0.5  # of a shape's area, where the picture's border cuts it
MIN_CONTRAST = 48  # gray levels in some channel between an object's color and what lies around it ...
CONTRASTED_PART = 0.9  # ... along this part of its contour
COLOR_TRIES = 12

WIRE_SPAN = 0.6  # least distance between a wire's ends, in parts of the picture's shorter side
BLOB_CLEARANCE = 3.0  # pixels of ground around a pebble, of its host around a seed (which is then no frame)
ROOM_TRIES = 80


@dataclass(frozen=True)
class Stamp:
    """A shape at its place: the mask bool [h, w], cut at the picture's border, and its top left corner."""

    mask: shapes.BoolArray
    top: int
    left: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Where in the picture the mask lies."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


class Canvas:
    """A picture being painted.

    Attributes:
        colors     int16 [H, W, 3], 0..255 and a little beyond, before light and camera
        label      uint8 [H, W], class ids and VOID
        instances  int32 [H, W], 1..K in the order of painting, 0 for ground and void
        classes    the class of each instance; entry 0 stands for the ground
    """

    def __init__(self, ground: Int16Array) -> None:
        self.height, self.width, _ = ground.shape
        self.colors = ground
        self.label = np.zeros((self.height, self.width), dtype=np.uint8)
        self.instances = np.zeros((self.height, self.width), dtype=np.int32)
        self.classes = [0]
        self._painted = [0]  # pixels of each instance when it was painted
        self._visible = np.zeros(1, dtype=np.int64)  # and those still visible

    def paint(self, class_id: int, stamp: Stamp, stream: Stream) -> bool:
        """Lay an object on all others, with a ring of void around it; False if it would hide one too much."""
        footprint = shapes.dilate(stamp.mask)
        outline = footprint & ~stamp.mask
        instances = self.instances[stamp.window]
        covered = np.bincount(instances[footprint], minlength=len(self.classes))
        covered[0] = 0  # covering ground hides nothing
        remaining = self._visible - covered
        if (remaining < LEAST_VISIBLE * np.asarray(self._painted)).any() or not outline.any():
            return False

        height, width = stamp.mask.shape
        color = self._distinct_color(self.colors[stamp.window][outline], stream)
        surface = np.asarray(color, dtype=np.int16) + texture(height, width, stream)[:, :, None]
        np.copyto(self.colors[stamp.window], surface, where=stamp.mask[:, :, None])
        label = self.label[stamp.window]
        label[outline], label[stamp.mask] = VOID, class_id
        instances[outline], instances[stamp.mask] = 0, len(self.classes)

        area = int(stamp.mask.sum())
        self.classes.append(class_id)
        self._painted.append(area)
        self._visible = np.append(remaining, area)
        return True

    def _distinct_color(self, surroundings: Int16Array, stream: Stream) -> tuple[int, int, int]:
        """The first random color that differs from its surroundings [n, 3] along most of the contour."""
        best, best_part = object_color(stream), -1.0
        for _ in range(COLOR_TRIES):
            color = object_color(stream)
            contrast = np.abs(surroundings - np.asarray(color, dtype=np.int16)).max(axis=1)
            part = int((contrast >= MIN_CONTRAST).sum()) / len(contrast)
            if part >= CONTRASTED_PART:
                return color
            if part > best_part:
                best, best_part = color, part
        return best

    def shape(self, name: str, radius: float, stream: Stream) -> Stamp | None:
        """A shape anywhere in the picture, at any angle; None if the border cuts off more than half of it."""
        center = random_point(self.height, self.width, stream)
        reach = math.ceil(shapes.REACH * radius) + 2
        top, left = math.floor(center[0]) - reach, math.floor(center[1]) - reach
        size = 2 * reach + 2
        u, v = shapes.own_frame(size, size, (center[0] - top, center[1] - left), stream.direction())
        whole = shapes.MASKS[name](u, v, radius, stream.uniform(0, 1))
        inside = whole[max(-top, 0) : self.height - top, max(-left, 0) : self.width - left]
        if inside.sum() < LEAST_INSIDE * whole.sum():
            return None
        return Stamp(inside, max(top, 0), max(left, 0))

    def wire(self, thickness: float, stream: Stream) -> Stamp:
        """A wire across the picture: straight, with one kink, or (half of them) a smooth curve."""
        span = WIRE_SPAN * min(self.height, self.width)
        start, middle, end = (random_point(self.height, self.width, stream) for _ in range(3))
        while shapes.squared_distance(start, end) < span * span:
            start, end = (random_point(self.height, self.width, stream) for _ in range(2))
        curve = shapes.bend(start, middle, end)
        points = stream.choice(([start, end], [start, middle, end], curve, curve))
        return Stamp(shapes.wire(self.height, self.width, points, thickness), 0, 0)

    def blob(self, radius: float, hosts: frozenset[int], stream: Stream) -> Stamp | None:
        """A small disk that lies, clearance and all, on one object of a class in `hosts` (0 is the ground).

        None if no such place was found.
        """
        reach = math.ceil(radius + BLOB_CLEARANCE) + 1
        for _ in range(ROOM_TRIES):
            y = stream.uniform(reach, self.height - 1 - reach)
            x = stream.uniform(reach, self.width - 1 - reach)
            middle_y, middle_x = math.floor(y), math.floor(x)
            if int(self.label[middle_y, middle_x]) not in hosts:
                continue
            top, left = middle_y - reach, middle_x - reach
            u, v = shapes.own_frame(2 * reach + 2, 2 * reach + 2, (y - top, x - left), (1.0, 0.0))
            stamp = Stamp(shapes.disk(u, v, radius, 0.0), top, left)
            around = shapes.disk(u, v, radius + BLOB_CLEARANCE, 0.0)
            same_host = self.instances[stamp.window] == self.instances[middle_y, middle_x]
            if not (around & ~(same_host & (self.label[stamp.window] != VOID))).any():
                return stamp
        return None
