"""What every chapter prints around its figures: claims as registered, numbered figures, findings, verdicts."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable
from functools import cached_property

from matplotlib.figure import Figure

from . import tables
from .claims import Claim, load_claims
from .config import one_of, require
from .figure_list import anchor, number_of
from .figures_style import View, asset, show
from .judgement import MISSING, Judged, judge_zoo
from .numbers_base import Zoo

CLAIMS_PAGE = "../book/claims.html"
# In the definition of a number: it is that of one of the models of the claim.
EXTREME = "(smallest|largest)"
OF_MODELS = re.compile(rf"{EXTREME} over the models|model where (?:it|its absolute value) is {EXTREME}")


class Words:
    """Sentences with computed numbers: Markdown in a notebook, plain text in a terminal."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_markdown_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text


class Chapter:
    """One chapter: ``page = Chapter("07_argument_1_co_occurrence")`` in its first cell.

    Args:
        name: file name of the notebook without its ending; its number counts the figures.
        tables_of: measurements, default those that come with the package.
    """

    def __init__(self, name: str, tables_of: tables.Tables | None = None) -> None:
        self.name, self._tables = name, tables_of
        number_of(name, "")  # a name without a number is an error here

    @cached_property
    def tables(self) -> tables.Tables:
        """The measurement tables (:data:`ictl_utils.tables.SCHEMA`)."""
        return self._tables or tables.read()

    @cached_property
    def zoo(self) -> Zoo:
        """The tables run by run."""
        return Zoo(self.tables)

    def figure(self, key: str, drawing: Figure | View, caption: str, paper: str = "", claims: str = "") -> View:
        """A numbered figure with its caption.

        Args:
            key: its name within the book, letters and hyphens.
            drawing: a figure of :mod:`ictl_utils.figures` or a view of :mod:`ictl_utils.viz`.
            caption: what is shown, and how to read it; no numbers that a measurement decides.
            paper: ids of the papers' figures that it answers, separated by spaces.
            claims: ids of the claims that it shows.
        """
        view = drawing if isinstance(drawing, View) else show(drawing)
        more = f' <span class="ictl-claims">{_links(claims.split())}</span>' if claims else ""
        number = f"Figure {number_of(self.name, key)}"
        page = (f'<style>{asset("ictl.css")}</style><div class="ictl-card ictl-figure" id="{anchor(key)}">{view.html}'
                f'<p class="ictl-caption"><b>{number}.</b> {html.escape(caption)}{more}</p></div>')  # fmt: skip
        return View(page, f"{number}. {caption} {view.alt}")

    def absent(self, key: str, why: str) -> View:
        """What stands in the place of a figure whose models are not measured; links to the figure end here."""
        words = f"Figure {number_of(self.name, key)} is not drawn. {why}"
        page = (f'<style>{asset("ictl.css")}</style><div class="ictl-card ictl-figure" id="{anchor(key)}">'
                f'<p class="ictl-caption">{html.escape(words)}</p></div>')  # fmt: skip
        return View(page, words)

    def registered(self, *ids: str) -> View:
        """The claims as they were registered: what is measured, and which bounds decide."""
        claims = [_claim(name) for name in ids]
        rows = "".join(_registered(c) for c in claims)
        page = (f'<style>{asset("ictl.css")}</style><div class="ictl-card ictl-registered">'
                f'<p class="ictl-title">Registered before the measurement</p>{rows}</div>')  # fmt: skip
        words = (f"{c.id}: {c.claim}. For: {c.reproduced_if}. Against: {c.contradicted_if}." for c in claims)
        return View(page, "\n".join(words))

    def judged(self, *ids: str) -> list[Judged]:
        """Verdicts on the named claims from this chapter's tables."""
        return judge_zoo(self.tables, only=[_claim(name).id for name in ids])

    def verdicts(self, *ids: str) -> View:
        """Verdict badges, linked to the page of claims, with the numbers that decide."""
        judged = self.judged(*ids)
        rows = "".join(_badge_row(j) for j in judged)
        head = "<tr><th>claim</th><th>verdict</th><th>measured</th><th>seeds</th></tr>"
        page = (f'<style>{asset("ictl.css")}</style><div class="ictl-card ictl-verdicts ictl-cards">'
                f'<div class="ictl-scroll"><table><thead>{head}</thead>'
                f"<tbody>{rows}</tbody></table></div></div>")  # fmt: skip
        return View(page, "\n".join(f"{j.claim.id} {j.claim.claim}: {j.word}. {measured(j)}" for j in judged))

    def see(self, *sentences: str) -> Words:
        """The findings: a sentence a point, numbers filled in by code."""
        require(bool(sentences), "see() needs at least one sentence.")
        if len(sentences) == 1:
            return Words(f"**What we see.** {sentences[0]}")
        return Words("**What we see.**\n\n" + "\n".join(f"* {sentence}" for sentence in sentences))


