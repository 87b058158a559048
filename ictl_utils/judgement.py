"""All registered claims against the zoo's measurements: verdicts, and how robust they are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache

import pandas as pd

from . import figure_list, numbers_heads, numbers_pretrained, pretrained_tables
from .claims import Claim, load_claims
from .config import IctlError, require, run_id
from .numbers import NUMBERS, PRETRAINED
from .numbers_base import NARROW, Zoo, seeds_in
from .numbers_training import same_sign
from .survey_facts import THRESHOLD
from .tables import Tables
from .verdicts import Verdict, alone, how_to_test, judge, leave_one_out, on, to_json
from .zoo import entries

MISSING = "missing"
AGAIN = {"A08": (same_sign,)}  # numbers that depend on all seeds, made anew when one is left out
AT_SURVEY = ("C05",)  # the registered window is in what was measured: no other can be tried on the tables
OVER_TRAINING, WHOLE_RUN = ("A17", "E11"), " --revisions training"  # these need checkpoints from the first step on
SECOND = "docs-"  # names of models on the second corpus begin with it


@dataclass(frozen=True)
class Basis:
    """The runs that a verdict rests on."""

    seeds: dict[str, int]  # model of the claim -> seeds measured
    without: int  # runs in which no head passes the threshold of an induction head at the end: the best head counts
    of: int  # runs that could have one: two layers and more, or smeared keys
    from_start: int = 0  # runs whose window begins with the first snapshot, where the verdict reads the window
    windows: int = 0  # runs whose window it reads
    lengths: tuple[int, int] = (0, 0)  # training tokens of the shortest and the longest run

    @staticmethod
    def of_claim(claim: Claim, zoo: Zoo, window: bool = False) -> Basis:
        """The basis of a verdict on ``claim`` by the measurements in ``zoo``; ``window``: it reads the window."""
        runs = {name: [zoo.run(name, seed) for seed in zoo.seeds(name)] for name in claim.models}
        able = [r for group in runs.values() for r in group if r.run["n_layers"] > 1 or r.run["smear"] == "key"]
        without = sum(bool(r.best_prefix[-1] <= THRESHOLD) for r in able)
        early = [r.window.start <= r.tokens[0] for group in runs.values() for r in group] if window else []
        tokens = [int(r.tokens[-1]) for group in runs.values() for r in group] or [0]
        return Basis({k: len(v) for k, v in runs.items()}, without, len(able), sum(map(bool, early)), len(early),
                     (min(tokens), max(tokens)))

    def span(self, n: int) -> str:
        """``n`` seeds, or a range where some models have fewer."""
        least = min([n, *(m for m in self.seeds.values() if m)])
        return f"{n}" if least == n else f"{least} to {n}"

    def __str__(self) -> str:
        there = sum(n > 0 for n in self.seeds.values())
        notes = [f"{there} of {len(self.seeds)} models measured" if there < len(self.seeds) else "",
                 f"no induction head in {self.without} of {self.of} run{'s' * (self.of != 1)}" if self.without else "",
                 f"window from the first snapshot on in {self.from_start} of {self.windows} runs"
                 if self.from_start else "",
                 "runs of {:.0f} to {:.0f} M tokens".format(*(n / 1e6 for n in self.lengths))
                 if self.lengths[1] > 1.01 * self.lengths[0] else ""]
        return "; ".join(filter(None, notes))


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict, and what the verdict would be with less or other evidence."""

    claim: Claim
    verdict: Verdict | None  # None: in scope, but the models it needs are not measured yet
    without: dict[int, str]  # verdict without each seed in turn
    alone: dict[int, str]  # verdict by each seed alone
    second_corpus: Verdict | None  # on the second corpus, where its models are measured
    narrow: str = ""  # what the verdict would be with the window at half of the steepest slope; not registered
    why: str = ""  # there is no verdict
    second_why: str = ""  # there is none on the second corpus although its models are measured
    remark: str = ""  # on the test itself
    complete: tuple[str, int] = ("", 0)  # the verdict on the seeds that all its models have, and their number
    basis: Basis = field(default=Basis({}, 0, 0), hash=False)
    second_basis: Basis = field(default=Basis({}, 0, 0), hash=False)

    @property
    def word(self) -> str:
        """The verdict in words, or ``missing``."""
        return self.verdict.verdict if self.verdict else MISSING

    @property
    def seeds(self) -> str:
        """Seeds of the verdict; a range where some of the claim's models have fewer, and count in fewer numbers."""
        return self.basis.span(self.verdict.n_seeds if self.verdict else 0)

    @property
    def agreeing(self) -> int:
        """Seeds that by themselves would give the same verdict."""
        return sum(word == self.word for word in self.alone.values())

    @property
    def rests_on(self) -> str:
        """What must be known to read the verdict: models and heads that are not there, seeds that say otherwise."""
        n = len(self.alone)
        by = f"{self.word} by {self.agreeing} of {n} seeds taken alone" if self.agreeing < n else ""
        word, k = self.complete
        fewer = f"{word} on the {k} seed{'s' * (k > 1)} that all its models have" if word not in ("", self.word) else ""
        return "; ".join(filter(None, [fewer, by, str(self.basis), self.remark]))

    @property
    def second_word(self) -> str:
        """The verdict on the second corpus in words; empty where its models are not measured."""
        if not self.second_corpus:
            return "undefined" if self.second_why else ""
        return self.second_corpus.verdict

    @property
    def second_notes(self) -> str:
        """What must be known to read the verdict on the second corpus: its seeds, runs without an induction head."""
        if not self.second_corpus:
            return ""
        seeds = self.second_basis.span(self.second_corpus.n_seeds)
        return ", ".join(filter(None, [f"{seeds} seed{'s' * (seeds != '1')}", str(self.second_basis)]))

    @property
    def on_second_corpus(self) -> str:
        """Both in one line."""
        return self.second_word + (f" ({self.second_notes})" if self.second_notes else "")

    @property
    def stable(self) -> str:
        """``yes`` if no single seed decides, else which ones do; empty with one seed."""
        other = [str(seed) for seed, verdict in self.without.items() if verdict != self.word]
        return "" if not self.without else "yes" if not other else f"no: seed {', '.join(other)}"


