"""Skip-trigram tables as pages: tokens on coloured grounds, with the numbers under the pointer (P2)."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from .config import require
from .figures_style import View, asset, printable

if TYPE_CHECKING:
    from .circuits_examples import Bug, Found
    from .tokens import Tokens

LOOK = (
    "<style>.ictl-tokens table{border-collapse:collapse;font-size:.8rem;color:#1f2328;margin:.3em 0}"
    ".ictl-tokens th,.ictl-tokens td{text-align:left;vertical-align:top;padding:.3em .4em;background:#fff;"
    "border-bottom:1px solid #d5d9de;color:#1f2328;white-space:normal}.ictl-tokens p{font-size:.85rem;margin:.3em 0;"
    "color:#1f2328}.ictl-chip{display:inline-block;font-family:ui-monospace,Menlo,Consolas,monospace;padding:0 .35em;"
    "margin:.08em;border-radius:3px;border:2px solid transparent;white-space:pre;color:#1f2328}"
    ".ictl-chip.hit{border-color:#1f2328;font-weight:700}</style>"
)


def skip_trigram_table(rows: Sequence[Found], tokens: Tokens, title: str) -> View:
    """``source ... destinations -> outs``, a row a source, coloured by QK and OV (P2, "Skip-trigrams").

    Args:
        rows: as the searches of :mod:`ictl_utils.circuits_examples` give them; their hits get a frame.
        tokens: the vocabulary.
        title: what is shown.

    Raises:
        IctlError: no row.
    """
    require(len(rows) > 0, "rows is empty: the search found nothing to show.")
    qk, ov = (max(float(x.max()) for x in side) for side in zip(*((r.table.qk, r.table.ov) for r in rows), strict=True))
    named = any(row.what for row in rows)
    heads = [*(["family"] if named else []), "head", "source", "... destination (attends to the source)", "→ out"]
    body = []
    for row in rows:
        table = row.table
        cells = [row.what] * named + [row.name]
        cells += [_chips(tokens, [table.source], [0.0], 1.0, "Greys", ""),
                  _chips(tokens, table.destinations, table.qk, qk, "Blues", "QK {:.1f} nats", row.hits),
                  _chips(tokens, table.outs, table.ov, ov, "Oranges", "OV {:.1f} logits", row.hits)]  # fmt: skip
        body.append(cells)
    note = (f"Blue: QK, the score in nats above the mean over keys, darkest {qk:.1f}. Orange: OV, logits above the "
            f"mean, darkest {ov:.1f}. Framed: what the search looked for. "
            "· is a space, ·×8 eight of them, ↵ a line end.")  # fmt: skip
    words = "; ".join(f"{row.name} {_best(row, tokens)}" for row in rows)
    return _page(title, heads, body, note, f"{title}, {len(rows)} rows. Best pair of each: {words}.")


def bug_table(bugs: Sequence[Bug], tokens: Tokens, title: str) -> View:
    """Two skip-trigrams of the text and their cross terms, with the model's probabilities (P2, "Skip-trigram bugs").

    Raises:
        IctlError: no bug.
    """
    require(len(bugs) > 0, "bugs is empty: the search found nothing to show.")
    heads = ["source", "in the text", "in the text", "cross term", "cross term"]
    body = [[_chips(tokens, [bug.source], [0.0], 1.0, "Greys", ""),
             *(_pair(bug, i, j, tokens) for i, j in ((0, 0), (1, 1), (0, 1), (1, 0)))] for bug in bugs]  # fmt: skip
    note = ("destination → out: probability of the out with a random token in the place of the source → with the "
            "source. Red: raised, blue: lowered, by the change of the log-probability.")  # fmt: skip
    both = sum(bug.cross > 0 for bug in bugs)
    largest = max(bugs, key=lambda bug: bug.cross)
    times = np.exp(largest.cross)
    alt = (f"{title}: {len(bugs)} pairs of skip-trigrams. Both cross terms are raised in {both}; "
           f"at most, the smaller of the two becomes {times:.1f} times as likely "
           f"(source {tokens.labels([largest.source])[0]}).")  # fmt: skip
    return _page(title, heads, body, note, alt)


def _pair(bug: Bug, i: int, j: int, tokens: Tokens) -> str:
    b, c = tokens.labels([bug.destinations[i], bug.outs[j]])
    gain, before, after = bug.gains[i, j], bug.without[i, j], bug.after[i, j]
    shade = matplotlib.colormaps["RdBu_r"](0.5 + 0.25 * float(np.clip(gain / 4, -1, 1)))
    words = f"{html.escape(_short(b))} → {html.escape(_short(c))}<br>{_percent(before)} → {_percent(after)}"
    return f'<span class="ictl-chip" style="background:{to_hex(shade)}" title="{gain:+.1f} nats">{words}</span>'


def _percent(p: float) -> str:
    return f"{100 * p:.0f} %" if p >= 0.1 else f"{100 * p:.2g} %" if p >= 1e-5 else "< 0.001 %"


def _chips(tokens: Tokens, ids: Sequence[int], values: Sequence[float], most: float, cmap: str, unit: str,
           hits: frozenset[int] = frozenset()) -> str:  # fmt: skip
    """Tokens on backgrounds from white to the middle of a colour map, on which dark text reads well."""
    spans = []
    for i, label, value in zip(ids, tokens.labels(ids), values, strict=True):
        shade = to_hex(matplotlib.colormaps[cmap](0.08 + 0.42 * float(np.clip(value / max(most, 1e-9), 0, 1))))
        look = f'class="ictl-chip{" hit" if int(i) in hits else ""}" style="background:{shade}"'
        words = f' title="{unit.format(value)}"' if unit else ""
        spans.append(f"<span {look}{words}>{html.escape(_short(label))}</span>")
    return " ".join(spans)


def _short(label: str) -> str:
    """``label`` for a table: many spaces in a row as their number."""
    return re.sub(r"·{5,}", lambda run: f"·×{len(run[0])}", printable(label))


def _best(row: Found, tokens: Tokens) -> str:
    """``for ... in -> range``: the highest entries among those that the search looked for."""
    table = row.table
    sides = table.destinations.tolist(), table.outs.tolist()
    to, out = ([i for i in side if i in row.hits] or side for side in sides)
    a, b, c = tokens.labels([table.source, to[0], out[0]])
    return f"{a} ... {b} -> {c}"


def _page(title: str, heads: Sequence[str], body: Sequence[Sequence[str]], note: str, alt: str) -> View:
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    rows = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body)
    page = (f'<style>{asset("ictl.css")}</style>{LOOK}<div class="ictl-card ictl-tokens" role="group" '
            f'aria-label="{html.escape(alt)}"><div class="ictl-title">{html.escape(title)}</div>'
            f'<div class="ictl-scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
            f"</div><p>{html.escape(note)}</p></div>")  # fmt: skip
    return View(page, alt)
