"""Draw the README's picture from the runs of chapter 1 (trains what is missing; about five minutes)."""

from __future__ import annotations

from pathlib import Path

from ictl_utils.config import preset
from ictl_utils.figures import training_curves
from ictl_utils.measure import measure_many
from ictl_utils.train import train_many

OUT = Path(__file__).resolve().parent / "results" / "training_curves.png"


def main() -> None:
    """Three models at preset laptop, seed 0, as in chapter 1."""
    tokens = preset("laptop")[1].tokens // 4
    configs = [preset("laptop", n_layers=1), preset("laptop", n_layers=1, smear="key", tokens=tokens), preset("laptop")]
    histories = measure_many(train_many(configs))
    OUT.parent.mkdir(exist_ok=True)
    training_curves({history.label: [history] for history in histories}).savefig(OUT, dpi=110)
    print(OUT)


if __name__ == "__main__":
    main()
