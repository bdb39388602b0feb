"""The small HTML cards that exercises and quizzes show, readable on a light and on a dark page.

Colors of text and ground are the page's own; a mark and a word say what the colored edge says. No script, no ids and
no style sheet: the same HTML serves the page, Colab and JupyterLab. Where styles are removed, the text stays.
"""

from html import escape

EDGES = {"correct": "#009E73", "wrong": "#D55E00", "not attempted": "#767676", "hint": "#0072B2"}
MARKS = {"correct": "✓", "wrong": "✗", "not attempted": "○"}
BOX = "border-left: 4px solid {edge}; padding: 0.3em 0 0.3em 0.8em; margin: 0.3em 0; overflow-wrap: anywhere"
SOURCE = "white-space: pre-wrap; overflow-wrap: anywhere; color: inherit; background: transparent; border: 0; margin: 0"
CODE = (
    "color: inherit; background: transparent; border: 0"  # the theme makes code light on dark pages, not outputs dark
)


def outcome_card(outcome: str, title: str, text: str) -> str:
    """A card for the outcome of a check. `text` is plain, whatever it holds."""
    head = f"{MARKS[outcome]} {outcome.capitalize()}"
    body = f'<div style="white-space: pre-line">{escape(text[0].upper() + text[1:])}</div>' if text else ""
    return _box(EDGES[outcome], f"<div><strong>{head}</strong> &middot; {escape(title)}</div>{body}")


def collapsed(parts: list[tuple[str, str]]) -> str:
    """Texts that open on a click: (what is seen first, HTML behind it)."""
    items = (f"<details><summary>{escape(seen)}</summary>{behind}</details>" for seen, behind in parts)
    return _box(EDGES["hint"], "".join(items))


def source_code(text: str) -> str:
    return f'<pre style="{SOURCE}">{escape(text)}</pre>'


def paragraph(text: str) -> str:
    """Plain text; what stands between backticks is code."""
    return f'<p style="margin: 0.3em 0">{with_code(text)}</p>'


def with_code(text: str) -> str:
    """Escape plain text, and set what stands between backticks as code."""
    parts = escape(text).split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner is a character
        return escape(text)
    return "".join(f'<code style="{CODE}">{part}</code>' if place % 2 else part for place, part in enumerate(parts))


def _box(edge: str, inner: str) -> str:
    return f'<div style="{BOX.format(edge=edge)}">{inner}</div>'
