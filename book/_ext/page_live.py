"""The page "A DeepLab in your browser": its controls in place of the mark that book/live.md holds, and its files.

live_files.py makes the files, npm_package.py fetches the runtime. Scripts and styles stand in book/_static/live; no
other page loads them. Where the runtime cannot be had, the page says so, and the book is built all the same.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import live_files
from npm_package import Unavailable
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

PAGE = "book/live"
MARK = '<div id="live-deeplab"></div>'
STATIC = Path(__file__).resolve().parents[1] / "_static/live"
SCRIPTS = ("pictures.js", "network.js", "drawing.js", "stage.js", "hand.js", "live.js")  # in the order of their needs

logger = logging.getLogger(__name__)


def always_again(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """Make this page at every build: what it needs may be there now."""
    return [PAGE] if PAGE in env.found_docs else []


def fill(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Put the controls on the page, and what they need beside it."""
    body = context.get("body") or ""
    if MARK not in body or app.builder.name != "html":
        return
    made, static = Path(app.outdir).parent / "live", Path(app.outdir, "_static/live")
    told, reason = None, ""
    try:
        told = live_files.prepare(made, logger.info)
        names = publish(live_files.published(made), static)
        logger.info("live page: %d files, %.1f MB", len(names), sum((static / n).stat().st_size for n in names) / 1e6)
    except Unavailable as error:
        reason = str(error)
        logger.info("!! THE LIVE NETWORK IS LEFT OUT OF THE BOOK: %s", reason)
    except ValueError as error:
        reason = str(error)
        logger.warning("live page: %s", reason, location=pagename)
    settings = {
        "reason": reason,
        "folder": context["pathto"]("_static/live", 1) + "/",
        "told": json.dumps(told).replace("</", "<\\/"),
        "shapes": list(told["stamps"]) if told else [],
    }
    context["body"] = body.replace(MARK, app.builder.templates.render("live.html", settings))  # type: ignore[union-attr]
    app.add_css_file("live/live.css", priority=900)
    for script in SCRIPTS if told else ():
        app.add_js_file(f"live/{script}", defer="defer")


def publish(files: list[Path], folder: Path) -> list[str]:
    """Copy what changed into the built book, and remove what an earlier build left there."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [file.name for file in files]
    kept = {*names, *(file.name for file in STATIC.iterdir())}
    for old in folder.iterdir():
        if old.name not in kept:
            old.unlink()
    for file in files:
        target = folder / file.name
        if not target.is_file() or target.stat().st_mtime < file.stat().st_mtime:
            shutil.copyfile(file, target)
    return names


def connect(app: Sphinx) -> None:
    app.connect("env-get-outdated", always_again)
    app.connect("html-page-context", fill)