def judge_zoo(tables: Tables, places: Mapping[str, tuple[str, str]] | None = None, preset_name: str = "laptop",
              only: Collection[str] | None = None, pretrained: Tables | None = None) -> list[Judged]:  # fmt: skip
    """Verdicts on all claims, in their order.

    Args:
        tables: as :func:`ictl_utils.tables.read` gives them.
        places: figure and chapter that show each claim, by its id; default those of the book.
        only: ids of the claims to judge; default all.
        pretrained: measurements of pretrained models, default those that come with the package.
    """
    shown_at = figure_list.places() if places is None else places
    other_text = second_corpus(preset_name, seeds_in(tables))
    zoos = (Zoo(tables, preset_name=preset_name), Zoo(tables, other_text, preset_name),
            Zoo(tables, preset_name=preset_name, share=NARROW))  # fmt: skip
    others = numbers_pretrained.zoos(pretrained_tables.shipped() if pretrained is None else pretrained)
    claims = [(c, shown_at.get(c.id, ("", ""))) for c in load_claims() if only is None or c.id in only]
    return [_judged(c, *zoos, place) if c.testable else _judged_pretrained(c, others, place) for c, place in claims]


def second_corpus(preset_name: str = "laptop", seeds: int = 0) -> dict[str, list[str]]:
    """Name -> run ids with every model replaced by the same one on the second corpus; none where there is none."""
    ids = {e.name: [run_id(*run) for run in e.all_runs(seeds)] for e in entries(preset_name)}
    return {name: ids.get(SECOND + name, []) for name in ids if not name.startswith(SECOND)}


def _judged(claim: Claim, first: Zoo, second: Zoo, narrow: Zoo, place: tuple[str, str]) -> Judged:
    compute = cache(NUMBERS[claim.id])  # for the verdict, and for those without a seed
    verdict, why = _verdict(claim, compute, first, place)
    if verdict is None:
        return Judged(claim, None, {}, {}, None, why=why or _not_measured(claim, first))
    own = any(m.startswith(SECOND) for m in claim.models)  # is about the second corpus itself
    other, second_why = (None, "") if own else _verdict(claim, compute, second, place)
    under_narrow = None if claim.id in AT_SURVEY else _verdict(claim, compute, narrow, place)[0]
    window = under_narrow is None or under_narrow.numbers != verdict.numbers  # it reads the window
    seeds = (claim, compute(first), *AGAIN.get(claim.id, ()))
    of_all = set.intersection(*(set(first.seeds(m)) for m in claim.models if first.seeds(m)))
    return Judged(claim, verdict, leave_one_out(*seeds), alone(*seeds), other, complete=(on(*seeds, seeds=of_all),
                  len(of_all)), narrow=under_narrow.verdict if under_narrow else "", second_why=second_why,
                  basis=Basis.of_claim(claim, first, window), remark=numbers_heads.REMARKS.get(claim.id, ""),
                  second_basis=Basis.of_claim(claim, second, window) if other else Basis({}, 0, 0))  # fmt: skip


def _judged_pretrained(claim: Claim, zoos: list[Zoo], place: tuple[str, str]) -> Judged:
    """A claim that small models do not decide: judged where all that it needs is measured, else not testable here."""
    remark = numbers_pretrained.REMARKS.get(claim.id, "")
    compute = PRETRAINED.get(claim.id) if claim.reproduced_test else None
    found = [zoo for zoo in zoos if len(compute(zoo))] if compute else []
    verdict, why = _verdict(claim, compute, found[0], place) if found else (None, "")
    if verdict is None:
        command = f"ictl pretrained NAME{WHOLE_RUN if claim.id in OVER_TRAINING else ''}" if compute else ""
        words = how_to_test(claim, command) + (f" {remark}" if remark else "")
        none = replace(judge(claim, None, *place), how_to_test=words)
        return Judged(claim, none, {}, {}, None, why=why)
    seeds = claim, compute(found[0])
    return Judged(claim, verdict, leave_one_out(*seeds), alone(*seeds), None, remark=remark)


