"""The model zoo: which models the book's results rest on, under which names, with how many seeds.

34 configurations as in the paper's Model Analysis Table (P1, appendix), and our controls. One recipe for all:
a configuration differs from the preset's only in what its name says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from importlib import import_module
from typing import TYPE_CHECKING

from .config import IctlError, ModelConfig, TrainConfig, one_of, preset, require, run_id

if TYPE_CHECKING:
    from .model import Transformer

FAMILIES = {
    "attn": "small attention-only",
    "mlp": "small with MLP",
    "smeared": "smeared keys and controls",
    "docs": "second corpus",
    "ladder": "scale ladder",
    "variants": "controls beyond the paper",
}
HEADLINE = ("attn-1l", "attn-2l", "attn-3l", "key-1l", "key-2l")
LADDER = ((2, 0.5), (3, 0.75), (4, 1.0), (5, 1.25), (6, 1.5), (7, 1.75))  # layers, and width in widths of the preset
SMOKE = {"d_model": 32, "n_heads": 2, "n_ctx": 32, "init_qk": 0.12}
SECOND_CORPUS = {"smoke": "bursty"}  # else docstrings, which take minutes to encode


@dataclass(frozen=True)
class Entry:
    """One configuration of the zoo; its runs differ in seeds alone."""

    name: str  # "attn-2l", "docs-mlp-3l", "key-1l"
    family: str  # a key of FAMILIES
    model: ModelConfig
    train: TrainConfig
    seeds: int  # initialisations trained, at one data order
    data_seeds: int = 0  # further data orders, at initialisation 0

    def runs(self, seeds: int | None = None) -> list[tuple[ModelConfig, TrainConfig]]:
        """Configurations of all runs: initialisations first, then data orders; ``seeds`` replaces their number."""
        extra = 0 if seeds is not None else self.data_seeds
        return [(self.model, replace(self.train, init_seed=i)) for i in range(seeds or self.seeds)] + [
            (self.model, replace(self.train, data_seed=1 + i)) for i in range(extra)
        ]

    def all_runs(self, seeds: int = 0) -> list[tuple[ModelConfig, TrainConfig]]:
        """The zoo's own runs, and those of further initialisations up to ``seeds``."""
        return self.runs() + self.runs(max(seeds, self.seeds))[self.seeds :]


def entries(preset_name: str = "laptop", family: str | None = None) -> list[Entry]:
    """The zoo at a preset, most important first.

    Args:
        family: a key of :data:`FAMILIES`, or a pattern over names such as ``attn-*``; default all.

    Raises:
        IctlError: unknown preset, or nothing matches ``family``.
    """
    one_of("preset", preset_name, ("smoke", "laptop", "gpu"))
    found = [*_attention_only(preset_name), *_smeared(preset_name), *_mlp(preset_name),
             *_second_corpus(preset_name), *_variants(preset_name), *_ladder(preset_name)]  # fmt: skip
    chosen = [e for e in found if family is None or e.family == family or fnmatch(e.name, family)]
    known = ", ".join((*FAMILIES, "or a name or pattern of names such as attn-*"))
    require(bool(chosen), f"family={family!r} matches no model of the zoo; use {known}.")
    return chosen


def find(name: str, preset_name: str = "laptop") -> Entry:
    """The entry called ``name``.

    Raises:
        IctlError: there is none.
    """
    for entry in entries(preset_name):
        if entry.name == name:
            return entry
    raise IctlError(f"{name!r} is no model of the zoo; known: {', '.join(e.name for e in entries(preset_name))}.")


def names(preset_name: str = "laptop", seeds: int = 0) -> dict[str, tuple[str, str]]:
    """Run id -> name and family of the configuration; of two with the same runs the first in the list.

    Args:
        seeds: seeds there are, where that is more than the zoo's own number.
    """
    found: dict[str, tuple[str, str]] = {}
    for entry in entries(preset_name):
        for m, t in entry.all_runs(seeds):
            found.setdefault(run_id(m, t), (entry.name, entry.family))
    return found


def load(name: str, seed: int = 0, tokens: float | None = None, *, retrain: bool = False) -> Transformer:
    """A trained model of the zoo, as :func:`ictl_utils.weights.load` gives it, which says what the arguments mean.

    Found here by its users; the step forward is taken when it is called, not when this module is imported.
    """
    return import_module("ictl_utils.weights").load(name, seed, tokens, retrain=retrain)


def schedule(chosen: list[Entry], seeds: int | None = None) -> list[tuple[str, ModelConfig, TrainConfig]]:
    """Name and configurations of every run of ``chosen``, each once, in the order to train them.

    First seeds of everything early in the list come first; later families wait for three seeds of the first.
    """
    wait = {"attn": 0, "smeared": 0, "variants": 1, "mlp": 2, "ladder": 2, "docs": 2}
    ranked = [(wait[e.family] + i, n, e.name, m, t)
              for n, e in enumerate(chosen) for i, (m, t) in enumerate(e.runs(seeds))]  # fmt: skip
    found: dict[str, tuple[str, ModelConfig, TrainConfig]] = {}
    for _, _, name, m, t in sorted(ranked, key=lambda item: item[:2]):
        found.setdefault(run_id(m, t), (name, m, t))
    return list(found.values())


