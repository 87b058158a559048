"""Three seeds of the two commands in the README: train, measure, write a table. `make seeds` (about 20 minutes).

Rows that are finished are kept; ``--jobs 2`` trains two at a time, which makes each slower.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from ictl_utils import metrics
from ictl_utils.config import preset
from ictl_utils.snapshots import Run
from ictl_utils.tokens import eval_windows, load_tokens
from ictl_utils.train import train_many

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "bench" / "results" / "three_seeds.csv"
START, END = "<!-- seeds:start -->", "<!-- seeds:end -->"
MODELS = {
    "2L": {"n_layers": 2, "tokens": 10_000_000},
    "1L smeared keys": {"n_layers": 1, "smear": "key", "tokens": 1_500_000},
}
SEEDS = 3


def measured(run: Run) -> dict[str, object]:
    """One row of the table, from the last snapshot of ``run``."""
    tokens, model, n_ctx = load_tokens(run.train_cfg.corpus, run.model_cfg.d_vocab), run.model(), run.model_cfg.n_ctx
    losses = metrics.token_losses(model, eval_windows(tokens, 512, n_ctx))
    scores = metrics.prefix_matching(model, metrics.repeated_blocks(tokens))
    layer, head = metrics.best_head(scores)
    return {
        "model": run.label, "seed": run.train_cfg.init_seed, "tokens": int(run.tokens[-1]),
        "seconds": round(run.manifest["seconds"], 1), "loss_nats": round(float(losses.mean()), 3),
        "icl_nats": round(metrics.icl_score(losses).value, 3),
        "prefix_matching": round(float(scores[layer, head]), 3), "head": f"L{layer}H{head}",
        "python": run.manifest["versions"]["python"], "corpus_sha256": run.manifest["corpus"]["sha256"][:12],
    }  # fmt: skip


def block(table: pd.DataFrame) -> str:
    """The README's table of seeds with medians, between its two markers."""
    lines = ["| model | seed | tokens | seconds | loss, nats | ICL score, nats | best prefix matching | head |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for label in MODELS:
        rows = table[table["model"] == label].sort_values("seed")
        for r in rows.itertuples():
            lines.append(f"| {label} | {r.seed} | {r.tokens / 1e6:.1f} M | {r.seconds:.0f} | {r.loss_nats:.2f} "
                         f"| {r.icl_nats:.2f} | {r.prefix_matching:.2f} | {r.head} |")  # fmt: skip
        m = rows.median(numeric_only=True)
        lines.append(f"| **{label}** | median | | {m.seconds:.0f} | {m.loss_nats:.2f} | {m.icl_nats:.2f} "
                     f"| **{m.prefix_matching:.2f}** | |")  # fmt: skip
    return "\n".join([START, *lines, END])


def main() -> None:
    """Train what is missing, write the table and the README's block."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="folder of the runs; default: the runs folder")
    options = parser.parse_args()
    configs = [preset("laptop", init_seed=seed, **fields) for fields in MODELS.values() for seed in range(SEEDS)]
    table = pd.DataFrame([measured(run) for run in train_many(configs, options.out, jobs=options.jobs)])
    TABLE.parent.mkdir(exist_ok=True)
    table.to_csv(TABLE, index=False)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf8")
    readme.write_text(text.split(START)[0] + block(table) + text.split(END)[1], encoding="utf8")
    print(block(table))


if __name__ == "__main__":
    main()