def _verdict(claim: Claim, compute: Callable[[Zoo], pd.DataFrame], zoo: Zoo, place: tuple[str, str]
             ) -> tuple[Verdict | None, str]:  # fmt: skip
    """The verdict, or none where there are no numbers, and why where one cannot be computed or is undefined."""
    try:
        numbers = compute(zoo)
        return (None, "") if numbers.empty else (judge(claim, numbers, *place), "")
    except IctlError as error:
        return None, str(error)


def _not_measured(claim: Claim, zoo: Zoo) -> str:
    """Which models of a claim no seed has; all of them where each has some, but none has the same."""
    absent = [name for name in claim.models if not zoo.seeds(name)]
    return f"not measured: {', '.join(absent or claim.models)}"


def missing(judged: list[Judged]) -> list[str]:
    """Ids of claims in scope without a verdict."""
    return [j.claim.id for j in judged if j.verdict is None]


def to_frame(judged: list[Judged]) -> pd.DataFrame:
    """One row a claim: verdict, value with its range over seeds, and robustness."""
    rows = []
    for j in judged:
        v = j.verdict
        rows.append({
            "id": j.claim.id, "claim": j.claim.claim, "verdict": j.word, "number": next(iter(j.claim.numbers), ""),
            **{name: getattr(v, name) if v and v.value is not None else math.nan for name in ("value", "low", "high")},
            "seeds": j.seeds, "without_one_seed": j.stable, "second_corpus": j.on_second_corpus,
            "narrow_window": j.narrow if j.narrow != j.word else "", "rests_on": j.rests_on,
        })  # fmt: skip
    return pd.DataFrame(rows)


def report(judged: list[Judged], only: str | None = None, as_json: bool = False) -> str:
    """The table of verdicts as text, or everything as JSON; one claim in full where ``only`` names it.

    Raises:
        IctlError: ``only`` is no claim.
    """
    require(bool(judged), "there is no verdict to report; expected those of judge_zoo.")
    chosen = [j for j in judged if only in (None, j.claim.id)]
    require(bool(chosen), f"{only!r} is no claim; ids run from {judged[0].claim.id} to {judged[-1].claim.id}.")
    if as_json:
        return json.dumps([_plain(j) for j in chosen], indent=1, allow_nan=False)
    if only is not None:
        return _in_full(chosen[0])
    frame = to_frame(chosen)
    table = frame.to_string(index=False, na_rep="", max_colwidth=48, float_format=lambda x: f"{x:.3g}")
    return table + "\n" + ", ".join(f"{n} {word}" for word, n in frame["verdict"].value_counts().items())


def _plain(j: Judged) -> dict[str, object]:
    empty = Verdict(j.claim.id, MISSING, None, None, None, 0, {}, how_to_test=j.why)
    row = json.loads(to_json([j.verdict or empty]))[0]
    second = json.loads(to_json([j.second_corpus]))[0] if j.second_corpus else None
    return row | {"claim": j.claim.claim, "without_seed": {str(k): v for k, v in j.without.items()},
                  "by_seed_alone": {str(k): v for k, v in j.alone.items()},
                  "on_seeds_of_all_models": j.complete[0], "second_corpus": second, "narrow_window": j.narrow,
                  "basis": asdict(j.basis), "second_corpus_basis": asdict(j.second_basis)}  # fmt: skip


def _in_full(j: Judged) -> str:
    c = j.claim
    lines = [f"{c.id} ({c.part}): {c.claim}", f"  measure: {c.measure}; the paper: {c.paper_value}",
             f"  reproduced if: {c.reproduced_if}  [{c.reproduced_test}; seeds: {c.seeds}]",
             f"  contradicted if: {c.contradicted_if}  [{c.contradicted_test}]", f"  verdict: {j.word}"]  # fmt: skip
    for name, values in (asdict(j.verdict)["numbers"] if j.verdict else {}).items():
        lines.append(f"    {name} = {', '.join(f'{x:.4g}' for x in values)}  ({c.numbers[name]})")
    lines += [f"  no verdict: {j.why}"] if j.why else []
    lines += [f"  how to test: {j.verdict.how_to_test}"] if j.verdict and j.verdict.how_to_test else []
    seeds = ", ".join(f"{name} {n}" for name, n in j.basis.seeds.items())
    lines += [f"  seeds of each model: {seeds}"] if seeds else []
    lines += [f"  {j.rests_on}"] if j.rests_on else []
    lines += [f"  an induction head scores over {THRESHOLD} at the end; without one the best head counts"
              ] if j.basis.without else []  # fmt: skip
    lines += [f"  without one seed: {j.stable}"] if j.without else []
    lines += [f"  on the second corpus: {j.on_second_corpus}{j.second_why and f': {j.second_why}'}"
              ] if j.on_second_corpus else []  # fmt: skip
    lines += [f"  with the window at half of the steepest slope (not registered): {j.narrow}"] if j.narrow else []
    return "\n".join(lines)
