"""Interactive figures: the frames of a page, the widgets of a kernel, and what neither accepts."""

import ast
import base64
import html
import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from nbclient import NotebookClient
from PIL import Image

from deeplab_lesson.data import VOC_PALETTE
from deeplab_lesson.notebook import live, slider
from deeplab_lesson.notebook.controls import combinations, read_controls
from deeplab_lesson.notebook.explore import explore
from deeplab_lesson.notebook.frames import encode, encode_within, raster

matplotlib.use("agg")
IN_IPYWIDGETS_7_7_1 = {"IntSlider", "FloatSlider", "Dropdown", "HTML", "VBox"}
WIDGETS_7 = os.environ.get("DEEPLAB_IPYWIDGETS7")  # a folder: pip install --target FOLDER ipywidgets==7.7.1


@pytest.fixture(autouse=True)
def _page(monkeypatch):
    monkeypatch.setenv("DEEPLAB_STATIC", "1")
    yield
    plt.close("all")


def square(rate, kernel=3):
    """A square for each setting: its gray level is 10 rate + kernel."""
    figure = plt.figure(figsize=(0.6, 0.4), dpi=37)
    pixel = np.full((1, 1, 3), 10 * rate + kernel, dtype=np.uint8)
    figure.add_axes((0, 0, 1, 1)).imshow(pixel, aspect="auto", interpolation="nearest")
    figure.axes[0].axis("off")
    return figure


def noise(rate, inches=2):
    figure = plt.figure(figsize=(inches, inches))
    colors = np.random.default_rng(rate).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    figure.add_axes((0, 0, 1, 1)).imshow(colors)
    return figure


