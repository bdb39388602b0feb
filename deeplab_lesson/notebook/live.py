"""The life of an interactive figure with a kernel: ipywidgets that draw any value.

Only what ipywidgets 7.7.1 has is used, because that is Colab's version; 8 has it, too.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deeplab_lesson.notebook.controls import Control, setting_text

VIEW = "application/vnd.jupyter.widget-view+json"


class LiveFigure:
    """Widgets around one picture, which is drawn anew when a control changes.

    Args:
        controls: one slider or list of choices each.
        picture: draws a setting; it returns the HTML of the picture and of the line below the controls.
        caption: a line below the picture.
    """

    def __init__(
        self, controls: Sequence[Control], picture: Callable[[Mapping[str, Any]], tuple[str, str]], caption: str = ""
    ) -> None:
        import ipywidgets

        self.controls = {control.name: _widget(ipywidgets, control) for control in controls}
        self.line = ipywidgets.HTML()
        self.picture = ipywidgets.HTML()
        rows = [*self.controls.values(), self.line, self.picture]
        if caption:
            rows.append(ipywidgets.HTML(html.escape(caption)))
        self.box = ipywidgets.VBox(rows)
        self._draw = picture
        self.picture.value, self.line.value = picture(self.values)  # an error here is shown by the cell itself
        for widget in self.controls.values():
            widget.observe(self._redraw, names="value")

    @property
    def values(self) -> dict[str, Any]:
        """What the controls are set to; 0.3, where a slider's arithmetic says 0.30000000000000004."""
        return {
            name: round(widget.value, 6) if isinstance(widget.value, float) else widget.value
            for name, widget in self.controls.items()
        }

    def _redraw(self, change: object) -> None:
        values = self.values
        try:
            self.picture.value, self.line.value = self._draw(values)
        except Exception as error:  # otherwise the old picture would stand beside the new setting, and nothing be said
            message = f"{setting_text(values)} cannot be drawn. {type(error).__name__}: {error}"
            self.picture.value, self.line.value = f"<p>{html.escape(message)}</p>", ""

    def bundle(self) -> dict[str, Any]:
        """What a notebook needs to show the widgets."""
        return {VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}}


def _widget(ipywidgets: Any, control: Control) -> Any:
    style = {"description_width": "initial"}  # a long name would be cut
    if not control.numeric:
        choices = list(zip(control.texts, control.values, strict=True))
        return ipywidgets.Dropdown(options=choices, description=control.title, style=style)
    options = {
        "min": control.values[0],
        "max": control.values[-1],
        "step": control.step,
        "value": control.values[0],
        "description": control.title,
        "continuous_update": False,  # draw when the hand rests: a kernel that is far away could not follow
        "style": style,
    }
    if isinstance(control.step, int):
        return ipywidgets.IntSlider(**options)
    return ipywidgets.FloatSlider(readout_format=f".{control.decimals}f", **options)
