"""Corpora as iterators of documents, and the one number that says whether copying pays on them.

A corpus is a string: ``stdlib``, ``docstrings``, ``path:GLOB``, ``hf:NAME``, or the synthetic
``repeat``, ``bursty``, ``markov``, ``category``. A document is a text, or an array of token ids when synthetic.
Which documents are held out is decided by the hash of each document, never by window.
"""

from __future__ import annotations

import glob
import hashlib
import importlib.metadata
import inspect
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .config import IctlError, digest, require

Document = str | np.ndarray
TEXT = ("stdlib", "docstrings")
SYNTHETIC = ("repeat", "bursty", "markov", "category")
KINDS, LABELS = 8, 24  # of the corpus ``category``
SYNTHETIC_TOKENS = 8_000_000
HF_CHARACTERS = 200_000_000
MAX_VOCAB = 1 << 16  # ids are kept in 16 bits
HELD_OUT = 20  # one document in twenty is validation


def documents(corpus: str, d_vocab: int = 1024) -> Iterator[Document]:
    """The documents of ``corpus`` in a fixed, shuffled order, each once (exact copies are dropped).

    Args:
        corpus: ``stdlib`` (source of the running interpreter's standard library), ``docstrings``
            (English prose: docstrings and comments of the standard library and of the installed packages
            that this one and its book need),
            ``path:GLOB`` (your own files, UTF-8), ``hf:NAME`` or ``hf:NAME/CONFIG`` after a ``@``
            (``hf:wikitext@wikitext-2-raw-v1``: the ``text`` column of a Hugging Face dataset, streamed),
            or a synthetic one (``repeat``, ``bursty``, ``markov``, ``category``).
        d_vocab: number of token ids; only the synthetic corpora use it.

    Raises:
        IctlError: ``corpus`` is unknown, or has no documents, or ids below ``d_vocab`` do not fit 16 bits.
    """
    require(d_vocab <= MAX_VOCAB, f"d_vocab={d_vocab} does not fit ids of 16 bits; use at most {MAX_VOCAB}.")
    seen: set[bytes] = set()
    for document in _source(corpus, d_vocab):
        key = _sha(document)
        if len(document) and key not in seen:
            seen.add(key)
            yield document
    require(bool(seen), f"corpus={corpus!r} is empty; expected at least one document with text in it.")


def is_held_out(document: Document) -> bool:
    """Whether a document belongs to the validation split: decided by its content alone."""
    return _sha(document)[0] % HELD_OUT == 0


def _sha(document: Document) -> bytes:
    raw = document.encode("utf-8", "replace") if isinstance(document, str) else document.tobytes()
    return hashlib.sha256(raw).digest()


def _source(corpus: str, d_vocab: int) -> Iterator[Document]:
    if corpus in SYNTHETIC:
        return _synthetic(corpus, d_vocab)
    if corpus.startswith("hf:"):
        return _hugging_face(corpus[3:])
    return filter(None, map(_prose if corpus == "docstrings" else _read, files(corpus)))


def files(corpus: str) -> list[Path]:
    """The files behind a corpus, sorted and then shuffled with a fixed seed.

    Raises:
        IctlError: the corpus is unknown, or no file matches.
    """
    if corpus.startswith("path:"):
        found = sorted(path for path in map(Path, glob.glob(corpus[5:], recursive=True)) if path.is_file())
    else:
        require(
            corpus in TEXT,
            f"corpus={corpus!r} is not known; use {', '.join(TEXT + SYNTHETIC)}, path:GLOB or hf:NAME.",
        )
        found = sorted(_python_files(Path(sysconfig.get_paths()["stdlib"])), key=Path.as_posix)
        found += _installed_files() if corpus == "docstrings" else []
    require(bool(found), f"corpus={corpus!r} is empty: no file matches; check the path or the pattern.")
    order = np.random.default_rng(0).permutation(len(found))
    return [found[i] for i in order]


def _python_files(folder: Path) -> list[Path]:
    skip = {"site-packages", "dist-packages", "__pycache__"}
    return [path for path in folder.rglob("*.py") if not skip.intersection(path.relative_to(folder).parts)]


