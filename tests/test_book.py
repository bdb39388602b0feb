"""The build of the book, shown on a small one: our settings and extension, one page and one chapter."""

import base64
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
EXTENSION = ROOT / "book/_ext"
JUPYTER_BOOK = Path(sys.executable).with_name("jupyter-book")
CHAPTER = "book/01_small"
INDEX = r"""# A small book

A sum $\sum_{i=1}^{n} w_i$ in a line, once more $w_i$, and

$$\begin{aligned} a &= \frac{b}{c} \\ d &= e \end{aligned}$$

[The chapter](01_small)
"""


def cell(source: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell(source)


def write_chapter(folder: Path, *sources: str, prose: str = "Some prose.") -> None:
    cells = [nbformat.v4.new_markdown_cell(f"# 1. A small chapter\n\n{prose}"), *map(cell, sources)]
    for place, each in enumerate(cells):
        each.id = f"cell-{place}"
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "x"}})
    nbformat.write(notebook, folder / f"{CHAPTER}.ipynb")


def write_book(folder: Path) -> None:
    (folder / "book").mkdir(parents=True)
    shutil.copy(ROOT / "_config.yml", folder)
    shutil.copytree(EXTENSION, folder / "book/_ext", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "book/_static", folder / "book/_static")
    toc = {"format": "jb-book", "root": "book/index", "chapters": [{"file": CHAPTER}]}
    (folder / "_toc.yml").write_text(yaml.safe_dump(toc))
    (folder / "book/index.md").write_text(INDEX)


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """What `make book` runs."""
    chapters = [sys.executable, "book/_ext/run_chapters.py", "_build", "2"]
    subprocess.run(chapters, cwd=folder, capture_output=True, check=True, timeout=300)
    command = [str(JUPYTER_BOOK), "build", "-W", "-n", "--keep-going", "."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def page(folder: Path, name: str) -> str:
    return (folder / f"_build/html/{name}.html").read_text(encoding="utf-8")


COUNTS = "with open('runs.txt', 'a') as file:\n    _ = file.write('run ')\nprint(6 * 7)"


@pytest.fixture(scope="module")
def small_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write_book(folder)
    write_chapter(folder, COUNTS, "from IPython.display import Math\nMath('x^2')")
    done = build(folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


needs_book = pytest.mark.skipif(not JUPYTER_BOOK.exists(), reason="jupyter-book is not installed")


@needs_book
def test_formulas_are_drawn_on_the_page_with_text_for_screen_readers(small_book: Path) -> None:
    text = page(small_book, "book/index")
    assert text.count('<span class="formula">') == 2
    assert text.count('<div class="formula-block') == 1
    assert "<munderover><mo" in text
    assert not re.search(r"<script[^>]*mathjax|window\.MathJax", text, re.IGNORECASE)
    assert re.search(r'class="[^"]*formula-block', page(small_book, CHAPTER)), "output of a cell"
    used = set(re.findall(r'href="#(MJX-[^"]+)"', text))
    drawn = re.findall(r'<path id="(MJX-[^"]+)"', text)
    assert used
    assert used == set(drawn)
    assert len(drawn) == len(set(drawn)), "a letter stands once on a page"


@needs_book
def test_pages_load_nothing_from_another_host(small_book: Path) -> None:
    for file in (small_book / "_build/html").rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe|source)\b[^>]*?\bsrc="([^"]*)"', file.read_text(encoding="utf-8"))
        loaded += re.findall(r'<link\b[^>]*?\bhref="([^"]*)"', file.read_text(encoding="utf-8"))
        assert [url for url in loaded if re.match(r"(\w+:)?//", url)] == [], file.name


@needs_book
def test_pages_carry_none_of_the_parts_that_they_do_not_use(small_book: Path) -> None:
    for name in ("book/index", CHAPTER):
        head = page(small_book, name).partition("</head>")[0]
        for part in ("thebe", "togglebutton", "sphinx-design", "design-tabs", "fontawesome", "mathjax"):
            assert part not in head.lower(), f"{part} on {name}"
    static = small_book / "_build/html/_static"
    assert not (static / "vendor").exists()
    assert (static / "icons.css").stat().st_size < 20_000