def text_of(x: float | None, digits: int = 3) -> str:
    """A number for people: three digits that matter."""
    if x is None or math.isnan(x):
        return "undefined"
    return ("−" if x < 0 else "") + ("∞" if math.isinf(x) else f"{abs(x):.{digits}g}")


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Median over seeds, with the smallest and the largest where there are several: ``-0.83 (-0.86 to -0.80)``."""
    ordered = sorted(float(v) for v in values)
    require(bool(ordered), "spread() needs at least one value.")
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    if len(ordered) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({ordered[0]:.{digits}f} to {ordered[-1]:.{digits}f})"


def measured(judged: Judged) -> str:
    """The first number of a verdict with its range over seeds, or why there is none."""
    verdict = judged.verdict
    if verdict is None:
        return judged.why
    if verdict.value is None:
        return verdict.how_to_test
    name = next(iter(judged.claim.numbers))
    around = f" [{text_of(verdict.low)}, {text_of(verdict.high)}]" if verdict.n_seeds > 1 else ""
    return f"{name} = {text_of(verdict.value)}{around}"


def _claim(name: str) -> Claim:
    claims = {claim.id: claim for claim in load_claims()}
    one_of("claim", name, tuple(claims))
    return claims[name]


def _link(name: str) -> str:
    return f'<a href="{CLAIMS_PAGE}#{name}">{name}</a>'


def _links(ids: list[str]) -> str:
    return f"Claim{'s' if len(ids) > 1 else ''} {', '.join(map(_link, ids))}."


def _registered(c: Claim) -> str:
    """One claim: what the paper says, what speaks for and against it."""
    lines = (("The paper", c.paper_value), ("Measure", c.measure), ("Speaks for it", c.reproduced_if),
             ("Speaks against it", c.contradicted_if))  # fmt: skip
    items = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in lines if text.strip(" -"))
    return f'<p class="ictl-claim">{_link(c.id)} {html.escape(c.claim)}</p><dl>{items}</dl>'


def _badge_row(j: Judged) -> str:
    """One claim with its verdict, and what would change it."""
    verdict, notes = j.verdict, []
    definition = next(iter(j.claim.numbers.values()), "") if verdict and verdict.value is not None else ""
    if which := OF_MODELS.search(definition):
        notes.append(f"of the models, the {which[1] or which[2]}")
    if j.without and j.stable != "yes":
        notes.append(f"another verdict without {html.escape(j.stable.removeprefix('no: '))}")
    if j.rests_on:
        notes.append(j.rests_on)
    if j.basis.without:
        notes.append("in a run without an induction head the best head counts")
    if j.on_second_corpus:
        notes.append(f"second corpus: {j.on_second_corpus}")
    if j.narrow and j.narrow != j.word:
        notes.append(f"with the narrow window, which decides nothing: {j.narrow}")
    more = f"<br><small>{'; '.join(notes)}</small>" if notes else ""
    word = j.word if j.word != MISSING else "no verdict yet"
    return (f"<tr><td>{_link(j.claim.id)} {html.escape(j.claim.claim)}</td>"
            f'<td><a class="ictl-badge {j.word.replace(" ", "-")}" href="{CLAIMS_PAGE}#{j.claim.id}">{word}</a></td>'
            f'<td title="{html.escape(definition)}">{html.escape(measured(j))}{more}</td>'
            f"<td>{j.seeds}</td></tr>")  # fmt: skip
