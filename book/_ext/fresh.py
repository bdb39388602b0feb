"""Throw away executed notebooks and pages when what they import or read has changed.

jupyter-cache recognizes a notebook by its code cells alone, and Sphinx a page by its source file. Neither
sees a change of the package, the data or a library, and the page would keep the old output. Nor does Sphinx see a
change of our extension, or write the other pages again when a chapter is new in the table of contents. `make book`
runs `python book/_ext/fresh.py` before each build; its argument is the folder built into, `_build` unless given.
"""

import hashlib
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

INPUTS = ("deeplab_lesson", "data", "book/results", "constraints.txt")  # of the executed chapters
PAGE_INPUTS = ("book/_ext", "book/_static", "_config.yml", "_toc.yml", "book/references.bib")  # of the pages alone
PAGES = (".doctrees", "html")
EXECUTED = (".jupyter_cache", "jupyter_execute")
VERSIONS = ("deeplab-lesson", "torch", "torchvision", "numpy", "matplotlib")  # shown on the pages
IGNORED = {"__pycache__", ".ipynb_checkpoints", ".DS_Store"}


def installed() -> dict[str, str]:
    """Package to version, for those that are installed."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def digest(root: Path, inputs: tuple[str, ...]) -> str:
    """Hash the names and contents of every file under `inputs`, and the versions that chapters run with."""
    total = hashlib.sha256(repr((sys.version_info[:3], installed())).encode())
    for name in inputs:
        tree = root / name
        files = sorted(tree.rglob("*")) if tree.is_dir() else [tree]
        for file in files:
            inside = file.relative_to(root)
            if file.is_file() and not IGNORED.intersection(inside.parts):
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                total.update(f"{inside.as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def changed(root: Path, stamp: Path, inputs: tuple[str, ...], built: tuple[str, ...]) -> bool:
    """Remove `built` where `inputs` are not those that the stamp remembers."""
    now = digest(root, inputs)
    if stamp.is_file() and stamp.read_text() == now:
        return False
    for name in built:
        shutil.rmtree(stamp.parent / name, ignore_errors=True)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(now)  # last: an interrupted call is repeated
    return True


def refresh(root: Path, build: Path) -> bool:
    """Remove what was built from other inputs. True when chapters must run again."""
    changed(root, build / ".page_inputs.sha256", PAGE_INPUTS, PAGES)
    return changed(root, build / ".inputs.sha256", INPUTS, (*EXECUTED, *PAGES))


if __name__ == "__main__":
    checkout = Path(__file__).resolve().parents[2]
    if refresh(checkout, Path(sys.argv[1]) if len(sys.argv) > 1 else checkout / "_build"):
        print("the package, the data or a library changed: every chapter runs again")
