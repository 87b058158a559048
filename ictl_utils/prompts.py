"""The papers' constructions for abstract induction, as text: word patterns, and parallel sentences (P1, Argument 4).

They need a function that turns text into ids and one that gives attention patterns, and so run on any model:

* a model of this package: ``tokens.encode`` and :func:`ictl_utils.category_task.reads`;
* a pretrained one: ``lambda text: lm.tokenizer(text, add_special_tokens=False)["input_ids"]`` and
  ``lambda ids: pretrained_scores.patterns(lm, torch.tensor(ids))``, with ``bos=pretrained.first_id(lm.tokenizer)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool

from .category_task import Lines, PerHead, Read
from .config import require
from .tokens import BOS

Encode = Callable[[str], Sequence[int]]
FIRST = {
    "month": ("January", "March", "April", "May", "June", "July", "August", "October"),
    "colour": ("blue", "gray", "purple", "yellow", "green", "red", "white", "brown"),
}
SECOND = {
    "animal": ("bird", "snake", "frog", "lion", "fish", "monkey", "horse", "mouse"),
    "fruit": ("grape", "pear", "apple", "kiwi", "lemon", "cherry", "plum", "melon"),
}
PARALLEL = (
    ("EN", "The old house near the river has a blue door"),
    ("FR", "La vieille maison près de la rivière a une porte bleue"),
    ("DE", "Das alte Haus am Fluss hat eine blaue Tür"),
)
"""The same sentence three times, without its full stop: that would be copied literally."""
ALIGNED = {
    "FR": (0, 1, 2, 3, 3, 4, 5, 6, 7, 9, 8),
    "DE": (0, 1, 2, 3, 5, 6, 7, 8, 9),
}
"""For each word of the later sentences, the word of the first that it translates."""


# ---- word patterns --------------------------------------------------------------------------------


def pattern_lines(encode: Encode, lines: int = 16, seed: int = 0, bos: int = BOS) -> Lines:
    """A prompt of lines such as ``June grape: 1``, where the label stands for the categories of both words (P1).

    Four categories, each in the same number of lines as far as that goes: month or colour, then animal or fruit. Which
    of the labels 0 to 3 stands for which is drawn anew for each prompt. Every line is encoded in pieces, so that the
    colon and the label are tokens of their own.

    Args:
        encode: text to ids, without a token that begins the text.
        lines: how many.
        bos: id that begins the text.

    Raises:
        IctlError: fewer than eight lines: each category is to come twice.
    """
    require(lines >= 8, f"lines={lines} are too few; give at least 8, so that every category comes twice.")
    rng = np.random.default_rng(seed)
    pairs, label = list(product(FIRST, SECOND)), rng.permutation(4)
    kinds = rng.permutation(np.resize(np.arange(4), lines))
    ids, asks, labels, words = [bos], [], [], []
    for kind in kinds.tolist():
        one, two = (rng.choice(group[name]) for group, name in zip((FIRST, SECOND), pairs[kind], strict=True))
        ids += encode(f"{one} {two}:")
        asks.append(len(ids) - 1)
        answer = list(encode(f" {label[kind]}"))
        labels.append(list(range(len(ids), len(ids) + len(answer))))
        ids += [*answer, *encode("\n")]
        words.append(f"{one} {two}")
    return Lines([int(i) for i in ids], asks, labels, kinds.tolist(), words)


def fitting(encode: Encode, n_ctx: int, n: int = 32, lines: int = 16, bos: int = BOS) -> list[Lines]:
    """``n`` prompts of :func:`pattern_lines`, with fewer lines where a model's context asks for it.

    Raises:
        IctlError: not even eight lines fit.
    """
    while True:
        found = [pattern_lines(encode, lines, seed, bos) for seed in range(n)]
        if max(len(each.ids) for each in found) <= n_ctx:
            return found
        lines -= 1


# ---- parallel sentences ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Parallel:
    """Three sentences with the same meaning as one sequence of ids, and which tokens translate which."""

    ids: list[int]
    asks: list[int]  # last token of a word in a later sentence, which predicts the next word
    targets: Bool[np.ndarray, "ask pos"]  # tokens of the words that translate the next word
    before: Bool[np.ndarray, "ask pos"]  # all tokens up to the one that asks, without the one that begins the text


def parallel_text(encode: Encode, bos: int = BOS) -> Parallel:
    """The sentences of :data:`PARALLEL`, a line each, with the words aligned by hand.

    Args:
        encode: text to ids, without a token that begins the text.
        bos: id that begins the text.
    """
    ids, spans, asked = [bos], [], []
    for name, sentence in PARALLEL:
        ids += encode(f"{name}:")
        line = []
        for word in sentence.split():
            piece = list(encode(f" {word}"))
            line.append(list(range(len(ids), len(ids) + len(piece))))
            ids += piece
        if spans:
            follows = zip(line[:-1], range(1, len(line)), strict=True)
            asked += [(word[-1], _translations(spans, name, nth)) for word, nth in follows]
        spans.append((name, line))
        ids += encode("\n")
    places = np.arange(len(ids))
    return Parallel([int(i) for i in ids], [at for at, _ in asked], np.stack([np.isin(places, to) for _, to in asked]),
                    np.stack([(places > 0) & (places <= at) for at, _ in asked]))  # fmt: skip


def _translations(spans: list[tuple[str, list[list[int]]]], name: str, nth: int) -> list[int]:
    """Tokens of the earlier sentences that mean what word ``nth`` of sentence ``name`` means."""
    first = ALIGNED[name][nth]
    found = list(spans[0][1][first])
    for other, line in spans[1:]:
        found += [at for word, aligned in zip(line, ALIGNED[other], strict=True) if aligned == first for at in word]
    return found


@dataclass(frozen=True)
class Alignment:
    """Attention on translations of the next word, means over the words of the later sentences."""

    raw: PerHead  # share of all attention
    times_even: PerHead  # over what even attention to all earlier tokens would give; 1 is chance


def alignment(text: Parallel, read: Read) -> Alignment:
    """How far heads attend to the translation of the word that comes next (P1, Argument 4, "Translation")."""
    patterns = torch.stack([pattern.float() for pattern in read(text.ids)]).cpu().numpy()[:, :, text.asks]
    raw = (patterns * text.targets).sum(-1).mean(-1)
    return Alignment(raw, raw / (text.targets.sum(1) / text.before.sum(1)).mean())
