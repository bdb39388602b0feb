"""What holds for the repository as a whole: its versions, its house of rooms, its commands, its addresses."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "deeplab_lesson"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@cache
def tree() -> tuple[str, ...]:
    """The files git tracks or would track, as posix paths; without git, every file not in a built folder."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        built = {".venv", "_build", "dist", "runs", ".git", "__pycache__"}
        every = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        listed = [
            path.as_posix()
            for path in every
            if not any(part in built or part.endswith("_cache") for part in path.parts)
        ]
    return tuple(sorted(name for name in listed if name and (ROOT / name).is_file()))


@cache
def texts() -> dict[str, str]:
    """Path to content, for every file of the tree that is text."""
    found = {}
    for name in tree():
        try:
            found[name] = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return found


# ---- versions ----------------------------------------------------------------------------------------------


def read_pins(path: Path) -> dict[str, Version]:
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def requirements() -> list[Requirement]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


def lower_bound(requirement: Requirement) -> Version:
    bounds = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
    assert len(bounds) == 1, f"{requirement}: give it one lower bound"
    return bounds[0]


PINS = read_pins(ROOT / "constraints.txt")
COLAB = read_pins(ROOT / "tests/data/colab-pip-freeze.txt")


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_direct_requirement_has_an_exact_pin_within_its_bounds(requirement: Requirement) -> None:
    name = canonicalize_name(requirement.name)
    if name == "pydensecrf2" and name not in PINS:
        pytest.skip("the optional CRF is not pinned")
    assert name in PINS, f"constraints.txt has no line for {name}"
    assert PINS[name] in requirement.specifier


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_lower_bound_is_not_above_what_colab_has(requirement: Requirement) -> None:
    lowest = lower_bound(requirement)
    colab = COLAB.get(canonicalize_name(requirement.name))
    assert colab is None or colab >= lowest


def test_package_itself_asks_for_lower_bounds_only() -> None:
    for line in PROJECT["dependencies"]:
        assert {part.operator for part in Requirement(line).specifier} == {">="}, line


def test_constraints_are_exact_pins_without_doubles() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", line) for line in pins)
    assert len(pins) == len(PINS)


def test_colab_torch_is_the_one_that_make_installs() -> None:
    for name in ("torch", "torchvision"):
        assert PINS[name].release == COLAB[name].release


# ---- environment.yml and the Makefile ----------------------------------------------------------------------


def environment() -> tuple[list[str], list[str]]:
    """The conda part and the pip part of environment.yml."""
    lines = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    pip = [line["pip"] for line in lines if isinstance(line, dict)]
    assert len(pip) == 1
    return [line for line in lines if isinstance(line, str)], pip[0]


def make(*arguments: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", *arguments], cwd=ROOT, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_make
def test_make_installs_exactly_the_pip_part_of_environment_yml() -> None:
    assert make("-s", "print-pip-part").splitlines() == environment()[1]
    makefile = texts()["Makefile"]
    assert "install --quiet $$($(PIP_PART))" in makefile
    assert makefile.count("$(PIP) install") == 4, "all others install pydensecrf2 and its build tools"


def test_environment_yml_names_constraints_and_extras_that_exist() -> None:
    constraints, editable = environment()[1]
    assert constraints == "-c constraints.txt"
    extras = re.fullmatch(r"-e \.\[([a-z,]+)\]", editable)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    assert "crf" not in extras[1].split(","), "conda brings pydensecrf; make installs it by itself"


def test_python_of_environment_yml_is_allowed() -> None:
    python = next(line for line in environment()[0] if line.startswith("python="))
    version = python.removeprefix("python=")
    assert version in SpecifierSet(PROJECT["requires-python"])
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


@needs_make
@pytest.mark.parametrize(
    "target",
    ["setup", "book", "browser", "test", "test-all", "serve", "lint", "bench", "clean", "release-check"],
)
def test_makefile_has_the_target_and_help_names_it(target: str) -> None:
    assert re.search(rf"^{target}:", texts()["Makefile"], re.MULTILINE)
    assert f"make {target} " in make("help")


@needs_make
def test_make_alone_shows_the_help() -> None:
    assert make() == make("help")


@needs_make
def test_make_refuses_an_old_python_and_says_what_to_do(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1" && exit 0\nexit 1\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "environment.yml"):
        shutil.copy(ROOT / name, tmp_path / name)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "book", f"PYTHON={old}"]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Python 3.9.1" in done.stdout
    assert "3.11, 3.12 or 3.13" in done.stdout
    assert "make book PYTHON=python3.12" in done.stdout
    assert not (tmp_path / ".venv").exists()


@needs_make
def test_make_writes_nothing_outside_the_folder_it_is_told() -> None:
    for line in make("-n", "test", "serve", "INTO=/else/where").splitlines():
        assert not re.search(r"(?<!/else/where/)(\.venv|_build)\b", line), line
    assert make("-n", "book") == make("-n", "book", "INTO=.")


@needs_make
@pytest.mark.parametrize("folder", ["", "two words"])
def test_make_refuses_a_folder_that_it_cannot_quote(folder: str) -> None:
    with pytest.raises(AssertionError, match="allowed: one path without spaces; fix: make book INTO=/tmp/deeplab"):
        make("-n", "book", f"INTO={folder}")


def test_ci_calls_the_test_command_and_nothing_else() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    lines = [line.strip() for line in script.read_text(encoding="utf-8").splitlines()]
    commands = [line for line in lines if line and not line.startswith("#")]
    camvid = ("if [", "fi", "DEEPLAB_CAMVID=", "export DEEPLAB_CAMVID")
    assert [line for line in commands if not line.startswith(camvid)] == [
        "set -euo pipefail",
        'cd "$(dirname "$0")/.."',
        "make test",
    ]


# ---- the house of rooms ------------------------------------------------------------------------------------

FLOORS = {
    "layers": 1,
    "data": 1,
    "crf": 1,
    "losses": 1,
    "metrics": 1,
    "panoptic_quality": 1,
    "tracing": 1,
    "receptive_field": 1,
    "cost": 1,
    "backbones": 2,
    "models": 3,
    "interop": 4,
    "training": 4,
    "inference": 5,
    "commands": 6,
    "cli": 6,
    "__main__": 6,
}
BESIDE = {"notebook", "exercises"}  # these may import anything; nothing in the house may import them
NAMES_OF_THE_ROOT = 3  # create_model and list_models live on the models' floor


def module_files() -> dict[str, Path]:
    """Dotted name to file: x.crf for crf/__init__.py and x.crf.dense for crf/dense.py, x the package."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def room(module: str) -> str:
    """The second name of a dotted one; empty for the package's own __init__."""
    return module.split(".")[1] if "." in module else ""


def imported(module: str, file: Path, nodes: Iterator[ast.AST], modules: set[str]) -> set[str]:
    """The modules of this package that import statements among `nodes` name."""
    found: set[str] = set()
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE.name}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - (node.level - 1)]
                base = ".".join([*above, base] if base else above)
            if base.split(".")[0] == PACKAGE.name:
                inner = {f"{base}.{alias.name}" for alias in node.names} & modules
                found |= inner
                if len(inner) < len(node.names):
                    found.add(base)
    return found


