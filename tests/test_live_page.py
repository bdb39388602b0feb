"""The page with a network in it, in Chromium: on a small built book, or on the one that DEEPLAB_BOOK names."""

import base64
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from PIL import Image
from test_browser import CHROMIUM, Visit, elsewhere, launched, served
from test_live import largest_difference

from deeplab_lesson.data import Scenes, bundled
from deeplab_lesson.data.transforms import normalize
from deeplab_lesson.inference import predict
from deeplab_lesson.metrics import ConfusionMatrix
from deeplab_lesson.training import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = ("deeplabv3plus_mini", "deeplabv1_mini", "fcn32s_mini")
AXE_RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The HTML of the book, or of a small one with the page in it, built once for all workers."""
    if "DEEPLAB_BOOK" in os.environ:
        html = Path(os.environ["DEEPLAB_BOOK"]).resolve()
    else:
        shared = tmp_path_factory.getbasetemp()
        shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
        html = shared / "live_book/_build/html"
        with FileLock(shared / "live_book.lock"):
            if not (html / "book/live.html").is_file():
                build_small_book(shared / "live_book")
    text = (html / "book/live.html").read_text(encoding="utf-8")
    reason = re.search(r"left out of this build of the book\.</strong> (.*?)</p>", text)
    if reason:
        pytest.skip(f"THE LIVE NETWORK WAS NOT TESTED: {reason[1]}")
    return html


def build_small_book(folder: Path) -> None:
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    if not jupyter_book.exists():
        pytest.skip("jupyter-book is not installed")
    shutil.copytree(ROOT / "book/_static", folder / "book/_static")
    shutil.copytree(ROOT / "book/_ext", folder / "book/_ext", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "_config.yml", folder)
    text = (ROOT / "book/live.md").read_text(encoding="utf-8")
    pages = {"index", *re.findall(r"\]\((\w+)\)", text)}
    for name in pages:
        (folder / f"book/{name}.md").write_text(f"# {name}\n\nText.\n")
    (folder / "book/live.md").write_text(text, encoding="utf-8")
    chapters = [{"file": f"book/{name}"} for name in sorted((pages | {"live"}) - {"index"})]
    (folder / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", "root": "book/index", "chapters": chapters}))
    for kept in ("npm", "live"):  # what an earlier build fetched and made; it is checked like new
        if (ROOT / "_build" / kept).is_dir():
            shutil.copytree(ROOT / "_build" / kept, folder / "_build" / kept)
    command = [str(jupyter_book), "build", "-W", "-n", "--keep-going", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def origin(book: Path) -> Iterator[str]:
    with served(book) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("NO BROWSER: install chromium; the live page is not tried")
    with launched() as opened:
        yield opened


@pytest.fixture
def visit(browser: Any, origin: str) -> Iterator[Visit]:
    """The page, fresh. At the end, nothing may have gone wrong on it, or asked another host."""
    with Visit(browser, f"{origin}book/live.html") as opened:
        yield opened
        assert elsewhere(opened.asked, (origin,)) == []
        assert opened.complaints == []


def wait_for_status(visit: Visit, text: str) -> str:
    visit.page.wait_for_function(
        "text => document.getElementById('live-status').textContent.includes(text)", arg=text, timeout=60_000
    )
    return str(visit.page.inner_text("#live-status"))


def segment(visit: Visit) -> str:
    visit.page.click("#live-run")
    return wait_for_status(visit, " ms")


def choose(visit: Visit, value: str) -> None:
    visit.page.check(f"#live-app input[value={value}]")


def table(visit: Visit) -> list[list[str]]:
    """Class, share and IoU; the last row is the mean."""
    rows = visit.page.eval_on_selector_all(
        "#live-legend tbody tr, #live-legend tfoot tr", "all => all.map(r => [...r.cells].map(c => c.innerText.trim()))"
    )
    return [list(row) for row in rows]


@pytest.mark.parametrize("name", NETWORKS)
def test_network_of_the_page_answers_as_pytorch_to_1e_4(book: Path, name: str) -> None:
    model, _ = load_checkpoint(bundled(f"weights/{name}.safetensors"))
    for index, size in enumerate([(128, 128), (33, 90), (129, 65)]):
        image, _ = Scenes("test", size).read(index)
        assert largest_difference(book / f"_static/live/{name}.onnx", model, normalize(image)[None]) <= 1e-4


def test_pictures_of_the_page_are_the_first_test_scenes(book: Path) -> None:
    for index in (0, 23):
        image, label = Scenes("test").read(index)
        with Image.open(book / f"_static/live/test_{index:05d}.png") as stored:
            assert np.array_equal(np.array(stored), image)
        with Image.open(book / f"_static/live/test_{index:05d}_label.png") as stored:
            assert stored.mode == "P"
            assert np.array_equal(np.array(stored), label)


def test_runtime_on_the_page_brings_its_license(book: Path) -> None:
    text = (book / "_static/live/LICENSE").read_text(encoding="utf-8")
    assert "MIT License" in text
    assert "Microsoft" in text
    assert (book / "_static/live/ThirdPartyNotices.txt").stat().st_size > 10_000


def test_nothing_large_is_fetched_before_the_reader_asks_for_it(visit: Visit) -> None:
    assert re.search(r"fetches DeepLab v3\+ .*: [67]\.\d MB", visit.page.inner_text("#live-status"))
    assert not [url for url in visit.asked if re.search(r"onnx|wasm", url)]
    assert visit.page.inner_text("#live-picture-caption") == "Scene 1"
    segment(visit)
    assert len([url for url in visit.asked if url.endswith(".onnx")]) == 1
    asked = len(visit.asked)
    segment(visit)
    assert len(visit.asked) == asked, "what is there is not fetched again"


def test_scripts_of_the_page_are_on_no_other(browser: Any, origin: str) -> None:
    with Visit(browser, f"{origin}book/index.html") as other:
        assert not [url for url in other.asked if "/live/" in url]


@pytest.mark.parametrize("name", NETWORKS)
def test_scene_gets_the_labels_and_the_iou_that_pytorch_gives_it(visit: Visit, name: str) -> None:
    index = 2
    choose(visit, name)
    segment(visit)
    visit.page.locator("input[name=live-scene]").nth(index).focus()
    visit.page.keyboard.press("Space")
    status = wait_for_status(visit, f"Scene {index + 1}:")
    model, _ = load_checkpoint(bundled(f"weights/{name}.safetensors"))
    image, label = Scenes("test").read(index)
    labels = predict(model, image)
    matrix = ConfusionMatrix(len(Scenes.classes))
    matrix.update(torch.from_numpy(labels), torch.from_numpy(label))
    *rows, mean = table(visit)
    assert float(mean[2].removesuffix(" %")) == pytest.approx(100 * matrix.mean_iou, abs=0.3)
    assert mean[2] in status
    for (shown, share, iou), class_name, expected in zip(rows, Scenes.classes, matrix.iou.tolist(), strict=True):
        assert shown == class_name
        part = float((labels == Scenes.classes.index(class_name)).mean())
        assert (share == "–") == (part == 0)
        assert (iou == "–") == np.isnan(expected)
        if iou != "–":
            assert float(iou.removesuffix(" %")) == pytest.approx(100 * expected, abs=3), class_name


def test_opacity_0_shows_the_picture_and_100_the_colors_of_the_palette(visit: Visit) -> None:
    image, label = Scenes("test").read(0)
    read = """id => [...document.getElementById(id).getContext('2d').getImageData(0, 0, 128, 128).data]"""

    def pixels(canvas: str) -> np.ndarray:
        return np.array(visit.page.evaluate(read, canvas), dtype=np.uint8).reshape(128, 128, 4)[..., :3]

    assert np.array_equal(pixels("live-picture"), image), "before there are labels"
    segment(visit)
    visit.page.locator("#live-opacity").fill("0")
    assert np.array_equal(pixels("live-picture"), image)
    visit.page.locator("#live-opacity").fill("100")
    assert visit.page.inner_text("#live-opacity-value") == "100 %"
    colored = Scenes.palette[label]
    shown = label != 0
    assert np.array_equal(pixels("live-truth")[shown], colored[shown])
    assert np.array_equal(pixels("live-truth")[~shown], image[~shown])


# A picture of the reader ------------------------------------------------------------------------------------------

DROP = """async ([name, type, text]) => {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type}));
  document.getElementById('live-picture').dispatchEvent(
    new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""


def picture_bytes(width: int, height: int, kind: str = "png") -> bytes:
    made = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(made, kind)
    return made.getvalue()


def drop(visit: Visit, name: str, content: bytes) -> None:
    visit.page.evaluate(DROP, [name, "image/png", base64.b64encode(content).decode()])


@pytest.mark.parametrize(
    ("size", "shown"),
    [((300, 150), (256, 128)), ((50, 70), (128, 179)), ((2000, 100), (384, 128)), ((1, 1), (128, 128))],
)
def test_dropped_picture_is_segmented_at_its_own_aspect(visit: Visit, size, shown) -> None:
    segment(visit)
    drop(visit, "mine.png", picture_bytes(*size))
    wait_for_status(visit, "mine.png: DeepLab v3+ took")
    assert visit.page.evaluate("(c => [c.width, c.height])(document.getElementById('live-picture'))") == list(shown)
    assert visit.page.is_checked("input[value=file]")
    assert visit.page.is_hidden("#live-truth-figure"), "its truth is not known"
    *rows, mean = table(visit)
    assert {row[2] for row in rows} == {"–"}
    assert mean[2] == "–"
    assert sum(float(row[1].removesuffix(" %")) for row in rows if row[1] != "–") == pytest.approx(100, abs=1)


def test_picture_of_the_reader_never_leaves_the_page(visit: Visit, tmp_path: Path) -> None:
    segment(visit)
    sent: list[Any] = []
    visit.page.on("request", lambda request: sent.append(request))
    visit.context.set_offline(True)  # and it works without a connection
    drop(visit, "secret.png", picture_bytes(200, 200))
    wait_for_status(visit, "secret.png: DeepLab v3+ took")
    (tmp_path / "chosen.jpg").write_bytes(picture_bytes(90, 60, "jpeg"))
    choose(visit, "file")
    visit.page.set_input_files("#live-file", tmp_path / "chosen.jpg")
    wait_for_status(visit, "chosen.jpg: DeepLab v3+ took")
    assert [request.url for request in sent if not request.url.startswith("blob:")] == []


@pytest.mark.parametrize(
    "content",
    [b"Dear diary, this is no picture.", b"", picture_bytes(64, 64)[:40], b"<svg><script>alert(1)</script></svg>"],
    ids=["text", "empty", "cut off", "script"],
)
def test_file_that_is_no_picture_gets_a_clear_message_and_changes_nothing(visit: Visit, content: bytes) -> None:
    segment(visit)
    before = table(visit)
    drop(visit, "diary.png", content)
    text = wait_for_status(visit, "diary.png is no picture")
    assert "Choose a PNG, JPEG, WebP or GIF file" in text
    assert "live-wrong" in visit.page.get_attribute("#live-status", "class")
    assert table(visit) == before
    drop(visit, "good.png", picture_bytes(64, 64))
    wait_for_status(visit, "good.png: DeepLab v3+ took")
    assert "live-wrong" not in visit.page.get_attribute("#live-status", "class")


# Drawing ----------------------------------------------------------------------------------------------------------


def draw(visit: Visit, shape: str, radius: int, x: float, y: float, color: str = "#d2963c") -> None:
    """By mouse; places in pixels of the picture."""
    visit.page.select_option("#live-shape", shape)
    visit.page.fill("#live-radius", str(radius))
    visit.page.fill("#live-color", color)
    canvas = visit.page.locator("#live-picture")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    visit.page.mouse.move(box["x"] + 5, box["y"] + 5)
    visit.page.mouse.down()
    visit.page.mouse.move(box["x"] + x * box["width"] / 128, box["y"] + y * box["height"] / 128, steps=3)
    visit.page.mouse.up()


def wait_for_share(visit: Visit, name: str, share: str) -> None:
    visit.page.wait_for_function(
        """([name, share]) => [...document.getElementById('live-legend').rows].some(
          r => r.cells[0].textContent === name && r.cells[1].textContent.endsWith(share))""",
        arg=[name, share],
        timeout=60_000,
    )


def drawn(visit: Visit) -> dict[str, str]:
    """IoU by class, of what is drawn and of what is answered, when the network has seen the last change."""
    visit.page.evaluate("() => { document.getElementById('live-status').textContent = ''; }")
    segment(visit)
    return {name: iou for name, _, iou in table(visit)[:-1] if iou != "–"}


def test_what_the_page_tells_the_reader_to_try_is_so(visit: Visit) -> None:
    seeded = "(() => { let seed = 7; Math.random = () => (seed = (seed * 1103515245 + 12345) % 2 ** 31) / 2 ** 31; })()"
    visit.page.evaluate(seeded)  # angles
    choose(visit, "drawing")  # its stamps are fetched; the status line speaks of fetching before and after
    caption = "document.getElementById('live-picture-caption').textContent"
    visit.page.wait_for_function(f"{caption} === 'Your drawing'")

    def look(*shapes: tuple[Any, ...]) -> dict[str, float]:
        visit.page.click("#live-clear")
        for shape in shapes:
            draw(visit, *shape)
        return {name: float(iou.removesuffix(" %")) for name, iou in drawn(visit).items()}

    rings = {radius: look(("ring", radius, 64, 64))["ring"] for radius in (5, 12, 40)}
    assert rings[5] < 45 < 85 < min(rings[12], rings[40])
    blobs = look(("square", 26, 40, 44, "#5a8cd2"), ("blob", 0, 40, 44), ("blob", 0, 98, 90))
    assert min(blobs["pebble"], blobs["seed"]) > 60
    disk = ("disk", 14, 64, 64)
    assert look(("square", 28, 64, 64, "#5a8cd2"), disk)["disk"] < 40
    assert look(("square", 28, 64, 64, "#5a8cd2"), ("disk", 14, 108, 64))["disk"] > 80
    choose(visit, "fcn32s_mini")
    wait_for_status(visit, "FCN-32s took")
    assert look(("ring", 12, 64, 64))["ring"] < 40
    blobs = look(("square", 26, 40, 44, "#5a8cd2"), ("blob", 0, 40, 44), ("blob", 0, 98, 90))
    assert blobs["pebble"] == blobs["seed"] == 0


def test_everything_works_by_keyboard(visit: Visit) -> None:
    page = visit.page

    def focused() -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.value"))

    def tab_to(name: str) -> None:
        for _ in range(12):
            page.keyboard.press("Tab")
            if focused() == name:
                return
        raise AssertionError(f"Tab does not lead to {name}, but to {focused()}")

    page.locator("input[value=scene]").focus()
    tab_to("0")  # the scenes are one stop of Tab; arrows move among them
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.getElementById('live-picture-caption').textContent === 'Scene 2'")
    tab_to("deeplabv3plus_mini")
    page.keyboard.press("ArrowDown")
    tab_to("live-run")
    page.keyboard.press("Enter")
    wait_for_status(visit, "Scene 2: DeepLab v1 took")
    tab_to("live-opacity")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#live-opacity-value") == "61 %"
    page.locator("input[value=scene]").focus()
    page.keyboard.press("ArrowRight")
    wait_for_status(visit, "Your drawing: DeepLab v1 took")
    tab_to("live-shape")
    page.keyboard.type("star")
    assert page.input_value("#live-shape") == "star"
    tab_to("live-clear")
    page.keyboard.press("Enter")
    wait_for_share(visit, "background", "100.0 %")
    tab_to("live-picture")
    before = page.locator("#live-picture").screenshot()
    for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowUp"):
        page.keyboard.press(key)
    assert page.locator("#live-picture").screenshot() != before, "the cross is seen"
    page.keyboard.press("Enter")
    wait_for_share(visit, "star", "%")
    page.keyboard.press("Backspace")
    wait_for_share(visit, "background", "100.0 %")
    assert focused() == "live-picture"
    page.keyboard.press("Tab")
    assert focused() != "live-picture", "the picture keeps no one"


# What can be missing ----------------------------------------------------------------------------------------------


def test_missing_network_file_is_named_and_a_second_try_works(browser: Any, origin: str) -> None:
    with Visit(browser, f"{origin}book/live.html") as visit:
        visit.page.route("**/*.onnx", lambda route: route.fulfill(status=404, body="no"))
        visit.page.click("#live-run")
        text = wait_for_status(visit, "is missing on this site")
        assert "deeplabv3plus_mini.onnx, status 404" in text
        assert "Build the book again" in text
        visit.page.unroute("**/*.onnx")
        segment(visit)


@pytest.mark.parametrize("pattern", ["**/*.onnx", "**/*.wasm.gz.bin"])
def test_file_with_something_else_in_it_gives_a_message_and_no_hanging_page(
    browser: Any, origin: str, pattern: str
) -> None:
    with Visit(browser, f"{origin}book/live.html") as visit:
        visit.page.route(pattern, lambda route: route.fulfill(status=200, body="<html>Sign in first</html>"))
        visit.page.click("#live-run")
        assert "could not be started in this browser" in wait_for_status(visit, "could not be")


def test_page_says_so_where_there_is_no_webassembly(browser: Any, origin: str) -> None:
    context = browser.new_context()
    context.add_init_script("delete window.WebAssembly")
    page = context.new_page()
    page.goto(f"{origin}book/live.html", wait_until="networkidle")
    assert "This browser has no WebAssembly" in page.inner_text("#live-deeplab .live-message")
    assert page.is_hidden("#live-app")
    context.close()


def test_page_opened_as_a_file_says_what_to_do(browser: Any, book: Path) -> None:
    with Visit(browser, (book / "book/live.html").as_uri()) as visit:
        assert "make serve" in visit.page.inner_text("#live-deeplab .live-message")
        assert visit.page.is_hidden("#live-app")
        assert visit.complaints == []


def test_page_without_javascript_says_so(browser: Any, origin: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{origin}book/live.html")
    assert "It is switched off here" in page.inner_text("#live-deeplab")
    context.close()


# How it looks and is read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 390)])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_window(
    browser: Any, origin: str, scheme: str, width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: run make setup")
    with Visit(browser, f"{origin}book/live.html", scheme, width) as visit:
        segment(visit)
        for source, said in (("scene", "Scene 1"), ("drawing", "Your drawing"), ("file", "no picture")):
            choose(visit, source)
            if source == "file":
                long = "averylongname" * 8 + ".png"
                drop(visit, long, picture_bytes(64, 64))
                wait_for_status(visit, f"{long}: DeepLab")
                assert visit.page.evaluate("document.scrollingElement.scrollWidth") <= width, "a caption is too wide"
                drop(visit, long, b"no")
            wait_for_status(visit, said)
            found = axe.Axe().run(visit.page, context="#live-deeplab", options=AXE_RULES).response["violations"]
            assert [(rule["id"], node["html"][:200]) for rule in found for node in rule["nodes"]] == [], source
            assert visit.page.evaluate("document.scrollingElement.scrollWidth") <= width, source


def test_status_is_read_aloud_and_the_picture_has_a_name(visit: Visit) -> None:
    status = visit.page.locator("#live-status")
    assert status.get_attribute("aria-live") == "polite"
    segment(visit)
    picture = visit.page.get_by_role("img", name="Scene 1, and over it the labels of DeepLab v3+")
    assert picture.count() == 1
    assert visit.page.get_by_role("radio", name="scene 24").count() == 1
    choose(visit, "drawing")
    wait_for_status(visit, "Your drawing:")
    assert visit.page.get_by_role("application").get_attribute("id") == "live-picture"
