"""What the ground and the light add to `Scenes`: textures, patches, blotches, shadows and the camera.

The ground is duller than the objects, so that finding *something* is quick to learn; nothing tells one class
from another. Textures are the same everywhere. Patches, blotches and shadows make edges in the picture that are no
edges in the label.
"""

import numpy as np
from numpy.typing import NDArray

from deeplab_lesson.data.scene_random import Stream
from deeplab_lesson.data.shapes import own_frame

Int16Array = NDArray[np.int16]

TEXTURES = ("plain", "stripes", "checks", "speckle")
TEXTURE_AMPLITUDE = (5, 13)  # gray levels up and down, so that its own edges stay below an object's
TEXTURE_CELL = (2.0, 7.0)  # width of a stripe or a check, in pixels

BRIGHTNESS = (70, 205)  # of a color's gray part; leaves room for light and shadow
GROUND_TINT = 16  # each channel differs from the gray part by up to this: the ground is nearly gray
OBJECT_TINT = 75
LEAST_VIVID = 60  # between an object's strongest and weakest channel, more than the ground's ever is

FURTHER_PATCHES = (0, 2)  # of ground, beside the first
BLOTCHES = (2, 5)
BLOTCH_TINT = 20  # gray levels at a blotch's middle

SHADOWS = (0, 2)
SHADOW_FACTOR = (0.55, 0.8)
HARD_SHADOW = 1.0  # width of the transition, in pixels
SOFT_SHADOW = (8.0, 24.0)
LIGHT_GRADIENT = 0.18  # the light changes by up to this fraction from the middle to the edge

SUBLEVELS = 16  # the camera computes in sixteenths of a gray level
NOISE_SIGMA = (4.0, 6.0)  # gray levels


def ground_color(stream: Stream) -> tuple[int, int, int]:
    """A dull color."""
    return _tinted(GROUND_TINT, stream)


def object_color(stream: Stream) -> tuple[int, int, int]:
    """A vivid color, of the one distribution from which objects of every class take theirs."""
    while True:
        color = _tinted(OBJECT_TINT, stream)
        if max(color) - min(color) >= LEAST_VIVID:
            return color


def _tinted(tint: int, stream: Stream) -> tuple[int, int, int]:
    gray = stream.integer(*BRIGHTNESS)
    red, green, blue = (gray + stream.integer(-tint, tint) for _ in range(3))
    return red, green, blue


def texture(height: int, width: int, stream: Stream) -> Int16Array:
    """int16 [height, width]: gray levels to add to a surface's color."""
    kind = stream.choice(TEXTURES)
    amplitude = stream.integer(*TEXTURE_AMPLITUDE)
    if kind == "plain":
        return np.zeros((height, width), dtype=np.int16)
    if kind == "speckle":
        levels = stream.bytes(height * width).astype(np.int16).reshape(height, width) - 128
        return levels * np.int16(amplitude) >> 6  # twice the amplitude: the camera's blur halves it
    cell = stream.uniform(*TEXTURE_CELL)
    phase = (stream.uniform(-50, -40), stream.uniform(-50, -40))
    u, v = own_frame(height, width, phase, stream.direction())
    parity = np.floor(u / cell).astype(np.int16) & 1
    if kind == "checks":
        parity ^= np.floor(v / cell).astype(np.int16) & 1
    return (2 * parity - 1) * np.int16(amplitude)


def paint_ground(height: int, width: int, stream: Stream) -> Int16Array:
    """int16 [height, width, 3], about 0..255: one to three textured patches, and soft blotches on them.

    A patch ends at a straight or curved border that crosses the picture; both of its sides are background.
    """
    ground = np.empty((height, width, 3), dtype=np.int16)
    ground[:] = ground_color(stream)
    ground += texture(height, width, stream)[:, :, None]
    for _ in range(stream.integer(*FURTHER_PATCHES)):
        patch = np.asarray(ground_color(stream), dtype=np.int16) + texture(height, width, stream)[:, :, None]
        u, v = own_frame(height, width, random_point(height, width, stream), stream.direction())
        curvature = stream.choice((0.0, stream.uniform(-1, 1))) / max(height, width)
        np.copyto(ground, patch, where=(u > curvature * v * v)[:, :, None])
    for _ in range(stream.integer(*BLOTCHES)):
        _add_blotch(ground, stream)
    return ground


