"""Pages of a marked batch: feedback for each student, and a summary for the lecturer."""

from __future__ import annotations

import html
import statistics
from collections import Counter
from dataclasses import dataclass

from .marking import file_name
from .marks_report import Row, spoken, to_read, ways, when
from .similarity import Hint

STYLE = """
:root{color-scheme:light}
body{font-family:system-ui,sans-serif;line-height:1.45;color:#1f2328;background:#fff;max-width:60rem;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:1.6em}
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.35em .6em;
border-bottom:1px solid #d5d9de}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.2em 0;font-family:inherit}
pre.code{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:.9em}
.all{color:#116329}.part{color:#7d4e00}.none{color:#a40e26}small{color:#57606a}img{max-width:100%}
.wide{overflow-x:auto}
"""
PROVISIONAL = "Provisional: only the form was checked. A person reads this answer and may change its points."
RARE = 2  # a pair stands out when no more answers are as close
WALLS = {
    "files": ("Submissions cannot read the solutions, each other, or your files",
              "Submissions can read your files, the solutions among them: mark on another account or computer"),
    "network": ("Network: blocked", "Network: not blocked on this system"),
    "processes": ("New processes: blocked", "New processes: not blocked on this system, only limited in number"),
    "memory": ("Memory: limited for each process", "Memory: watched twenty times a second, not limited by the system"),
}  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """What the summary tells about a whole batch."""

    assignment: str
    rows: list[Row]
    remarks: list[str]
    failed: list[str]  # files that could not be run at all; the next run tries again
    walls: dict[str, bool]
    hints: list[Hint]


def page(title: str, body: str) -> bytes:
    """A page that needs nothing else."""
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
            f'content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title>'
            f"<style>{STYLE}</style></head><body><main>{body}</main></body></html>\n").encode()  # fmt: skip


def feedback(row: Row, assignment: str) -> bytes:
    """One student's page: points, what holds, what is broken and where to look."""
    r, lines = row.record, []
    for m in r.questions:
        state = "all" if m.points == m.of else "part" if m.points else "none"
        how = f"{m.held} of {m.cases} hidden cases hold; answer found by {html.escape(m.way)}" if m.way else ""
        note = f' (case "{html.escape(m.note)}")' if m.note else ""
        rule = f"<b>{html.escape(spoken(m.rule))}</b>{note} " if m.rule else ""
        pre = f"<pre{' class=code' * (chr(10) in m.message)}>{html.escape(m.message)}</pre>"
        hint = f"<p>Hint: {html.escape(m.hint)}</p>" if m.hint else ""
        hint += f"<p>{PROVISIONAL}</p>" if m.question in to_read(r) else ""
        lines.append(f'<tr><th scope="row">{html.escape(m.question)}<br><small>{html.escape(m.title)}</small></th>'
                     f'<td class="n {state}">{m.points:g} of {m.of}</td>'
                     f"<td>{rule}{pre}{hint}<small>{how}</small></td></tr>")  # fmt: skip
    late = f" After {row.days} day{'s' * (row.days > 1)} of delay: <b>{row.final:g}</b>." if row.days else ""
    cells = "".join(f"<li>Cell {html.escape(i)}: {html.escape(words)}</li>" for i, words in r.cells.items())
    body = (f"<h1>Assignment {html.escape(assignment)}: {html.escape(r.student)}</h1>"
            f"<p><b>{r.total:g} of {r.of:g} points.</b>{late}</p>"
            + (f'<p class="none">{html.escape(r.problem)}</p>' if r.problem else "")
            + f'<table><thead><tr><th scope="col">question</th><th scope="col" class="n">points</th>'
            f'<th scope="col">what we found</th></tr></thead><tbody>{"".join(lines)}</tbody></table>'
            + (f"<h2>Cells that ended in an error</h2><ul>{cells}</ul>" if cells else "")
            + f"<p><small>File: {html.escape(r.file)}"
            + (f", {when(row.submission.submitted)}" if row.submission.submitted else "")
            + ". Cells are counted from the top of the notebook, text cells too.</small></p>")  # fmt: skip
    return page(f"{assignment}: {r.student}", body)


def summary(batch: Batch) -> bytes:
    """The lecturer's page."""
    count = len(batch.rows)
    parts = [f"<h1>Assignment {html.escape(batch.assignment)}: {count} submission{'s' * (count != 1)}</h1>"]
    parts += [_picture(batch.rows), _questions(batch.rows)] if batch.rows else []
    parts += [_students(batch.rows), _unread(batch.rows), _similar(batch.hints), _walls(batch.walls)]
    remarks = [*(f"Not marked, run the command again: {words}" for words in batch.failed), *batch.remarks]
    remarks += [f"{row.record.id}: {words}" for row in batch.rows for words in row.remarks
                if words not in batch.remarks]  # fmt: skip
    parts.append(f"<h2>Reported</h2>{_list(remarks)}")
    return page(f"{batch.assignment}: summary", "".join(parts))


