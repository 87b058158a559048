"""The student edition of an instructor notebook: answers blanked, nbgrader's metadata, expected pictures.

Cells go by their ids (``q3-answer``) and tags (``answer``, ``check``, ``expected``, ``mistakes``, ``rubric``).
"""

from __future__ import annotations

import ast
import base64
import copy
import html
import io
import os
import re
import textwrap
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ictl_utils.config import IctlError, require
from ictl_utils.coursework import run_cell, without_magics
from ictl_utils.grading import Question, stars

BLOCK = re.compile(r"^([ \t]*)### BEGIN SOLUTION.*?^[ \t]*### END SOLUTION[^\n]*$", re.M | re.S)
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
FACTS = re.compile(r"^\*\d+ minutes?, difficulty .*\*$", re.M)
PRIVATE = {"mistakes", "rubric", "instructor"}
LARGEST_PNG = 60_000  # bytes of one expected picture
LARGEST_TEXT = 3000  # characters of an expected output that is text


@dataclass(frozen=True)
class Picture:
    """What a cell tagged ``expected`` shows with the solution: a PNG, or text."""

    png: bytes
    words: str  # alternative text of the PNG, or the printed text
    displayed: bool  # the last line of the cell is an expression that shows it


def edition(notebook: dict, questions: tuple[Question, ...], pictures: dict[str, Picture], folder: Path) -> dict:
    """The student edition, for ``folder``, of the notebook (JSON as read) in the folder ``instructor`` below it.

    Args:
        notebook: the instructor notebook.
        questions: its questions.
        pictures: what its cells tagged ``expected`` show, by cell id.
        folder: where the student edition goes; links are rewritten for it.
    """
    by_part = {q.name.partition(".")[2]: q for q in questions}
    made = {k: copy.deepcopy(v) for k, v in notebook.items() if k != "cells"} | {"cells": []}
    for cell in notebook["cells"]:
        tags, part = set(cell["metadata"].get("tags", [])), cell["id"].partition("-")[0]
        if tags & PRIVATE:
            continue
        if cell["cell_type"] == "markdown":
            cell = _with(cell, with_links("".join(cell["source"]), folder))
        made["cells"] += _student_cells(copy.deepcopy(cell), tags, by_part.get(part), pictures)
    return made


def _student_cells(cell: dict, tags: set[str], question: Question | None, pictures: dict[str, Picture]) -> list[dict]:
    """What stands in the place of one cell."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "code":
        cell |= {"outputs": [], "execution_count": None}
    if question is None:
        return [cell]
    if cell["id"].endswith("-text"):
        return [_with(cell, with_facts(source, question))]
    if "answer" in tags:
        cell["metadata"]["nbgrader"] = nbgrader(question, "answer")
        return [_with(cell, stub(source, question))]
    if "check" in tags:
        cell["metadata"]["nbgrader"] = nbgrader(question, "check")
    if "expected" in tags:
        return _expected(cell, source, question, pictures[cell["id"]])
    return [cell]


def _with(cell: dict, source: str) -> dict:
    return cell | {"source": source.splitlines(keepends=True)}


def nbgrader(question: Question, role: str) -> dict:
    """nbgrader's metadata, schema 3: answers are solutions; points sit on the check, or on a text read by hand."""
    name = question.name.replace(".", "-")
    graded = question.read if role == "answer" else not question.read
    found = {
        "grade": graded, "grade_id": name if role == "answer" else f"{name}-check", "locked": role != "answer",
        "schema_version": 3, "solution": role == "answer", "task": False,
    }  # fmt: skip
    return found | ({"points": question.points} if graded else {})


def facts(question: Question) -> str:
    """The line below an exercise's heading."""
    points = f"{question.points} point" + "s" * (question.points != 1)
    return f"*{question.minutes} minutes, difficulty {stars(question.difficulty)}, {points}*"


def with_facts(source: str, question: Question) -> str:
    """A text cell with the right line below its heading."""
    if FACTS.search(source):
        return FACTS.sub(facts(question), source, count=1)
    heading, _, rest = source.partition("\n")
    return f"{heading}\n\n{facts(question)}\n\n{rest.lstrip()}"


def with_links(source: str, folder: Path) -> str:
    """A text cell whose links, written for the instructor's folder or for ``folder``, lead somewhere from ``folder``.

    Raises:
        IctlError: a link leads nowhere.
    """

    def moved(found: re.Match) -> str:
        target, anchor = found[1], found[2] or ""
        if target.startswith(("http", "mailto:", "data:")) or exists(folder / target):
            return found[0]
        require(exists(folder / "instructor" / target), f"its link {target} leads nowhere.")
        return f"]({os.path.relpath((folder / 'instructor' / target).resolve(), folder.resolve())}{anchor})"

    return LINK.sub(moved, source)


def exists(target: Path) -> bool:
    """Whether a link's target, a page of the book perhaps named by its HTML, is there."""
    sources = (".md", ".ipynb") if target.suffix == ".html" else ()
    return target.exists() or any(target.with_suffix(end).exists() for end in sources)