@needs_book
def test_chapter_shows_its_run_time_and_versions(small_book: Path) -> None:
    line = re.search(r'<p class="chapter-runtime">(.*?)</p>', page(small_book, CHAPTER))
    assert line is not None
    assert re.search(r"ran in \d+ s on \d+ CPU cores .*Python 3\.\d+\.\d+, .*torch \d", line[1])
    assert "chapter-runtime" not in page(small_book, "book/index"), "the page without code"


@needs_book
def test_launch_button_of_a_chapter_opens_its_own_notebook_on_colab(small_book: Path) -> None:
    links = re.findall(r'href="(https://colab[^"]*)"', page(small_book, CHAPTER))
    repository = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    files = (
        f"{repository['url'].replace('github.com', 'colab.research.google.com/github')}/blob/{repository['branch']}/"
    )
    assert set(links) == {f"{files}{CHAPTER}.ipynb"}
    assert (small_book / links[0].removeprefix(files)).is_file()
    assert "https://colab" not in page(small_book, "book/index"), "the page without code"


@needs_book
def test_page_names_the_favicon_and_pages_are_not_filtered_by_github(small_book: Path) -> None:
    assert re.search(r'<link rel="icon" href="../_static/favicon.svg"', page(small_book, CHAPTER))
    assert (small_book / "_build/html/_static/favicon.svg").is_file()
    assert (small_book / "_build/html/.nojekyll").is_file()


@needs_book
def test_change_of_prose_runs_no_cell_again_and_a_failing_chapter_fails_the_build(tmp_path: Path) -> None:
    write_book(tmp_path)
    write_chapter(tmp_path, COUNTS)
    assert build(tmp_path).returncode == 0
    write_chapter(tmp_path, COUNTS, prose="Other words.")
    assert build(tmp_path).returncode == 0
    assert "Other words." in page(tmp_path, CHAPTER)
    assert (tmp_path / "book/runs.txt").read_text() == "run "

    write_chapter(tmp_path, "print(1)", "raise ValueError('on purpose')")
    done = build(tmp_path)
    assert done.returncode != 0
    assert CHAPTER in done.stdout + done.stderr
    assert "on purpose" in (tmp_path / f"_build/html/reports/{CHAPTER}.err.log").read_text()


@needs_book
def test_formula_that_cannot_be_read_fails_the_build_and_is_named(tmp_path: Path) -> None:
    write_book(tmp_path)
    write_chapter(tmp_path, "print(1)", prose=r"A slip: $\farc{1}{2}$.")
    done = build(tmp_path)
    assert done.returncode != 0
    assert r"\farc{1}{2}" in done.stderr
    assert r"Undefined control sequence \farc" in done.stderr
    assert CHAPTER in done.stderr


