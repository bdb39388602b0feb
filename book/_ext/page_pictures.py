"""Pictures that load when they are about to be seen, so that a long chapter opens quickly."""

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from PIL import Image

EMBEDDED = re.compile(r'src="data:image/(png|webp|jpeg);base64,([^"]+)"')
PICTURE = re.compile(r'<img (?![^>]*\bloading=)([^>]*?\bsrc="([^"]+)"[^>]*)>')


def own_files(body: str, folder: Path, address: str) -> str:
    """Write the pictures that stand inside a page, such as a slider's frames, into files of their own.

    A frame that is not shown is then not loaded either. `address` is the folder's, seen from the page.
    """

    def move(match: re.Match[str]) -> str:
        content = base64.b64decode(match[2])
        name = f"{hashlib.sha256(content).hexdigest()[:32]}.{match[1]}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        return f'src="{address}/{name}"'

    return EMBEDDED.sub(move, body)


def load_when_seen(body: str, find: Callable[[str], Path | None]) -> str:
    """Mark pictures as lazy and give their sizes, so that nothing jumps. `find` knows the file of an address."""

    def mark(match: re.Match[str]) -> str:
        attributes, address = match[1], match[2]
        file = find(address)
        if file is None:
            return match[0]
        size = ""
        if not re.search(r"\b(width|height)=", attributes) and file.suffix != ".svg":
            with Image.open(file) as picture:
                size = f'width="{picture.width}" height="{picture.height}" '
        return f'<img loading="lazy" {size}{attributes}>'

    return PICTURE.sub(mark, body)
