"""Ablations a second beside loops over heads, as ratios from one run: `python bench/ablations.py` (minutes).

One model with the same weights everywhere, the same windows, one thread; rounds go A-B-C, A-B-C in one process.
An ablation is one head, kind of ablation and snapshot, with the losses at the positions of the ICL score. The
round before the first is not timed: there the losses are compared, and the run stops where they differ.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, __file__.rsplit("/", 1)[0])

from train_throughput import Setting, fill, matrices, silence, spread  # noqa: E402

from ictl_utils.ablations import KINDS, head_mask  # noqa: E402
from ictl_utils.ablations_sweep import sweep  # noqa: E402
from ictl_utils.config import Device, IctlError, ModelConfig, TrainConfig, require  # noqa: E402
from ictl_utils.metrics import Windows, icl_ranges  # noqa: E402
from ictl_utils.model import Transformer  # noqa: E402
from ictl_utils.processes import one_thread  # noqa: E402

OURS, HOOKS, TWO_PASS = "ictl_utils sweep", "TransformerLens hooks", "two passes, our model"
NOTES = {
    OURS: "`ictl_utils.ablations_sweep.sweep` with both kinds, fill zero",
    HOOKS: "TransformerBridge.boot_native, run_with_hooks once a head and kind; patterns cached once a chunk and "
           "frozen by hooks; materialises patterns and logits at every position by design",
    TWO_PASS: "forward_with_cache; for each pattern-preserving ablation one pass for the patterns and one with them",
}  # fmt: skip
GOAL = (8.0, 3, 1e-4)  # times the fastest loop at so many layers; nats apart
Found = Float[np.ndarray, "kind layer head window position"]
Logits = Callable[[str, int, int], Tensor]  # of a kind, layer and head
Prepare = Callable[[Tensor], Logits]


@dataclass(frozen=True)
class Job:
    """What every implementation does in a round."""

    model: Transformer
    windows: Windows
    positions: Int[np.ndarray, "position"]
    chunk: int = 8  # windows at a time in the loops: the fastest of 4, 8, 16, 32, 64 for them

    @property
    def count(self) -> int:
        """Ablations in a round."""
        return len(KINDS) * self.model.cfg.n_layers * self.model.cfg.n_heads

    def losses(self, logits: Float[Tensor, "window pos d_vocab"], rows: Int[Tensor, "window pos_plus_1"]
               ) -> Float[np.ndarray, "window position"]:
        """Losses at the positions, nats."""
        right = rows[:, self.positions + 1]
        losses = F.cross_entropy(logits[:, self.positions].flatten(0, 1), right.flatten(), reduction="none")
        return losses.view(right.shape).numpy()

    def loop(self, prepare: Prepare) -> Found:
        """Each kind and head in turn; ``prepare`` gets the ids of a chunk, what it returns gives logits."""
        cfg, parts = self.model.cfg, []
        for rows in torch.from_numpy(self.windows).split(self.chunk):
            logits = prepare(rows[:, :-1])
            parts.append([[[self.losses(logits(kind, layer, head), rows) for head in range(cfg.n_heads)]
                           for layer in range(cfg.n_layers)] for kind in KINDS])  # fmt: skip
        return np.concatenate([np.array(part) for part in parts], axis=3)


def ours(job: Job) -> Callable[[], Found]:
    """The sweep."""
    return lambda: sweep(job.model, job.windows, job.positions).losses[:, 0]


def two_passes(job: Job) -> Callable[[], Found]:
    """What one writes first: an ablation at a time, a pass to save patterns and a pass to force them."""
    def prepare(ids: Tensor) -> Logits:
        def logits(kind: str, layer: int, head: int) -> Tensor:
            kept = dict(enumerate(job.model.forward_with_cache(ids).patterns)) if kind != "full" else None
            mask = head_mask(job.model, [(layer, head)])
            return job.model.forward_with_cache(ids, patterns=kept, head_mask=mask).logits

        return logits

    return lambda: job.loop(prepare)


def transformer_lens(job: Job) -> Callable[[], Found]:
    """A hook a head, and a hook a layer that puts the intact pattern back."""
    model = native_bridge(job.model)

    def zero(z: Tensor, hook: object, head: int) -> Tensor:
        z = z.clone()
        z[:, :, head] = 0.0
        return z

    def prepare(ids: Tensor) -> Logits:
        names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(job.model.cfg.n_layers)]
        kept = model.run_with_cache(ids, names_filter=names)[1]
        frozen = [(name, lambda _, hook, name=name: kept[name]) for name in names]

        def logits(kind: str, layer: int, head: int) -> Tensor:
            hooks = [(f"blocks.{layer}.attn.hook_z", partial(zero, head=head))]
            return model.run_with_hooks(ids, fwd_hooks=hooks + (frozen if kind != "full" else []))

        return logits

    return lambda: job.loop(prepare)


def native_bridge(ours: Transformer):
    """``TransformerBridge.boot_native`` with the weights of our model."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    m = ours.cfg
    config = TransformerBridgeConfig(
        n_layers=m.n_layers, d_model=m.d_model, n_heads=m.n_heads, d_head=m.d_head, n_ctx=m.n_ctx, d_vocab=m.d_vocab,
        attn_only=True, normalization_type="LN", positional_embedding_type="standard", device="cpu")  # fmt: skip
    with silence():
        model = TransformerBridge.boot_native(config)
    w = matrices(Setting(m, TrainConfig(), Device("cpu", "float32", "")))
    w = {name: strong(name, value) for name, value in w.items()}
    fill(model, {
        "tok_embed.weight": w["W_E"], "pos.weight": w["W_pos"], "layers.{}.ln1.weight": w["ln1"],
        "ln_out.weight": w["ln_final"], "head.weight": w["W_U"].T,
        **{f"layers.{{}}.attn.{x}.weight": w[x].mT for x in "qkvo"}})  # fmt: skip
    return model.requires_grad_(False).eval()