def _base(preset_name: str, **changes) -> tuple[ModelConfig, TrainConfig]:
    """The preset at the zoo's length: 10 M tokens, under one pass through the corpus, so that none comes twice."""
    sizes = {"laptop": {"tokens": 10_000_000, "snapshots": 68}, "gpu": {},
             "smoke": {"tokens": 25_600, "snapshots": 6, "warmup": 10, **SMOKE}}  # fmt: skip
    return preset(preset_name, **{**sizes[preset_name], **changes})


def _entry(name: str, family: str, preset_name: str, seeds: int = 1, data_seeds: int = 0, **changes) -> Entry:
    dense = {"snapshots": 88} if changes.get("smear") and preset_name == "laptop" else {}  # their change is early
    return Entry(name, family, *_base(preset_name, **dense, **changes), seeds=seeds, data_seeds=data_seeds)


def _attention_only(p: str) -> Iterator[Entry]:
    for n in (2, 1, 3, 4, 5, 6):
        yield _entry(f"attn-{n}l", "attn", p, 5 if n <= 3 else 3, data_seeds=2 if n == 2 else 0, n_layers=n)


def _smeared(p: str) -> Iterator[Entry]:
    for smear in ("key", "query", "value"):
        for n in (1, 2):
            seeds = 5 if smear == "key" else 3 if n == 1 else 1
            yield _entry(f"{smear}-{n}l", "smeared", p, seeds, n_layers=n, smear=smear)


def _mlp(p: str) -> Iterator[Entry]:
    for n in (2, 3, 1, 4, 5, 6):
        yield _entry(f"mlp-{n}l", "mlp", p, 3 if n == 2 else 1, n_layers=n, mlp=True, **_long(p))


def _second_corpus(p: str) -> Iterator[Entry]:
    """30 M tokens for the models that are compared with one another up to three layers, 15 M for the rest."""
    corpus, length = {"corpus": SECOND_CORPUS.get(p, "docstrings")}, {"tokens": 30_000_000} if p == "laptop" else {}
    for n in (2, 3, 1, 4, 5, 6):
        yield _entry(f"docs-attn-{n}l", "docs", p, 3 if n == 2 else 1, n_layers=n, **corpus,
                     **(length if n <= 3 else _long(p)))  # fmt: skip
        if n == 2:  # the positive control of every null on this corpus
            yield _entry("docs-key-1l", "docs", p, 3, n_layers=1, smear="key", **corpus, **length)
    for n in (2, 3, 1, 4, 5, 6):
        yield _entry(f"docs-mlp-{n}l", "docs", p, n_layers=n, mlp=True, **corpus, **_long(p))


def _long(p: str) -> dict[str, int]:
    """15 M tokens, for models in which the change may come late or never; a third of the code is then read twice."""
    return {"tokens": 15_000_000} if p == "laptop" else {}


def _variants(p: str) -> Iterator[Entry]:
    _, train_cfg = _base(p)
    yield _entry("attn-0l", "variants", p, n_layers=0)
    warmups = {"half": train_cfg.warmup // 2, "double": train_cfg.warmup * 2}
    for which, warmup in warmups.items():
        yield _entry(f"attn-2l-warm-{which}", "variants", p, 3, warmup=warmup)
    for positions in ("rotary", "learned"):
        yield _entry(f"attn-2l-{positions}", "variants", p, positions=positions)
    yield _entry("attn-2l-muon", "variants", p, optimizer="muon")
    for kind, smear, seeds in (("attn", "none", 5), ("query", "query", 3), ("value", "value", 3)):  # 10 M too short?
        yield _entry(f"{kind}-1l-long", "variants", p, seeds, n_layers=1, smear=smear, **_long(p))
    for positions in ("rotary", "learned"):
        yield _entry(f"attn-2l-{positions}-long", "variants", p, positions=positions, **_long(p))
    for which, warmup in warmups.items():  # late, or nothing formed
        yield _entry(f"attn-2l-warm-{which}-long", "variants", p, 3, warmup=warmup, **_long(p))


def _ladder(p: str) -> Iterator[Entry]:
    """Six sizes; and the smallest for longer, where its change comes too late for 10 M tokens."""
    for i in range(1, len(LADDER) + 1):
        yield _entry(f"ladder-{i}", "ladder", p, **_size(p, i))
    yield _entry("ladder-1-long", "variants", p, **_size(p, 1), **({"tokens": 30_000_000} if p == "laptop" else {}))


def _size(p: str, i: int) -> dict[str, float]:
    """Depth and width grow together, heads stay as wide; learning rate and W_QK scale with 1 / sqrt(width)."""
    (model_cfg, train_cfg), (layers, width) = _base(p), LADDER[i - 1]
    heads = max(1, round(model_cfg.n_heads * width))
    scale = (heads / model_cfg.n_heads) ** -0.5
    return {"n_layers": layers, "n_heads": heads, "d_model": heads * model_cfg.d_head, "lr": train_cfg.lr * scale,
            "init_qk": model_cfg.init_qk * scale}  # fmt: skip
