"""Tokens and seconds until an induction head forms: our recipe beside nanoGPT's defaults, seed by seed in turn.

Both train the same attention-only model (two layers, four heads of 32) on the same batches of the same corpus. Ours
is the preset `laptop`. The other has nanoGPT's settings for small models: learned positions in the residual stream,
one matrix for embedding and unembedding, weights of standard deviation 0.02 with output matrices scaled by
1 / sqrt(2 layers), AdamW at 1e-3 with betas (0.9, 0.99) and weight decay 0.1 (none on gains), 100 warm-up steps, cosine
decay to a tenth. Formed means: some head's prefix matching with random gaps is over 0.3. Looking for it costs time that
is not counted. A run that never forms a head counts with its whole length, so that a ratio is then a lower bound.
The goal was a third of the seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ictl_utils import metrics
from ictl_utils.config import ModelConfig, TrainConfig, preset
from ictl_utils.loss import mean_loss
from ictl_utils.model import Transformer
from ictl_utils.processes import one_thread, show_progress
from ictl_utils.tokens import Tokens, batches, load_tokens
from ictl_utils.train import learning_rate, optimizer

LEVEL = 0.3  # prefix matching with random gaps
LAW = 10**5.7  # tokens = LAW * sqrt(sequences a step * context), Aoyama et al. 2025
NOTES = (
    f"Formed: prefix matching with random gaps over {LEVEL}. The law: 10^5.7 sqrt(B C) tokens, B sequences of "
    "C tokens a step. nanoGPT defaults: learned positions in the residual stream, tied embeddings, weights of "
    "standard deviation 0.02, AdamW at 1e-3 with betas 0.9 and 0.99 and weight decay 0.1, 100 warm-up steps, "
    "cosine decay to a tenth; the same batches. A run that forms no head counts with its whole length: the "
    "ratios are bounds, and where no run of the other forms one, they are set by that length."
)
CONTESTANTS = ("ours", "nanoGPT defaults")


@dataclass(frozen=True)
class Result:
    """One run: when a head formed, or how far it went without."""

    contestant: str
    seed: int
    formed: bool
    tokens: int
    seconds: float  # of one core: other programs do not count
    best: float  # prefix matching with random gaps at the end

    def __str__(self) -> str:
        end = f"{'formed after' if self.formed else 'not formed in'} {self.tokens / 1e6:.2f} M tokens"
        took = f"{self.seconds:.0f} core seconds, prefix matching {self.best:.2f}"
        return f"{self.contestant}, seed {self.seed}: {end}, {took}"


class Tied(Transformer):
    """The unembedding is the embedding turned round."""

    def __init__(self, cfg: ModelConfig, seed: int = 0) -> None:
        super().__init__(cfg, seed)
        del self._parameters["W_U"]
        self.tied = True

    def __getattr__(self, name: str):
        return self.W_E.T if name == "W_U" and self.__dict__.get("tied") else super().__getattr__(name)


def start(contestant: str, seed: int) -> tuple[Transformer, torch.optim.Optimizer, ModelConfig, TrainConfig]:
    """Model and optimiser of a contestant."""
    model_cfg, cfg = preset("laptop", init_seed=seed)
    if contestant == "ours":
        model = Transformer(model_cfg, seed)
        return model, optimizer(model, cfg), model_cfg, cfg
    model_cfg, cfg = replace(model_cfg, positions="learned"), replace(cfg, lr=1e-3, weight_decay=0.1, warmup=100)
    model = Tied(model_cfg, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith("W_"):
                std = 0.02 / math.sqrt(2 * model_cfg.n_layers) if name == "W_O" else 0.02
                p.copy_(std * torch.randn(p.shape, generator=generator))
    named = dict(model.named_parameters())
    groups = [{"params": [p for name, p in named.items() if name.startswith("W_") == matrix], "weight_decay": decay}
              for matrix, decay in ((True, 0.1), (False, 0.0))]  # fmt: skip
    return model, torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True), model_cfg, cfg


def rate(contestant: str, cfg: TrainConfig, step: int, steps: int) -> float:
    """Learning rate at a step."""
    if contestant == "ours" or step < cfg.warmup:
        return learning_rate(cfg, step, steps)
    done = (step - cfg.warmup) / max(1, steps - cfg.warmup)
    return cfg.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def race(contestant: str, seed: int, tokens: Tokens, most: int, every: int) -> Result:
    """Train until a head has formed, or for ``most`` tokens."""
    model, opt, model_cfg, cfg = start(contestant, seed)
    size = cfg.batch * model_cfg.n_ctx
    steps, probe = most // size, metrics.random_blocks(tokens, model_cfg.n_ctx)
    stream, seconds, best = batches(tokens.train, cfg.batch, model_cfg.n_ctx, 0), 0.0, 0.0
    bar = tqdm(total=most, unit="tok", unit_scale=True, desc=f"{contestant}, seed {seed}", disable=not show_progress())
    for step in range(steps):
        began = time.process_time()
        for group in opt.param_groups:
            group["lr"] = rate(contestant, cfg, step, steps)
        batch = torch.from_numpy(next(stream))
        x = model.read_out(model.trunk(batch[:, :-1])).flatten(0, 1)
        mean_loss(x, model.W_U, batch[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
        opt.step()
        opt.zero_grad(set_to_none=True)
        seconds += time.process_time() - began
        bar.update(size)
        if (step + 1) % every == 0 or step + 1 == steps:
            best = float(metrics.prefix_matching(model, probe).max())
            if best > LEVEL:
                break
    bar.close()
    return Result(contestant, seed, best > LEVEL, (step + 1) * size, seconds, best)


def table(results: list[Result]) -> str:
    """Medians and ranges over seeds, and ratios seed by seed."""
    lines = ["| | formed | tokens, M | tokens over the law's | core seconds | prefix matching |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    law = LAW * math.sqrt(8 * 128)
    for contestant in CONTESTANTS:
        own = [r for r in results if r.contestant == contestant]
        tokens, seconds = np.array([r.tokens for r in own]), np.array([r.seconds for r in own])
        lines.append(
            f"| {contestant} | {sum(r.formed for r in own)} of {len(own)} | {spread(tokens / 1e6)} "
            f"| {spread(tokens / law)} | {spread(seconds, 0)} | {spread(np.array([r.best for r in own]))} |"
        )
    ours, other = ({r.seed: r for r in results if r.contestant == c} for c in CONTESTANTS)
    for what in ("seconds", "tokens"):
        ratios = np.array([getattr(other[s], what) / getattr(ours[s], what) for s in sorted(ours)])
        bound = "at least " if not all(r.formed for r in other.values()) else ""
        name, goal = ("core seconds", ", goal 3") if what == "seconds" else (what, "")
        lines.append(f"\nnanoGPT defaults over ours, {name}: {bound}{spread(ratios)}{goal}")
    return "\n".join(lines)


def spread(x: np.ndarray, digits: int = 2) -> str:
    """Median and range."""
    return f"{np.median(x):.{digits}f} ({x.min():.{digits}f} to {x.max():.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most", type=float, default=15e6, help="longest run, tokens")
    parser.add_argument("--every", type=int, default=100, help="steps between two looks")
    parser.add_argument("--json", type=Path, help="write every run here")
    given = parser.parse_args()
    tokens, results = load_tokens("stdlib"), []
    with one_thread():
        for seed in range(given.seeds):
            for contestant in CONTESTANTS:
                results.append(race(contestant, seed, tokens, int(given.most), given.every))
                print(f"* {results[-1]}", flush=True)
    print(f"\n{table(results)}\n\n{NOTES}")
    if given.json:
        given.json.write_text(json.dumps([vars(r) for r in results], indent=1))


if __name__ == "__main__":
    main()
