"""The built book in a real browser: every page, from a server and from files.

Builds the book first where it is missing or stale. Without Chromium the tests are skipped with a
reason; in CI (CI=true) that is a failure.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import ROOT, USERS_ENVIRONMENT
from playwright.sync_api import TimeoutError as NotYet
from pypdf import PdfReader

sys.path.insert(0, str(ROOT / "book" / "_tools"))

import drawn  # noqa: E402
import pdf  # noqa: E402
import serve  # noqa: E402

pytestmark = pytest.mark.browser

HTML = ROOT / "_build" / "html"
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}


@pytest.fixture(scope="session")
def html(request) -> Path:
    """Folder of the built book; builds it, with visible progress, when something changed."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    command = [sys.executable, str(ROOT / "book" / "_tools" / "build.py")]
    with capture.global_and_fixture_disabled():
        print(flush=True)
        built = subprocess.run(command, env=USERS_ENVIRONMENT, check=False)
    assert built.returncode == 0, "the book does not build; the reason is printed above"
    return HTML


@pytest.fixture(scope="session")
def address(html):
    """Address of a server of the book."""
    server = serve.server(html, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def page_names() -> list[str]:
    """Every page, relative to the folder of the book (`index.html` only points to the first one)."""
    pages = HTML.rglob("*.html")
    return sorted(p.relative_to(HTML).as_posix() for p in pages if "_static" not in p.parts)


IMAGES_WITHOUT_ALT = """() => [...document.querySelectorAll('article img')].filter(image => {
  const alt = image.getAttribute('alt') || '';
  return !alt.trim() || alt.includes('_images/');
}).map(image => image.src.slice(0, 120))"""

RAW_MATHEMATICS = """() => [...document.querySelectorAll('article .math')].filter(
  e => !e.querySelector('mjx-container') || e.querySelector('mjx-merror')).map(e => e.textContent)"""

CANVAS_WIDTHS = "[...document.querySelectorAll('.ictl-live canvas')].map(c => c.width)"

STAGE = """slider => [...slider.querySelectorAll('.ictl-slider-stage img')]
  .filter(i => i.getBoundingClientRect().width > 0).map(i => i.src).join()"""


@dataclass
class Visit:
    """One opened page and what went wrong on it."""

    page: object
    outside: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def watch(self, own: str) -> None:
        """Note requests to other hosts (and stop them), failed requests, errors of scripts."""

        def route(route) -> None:
            if route.request.url.startswith((own, "data:", "blob:")):
                return route.continue_()
            self.outside.append(route.request.url)
            return route.abort()

        def response(answer) -> None:
            if answer.status >= 400:
                self.failed.append(f"{answer.status} {answer.url}")

        self.page.route("**/*", route)
        self.page.on("requestfailed", lambda request: self.failed.append(request.url))
        self.page.on("response", response)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)

    def open(self, url: str) -> None:
        """Load a page and wait until mathematics, widgets and circuitsvis have been drawn, and fonts have come."""
        self.page.goto(url, wait_until="load")
        if url.endswith("/index.html"):  # it only leads on
            self.page.wait_for_url("**/book/intro.html", wait_until="load")
        drawn.wait_until_drawn(self.page)


def visit(chromium, own: str, name: str) -> Visit:
    """Open one page in a fresh context."""
    context = chromium.new_context(viewport=DESKTOP, color_scheme="light")
    opened = Visit(context.new_page())
    opened.watch(own)
    opened.open(f"{own}/{name}")
    return opened


def assert_clean(name: str, opened: Visit) -> None:
    """Nothing asked of other hosts, nothing failed, no error in the console."""
    assert not opened.outside, f"{name} asks other hosts: {opened.outside}"
    assert not opened.failed, f"{name}: failed requests {opened.failed}"
    assert not opened.errors, f"{name}: console errors {opened.errors}"


def assert_slider_moves(page) -> None:
    """Each static slider shows one picture, and another one at its other end."""
    for slider in page.query_selector_all(".ictl-slider"):
        first = slider.evaluate(STAGE)
        assert first, "a static slider shows no picture"
        handle = slider.query_selector("input[type=range]")
        handle.focus()
        page.keyboard.press("Home")
        start = slider.evaluate(STAGE)
        page.keyboard.press("End")
        assert slider.evaluate(STAGE) != start, "moving the static slider does not change the picture"


def test_pages_are_there(html):
    """The start page and every notebook have a page."""
    notebooks = [f"notebooks/{p.stem}.html" for p in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))]
    missing = {"index.html", "book/intro.html", *notebooks} - set(page_names())
    assert not missing, f"pages missing from the book: {missing}"


