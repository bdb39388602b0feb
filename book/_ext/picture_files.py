"""A Sphinx extension: moves pictures out of the HTML of outputs into files, fetched by the browser when needed.

`show` and `explore` write each picture into the output itself, because a notebook has no other place. On a page that
would make the first load carry every frame of every slider.
"""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

INLINE = re.compile(r'src="data:image/webp;base64,([A-Za-z0-9+/=]+)"')


def pictures_to_files(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Write the pictures of a page to _images/, named by their content, and let the page load them lazily."""
    folder = Path(app.outdir) / "_images"

    def moved(found: re.Match[str]) -> str:
        data = base64.b64decode(found[1])
        name = f"{hashlib.sha256(data).hexdigest()[:16]}.webp"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        return f'src="{context["pathto"](f"_images/{name}", 1)}" loading="lazy"'

    if "body" in context:
        context["body"] = INLINE.sub(moved, context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", pictures_to_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
