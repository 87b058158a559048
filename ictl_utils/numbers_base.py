"""The measurement tables run by run, and the registered terms read off them (``claims_terms.csv``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from . import curves, metrics
from .config import require, run_id
from .curves import crossing as crossing
from .measure import History
from .survey_facts import Roles
from .zoo import entries

PER_RUN = ("snapshots", "positions", "heads", "composition", "ablations", "facts", "token_losses")
REGISTERED, NARROW = 0.15, 0.5  # slope at the ends of the window, over the steepest; NARROW: sensitivity only
ATTENTION_ONLY = tuple(f"attn-{n}l" for n in (2, 3, 4, 5, 6))
Heads = list[tuple[int, int]]  # layer and index


@dataclass(frozen=True, eq=False)
class RunTables:
    """What was measured on one run, rows in the order of its snapshots, and the terms of the registration.

    Tokens are training tokens, scores and losses nats. Columns are those of ``tables.SCHEMA``.
    """

    run: pd.Series  # its row of the table ``runs``
    snapshots: pd.DataFrame
    positions: pd.DataFrame
    heads: pd.DataFrame
    composition: pd.DataFrame
    ablations: pd.DataFrame
    facts: pd.DataFrame
    token_losses: pd.DataFrame
    share: float = REGISTERED  # of the steepest slope, where the window ends

    @cached_property
    def tokens(self) -> Int[np.ndarray, "snap"]:
        """Training tokens seen at each snapshot; the first is 0."""
        return self.snapshots["tokens"].to_numpy()

    @property
    def length(self) -> float:
        """Training tokens of the run, from the first snapshot to the last."""
        return float(self.tokens[-1] - self.tokens[0])

    def at_share(self, share: float) -> float:
        """Token count at which ``share`` of the run is over."""
        return float(self.tokens[0] + share * self.length)

    @cached_property
    def icl(self) -> Float[np.ndarray, "snap"]:
        """In-context learning score at each snapshot."""
        return self.series("icl_nats")

    def series(self, column: str) -> Float[np.ndarray, "snap"]:
        """A column of ``snapshots``."""
        return self.snapshots[column].to_numpy(float)

    def at(self, values: str | Float[np.ndarray, "snap"], tokens: float) -> float:
        """A column of ``snapshots``, or one value a snapshot, interpolated to a token count."""
        return float(np.interp(tokens, self.tokens, self.series(values) if isinstance(values, str) else values))

    def smooth(self, column: str) -> Float[np.ndarray, "step"]:
        """A column of ``snapshots`` at :attr:`steps`, smoothed as the curve is."""
        return curves.smooth_curve(self.tokens, self.series(column))[1]

    @cached_property
    def steps(self) -> Float[np.ndarray, "step"]:
        """Token counts of the curve: 500 equal steps."""
        return curves.smooth_curve(self.tokens, self.icl)[0]

    @cached_property
    def curve(self) -> Float[np.ndarray, "step"]:
        """The smoothed score at :attr:`steps`."""
        return self.smooth("icl_nats")

    def curve_at(self, tokens: float) -> float:
        """The curve at a token count."""
        return float(np.interp(tokens, self.steps, self.curve))

    def fall(self, start: float, end: float) -> float:
        """Fall of the curve between two token counts."""
        return self.curve_at(start) - self.curve_at(end)

    @cached_property
    def window(self) -> metrics.Window:
        """The phase change of the score."""
        return metrics.phase_change(self.tokens, self.icl, share=self.share)

    @property
    def width(self) -> float:
        """Width of the window, in tokens."""
        return self.window.end - self.window.start

    @property
    def change(self) -> float:
        """Score at the first snapshot minus score at the last: positive where the model learns from context."""
        return float(self.icl[0] - self.icl[-1])

    @property
    def jump(self) -> float:
        """Fall of the curve over the window."""
        return self.fall(self.window.start, self.window.end)

    @cached_property
    def midpoint(self) -> float:
        """Token count at which the curve has first made half of its fall from its first to its last value."""
        done = (self.curve[0] - self.curve) * np.sign(self.curve[0] - self.curve[-1])
        return crossing(self.steps, done, abs(self.curve[0] - self.curve[-1]) / 2)

    @cached_property
    def history(self) -> History:
        """The same measurements as the figures of live runs take them."""
        losses = self.positions.sort_values(["snapshot", "position"])["loss_nats"].to_numpy(float)
        return History(
            label=str(self.run["label"]), run_id=str(self.run["run_id"]), tokens=self.tokens,
            loss=self.series("loss_nats"), icl=self.icl, icl_se=self.series("icl_se_nats"),
            loss_by_position=losses.reshape(len(self.tokens), -1), prefix_matching=self.prefix,
            prefix_random=self.per_head("prefix_random"), previous_token=self.previous,
            copying=self.per_head("copying"), token_losses=np.stack(self.token_losses["losses_nats"]).astype(float),
        )  # fmt: skip

    def per_head(self, column: str) -> Float[np.ndarray, "snap layer head"]:
        """A column of ``heads``."""
        return self._folded(self.heads, column, len(self.tokens))

    @cached_property
    def prefix(self) -> Float[np.ndarray, "snap layer head"]:
        """Prefix-matching scores on the paper's probe."""
        return self.per_head("prefix_matching")

    @cached_property
    def previous(self) -> Float[np.ndarray, "snap layer head"]:
        """Previous-token scores."""
        return self.per_head("previous_token")

    @property
    def best_prefix(self) -> Float[np.ndarray, "snap"]:
        """Highest prefix-matching score of any head at each snapshot; 0 without heads."""
        return self.prefix.reshape(len(self.tokens), -1).max(axis=1, initial=0.0)

    @cached_property
    def roles(self) -> Roles:
        """``induction``, ``previous`` and ``in_layer(layer, prefix[-1])``: heads by the registered rules."""
        return Roles.of(self.prefix[-1], self.previous[-1])

    @property
    def induction(self) -> Heads:
        """Induction heads."""
        return self.roles.induction

    @property
    def previous_head(self) -> tuple[int, int]:
        """The previous-token head."""
        return self.roles.previous

    def ablated(self, column: str = "icl_change_nats", kind: str = "pattern-preserving", fill: str = "zero"
                ) -> tuple[Int[np.ndarray, "measured"], Float[np.ndarray, "measured layer head"]]:
        """Numbers of the snapshots at which this ablation was measured, and a column of ``ablations`` there.

        By default effects as registered, nats, positive where the head adds to in-context learning.
        """
        table = self.ablations
        rows = table[(table["kind"] == kind) & (table["fill"] == fill)]
        measured = np.unique(rows["snapshot"])
        return measured, self._folded(rows, column, len(measured))

    def effect(self, kind: str = "pattern-preserving", fill: str = "zero", column: str = "icl_change_nats"
               ) -> Float[np.ndarray, "layer head"]:
        """What :meth:`ablated` gives at the last snapshot; an :class:`IctlError` where it was not measured."""
        measured, found = self.ablated(column, kind, fill)
        last = int(self.snapshots["snapshot"].iloc[-1])
        require(last in measured, f"{self.run['run_id']}: no {kind} {fill} ablation of snapshot {last}.")
        return found[-1]

    def fact(self, measure: str, item: str = "") -> float:
        """One value of ``facts``; an :class:`IctlError` where it was not measured."""
        found = self.facts_of(measure)
        require(item in found, f"{self.run['run_id']}: no fact {measure!r} of {item!r}; measured: {sorted(found)}.")
        return found[item]

    def facts_of(self, measure: str) -> dict[str, float]:
        """Item -> value of a measure of ``facts``; empty where it was not measured."""
        rows = self.facts[self.facts["measure"] == measure]
        return dict(zip(rows["item"], rows["value"].astype(float), strict=True))

    def _folded(self, table: pd.DataFrame, column: str, n: int) -> Float[np.ndarray, "n layer head"]:
        shape = (n, int(self.run["n_layers"]), int(self.run["n_heads"]))
        rows = table.sort_values(["snapshot", "layer", "head"])[column].to_numpy(float)
        require(rows.size == np.prod(shape), f"{self.run['run_id']}: {rows.size} values of {column}, not {shape}.")
        return rows.reshape(shape)


