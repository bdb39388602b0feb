"""The small files that come with the package: sample scenes and trained weights."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def bundled(name: str) -> Path:
    """Return the path of a bundled file or folder, such as "scenes" or "weights/deeplabv3plus_mini.safetensors".

    In a checkout they lie in data/, in an installed wheel inside the package.

    Raises:
        FileNotFoundError: no such file came with this version.
    """
    for folder in (_PACKAGE / "_data", _PACKAGE.parent / "data"):
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(
        f"{name} did not come with this version of deeplab-lesson (looked in {_PACKAGE / '_data'} and "
        f"{_PACKAGE.parent / 'data'}): check the name, or install the package again"
    )
