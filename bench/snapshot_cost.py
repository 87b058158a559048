"""What snapshots cost: training with them over training without, in turn, on one core (goal: at most 1.03)."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace

import numpy as np

from ictl_utils.config import preset
from ictl_utils.train import train


def seconds(snapshots: int, tokens: int) -> float:
    """Training seconds of the two-layer model with so many snapshots; 1 keeps the first and the last."""
    model_cfg, train_cfg = preset("laptop", tokens=tokens)
    with tempfile.TemporaryDirectory() as folder:
        run = train(model_cfg, replace(train_cfg, snapshots=snapshots), folder, device="cpu", progress=False)
        return run.manifest["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--snapshots", type=int, default=15, help="per million tokens; the zoo keeps 7 to 9")
    parser.add_argument("--tokens", type=float, default=1e6)
    given = parser.parse_args()
    n, ratios = round(given.snapshots * given.tokens / 1e6), []
    for _ in range(given.rounds):
        without, with_them = seconds(1, int(given.tokens)), seconds(n, int(given.tokens))
        ratios.append(with_them / without)
        print(f"{with_them:.1f} s with {n} snapshots, {without:.1f} s with two: {ratios[-1]:.3f}", flush=True)
    print(f"median {np.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}); goal 1.03")


if __name__ == "__main__":
    main()
