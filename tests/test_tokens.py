"""Tokenisation: exact round trip, hashes on disk, and batches that every model sees in the same order."""

import errno
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from ictl_utils import data, tokens
from ictl_utils.config import IctlError
from ictl_utils.tokens import BOS, batches, eval_documents, eval_windows, load_tokens


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), rng.integers(2, 7))) for _ in range(300)]
    for i in range(100):
        (folder / f"{i}.txt").write_text(" ".join(rng.choice(words, 400)) + f" é {i}\n")
    return f"path:{folder}/*.txt"


def test_round_trip_and_labels(corpus: str, tmp_path) -> None:
    found = load_tokens(corpus, 400, tmp_path)
    text = "abc  é\n\tunseen ☃ bytes"
    assert found.decode(found.encode(text)) == text
    assert found.labels([BOS, *found.encode("\n")]) == ["<bos>", "↵"]
    assert found.train.dtype == np.uint16 and int(found.train.max()) < 400


def test_split_by_document(corpus: str, tmp_path) -> None:
    found = load_tokens(corpus, 400, tmp_path)
    held = [doc for doc in data.documents(corpus) if data.is_held_out(doc)]
    assert int((found.held_out == BOS).sum()) == len(held)
    assert found.decode(found.held_out.tolist()) == "".join(held)
    seen = found.decode(found.train.tolist())
    assert not any(doc in seen for doc in held) and held
    assert sorted(seen) == sorted("".join(doc for doc in data.documents(corpus) if not data.is_held_out(doc)))
    assert found.documents == 100 and found.characters == sum(map(len, data.documents(corpus)))


def test_merges_are_learned_from_the_training_texts_alone(corpus: str, tmp_path, monkeypatch) -> None:
    seen: list[str] = []
    learn = tokens.train_tokenizer
    monkeypatch.setattr(tokens, "train_tokenizer", lambda docs, *rest: learn(seen.extend(docs) or seen, *rest))
    load_tokens(corpus, 400, tmp_path)
    assert len(seen) > 50 and not any(data.is_held_out(doc) for doc in seen)


