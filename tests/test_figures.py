"""What the chapters' figures promise, and the form of the chapters themselves."""

import importlib.util
import json
import re
from pathlib import Path
from statistics import median
from types import ModuleType

import matplotlib
import nbformat
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from deeplab_lesson.data import VOC_PALETTE, VOID
from deeplab_lesson.notebook.figures import interior_points, panels, use_style

matplotlib.use("agg")
ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
CLASSES = ("background", "disk", "ring", "square")
SETUP = """\
# Setup: nothing to do where the package is installed; on Colab it installs it, without touching torch and numpy.
import importlib.util

if importlib.util.find_spec("deeplab_lesson") is None:
    %pip install -q"""

every_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda file: file.stem)


@pytest.fixture(autouse=True)
def _close_figures():
    with matplotlib.rc_context():
        yield
    plt.close("all")


@pytest.fixture
def label():
    ids = np.zeros((40, 50), dtype=np.uint8)
    ids[5:20, 5:20] = 3
    ids[25:35, 30:45] = 1
    ids[24, 30:45] = VOID
    return ids


def legend_of(figure):
    (legend,) = figure.legends
    patches = legend.get_patches()
    return {text.get_text(): patch.get_facecolor()[:3] for text, patch in zip(legend.get_texts(), patches, strict=True)}


# ---- figures -----------------------------------------------------------------------------------------------


def test_legend_names_only_the_classes_that_occur_and_void_last(label):
    figure = panels([label, np.zeros_like(label)], ["truth", "answer"], classes=CLASSES)
    assert list(legend_of(figure)) == ["0 background", "1 disk", "3 square", "255 void"]


def test_legend_and_map_have_the_palettes_colors_and_void_is_cream(label):
    figure = panels([label], ["truth"], classes=CLASSES)
    for text, color in legend_of(figure).items():
        assert color == pytest.approx(VOC_PALETTE[int(text.split()[0])] / 255)
    drawn = figure.axes[0].images[0]
    assert np.array_equal(drawn.get_array(), VOC_PALETTE[label])
    assert drawn.get_array()[24, 30].tolist() == [224, 224, 192]
    assert drawn.get_interpolation() == "nearest"


def test_another_palette_is_used_for_map_and_legend(label):
    palette = VOC_PALETTE[::-1].copy()
    figure = panels([label], ["truth"], classes=CLASSES, palette=palette)
    assert legend_of(figure)["1 disk"] == pytest.approx(palette[1] / 255)
    assert np.array_equal(figure.axes[0].images[0].get_array(), palette[label])


def test_each_region_carries_its_id_so_that_color_is_not_needed(label):
    figure = panels([label], ["truth"], classes=CLASSES)
    written = [(text.get_text(), text.get_position()) for text in figure.axes[0].texts]
    assert {text for text, _ in written} == {"1", "3"}
    assert all(str(label[row, column]) == text for text, (column, row) in written)
    assert not panels([label], ["truth"], classes=CLASSES, marks=False).axes[0].texts


def test_a_tiny_map_shows_the_id_of_every_pixel():
    figure = panels([np.array([[0, 1], [VOID, 1]])], ["by hand"], classes=CLASSES)
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "1", "255", "1"]


