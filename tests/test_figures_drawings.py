"""Pictures with words (`show`), and the drawings that several chapters share."""

import base64
import io
import re

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from PIL import Image
from torch.nn import functional as F

from deeplab_lesson.layers.atrous import gridding_coverage
from deeplab_lesson.notebook.drawings import count_grid, draw_taps, feature_maps, kernel_diagram
from deeplab_lesson.notebook.figures import show

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


# ---- show --------------------------------------------------------------------------------------------------


@pytest.fixture
def displayed(monkeypatch):
    """What reaches the notebook: pairs of the line of text and the HTML."""
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda one: shown.append((repr(one), one._repr_html_())))
    return shown


def test_show_gives_the_picture_its_words_twice_the_pixels_and_closes_it(displayed):
    figure = plt.figure(figsize=(3, 1.5))
    show(figure, alt='A "line" & a <dot>.', caption="1 < 2")
    ((line, text),) = displayed
    assert line == "<Figure size 300x150 with 0 Axes>"
    assert 'alt="A &quot;line&quot; &amp; a &lt;dot&gt;."' in text
    assert 'width="300" height="150"' in text
    assert "<figcaption>1 &lt; 2</figcaption>" in text
    picture = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", text)[1])))
    assert picture.size == (600, 300)
    assert plt.get_fignums() == []


def test_show_without_a_caption_writes_none(displayed):
    show(plt.figure(figsize=(1, 1)), alt="Nothing at all.")
    assert "figcaption" not in displayed[0][1]


def test_show_prints_one_line_where_there_is_no_notebook(capsys):
    show(plt.figure(figsize=(1, 1)), alt="Nothing at all.")
    assert capsys.readouterr().out == "<Figure size 100x100 with 0 Axes>\n"


@pytest.mark.parametrize("alt", ["", "  \n"])
def test_show_refuses_a_picture_without_words(alt):
    with pytest.raises(ValueError, match="alt is empty: say in a sentence"):
        show(plt.figure(), alt=alt)


# ---- kernels -----------------------------------------------------------------------------------------------


def cells(axes):
    """(row, column) of each filled cell, and its color."""
    return {(int(p.get_y() + 0.5), int(p.get_x() + 0.5)): p.get_facecolor()[:3] for p in axes.patches}


@settings(max_examples=25, deadline=None)
@given(kernel=st.integers(1, 5), rate=st.integers(1, 4), more=st.integers(0, 3))
def test_a_kernel_diagram_fills_the_weights_that_a_convolution_of_that_rate_reads(kernel, rate, more):
    span = kernel + (kernel - 1) * (rate - 1)
    size = span + 2 * more
    figure = kernel_diagram([(kernel, rate)], size=size)
    image = torch.zeros(1, 1, size, size, requires_grad=True)
    out = F.conv2d(image, torch.ones(1, 1, kernel, kernel), dilation=rate)
    out[0, 0, more, more].backward()  # the position whose kernel lies in the middle
    assert set(cells(figure.axes[0])) == {tuple(place) for place in image.grad[0, 0].nonzero().tolist()}
    plt.close(figure)


def test_the_outputs_own_position_differs_in_color_and_in_shape():
    figure = kernel_diagram([(3, 2), (2, 1)])
    odd, even = figure.axes
    assert odd.get_title() == "3×3, rate 2\nspans 5, reads 9"
    middle = cells(odd)[3, 3]
    assert [place for place, color in cells(odd).items() if color == middle] == [(3, 3)]
    shapes = [line.get_marker() for line in odd.lines]
    assert (shapes.count("s"), shapes.count("o")) == (1, 8)
    assert [line.get_marker() for line in even.lines] == ["o"] * 4, "an even kernel has no middle"


def test_taps_outside_of_the_grid_are_left_out():
    figure, axes = plt.subplots()
    draw_taps(axes, (3, 4), [(-1, 0), (0, 0), (2, 3), (3, 3), (2, 4)])
    assert set(cells(axes)) == {(0, 0), (2, 3)}
    assert axes.get_ylim() == (2.5, -0.5)  # row 0 on top
    assert axes.get_xlim() == (-0.5, 3.5)
    assert figure is axes.figure


