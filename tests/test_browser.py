"""The built book in a real browser. `make browser` builds it and sets DEEPLAB_BOOK to its folder."""

import gzip
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest

BOOK = Path(os.environ.get("DEEPLAB_BOOK", ""))
BUILT = "DEEPLAB_BOOK" in os.environ
PAGES = sorted(file.relative_to(BOOK).as_posix() for file in BOOK.rglob("*.html")) if BUILT else ["none"]
PAGES = [page for page in PAGES if not page.startswith("_static/") and page != "index.html"]  # index.html: a redirect
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-default-apps"
)
FIRST_LOAD = 1_400_000  # bytes on the wire; the aim is 1,000,000
WIDTHS = {"phone": 390, "desk": 1440}
COMPRESSED = re.compile(r"text/|javascript|json|svg")  # what a web server sends compressed

pytestmark = [
    pytest.mark.skipif(not BUILT, reason="no built book: make browser builds it and sets DEEPLAB_BOOK"),
    pytest.mark.skipif(CHROMIUM is None, reason="NO BROWSER: install chromium; the pages are not looked at"),
]
every_page = pytest.mark.parametrize("page", PAGES)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: pytest shows what matters."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a built book; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@contextmanager
def launched() -> Iterator[Any]:
    """Start Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: run make setup")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    with served(BOOK) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as opened:
        yield opened


class Visit:
    """One page in a fresh profile, and everything that it asked for and complained about."""

    def __init__(self, browser: Any, url: str, scheme: str = "light", width: int = 1440) -> None:
        self.context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.answers: list[Any] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("response", self.note)
        self.page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("console", self.hear)
        self.page.goto(url, wait_until="networkidle")
        # On a loaded machine the network rests before the theme's script has chosen the colors.
        self.page.wait_for_function(
            "document.readyState === 'complete' && ['light', 'dark'].includes(document.documentElement.dataset.theme)"
        )

    def note(self, answer: Any) -> None:
        self.answers.append(answer)
        if answer.status >= 400:
            self.complaints.append(f"status {answer.status}: {answer.url}")

    def hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def elsewhere(asked: list[str], allowed: tuple[str, ...]) -> list[str]:
    return [url for url in asked if not url.startswith((*allowed, "data:", "blob:"))]


@every_page
def test_page_over_http_has_no_errors_and_asks_no_other_host(browser: Any, origin: str, page: str) -> None:
    with Visit(browser, origin + page) as visit:
        assert elsewhere(visit.asked, (origin,)) == []
        assert visit.complaints == []


@every_page
def test_page_opened_as_a_file_has_no_errors_and_asks_no_host(browser: Any, page: str) -> None:
    with Visit(browser, (BOOK.resolve() / page).as_uri()) as visit:
        assert elsewhere(visit.asked, ("file://",)) == []
        assert visit.complaints == []


@every_page
def test_first_load_of_a_page_is_light(browser: Any, origin: str, page: str) -> None:
    with Visit(browser, origin + page) as visit:
        sizes = {}
        for answer in visit.answers:
            body = answer.body()
            packed = COMPRESSED.search(answer.headers.get("content-type", "")) is not None
            sizes[answer.url.removeprefix(origin)] = len(gzip.compress(body, 6)) if packed else len(body)
    largest = sorted(sizes.items(), key=lambda pair: -pair[1])[:8]
    print(f"{page}: {sum(sizes.values()) / 1e6:.2f} MB in {len(sizes)} requests")
    assert sum(sizes.values()) <= FIRST_LOAD, f"the largest parts: {largest}"


@every_page
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_page_does_not_scroll_sideways(browser: Any, origin: str, page: str, width: int) -> None:
    with Visit(browser, origin + page, width=width) as visit:
        too_wide = visit.page.evaluate(
            """() => {
              const room = document.documentElement.clientWidth;
              if (document.scrollingElement.scrollWidth <= room) return [];
              return [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > room + 1)
                .slice(0, 5).map(e => e.outerHTML.slice(0, 120));
            }"""
        )
        assert visit.page.evaluate("document.scrollingElement.scrollWidth") <= width, too_wide


@every_page
@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 390)])  # axe takes seconds a page
def test_axe_finds_no_violation_of_wcag_2_1_a_and_aa(
    browser: Any, origin: str, page: str, scheme: str, width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: run make setup")
    rules = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
    with Visit(browser, origin + page, scheme, width) as visit:
        found = axe.Axe().run(visit.page, options=rules).response["violations"]
    assert [(rule["id"], node["html"][:200]) for rule in found for node in rule["nodes"]] == []


@every_page
def test_pictures_keep_their_colors_on_white_in_dark_mode(browser: Any, origin: str, page: str) -> None:
    with Visit(browser, origin + page, "dark") as visit:
        assert visit.page.evaluate("document.documentElement.dataset.theme") == "dark"
        changed = visit.page.evaluate(
            """() => [...document.querySelectorAll('main img')].map(e => [e.src, getComputedStyle(e)])
              .filter(([, s]) => s.filter !== 'none' || s.opacity !== '1' || s.mixBlendMode !== 'normal')
              .map(([src]) => src)"""
        )
        outputs = visit.page.evaluate(
            """() => [...document.querySelectorAll('.cell_output img')].map(e => getComputedStyle(e).backgroundColor)"""
        )
    assert changed == []
    assert set(outputs) <= {"rgb(255, 255, 255)"}


@every_page
def test_every_picture_has_an_alt_text_that_is_not_a_file_name(browser: Any, origin: str, page: str) -> None:
    with Visit(browser, origin + page) as visit:
        texts = visit.page.evaluate("[...document.querySelectorAll('main .bd-article img')].map(e => [e.src, e.alt])")
    assert [src for src, alt in texts if not alt.strip() or re.search(r"\.(png|svg|jpe?g|webp)$", alt)] == []


@every_page
def test_sliders_of_a_page_move_their_picture_by_keyboard(browser: Any, origin: str, page: str) -> None:
    shown = "(e) => [...e.querySelectorAll('.explore-frames img')].filter(i => !i.hidden).map(i => i.src)"
    with Visit(browser, origin + page) as visit:
        for slider in visit.page.locator(".deeplab-explore:has(input[type=range])").all():
            before = slider.evaluate(shown)
            slider.locator("input[type=range]").first.focus()
            visit.page.keyboard.press("ArrowRight")
            after = slider.evaluate(shown)
            assert len(before) == len(after) == 1
            assert before != after
            picture = slider.locator(".explore-frames img:visible")
            there = "e => e.complete && e.naturalWidth > 0"
            visit.page.wait_for_function(there, arg=picture.element_handle(), timeout=10_000)
        assert visit.complaints == []


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_search_finds_a_word_of_the_book(browser: Any, origin: str, scheme: str) -> None:
    start = origin if scheme == "http" else BOOK.resolve().as_uri() + "/"
    with Visit(browser, start + "search.html?q=segmentation") as visit:
        link = visit.page.locator("#search-results li a").first
        link.wait_for(timeout=10_000)
        assert elsewhere(visit.asked, (start,)) == []
        assert visit.complaints == []
        link.click()
        visit.page.wait_for_load_state()
        assert "segmentation" in visit.page.inner_text("main").lower()


def test_search_does_not_find_a_word_that_is_not_there(browser: Any, origin: str) -> None:
    with Visit(browser, origin + "search.html?q=xylophone") as visit:
        visit.page.get_by_text("did not match any documents").wait_for(timeout=10_000)
        assert visit.page.locator("#search-results li a").count() == 0


def test_theme_button_changes_the_theme_and_the_choice_stays(browser: Any, origin: str) -> None:
    with Visit(browser, origin + "book/index.html") as visit:
        theme = "document.documentElement.dataset.theme"
        seen = {visit.page.evaluate(theme)}
        for _ in range(3):
            visit.page.locator("button.theme-switch-button:visible").first.click()
            seen.add(visit.page.evaluate(theme))
        assert seen == {"light", "dark"}
        while visit.page.evaluate(theme) != "dark" or visit.page.evaluate("localStorage.mode") != "dark":
            visit.page.locator("button.theme-switch-button:visible").first.click()
        visit.page.reload(wait_until="networkidle")
        visit.page.wait_for_function(f"{theme} === 'dark'", timeout=10_000)


SPOKEN = {"image", "slider", "button", "link", "checkbox", "radio", "combobox", "textbox", "DisclosureTriangle"}


@every_page
def test_a_screen_reader_hears_headings_in_order_a_name_for_everything_and_formulas_as_text(
    browser: Any, origin: str, page: str
) -> None:
    with Visit(browser, origin + page) as visit:
        session = visit.context.new_cdp_session(visit.page)
        nodes = {node["nodeId"]: node for node in session.send("Accessibility.getFullAXTree")["nodes"]}
        formulas = visit.page.locator("main .formula, main .formula-block").count()

    def role(node: dict[str, Any]) -> str:
        return "" if node.get("ignored") else str(node.get("role", {}).get("value", ""))

    def read(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for child in node.get("childIds", []):
            if child in nodes:
                yield from read(nodes[child])

    def says(node: dict[str, Any]) -> str:
        return "".join(str(each.get("name", {}).get("value", "")) for each in read(node) if role(each) == "StaticText")

    (main,) = (node for node in nodes.values() if role(node) == "main")
    heard = list(read(main))
    silent = [role(node) for node in heard if role(node) in SPOKEN and not node.get("name", {}).get("value")]
    assert silent == []
    levels = [
        each["value"]["value"]
        for node in heard
        if role(node) == "heading"
        for each in node["properties"]
        if each["name"] == "level"
    ]
    assert levels[0] == 1
    assert 1 not in levels[1:]
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    math = [node for node in heard if role(node) == "MathMLMath"]
    assert len(math) == formulas
    assert [node for node in math if not says(node).strip()] == []


def test_a_page_read_in_dark_is_printed_in_light_with_its_long_lines_whole(browser: Any, origin: str) -> None:
    with Visit(browser, origin + "book/03_atrous_convolution.html", scheme="dark") as visit:
        theme = "document.documentElement.dataset.theme"
        visit.page.wait_for_function(f"{theme} === 'dark'", timeout=10_000)
        visit.page.evaluate("addEventListener('beforeprint', () => { window.printed = " + theme + " })")
        visit.page.set_viewport_size({"width": 794, "height": 1123})  # A4
        visit.page.pdf(format="A4")
        assert visit.page.evaluate("window.printed") == "light"
        assert visit.page.evaluate(theme) == "dark"
        visit.page.emulate_media(media="print")
        wide = "[...document.querySelectorAll('.bd-content pre')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        assert visit.page.evaluate(wide) == 0


# ---- read from the files, without the browser --------------------------------------------------------------------


class Anchors(HTMLParser):
    """The ids and the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id" or (name == "name" and tag == "a"):
                self.ids.add(value or "")
            elif name in ("href", "src") and value:
                self.links.append(value)