def _questions(rows: list[Row]) -> str:
    """Mean, and what is broken most often, by question."""
    lines = []
    for several in zip(*(row.record.questions for row in rows), strict=True):
        broken = Counter(m.rule for m in several if m.rule).most_common(3)
        words = ", ".join(f"{html.escape(spoken(rule))} ({n})" for rule, n in broken) or "nothing"
        mean = sum(m.points for m in several) / len(several)
        lines.append(f'<tr><th scope="row">{html.escape(several[0].question)} <small>{html.escape(several[0].title)}'
                     f'</small></th><td class="n">{mean:.2f} of {several[0].of}</td><td>{words}</td></tr>')  # fmt: skip
    return ('<h2>Questions</h2><table><thead><tr><th scope="col">question</th><th scope="col" class="n">mean</th>'
            f'<th scope="col">broken most often</th></tr></thead><tbody>{"".join(lines)}</tbody></table>')  # fmt: skip


def _students(rows: list[Row]) -> str:
    """One line a student, with a link to the feedback."""
    lines = [
        f'<tr><th scope="row"><a href="feedback/{html.escape(file_name(row.record))}.html">'
        f"{html.escape(row.record.student)}</a>"
        f' <small>{html.escape(row.record.id)}</small></th><td class="n">{row.record.total:g}</td>'
        f'<td class="n">{row.days or ""}</td><td class="n">{row.final:g}</td>'
        f"<td>{html.escape(ways(row.record))}</td></tr>"
        for row in rows
    ]  # fmt: skip
    return ('<h2>Students</h2><div class="wide"><table><thead><tr><th scope="col">student</th>'
            '<th scope="col" class="n">total</th><th scope="col" class="n">days late</th>'
            '<th scope="col" class="n">mark</th>'
            '<th scope="col">answers found by</th></tr></thead>'
            f"<tbody>{''.join(lines)}</tbody></table></div>")  # fmt: skip


def _unread(rows: list[Row]) -> str:
    """Answers that wait for a reader; nothing where an assignment has none."""
    waiting = Counter(name for row in rows for name in to_read(row.record))
    words = [f"{name}: {n} answer{'s' * (n != 1)}, marked for form alone. The rubric is in the solution pages."
             for name, n in sorted(waiting.items())]  # fmt: skip
    return f"<h2>Still to be read by a person</h2>{_list(words)}" if words else ""


def _similar(hints: list[Hint]) -> str:
    """Hints, called so: pairs that stand out, and how many answers are simply alike."""
    rare = [h for h in hints if h.others <= RARE]
    words = [f"{h.question}: {h.a} and {h.b} share {h.shared:.0%} of their code, names aside"
             + (f"; {h.others} more as close" if h.others else "") for h in rare[:40]]  # fmt: skip
    for question in sorted({h.question for h in hints if h.others > RARE}):
        alike = {who for h in hints if h.question == question and h.others > RARE for who in (h.a, h.b)}
        words.append(f"{question}: {len(alike)} answers are close to several others: a solution that many find.")
    return ("<h2>Similar answers: hints, not findings</h2><p>Short exercises have few right answers. Look at the "
            f"notebooks before you think of anything else.</p>{_list(words)}")  # fmt: skip


def _walls(walls: dict[str, bool]) -> str:
    """What kept submissions apart from this computer."""
    return f"<h2>Isolation</h2>{_list([WALLS[name][0 if held else 1] for name, held in walls.items()])}"


def _list(words: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(w)}</li>" for w in words) + "</ul>" if words else "<p>None.</p>"


def _picture(rows: list[Row]) -> str:
    """Totals, and how each question went, as one image."""
    from .figures_style import picture, png

    fig = distribution(rows)
    median = f"{statistics.median(row.record.total for row in rows):g} of {rows[0].record.of:g}"
    alt = (f"Left: histogram of {len(rows)} total{'s' * (len(rows) != 1)}, median {median} points. "
           "Right: for each question the share of students with all, some and no points.")  # fmt: skip
    return picture(png(fig), alt, 96 * fig.get_figwidth())


def distribution(rows: list[Row]):
    """Histogram of the totals, and for each question how many have all, some or no points."""
    from .figures_style import canvas, styled

    @styled
    def draw():
        names = [m.question for m in rows[0].record.questions]
        fig, axes = canvas("Points", 9.2, 1.4 + 0.3 * max(6, len(names)), 1, 2)
        left, right = axes[0]
        most = rows[0].record.of
        left.hist([row.record.total for row in rows], bins=[i - 0.5 for i in range(int(most) + 2)], color="#0072b2")
        left.set(title="Totals before lateness", xlabel="points", ylabel="students", xlim=(-0.5, most + 0.5))
        several = list(zip(*(row.record.questions for row in rows), strict=True))
        start = [0] * len(names)
        for label, colour, suits in (("all points", "#009e73", lambda m: m.points == m.of),
                                     ("some", "#e69f00", lambda m: 0 < m.points < m.of),
                                     ("none", "#d5d9de", lambda m: m.points == 0)):  # fmt: skip
            counts = [sum(map(suits, ms)) for ms in several]
            right.barh(names, counts, left=start, color=colour, label=label)
            start = [a + b for a, b in zip(start, counts, strict=True)]
        for axis in (left.xaxis, left.yaxis, right.xaxis):
            axis.get_major_locator().set_params(integer=True)
        right.invert_yaxis()
        right.set(title="Questions", xlabel="students")
        right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
        return fig

    return draw()
