"""The text of the book: no measured number is typed, no misspelling, every link inside the book leads somewhere."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
PAGES = sorted((ROOT / "book").glob("*.md"))
GENERATED = {"claims.md", "figure_map.md"}
UNITS = (
    "nats?|%|percent|tokens?|million|billion|heads?|layers?|times|seconds?|minutes?|hours?|points?|seeds?|models?|"
    "steps?|runs?|snapshots?|parameters?|windows?|positions?|cores?|dimensions?"
)
NUMBER = re.compile(rf"(?<![\w.^-])\d[\d.,]*(?:\s|&nbsp;|-)?(?:{UNITS})(?!\w)", re.IGNORECASE)
CITED = re.compile(r"\bP[12]\b|et al\.|arXiv|\bpapers?\b|\bRedwood\b|\[[^\]]*\b(?:19|20)\d\d\b")
ALLOWED = {"25 tokens"}  # names of probes, not measurements


def cells(path: Path, kind: str) -> list[str]:
    """Sources of the cells of one kind."""
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def sentences(text: str) -> list[str]:
    """Sentences of Markdown without code, mathematics and addresses."""
    text = re.sub(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)", " ", text, flags=re.S)
    return re.split(r"(?<=[.!?])\s+|\n\s*\n|\n\s*[*-] ", text)


def typed(text: str) -> list[str]:
    """Sentences with a number and its unit that cite nobody."""
    found = [s for s in sentences(text) if NUMBER.search(s) and not CITED.search(s)]
    return [s for s in found if not all(m[0] in ALLOWED for m in NUMBER.finditer(s))]


def words_in_code(source: str) -> list[str]:
    """Literal words that a chapter shows to its reader: arguments of `page.see` and `page.figure`, and f-strings."""
    tree = ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.M))
    shown = [n for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) or is_shown(n)]
    return [piece for node in shown for piece in pieces(node)]


def is_shown(node: ast.AST) -> bool:
    """Whether ``node`` is a call whose words are printed on the page."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("see", "figure")


def pieces(node: ast.AST) -> list[str]:
    """Literal strings below ``node``; what an f-string computes stands as a mark, so that its unit has no number."""
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(p.value) if isinstance(p, ast.Constant) else "◦" for p in node.values)]
    return [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def test_the_test_can_tell() -> None:
    assert typed("The loss is 2.81 nats.") and typed("It took 3 million tokens.") and typed("About 40 % of it.")
    assert not typed("The loss is `2.81 nats`.") and not typed("P1 reports about 0.4 nats.")
    assert not typed("Layer 2 of the model, and $3$ tokens.") and not typed("two layers")
    assert typed(words_in_code('page.see(f"{x:.2f} nats and 0.4 nats")')[0])
    assert not typed(words_in_code('page.see(f"{x:.2f} nats")')[0])


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_no_measured_number_is_typed(chapter: Path) -> None:
    found = [s for text in cells(chapter, "markdown") for s in typed(text)]
    for source in cells(chapter, "code"):
        found += [s for words in words_in_code(source) for s in typed(words)]
    assert found == []


def test_spelling() -> None:
    texts = {path.name: "\n".join(cells(path, "markdown")) for path in CHAPTERS}
    texts |= {path.name: path.read_text() for path in (*PAGES, ROOT / "README.md")}
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list", "hapax,te,nd,ot,ba,alph", "-"]
    wrong = {}
    for name, text in texts.items():
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if "==>" in done.stdout:
            wrong[name] = done.stdout
    assert wrong == {}


def links(text: str) -> list[str]:
    """Targets of Markdown and HTML links that stay inside the book."""
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'href="([^"]+)"', text)
    return [link for link in found if not link.startswith(("http", "mailto:", "#", "{"))]


@pytest.mark.parametrize("path", [*CHAPTERS, *PAGES, ROOT / "README.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text() if path.suffix == ".md" else "\n".join(cells(path, "markdown"))
    missing = []
    for link in links(text):
        target = (path.parent / link.partition("#")[0]).resolve()
        sources = [target, *(target.with_suffix(end) for end in (".md", ".ipynb") if target.suffix == ".html")]
        if not any(source.exists() for source in sources):
            missing.append(link)
    assert missing == []


def test_every_claim_and_figure_that_is_linked_exists() -> None:
    claims = (ROOT / "book" / "claims.md").read_text()
    ids = set(re.findall(r'<td id="([A-G]\d\d)"', claims))
    linked = {name for path in PAGES for name in re.findall(r"claims\.(?:html|md)#([A-G]\d\d)", path.read_text())}
    assert len(ids) == 66 and linked <= ids
