"""Corpora: what they yield, how they are split, and that copy_pay counts what it says."""

import argparse
import ast
import inspect
import itertools
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest

from ictl_utils import data
from ictl_utils.config import IctlError


def test_stdlib_is_python_source_in_a_fixed_order() -> None:
    first = list(itertools.islice(data.documents("stdlib"), 20))
    again = list(itertools.islice(data.documents("stdlib"), 20))
    assert first == again
    assert sum("import " in doc for doc in first) > 10


def test_stdlib_leaves_installed_packages_out() -> None:
    assert not any("site-packages" in str(path) for path in data.files("stdlib"))


def test_docstrings_are_prose(tmp_path) -> None:
    source = (
        '# A comment.\ndef f(x):\n    """Doc of f.\n\n    More, # and a hash.\n    """\n'
        '    s = """\n# not a comment\n"""\n    t = "# nor this"  # tail\n    #!second\n'
        "    r'''raw'''\n    return x\n"
    )
    (tmp_path / "a.py").write_text(source)
    assert data._prose(tmp_path / "a.py") == "A comment.\nDoc of f.\n\nMore, # and a hash.\nsecond\nraw"
    (tmp_path / "none.py").write_text("x = '''data'''\n")
    assert data._prose(tmp_path / "none.py") == ""


def test_docstrings_agree_with_the_parser() -> None:
    """Every docstring Python's own parser sees in some modules is in the scanned prose."""
    for module in (argparse, inspect, textwrap):
        prose = data._prose(Path(module.__file__))
        tree = ast.parse(Path(module.__file__).read_text())
        found = [ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        long = [doc for doc in found if doc and "\n" in doc and "\\" not in doc]
        assert len(long) > 5 and all(doc in prose for doc in long)


def test_docstrings_leave_out_this_package_and_tools_of_development() -> None:
    names = {d.name.lower() for d in data._installed()}
    assert {"torch", "numpy", "pandas", "sphinx"} <= names
    assert names.isdisjoint({"ictl-utils", "ictl_utils", "pip", "pytest", "playwright", "ruff"})
    assert not any("ictl_utils" in path.parts for path in data._installed_files())


def test_order_of_docstrings_does_not_depend_on_the_place() -> None:
    site = Path(np.__file__).parents[1]
    names = [str(path.relative_to(site)) for path in data._installed_files() if path.is_relative_to(site)]
    assert len(names) > 1000 and names == sorted(names)


def test_own_files_copies_dropped(tmp_path) -> None:
    for name, text in (("a.txt", "one"), ("b.txt", "two"), ("c.txt", "one"), ("d.txt", "")):
        (tmp_path / name).write_text(text)
    assert sorted(data.documents(f"path:{tmp_path}/*.txt")) == ["one", "two"]


@pytest.mark.parametrize("corpus, words", [
    ("shakespeare", ["'shakespeare'", "stdlib", "path:GLOB"]),
    ("path:/nowhere/*.txt", ["/nowhere/*.txt", "empty", "check the path"]),
])
def test_unknown_or_empty_corpus(corpus: str, words: list[str]) -> None:
    with pytest.raises(IctlError) as error:
        list(data.documents(corpus))
    assert all(word in str(error.value) for word in words)


def test_corpus_of_empty_files(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(IctlError, match="is empty; expected at least one document"):
        list(data.documents(f"path:{tmp_path}/*"))


def test_split_depends_on_the_document_alone() -> None:
    docs = [f"document {i}" for i in range(2000)]
    held = {doc for doc in docs if data.is_held_out(doc)}
    assert held == {doc for doc in reversed(docs) if data.is_held_out(doc)}
    assert 0.03 < len(held) / len(docs) < 0.07


@pytest.mark.parametrize("kind", data.SYNTHETIC)
def test_synthetic_documents(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SYNTHETIC_TOKENS", 512 * 256)
    docs = list(data.documents(kind, d_vocab=64))
    assert len(docs) == 256 and all(doc.dtype == np.uint16 and len(doc) == 512 for doc in docs)
    assert min(doc.min() for doc in docs) >= 1 and max(doc.max() for doc in docs) < 64
    assert all((a == b).all() for a, b in zip(docs, data.documents(kind, d_vocab=64), strict=True))


def test_repeats_come_at_many_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SYNTHETIC_TOKENS", 512 * 256)
    offsets = set()
    for doc in data.documents("repeat", d_vocab=1024):
        pairs = {}
        for i, pair in enumerate(zip(doc[:-1].tolist(), doc[1:].tolist(), strict=True)):
            offsets.add(i - pairs.get(pair, i))
            pairs[pair] = i
    assert len(offsets) > 50


def test_copy_pay_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    train, held_out = rng.integers(0, 8, 3000), rng.integers(0, 8, 1000)
    counts = np.zeros((8, 8), int)
    for a, b in zip(train[:-1], train[1:], strict=True):
        counts[a, b] += 1
    pays = total = 0
    for row in held_out[: 1000 // 32 * 32].reshape(-1, 32):
        last = {}
        for a, b in zip(row[:-1], row[1:], strict=True):
            pays += last.get(a) == b != counts[a].argmax()
            last[a] = b
            total += 1
    assert data.copy_pay(train, held_out, 8, window=32) == pytest.approx(pays / total)


def test_copy_pay_is_one_where_only_copying_helps() -> None:
    held_out = np.tile(np.arange(8), 16)[:128]
    train = np.tile(np.arange(8)[::-1], 50)  # bigrams run the other way
    assert data.copy_pay(train, held_out, 8, window=128) == pytest.approx(119 / 127)


def test_copy_pay_of_too_short_a_window() -> None:
    for window, words in ((1, "window=1 has no token"), (200, "at least window=200 held-out tokens, got 128")):
        with pytest.raises(IctlError, match=words):
            data.copy_pay(np.arange(8), np.arange(128) % 8, 8, window=window)


def test_copy_pay_of_a_large_vocabulary() -> None:
    """Equally frequent successors: the lower id counts. A table of all pairs would take 34 GB."""
    train = np.array([60_000, 7, 60_000, 5, 60_000, 9, 60_000, 5, 60_000, 7], dtype=np.uint16)
    for successor, pays in ((5, 0), (7, 63), (9, 63)):  # the way back, to 60,000, a bigram table knows
        held_out = np.tile([60_000, successor], 64).astype(np.uint16)
        assert data.copy_pay(train, held_out, 65_536) == pytest.approx(pays / 127)


def test_ids_fit_16_bits() -> None:
    for corpus in ("repeat", "stdlib"):
        with pytest.raises(IctlError, match="d_vocab=70000 does not fit ids of 16 bits; use at most 65536"):
            next(data.documents(corpus, 70_000))


@pytest.mark.parametrize("corpus", ["hf:", "hf:/", "hf:@wikitext-2-raw-v1"])
def test_a_dataset_without_a_name(corpus: str) -> None:
    with pytest.raises(IctlError, match="names no dataset; expected hf:NAME or hf:NAME@CONFIG"):
        next(data.documents(corpus))


def test_a_dataset_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_, **__):
        raise ValueError("BuilderConfig 'x' not found")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(IctlError, match="corpus='hf:a@x' could not be read .BuilderConfig 'x' not found.; check the"):
        next(data.documents("hf:a@x"))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: [{"text": None}, {"text": "a"}])
    assert list(data.documents("hf:a@x")) == ["a"]
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: [{"words": "a"}])
    with pytest.raises(IctlError, match="corpus='hf:a@x' has no column 'text'; its columns: words."):
        next(data.documents("hf:a@x"))