def seeds_in(tables: Mapping[str, pd.DataFrame]) -> int:
    """How many seeds there may be: one more than the largest."""
    return int(tables["runs"]["init_seed"].max()) + 1 if len(tables["runs"]) else 0


class Zoo:
    """Tables of many runs, read by name of the configuration and seed (the initialisation, at data order 0)."""

    def __init__(self, tables: Mapping[str, pd.DataFrame], runs: Mapping[str, Sequence[str]] | None = None,
                 preset_name: str = "laptop", share: float = REGISTERED) -> None:  # fmt: skip
        """Args:
            tables: as ``tables.read`` or ``tables.collect`` give them.
            runs: name -> ids of its runs, where they are not those of the zoo at ``preset_name``.
            share: slope at the ends of the window, over the steepest.
        """
        self.tables, self._read, self.share = tables, {}, share
        self._ids = {e.name: [run_id(*run) for run in e.all_runs(seeds_in(tables))] for e in entries(preset_name)}
        self._ids |= {name: list(ids) for name, ids in (runs or {}).items()}

    def seeds(self, *names: str) -> list[int]:
        """Seeds of which all the named models were measured, ascending; a name must be one of the zoo's."""
        return sorted(set.intersection(*(set(self._by_seed(name)) for name in names)))

    def run(self, name: str, seed: int) -> RunTables:
        """The run of a model with a seed; an :class:`IctlError` where it was not measured."""
        ids = self._by_seed(name)
        require(seed in ids, f"{name} was not measured with seed {seed}; measured: {sorted(ids) or 'none'}.")
        return self._tables_of(ids[seed])

    def orders(self, name: str) -> list[RunTables]:
        """Runs of a model on other orders of the same text; no claim reads them."""
        require(name in self._ids, f"{name!r} is no model of the zoo; known: {', '.join(self._ids)}.")
        found = [i for i in self._ids[name] if i in self._rows.index]
        return [self._tables_of(i) for i in found if self._rows.loc[i, "data_seed"] > 0]

    def models(self, names: Iterable[str], seed: int) -> list[RunTables]:
        """Runs of those of the named models that were measured with a seed, in the order of ``names``."""
        return [self.run(name, seed) for name in names if seed in self._by_seed(name)]

    def _tables_of(self, run: str) -> RunTables:
        if run not in self._read:
            parts = {table: self._part(table, run) for table in PER_RUN}
            self._read[run] = RunTables(self._rows.loc[run], **parts, share=self.share)
        return self._read[run]

    def _by_seed(self, name: str) -> dict[int, str]:
        require(name in self._ids, f"{name!r} is no model of the zoo; known: {', '.join(self._ids)}.")
        found = [self._rows.loc[i] for i in self._ids[name] if i in self._rows.index]
        return {int(row["init_seed"]): row["run_id"] for row in found if row["data_seed"] == 0}

    @cached_property
    def _rows(self) -> pd.DataFrame:
        return self.tables["runs"].set_index("run_id", drop=False)

    @cached_property
    def _groups(self) -> dict[str, dict[str, Int[np.ndarray, "row"]]]:
        return {table: self.tables[table].groupby("run_id", observed=True).indices for table in PER_RUN}

    def _part(self, table: str, run: str) -> pd.DataFrame:
        rows = self.tables[table].iloc[self._groups[table].get(run, [])]
        return rows.sort_values("snapshot", kind="stable").reset_index(drop=True)


def by_seed(seeds: Iterable[int], numbers: Callable[[int], Mapping[str, float]]) -> pd.DataFrame:
    """A row a seed, a column a number; empty without seeds."""
    rows = {seed: dict(numbers(seed)) for seed in seeds}
    return pd.DataFrame.from_dict(rows, orient="index", dtype=float).rename_axis("seed")


def over(a: float, b: float) -> float:
    """``a / b``; infinite or NaN, as division has it, where ``b`` is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.float64(a) / np.float64(b))