def test_second_load_reads_the_files(corpus: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_tokens(corpus, 400, tmp_path)
    monkeypatch.setattr(tokens, "_build", lambda *_: pytest.fail("built again"))
    assert load_tokens(corpus, 400, tmp_path).sha == first.sha


def test_another_shipped_tokenizer_is_another_text(corpus: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package comes with another tokenizer, ids kept from before are not read."""
    ids = []
    for d_vocab in (300, 400):
        merges = tokens.train_tokenizer((d for d in data.documents(corpus)), d_vocab)
        merges.save(str(tmp_path / "tokenizer.json"))
        monkeypatch.setattr(tokens, "shipped_tokenizer", lambda *_: tmp_path / "tokenizer.json")
        ids.append(load_tokens(corpus, 400, tmp_path / "tokens").train)
    assert len(ids[0]) > len(ids[1])


@pytest.mark.parametrize("damage", ["truncate", "alter", "delete"])
def test_a_damaged_file_is_built_again(corpus: str, tmp_path, damage: str) -> None:
    first = load_tokens(corpus, 400, tmp_path)
    file = next(tmp_path.rglob("train.npy"))
    content = file.read_bytes()
    file.unlink()
    if damage != "delete":
        file.write_bytes(content[:-10] if damage == "truncate" else content[:-1] + bytes([content[-1] ^ 1]))
    assert load_tokens(corpus, 400, tmp_path).sha == first.sha
    assert file.read_bytes() == content


NO_HASH = '{"sha256": {}, "documents": 1, "characters": 1}'


@pytest.mark.parametrize("content", ["", "[]", '{"sha256": 1}', "\xff", NO_HASH])
def test_a_damaged_list_of_hashes_is_built_again(corpus: str, tmp_path, content: str) -> None:
    first = load_tokens(corpus, 400, tmp_path)
    next(tmp_path.rglob("about.json")).write_text(content, encoding="latin1")
    assert load_tokens(corpus, 400, tmp_path).sha == first.sha


def test_the_start_token_in_a_text_is_text(corpus: str, tmp_path) -> None:
    found = load_tokens(corpus, 400, tmp_path)
    ids = found.encode("a <bos> b")
    assert BOS not in ids and found.decode(ids) == "a <bos> b"


def test_vocabulary_larger_than_the_corpus_allows(tmp_path) -> None:
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text(f"ab ab {i}")
    with pytest.raises(IctlError, match=r"d_vocab=1024 is larger than .* allows: it has only \d+ distinct pieces"):
        load_tokens(f"path:{tmp_path}/*.txt", 1024, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_vocabulary_too_small_for_bytes(corpus: str, tmp_path) -> None:
    with pytest.raises(IctlError, match="d_vocab=100 is too small for text; use at least 257"):
        load_tokens(corpus, 100, tmp_path)


def test_too_few_documents_to_hold_some_out(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("one document " * 3000)
    with pytest.raises(IctlError, match="too few to hold some out"):
        load_tokens(f"path:{tmp_path}/*.txt", 260, tmp_path / "out")


def test_synthetic_corpus_has_no_text(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SYNTHETIC_TOKENS", 512 * 256)
    found = load_tokens("markov", 64, tmp_path)
    assert found.labels([3]) == ["3"]
    with pytest.raises(IctlError, match="'markov' has no text"):
        found.encode("hello")


def test_batches_resume_where_they_stopped() -> None:
    ids = np.arange(3000, dtype=np.uint16)
    whole = list(itertools.islice(batches(ids, 4, 50, data_seed=1), 40))
    tail = list(itertools.islice(batches(ids, 4, 50, data_seed=1, start=17), 23))
    assert all((a == b).all() for a, b in zip(whole[17:], tail, strict=True))
    other = next(batches(ids, 4, 50, data_seed=2))
    assert not (other == whole[0]).all()


def test_one_pass_takes_each_window_once() -> None:
    ids = np.arange(2050, dtype=np.uint16)
    per_pass = (len(ids) - 50) // 50 // 4
    rows = np.concatenate(list(itertools.islice(batches(ids, 4, 50, data_seed=0), per_pass)))
    assert (rows[:, 0] == BOS).all()
    seen = rows[:, 1:].ravel()
    assert len(np.unique(seen)) == len(seen) == per_pass * 200


def test_every_pass_cuts_and_orders_the_text_anew() -> None:
    ids = np.arange(2050, dtype=np.uint16)
    per_pass = (len(ids) - 50) // 50 // 4
    whole = list(itertools.islice(batches(ids, 4, 50, data_seed=0), 3 * per_pass))
    firsts = [np.concatenate(whole[i * per_pass : (i + 1) * per_pass])[:, 1].tolist() for i in range(3)]
    assert len({one[0] % 50 for one in firsts}) == 3, "each pass has an offset of its own"
    assert len({tuple(np.argsort(one)) for one in firsts}) == 3, "and an order of its own"


def test_corpus_shorter_than_a_batch() -> None:
    with pytest.raises(IctlError, match="100 training tokens, fewer than one batch of 8 x 128"):
        next(batches(np.zeros(100, dtype=np.uint16), 8, 128, 0))


def test_more_windows_than_held_out(corpus: str, tmp_path) -> None:
    found = load_tokens(corpus, 400, tmp_path)
    with pytest.raises(IctlError, match="n=100000 held-out windows"):
        eval_windows(found, 100_000, 128)


def test_documents_of_windows(corpus: str, tmp_path) -> None:
    found = load_tokens(corpus, 400, tmp_path)
    windows, documents = eval_windows(found, 8, 64), eval_documents(found, 8, 64)
    pieces = np.split(found.held_out, np.flatnonzero(found.held_out == BOS)[1:])
    for window, document in zip(windows, documents, strict=True):
        begin = "".join(map(chr, pieces[document]))
        assert "".join(map(chr, window[1:9])) in begin + "".join(map(chr, pieces[(document + 1) % len(pieces)]))[:8]
    assert sorted(documents) == documents.tolist() and documents[-1] > 0


def test_full_disk_leaves_nothing_behind(corpus: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tokens.np, "save", full)
    with pytest.raises(IctlError, match="the disk is full: .* could not be written; free about 100 MB"):
        load_tokens(corpus, 400, tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_text_than_the_shipped_models_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(tokens, "CORPORA", tmp_path / "corpora.json")
    found = load_tokens("bursty", 64)
    assert tokens.other_text(found) == ""
    for sha, words in ((found.sha, ""), ("0" * 64, "corpus 'bursty' on this machine is not the one")):
        tokens.CORPORA.write_text(json.dumps({"bursty-64": {"sha": sha, "versions": "python 3.99"}}))
        assert words in tokens.other_text(found) and bool(words) == ("python 3.99" in tokens.other_text(found))
        exec("from ictl_utils.tokens import load_tokens; load_tokens('bursty', 64)", {"__name__": "__main__"})
        assert (words in capsys.readouterr().out) and load_tokens("bursty", 64).sha == found.sha
        assert capsys.readouterr().out == ""
