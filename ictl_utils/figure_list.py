"""The figures of the book by number, and the papers' figures they answer.

``figures.csv`` is generated from the chapters (``make claims``): a row a call of ``Chapter.figure``, in reading
order. ``paper_figures.csv`` lists the figures of both papers; one that has no counterpart says why.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .config import require


@dataclass(frozen=True)
class BookFigure:
    """One figure of the book."""

    chapter: str  # file name of the chapter without its ending, "07_argument_1_co_occurrence"
    key: str  # name within the book, "icl-score"
    number: str  # "7.1"
    caption: str
    paper: tuple[str, ...]  # ids of the papers' figures that it answers
    claims: tuple[str, ...]  # ids of claims that it shows


@dataclass(frozen=True)
class PaperFigure:
    """One figure or table of a paper."""

    id: str  # "P1.icl-score"
    section: str
    shows: str
    why_not: str  # why the book has no counterpart; empty where it has one


@cache
def book_figures() -> tuple[BookFigure, ...]:
    """All figures of the book, in reading order."""
    return tuple(BookFigure(**row | {"paper": tuple(row["paper"].split()), "claims": tuple(row["claims"].split())})
                 for row in _rows("figures.csv", BookFigure))  # fmt: skip


@cache
def paper_figures() -> tuple[PaperFigure, ...]:
    """All figures of both papers, in the papers' order."""
    return tuple(PaperFigure(**row) for row in _rows("paper_figures.csv", PaperFigure))


def number_of(chapter: str, key: str) -> str:
    """Number of a figure; with a question mark where the list does not have it yet."""
    found = [f.number for f in book_figures() if (f.chapter, f.key) == (chapter, key)]
    return found[0] if found else f"{chapter_number(chapter)}.?"


def chapter_number(chapter: str) -> int:
    """7 for ``07_argument_1_co_occurrence``; raises IctlError where a name does not begin with a number."""
    digits = chapter.partition("_")[0]
    require(digits.isdigit(), f"chapter={chapter!r} must begin with its number, as 07_argument_1_co_occurrence does.")
    return int(digits)


def places() -> dict[str, tuple[str, str]]:
    """Claim -> the first figure that shows it and its chapter, as :func:`ictl_utils.judgement.judge_zoo` takes them."""
    found: dict[str, tuple[str, str]] = {}
    for figure in book_figures():
        for claim in figure.claims:
            found.setdefault(claim, (f"Figure {figure.number}", figure.chapter))
    return found


def anchor(key: str) -> str:
    """Id of a figure on its page."""
    return f"fig-{key}"


def _rows(name: str, kind: type) -> list[dict[str, str]]:
    with Path(__file__).with_name(name).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows, found = list(reader), tuple(reader.fieldnames or ())
    columns = tuple(kind.__dataclass_fields__)
    require(found == columns, f"{name} has columns {', '.join(found)}; expected {', '.join(columns)}.")
    return rows
