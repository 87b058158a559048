"""What a pretrained model reads: windows of held-out text, and probes of random tokens.

Both are made of the model's own ids. Probes are never decoded and encoded again, and ids that only pad the model's
matrices are left out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from . import data, metrics
from .config import require
from .metrics import Windows
from .pretrained import LanguageModel, first_id
from .tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Places = Int[Tensor, "row pos"]  # places of an Alphabet
BLOCKS, LENGTH = 4, 25  # the paper's probe
RANDOM_CTX = 128  # tokens of the probe with random periods


def held_out(corpus: str) -> list[str]:
    """The documents of a corpus of text that no model of the zoo was trained on."""
    texts = [d for d in data.documents(corpus) if isinstance(d, str) and data.is_held_out(d)]
    require(bool(texts), f"corpus={corpus!r} has no text that is held out (one document in {data.HELD_OUT}); "
                         "give a corpus of text with at least 40 documents.")  # fmt: skip
    return texts


def text_sha(texts: list[str]) -> str:
    """Hash of texts: scores on other texts are not compared."""
    joined = hashlib.sha256()
    for text in texts:
        joined.update(hashlib.sha256(text.encode("utf-8", "replace")).digest())
    return joined.hexdigest()


def text_windows(lm: LanguageModel, texts: list[str], n: int, n_ctx: int) -> Windows:
    """At most ``n`` windows of BOS and ``n_ctx`` tokens, each from one document, spread evenly over all of them.

    Raises:
        IctlError: ``n_ctx`` is under 16 or beyond the model's context, or the texts give fewer than two windows.
    """
    require(16 <= n_ctx <= lm.context, f"n_ctx={n_ctx} does not fit {lm.name}; choose from 16 to {lm.context} tokens.")
    require(n >= 2, f"windows={n} must be at least 2.")
    parts = []
    for text in texts:
        ids = np.asarray(lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64)
        parts.append(ids[: len(ids) // n_ctx * n_ctx].reshape(-1, n_ctx))
    found = np.concatenate(parts)
    require(len(found) >= 2, f"the held-out texts give {len(found)} windows of {n_ctx} tokens; "
                             "give longer texts or a smaller n_ctx.")  # fmt: skip
    rows = found[np.unique(np.linspace(0, len(found) - 1, min(n, len(found))).astype(np.int64))]
    return np.concatenate([np.full((len(rows), 1), first_id(lm.tokenizer)), rows], axis=1)


def usable_ids(tokenizer: PreTrainedTokenizerBase) -> Int[np.ndarray, "n"]:
    """Ids for probes, from 5 % to 80 % of the tokenizer's: without special ones, and without the model's padding.

    Merges of a tokenizer are numbered in the order of their frequency, so that these bounds leave out the most and
    the least common tokens (P1, appendix), by the same shares as :func:`ictl_utils.metrics.usable_ids`.
    """
    n, special = len(tokenizer), [*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder]
    return np.setdiff1d(np.arange(n // 20, n * 4 // 5), special)


@dataclass(frozen=True)
class Alphabet:
    """A model's tokens for the probes of :mod:`ictl_utils.metrics`, which write BOS as 0: place 0 is BOS."""

    ids: Int[Tensor, "place"]  # the model's id at each place: BOS, then the usable ones
    tokens: Tokens  # a stand-in in which every place is a token, seen once
    ranks: tuple[int, int]  # of all places but BOS

    @staticmethod
    def of(lm: LanguageModel) -> Alphabet:
        """The alphabet of a model."""
        ids = torch.tensor([first_id(lm.tokenizer), *usable_ids(lm.tokenizer)])
        places = np.arange(len(ids))
        tokens = Tokens("probe", len(ids), places, places[:0], None, "", 0, 0)
        return Alphabet(ids, tokens, (1, len(ids)))


def paper_probe(lm: LanguageModel, alphabet: Alphabet) -> Places:
    """BOS and 25 random tokens four times, shorter where the model's context asks for it, ten examples."""
    length = min(LENGTH, (lm.context - 1) // BLOCKS)
    return metrics.repeated_blocks(alphabet.tokens, length=length, repeats=BLOCKS, ranks=alphabet.ranks)


def random_probe(lm: LanguageModel, alphabet: Alphabet) -> Places:
    """Blocks of random length that come back after random gaps."""
    return metrics.random_blocks(alphabet.tokens, min(RANDOM_CTX, lm.context), ranks=alphabet.ranks)
