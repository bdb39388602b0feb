"""The life of an interactive figure without a kernel: all frames in the page, and plain controls that choose one."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from deeplab_lesson.notebook.controls import Control
from deeplab_lesson.notebook.frames import Frame


def slider_html(
    controls: Sequence[Control],
    frames: Sequence[Frame],
    alts: Sequence[str],
    *,
    labels: Sequence[str] = (),
    caption: str = "",
    drives_itself: bool,
) -> str:
    """Write one <figure>, which holds everything it needs and no id: many of them can stand in one page.

    Without scripts (GitHub's view of a notebook, a page of which the script did not load) it is the first frame with
    controls that are visibly off.

    Args:
        controls: one or two. The frames are in the order of `combinations(controls)`.
        alts, labels: one for each frame. A label is the line below the controls; it may be left out.
        drives_itself: carry script and style along, for a notebook. The book's pages have them as files.
    """
    rows = "".join(_control_html(control) for control in controls)
    pictures = "".join(
        frame.html(alt, hidden=place > 0) for place, (frame, alt) in enumerate(zip(frames, alts, strict=True))
    )
    line = ""
    if labels:
        texts = html.escape(json.dumps(list(labels), ensure_ascii=False))
        line = f'<p class="explore-label" aria-live="polite" data-texts="{texts}">{html.escape(labels[0])}</p>'
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    own = f"<style>{asset('explore.css')}</style><script>{asset('explore.js')}</script>" if drives_itself else ""
    return (
        f'<figure class="deeplab-explore"><div class="explore-controls">{rows}</div>{line}'
        f'<div class="explore-frames">{pictures}</div>{below}{own}</figure>'
    )


def _control_html(control: Control) -> str:
    texts = control.texts
    title = html.escape(control.title)
    if not control.numeric:
        options = "".join(f"<option>{html.escape(text)}</option>" for text in texts)
        return (
            f'<label class="explore-control"><span>{title}</span>'
            f'<select autocomplete="off" disabled>{options}</select></label>'
        )
    # The range counts frames and not values, which may lie unevenly. What it stands for is said in aria-valuetext.
    # autocomplete: Firefox would bring back the position of an earlier visit.
    listed, first = html.escape(json.dumps(texts)), html.escape(texts[0])
    width = max(map(len, texts))  # of the longest value: the line must not move when the value changes
    return (
        f'<label class="explore-control"><span>{title}</span><input type="range" min="0" max="{len(texts) - 1}" '
        f'step="1" value="0" data-texts="{listed}" aria-valuetext="{first}" autocomplete="off" disabled>'
        f'<span class="explore-value" aria-hidden="true" style="min-width:{width}ch">{first}</span></label>'
    )


@cache
def asset(name: str) -> str:
    """The text of explore.js or explore.css. The book serves the same files."""
    return (files("deeplab_lesson.notebook") / "static" / name).read_text(encoding="utf-8")
