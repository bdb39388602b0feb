"""Interactive figures with two lives: widgets where there is a kernel, frames and a plain slider where not."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deeplab_lesson.notebook.controls import Control, combinations, read_controls, setting_text
from deeplab_lesson.notebook.frames import Frame, encode, encode_within, raster
from deeplab_lesson.notebook.live import LiveFigure
from deeplab_lesson.notebook.slider import slider_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

LIMIT = 400_000  # bytes of one slider in a page, with its frames, texts, script and style
MOST_FRAMES = 60  # drawing more would hold up the build

Words = str | Callable[..., str]


def explore(
    draw: Callable[..., Figure],
    *,
    alt: Words,
    label: Words | None = None,
    caption: str = "",
    live: bool | None = None,
    **controls: Iterable[Any],
) -> Exploration:
    """Make a figure that a reader can change. End a cell with it.

    >>> explore(draw_kernel, rate=[1, 2, 4], kernel=[3, 5], alt="A {kernel}x{kernel} kernel at rate {rate}.")

    Where a kernel runs, it is ipywidgets: a slider goes in steps from the first to the last number, also through
    values between those listed. On a page of the book it is the listed values as pictures drawn in advance, behind
    range inputs; with two controls, every combination.

    Args:
        draw: called as draw(rate=1, kernel=3); returns a matplotlib figure, of one size for all values.
        alt: what the picture shows, for those who do not see it. A format string with the controls' names in it, or a
            function like `draw` that returns a text. It must differ from picture to picture, as they do.
        label: a line below the controls, made in the same way, that says what the setting comes to.
        caption: a line below the picture, the same for all.
        live: True asks for widgets, False for frames that drive themselves, as in a notebook that is passed on to be
            read without a kernel. By default widgets where there is a kernel, unless DEEPLAB_STATIC=1 asks for the
            book's form.
        **controls: one or two parameters of `draw`, each with its values: ascending numbers, or choices.

    Raises:
        TypeError: values that are not a list; `draw` returned no figure; words that are no text.
        ValueError: what the message says about controls, an alt text that does not change, frames of different sizes,
            or more than 400 kB in all.
    """
    return Exploration(draw, read_controls(controls), alt=alt, label=label, caption=caption, live=live)


class Exploration:
    """What `explore` returns. A notebook shows it in the form that was asked for."""

    def __init__(
        self,
        draw: Callable[..., Figure],
        controls: tuple[Control, ...],
        *,
        alt: Words,
        label: Words | None,
        caption: str,
        live: bool | None,
    ) -> None:
        self._draw, self._controls = draw, controls
        self._alt, self._label, self._caption = alt, label, caption
        self.live: LiveFigure | None = None
        self._html = ""
        on_page = os.environ.get("DEEPLAB_STATIC") == "1"
        if _kernel_runs() and not on_page if live is None else live:
            self.live = LiveFigure(controls, self._current, caption)
        else:
            self._html = self.html(drives_itself=not on_page)

    def html(self, *, drives_itself: bool = True) -> str:
        """The figure with all its frames as HTML. It drives itself, or leaves that to the page's explore.js."""
        settings = combinations(self._controls)
        if len(settings) > MOST_FRAMES:
            raise ValueError(
                f"{len(settings)} frames, one for each combination of the controls' values: allowed are {MOST_FRAMES}; "
                "give fewer values. With a kernel, the values between them are drawn, too"
            )
        names = [setting_text(setting) for setting in settings]
        alts = [_words(self._alt, "alt", setting) for setting in settings]
        _refuse_twins(alts, names)
        labels = [_words(self._label, "label", setting) for setting in settings] if self._label else []

        def written(frames: Sequence[Frame]) -> str:
            return slider_html(
                self._controls, frames, alts, labels=labels, caption=self._caption, drives_itself=drives_itself
            )

        room = LIMIT - len(written([Frame(b"", 1000, 1000)] * len(settings)).encode())
        return written(encode_within([self._image(setting) for setting in settings], room, names))

    def _image(self, setting: Mapping[str, Any]) -> Image.Image:
        from matplotlib.figure import Figure

        try:
            figure = self._draw(**setting)
        except Exception as error:
            error.add_note(f"raised while explore drew {setting_text(setting)}")
            raise
        if not isinstance(figure, Figure):
            raise TypeError(
                f"draw({setting_text(setting)}) returned {type(figure).__name__}: it must return the matplotlib figure "
                "that it drew (for axes, axes.figure)"
            )
        return raster(figure)

    def _current(self, setting: Mapping[str, Any]) -> tuple[str, str]:
        picture = encode(self._image(setting)).html(_words(self._alt, "alt", setting))
        return picture, html.escape(_words(self._label, "label", setting)) if self._label else ""

    def __repr__(self) -> str:
        values = "; ".join(f"{control.title} {' | '.join(control.texts)}" for control in self._controls)
        return f"<explore: {values}>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        shown = self.live.bundle() if self.live else {"text/html": self._html}
        return {"text/plain": repr(self), **shown}


def _words(words: Words, what: str, setting: Mapping[str, Any]) -> str:
    """The text for one setting, from a format string or a function."""
    try:
        text = words.format(**setting) if isinstance(words, str) else words(**setting)
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"{what} asks for {error.args[0]!r}: allowed in its braces are the controls, {', '.join(setting)}"
        ) from error
    if not isinstance(text, str):
        raise TypeError(f"{what} gave {type(text).__name__} for {setting_text(setting)}: it must be a text")
    if not text.strip():
        raise ValueError(f"{what} is empty for {setting_text(setting)}: say in words what is there to see")
    return text


def _refuse_twins(alts: Sequence[str], names: Sequence[str]) -> None:
    """Two pictures that differ need two texts: a reader who hears them would not notice the slider's move."""
    first: dict[str, str] = {}
    for alt, name in zip(alts, names, strict=True):
        if alt in first:
            raise ValueError(
                f"the alt text of {name} is that of {first[alt]}, {alt!r}: say what changes, with the controls' "
                "names in braces, as in alt='... at rate {rate}'"
            )
        first[alt] = name


def _kernel_runs() -> bool:
    """True in Jupyter and Colab; False in a script, in IPython's terminal and where there are no widgets."""
    try:
        import ipywidgets  # noqa: F401
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None  # type: ignore[no-untyped-call,unused-ignore]
