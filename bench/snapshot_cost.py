"""What snapshots cost: a run's seconds with keeping them over its seconds without, on one core (goal: at most 1.03).

Both are timed inside the same run: two runs in turn differ by more, on a machine with other users, than snapshots cost.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from unittest.mock import patch

import numpy as np

from ictl_utils import train as training
from ictl_utils.config import preset


def timed(snapshots: int, tokens: int) -> tuple[int, float, float]:
    """Train the two-layer model: snapshots kept, seconds of training, seconds of keeping them."""
    model_cfg, train_cfg = preset("laptop", tokens=tokens)
    keep, took = training._Trainer._keep, []

    def timed_keep(trainer: training._Trainer) -> None:
        began = time.perf_counter()
        keep(trainer)
        took.append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory() as folder, patch.object(training._Trainer, "_keep", timed_keep):
        config = replace(train_cfg, snapshots=snapshots)
        run = training.train(model_cfg, config, folder, device="cpu", progress=False)
        whole = run.manifest["seconds"] + took[-1]  # the clock of the manifest stops before the last one
        return len(run), whole - sum(took), sum(took)


def main() -> None:
    """Print a row a round, and the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--snapshots", type=int, default=15, help="per million tokens; the zoo keeps 7 to 9")
    parser.add_argument("--tokens", type=float, default=1e6)
    given = parser.parse_args()
    print("| snapshots | training, s | keeping them, s | with over without |\n| --- | --- | --- | --- |")
    ratios = []
    for _ in range(given.rounds):
        n, train, keep = timed(round(given.snapshots * given.tokens / 1e6), int(given.tokens))
        ratios.append(1 + keep / train)
        print(f"| {n} | {train:.1f} | {keep:.2f} | {ratios[-1]:.3f} |", flush=True)
    print(f"\nmedian {np.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}); goal 1.03")


if __name__ == "__main__":
    main()