def test_two_objects_of_one_class_get_a_number_each_and_a_thin_line_none():
    mask = np.zeros((100, 100), dtype=bool)
    mask[10:30, 10:30] = mask[60:80, 60:80] = True
    mask[95] = True
    points = interior_points(mask)
    assert sorted(row // 40 for row, _ in points) == [0, 1]
    assert all(mask[point] for point in points)


def test_pictures_are_drawn_as_they_are_and_need_no_legend():
    picture = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    figure = panels([torch.from_numpy(picture)] * 4, list("abcd"))
    assert not figure.legends
    assert [axes.get_title() for axes in figure.axes[:4]] == list("abcd")
    assert np.array_equal(figure.axes[3].images[0].get_array(), picture)


def test_an_id_without_a_class_is_said_to_have_none():
    assert "7 (no class)" in legend_of(panels([np.full((9, 9), 7)], ["answer"], classes=CLASSES))


@pytest.mark.parametrize(
    ("pictures", "titles", "message"),
    [
        ([np.zeros((4, 4), dtype=int)], ["a", "b"], "1 pictures and 2 titles: give one title"),
        ([np.zeros((4, 4), dtype=int)], ["a"], "no class names: give classes="),
        ([np.zeros((3, 4, 4), dtype=np.float32)], ["a"], r"float32 array of shape \[3, 4, 4\].*uint8 \[H, W, 3\]"),
        ([np.zeros((4, 4))], ["a"], r"float64 array of shape \[4, 4\]"),
    ],
)
def test_what_cannot_be_drawn_is_named_with_what_is_allowed(pictures, titles, message):
    with pytest.raises(ValueError, match=message):
        panels(pictures, titles)


def test_style_is_white_sharp_and_tells_lines_by_more_than_color():
    use_style()
    assert to_rgb(plt.rcParams["figure.facecolor"]) == (1, 1, 1)
    assert plt.rcParams["savefig.dpi"] >= 2 * plt.rcParams["figure.dpi"]
    styles = list(plt.rcParams["axes.prop_cycle"])
    assert len({style["color"] for style in styles}) == len({style["marker"] for style in styles}) == len(styles)


# ---- the form of chapters ----------------------------------------------------------------------------------


def cells(chapter, kind):
    return [cell for cell in json.loads(chapter.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def lines(cell):
    return len(source(cell).splitlines())


@every_chapter
def test_code_cells_are_short(chapter):
    counts = {cell["id"]: lines(cell) for cell in cells(chapter, "code")}
    assert {name: count for name, count in counts.items() if count > 25} == {}
    assert median(counts.values()) <= 8


@every_chapter
def test_markdown_is_what_colab_and_github_also_show(chapter):
    for cell in cells(chapter, "markdown"):
        text = re.sub(r"`[^`\n]+`", "", source(cell))
        assert not re.search(r"^(```|~~~|:::)\s*\{|\{[\w:+-]+\}`", source(cell), re.MULTILINE), cell["id"]
        assert set(re.findall(r"</?(\w+)[^>\n]*>", text)) <= {"details", "summary"}, cell["id"]


@every_chapter
def test_the_first_code_cell_is_the_setup_cell(chapter):
    first = cells(chapter, "code")[0]
    assert source(first).startswith(SETUP)
    assert "setup" in first["metadata"]["tags"]


@every_chapter
def test_no_line_of_code_ends_with_a_semicolon_because_nbval_does_not_honor_it(chapter):
    assert [cell["id"] for cell in cells(chapter, "code") if re.search(r";\s*$", source(cell), re.MULTILINE)] == []


@every_chapter
def test_never_more_than_300_words_without_a_picture_a_cell_or_a_question(chapter):
    stretch = 0
    for cell in json.loads(chapter.read_text(encoding="utf-8"))["cells"]:
        for block in re.split(r"\n\s*\n", source(cell)) if cell["cell_type"] == "markdown" else [""]:
            stretch = 0 if not block or block.lstrip().startswith((">", "![", "<details>")) else stretch
            words = re.sub(r"\]\([^)]*\)", "]", block).split()  # without the addresses of links
            stretch += sum(any(letter.isalnum() for letter in word) for word in words)
            assert stretch <= 300, f"cell {cell['id']}: {stretch} words in a row"


# ---- the stored form ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def normalize() -> ModuleType:
    spec = importlib.util.spec_from_file_location("normalize", ROOT / "book/_ext/normalize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@every_chapter
def test_chapter_is_stored_normalized(chapter, normalize):
    assert list(normalize.problems(chapter)) == []


@pytest.fixture
def small(tmp_path, normalize):
    """A notebook that prints, draws, warns and has a cell whose output is not stored; run and normalized."""
    code = nbformat.v4.new_code_cell
    figure = "from matplotlib import pyplot as plt\n_ = plt.subplots(1, 2, figsize=(6, 3))\nplt.show()"
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# Small", id="small"),
            code("import os, sys\nprint('one', flush=True)\nprint('two')\nprint('note', file=sys.stderr)", id="text"),
            code("from IPython.display import Image, display\ndisplay(Image(data=b'\\x89PNG'))\n40 + 2", id="text"),
            code("print(os.getpid())\nos.environ['DEEPLAB_STATIC']", metadata={"tags": ["nbval-ignore-output"]}),
            code(figure),
        ],
        metadata={"colab": {"name": "small"}},
    )
    file = tmp_path / "small.ipynb"
    file.write_text(json.dumps(notebook))  # nbformat would replace the id that is there twice
    assert normalize.main([str(file)]) == 0
    return file


def test_normalizing_keeps_text_drops_the_rest_and_repeats_byte_for_byte(small, normalize):
    text, shown, ignored, drawn = cells(small, "code")
    assert ["".join(output["text"]) for output in text["outputs"]] == ["one\ntwo\n"]
    assert ["".join(output["data"]["text/plain"]) for output in shown["outputs"]] == ["42"]
    assert ignored["outputs"] == []
    assert [output["data"] for output in drawn["outputs"]] == [{"text/plain": ["<Figure size 600x300 with 2 Axes>"]}]
    assert [cell["execution_count"] for cell in (text, shown, ignored, drawn)] == [1, 2, 3, 4]
    assert text["id"] == "text"
    assert shown["id"] != "text"
    before = small.read_bytes()
    assert before.endswith(b"}\n")
    assert normalize.main([str(small)]) == 0
    assert small.read_bytes() == before


def _add_picture(notebook):
    notebook["cells"][1]["outputs"].append({"output_type": "display_data", "data": {"image/png": ""}, "metadata": {}})


def _repeat_id(notebook):
    notebook["cells"][1]["id"] = notebook["cells"][0]["id"]


def _name_kernel(notebook):
    notebook["metadata"]["kernelspec"]["name"] = "my-kernel"


def _lose_count(notebook):
    notebook["cells"][2]["execution_count"] = None


def _add_timing(notebook):
    notebook["cells"][1]["metadata"]["execution"] = {}


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (_add_picture, "stores pictures"),
        (_repeat_id, "there twice"),
        (_name_kernel, "other metadata"),
        (_lose_count, "execution count None, not 2"),
        (_add_timing, "has metadata execution"),
    ],
)
def test_check_names_what_is_not_normal(small, normalize, capsys, spoil, problem):
    assert normalize.main(["--check", str(small)]) == 0
    notebook = json.loads(small.read_text())
    spoil(notebook)
    small.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    assert normalize.main(["--check", str(small)]) == 1
    assert problem in capsys.readouterr().out