def test_kernels_that_cannot_be_drawn_are_named():
    with pytest.raises(ValueError, match="kernels is empty: give pairs"):
        kernel_diagram([])
    with pytest.raises(ValueError, match=r"a kernel of 3 at rate 4 spans 9 pixels, the grid has 7: give size=9"):
        kernel_diagram([(3, 1), (3, 4)], size=7)


# ---- counts ------------------------------------------------------------------------------------------------


def test_holes_are_hatched_and_the_rest_carry_their_number():
    counts = gridding_coverage((2, 2))
    _, axes = plt.subplots()
    count_grid(axes, counts)
    hatched = {(int(p.get_y() + 0.5), int(p.get_x() + 0.5)) for p in axes.patches if p.get_hatch()}
    assert hatched == {tuple(place) for place in (counts == 0).nonzero().tolist()}
    written = {(text.get_position()[1], text.get_position()[0]): int(text.get_text()) for text in axes.texts}
    assert written == {(row, column): int(counts[row, column]) for row, column in (counts > 0).nonzero().tolist()}


def test_numbers_can_be_read_on_every_blue_and_more_is_darker():
    _, axes = plt.subplots()
    count_grid(axes, np.arange(1, 13).reshape(3, 4))
    grounds = [cells(axes)[divmod(place, 4)] for place in range(12)]
    assert [sum(color) for color in grounds] == sorted((sum(color) for color in grounds), reverse=True)
    for text, ground in zip(axes.texts, grounds, strict=True):
        light, dark = sorted((luminance(to_rgb(text.get_color())), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, text.get_text()


def luminance(color):
    """WCAG 2.1's relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_large_grid_carries_no_numbers():
    _, axes = plt.subplots()
    count_grid(axes, np.ones((18, 18), dtype=int))
    assert not axes.texts


@pytest.mark.parametrize("counts", [np.ones((2, 2)), np.ones(4, dtype=int), np.array([[-1]])])
def test_what_is_no_count_is_refused(counts):
    _, axes = plt.subplots()
    with pytest.raises(ValueError, match=r"allowed are whole numbers from 0, \[H, W\]"):
        count_grid(axes, counts)


# ---- feature maps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("farthest", [-9, 9])
def test_maps_in_one_scale_can_be_compared_and_zero_is_in_its_middle(farthest):
    features = torch.randn(5, 4, 6)
    features[0, 0, 0] = farthest
    features.requires_grad_()
    figure = feature_maps(features, columns=3)
    images = [axes.images[0] for axes in figure.axes[:5]]
    for image, one in zip(images, features.detach().numpy(), strict=True):
        assert np.allclose(image.get_array(), one)
        low, high = image.get_clim()
        assert low == -high
        assert high == pytest.approx(features.abs().max().item())
        assert image.get_interpolation() == "nearest"
    assert [axes.get_title() for axes in figure.axes[:5]] == [f"channel {place}" for place in range(5)]
    assert not figure.axes[5].images, "five maps in two rows of three leave one place empty"


def test_maps_each_in_their_own_scale_have_a_bar_each():
    figure = feature_maps(np.stack([np.eye(3), 5 * np.eye(3)]), ["a", "b"], one_scale=False)
    assert [axes.images[0].get_clim() for axes in figure.axes[:2]] == [(0, 1), (0, 5)]
    assert len(figure.axes) == 4
    assert figure.axes[0].images[0].get_cmap().name == "viridis"


@pytest.mark.parametrize(
    ("features", "titles", "message"),
    [
        (torch.zeros(1, 2, 3, 3), [], r"shape \[1, 2, 3, 3\]: allowed are \[C, H, W\].*features\[0\]"),
        (torch.zeros(0, 3, 3), [], r"shape \[0, 3, 3\]"),
        (torch.full((2, 3, 3), torch.nan), [], "18 of 18 values are not finite"),
        (torch.zeros(2, 3, 3), ["a"], "2 channels and 1 titles"),
    ],
)
def test_features_that_cannot_be_drawn_are_named(features, titles, message):
    with pytest.raises(ValueError, match=message):
        feature_maps(features, titles)