@cache
def parsed(page: str) -> Anchors:
    anchors = Anchors()
    anchors.feed((BOOK / page).read_text(encoding="utf-8"))
    return anchors


@every_page
def test_internal_links_and_anchors_of_a_page_resolve(page: str) -> None:
    broken = []
    for link in parsed(page).links:
        if urlsplit(link).scheme or link.startswith("//"):
            continue
        target, anchor = urldefrag(urljoin(page, link))
        file = unquote(urlsplit(target).path) or page
        there = (BOOK / file).is_file()
        if not there or (anchor and file.endswith(".html") and unquote(anchor) not in parsed(file).ids):
            broken.append(link)
    assert broken == []


@every_page
def test_page_of_a_chapter_ends_with_its_run_time_and_versions(page: str) -> None:
    if re.match(r"book/\d\d_", page):
        text = (BOOK / page).read_text(encoding="utf-8")
        line = re.search(r'<p class="chapter-runtime">(.*?)</p>', text)
        assert line is not None
        assert re.search(r"ran in (\d+ min )?\d+ s on \d+ CPU cores .*Python 3\.\d+\.\d+, .*torch \d", line[1])


@every_page
def test_colab_link_of_a_page_names_its_notebook(page: str) -> None:
    links = {link for link in parsed(page).links if "colab.research" in link}
    notebook = page.replace(".html", ".ipynb")
    if (Path(__file__).parents[1] / notebook).is_file():
        assert links
        assert all(link.endswith(f"/blob/main/{notebook}") for link in links)
    else:
        assert not links