def everywhere(file: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(file.read_text(encoding="utf-8")))


def when_loaded(file: Path) -> Iterator[ast.AST]:
    """The nodes that run on import: not in a function, not under TYPE_CHECKING."""
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        yield node
        waiting.extend(ast.iter_child_nodes(node))


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of the graph, or an empty list."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def test_every_room_has_a_floor() -> None:
    rooms = {room(module) for module in module_files()} - {""}
    assert rooms <= set(FLOORS) | BESIDE, "give the new room a floor in FLOORS"


def test_imports_between_floors_go_only_down() -> None:
    files = module_files()
    upward = []
    for module, file in files.items():
        here = FLOORS.get(room(module))
        if here is None:  # the package's __init__ shows what the rooms hold; BESIDE may look anywhere
            continue
        for target in imported(module, file, everywhere(file), set(files)):
            there = FLOORS.get(room(target)) if room(target) else NAMES_OF_THE_ROOT
            if room(target) in BESIDE or (there is not None and there > here):
                upward.append(f"{module} imports {target}")
    assert not upward


def test_no_circle_among_rooms_or_modules() -> None:
    files = module_files()
    rooms: dict[str, set[str]] = {}
    modules: dict[str, set[str]] = {}
    for module, file in files.items():
        modules[module] = imported(module, file, when_loaded(file), set(files)) - {module}
        if room(module) in FLOORS:
            reached = {room(target) for target in imported(module, file, everywhere(file), set(files))}
            rooms.setdefault(room(module), set()).update(reached - {room(module), ""})
    assert circle(rooms) == []
    assert circle(modules) == []


def test_a_circle_would_be_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_file_of_the_package_is_longer_than_250_lines() -> None:
    lengths = {
        file.relative_to(ROOT).as_posix(): len(file.read_text(encoding="utf-8").splitlines())
        for file in PACKAGE.rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > 250} == {}


def test_importing_the_package_loads_no_torchvision_matplotlib_or_ipywidgets() -> None:
    heavy = ("torchvision", "matplotlib", "ipywidgets")
    code = f"import sys, deeplab_lesson; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


# ---- the book ----------------------------------------------------------------------------------------------


def pages(entry: object) -> Iterator[str]:
    """Every root and file in _toc.yml, at any depth."""
    if isinstance(entry, dict):
        for key, value in entry.items():
            if key in ("root", "file"):
                yield value
            else:
                yield from pages(value)
    elif isinstance(entry, list):
        for part in entry:
            yield from pages(part)


def test_every_page_of_the_table_of_contents_exists_once() -> None:
    named = list(pages(yaml.safe_load(texts()["_toc.yml"])))
    assert len(named) == len(set(named))
    missing = [page for page in named if not any((ROOT / f"{page}{end}").is_file() for end in (".md", ".ipynb"))]
    assert not missing


