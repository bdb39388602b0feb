"""Interactive figures without a kernel in a real browser: by hand, by keyboard, on the page and in a notebook."""

import shutil
import warnings
from collections.abc import Iterator

import matplotlib
import pytest
from matplotlib import pyplot as plt

from deeplab_lesson.notebook.explore import explore
from deeplab_lesson.notebook.slider import asset

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
try:
    from playwright.sync_api import Page, sync_playwright
except ImportError:
    sync_playwright = None
if sync_playwright is None or CHROMIUM is None:
    missing = (
        "playwright (pip install playwright)" if sync_playwright is None else "chromium (apt-get install chromium)"
    )
    warnings.warn(f"NOT TESTED: sliders in a browser, because {missing} is missing", stacklevel=1)
    pytest.skip(f"{missing} is missing: sliders were not tried in a browser", allow_module_level=True)

matplotlib.use("agg")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
# What the book's theme does to pictures and to HTML outputs in dark mode.
THEME = """html[data-theme=dark] img:not(.only-dark,.dark-light) {filter: brightness(.8) contrast(1.2)}
html[data-theme=dark] .text_html {background: #eee}"""


def draw(rate, kernel=3):
    figure, axes = plt.subplots(figsize=(6, 3))
    axes.bar([0, 1], [rate, kernel])
    axes.set_ylim(0, 8)
    return figure


@pytest.fixture(scope="module")
def figures() -> dict[str, str]:
    """Two figures, each as the page has it and as a notebook has it."""
    first = explore(
        draw, rate=[1, 2, 4], kernel=[3, 5], alt="Rate {rate}, kernel {kernel}.", label="{rate} by {kernel}",
        caption="The first", live=False,
    )  # fmt: skip
    second = explore(lambda mode: draw(len(mode)), mode=["a", "bb", "ccc"], alt="Mode {mode}.", live=False)
    return {
        "page": first.html(drives_itself=False) + second.html(drives_itself=False),
        "notebook": first.html() + second.html(),
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


FORMS = ("page", "notebook", "put in later", "scripts run from the head")


@pytest.fixture
def open_page(browser, figures, tmp_path):
    """Open the figures in one of their forms; at the end, nothing may have gone wrong on the page."""
    troubles: list[str] = []
    contexts = []

    def open_in(form: str, *, theme: str = "light", width: int = 1000) -> Page:
        for name in ("explore.js", "explore.css"):
            (tmp_path / name).write_text(asset(name), encoding="utf-8")
        head = '<link rel="stylesheet" href="explore.css"><script src="explore.js"></script>' if form == "page" else ""
        body = figures["page" if form == "page" else "notebook"]
        later = ""
        if form in FORMS[2:]:
            later, body = body, ""
        file = tmp_path / "page.html"
        file.write_text(
            f'<!DOCTYPE html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>t</title>'
            '<meta name="viewport" content="width=device-width">'
            f'<style>{THEME}</style>{head}</head><body class="bd-content"><div class="cell_output">'
            f'<div class="text_html">{body}</div></div><p id="below">Below</p></body></html>',
            encoding="utf-8",
        )
        context = browser.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or troubles.append(request.url))
        page.goto(file.as_uri())
        if (
            later
        ):  # notebooks put HTML in and run its scripts themselves: in place (JupyterLab), or in the head (jQuery)
            page.evaluate(
                """([text, inPlace]) => {
                    const output = document.querySelector(".text_html");
                    output.innerHTML = text;
                    for (const old of output.querySelectorAll("script")) {
                        const script = document.createElement("script");
                        script.textContent = old.textContent;
                        if (inPlace) old.replaceWith(script);
                        else { old.remove(); document.head.append(script); script.remove(); }
                    }
                }""",
                [later, form == FORMS[2]],
            )
        return page

    yield open_in
    for context in contexts:
        context.close()
    assert troubles == []


def seen(page: "Page") -> list[str]:
    """The alt texts of the pictures that are visible, first figure first."""
    return page.eval_on_selector_all(
        ".explore-frames img", "all => all.filter(i => i.checkVisibility()).map(i => i.alt)"
    )