class Read(HTMLParser):
    """The start tags of a text, each with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def shown(result):
    """The HTML that a notebook gets."""
    bundle = result._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    return bundle["text/html"]


def decoded(image):
    return Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))


# ---- the page ----------------------------------------------------------------------------------------------


def test_frames_stand_in_the_order_in_which_the_script_counts():
    page = Read(shown(explore(square, rate=[1, 2, 4], kernel=[3, 5], alt="Rate {rate}, kernel {kernel}.")))
    images = page.all("img")
    assert [image["alt"] for image in images] == [f"Rate {r}, kernel {k}." for r in (1, 2, 4) for k in (3, 5)]
    grays = [decoded(image).convert("L").getpixel((60, 40)) for image in images]
    assert grays == [10 * r + k for r in (1, 2, 4) for k in (3, 5)]
    assert ["hidden" in image for image in images] == [False] + [True] * 5


def test_pictures_have_two_pixels_for_one_of_the_page_and_state_their_size():
    (first, _) = Read(shown(explore(square, rate=[1, 2], alt="{rate}"))).all("img")
    assert (first["width"], first["height"]) == ("60", "40")  # 0.6 and 0.4 inches, whatever the figure's own dpi
    assert decoded(first).size == (120, 80)
    assert first["class"] == "dark-light"


def test_a_control_says_its_name_and_its_value_in_words():
    page = Read(
        shown(explore(lambda output_stride: square(output_stride), output_stride=[8, 16], alt="{output_stride}"))
    )
    (control,) = page.all("input")
    assert control["type"] == "range"
    assert (control["min"], control["max"], control["step"], control["value"]) == ("0", "1", "1", "0")
    assert control["aria-valuetext"] == "8"
    assert "disabled" in control, "without its script it must be off, not dead"
    text = shown(explore(lambda output_stride: square(output_stride), output_stride=[8, 16], alt="{output_stride}"))
    assert re.search(r"<label[^>]*><span>output stride</span><input[^>]*>.*?</label>", text)


def test_choices_are_a_select_and_floats_are_written_short():
    text = shown(explore(lambda mode: square(len(mode)), mode=["nearest", "bilinear"], alt="{mode}"))
    assert "<option>nearest</option><option>bilinear</option>" in text
    assert not Read(text).all("input")
    (control,) = Read(shown(explore(lambda s: square(10 * s), s=np.array([0.1, 0.5, 1.0]), alt="{s}"))).all("input")
    assert control["data-texts"] == '["0.1", "0.5", "1"]'


def test_a_label_follows_the_frames_and_a_caption_does_not():
    made = explore(
        square, rate=[1, 2], alt="{rate}", label=lambda rate: f"spans {2 * rate + 1} < 9", caption="One & all"
    )
    (line,) = [tag for tag in Read(shown(made)).all("p") if tag["class"] == "explore-label"]
    assert line["data-texts"] == '["spans 3 < 9", "spans 5 < 9"]'
    assert line["aria-live"] == "polite"
    assert ">spans 3 &lt; 9</p>" in shown(made)
    assert "<figcaption>One &amp; all</figcaption>" in shown(made)


def test_words_of_every_kind_are_escaped():
    evil = '"><script>alert(1)</script>'
    text = shown(explore(lambda k: square(len(k) % 5), k=[evil, "b"], alt="x{k}", label="y{k}", caption=evil))
    assert "<script" not in text
    assert Read(text).all("img")[0]["alt"] == "x" + evil


def test_the_page_form_has_no_script_no_handler_and_no_id_and_the_notebook_form_carries_its_own(monkeypatch):
    page = shown(explore(square, rate=[1, 2], alt="{rate}"))
    monkeypatch.setenv("DEEPLAB_STATIC", "")
    notebook = shown(explore(square, rate=[1, 2], alt="{rate}"))  # no kernel runs here
    assert not {"script", "style"} & {tag for tag, _ in Read(page).tags}
    for text in (page, notebook):
        for _, attributes in Read(text).tags:
            assert not [name for name in attributes if name.startswith("on") or name == "id"]
    assert [tag for tag, _ in Read(notebook).tags].count("script") == 1
    assert slider.asset("explore.js") in notebook
    assert slider.asset("explore.css") in notebook
    own = f"<style>{slider.asset('explore.css')}</style><script>{slider.asset('explore.js')}</script>"
    assert notebook.replace(own, "") == page


def test_the_text_that_a_notebook_stores_is_the_same_in_each_life():
    controls = {"rate": [1, 2, 4], "kernel": [3, 5]}
    texts = {explore(square, alt="{rate} {kernel}", live=way, **controls)._repr_mimebundle_()["text/plain"]
             for way in (True, False)}  # fmt: skip
    assert texts == {"<explore: rate 1 | 2 | 4; kernel 3 | 5>"}


def test_figures_are_closed_and_settings_for_saving_change_nothing():
    with matplotlib.rc_context({"savefig.bbox": "tight", "savefig.facecolor": "red", "savefig.transparent": True}):
        figure = plt.figure(figsize=(2, 1))
        image = raster(figure)
    assert image.size == (400, 200)
    assert image.getpixel((0, 0)) == (255, 255, 255)
    explore(square, rate=[1, 2], alt="{rate}")
    assert plt.get_fignums() == []


def test_label_colors_are_exact():
    figure = plt.figure(figsize=(1, 1))
    figure.add_axes((0, 0, 1, 1)).imshow(VOC_PALETTE[:21].reshape(3, 7, 3), aspect="auto", interpolation="nearest")
    figure.axes[0].axis("off")
    image = Image.open(io.BytesIO(encode(raster(figure)).data)).convert("RGB")
    found = {color for _, color in image.getcolors()}
    assert {tuple(color) for color in VOC_PALETTE[:21].tolist()} <= found


# ---- sizes -------------------------------------------------------------------------------------------------


def test_exact_colors_are_kept_while_they_fit_and_256_are_left_where_they_do_not():
    images = [raster(noise(1, 1))]
    exact = encode(images[0])
    room = 4 * len(exact.data) // 3 + 4
    assert encode_within(images, room, ["a"]) == [exact]
    (reduced,) = encode_within(images, int(0.9 * room), ["a"])
    colors = Image.open(io.BytesIO(reduced.data)).convert("RGB").getcolors(10**6)
    assert len(colors) <= 256


def test_a_slider_that_is_too_large_is_refused_with_sizes_and_ways_out():
    with pytest.raises(ValueError, match=r"the 3 frames .* take (\d+) kB .*allowed are 399 kB.*rate=\d with \d+ kB.*"
                       r"fewer values.*smaller figure \(now 200 x 200 pixels\)") as error:  # fmt: skip
        explore(noise, rate=[1, 2, 3], alt="Noise {rate}.")
    assert int(re.search(r"take (\d+) kB", str(error.value))[1]) > 399


def test_texts_script_and_style_count_towards_the_limit(monkeypatch):
    made = explore(square, rate=[1, 2], alt="{rate} " + "word " * 1000, live=False)
    size = len(made.html().encode())
    assert size > 10_000
    for limit, fits in ((size + 20, True), (size - 20, False)):  # 20: base64 is rounded up, sizes have few digits
        monkeypatch.setattr("deeplab_lesson.notebook.explore.LIMIT", limit)
        if fits:
            assert len(made.html().encode()) == size
        else:
            with pytest.raises(ValueError, match="fewer values"):
                made.html()


def test_frames_of_different_sizes_are_refused_because_the_page_would_jump():
    with pytest.raises(ValueError, match=r"1 x 1 inches for rate=1, 2 x 2 inches for rate=2.*same figsize"):
        explore(lambda rate: plt.figure(figsize=(rate, rate)), rate=[1, 2], alt="{rate}")


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("controls", "kind", "message"),
    [
        ({}, ValueError, r"0 controls \(none\): allowed are one or two"),
        ({"a": [1, 2], "b": [1, 2], "c": [1, 2]}, ValueError, r"3 controls \(a, b, c\)"),
        ({"rate": 4}, TypeError, r"rate=4: give a list of values"),
        ({"mode": "nearest"}, TypeError, r"mode='nearest': give a list"),
        ({"rate": [4]}, ValueError, r"rate=\[4\]: a control needs two values"),
        ({"rate": [4, 2]}, ValueError, r"rate=\[4, 2\]: .*ascending"),
        ({"rate": [1, 1.0, 2]}, ValueError, r"a value is there twice"),
        ({"rate": [1.0, float("nan")]}, ValueError, r"finite"),
        ({"rate": range(1, 62)}, ValueError, r"61 frames.*allowed are 60; give fewer values"),
    ],
)
def test_controls_that_make_no_sense_are_named(controls, kind, message):
    with pytest.raises(kind, match=message):
        explore(square, alt="{rate}", **controls)


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        ({"alt": "A grid."}, ValueError, r"alt text of rate=2 is that of rate=1, 'A grid.'.*at rate \{rate\}"),
        ({"alt": "Rate {rat}."}, ValueError, r"alt asks for 'rat': allowed in its braces are the controls, rate"),
        ({"alt": "{}"}, ValueError, r"allowed in its braces are the controls"),
        ({"alt": " "}, ValueError, r"alt is empty for rate=1"),
        ({"alt": lambda rate: rate}, TypeError, r"alt gave int for rate=1: it must be a text"),
        ({"alt": "{rate}", "label": lambda rate: None}, TypeError, r"label gave NoneType"),
    ],
)
def test_words_that_say_nothing_are_refused(words, kind, message):
    with pytest.raises(kind, match=message):
        explore(square, rate=[1, 2], **words)


def test_a_draw_that_returns_no_figure_or_raises_is_named_with_its_values():
    with pytest.raises(TypeError, match=r"draw\(rate=1\) returned NoneType: it must return the matplotlib figure"):
        explore(lambda rate: None, rate=[1, 2], alt="{rate}")
    with pytest.raises(ZeroDivisionError) as error:
        explore(lambda rate: square(1 // rate), rate=[0, 1], alt="{rate}")
    assert "rate=0" in error.value.__notes__[0]


# ---- controls ----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=6, unique=True))
def test_a_live_slider_reaches_every_listed_value_by_its_step(values):
    (control,) = read_controls({"rate": sorted(values)})
    assert all((value - control.values[0]) % control.step == 0 for value in values)


@pytest.mark.parametrize(
    ("values", "step"), [([1, 2, 4], 1), ([3, 5, 7], 2), ([6, 12, 18], 6), ([0.5, 1, 2], 0.1), ([0.25, 1.0], 0.01)]
)
def test_steps(values, step):
    assert read_controls({"rate": values})[0].step == pytest.approx(step)


def test_the_last_control_changes_fastest():
    settings = combinations(read_controls({"a": [1, 2], "b": ["x", "y"]}))
    assert settings == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]


# ---- with a kernel -----------------------------------------------------------------------------------------

DRAW = """\
from matplotlib import pyplot as plt
from deeplab_lesson.notebook.explore import explore

