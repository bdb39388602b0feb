"""The Sphinx extension of this book: light pages that ask no other host for anything, and static figures.

typeset.py and page_math.py: formulas; page_icons.py: icons; page_pictures.py: pictures; page_runtime.py: the line below
each chapter; page_live.py: the page with a network in it.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import page_live
import page_math
import page_pictures
from myst_nb.sphinx_ import NbMetadataCollector
from page_icons import write_icons
from page_runtime import runtime_line
from sphinx.application import Sphinx
from sphinx.config import Config
from typeset import share_glyphs

EXTENSION = Path(__file__).resolve().parent
STATIC = (EXTENSION.parent / "_static", EXTENSION.parents[1] / "deeplab_lesson/notebook/static")
# What extensions add to every page, and the text that a page shows where it uses them.
ONLY_WHERE_USED = {"sphinx-design.min.css": 'class="sd-', "design-tabs.js": 'class="sd-tab', "toggle": "toggle"}
# The build copies these from the theme, and no page asks for them.
NOT_PUBLISHED = ("_static/vendor", "_static/locales", "_static/scripts/*.map", "_static/styles/*.map")
# A page opened as a file may not read the other pages, and the search shows their first lines unless told so.
SEARCH_IN_FILES = "if (location.protocol === 'file:') DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;"


def own_files(app: Sphinx, config: Config) -> None:
    """Put every style sheet and script of STATIC on the pages, and our templates before the theme's."""
    config.templates_path.append(str(EXTENSION / "templates"))
    config.html_static_path = [str(folder) for folder in STATIC if folder.is_dir()]
    files = sorted(file for folder in STATIC for file in folder.glob("*"))
    for file in files:
        if file.suffix == ".css":
            app.add_css_file(file.name, priority=900)  # after the theme's
        elif file.suffix == ".js":
            app.add_js_file(file.name, defer="defer")
    app.add_js_file(None, body=SEARCH_IN_FILES)


def picture_file(app: Sphinx, address: str) -> Path | None:
    """The file behind a picture's address on a page. Sphinx copies most of them after the pages are written."""
    folder, _, name = address.rpartition("/")
    if not folder.endswith("_images"):
        return None
    for source, copied in app.builder.images.items():
        if copied == name:
            return Path(app.srcdir, source)
    written = Path(app.outdir, "_images", name)
    return written if written.is_file() else None


def lighten(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Drop the styles and scripts that this page does not use, and keep its formulas and pictures small.

    Of thebe, everything goes: sphinx-thebe 0.3.1 declares `const THEBE_JS_URL` twice, which is an error in the
    console, and names a script on another host.
    """
    body = context.get("body", "")

    def used(asset: Any) -> bool:
        what = f"{asset.filename or ''} {asset.attributes.get('body', '')}"
        return not re.search("thebe", what, re.IGNORECASE) and all(
            mark in body for name, mark in ONLY_WHERE_USED.items() if name in what
        )

    for kind in ("css_files", "script_files"):
        context[kind] = [asset for asset in context.get(kind, []) if used(asset)]
    if body:
        execution = NbMetadataCollector.get_exec_data(app.env, pagename)
        if execution and execution["runtime"] is not None:
            body += runtime_line(execution["runtime"], execution["mtime"])
        body = page_pictures.own_files(body, Path(app.outdir, "_images"), context["pathto"]("_images", 1))
        body = page_pictures.load_when_seen(body, lambda address: picture_file(app, address))
        context["body"] = share_glyphs(body)


def finish(app: Sphinx, error: Exception | None) -> None:
    """Write the icons, remove what nobody asks for, and keep GitHub Pages from dropping folders named _static."""
    if error is not None or app.builder.name != "html":
        return
    html = Path(app.outdir)
    write_icons(html)
    for pattern in NOT_PUBLISHED:
        for path in html.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (html / ".nojekyll").touch()


def setup(app: Sphinx) -> dict[str, bool]:
    # The kernels inherit it: sliders become pre-computed frames, because a page has no kernel.
    os.environ["DEEPLAB_STATIC"] = "1"
    app.add_html_math_renderer("typeset", (page_math.inline, None), (page_math.block, None))
    app.connect("config-inited", own_files)
    app.connect("html-page-context", lighten, priority=900)  # after sphinx-thebe
    app.connect("build-finished", finish)
    page_live.connect(app)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