def stub(source: str, question: Question) -> str:
    """An answer cell with its solution taken out.

    Raises:
        IctlError: there is no solution between its two marks, or what remains is no Python.
    """
    require(bool(BLOCK.search(source)), f"{question.name}: no lines `### BEGIN SOLUTION` and `### END SOLUTION`.")

    def blank(found: re.Match) -> str:
        if question.kind == "value":
            return f"{found[1]}{question.answer} = None  # {question.name}: your answer in place of None"
        return (f"{found[1]}# your code in place of the next line\n"
                f'{found[1]}raise NotImplementedError("{question.name}: {question.answer} is still to be written.")')

    blanked = BLOCK.sub(blank, source)
    try:
        ast.parse(without_magics(blanked))
    except SyntaxError as error:
        raise IctlError(f"{question.name}: without its solution the cell is no Python: {error}.") from None
    return blanked


def solution_lines(source: str) -> list[str]:
    """The code lines between the marks of an answer cell, without comments."""
    lines = [line.strip() for found in BLOCK.finditer(source) for line in found[0].splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _expected(cell: dict, source: str, question: Question, picture: Picture) -> list[dict]:
    """The picture as text cell, and the code that draws it once the answer holds."""
    part = cell["id"].rpartition("-")[0]
    shown = f"**Expected output of exercise {part[1:]}**, drawn by the cell below once your answer holds:\n\n"
    if picture.png:
        data = base64.b64encode(picture.png).decode()
        shown += f'<img alt="{html.escape(picture.words)}" style="max-width:100%;height:auto" '
        shown += f'src="data:image/png;base64,{data}">'
    else:
        shown += f"```text\n{picture.words}\n```"
    text = _with({"cell_type": "markdown", "id": f"{part}-expected", "metadata": {}}, shown)
    body = textwrap.indent(with_display(source) if picture.displayed else source, "    ")
    code = f'from ictl_utils.grading import done\n\nif done("{question.name}"):\n{body}'
    tags = [t for t in cell["metadata"].get("tags", []) if t != "expected"] + ["draw"]
    return [text, _with(cell | {"id": f"{part}-draw", "metadata": {"tags": tags}}, code)]


def with_display(source: str) -> str:
    """A cell whose last expression is handed to ``display``, so that it also shows inside an ``if``."""
    last = ast.parse(without_magics(source)).body[-1]
    lines = source.splitlines()
    head, tail = lines[: last.lineno - 1], "\n".join(lines[last.lineno - 1 : last.end_lineno]).rstrip(";")
    return "\n".join([*head, f"display({tail})"])


def drawn(cell: dict, names: dict) -> Picture:
    """Run a cell tagged ``expected`` and keep what it shows.

    Raises:
        IctlError: it fails, or shows neither a matplotlib figure nor text.
    """
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    plt.close("all")
    printed, space = io.StringIO(), dict(names)
    space["display"] = shown = _Shown()
    with redirect_stdout(printed):
        value = run_cell(cell, space)
    figures = list(map(plt.figure, plt.get_fignums()))
    displayed = value is not None and value not in figures
    for found in (value, *shown.objects, *figures):
        if isinstance(found, Figure):
            return Picture(small_png(_png(found)), alternative(found), displayed and found is value)
        inside = re.search(r"data:image/png;base64,([\w+/=]+)", getattr(found, "html", "") or "")
        if inside:
            return Picture(small_png(base64.b64decode(inside[1])), str(found), displayed and found is value)
    words = printed.getvalue().strip() or (str(value) if value is not None else "")
    require(0 < len(words) <= LARGEST_TEXT, f"cell {cell['id']} shows no figure and no short text.")
    return Picture(b"", words, displayed)


class _Shown:
    """Stands in for ``display`` and keeps what it is given."""

    def __init__(self) -> None:
        self.objects: list = []

    def __call__(self, *objects: object) -> None:
        self.objects += objects


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, facecolor="white", bbox_inches="tight")
    return buffer.getvalue()


def small_png(content: bytes, limit: int = LARGEST_PNG) -> bytes:
    """The picture in at most 256 colours, made smaller until it has at most ``limit`` bytes."""
    full = Image.open(io.BytesIO(content)).convert("RGB")
    for share in (1.0, 0.8, 0.65, 0.5, 0.4, 0.3):
        size = int(full.width * share), int(full.height * share)
        image = full.resize(size, Image.Resampling.LANCZOS) if share < 1 else full
        buffer = io.BytesIO()
        image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= limit:
            break
    return buffer.getvalue()


def alternative(figure) -> str:
    """Alternative text of a figure: its own, or its titles."""
    titles = [figure.get_suptitle(), *(a.get_title() or a.get_title(loc="left") for a in figure.axes)]
    words = "; ".join(title.replace("\n", " ") for title in titles if title)
    return getattr(figure, "alt", "") or words or "expected output"
