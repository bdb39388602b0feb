"""A Sphinx extension: asks chapters for static figures, and takes thebe's scripts off the pages."""

import os
from typing import Any

from sphinx.application import Sphinx


def without_thebe(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Drop what sphinx-thebe 0.3.1 adds to every page, although thebe is off.

    It declares `const THEBE_JS_URL` twice, which is an error in the console, and names a script on
    another host.
    """
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "THEBE_JS_URL" not in script.attributes.get("body", "") and "sphinx-thebe.js" not in str(script.filename)
    ]


def setup(app: Sphinx) -> dict[str, bool]:
    # The kernels inherit it: sliders become pre-computed frames, because a page has no kernel.
    os.environ["DEEPLAB_STATIC"] = "1"
    app.connect("html-page-context", without_thebe, priority=900)  # after sphinx-thebe
    return {"parallel_read_safe": True, "parallel_write_safe": True}
