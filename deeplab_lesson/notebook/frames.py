"""A figure as a picture in HTML: sharp, small, of a stated size, and described in words."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS_PER_INCH = 100  # of the page; a figure of 6 inches is 600 pixels wide there
SHARPNESS = 2  # pixels of the picture for one of the page: screens of phones and laptops show them
COLORS = 256  # what remains where exact frames would be too large


@dataclass(frozen=True)
class Frame:
    """A picture as the bytes of a WebP file, and its size on the page in CSS pixels."""

    data: bytes
    width: int
    height: int

    def html(self, alt: str, *, hidden: bool = False) -> str:
        """An <img> that carries its own bytes. It keeps its white ground and its colors on a dark page.

        `alt` says in words what the picture shows. `hidden` leaves the picture in the page without showing it.
        """
        source = base64.b64encode(self.data).decode("ascii")
        return (
            # dark-light: the name by which the book's theme knows pictures that its dark mode must not filter
            f'<img class="dark-light" src="data:image/webp;base64,{source}" alt="{html.escape(alt)}" '
            f'width="{self.width}" height="{self.height}" style="max-width:100%;height:auto" '
            f'decoding="sync"{" hidden" if hidden else ""}>'
        )


def raster(figure: Figure) -> Image.Image:
    """Draw a figure at 200 pixels an inch on white, whatever the notebook's settings are, and close it."""
    import matplotlib
    from matplotlib import pyplot as plt

    buffer = io.BytesIO()
    with matplotlib.rc_context({"savefig.bbox": None}):  # "tight" would give each frame a size of its own
        figure.savefig(buffer, format="png", dpi=SHARPNESS * PIXELS_PER_INCH, facecolor="white", transparent=False)
    plt.close(figure)  # or the notebook would show it once more below the cell
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


def encode(image: Image.Image, colors: int | None = None) -> Frame:
    """Compress a picture from `raster` without loss, or with the few colors that come nearest to its own."""
    if colors is not None:
        image = image.quantize(colors, dither=Image.Dither.NONE).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, format="webp", lossless=True, quality=80, method=4)  # quality: of the search, not of the picture
    return Frame(buffer.getvalue(), round(image.width / SHARPNESS), round(image.height / SHARPNESS))


def encode_within(images: Sequence[Image.Image], limit: int, names: Sequence[str]) -> list[Frame]:
    """Compress the frames of one slider so that together they take at most `limit` bytes of the page.

    Colors are exact where that fits. Otherwise each frame is reduced to 256 colors: areas of one color stay as they
    are to the eye, and the blended pixels at the edges of text and lines change a little.

    Raises:
        ValueError: frames of different sizes, or frames that are too large with 256 colors, too.
    """
    sizes = {image.size: name for name, image in zip(names, images, strict=True)}
    if len(sizes) > 1:
        (one, name), (other, last) = list(sizes.items())[:2]
        raise ValueError(
            f"the frames differ in size, and the page would jump: {_inches(one)} for {name}, {_inches(other)} for "
            f"{last}. Give every figure the same figsize"
        )
    for colors in (None, COLORS):
        frames = [encode(image, colors) for image in images]
        bytes_on_page = [base64_length(len(frame.data)) for frame in frames]
        if sum(bytes_on_page) <= limit:
            return frames
    largest = max(range(len(frames)), key=bytes_on_page.__getitem__)
    raise ValueError(
        f"the {len(frames)} frames of this slider take {sum(bytes_on_page) / 1000:.0f} kB of the page, and allowed "
        f"are {limit / 1000:.0f} kB. The largest is {names[largest]} with {bytes_on_page[largest] / 1000:.0f} kB. Give "
        f"fewer values, or draw a smaller figure (now {frames[0].width} x {frames[0].height} pixels) or one "
        "of fewer colors"
    )


@dataclass(frozen=True)
class Shown:
    """HTML for a notebook, and a line of text for a terminal and for the stored chapter."""

    line: str
    html: str

    def __repr__(self) -> str:
        return self.line

    def _repr_html_(self) -> str:
        return self.html


def figure_html(picture: str, caption: str = "") -> str:
    """A picture from `Frame.html` with a line of text below it."""
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="deeplab-figure" style="margin:0.5rem 0">{picture}{below}</figure>'


def base64_length(count: int) -> int:
    """How many characters `count` bytes take in a page."""
    return 4 * -(-count // 3)


def _inches(size: tuple[int, int]) -> str:
    return " x ".join(f"{length / SHARPNESS / PIXELS_PER_INCH:g}" for length in size) + " inches"
