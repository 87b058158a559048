"""What the verdicts add up to: the paper's table of evidence beside ours, what failed, and how firm it is (P1)."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from textwrap import shorten

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .claims import Claim
from .config import require
from .figures_style import INK, Plot, View, asset, canvas, styled
from .judgement import MISSING, Judged

MODELS = ("attention-only", "with MLPs", "large")
HEADINGS = ("attention-only models", "models with MLPs", "large models")
ROWS = ("some", "the majority")
PAPER = {
    "1": {"some": ("medium, correlational",) * 3, "the majority": ("medium, correlational",) * 3},
    "2": {row: ("medium, interventional", "medium, interventional", "weak, interventional") for row in ROWS},
    "3": {"some": ("strong, causal", "strong, causal", ""), "the majority": ("strong, causal", "medium, causal", "")},
    "4": {row: ("", "", "plausibility") for row in ROWS},
    "5": {"some": ("strong, mechanistic", "strong, mechanistic", "medium, mechanistic"),
          "the majority": ("weak, mechanistic", "", "")},
    "6": {row: ("", "", "analogy") for row in ROWS},
    "overall": {"some": ("strong, causal", "strong, causal", "medium, correlational and mechanistic"),
                "the majority": ("strong, causal", "medium, causal", "medium, correlational")},
}  # fmt: skip
"""Strength of evidence as P1 gives it: argument -> row -> a cell a kind of model; empty where P1 leaves it empty."""
ARGUMENTS = {
    "1": ("co-occurrence", "07_argument_1_co_occurrence"),
    "2": ("co-perturbation", "08_argument_2_co_perturbation"),
    "3": ("ablation", "09_argument_3_ablation"),
    "4": ("generality", "10_argument_4_generality"),
    "5": ("mechanism", "11_argument_5_mechanism"),
    "6": ("continuity", "12_argument_6_continuity"),
    "P2, one layer": ("bigrams and skip-trigrams", "05_one_layer_skip_trigrams"),
    "P2, two layers": ("composition", "06_two_layer_composition"),
}
CONTINUITY = {"A05", "A06", "A16", "E04", "E05", "E06", "E07", "E09", "E10", "E11"}
SHARES = {"A04", "B01", "C02"}  # how much of the gain, not whether there is one
LOOKS = {"reproduced": ("#0072b2", "o", True), "mixed": ("#e69f00", "D", True), "contradicted": ("#d55e00", "X", True),
         MISSING: ("#6b7280", "o", False), "not testable here": ("#6b7280", "s", False)}  # fmt: skip
"""Verdict -> colour, marker, filled."""
READINGS = LOOKS | {"undefined": ("#6b7280", "x", True)}  # as the verdict of another reading can be
FEW = 12  # marks side by side in a cell


def argument_of(claim: Claim) -> str:
    """Key of :data:`ARGUMENTS` that a claim belongs to; claims about depth and size belong to Argument 6."""
    if claim.id in CONTINUITY:
        return "6"
    if claim.part.startswith("P2"):
        return "P2, two layers" if "two" in claim.part else "P2, one layer"
    return "5" if "5-6" in claim.part else claim.part.rpartition(" ")[2]


def models_of(claim: Claim) -> set[str]:
    """Kinds of model that decide a claim."""
    kinds = {"mlp": "with MLPs", "pythia": "large", "gpt2": "large"}
    return {next((kind for key, kind in kinds.items() if key in name), MODELS[0]) for name in claim.models}


def cell(judged: Sequence[Judged], argument: str, row: str, model: str) -> list[Judged]:
    """The claims that bear on one cell of the table, in the order of :data:`LOOKS`."""
    order = list(LOOKS)
    found = [j for j in judged if argument_of(j.claim) == argument and model in models_of(j.claim)
             and (j.claim.id in SHARES) == (row == ROWS[1])]  # fmt: skip
    return sorted(found, key=lambda j: order.index(j.word))


@styled
def evidence(judged: Sequence[Judged]) -> Plot:
    """P1's table of evidence: in each cell what the paper claims for it, and a mark a verdict of ours."""
    require(len(judged) > 0, "judged is empty; pass the verdicts of all claims.")
    rows = [(argument, row) for argument in PAPER for row in ROWS]
    fig, axes = canvas("Strength of evidence: the paper's words, and our verdicts", 9.6, 8.2)
    ax, words = axes[0, 0], []
    _grid(ax, rows)
    for y, (argument, row) in enumerate(rows):
        for x, model in enumerate(MODELS):
            ax.text(x + 0.03, y + 0.27, PAPER[argument][row][x] or "–", va="center", fontsize=8.4)
            found = cell(judged, argument, row, model)
            for i, j in enumerate(found):
                hue, marker, filled = LOOKS[j.word]
                place = x + 0.06 + 0.077 * (i % FEW), y + 0.6 + 0.24 * (i // FEW)
                ax.plot(*place, marker, color=hue, mfc=hue if filled else "none", ms=6)
            if found:
                counts = ", ".join(f"{n} {word}" for word, n in Counter(j.word for j in found).items())
                words.append(f"Argument {argument}, {row}, {model}: {counts}.")
    handles = [Line2D([], [], color=hue, marker=m, mfc=hue if full else "none", ls="", label=word)
               for word, (hue, m, full) in LOOKS.items()]  # fmt: skip
    fig.legend(handles=handles, loc="outside lower center", ncols=5, title="our verdicts, a mark a claim")
    fig.alt = "The paper's table of evidence with a mark for each verdict. " + " ".join(words)
    return fig


def _grid(ax: Axes, rows: Sequence[tuple[str, str]]) -> None:
    """Lines and headings of the table: kinds of model across, two rows an argument."""
    ax.set(xlim=(0, 3), ylim=(len(rows), 0), xticks=[0.5, 1.5, 2.5], xticklabels=HEADINGS)
    names = [f"{argument}  {ARGUMENTS[argument][0]}" if argument in ARGUMENTS else argument for argument, _ in rows]
    labels = [f"{name}: {row}" if row == ROWS[0] else row for name, (_, row) in zip(names, rows, strict=True)]
    ax.set_yticks(np.arange(len(rows)) + 0.5, labels)
    ax.tick_params(length=0, labelsize=8.8)
    ax.xaxis.tick_top()
    ax.grid(False)
    for y in range(0, len(rows) + 1):
        ax.axhline(y, color=INK if y % 2 == 0 else "#d5d9de", lw=0.9 if y % 2 == 0 else 0.6)
    for x in range(4):
        ax.axvline(x, color="#d5d9de", lw=0.8)
    for side in ax.spines.values():
        side.set_visible(False)


def tally(judged: Sequence[Judged]) -> View:
    """How many claims of each argument came out how, with links to the chapters."""
    head = "".join(f"<th>{word}</th>" for word in LOOKS)
    rows, words = [], []
    for key, (name, chapter) in ARGUMENTS.items():
        counts = Counter(j.word for j in judged if argument_of(j.claim) == key)
        label = f"{key}: {name}" if key.startswith("P2") else f"P1, Argument {key}: {name}"
        cells = "".join(f"<td>{counts[word] or ''}</td>" for word in LOOKS)
        rows.append(f'<tr><td><a href="{chapter}.html">{label}</a></td>{cells}</tr>')
        words.append(f"{label}: " + ", ".join(f"{n} {word}" for word, n in counts.items()))
    return _table(f"<tr><th>argument</th>{head}</tr>", rows, "\n".join(words))


def shortfalls(judged: Sequence[Judged], verdicts: Sequence[str] = ("contradicted", "mixed")) -> View:
    """Every claim that failed or is mixed: all its numbers beside both tests."""
    rows, words = [], []
    for j in sorted((j for j in judged if j.word in verdicts), key=lambda j: list(verdicts).index(j.word)):
        found = j.verdict.numbers if j.verdict else {}
        numbers = "; ".join(f"{name} {_range(values)}" for name, values in found.items()) or html.escape(j.why)
        look = f"ictl-badge {j.word.replace(' ', '-')}"
        badge = f'<a class="{look}" href="../book/claims.html#{j.claim.id}">{j.word}</a>'
        rows.append(f"<tr><td>{j.claim.id} {html.escape(j.claim.claim)}</td><td>{badge}</td><td>{numbers}</td>"
                    f"<td><code>{html.escape(j.claim.reproduced_test)}</code></td>"
                    f"<td><code>{html.escape(j.claim.contradicted_test)}</code></td></tr>")  # fmt: skip
        words.append(f"{j.claim.id} {j.claim.claim}: {j.word}. {numbers}.")
    head = "<tr><th>claim</th><th>verdict</th><th>measured</th><th>test for it</th><th>test against it</th></tr>"
    return _table(head, rows, "\n".join(words) or "none")


def _range(values: Sequence[float]) -> str:
    """Median with smallest and largest over seeds."""
    text = f"{np.median(values):.3g}" + (f" [{min(values):.3g}, {max(values):.3g}]" if len(values) > 1 else "")
    return text.replace("-", "−").replace("inf", "∞")


def _table(head: str, rows: Sequence[str], alt: str) -> View:
    page = (f'<style>{asset("ictl.css")}</style><div class="ictl-card ictl-verdicts"><div class="ictl-scroll"><table>'
            f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div></div>")  # fmt: skip
    return View(page, alt)


def readings(judged: Judged) -> dict[str, str]:
    """The verdict of a claim under each reading there is: registered, narrow window, second corpus, a seed less."""
    found = {"registered": judged.word, "narrow window": judged.narrow}
    found["second corpus"] = judged.second_word
    found |= {f"without seed {seed}": verdict for seed, verdict in judged.without.items()}
    return {name: verdict for name, verdict in found.items() if verdict}


def unstable(judged: Sequence[Judged]) -> list[Judged]:
    """Claims with a verdict that another reading would change."""
    return [j for j in judged if j.verdict and len(set(readings(j).values())) > 1]


@styled
def other_readings(judged: Sequence[Judged]) -> Plot:
    """Verdicts that another reading would change: a row a claim, a column a reading."""
    shown = unstable(judged)
    require(len(shown) > 0, "no verdict changes under any other reading; there is nothing to draw.")
    columns = list(dict.fromkeys(name for j in shown for name in readings(j)))
    fig, axes = canvas("Verdicts that depend on the reading", 3.6 + 1.05 * len(columns), 1.7 + 0.34 * len(shown))
    ax = axes[0, 0]
    for y, j in enumerate(shown):
        for name, verdict in readings(j).items():
            hue, marker, filled = READINGS[verdict]
            ax.plot(columns.index(name), y, marker, color=hue, mfc=hue if filled else "none", ms=9)
    ax.set(xlim=(-0.6, len(columns) - 0.4), ylim=(len(shown) - 0.4, -0.6))
    ax.set_xticks(range(len(columns)), [name.replace(" ", "\n", 1) for name in columns])
    ax.set_yticks(range(len(shown)), [shorten(f"{j.claim.id} {j.claim.claim}", 52, placeholder=" …") for j in shown])
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    seen = {verdict for j in shown for verdict in readings(j).values()}
    handles = [Line2D([], [], color=hue, marker=m, mfc=hue if full else "none", ls="", ms=8, label=word)
               for word, (hue, m, full) in READINGS.items() if word in seen]  # fmt: skip
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    fig.alt = f"{len(shown)} claims whose verdict depends on the reading. " + " ".join(
        f"{j.claim.id}: {', '.join(f'{name} {verdict}' for name, verdict in readings(j).items())}." for j in shown)
    return fig


def counts_of(judged: Sequence[Judged]) -> Mapping[str, int]:
    """How many claims have each verdict, in the order of :data:`LOOKS`; 0 where none has."""
    found = Counter(j.word for j in judged)
    return {word: found[word] for word in LOOKS}
