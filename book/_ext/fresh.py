"""Throw away executed notebooks and pages when what they import or read has changed.

jupyter-cache recognizes a notebook by its code cells alone, and Sphinx a page by its source file. Neither
sees a change of the package, the data or a library, and the page would keep the old output. `make book`
runs `python book/_ext/fresh.py` before each build.
"""

import hashlib
import shutil
import sys
from pathlib import Path

INPUTS = ("deeplab_lesson", "data", "book/results", "constraints.txt")
BUILT = (".jupyter_cache", ".doctrees", "jupyter_execute", "html")
IGNORED = {"__pycache__", ".ipynb_checkpoints", ".DS_Store"}


def digest(root: Path) -> str:
    """Hash the names and contents of every file under INPUTS, and the version of Python."""
    total = hashlib.sha256(repr(sys.version_info[:2]).encode())
    for name in INPUTS:
        tree = root / name
        files = sorted(tree.rglob("*")) if tree.is_dir() else [tree]
        for file in files:
            inside = file.relative_to(root)
            if file.is_file() and not IGNORED.intersection(inside.parts):
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                total.update(f"{inside.as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def refresh(root: Path) -> bool:
    """Remove what was built from other inputs. True when the inputs are not those of the last call."""
    build, now = root / "_build", digest(root)
    stamp = build / ".inputs.sha256"
    if stamp.is_file() and stamp.read_text() == now:
        return False
    for name in BUILT:
        shutil.rmtree(build / name, ignore_errors=True)
    build.mkdir(exist_ok=True)
    stamp.write_text(now)  # last: an interrupted call is repeated
    return True


if __name__ == "__main__":
    if refresh(Path(__file__).resolve().parents[2]):
        print("the package, the data or a library changed: every chapter runs again")
