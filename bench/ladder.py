"""What the whole ladder costs: core-hours of the shipped runs, or minutes of one trained now (`--train smoke`)."""

from __future__ import annotations

import argparse
import tempfile
import time

import pandas as pd

from ictl_utils import tables
from ictl_utils.config import run_id
from ictl_utils.ladder import climb
from ictl_utils.model import Transformer
from ictl_utils.zoo import FAMILIES, entries, schedule

COLUMNS = ("family", "configurations", "runs", "M tokens", "PFLOP", "core-hours", "GFLOP/s a core")


def line(family: str, runs: pd.DataFrame) -> str:
    """A row of the table: sums over ``runs``."""
    seconds, flops = runs["core_seconds"].sum(), runs["flops"].sum()
    numbers = (family, runs["name"].nunique(), len(runs), f"{runs['tokens'].sum() / 1e6:.0f}", f"{flops / 1e15:.2f}",
               f"{seconds / 3600:.2f}", f"{flops / seconds / 1e9:.0f}")  # fmt: skip
    return f"| {' | '.join(map(str, numbers))} |"


def cost(runs: pd.DataFrame) -> str:
    """Training by family, from the table ``runs``, and what the zoo of preset laptop still lacks."""
    rows = [line(FAMILIES[family], group) for family, group in runs.groupby("family", sort=False)]
    head = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    missing = [(m, t) for _, m, t in schedule(entries("laptop")) if run_id(m, t) not in set(runs["run_id"])]
    hours = sum(Transformer(m).flops_per_token() * t.tokens for m, t in missing) / 3600
    hours *= runs["core_seconds"].sum() / runs["flops"].sum()
    rest = f" {len(missing)} runs of the zoo are not measured yet: about {hours:.1f} core-hours." if missing else ""
    devices = ", ".join(sorted(set(runs["device"])))
    notes = (f"Training alone, one process a core, on {devices}; several machines, with Intel and with AMD "
             "processors and two settings of MKL (bench/recipe.md, Arithmetic): rates of families are no comparison."
             + ("" if "cuda" in devices else " Minutes on a GPU: not measured."))  # fmt: skip
    return "\n".join([*head, *rows, line("all", runs), "", f"{notes}{rest}"])


def climbed(preset_name: str, device: str) -> str:
    """Minutes that training and measuring every configuration once takes here."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        runs = climb(preset_name, seeds=1, out=folder, device=device)
        tokens = sum(int(run.tokens[-1]) for run in runs)
    minutes = (time.perf_counter() - began) / 60
    return (f"preset {preset_name} on {device}: {len(runs)} runs, {tokens / 1e6:.1f} M tokens, trained and measured in "
            f"{minutes:.1f} minutes")  # fmt: skip


def main() -> None:
    """Print what the shipped runs cost, or what a ladder costs now."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", choices=("smoke", "laptop", "gpu"), help="climb the ladder of this preset now")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    print(climbed(given.train, given.device) if given.train else cost(tables.read()["runs"]))


if __name__ == "__main__":
    main()
