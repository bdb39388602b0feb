"""`Scenes`: a procedural data set in which every idea of the course is needed.

Abstract shapes lie on a dull, textured ground, seen from above, at random places and angles, in vivid colors that
say nothing about their class. What tells a class is, by design, what the papers add one after the other:

    disk / ring, square / frame     pairs that differ only in their middle: a large enough field of view
    pebble / seed                   the same blob, on the ground or on another object: context
    radii over a factor of ten      one class at many sizes: several rates, several scales
    wire                            1 to 3 pixels wide: fine strides, skip connections, the CRF
    crescent                        in one picture in ten: losses for rare classes
    edges of color                  at every contour, and false ones in shadow and ground: what a CRF sees

The label marks the pixels just outside every object's visible contour as void (255), as PASCAL VOC does.
"""

import operator
from typing import Any, SupportsIndex

from numpy.typing import NDArray

from deeplab_lesson.data.datasets import SegmentationDataset, Transform
from deeplab_lesson.data.palette import VOC_PALETTE
from deeplab_lesson.data.scene_canvas import Canvas, Stamp
from deeplab_lesson.data.scene_light import paint_ground, photograph, shading
from deeplab_lesson.data.scene_random import Stream

SHAPES = ("disk", "ring", "square", "frame", "triangle", "star")  # the classes of many sizes
CLASSES = ("background", *SHAPES, "wire", "pebble", "seed", "crescent")
CLASS_ID = {name: class_id for class_id, name in enumerate(CLASSES)}

# A pebble lies on the ground, a seed on an object without a hole; nothing else tells them apart.
GROUND = frozenset({CLASS_ID["background"]})
HOSTS = frozenset(CLASS_ID[name] for name in ("disk", "square", "triangle", "star"))

# Radii at 128x128; they grow with the shorter side. Those of blobs and the width of wires stay in pixels.
SHAPE_RADIUS = (4.0, 40.0)
LARGE_RADIUS = (20.0, 40.0)  # of the first shapes of each picture, so that objects cover a third of it
CRESCENT_RADIUS = (6.0, 16.0)
SMALLEST_RADIUS = 4.0  # pixels: below it neither a network nor a reader could name a shape
WIRE_THICKNESS = (1.1, 3.0)
BLOB_RADIUS = (1.9, 3.2)  # always below the smallest shape's, which is therefore no pebble
REFERENCE_SIZE = 128
SMALLEST_SIZE = 33  # the smallest input that the course's networks take

# Objects a picture: 8 to 12 are planned, and one that finds no place is left out.
LARGE_COUNT = 2
SHAPE_COUNT = (4, 5)  # beside the large ones
WIRE_COUNT = (0, 2)
BLOB_COUNT = (2, 3)
CRESCENT_CHANCE = 0.1
PLACE_TRIES = 10

SPLITS = {"train": 4096, "val": 512, "test": 512}  # and their default lengths


