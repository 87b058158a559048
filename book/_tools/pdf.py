"""The whole book as one PDF: `make pdf`. Chromium prints every page, in the order of the table of contents."""

from __future__ import annotations

import re
import sys
import threading
from io import BytesIO
from pathlib import Path

import chromium
import drawn
import serve
from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "_build" / "book.pdf"
PRINTED = """
  .bd-sidebar-primary, .bd-sidebar-secondary, .bd-header, .bd-header-article, .prev-next-area, .bd-footer,
  .bd-footer-content, #pst-skip-link, .skip-link, .claims-filters, .ictl-controls,
  details.above-input { display: none !important; }
  .bd-main, .bd-content, .bd-article-container, .bd-article { max-width: 100% !important; width: 100% !important; }
  .bd-article-container { padding: 0 !important; }
  details > * { display: block !important; }
  img, figure, tr, .cell_input, .ictl-card, .admonition { break-inside: avoid; }
  h1, h2, h3, h4, p:has(+ ul), p:has(+ ol) { break-after: avoid; }
  pre { white-space: pre-wrap !important; }
"""
FOOTER = ('<div style="font-size:8px;width:100%;text-align:center;color:#57606a">'
          '<span class="title"></span>, page <span class="pageNumber"></span></div>')  # fmt: skip


def pages(root: Path) -> list[str]:
    """Names of all pages, in the order of `_toc.yml`."""
    return re.findall(r"^\s*(?:- file|root): *(\S+)", (root / "_toc.yml").read_text(encoding="utf8"), re.M)


def printed(page, address: str) -> bytes:
    """One page as PDF, everything drawn, in the light theme."""
    page.goto(address, wait_until="load")
    drawn.wait_until_drawn(page)
    page.add_style_tag(content=PRINTED)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    margins = {"top": "15mm", "bottom": "15mm", "left": "14mm", "right": "14mm"}
    return page.pdf(format="A4", margin=margins, print_background=True, display_header_footer=True,
                    header_template="<span></span>", footer_template=FOOTER, scale=0.8)  # fmt: skip


def title(root: Path, name: str) -> str:
    """Heading of a built page."""
    found = re.search(r"<title>(.*?)(?: &#8212;|</title>)", (root / "_build/html" / f"{name}.html").read_text(), re.S)
    return re.sub(r"\s+", " ", found[1]) if found else name


def join(parts: list[tuple[str, bytes]], target: Path) -> int:
    """Write the parts one after the other, each with a bookmark; number of sheets."""
    writer = PdfWriter()
    for name, content in parts:
        writer.append(PdfReader(BytesIO(content)), outline_item=name)
    writer.compress_identical_objects()
    half = target.with_suffix(".part")
    writer.write(half)
    half.replace(target)
    return len(writer.pages)


def main(root: Path = ROOT) -> int:
    """Print the built book."""
    browser_path = chromium.find()
    if not browser_path:
        print(f"make pdf: {chromium.MISSING}", file=sys.stderr)
        return 1
    served = serve.server(root / "_build" / "html", 0)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    parts = []
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_context(color_scheme="light").new_page()
        for name in pages(root):
            print(f"  {name}", flush=True)
            parts.append((title(root, name), printed(page, f"http://127.0.0.1:{served.server_port}/{name}.html")))
        browser.close()
    served.shutdown()
    sheets = join(parts, TARGET)
    print(f"{TARGET} ({sheets} sheets, {TARGET.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