def assert_drawn(name: str, page) -> None:
    """Every circuitsvis picture, widget and formula of the page is there."""
    assert page.evaluate(drawn.EMPTY_CANVASES) == [], f"{name}: circuitsvis drew nothing"
    assert page.evaluate(drawn.UNDRAWN_WIDGETS) == [], f"{name}: a widget is not drawn"
    assert page.evaluate(RAW_MATHEMATICS) == [], f"{name}: mathematics not rendered"


def assert_fits_a_phone(name: str, page) -> None:
    """On a phone the page is not wider than the screen; turned back, circuitsvis has its size again."""
    before = page.evaluate(CANVAS_WIDTHS)
    page.set_viewport_size(PHONE)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"], f"{name} is {width} px wide on a screen of {PHONE['width']} px"
    page.set_viewport_size(DESKTOP)
    with contextlib.suppress(NotYet):
        page.wait_for_function(f"was => JSON.stringify({CANVAS_WIDTHS}) === was", arg=json_text(before), timeout=5_000)
    assert page.evaluate(CANVAS_WIDTHS) == before, f"{name}: circuitsvis does not grow back"


def json_text(value: list) -> str:
    """As JSON.stringify writes it."""
    return json.dumps(value, separators=(",", ":"))


def luminance(page, selector: str, style: str) -> float:
    """Brightness, 0 to 255, of a colour of the first element that matches."""
    colour = page.eval_on_selector(selector, f"e => getComputedStyle(e).{style}")
    red, green, blue = (float(c) for c in colour.split("(")[1].rstrip(")").split(",")[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def assert_dark(name: str, page) -> None:
    """The page turns dark when the system does; circuitsvis stays dark on white."""
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    with contextlib.suppress(NotYet):
        page.wait_for_function("document.documentElement.dataset.theme === 'dark'", timeout=10_000)
    page.wait_for_timeout(300)  # colours fade
    assert page.evaluate("document.documentElement.dataset.theme") == "dark", f"{name} ignores dark mode"
    assert luminance(page, "body", "backgroundColor") < 60 < 150 < luminance(page, "body", "color"), name
    if page.query_selector(".ictl-live"):
        assert luminance(page, ".ictl-live", "color") < 80, f"{name}: circuitsvis light on white"
        assert luminance(page, ".ictl-card", "backgroundColor") > 200, name


def test_the_chapters_hold_what_the_browser_looks_at(html):
    """Circuitsvis pictures, a static slider, figures and mathematics: none of the checks below is idle."""
    pages = "".join((html / name).read_text(encoding="utf8") for name in page_names())
    for part in ('class="ictl-live"', "ictl-slider-stage", '<img src="data:image/png', 'class="math'):
        assert part in pages, f"no page of the book has {part}"


def assert_accessible(name: str, page, *rules: str) -> None:
    """No serious finding of axe-core in the theme that the page shows; default: of all its rules."""
    options = {"preload": False, "resultTypes": ["violations"]}  # its preload asks for files that are not there
    options |= {"runOnly": {"type": "rule", "values": list(rules)}} if rules else {}
    found = Axe().run(page, options=options).response["violations"]
    found = [v for v in found if v["impact"] in ("serious", "critical")]
    shown = [f"{v['id']} ({len(v['nodes'])}): {v['nodes'][0]['html'][:200]}" for v in found]
    assert shown == [], f"{name}: {shown}"


def on_every_page(chromium, own: str, look) -> None:
    """``look(name, opened page)`` at each page; all that is wrong on any of them is told together."""
    wrong = []
    for name in page_names():
        opened = visit(chromium, own, name)
        try:
            look(name, opened)
            assert_clean(name, opened)
        except AssertionError as error:
            wrong.append(str(error).partition("\nassert ")[0])
        opened.page.context.close()
    assert wrong == [], "\n".join(wrong)


def test_every_page_from_a_server(chromium, address):
    """Clean, all drawn, alternative texts, sliders alive, good on a phone and in the dark, axe-core in both themes."""

    def look(name: str, opened: Visit) -> None:
        page = opened.page
        assert_drawn(name, page)
        assert page.evaluate(IMAGES_WITHOUT_ALT) == [], f"{name}: images without alternative text"
        assert_slider_moves(page)
        assert_accessible(name, page)
        assert_fits_a_phone(name, page)
        assert_dark(name, page)
        assert_accessible(name, page, "color-contrast")  # what the theme decides

    on_every_page(chromium, address, look)


SMALL_ENOUGH = 1.5e6  # bytes of HTML, without the shared scripts


def test_the_slider_moves_with_the_keyboard(chromium, address):
    """Focus, one arrow key, another picture."""
    page = visit(chromium, address, "notebooks/01_watch_an_induction_head_form.html").page
    slider = page.locator(".ictl-slider input[type=range]").first
    slider.focus()
    before = slider.input_value()
    page.keyboard.press("ArrowLeft")
    assert slider.input_value() != before
    page.context.close()


def test_pages_are_small(html):
    """The text of each page, pictures included, without scripts that all pages share."""
    large = {name: (HTML / name).stat().st_size for name in page_names()}
    assert {name: size for name, size in large.items() if size > SMALL_ENOUGH} == {}


def test_every_claim_leads_to_its_figures(chromium, address):
    """Links from the page of claims and from the map of figures end at an element that exists."""
    page = visit(chromium, address, "book/claims.html").page
    for name in ("claims", "figure_map"):
        page.goto(f"{address}/book/{name}.html")
        for link in page.evaluate("[...document.querySelectorAll('article a[href*=\"#fig-\"]')].map(a => a.href)"):
            path, _, anchor = link.removeprefix(f"{address}/").partition("#")
            assert f'id="{anchor}"' in (HTML / path).read_text(encoding="utf8"), link
    page.context.close()


def test_every_page_from_files(chromium, html):
    """The folder can be opened without a server, or handed out as an archive."""

    def look(name: str, opened: Visit) -> None:
        assert_drawn(name, opened.page)
        assert_slider_moves(opened.page)

    on_every_page(chromium, html.as_uri(), look)


def test_a_chapter_in_print(chromium, address, tmp_path):
    """Pictures, folds and formulas are on the sheets; navigation and folded code are not; parts join with bookmarks."""
    page = chromium.new_context().new_page()
    names = ["notebooks/03_transformer_as_circuits", "book/glossary"]
    parts = [(name, pdf.printed(page, f"{address}/{name}.html")) for name in names]
    page.context.close()
    sheets = pdf.join(parts, tmp_path / "book.pdf")
    found = PdfReader(tmp_path / "book.pdf")
    text = "".join(sheet.extract_text() for sheet in found.pages)
    assert len(found.pages) == sheets > 5 and [mark.title for mark in found.outline] == names
    assert sum(len(sheet.images) for sheet in found.pages) >= 5
    assert "What we see" in text and "page 1" in text and "Hide code" not in text and "Search" not in text


def test_theme_button(chromium, address):
    """The button changes the theme."""
    page = visit(chromium, address, "book/intro.html").page
    seen = {page.evaluate("document.documentElement.dataset.theme")}
    for _ in range(3):
        page.locator("button.theme-switch-button:visible").first.click()
        seen.add(page.evaluate("document.documentElement.dataset.theme"))
    assert seen == {"light", "dark"}, f"three clicks on the theme button gave only {seen}"
    page.context.close()


def test_claims_can_be_sorted_and_filtered(chromium, address):
    """Every claim has a row; headings sort both ways; filters leave only what they say."""
    page = visit(chromium, address, "book/claims.html").page
    rows = "document.querySelectorAll('table.claims tbody tr:not([hidden])')"
    cells = f"n => [...{rows}].map(row => row.cells[n].textContent)"
    ids = page.evaluate(f"({cells})(0)")
    assert len(ids) == 66 and ids == sorted(ids)
    for expected in (sorted(ids), sorted(ids, reverse=True)):
        page.click("table.claims th:nth-child(1) button")
        assert page.evaluate(f"({cells})(0)") == expected
    page.select_option('select[data-filter="verdict"]', "not testable here")
    words = page.evaluate(f"({cells})(2)")
    assert set(words) == {"not testable here"} and page.inner_text(".claims-shown") == f"{len(words)} of 66 claims"
    page.select_option('select[data-filter="verdict"]', "")
    page.select_option('select[data-filter="part"]', "P1 Argument 2")
    shown = page.evaluate(f"({cells})(0)")
    assert sorted(shown) == [name for name in sorted(ids) if name.startswith("B")] and len(shown) == 6
    page.context.close()


def test_search_finds_a_page(chromium, address):
    """The search of the static book works without any outside service."""
    opened = visit(chromium, address, "search.html?q=head")
    opened.page.wait_for_selector("#search-results li", timeout=20_000)
    assert_clean("search.html", opened)
    opened.page.context.close()