def strong(name: str, weight: Tensor) -> Tensor:
    """Weights of attention three times those of the start, so that every ablation shows."""
    return 3 * weight if name in ("q", "k", "v", "o", "W_Q", "W_K", "W_V", "W_O") else weight


def a_job(layers: int, windows: int, n_ctx: int = 128, d_model: int = 128, d_vocab: int = 1024) -> Job:
    """A model with the learned positions every peer has, random windows, the positions of the ICL score."""
    cfg = ModelConfig(n_layers=layers, d_model=d_model, n_ctx=n_ctx, d_vocab=d_vocab, positions="learned")
    model = Transformer(cfg).requires_grad_(False).eval()
    for name, weight in model.named_parameters():
        weight.copy_(strong(name, weight))
    rows = np.random.default_rng(0).integers(0, d_vocab, (windows, n_ctx + 1))
    late, early = (np.arange(*span) for span in icl_ranges(n_ctx))
    return Job(model, rows, np.concatenate([early, late]))


CONTESTANTS = {OURS: ours, HOOKS: transformer_lens, TWO_PASS: two_passes}


def measure(job: Job, rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Ablations a second of every implementation, a number a round, and distances from our losses in nats.

    Raises:
        IctlError: losses further apart than the goal allows.
    """
    with one_thread(), torch.no_grad():
        there = {name: enter(job) for name, enter in CONTESTANTS.items()}
        found = {name: go() for name, go in there.items()}
        apart = {name: float(np.abs(each - found[OURS]).max()) for name, each in found.items()}
        for name, far in apart.items():
            require(far <= GOAL[2], f"{name} is {far:.1e} nats from our losses; {GOAL[2]:g} is allowed.")
        rates: dict[str, list[float]] = {name: [] for name in there}
        for _ in range(rounds):
            for name, go in there.items():
                began = time.perf_counter()
                go()
                rates[name].append(job.count / (time.perf_counter() - began))
    return rates, apart


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("--rounds", 5), ("--windows", 64)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3, 6])
    parser.add_argument("--smoke", action="store_true", help="a tiny model, one round: does it run and agree?")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure every depth and print one table."""
    options = parse(arguments)
    shown = Table(box=SIMPLE, padding=(0, 1))
    for title in ("layers", "implementation", "ablations/s", "ours / it", "nats apart"):
        shown.add_column(title, justify="left" if title == "implementation" else "right", no_wrap=True)
    size, reached = {"windows": options.windows}, ""
    if options.smoke:
        size, options.rounds = {"windows": 4, "n_ctx": 32, "d_model": 32, "d_vocab": 64}, min(options.rounds, 1)
    try:
        require(options.rounds >= 1, f"rounds={options.rounds} must be at least 1.")
        for layers in options.layers:
            rates, apart = measure(a_job(layers, **size), options.rounds)
            ratios = {name: np.divide(rates[OURS], each) for name, each in rates.items()}
            for name, each in rates.items():
                beside = ("", "") if name == OURS else (spread(ratios[name], 1, 2), f"{apart[name]:.0e}")
                shown.add_row(str(layers), name, spread(each, 1, 1), *beside)
            if layers == GOAL[1]:
                best = min(statistics.median(ratios[name]) for name in ratios if name != OURS)
                reached = f"Reached at {layers} layers: {best:.1f} times the fastest loop; the goal is {GOAL[0]:g}."
    except IctlError as error:
        sys.exit(f"ablations: {error}")
    console = Console() if sys.stdout.isatty() else Console(width=110)
    console.print(f"Median (lowest - highest) of {options.rounds} rounds, {size['windows']} windows, one thread, CPU.")
    console.print(shown)
    for line in (*(f"{name}: {note}." for name, note in NOTES.items()), reached):
        console.print(line, highlight=False)


if __name__ == "__main__":
    main()
