"""What nbval compares in the chapters: text. HTML is its other form, and is not stored where it holds pictures."""

from typing import Any


def pytest_collectstart(collector: Any) -> None:
    """Leave HTML out of the comparison."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("text/html",)
