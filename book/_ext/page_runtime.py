"""The line at the end of a chapter: how long it ran, where, and with which versions."""

import os
import platform
from datetime import date
from html import escape

from fresh import installed


def seconds_in_words(seconds: float) -> str:
    """0.62 is "1 s", 12.4 is "12 s", 150 is "2 min 30 s"."""
    whole = max(1, round(seconds))
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


def runtime_line(seconds: float, finished: float) -> str:
    """HTML for one chapter's run: how long it took, and the time stamp of its end."""
    when = date.fromtimestamp(finished)
    ran = f"This chapter ran in {seconds_in_words(seconds)} on {os.cpu_count()} CPU cores"
    versions = ", ".join([f"Python {platform.python_version()}", *(f"{k} {v}" for k, v in installed().items())])
    return f'<p class="chapter-runtime">{ran} ({when.day} {when:%B %Y}): {escape(versions)}.</p>\n'