@pytest.mark.parametrize("form", FORMS)
def test_arrow_keys_move_picture_text_and_spoken_value(open_page, form):
    page = open_page(form)
    rate, kernel = page.get_by_role("slider", name="rate"), page.get_by_role("slider", name="kernel")
    assert seen(page) == ["Rate 1, kernel 3.", "Mode a."]
    rate.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert seen(page) == ["Rate 4, kernel 3.", "Mode a."]
    assert rate.get_attribute("aria-valuetext") == "4"
    assert page.locator(".explore-value").first.inner_text() == "4"
    assert page.locator(".explore-label").inner_text() == "4 by 3"
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    assert kernel.get_attribute("aria-valuetext") == "5"
    assert rate.get_attribute("aria-valuetext") == "4"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Home")
    assert seen(page) == ["Rate 1, kernel 5.", "Mode a."]


@pytest.mark.parametrize("form", FORMS[:2])
def test_the_mouse_moves_the_slider_and_what_is_seen_changes(open_page, form):
    page = open_page(form)
    rate = page.get_by_role("slider", name="rate")
    frames = page.locator(".explore-frames").first
    before = frames.screenshot()
    box = rate.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 8, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, middle, steps=4)
    assert seen(page)[0] == "Rate 2, kernel 3.", "the picture follows while the button is down"
    page.mouse.up()
    assert frames.screenshot() != before
    page.mouse.click(box["x"] + 4, middle)
    assert frames.screenshot() == before


@pytest.mark.parametrize("form", FORMS[:2])
def test_a_choice_moves_its_own_figure_only(open_page, form):
    page = open_page(form)
    page.get_by_role("slider", name="rate").press("ArrowRight")
    page.get_by_role("combobox", name="mode").select_option("bb")
    assert seen(page) == ["Rate 2, kernel 3.", "Mode bb."]
    page.get_by_role("combobox", name="mode").press("ArrowDown")
    assert seen(page) == ["Rate 2, kernel 3.", "Mode ccc."]
    page.get_by_role("slider", name="rate").press("ArrowLeft")
    assert seen(page) == ["Rate 1, kernel 3.", "Mode ccc."]


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_jumps_and_nothing_is_wider_than_the_window(open_page, width):
    page = open_page("page", width=width)
    below = page.locator("#below")
    before = below.bounding_box()
    for _ in range(2):
        page.get_by_role("slider", name="rate").press("ArrowRight")
        assert below.bounding_box() == before
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    picture = page.locator(".explore-frames img:visible").first.bounding_box()
    assert picture["width"] == pytest.approx(min(600, width - 16), abs=1)
    assert picture["width"] == pytest.approx(2 * picture["height"], abs=2)
    for control in page.locator("input[type=range]").all():
        assert control.bounding_box()["height"] >= 24, "a finger must hit it"


def test_dark_mode_changes_neither_colors_nor_the_white_ground(open_page):
    light, dark = open_page("page"), open_page("page", theme="dark")
    picture = dark.locator(".explore-frames img:visible").first
    style = picture.evaluate("i => [getComputedStyle(i).filter, getComputedStyle(i).backgroundColor]")
    assert style == ["none", "rgb(255, 255, 255)"]
    ground = dark.locator(".text_html").evaluate("d => getComputedStyle(d).backgroundColor")
    assert ground == "rgba(0, 0, 0, 0)", "the page's own ground, under text of the page's own color"
    assert picture.screenshot() == light.locator(".explore-frames img:visible").first.screenshot()


def test_a_script_that_comes_twice_changes_nothing(open_page):
    page = open_page("page")
    page.add_script_tag(content=asset("explore.js"))
    page.get_by_role("slider", name="rate").press("ArrowRight")
    assert seen(page)[0] == "Rate 2, kernel 3."


def test_without_its_script_the_first_picture_is_there_and_the_controls_are_off(browser, figures):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(figures["page"])
    images = page.locator(".explore-frames img")
    assert [image.is_visible() for image in images.all()] == [True] + [False] * 5 + [True] + [False] * 2
    assert page.get_by_role("slider", name="rate").is_disabled()
    context.close()