def _installed() -> list[importlib.metadata.Distribution]:
    """Installed distributions that this package and its book need, by name: no tools of development, and not itself."""
    seen: set[tuple[str, str]] = set()
    todo = [("ictl-utils", extra) for extra in ("", "viz", "tl", "book")]
    found: dict[str, importlib.metadata.Distribution] = {}
    while todo:
        name, extra = wanted = todo.pop()
        if wanted in seen:
            continue
        seen.add(wanted)
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for needed in map(Requirement, found[name].requires or ()):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(needed.name), more) for more in ("", *needed.extras)]
    found.pop("ictl-utils", None)
    return [found[name] for name in sorted(found)]


def _installed_files() -> list[Path]:
    """Their Python files, in an order that does not depend on where they are installed."""
    named = {str(file): Path(str(d.locate_file(file))) for d in _installed() for file in d.files or ()
             if file.suffix == ".py"}  # fmt: skip
    return [named[name] for name in sorted(named) if named[name].is_file()]


def signature(corpus: str) -> str:
    """Cheap fingerprint of what ``corpus`` would yield now: names, sizes and times of files, or versions."""
    if corpus in SYNTHETIC or corpus.startswith("hf:"):
        return digest(corpus, SYNTHETIC_TOKENS, HF_CHARACTERS)
    if corpus == "docstrings":  # tens of thousands of files
        return digest(corpus, sys.version, sorted(f"{d.name}=={d.version}" for d in _installed()))
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files(corpus)]
    return digest(corpus, sys.version if corpus in TEXT else "", stats)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


