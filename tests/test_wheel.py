"""The wheel: what is in it, that Colab keeps all that it has, and that chapters run alone, from the wheel only."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from email.message import Message
from email.parser import Parser
from functools import cache
from importlib.metadata import Distribution, distribution
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "book").glob("[0-9][0-9]_*.ipynb"))
IN_EACH_RUN = ("03_atrous_convolution", "04_receptive_field")  # the others run in make test-all


def run(*command: object, folder: Path, environment: dict[str, str] | None = None) -> str:
    """Run a command to its end, and return what it printed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


# ---- what is in it -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    isolation = ["--no-isolation"] if find_spec("hatchling") else []  # where it is installed, nothing is fetched
    run(sys.executable, "-m", "build", *isolation, "--outdir", folder, ROOT, folder=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (file,) = built.glob("*.whl")
    return file


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def default_requirements(wheel: Path) -> list[Requirement]:
    """What an installation without extras asks for."""
    every = map(Requirement, metadata(wheel).get_all("Requires-Dist", []))
    return [each for each in every if each.marker is None or each.marker.evaluate({"extra": ""})]


def sources(folder: str) -> Iterator[Path]:
    for file in (ROOT / folder).rglob("*"):
        if file.is_file() and not {"__pycache__", ".DS_Store"} & set(file.parts):
            yield file


def test_wheel_holds_package_data_weights_and_static_files_byte_for_byte_and_nothing_else(wheel: Path) -> None:
    expected = {file.relative_to(ROOT).as_posix(): file for file in sources("deeplab_lesson")}
    expected |= {f"deeplab_lesson/_data/{file.relative_to(ROOT / 'data').as_posix()}": file for file in sources("data")}
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert set(held) == set(expected)
    assert [name for name, file in expected.items() if held[name] != file.read_bytes()] == []
    endings = {Path(name).suffix for name in held} | {Path(name).name for name in held}
    assert {".safetensors", ".png", ".css", ".js", "py.typed", "classes.txt", "val.txt"} <= endings


def test_sdist_holds_what_is_needed_to_build_and_test_and_nothing_that_was_built(built: Path) -> None:
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    folders = {name.partition("/")[0] for name in names}
    assert {"deeplab_lesson", "data", "book", "tests", "Makefile", "constraints.txt", "pyproject.toml"} <= folders
    assert folders & {".venv", ".git", "_build", "dist", "runs"} == set()
    assert [name for name in names if name.endswith(".pyc")] == []


def test_index_would_take_wheel_and_sdist(built: Path) -> None:
    said = run(sys.executable, "-m", "twine", "check", "--strict", *sorted(built.iterdir()), folder=built)
    assert said.count("PASSED") == 2


# ---- Colab keeps what it has ---------------------------------------------------------------------------------------


@cache
def colab_versions() -> dict[str, str]:
    """Name to version of all that a Colab runtime has installed."""
    lines = (ROOT / "tests/data/colab-pip-freeze.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def needed(requirements: Iterable[Requirement]) -> dict[str, Distribution]:
    """The installed distributions that satisfy requirements, theirs, and so on."""
    found: dict[str, Distribution] = {}
    seen = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        here = found.setdefault(canonicalize_name(requirement.name), distribution(requirement.name))
        for inner in map(Requirement, here.requires or []):
            extras = ("", *requirement.extras)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(inner)
    return found


@pytest.fixture(scope="module")
def colab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment in which pip sees every package that Colab has: their names and versions, without content.

    Its Python is Colab's, 3.13, where there is one; elsewhere the one that runs this test.
    """
    folder = tmp_path_factory.mktemp("colab") / "environment"
    python = shutil.which("python3.13")
    if python is None or subprocess.run([python, "-c", ""], capture_output=True).returncode != 0:
        python = sys.executable
    run(python, "-m", "venv", "--without-pip", folder, folder=folder.parent)
    (packages,) = folder.glob("lib/python3.*/site-packages")
    for name, version in colab_versions().items():
        info = packages / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "INSTALLER").write_text("pip\n")
    return folder


def write_wheel(folder: Path, name: str, version: str, requires: Iterable[str]) -> Path:
    """A wheel without content: what an index says about a package."""
    stem = f"{name.replace('-', '_')}-{version}"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {line}" for line in requires]
    file = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{stem}.dist-info/METADATA", "\n".join(lines) + "\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    return file


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A folder from which pip installs: all that the package needs, in the versions that are installed here."""
    folder = tmp_path_factory.mktemp("index")
    for name, found in needed(default_requirements(wheel)).items():
        write_wheel(folder, name, found.version, found.requires or [])
    return folder


def planned(colab: Path, file: Path, *options: object) -> dict[str, str]:
    """What pip would install on Colab for a wheel: name to version. Nothing is installed."""
    report = colab.parent / "report.json"
    command = [sys.executable, "-m", "pip", "--python", colab / "bin/python", "install", "--dry-run", "--quiet"]
    quiet = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    run(*command, "--report", report, *options, file, folder=colab, environment=quiet)
    plan = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {canonicalize_name(each["metadata"]["name"]): each["metadata"]["version"] for each in plan}


def changed(plan: dict[str, str]) -> dict[str, str]:
    """Name to both versions, for what Colab has and the plan installs in another version."""
    there = {canonicalize_name(name): version for name, version in colab_versions().items()}
    return {name: f"{there[name]} -> {version}" for name, version in plan.items() if name in there}


NEW_ON_COLAB = {"deeplab-lesson", "tyro"}


def test_installing_on_colab_changes_nothing_that_is_there(colab: Path, index: Path, wheel: Path) -> None:
    plan = planned(colab, wheel, "--isolated", "--no-index", "--find-links", index)
    assert changed(plan) == {}
    assert set(plan) == NEW_ON_COLAB


@pytest.mark.slow
def test_installing_on_colab_from_the_real_index_changes_nothing_that_is_there(colab: Path, wheel: Path) -> None:
    plan = planned(colab, wheel)
    assert changed(plan) == {}
    assert set(plan) == NEW_ON_COLAB


def test_a_requirement_above_colabs_version_would_be_noticed(colab: Path, tmp_path: Path) -> None:
    write_wheel(tmp_path, "numpy", "99.0", [])
    file = write_wheel(tmp_path, "deeplab-lesson", "0.1.0", ["torch>=2.6", "numpy>=99"])
    plan = planned(colab, file, "--isolated", "--no-index", "--find-links", tmp_path)
    assert changed(plan) == {"numpy": f"{colab_versions()['numpy']} -> 99.0"}


def test_list_of_colabs_packages_holds_what_the_chapters_use_there() -> None:
    assert colab_versions().keys() >= {"torch", "torchvision", "numpy", "matplotlib", "ipywidgets", "pillow"}
    assert len(colab_versions()) > 600


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda file: file.stem)
def test_setup_cell_installs_this_versions_tag_without_extras_and_without_upgrading(chapter: Path, wheel: Path) -> None:
    version = re.escape(metadata(wheel)["Version"])
    cells = (cell for cell in nbformat.read(chapter, as_version=4).cells if cell.cell_type == "code")
    lines = [line.strip() for cell in cells for line in cell.source.splitlines() if "pip install" in line]
    assert len(lines) == 1
    assert re.fullmatch(rf'%pip install -q "deeplab-lesson @ git\+https://[\w./-]+@v{version}"', lines[0])


# ---- chapters run alone --------------------------------------------------------------------------------------------

# What Python runs first in the environment: no host but this machine can be reached.
NO_NETWORK = """\
import socket

real_connect, real_lookup = socket.socket.connect, socket.getaddrinfo


def is_here(host):
    return host in (None, "", "localhost", "127.0.0.1", "::1")


def connect(self, address):
    if self.family != socket.AF_UNIX and not is_here(address[0]):
        raise OSError(f"asked for {address[0]}, but there is no network in this test")
    return real_connect(self, address)


def lookup(host, *arguments, **options):
    if not is_here(host):
        raise OSError(f"asked for {host}, but there is no network in this test")
    return real_lookup(host, *arguments, **options)


socket.socket.connect, socket.getaddrinfo = connect, lookup
"""

# Runs a notebook in a fresh kernel, in the current folder, and then asks the kernel where the package came from.
RUN_NOTEBOOK = """\
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
notebook.cells.append(nbformat.v4.new_code_cell("import deeplab_lesson; print(deeplab_lesson.__file__)"))
NotebookClient(notebook, timeout=1800, kernel_name="python3").execute()
print(notebook.cells[-1].outputs[0].text)
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """An environment that has the installed wheel, what it requires, what runs a notebook, and nothing else.

    The other packages are links to those that are installed here: that takes a second, and not minutes. The checkout
    is not on its path.
    """
    folder = tmp_path_factory.mktemp("alone") / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder.parent)
    (packages,) = folder.glob("lib/python3.*/site-packages")
    for found in needed([*default_requirements(wheel), Requirement("ipykernel"), Requirement("nbclient")]).values():
        for name in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            if not name.endswith(".pth") and not (packages / name).exists():
                (packages / name).symlink_to(found.locate_file(name))
    (packages / "no_network.py").write_text(NO_NETWORK)
    (packages / "no_network.pth").write_text("import no_network\n")  # Debian has a sitecustomize of its own
    install = ["install", "--isolated", "--quiet", "--no-index", "--no-deps", wheel]
    run(sys.executable, "-m", "pip", "--python", folder / "bin/python", *install, folder=folder.parent)
    kernel = folder / "share/jupyter/kernels/python3"
    kernel.mkdir(parents=True)
    start = [str(folder / "bin/python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": start, "display_name": "alone", "language": "python"}))
    return folder


def run_alone(alone: Path, folder: Path, *command: object) -> str:
    """Run one of the environment's commands in a folder, as somebody who has nothing else would."""
    kept = {"PATH", "LANG", "LC_ALL", "TMPDIR", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"}
    environment = {name: value for name, value in os.environ.items() if name in kept}
    home = alone.parent / "home"
    home.mkdir(exist_ok=True)
    program, *arguments = command
    return run(alone / "bin" / str(program), *arguments, folder=folder, environment={**environment, "HOME": str(home)})


TO_RUN = [
    pytest.param(chapter, id=chapter.stem, marks=() if chapter.stem in IN_EACH_RUN else pytest.mark.slow)
    for chapter in CHAPTERS
]


@pytest.mark.parametrize("chapter", TO_RUN)
def test_chapter_runs_from_an_empty_folder_with_only_the_installed_wheel(
    alone: Path, tmp_path: Path, chapter: Path
) -> None:
    said = run_alone(alone, tmp_path, "python", "-c", RUN_NOTEBOOK, chapter)
    assert Path(said.strip().splitlines()[-1]).is_relative_to(alone)
    assert list(tmp_path.iterdir()) == [], "a chapter leaves no files in the reader's folder"


def test_command_line_runs_from_an_empty_folder_with_only_the_installed_wheel(alone: Path, tmp_path: Path) -> None:
    listed = run_alone(alone, tmp_path, "python", "-m", "deeplab_lesson", "models")
    assert "deeplabv3plus_mini" in listed
    assert run_alone(alone, tmp_path, "deeplab-lesson", "models") == listed


def test_environment_has_no_network_no_checkout_and_no_package_that_the_wheel_does_not_ask_for(
    alone: Path, tmp_path: Path
) -> None:
    code = """if True:
        import socket, sys
        from importlib.util import find_spec
        for address in (("192.0.2.1", 80), ("example.org", 80)):
            try:
                socket.create_connection(address, timeout=1)
            except OSError as error:
                print(error)
        print([name for name in ("pytest", "pip", "benchmarks", "tensorboard") if find_spec(name)], sys.path)
    """
    said = run_alone(alone, tmp_path, "python", "-c", code)
    assert said.count("there is no network in this test") == 2
    assert "[] [" in said
    assert str(ROOT) not in said