def random_point(height: int, width: int, stream: Stream) -> tuple[float, float]:
    """A place (y, x) anywhere in the picture."""
    return stream.uniform(0, height - 1), stream.uniform(0, width - 1)


def _add_blotch(ground: Int16Array, stream: Stream) -> None:
    """Add a round stain that fades to nothing, so that it has no edge."""
    height, width, _ = ground.shape
    y, x = random_point(height, width, stream)
    radius = stream.uniform(0.06, 0.25) * min(height, width)
    top, bottom = max(int(y - radius), 0), min(int(y + radius) + 2, height)
    left, right = max(int(x - radius), 0), min(int(x + radius) + 2, width)
    u, v = own_frame(bottom - top, right - left, (y - top, x - left), (1.0, 0.0))
    fade = np.maximum(1 - (u * u + v * v) / (radius * radius), 0.0)
    levels = (256 * (fade * fade)).astype(np.int16)  # 0..256
    for channel in range(3):
        tint = np.int16(stream.integer(-BLOTCH_TINT, BLOTCH_TINT))
        ground[top:bottom, left:right, channel] += levels * tint >> 8


def shading(height: int, width: int, stream: Stream) -> NDArray[np.int32]:
    """int32 [height, width]: the light at each pixel in 1/1024, a gradient across the picture and shadows.

    A shadow is the dark side of a line or a long ellipse; half of them have hard edges. It falls on ground
    and objects and multiplies all three channels by one factor: that tells its edge from an object's.
    """
    across, _ = own_frame(height, width, ((height - 1) / 2, (width - 1) / 2), stream.direction())
    light = 1 + (stream.uniform(-1, 1) * LIGHT_GRADIENT * 2 / max(height, width)) * across
    for _ in range(stream.integer(*SHADOWS)):
        factor = stream.uniform(*SHADOW_FACTOR)
        transition = HARD_SHADOW if stream.chance(0.5) else stream.uniform(*SOFT_SHADOW)
        u, v = own_frame(height, width, random_point(height, width, stream), stream.direction())
        if stream.chance(0.5):
            depth = u  # pixels inside the shadow's edge
        else:
            short = stream.uniform(0.2, 0.35) * min(height, width)
            long = stream.uniform(1.8, 3.0) * short  # long enough not to be taken for a disk
            depth = short * (1 - np.sqrt(u * u / (long * long) + v * v / (short * short)))
        coverage = np.clip(depth / transition + 0.5, 0.0, 1.0)
        light *= 1 - (1 - factor) * coverage
    return (light * 1024).astype(np.int32)


def photograph(colors: Int16Array, light: NDArray[np.int32], stream: Stream) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: the lit surface through a lens that blurs, [1 2 1]x[1 2 1]/16, on a noisy sensor."""
    exact = colors.astype(np.int32) * light[:, :, None] >> 6  # sixteenths of a gray level
    blurred = _blur(_blur(exact).transpose(1, 0, 2)).transpose(1, 0, 2)
    sigma = stream.uniform(*NOISE_SIGMA) * SUBLEVELS
    noisy = (blurred >> 4) + stream.noise(blurred.shape, sigma) + SUBLEVELS // 2
    picture: NDArray[np.uint8] = np.clip(noisy // SUBLEVELS, 0, 255).astype(np.uint8)
    return picture


def _blur(levels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Four times the [1 2 1] / 4 mean along the first axis; the border repeats."""
    result = 2 * levels
    result[1:] += levels[:-1]
    result[:-1] += levels[1:]
    result[0] += levels[0]
    result[-1] += levels[-1]
    return result
