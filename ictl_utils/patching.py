"""Activation patching between a repeated and a non-repeated sequence, and the head detector of TransformerLens.

Both find an induction circuit without the scores of :mod:`ictl_utils.metrics`. The models are bridges, as
:func:`ictl_utils.interop.to_transformer_lens` makes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .config import IctlError, one_of, require
from .interop import to_transformer_lens
from .metrics import earlier_successors, usable_ids
from .model import Transformer
from .tokens import BOS, Tokens

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

CHANGES = ("copy", "token")
PARTS = {"stream": "resid_pre", "z": "attn_head_out_all_pos", "pattern": "attn_head_pattern_all_pos"}
PARTS |= {x: f"attn_head_{x}_all_pos" for x in "qkv"}
LEAST = 0.5  # nats that the repeat must be worth: shares of less are shares of noise
SHARE = 0.2  # of the difference between the two sequences, for a head to have a part in the circuit
Heads = list[tuple[int, int]]


@dataclass(frozen=True)
class Pair:
    """Sequences that repeat, the same ones changed so that they do not, and one prediction to look at."""

    repeated: Int[Tensor, "n pos"]
    changed: Int[Tensor, "n pos"]
    query: int  # position of the prediction, in the second copy
    source: int  # position of the query's token in the first copy; what followed it is at source + 1

    def score(self, logits: Float[Tensor, "n pos d_vocab"]) -> Float[Tensor, "n"]:
        """Log-probability, nats, of the token that continues the repeat, in each sequence."""
        answers = self.repeated[:, self.query + 1, None]
        return logits[:, self.query].log_softmax(-1).gather(1, answers)[:, 0]


@dataclass(frozen=True)
class Patched:
    """What carrying one activation from one run into the other does, as a share of the difference of the runs."""

    share: Float[np.ndarray, "layer place"]  # 0: nothing, 1: as if the whole input were the other one
    se: Float[np.ndarray, "layer place"]  # standard error over sequences, the difference taken as known
    repeated: float  # mean score of the repeated sequences, nats
    changed: float  # of the changed ones


@dataclass(frozen=True)
class Circuit:
    """Heads that patching singles out: they look where the repeat says, or they tell others where to look."""

    readers: Heads  # their pattern alone restores the prediction: induction heads
    carriers: Heads  # their output does and their pattern does not, in a layer before a reader: previous-token heads


def repeated_pair(tokens: Tokens, n: int = 32, length: int = 12, change: str = "token", seed: int = 0) -> Pair:
    """``<bos>`` and ``length`` random tokens twice; in the changed ones the first copy does not help.

    Args:
        n: sequences.
        change: ``copy`` puts other tokens in the whole first copy; ``token`` only in the place of the query's
            token there, so that what followed it is still to be found, but nothing says that it did.

    Raises:
        IctlError: unknown change, a copy shorter than 4 tokens, or more tokens than the vocabulary has.
    """
    one_of("change", change, CHANGES)
    ids, rng = usable_ids(tokens.counts), np.random.default_rng(seed)
    require(4 <= length and 2 * length <= len(ids), f"length={length} must be 4 to {len(ids) // 2}.")
    rows = np.stack([rng.choice(ids, 2 * length, replace=False) for _ in range(n)])
    block, other = rows[:, :length], rows[:, length:]
    start, source = np.full((n, 1), BOS), 1 + length // 2
    repeated = torch.from_numpy(np.hstack([start, block, block]).astype(np.int64))
    changed, where = repeated.clone(), slice(1, 1 + length) if change == "copy" else slice(source, source + 1)
    changed[:, where] = torch.from_numpy(other.astype(np.int64))[:, : changed[:, where].shape[1]]
    return Pair(repeated, changed, source + length, source)


@torch.no_grad()
def patch(bridge: TransformerBridge, pair: Pair, part: str = "z", into: str = "changed") -> Patched:
    """Carry activations between the two runs, one at a time, and see how much of the difference follows.

    Uses ``transformer_lens.patching``.

    Args:
        part: ``stream``, the residual stream before each layer at each position; ``z``, what a head has mixed, at
            all positions; ``pattern``, its attention pattern.
        into: ``changed`` carries from the repeated run into the changed one and asks what is enough to restore the
            prediction; ``repeated`` goes the other way and asks what is needed for it.

    Raises:
        IctlError: unknown part or direction, or a model that the repeat helps by less than :data:`LEAST`.
    """
    one_of("part", part, tuple(PARTS))
    one_of("into", into, ("changed", "repeated"))
    library = _library("patching")
    host, guest = (pair.changed, pair.repeated) if into == "changed" else (pair.repeated, pair.changed)
    scores = {name: pair.score(bridge(rows)) for name, rows in (("repeated", pair.repeated), ("changed", pair.changed))}
    gap = float((scores["repeated"] - scores["changed"]).mean())
    require(gap >= LEAST, f"the repeat helps this model by {gap:.2f} nats, less than {LEAST}: nothing to restore.")
    _, cache = bridge.run_with_cache(guest)
    sweep = getattr(library, f"get_act_patch_{PARTS[part]}")
    with _without_bars(library):
        found = sweep(bridge, host, cache, pair.score, reduce="none").values  # [layer, head or position, sequence]
    moved = (found - scores[into]) * (1 if into == "changed" else -1) / gap
    error = moved.std(dim=-1) / len(host) ** 0.5
    return Patched(moved.mean(-1).numpy(), error.numpy(), *(float(x.mean()) for x in scores.values()))


@contextmanager
def _without_bars(library: ModuleType) -> Iterator[None]:
    """A sweep takes a second; the library would leave a progress bar a sweep on the page."""
    bars, library.tqdm = library.tqdm, lambda rows, **_: rows
    try:
        yield
    finally:
        library.tqdm = bars


def circuit(z: Patched, pattern: Patched, share: float = SHARE) -> Circuit:
    """The circuit that patches of outputs and of patterns point at; both with one token changed (``token``)."""
    readers = [(int(layer), int(head)) for layer, head in np.argwhere(pattern.share >= share)]
    last = max((layer for layer, _ in readers), default=0)
    others = [(int(layer), int(head)) for layer, head in np.argwhere((z.share >= share) & (pattern.share < share))]
    return Circuit(readers, [head for head in others if head[0] < last])


def find_circuit(model: Transformer, tokens: Tokens, into: str = "changed", n: int = 16, length: int = 12
                 ) -> tuple[Circuit, Patched, Patched]:  # fmt: skip
    """:func:`circuit` of a model, with the patches of outputs and of patterns that it rests on.

    Raises:
        IctlError: the repeat helps the model by less than :data:`LEAST`.
    """
    bridge, pair = to_transformer_lens(model), repeated_pair(tokens, n, length)
    z, pattern = (patch(bridge, pair, part, into) for part in ("z", "pattern"))
    return circuit(z, pattern), z, pattern


class _Ids:
    """What ``detect_head`` needs of a model, with ids where it has text: random tokens do not survive text."""

    def __init__(self, bridge: TransformerBridge) -> None:
        self.cfg, self.run_with_cache = bridge.cfg, bridge.run_with_cache

    def to_tokens(self, ids: Int[Tensor, "n pos"] | list[Int[Tensor, "n pos"]]) -> Int[Tensor, "n pos"]:
        """The ids as they are; those of a list stacked."""
        return torch.cat(ids) if isinstance(ids, list) else ids


@torch.no_grad()
def detector(bridge: TransformerBridge, probe: Int[Tensor, "n pos"], pattern: str = "induction_head",
             as_list: bool = False, **options) -> Float[np.ndarray, "layer head"]:
    """Score of every head by ``transformer_lens.head_detector.detect_head``, mean over the rows of ``probe``.

    Args:
        pattern: ``induction_head``, ``previous_token_head`` or ``duplicate_token_head``.
        as_list: hand all rows over in one call, as a list, instead of a call a row.
        options: ``error_measure``, ``exclude_bos``, ``exclude_current_token``.
    """
    detect, rows = _library("head_detector").detect_head, [row[None] for row in probe]
    if as_list:
        return detect(_Ids(bridge), rows, pattern, **options).numpy()
    return torch.stack([detect(_Ids(bridge), row, pattern, **options) for row in rows]).mean(0).numpy()


def detector_cap(probe: Int[Tensor, "n pos"]) -> float:
    """Highest induction score that ``detect_head`` can give on ``probe``, at its default settings.

    It divides the attention that lands on the pattern by all attention, one unit a row. Rows without an earlier
    occurrence of their token add to the second and never to the first.
    """
    return float(earlier_successors(probe).any(-1).double().mean())


def names_of(heads: Iterable[tuple[int, int]]) -> str:
    """``L0H3, L1H0``, or ``none``."""
    return ", ".join(f"L{layer}H{head}" for layer, head in heads) or "none"


def _library(module: str):
    """A module of TransformerLens; an IctlError where it is not installed."""
    import importlib

    try:
        return importlib.import_module(f"transformer_lens.{module}")
    except ImportError as error:
        raise IctlError(f'TransformerLens 4 is needed ({error}); run: pip install "ictl-utils[tl]"') from error