def draw(rate, mode):
    if rate == 7:
        raise ValueError("no <7>")
    figure, axes = plt.subplots(figsize=(1, 1))
    axes.set_title(str(rate))
    return figure

figure = explore(draw, rate=[1, 2, 9], mode=["a", "b"], alt="Rate {rate} in {mode}.", label="{rate}!")
figure"""
LOOK = "print(figure.live.values, figure.live.picture.value.partition('alt=')[2][:14], figure.live.line.value)"


class Kernel:
    """A kernel and the front end's side of it."""

    def __init__(self, client):
        self.client, self.count = client, 0

    def run(self, code):
        cell = nbformat.v4.new_code_cell(code)
        self.client.nb.cells.append(cell)
        self.client.execute_cell(cell, len(self.client.nb.cells) - 1)
        return cell.outputs

    def text(self, code):
        """What the code prints; how the kernel cuts it into messages is chance."""
        outputs = self.run(code)
        assert {output.output_type for output in outputs} <= {"stream"}, outputs
        return "".join(output.text for output in outputs)

    def move(self, model, value):
        """Send what the browser sends when a hand moves a slider."""
        state = {"method": "update", "state": {"value": value}, "buffer_paths": []}
        message = self.client.kc.session.msg("comm_msg", {"comm_id": model, "data": state})
        self.client.kc.shell_channel.send(message)

    def model(self, widget):
        return self.text(f"print(figure.live.{widget}.model_id)").strip()