def test_every_notebook_of_the_book_is_in_the_table_of_contents() -> None:
    named = set(pages(yaml.safe_load(texts()["_toc.yml"])))
    notebooks = {name.removesuffix(".ipynb") for name in tree() if re.fullmatch(r"book/[^/]+\.ipynb", name)}
    assert notebooks <= named


def fresh() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fresh", ROOT / "book/_ext/fresh.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "changed", ["deeplab_lesson/layers/atrous.py", "data/new.png", "book/results/a.json", "constraints.txt"]
)
def test_a_change_of_what_chapters_use_drops_the_executed_notebooks(tmp_path: Path, changed: str) -> None:
    refresh = fresh().refresh
    for name in ("deeplab_lesson/layers/atrous.py", "data/old.png", "constraints.txt", "book/a.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    assert refresh(tmp_path, tmp_path / "_build")
    built = tmp_path / "_build/.jupyter_cache/global.db"
    page = tmp_path / "_build/html/book/a.html"
    for file in (built, page):
        file.parent.mkdir(parents=True)
        file.touch()

    (tmp_path / "book/a.ipynb").write_text("the build looks at pages by itself")
    (tmp_path / "deeplab_lesson/__pycache__").mkdir()
    (tmp_path / "deeplab_lesson/__pycache__/atrous.pyc").touch()
    assert not refresh(tmp_path, tmp_path / "_build")
    assert built.exists()

    (tmp_path / changed).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / changed).write_text("after")
    assert refresh(tmp_path, tmp_path / "_build")
    assert not built.exists()
    assert not page.exists()
    assert not refresh(tmp_path, tmp_path / "_build")


# ---- addresses ---------------------------------------------------------------------------------------------

PLACEHOLDER = "/".join(["deeplab-lesson"] * 2)  # not spelled out: this file needs no address
ADDRESS = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
# Where the address may stand. Nothing else may hold it, and these hold no other one of this project.
ADDRESSED = re.compile(r"_config\.yml|CITATION\.cff|CHANGELOG\.md|README\.md|book/[^/]+\.(ipynb|md)")


def test_the_address_has_one_form() -> None:
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", ADDRESS)
    for name, url in PROJECT["urls"].items():
        assert url.startswith(f"https://github.com/{ADDRESS}"), name


def test_the_address_stands_only_where_it_is_looked_for() -> None:
    holding = {name for name, text in texts().items() if ADDRESS in text or PLACEHOLDER in text}
    assert {name for name in holding - {"pyproject.toml"} if not ADDRESSED.fullmatch(name)} == set()


def test_the_address_is_the_same_everywhere() -> None:
    if ADDRESS != PLACEHOLDER:
        assert [name for name, text in texts().items() if PLACEHOLDER in text] == []
    config = yaml.safe_load(texts()["_config.yml"])
    citation = yaml.safe_load(texts()["CITATION.cff"])
    assert config["repository"]["url"] == citation["repository-code"] == f"https://github.com/{ADDRESS}"
    name = re.escape(ADDRESS.partition("/")[2])
    seen = {
        (file, found)
        for file, text in texts().items()
        if ADDRESSED.fullmatch(file)
        for found in re.findall(rf"github(?:\.com)?/([\w.-]+/{name})\b", text)
    }
    assert {pair for pair in seen if pair[1] != ADDRESS} == set()


def test_colab_links_name_files_of_the_tree() -> None:
    link = re.compile(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/[^/\s]+/([^\s)\"'#?\\>]+)")
    links = [
        (file, *found)
        for file, text in texts().items()
        if file.endswith((".ipynb", ".md"))
        for found in link.findall(text)
    ]
    assert [(file, path) for file, address, path in links if address != ADDRESS or path not in tree()] == []


def test_no_file_names_a_host_of_a_package_registry() -> None:
    hosts = [
        "files." + "pythonhosted",
        "pypi" + ".org/simple",
        "test.pypi" + ".org",
        "conda" + ".anaconda.org",
    ]
    assert [(name, host) for name, text in texts().items() for host in hosts if host in text] == []


# ---- license, version, notebooks' form ---------------------------------------------------------------------


def test_license_holds_mit_for_code_and_cc_by_for_the_book() -> None:
    text = texts()["LICENSE"]
    assert "Permission is hereby granted, free of charge" in text
    assert "book/" in text
    assert "https://creativecommons.org/licenses/by/4.0/" in text


def test_version_is_the_same_in_project_citation_and_changelog() -> None:
    version = PROJECT["version"]
    assert yaml.safe_load(texts()["CITATION.cff"])["version"] == version
    assert f"## [{version}]" in texts()["CHANGELOG.md"]
    written = [
        name for name in tree() if name.startswith("deeplab_lesson/") and f'"{version}"' in texts().get(name, "")
    ]
    assert written == [], "the package reads its version through importlib.metadata"


def test_notebooks_are_json_that_ends_with_a_newline() -> None:
    for name in tree():
        if name.endswith(".ipynb"):
            json.loads(texts()[name])
            assert texts()[name].endswith("}\n"), name