class Scenes(SegmentationDataset):
    """Pictures of abstract shapes with exact labels, drawn when they are read; nothing is stored.

    `read(i)` gives image uint8 [H, W, 3] and label uint8 [H, W] (0..10 and 255 = void) and, where
    `instances=True`, int32 [H, W]: 1..K, one number an object, and 0 on background and void. `dataset[i]` is
    the same, put through `transform`. A picture depends on (seed, split, i, size) only: it is the same, to
    the last bit, on every machine, in every worker and in any order of reading.

    Args:
        split: "train", "val" or "test"; their pictures have nothing in common.
        size: (height, width) in pixels, each at least 33. Shapes scale with the shorter side, down to a
            radius of 4 pixels; wires, pebbles and seeds do not. Below 64 pixels a picture is crowded.
        length: the number of pictures; by default 4096, 512 and 512.
        seed: a non-negative integer; another seed is another data set.
        transform: called with (image, label) or, with `instances=True`, with (image, label, instance map).
        instances: also give the map of instances, as panoptic segmentation needs it.

    Raises:
        ValueError: for an unknown split, a size below 33, a length below 1 or a negative seed.
        TypeError: where size, length, seed or an index is not made of integers.
        IndexError: for an index beyond the length; negative ones count from the end.
    """

    classes = CLASSES
    palette = VOC_PALETTE

    def __init__(
        self,
        split: str,
        size: tuple[int, int] = (REFERENCE_SIZE, REFERENCE_SIZE),
        length: int | None = None,
        seed: int = 0,
        transform: Transform | None = None,
        instances: bool = False,
    ) -> None:
        if split not in list(SPLITS):
            raise ValueError(f"split is {split!r}: Scenes has {', '.join(SPLITS)}; name one of these")
        self.transform = transform
        self.split = split
        self.size = _checked_size(size)
        self.length = SPLITS[split] if length is None else _integer("length", length, least=1)
        self.seed = _integer("seed", seed, least=0)
        self.instances = instances

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        """For example "val_00007"."""
        return f"{self.split}_{self._position(index):05d}"

    def read(self, index: int) -> tuple[NDArray[Any], ...]:
        """Draw picture `index`: (image, label) or, with `instances=True`, (image, label, instance map)."""
        height, width = self.size
        split_number = tuple(SPLITS).index(self.split)
        stream = Stream(split_number, self._position(index), height, width, self.seed)
        canvas = Canvas(paint_ground(height, width, stream))
        _lay_objects(canvas, stream)
        image = photograph(canvas.colors, shading(height, width, stream), stream)
        if self.instances:
            return image, canvas.label, canvas.instances
        return image, canvas.label

    def _position(self, index: int) -> int:
        position = _integer("index", index)
        if not -self.length <= position < self.length:
            raise IndexError(
                f"index {position} is out of range: this Scenes holds {self.length} pictures, "
                f"0 to {self.length - 1}; use one of these, or ask for more with length="
            )
        return position % self.length


def _lay_objects(canvas: Canvas, stream: Stream) -> None:
    """Lay the planned objects in random order; what finds no place gets a second chance at the end.

    That is how a seed waits for its host.
    """
    objects = stream.shuffled(_plan_objects(min(canvas.height, canvas.width) / REFERENCE_SIZE, stream))
    left_over = [each for each in objects if not _lay(canvas, *each, stream)]
    for each in left_over:
        _lay(canvas, *each, stream)


def _plan_objects(scale: float, stream: Stream) -> list[tuple[str, float]]:
    """Class and size (radius or, of a wire, thickness; in pixels) of the objects of one picture."""

    def scaled(name: str, radii: tuple[float, float]) -> tuple[str, float]:
        return name, stream.log_uniform(max(radii[0] * scale, SMALLEST_RADIUS), radii[1] * scale)

    objects = [scaled(stream.choice(SHAPES), LARGE_RADIUS) for _ in range(LARGE_COUNT)]
    objects += [scaled(stream.choice(SHAPES), SHAPE_RADIUS) for _ in range(stream.integer(*SHAPE_COUNT))]
    if stream.chance(CRESCENT_CHANCE):
        objects[-1] = scaled("crescent", CRESCENT_RADIUS)
    objects += [("wire", stream.uniform(*WIRE_THICKNESS)) for _ in range(stream.integer(*WIRE_COUNT))]
    for _ in range(stream.integer(*BLOB_COUNT)):
        objects.append((stream.choice(("pebble", "seed")), stream.uniform(*BLOB_RADIUS)))
    return objects


def _lay(canvas: Canvas, name: str, size: float, stream: Stream) -> bool:
    """Lay one object of the class; False if it found no place that hides no other object too much."""
    for _ in range(PLACE_TRIES):
        stamp = _place(canvas, name, size, stream)
        if stamp is not None and canvas.paint(CLASS_ID[name], stamp, stream):
            return True
    return False


def _place(canvas: Canvas, name: str, size: float, stream: Stream) -> Stamp | None:
    if name == "wire":
        return canvas.wire(size, stream)
    if name == "pebble":
        return canvas.blob(size, GROUND, stream)
    if name == "seed":
        return canvas.blob(size, HOSTS, stream)
    return canvas.shape(name, size, stream)


def _integer(what: str, value: object, least: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{what} is {value!r}, a {type(value).__name__}: give an integer")
    number = operator.index(value)
    if least is not None and number < least:
        raise ValueError(f"{what} is {number}: give an integer of at least {least}")
    return number


def _checked_size(size: object) -> tuple[int, int]:
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise TypeError(f"size is {size!r}: give two integers, (height, width), for example (128, 128)")
    height, width = size
    return _integer("height in size", height, SMALLEST_SIZE), _integer("width in size", width, SMALLEST_SIZE)