_PIECES = re.compile(
    r"""(?P<doc>^[ \t]*[rRuU]?(?P<quote>\"{3}|'{3})(?P<text>.*?)(?<!\\)(?P=quote))
      | \"{3}.*?(?<!\\)\"{3} | '{3}.*?(?<!\\)'{3} | "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*'
      | ^[ \t]*\#+[:!]?[ ]?(?P<words>[^\n]*\w[^\n]*) | \#[^\n]*""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)


def _prose(path: Path) -> str:
    """Docstrings (triple-quoted strings that begin a line) and full-line comments of one Python file, in order.

    A scan for strings and comments: parsing the sources of all installed packages would take ten minutes.
    """
    parts = (inspect.cleandoc(piece["text"]) if piece["doc"] else piece["words"] or ""
             for piece in _PIECES.finditer(_read(path)))  # fmt: skip
    return "\n".join(filter(None, parts))


def _hugging_face(name: str) -> Iterator[str]:
    path, _, config = name.partition("@")
    require(bool(path.strip("/ ")), f"corpus='hf:{name}' names no dataset; expected hf:NAME or hf:NAME@CONFIG, such as "
                                    "hf:wikitext@wikitext-2-raw-v1.")  # fmt: skip
    try:
        from datasets import load_dataset
    except ImportError:
        require(False, f"corpus='hf:{name}' needs the package datasets; run: pip install datasets")
    try:
        rows = load_dataset(path, config or None, split="train", streaming=True)
        left = HF_CHARACTERS
        for row in rows:
            require("text" in row, f"corpus='hf:{name}' has no column 'text'; its columns: {', '.join(row)}.")
            yield row["text"] or ""
            left -= len(row["text"] or "")
            if left <= 0:
                return
    except IctlError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        require(False, f"corpus='hf:{name}' could not be read ({error}); check the name and the network.")


def _synthetic(kind: str, d_vocab: int, length: int = 512, chunk: int = 256) -> Iterator[np.ndarray]:
    """Documents of ``length`` ids in 1..d_vocab-1 (0 is kept for ``<bos>``)."""
    require(d_vocab >= 16, f"d_vocab={d_vocab} is too small for corpus={kind!r}; use at least 16.")
    rng = np.random.default_rng(SYNTHETIC.index(kind))
    make = {"repeat": _repeat, "bursty": _bursty, "markov": _markov, "category": _category}[kind]
    for _ in range(SYNTHETIC_TOKENS // (length * chunk)):
        yield from make(rng, d_vocab, chunk, length).astype(np.uint16)


def _repeat(rng: np.random.Generator, d_vocab: int, n: int, length: int) -> Int[np.ndarray, "n length"]:
    """Random tokens in which blocks of random length come back after random gaps."""
    out = rng.integers(1, d_vocab, (n, length))
    for row in out:
        at = 0
        while at < length:
            block = rng.integers(8, 65)
            start = at + block + rng.integers(0, 65)
            piece = row[at : at + block][: max(0, length - start)]
            row[start : start + len(piece)] = piece
            at = start + block
    return out


def _bursty(rng: np.random.Generator, d_vocab: int, n: int, length: int) -> Int[np.ndarray, "n length"]:
    """Pairs item, label: few of the many items in a document, labels drawn anew for each document."""
    half = d_vocab // 2
    items = rng.integers(1, half, (n, 16))
    labels = rng.integers(half, d_vocab, (n, 16))
    picks = rng.integers(0, 16, (n, length // 2))
    rows = np.arange(n)[:, None]
    return np.stack([items[rows, picks], labels[rows, picks]], axis=2).reshape(n, -1)


def _markov(rng: np.random.Generator, d_vocab: int, n: int, length: int) -> Int[np.ndarray, "n length"]:
    """A Markov chain over eight tokens a document, with its own random transition matrix."""
    states = 8
    symbols = rng.integers(1, d_vocab, (n, states))
    steps = np.cumsum(rng.dirichlet(np.full(states, 0.3), (n, states)), axis=2)
    state, chain = rng.integers(0, states, n), np.empty((n, length), dtype=np.int64)
    for t in range(length):
        chain[:, t] = state
        draw = rng.random(n)[:, None]
        state = (draw > steps[np.arange(n), state, :-1]).sum(axis=1)
    return np.take_along_axis(symbols, chain, axis=1)


def _category(rng: np.random.Generator, d_vocab: int, n: int, length: int) -> Int[np.ndarray, "n length"]:
    """Pairs word, label: which words are of a kind never changes, the label of a kind is drawn anew for each document.

    Ids 1 to 24 are labels, then come eight kinds of words, side by side. In half of the documents one word stands
    for its kind throughout, so that matching words is enough; in the others any word of the kind does.
    """
    size, rows = words_a_kind(d_vocab), np.arange(n)[:, None]
    labels = rng.permuted(np.tile(np.arange(1, 1 + LABELS), (n, 1)), axis=1)
    kinds, words = rng.integers(0, KINDS, (n, length // 2)), rng.integers(0, size, (n, length // 2))
    only = rng.integers(0, size, (n, KINDS))
    words = np.where(rng.random((n, 1)) < 0.5, only[rows, kinds], words)
    return np.stack([1 + LABELS + kinds * size + words, labels[rows, kinds]], axis=2).reshape(n, -1)


def words_a_kind(d_vocab: int) -> int:
    """How many words each kind of the corpus ``category`` has; raises IctlError where there is no room for one."""
    size = (d_vocab - 1 - LABELS) // KINDS
    require(size >= 1, f"d_vocab={d_vocab} is too small for corpus='category'; use at least {1 + LABELS + KINDS}.")
    return size


def copy_pay(train: Int[np.ndarray, "n"], held_out: Int[np.ndarray, "m"], d_vocab: int, window: int = 128) -> float:
    """Share of held-out tokens where copying what followed last time is right and a bigram table is wrong.

    The copy is looked up inside windows of ``window`` tokens; the bigram table holds the most frequent
    successor of each token in ``train``, the lower id of equally frequent ones.

    Raises:
        IctlError: a window of one token or none, or fewer held-out tokens than one window.
    """
    require(window >= 2, f"window={window} has no token with one before it; use 2 or more.")
    pairs, counts = np.unique(train[:-1].astype(np.int64) * d_vocab + train[1:], return_counts=True)
    pairs, bigram = pairs[::-1][np.argsort(counts[::-1], kind="stable")], np.zeros(d_vocab, np.int64)
    bigram[pairs // d_vocab] = pairs % d_vocab  # the last one stays: the most frequent, of equal ones the lowest
    rows = held_out[: len(held_out) // window * window].reshape(-1, window).astype(np.int64)
    require(len(rows) > 0, f"copy_pay needs at least window={window} held-out tokens, got {len(held_out)}.")
    index, successor, pays = np.arange(len(rows)), np.full((len(rows), d_vocab), -1, np.int32), 0
    for t in range(window - 1):
        now, following = rows[:, t], rows[:, t + 1]
        pays += int(((successor[index, now] == following) & (bigram[now] != following)).sum())
        successor[index, now] = following
    return pays / (len(rows) * (window - 1))
