"""Text to token ids and back: a byte-level BPE a corpus and size, ids on disk, batches in a fixed order."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Int, UInt16
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from . import data
from .config import digest, home, require

BOS = 0
BYTES = 256
FORMAT = 2  # raised when the files below change in meaning
CORPORA = Path(__file__).parent / "zoo_data" / "corpora.json"  # hashes of what the shipped models were trained on


@dataclass(frozen=True)
class Tokens:
    """A tokenised corpus: training and held-out ids, the tokenizer, and the hash of all three."""

    corpus: str
    d_vocab: int
    train: UInt16[np.ndarray, "n"]  # every document preceded by <bos>
    held_out: UInt16[np.ndarray, "m"]
    tokenizer: Tokenizer | None  # None for synthetic corpora
    sha: str  # of the files on disk
    documents: int
    characters: int  # 0 for synthetic corpora
    bos: int = BOS

    @cached_property
    def counts(self) -> Int[np.ndarray, "d_vocab"]:
        """How often each id occurs in the training split."""
        return np.bincount(self.train, minlength=self.d_vocab)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without ``<bos>``.

        Raises:
            IctlError: the corpus is synthetic, so that text has no meaning in it.
        """
        require(self.tokenizer is not None, f"corpus={self.corpus!r} has no text; pass ids, not {text[:20]!r}.")
        self.tokenizer.encode_special_tokens = True  # "<bos>" in a text is five characters, not the token
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``; ``<bos>`` is left out."""
        if self.tokenizer is None:
            return " ".join(str(int(i)) for i in ids)
        return self.tokenizer.decode([int(i) for i in ids if int(i) != BOS])

    def labels(self, ids: list[int]) -> list[str]:
        """One readable string an id, for figures: spaces and newlines are made visible."""
        shown = {"\n": "↵", "\t": "⇥", " ": "·"}
        raw = ["<bos>" if int(i) == BOS else self.decode([int(i)]) for i in ids]
        return ["".join(shown.get(c, c) for c in text) for text in raw]


def load_tokens(corpus: str, d_vocab: int = 1024, folder: Path | None = None) -> Tokens:
    """Tokenise ``corpus`` once, then read it from disk; the files are checked by hash each time.

    Args:
        corpus: a name :func:`ictl_utils.data.documents` knows.
        d_vocab: ids in all: ``<bos>``, 256 bytes, and merges (P1 uses 65,536; small is faster here).
        folder: where to keep it; default ``tokens`` under :func:`ictl_utils.config.home`.

    Raises:
        IctlError: unknown or empty corpus, a vocabulary larger than the corpus allows, or a full disk.
    """
    shipped = shipped_tokenizer(corpus, d_vocab)
    key = digest(FORMAT, corpus, d_vocab, data.signature(corpus), shipped and _file_sha(shipped))[:16]
    place = (folder or home() / "tokens") / f"{corpus.split(':')[0]}-{d_vocab}-{key}"
    if not _intact(place):
        _build_once(corpus, d_vocab, place)
    about = json.loads((place / "about.json").read_text())
    saved = place / "tokenizer.json"
    found = Tokens(
        corpus, d_vocab,
        train=np.load(place / "train.npy", mmap_mode="r"),
        held_out=np.load(place / "held_out.npy", mmap_mode="r"),
        tokenizer=Tokenizer.from_file(str(saved)) if saved.exists() else None,
        sha=digest(about["sha256"]), documents=about["documents"], characters=about["characters"],
    )  # fmt: skip
    if sys._getframe(1).f_globals.get("__name__") == "__main__":  # a notebook or script, not the package itself
        print(other_text(found), end="")
    return found


def other_text(tokens: Tokens) -> str:
    """A line that says so where these are not the tokens that the shipped models were trained on; else empty."""
    known = json.loads(CORPORA.read_text()) if CORPORA.exists() else {}
    one = known.get(f"{tokens.corpus}-{tokens.d_vocab}")
    if one is None or one["sha"] == tokens.sha:
        return ""
    return (f"The text of corpus {tokens.corpus!r} on this machine is not the one that the shipped models were trained "
            f"on ({one['versions']}): what is measured here differs a little from the tables.\n")  # fmt: skip


def _intact(place: Path) -> bool:
    """Whether every file of a tokenised corpus is there with the hash it was written with."""
    try:
        about = json.loads((place / "about.json").read_text())
        sha = about["sha256"]
        whole = {"train.npy", "held_out.npy"} <= sha.keys() and {"documents", "characters"} <= about.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there, or damaged
        return False
    return whole and all((place / name).exists() and _file_sha(place / name) == known
                                         for name, known in sha.items())  # fmt: skip


def _file_sha(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build_once(corpus: str, d_vocab: int, place: Path) -> None:
    """One process builds, others wait for it; nothing is left behind where it fails."""
    lock, there = place.with_name(f".{place.name}.lock"), place.parent.exists()
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock):
            if not _intact(place):
                _build(corpus, d_vocab, place)
    finally:
        lock.unlink(missing_ok=True)
        if not there and not any(place.parent.iterdir()):
            place.parent.rmdir()


def _build(corpus: str, d_vocab: int, place: Path) -> None:
    """Write the files of a tokenised corpus into a temporary folder, then move it into place."""
    found = list(data.documents(corpus, d_vocab))
    text = isinstance(found[0], str)
    tokenizer = _tokenizer(found, corpus, d_vocab) if text else None
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".building-", dir=place.parent))
    try:
        for name, held_out in (("train", False), ("held_out", True)):
            part = [d for d in found if data.is_held_out(d) == held_out]
            require(bool(part), f"corpus={corpus!r} has {len(found)} documents, too few to hold some out; "
                                "give at least 40 documents.")
            np.save(folder / f"{name}.npy", _ids(part, tokenizer))
        if tokenizer is not None:
            tokenizer.save(str(folder / "tokenizer.json"))
        sha = {path.name: _file_sha(path) for path in sorted(folder.iterdir())}
        about = {"corpus": corpus, "d_vocab": d_vocab, "documents": len(found), "sha256": sha,
                 "characters": sum(map(len, found)) if text else 0}
        (folder / "about.json").write_text(json.dumps(about, indent=1))
        shutil.rmtree(place, ignore_errors=True)
        os.replace(folder, place)
    except OSError as error:
        require(error.errno not in (errno.ENOSPC, errno.EDQUOT), f"the disk is full: {place} could not be written; "
                "free about 100 MB, or set ICTL_HOME to a folder on another disk.")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def shipped_tokenizer(corpus: str, d_vocab: int) -> Path | None:
    """The tokenizer the zoo was trained with, where there is one: ids then do not depend on the interpreter."""
    path = Path(__file__).parent / "zoo_data" / f"tokenizer-{corpus}-{d_vocab}.json"
    return path if corpus in data.TEXT and path.exists() else None


def _tokenizer(found: list[str], corpus: str, d_vocab: int) -> Tokenizer:
    shipped = shipped_tokenizer(corpus, d_vocab)
    if shipped is not None:
        return Tokenizer.from_file(str(shipped))
    return train_tokenizer((d for d in found if not data.is_held_out(d)), d_vocab, corpus)


def train_tokenizer(texts: Iterable[str], d_vocab: int, corpus: str = "texts") -> Tokenizer:
    """Byte-level BPE with ``d_vocab`` ids: ``<bos>``, the 256 bytes, then merges.

    Raises:
        IctlError: ``d_vocab`` leaves no room for the bytes, or the text has too few pairs to merge.
    """
    require(d_vocab > BYTES, f"d_vocab={d_vocab} is too small for text; use at least {BYTES + 1} (<bos> and bytes).")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=d_vocab, special_tokens=["<bos>"], initial_alphabet=alphabet, show_progress=False))
    reached = tokenizer.get_vocab_size()
    require(
        reached == d_vocab,
        f"d_vocab={d_vocab} is larger than corpus={corpus!r} allows: it has only {reached} distinct pieces; "
        f"use d_vocab={reached} or less, or a larger corpus.",
    )
    return tokenizer


def _ids(part: list[data.Document], tokenizer: Tokenizer | None) -> UInt16[np.ndarray, "n"]:
    if tokenizer is not None:
        part = [np.asarray(e.ids, dtype=np.uint16)
                for e in tokenizer.encode_batch_fast(part, add_special_tokens=False)]
    return np.concatenate([piece for ids in part for piece in (np.array([BOS], dtype=np.uint16), ids)])


def batches(ids: UInt16[np.ndarray, "n"], batch: int, n_ctx: int, data_seed: int, start: int = 0
            ) -> Iterator[Int[np.ndarray, "batch n_ctx_plus_1"]]:
    """Endless training batches from step ``start`` on: windows of ``n_ctx`` + 1 ids, ``<bos>`` first.

    Each pass cuts the stream into windows at a new random offset and takes each window once, in random
    order, but for the last few of the stream, fewer than a batch and one, which no pass reads; step ``s`` depends
    on ``data_seed`` and ``s`` alone, so that all models see the same data in the same order (P1, "Model details")
    and a resumed run goes on where it stopped.

    Raises:
        IctlError: the corpus is shorter than one batch.
    """
    per_pass = (len(ids) - n_ctx) // n_ctx // batch
    require(
        per_pass >= 1,
        f"the corpus has {len(ids)} training tokens, fewer than one batch of {batch} x {n_ctx}; "
        "use a larger corpus, a smaller batch or a shorter n_ctx.",
    )
    step = start
    while True:
        rng = np.random.default_rng((data_seed, step // per_pass))
        starts = rng.integers(n_ctx) + n_ctx * rng.permutation(per_pass * batch)
        for first in range(step % per_pass, per_pass):
            yield windows_at(ids, starts[first * batch : (first + 1) * batch], n_ctx)
            step += 1


def windows_at(ids: UInt16[np.ndarray, "n"], starts: Int[np.ndarray, "batch"], n_ctx: int
               ) -> Int[np.ndarray, "batch n_ctx_plus_1"]:
    """Windows of ``<bos>`` and the ``n_ctx`` ids from each start on, as int64."""
    rows = ids[starts[:, None] + np.arange(n_ctx)].astype(np.int64)
    return np.concatenate([np.full((len(starts), 1), BOS), rows], axis=1)


def eval_windows(tokens: Tokens, n: int, n_ctx: int) -> Int[np.ndarray, "n n_ctx_plus_1"]:
    """The first ``n`` windows of the held-out split, spread evenly over it: the same for every model.

    Raises:
        IctlError: the held-out split has fewer than ``n`` windows.
    """
    return windows_at(tokens.held_out, _eval_starts(tokens, n, n_ctx), n_ctx)


def eval_documents(tokens: Tokens, n: int, n_ctx: int) -> Int[np.ndarray, "n"]:
    """The document in which each window of :func:`eval_windows` begins, numbered from 0; it may run into the next."""
    starts = _eval_starts(tokens, n, n_ctx)
    return np.searchsorted(np.flatnonzero(tokens.held_out == BOS), starts, side="right") - 1


def _eval_starts(tokens: Tokens, n: int, n_ctx: int) -> Int[np.ndarray, "n"]:
    there = len(tokens.held_out) // n_ctx
    require(
        there >= n,
        f"n={n} held-out windows of {n_ctx} tokens were asked for, but corpus={tokens.corpus!r} has {there}; "
        "ask for fewer, or use a larger corpus.",
    )
    return np.linspace(0, there - 1, n).astype(np.int64) * n_ctx