@pytest.fixture(
    scope="module",
    params=[
        "installed",
        pytest.param("7.7.1", marks=pytest.mark.skipif(not WIDGETS_7, reason="DEEPLAB_IPYWIDGETS7 names no folder")),
    ],
)
def kernel(request):
    environment = {key: value for key, value in os.environ.items() if key != "DEEPLAB_STATIC"}
    if request.param == "7.7.1":
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (WIDGETS_7, os.environ.get("PYTHONPATH"))))
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=60, iopub_timeout=30, kernel_name="python3")
    with client.setup_kernel(env=environment):
        kernel = Kernel(client)
        version = kernel.text("import ipywidgets; print(ipywidgets.__version__)").strip()
        if request.param == "7.7.1":
            assert version == "7.7.1"
        kernel.shown = kernel.run(DRAW)
        yield kernel


def test_a_kernel_shows_widgets_and_one_picture_is_drawn(kernel):
    (output,) = kernel.shown  # no second picture from the inline backend, nothing on stderr
    assert set(output.data) == {live.VIEW, "text/plain"}
    assert output.data["text/plain"] == "<explore: rate 1 | 2 | 9; mode a | b>"
    box = output.data[live.VIEW]["model_id"]
    children = kernel.client.widget_state[box]["children"]
    names = [kernel.client.widget_state[child.removeprefix("IPY_MODEL_")]["_model_name"] for child in children]
    assert names == ["IntSliderModel", "DropdownModel", "HTMLModel", "HTMLModel"]


def test_code_moves_the_slider_to_a_value_that_has_no_frame_and_the_browser_gets_the_new_picture(kernel):
    picture = kernel.model("picture")
    kernel.run("figure.live.controls['rate'].value = 1")
    before = kernel.client.widget_state[picture]["value"]
    assert (
        kernel.text(f"figure.live.controls['rate'].value = 5; {LOOK}")
        == "{'rate': 5, 'mode': 'a'} \"Rate 5 in a.\" 5!\n"
    )
    after = kernel.client.widget_state[picture]["value"]
    assert 'alt="Rate 5 in a."' in after
    assert before.partition("base64,")[2][:4000] != after.partition("base64,")[2][:4000]


def test_a_hand_moves_the_slider(kernel):
    kernel.move(kernel.model("controls['rate']"), 8)
    assert kernel.text(LOOK) == "{'rate': 8, 'mode': 'a'} \"Rate 8 in a.\" 8!\n"


def test_a_value_that_cannot_be_drawn_says_so_in_place_of_the_picture(kernel):
    kernel.run("figure.live.controls['rate'].value = 7")
    said = kernel.text("print(figure.live.picture.value, figure.live.line.value)")
    assert said.strip() == "<p>rate=7, mode=a cannot be drawn. ValueError: no &lt;7&gt;</p>"
    assert "Rate 2 in a." in kernel.text(f"figure.live.controls['rate'].value = 2; {LOOK}")


def test_in_a_kernel_the_books_switch_gives_frames(kernel):
    kernel.run("import os; os.environ['DEEPLAB_STATIC'] = '1'")
    (output,) = kernel.run("explore(draw, rate=[1, 2], mode=['a', 'b'], alt='{rate}{mode}')")
    kernel.run("del os.environ['DEEPLAB_STATIC']")
    assert set(output.data) == {"text/html", "text/plain"}
    assert "<script" not in output.data["text/html"]


def test_only_widgets_that_colabs_ipywidgets_has_are_used():
    used = set()
    for node in ast.walk(ast.parse(Path(live.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ipywidgets":
            used.add(node.attr)
        assert not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ipywidgets"))
    assert used == IN_IPYWIDGETS_7_7_1


def test_widgets_without_a_kernel_can_be_asked_for_and_take_floats_and_a_caption():
    made = explore(lambda s: square(10 * s), s=[0.25, 0.5], alt="{s}", caption="a < b", live=True)
    slider_widget = made.live.controls["s"]
    assert (slider_widget.step, slider_widget.readout_format) == (pytest.approx(0.01), ".2f")
    slider_widget.value = 0.1 + 0.2
    assert made.live.values == {"s": 0.3}
    assert 'alt="0.3"' in made.live.picture.value
    assert made.live.box.children[-1].value == html.escape("a < b")