# ---- the parts of the extension ------------------------------------------------------------------------------


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXTENSION)
    spec = importlib.util.spec_from_file_location(name, EXTENSION / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (12.4, "12 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (150, "2 min 30 s")]
)
def test_run_time_in_words(monkeypatch: pytest.MonkeyPatch, seconds: float, words: str) -> None:
    assert load("page_runtime", monkeypatch).seconds_in_words(seconds) == words


def test_icon_that_the_theme_does_not_have_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("pydata_sphinx_theme")
    (tmp_path / "css").mkdir()
    (tmp_path / "css/all.min.css").write_text('.fa-moon:before{content:"\\f186"}')
    with pytest.raises(ValueError, match="fa-moom"):
        load("page_icons", monkeypatch).style_sheet(tmp_path, ['<i class="fa-solid fa-moom">'], "")


def png(width: int, height: int) -> bytes:
    made = BytesIO()
    Image.new("RGB", (width, height), "red").save(made, "png")
    return made.getvalue()


def test_picture_inside_a_page_becomes_a_file_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = base64.b64encode(png(5, 4)).decode()
    body = f'<img src="data:image/png;base64,{data}" alt="a" hidden><img src="data:image/png;base64,{data}" alt="b">'
    body = load("page_pictures", monkeypatch).own_files(body, tmp_path / "_images", "../_images")
    (written,) = (tmp_path / "_images").iterdir()
    assert written.read_bytes() == png(5, 4)
    assert body == f'<img src="../_images/{written.name}" alt="a" hidden><img src="../_images/{written.name}" alt="b">'


def test_picture_is_lazy_and_has_its_size_unless_it_says_so_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(png(5, 4))
    mark = load("page_pictures", monkeypatch).load_when_seen

    def find(address: str) -> Path | None:
        return tmp_path / "a.png" if address == "../_images/a.png" else None

    assert mark('<img alt="a" src="../_images/a.png">', find) == (
        '<img loading="lazy" width="5" height="4" alt="a" src="../_images/a.png">'
    )
    sized = '<img width="9" height="8" src="../_images/a.png">'
    assert mark(sized, find) == sized.replace("<img", '<img loading="lazy"')
    for untouched in ('<img loading="eager" src="../_images/a.png">', '<img src="elsewhere.png">'):
        assert mark(untouched, find) == untouched


@pytest.mark.parametrize("changed", ["book/_ext/a.py", "book/_static/a.css", "_config.yml", "_toc.yml"])
def test_change_of_the_books_settings_makes_the_pages_again_and_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: str
) -> None:
    fresh = load("fresh", monkeypatch)
    for name in ("book/_ext/a.py", "book/_static/a.css", "_config.yml", "_toc.yml", "deeplab_lesson/a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    assert fresh.refresh(tmp_path, tmp_path / "_build")
    executed, written = tmp_path / "_build/.jupyter_cache/global.db", tmp_path / "_build/html/book/a.html"
    for file in (executed, written):
        file.parent.mkdir(parents=True)
        file.touch()
    assert not fresh.refresh(tmp_path, tmp_path / "_build")
    assert written.exists()
    (tmp_path / changed).write_text("after")
    assert not fresh.refresh(tmp_path, tmp_path / "_build")
    assert executed.exists()
    assert not written.exists()


@pytest.mark.parametrize(
    ("workers", "at_once"), [("3", 3), ("0", 1), ("auto", os.cpu_count()), ("logical", os.cpu_count())]
)
def test_workers_are_those_that_pytest_takes(monkeypatch: pytest.MonkeyPatch, workers: str, at_once: int) -> None:
    assert load("run_chapters", monkeypatch).chapters_at_once(workers) == at_once


@pytest.mark.parametrize("workers", ["x", "-1", "1.5", ""])
def test_other_workers_are_refused_with_what_is_allowed(monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    with pytest.raises(
        SystemExit, match=f'WORKERS is "{workers}"; allowed: a whole number, .* fix: make book WORKERS=2'
    ):
        load("run_chapters", monkeypatch).chapters_at_once(workers)


def test_other_version_of_a_library_runs_the_chapters_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fresh = load("fresh", monkeypatch)
    assert fresh.refresh(tmp_path, tmp_path / "_build")
    assert not fresh.refresh(tmp_path, tmp_path / "_build")
    monkeypatch.setattr(fresh, "installed", lambda: {"torch": "0.0"})
    assert fresh.refresh(tmp_path, tmp_path / "_build")


@pytest.mark.parametrize("name", ["book.yml", "test.yml"])
def test_workflows_call_the_targets_that_everybody_calls(name: str) -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows" / name).read_text(encoding="utf-8"))
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert commands == {"book.yml": ["make browser"], "test.yml": ["make test"]}[name]


def test_workflow_tests_the_versions_of_python_that_the_project_names() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"] == named


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_missing_browser_is_said_loudly() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "!! NO BROWSER: THE PAGES WERE NOT TESTED." in makefile
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    planned = subprocess.run(["make", "-n", "test"], cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    assert planned.stdout.index("jupyter-book build") < planned.stdout.index("tests/test_browser.py")
