"""Pretrained models: two of our own models, saved as GPT-NeoX and GPT-2, give the numbers they give here.

Nothing is downloaded. Numbers of claims are checked on tables made up so that the answer is known.
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from ictl_utils import circuits, cli, data, metrics, probes
from ictl_utils import pretrained as open_models
from ictl_utils import pretrained_scores as scores
from ictl_utils import pretrained_tables as stored
from ictl_utils.claims import load_claims
from ictl_utils.config import IctlError, ModelConfig
from ictl_utils.judgement import judge_zoo, report
from ictl_utils.metrics import Windows
from ictl_utils.model import Transformer
from ictl_utils.numbers import NUMBERS, PRETRAINED
from ictl_utils.numbers_base import PER_RUN
from ictl_utils.numbers_pretrained import LARGE, PYTHIA, zoos
from ictl_utils.pretrained import LanguageModel, load
from ictl_utils.pretrained_tables import Reading, measure
from ictl_utils.pretrained_texts import Alphabet, held_out, paper_probe, random_probe, text_windows, usable_ids
from ictl_utils.tables import SCHEMA
from ictl_utils.tokens import Tokens, train_tokenizer

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

IDS, ROWS, CTX = 320, 336, 160  # of the tokenizer, of the model's matrices (padded), of the context


# ---- two small models -------------------------------------------------------------------------------


def ours(positions: str) -> Transformer:
    """A model of ours with large random weights; rows of padding say nothing."""
    cfg = ModelConfig(n_layers=2, d_model=32, n_heads=4, n_ctx=CTX, d_vocab=ROWS, positions=positions)
    model, draw = Transformer(cfg, seed=1), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, factor in (("W_Q", 10), ("W_K", 10), ("W_V", 4), ("W_O", 4), ("W_U", 4)):
            getattr(model, name).mul_(factor)
        model.ln1.add_(0.2 * torch.randn(model.ln1.shape, generator=draw))
        model.W_O.sub_(model.W_O.mean(dim=3, keepdim=True))  # the mean of LayerNorm then changes nothing
        model.W_E[IDS:] = 0
        model.W_U[:, IDS:] = model.W_U[:, :IDS].mean(dim=1, keepdim=True)
    return model.eval().requires_grad_(False)


def as_neox(model: Transformer) -> torch.nn.Module:
    cfg, d, h = model.cfg, model.cfg.d_model, model.cfg.n_heads
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
    hf = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(
        vocab_size=ROWS, hidden_size=d, num_hidden_layers=2, num_attention_heads=h, intermediate_size=48,
        max_position_embeddings=CTX, rope_parameters=rope, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0))
    named = {"gpt_neox.embed_in.weight": model.W_E,
             "gpt_neox.final_layer_norm.weight": model.ln_final}
    for i, w in enumerate(model.layers()):
        qkv = torch.stack([w[f"W_{x}"] for x in "QKV"], dim=1)  # [head, q k v, d_model, d_head]
        named |= {f"gpt_neox.layers.{i}.attention.query_key_value.weight": qkv.mT.reshape(3 * d, d),
                  f"gpt_neox.layers.{i}.attention.dense.weight": w["W_O"].flatten(0, 1).T,
                  f"gpt_neox.layers.{i}.input_layernorm.weight": w["ln1"]}
    assert cfg.positions == "rotary"
    return filled(hf, model, named, "mlp.dense_4h_to_h.weight")


def as_gpt2(model: Transformer) -> torch.nn.Module:
    d = model.cfg.d_model
    hf = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=ROWS, n_embd=d, n_layer=2, n_head=model.cfg.n_heads, n_positions=CTX, n_inner=48,
        tie_word_embeddings=False, bos_token_id=IDS, eos_token_id=IDS))
    named = {"transformer.wte.weight": model.W_E, "transformer.wpe.weight": model.W_pos,
             "transformer.ln_f.weight": model.ln_final}
    for i, w in enumerate(model.layers()):
        parts = [w[f"W_{x}"].transpose(0, 1).flatten(1) for x in "QKV"]
        named |= {f"transformer.h.{i}.attn.c_attn.weight": torch.cat(parts, dim=1),
                  f"transformer.h.{i}.attn.c_proj.weight": w["W_O"].flatten(0, 1),
                  f"transformer.h.{i}.ln_1.weight": w["ln1"]}
    return filled(hf, model, named, "mlp.c_proj.weight")


def filled(hf: torch.nn.Module, model: Transformer, named: dict[str, Tensor], silent: str) -> torch.nn.Module:
    """The named weights and W_U in place; biases, and what its MLPs write, are 0."""
    with torch.no_grad():
        hf.get_output_embeddings().weight.copy_(model.W_U.T)
        for name, p in hf.named_parameters():
            if name.endswith((".bias", silent)):
                p.zero_()
    hf.load_state_dict(named, strict=False)
    assert set(named) <= {name for name, _ in hf.named_parameters()}
    return hf


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Folder with texts, and with both models and their tokenizers."""
    folder, rng = tmp_path_factory.mktemp("hub"), np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), rng.integers(2, 7))) for _ in range(60)]
    (folder / "texts").mkdir()
    for i in range(80):
        (folder / "texts" / f"{i}.txt").write_text(" ".join(rng.choice(words, 400)))
    bpe = train_tokenizer((p.read_text() for p in sorted((folder / "texts").iterdir())), IDS)
    for name, model, bos in (("neox", as_neox(ours("rotary")), "<bos>"), ("gpt2", as_gpt2(ours("learned")), "<end>")):
        model.save_pretrained(folder / name)
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=bos)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def neox(place: Path) -> LanguageModel:
    return load(str(place / "neox"), device="cpu")


@pytest.fixture(scope="module")
def gpt2(place: Path) -> LanguageModel:
    return load(str(place / "gpt2"), device="cpu")


@pytest.fixture(scope="module")
def windows(place: Path, neox: LanguageModel) -> Windows:
    return text_windows(neox, held_out(f"path:{place}/texts/*"), 6, 48)


def same(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-4) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=0, atol=tolerance))


# ---- text and probes --------------------------------------------------------------------------------


def test_windows_are_of_one_document_each(place: Path, neox: LanguageModel, gpt2: LanguageModel) -> None:
    texts = held_out(f"path:{place}/texts/*")
    assert 0 < len(texts) < 80 and all(map(data.is_held_out, texts))
    found = text_windows(gpt2, texts, 1000, 48)
    assert found.shape[1] == 49 and (found[:, 0] == IDS).all() and not (found[:, 1:] == IDS).any()
    assert all(any(gpt2.tokenizer.decode(row[1:]) in text for text in texts) for row in found)
    few = text_windows(neox, texts, 3, 48)
    assert few.shape == (3, 49) and (few[0, 1:] == found[0, 1:]).all() and (few[-1, 1:] == found[-1, 1:]).all()
    for n, n_ctx, words in ((5, 12, "n_ctx=12 does not fit neox; choose from 16 to 160"), (5, 161, "n_ctx=161"),
                            (1, 48, "windows=1 must be at least 2")):
        with pytest.raises(IctlError, match=words):
            text_windows(neox, texts, n, n_ctx)
    with pytest.raises(IctlError, match="give 0 windows of 48 tokens"):
        text_windows(neox, ["short"], 5, 48)
    with pytest.raises(IctlError, match="corpus='repeat' has no text that is held out"):
        held_out("repeat")


def test_probes_hold_ids_of_the_tokenizer_only(neox: LanguageModel, gpt2: LanguageModel) -> None:
    for lm, bos in ((neox, 0), (gpt2, IDS)):
        alphabet = Alphabet.of(lm)
        assert sorted(alphabet.ids[1:].tolist()) == list(range(len(lm.tokenizer) // 20, len(lm.tokenizer) * 4 // 5))
        rows = alphabet.ids[paper_probe(lm, alphabet)]
        assert rows.shape == (10, 101) and (rows[:, 0] == bos).all() and (rows < IDS).sum() >= rows.numel() - 10
        assert (rows[:, 1:26].repeat(1, 4) == rows[:, 1:]).all()
        assert all(len(set(row.tolist())) == 25 for row in rows[:, 1:])
        assert alphabet.ids[random_probe(lm, alphabet)].shape == (32, 128)
    assert len(gpt2.tokenizer) == IDS + 1 and IDS not in usable_ids(gpt2.tokenizer)


def test_special_ids_are_not_used(neox: LanguageModel) -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=neox.tokenizer.backend_tokenizer,
                                                     eos_token=neox.tokenizer.convert_ids_to_tokens(100))
    assert 100 not in usable_ids(tokenizer) and 101 in usable_ids(tokenizer)


# ---- measurements, against ours and against loops ---------------------------------------------------


@pytest.mark.parametrize("kind", ["neox", "gpt2"])
def test_losses(kind: str, windows: Windows, request, monkeypatch) -> None:
    lm, model = request.getfixturevalue(kind), ours({"neox": "rotary", "gpt2": "learned"}[kind])
    losses = scores.token_losses(lm, windows)
    assert same(losses, metrics.token_losses(model, windows))
    monkeypatch.setattr(scores, "LOGITS", 1)
    assert same(losses, scores.token_losses(lm, windows))
    probe = Alphabet.of(lm).ids[paper_probe(lm, Alphabet.of(lm))]
    expected, found = probes.repeats(model, probe, 4), scores.repeats(lm, Alphabet.of(lm))
    assert found == pytest.approx(expected, abs=1e-4)


def test_losses_by_kind_with_another_bos(gpt2: LanguageModel) -> None:
    """BOS is never a repeat, and id 0 is a token like any other."""
    windows = np.array([[IDS, 5, 0, 7, 5, 0, 7, 5, 9, IDS, 8, 0, 9]])
    losses = np.arange(12.0)[None]
    found = scores.losses_by_kind(gpt2, windows, losses)
    kinds = ["new"] * 4 + ["repeated"] * 3 + ["mismatch", "new", "new", "new", "mismatch"]
    assert found == {k: np.mean([x for x, kind in zip(losses[0], kinds, strict=True) if kind == k]) for k in set(kinds)}


def test_heads_agree_with_ours(neox: LanguageModel, windows: Windows) -> None:
    model, alphabet = ours("rotary"), Alphabet.of(neox)
    for probe in (paper_probe(neox, alphabet), random_probe(neox, alphabet)):
        expected = metrics.prefix_matching(model, alphabet.ids[probe])
        assert same(scores.prefix_matching(neox, alphabet, probe), expected) and np.ptp(expected) > 0.01
    assert same(scores.previous_token(neox, windows), metrics.previous_token(model, windows))
    assert same(scores.present_token(neox, windows), probes.present_token(model, windows))
    probe = paper_probe(neox, alphabet)
    assert same(scores.resting(neox, alphabet, probe), probes.resting(model, alphabet.ids[probe], 4))


def test_heads_agree_with_a_loop(gpt2: LanguageModel) -> None:
    """Prefix matching query by query, on the patterns of our model; BOS is id 320."""
    model, alphabet = ours("learned"), Alphabet.of(gpt2)
    probe = random_probe(gpt2, alphabet)[:3]
    ids = alphabet.ids[probe]
    caches, found = model.forward_with_cache(ids).patterns, np.zeros((2, 4))
    asked = 0
    for b, row in enumerate(ids.tolist()):
        for q in range(1, len(row)):
            before = [k for k in range(1, q) if row[k] == row[q]]
            asked += bool(before)
            for layer, pattern in enumerate(caches):
                found[layer] += sum(pattern[b, :, q, k + 1].numpy() for k in before) if before else 0
    assert same(scores.prefix_matching(gpt2, alphabet, probe), found / asked)
    previous = np.stack([[np.mean([p[h, q, q - 1] for q in range(1, 40)]) for h in range(4)] for p in (
        pattern[0].numpy() for pattern in model.forward_with_cache(ids[:1, :40]).patterns)])  # fmt: skip
    assert same(scores.previous_token(gpt2, ids[:1, :41].numpy()), previous)


@pytest.mark.parametrize("kind", ["neox", "gpt2"])
def test_copying_agrees_with_ours(kind: str, request) -> None:
    lm, model = request.getfixturevalue(kind), ours({"neox": "rotary", "gpt2": "learned"}[kind])
    alphabet = Alphabet.of(lm)
    often = np.repeat(alphabet.ids.numpy(), np.arange(len(alphabet.ids), 0, -1))  # ids in the order of the alphabet
    tokens = Tokens("probe", ROWS, often, often[:0], None, "", 0, 0)
    expected = metrics.copying(model, tokens, ranks=alphabet.ranks)
    assert same(scores.copying(lm, alphabet), expected) and np.ptp(expected) > 0.01


@pytest.mark.parametrize("kind", ["neox", "gpt2"])
def test_eigenvalues_agree_with_ours(kind: str, request) -> None:
    lm, model = request.getfixturevalue(kind), ours({"neox": "rotary", "gpt2": "learned"}[kind])
    expected = circuits.copying_statistic(model)
    assert same(scores.ov_copying(lm), expected, 1e-3) and np.ptp(expected) > 0.01


def test_an_unknown_architecture_has_no_copying(neox: LanguageModel, monkeypatch) -> None:
    monkeypatch.setattr(scores, "LAYERS", {})
    assert scores.copying(neox, Alphabet.of(neox)) is None and scores.ov_copying(neox) is None


def test_half_precision(place: Path, windows: Windows, neox: LanguageModel) -> None:
    half = load(str(place / "neox"), device="cpu", dtype="bfloat16")
    assert same(scores.token_losses(half, windows).mean(), scores.token_losses(neox, windows).mean(), 0.05)
    assert same(scores.copying(half, Alphabet.of(half)), scores.copying(neox, Alphabet.of(neox)), 0.1)


# ---- tables -----------------------------------------------------------------------------------------

QUICK = Reading(windows=6, n_ctx=32, heads=2)


@pytest.fixture(scope="module")
def family(place: Path) -> Path:
    """Three checkpoints in a folder with a name of Pythia's, and nothing else in it."""
    folder = place / "pythia-70m"
    for revision in ("step1000", "step0", "step143000"):
        shutil.copytree(place / "neox", folder / revision)
    return folder


def test_measure_once_and_go_on(place: Path, family: Path, tmp_path: Path, monkeypatch) -> None:
    reading, asked = replace(QUICK, corpus=f"path:{place}/texts/*"), []
    monkeypatch.setattr(stored, "load", lambda *of: asked.append(of[1]) or load(*of))
    steps = ["step1000", "step0", "step143000"]
    first = list(measure(str(family), steps, reading, device="cpu", folder=tmp_path))
    again = list(measure(str(family), steps, reading, device="cpu", folder=tmp_path))
    assert asked == steps and all(a["heads"].equals(b["heads"]) for a, b in zip(first, again, strict=True))
    (half,) = tmp_path.glob("pretrained/pythia-70m/*/step0/runs.parquet")
    half.unlink()  # as a killed process leaves it
    list(measure(str(family), steps, reading, device="cpu", folder=tmp_path))
    assert asked == [*steps, "step0"] and not list(tmp_path.rglob("*.part"))
    found = stored.read(tmp_path)
    assert {n: list(frame.columns) for n, frame in found.items()} == {n: list(c) for n, c in stored.SCHEMA.items()}
    run, snapshots = found["runs"].iloc[0], found["snapshots"]
    assert run[["name", "n_layers", "n_heads", "snapshots", "windows"]].tolist() == ["pythia-70m", 2, 4, 3, 6]
    assert run["tokens"] == open_models.PYTHIA_END == 299_892_736_000 and run["device"].endswith("float32")
    assert snapshots["revision"].tolist() == ["step0", "step1000", "step143000"]
    assert snapshots["tokens"].tolist() == [0, 2_097_152_000, 299_892_736_000]
    assert snapshots["snapshot"].tolist() == [0, 1, 2]
    assert len(found["heads"]) == 3 * 8 and len(found["positions"]) == 3 * 32
    shutil.copytree(half.parents[1] / "step143000", half.parents[1] / "main")  # the same checkpoint by another name
    assert stored.read(tmp_path)["snapshots"]["tokens"].tolist() == snapshots["tokens"].tolist()


def test_measured_values(place: Path, neox: LanguageModel) -> None:
    texts = held_out(f"path:{place}/texts/*")
    found = stored.measure_checkpoint(neox, texts, QUICK)
    windows = text_windows(neox, texts, 6, 32)
    losses, row = scores.token_losses(neox, windows), found["snapshots"].iloc[0]
    each = losses[:, 28:].mean(axis=1) - losses[:, 2:4].mean(axis=1)
    assert row["icl_nats"] == pytest.approx(each.mean())
    assert row["icl_se_nats"] == pytest.approx(each.std(ddof=1) / 6**0.5)
    assert row["icl_at_positions_nats"] == pytest.approx(losses[:, 31].mean() - losses[:, 3].mean())
    assert row["loss_nats"] == pytest.approx(losses.mean()) and np.isnan(row["tokens"])
    assert same(found["positions"]["loss_nats"].to_numpy(), losses.mean(axis=0))
    heads = found["heads"].set_index(["layer", "head"])["previous_token"]
    assert heads[1, 2] == pytest.approx(scores.previous_token(neox, windows[:2])[1, 2])


def test_other_text_is_another_run(place: Path, neox: LanguageModel, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(stored, "load", lambda *_: replace(neox, name="pythia-70m", revision="main"))
    for windows in (4, 6):
        reading = replace(QUICK, corpus=f"path:{place}/texts/*", windows=windows)
        list(measure("pythia-70m", ["main"], reading, folder=tmp_path))
    found = stored.read(tmp_path)
    assert found["runs"]["windows"].tolist() in ([4, 6], [6, 4]) and found["runs"]["run_id"].nunique() == 2
    assert [zoo.run("pythia-70m", 0).run["windows"] for zoo in zoos(found)] == [6, 4]


def test_pack_and_known(place: Path, family: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(stored, "SHIPPED", tmp_path / "package")
    assert stored.pack(tmp_path) == 0 and len(stored.known(tmp_path)["runs"]) == 0
    reading = replace(QUICK, corpus=f"path:{place}/texts/*")
    list(measure(str(place / "gpt2"), ["main"], reading, device="cpu", folder=tmp_path))
    assert stored.pack(tmp_path) == 1
    shipped = stored.shipped()
    assert shipped["runs"]["name"].tolist() == ["gpt2"] and shipped["runs"]["tokens"].isna().all()
    assert len(stored.known(tmp_path)["heads"]) == len(stored.known(tmp_path / "none")["heads"]) == 8
    (damaged,) = tmp_path.glob("pretrained/*/*/main/heads.parquet")
    damaged.write_bytes(b"PAR1 no more")
    with pytest.raises(IctlError, match=r"heads.parquet cannot be read .*; delete .*main and measure again"):
        stored.read(tmp_path)
    pd.DataFrame({"layer": [0]}).to_parquet(damaged)
    with pytest.raises(IctlError, match=r"table 'heads' lacks the column .* in .*main; delete that folder"):
        stored.read(tmp_path)


def test_another_model_of_the_same_name_is_another_run(place: Path, tmp_path: Path) -> None:
    reading, loss = replace(QUICK, corpus=f"path:{place}/texts/*"), {}
    for owner, kind in (("a", "neox"), ("b", "gpt2")):
        shutil.copytree(place / kind, tmp_path / owner / "model")
    for _ in range(2):
        for owner in "ab":
            (found,) = measure(str(tmp_path / owner / "model"), ["main"], reading, device="cpu", folder=tmp_path)
            loss.setdefault(owner, []).append(found["snapshots"]["loss_nats"].iloc[0])
    assert loss["a"][0] == loss["a"][1] != loss["b"][0] == loss["b"][1]
    runs = stored.read(tmp_path)["runs"]
    assert runs["name"].tolist() == ["model"] * 2 and runs["run_id"].nunique() == 2 and runs["settings"].nunique() == 1


def test_another_precision_is_another_run(place: Path, tmp_path: Path) -> None:
    reading, found = replace(QUICK, corpus=f"path:{place}/texts/*"), {}
    for dtype in ("bfloat16", "float32", "bfloat16"):
        (found[dtype],) = measure(str(place / "neox"), ["main"], reading, device="cpu", dtype=dtype, folder=tmp_path)
        assert found[dtype]["snapshots"]["device"].iloc[0].endswith(dtype)
    assert found["bfloat16"]["snapshots"]["loss_nats"].iloc[0] != found["float32"]["snapshots"]["loss_nats"].iloc[0]
    assert len(stored.read(tmp_path)["runs"]) == 2 == len(zoos(stored.read(tmp_path)))


def test_changed_files_are_measured_again(place: Path, tmp_path: Path, monkeypatch) -> None:
    reading, model, loaded = replace(QUICK, corpus=f"path:{place}/texts/*"), tmp_path / "model", []
    monkeypatch.setattr(stored, "load", lambda *of: loaded.append(of[1]) or load(*of))
    shutil.copytree(place / "neox", model)
    for kind in ("neox", "neox", "gpt2", "gpt2"):
        for file in (place / kind).iterdir() if kind == "gpt2" and len(loaded) == 1 else ():
            (model / file.name).write_bytes(file.read_bytes())
        (found,) = measure(str(model), ["main"], reading, device="cpu", folder=tmp_path)
        assert found["runs"]["positions"].iloc[0] == {"neox": "rotary", "gpt2": "learned"}[kind]
    assert loaded == ["main", "main"] and len(stored.read(tmp_path)["runs"]) == 1


def test_what_was_measured_before_is_still_read(place: Path, tmp_path: Path) -> None:
    reading = replace(QUICK, corpus=f"path:{place}/texts/*")
    list(measure(str(place / "neox"), ["main"], reading, device="cpu", folder=tmp_path))
    (now,) = tmp_path.glob("pretrained/neox/*/main")
    settings = stored.read(tmp_path)["runs"]["settings"].iloc[0]
    (now / stored.FILES).unlink()
    now.parent.rename(now.parents[1] / settings)  # as folders were named
    assert stored.read(tmp_path)["runs"]["run_id"].tolist() == [f"neox-{settings}"]


def test_the_longer_run_is_known(place: Path, family: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(stored, "SHIPPED", tmp_path / "package")
    reading = replace(QUICK, corpus=f"path:{place}/texts/*")
    list(measure(str(family), ["step0", "step1000"], reading, device="cpu", folder=tmp_path))
    assert stored.pack(tmp_path) == 1
    shutil.copytree(place / "neox", tmp_path / "pythia-70m")
    list(measure(str(tmp_path / "pythia-70m"), ["main"], reading, device="cpu", folder=tmp_path / "own"))
    assert stored.known(tmp_path / "own")["snapshots"]["revision"].tolist() == ["step0", "step1000"]
    list(measure(str(family), ["step0", "step143000"], reading, device="cpu", folder=tmp_path / "own"))
    found = stored.known(tmp_path / "own")
    assert sorted(found["snapshots"]["revision"]) == ["main", "step0", "step143000"]
    assert found["runs"]["run_id"].is_unique and set(found["heads"]["run_id"]) == set(found["runs"]["run_id"])


# ---- mistakes ---------------------------------------------------------------------------------------


@pytest.fixture
def ictl(monkeypatch: pytest.MonkeyPatch, capfd):
    """Run ``ictl ...`` in this process; returns exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["ictl", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
            raise SystemExit(0)
        out, err = capfd.readouterr()
        return done.value.code or 0, out, err

    return run


def test_command_line(ictl, place: Path, family: Path, tmp_path: Path) -> None:
    texts = ("--corpus", f"path:{place}/texts/*", "--windows", 4, "--n-ctx", 32, "--device", "cpu", "--out", tmp_path)
    code, out, _ = ictl("pretrained", family, "--revisions", "step0,step1000", *texts)
    lines = out.strip().splitlines()
    assert code == 0 and [line.split(":")[0] for line in lines] == ["pythia-70m step0", "pythia-70m step1000"]
    assert "4 windows, loss" in lines[0] and "best prefix matching" in lines[0]


def mistakes(family: Path) -> list[tuple[tuple[object, ...], str]]:
    return [
        ((family, "--revisions", "step512"), "has no folder 'step512' with that checkpoint"),
        ((family, "--revisions", "step0,last"), "revision='last' is none of Pythia's; use main, or step0 to step14"),
        ((family,), "pythia-70m at revision 'main' could not be loaded"),  # no model in the folder itself
        (("./nowhere",), "./nowhere is no folder; expected a folder with config.json"),
        (("pythia-410m", "--dtype", "int8"), "dtype='int8' is not known; choose one of float32, bfloat16, float16"),
        (("pythia-410m", "--corpus", "novels"), "corpus='novels' is not known"),
        ((family / "step0", "--n-ctx", "512"), "n_ctx=512 does not fit step0; choose from 16 to 160 tokens"),
    ]


@pytest.mark.parametrize("i", range(7))
def test_mistakes_are_one_sentence(ictl, place: Path, family: Path, tmp_path: Path, i: int) -> None:
    arguments, words = mistakes(family)[i]
    texts = () if "--corpus" in arguments else ("--corpus", f"path:{place}/texts/*")
    code, out, err = ictl("pretrained", *arguments, *texts, "--device", "cpu", "--out", tmp_path)
    assert code == 2 and words in err and "Traceback" not in err and not out
    assert err.strip().splitlines()[-1].startswith("ictl: ") and not list(tmp_path.rglob("*.parquet"))


def test_what_is_missing_is_said(place: Path, monkeypatch) -> None:
    def unreachable(*_, **__):
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files.\nMore lines.")

    with monkeypatch.context() as patch:
        patch.setattr(transformers.AutoConfig, "from_pretrained", unreachable)
        with pytest.raises(IctlError, match="^pythia-70m at revision 'step0' is not in the cache, and huggingface.co "
                                            "cannot be reached; run this where there is a network, or give a folder"):
            load("pythia-70m", "step0")
    with monkeypatch.context() as patch:
        patch.setattr(open_models, "free_memory", lambda _: 1e3)
        with pytest.raises(IctlError, match=r"needs about 0\.0 GB on cpu in float32, and 0\.0 GB are free; try bf"):
            load(str(place / "neox"), device="cpu")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "transformers", None)
        with pytest.raises(IctlError, match=r'transformers is needed .*pip install "ictl-utils\[tl\]"'):
            load(str(place / "neox"))
    with pytest.raises(IctlError, match="pythia-70m does not fit into memory in bfloat16; take a smaller model"):
        with open_models.fits("pythia-70m", "bfloat16"):
            raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(IctlError, match="does not fit into memory in float32; try bfloat16, or take a smaller model"):
        with open_models.fits("pythia-70m", "float32"):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
    with pytest.raises(RuntimeError, match="shapes"), open_models.fits("pythia-70m", "float32"):
        raise RuntimeError("shapes do not fit")


def test_models_that_do_not_fit_together(place: Path, tmp_path: Path) -> None:
    for change, words in (({"eos_token": None}, "neither a BOS nor an EOS"), ({}, "has 340 ids, its model only 336")):
        folder = tmp_path / f"odd{len(change)}"
        shutil.copytree(place / "neox", folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        if change:
            file = folder / "tokenizer_config.json"
            file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "eos_token"}))
        else:
            tokenizer.add_tokens([f"<more {i}>" for i in range(20)])
            tokenizer.save_pretrained(folder)
        with pytest.raises(IctlError, match=words):
            load(str(folder), device="cpu")


def test_names_and_sources(family: Path) -> None:
    assert open_models.source("pythia-1b", "step5") == ("EleutherAI/pythia-1b", {"revision": "step5"})
    assert open_models.source("gpt2-xl") == ("gpt2-xl", {"revision": "main"})
    assert open_models.source(str(family), "step0") == (str(family / "step0"), {})
    names = ("EleutherAI/pythia-1b", "openai-community/gpt2-xl", "a/b", str(family))
    assert [open_models.short_name(n) for n in names] == ["pythia-1b", "gpt2-xl", "a--b", "pythia-70m"]
    assert open_models.tokens_of("pythia-1b", "step512") == 512 * 2**21 and np.isnan(open_models.tokens_of("gpt2", "x"))
    assert open_models.PYTHIA_TRAINING[:3] == (0, 1, 2) and open_models.PYTHIA_TRAINING[-1] == 143_000


# ---- numbers of claims, on tables made up -----------------------------------------------------------

END = open_models.PYTHIA_END
X = np.linspace(0, 1, 201)
PARAMETERS = dict(zip(PYTHIA, (7e7, 1.6e8, 4.1e8, 1.01e9, 1.4e9, 2.8e9, 6.9e9), strict=True))
EDGE = 0.02 * 1.0364  # by how much the window of a ramp begins before it


def make(names: tuple[str, ...] = PYTHIA, icl=lambda i: [0, 0, -1, -1], at=lambda i: -0.5 + 0.01 * (i % 3),
         losses=lambda i: np.linspace(5 - 0.1 * i, 4 - 0.11 * i, 600), loss=lambda i: [5, 4, 3, 2],
         heads=lambda i: [(0, 0.9, 0.5)], tokens: np.ndarray = X[[0, 20, 40, 200]] * END, settings: str = "s",
         windows: int = 100) -> dict[str, pd.DataFrame]:
    """Tables of models: score over training, score at 500 and 50, loss by position and over training, heads.

    Heads are layer, prefix matching and copying; every model has four layers of two heads.
    """
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in stored.SCHEMA}
    for i, name in enumerate(names):
        run, n = f"{name}-{settings}", len(tokens)
        about = dict.fromkeys(stored.SCHEMA["runs"], "") | {
            "run_id": run, "name": name, "settings": settings, "windows": windows, "n_ctx": len(losses(i)),
            "init_seed": 0, "data_seed": 0, "n_layers": 4, "n_heads": 2, "parameters": PARAMETERS.get(name, 1e9)}
        parts["runs"].append(pd.DataFrame([about]))
        parts["snapshots"].append(pd.DataFrame({
            "run_id": run, "snapshot": range(n), "tokens": tokens, "loss_nats": loss(i), "icl_nats": icl(i),
            "icl_at_positions_nats": at(i)}))
        parts["positions"].append(pd.DataFrame({"run_id": run, "snapshot": n - 1, "position": range(len(losses(i))),
                                                "loss_nats": losses(i)}))
        grid = np.zeros((n, 4, 2)), np.zeros((n, 4, 2))
        for j, (layer, prefix, copying) in enumerate(heads(i)):
            grid[0][-1, layer, j % 2], grid[1][-1, layer, j % 2] = prefix, copying
        snapshot, layer, head = (x.ravel() for x in np.indices((n, 4, 2)))
        parts["heads"].append(pd.DataFrame({"run_id": run, "snapshot": snapshot, "layer": layer, "head": head,
                                            "prefix_matching": grid[0].ravel(), "copying": grid[1].ravel()}))
        parts["token_losses"].append(pd.DataFrame({"run_id": run, "snapshot": range(n)}))
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}


@pytest.fixture(scope="module")
def made() -> dict[str, pd.DataFrame]:
    return make()


def numbers(claim: str, tables: dict[str, pd.DataFrame]) -> dict[str, float]:
    (zoo,) = zoos(tables)
    return PRETRAINED[claim](zoo).loc[0].to_dict()


def test_each_claim_has_its_numbers(made) -> None:
    away = {c.id: c for c in load_claims() if not c.testable}
    assert set(PRETRAINED) <= set(away) and not set(PRETRAINED) & set(NUMBERS)
    assert set(away) - set(PRETRAINED) == {"D02", "D03", "D04"}  # these need prompts
    for name in PRETRAINED:
        assert list(numbers(name, made)) == list(away[name].numbers)
        assert set(away[name].models) == set(LARGE if name == "E06" else PYTHIA)


def test_a06_and_its_verdicts() -> None:
    scores_of = [-0.5, -0.4, -0.45, -0.5, -0.42, -0.44, -0.5]
    found = numbers("A06", make(at=lambda i: scores_of[i]))
    assert found["spread"] == pytest.approx(0.1 / np.mean(np.abs(scores_of))) and found["trend"] < 0.9
    growing = numbers("A06", make(at=lambda i: -0.2 - 0.1 * i))
    assert growing == pytest.approx({"spread": 0.6 / 0.5, "trend": 1})
    (zoo,) = zoos(make(losses=lambda i: np.linspace(5, 4, 500)))  # token 500 is not there
    assert PRETRAINED["A06"](zoo).empty


def test_e06_e07() -> None:
    large = [(1, 0.9, 0.5), (2, 0.45, -0.9), (3, 0.39, 0.0)]
    found = numbers("E06", make(heads=lambda i: large if i >= 3 else [(3, 0.9, 0.5)]))
    assert found == {"depth": pytest.approx(0.375)}  # layers 1 and 2 of four
    anti = [(1, 0.9, -0.5), (2, 0.6, 0.1), (3, 0.49, -0.2)]
    assert numbers("E07", make(heads=lambda i: anti if i in (3, 6) else [])) == {"large": 2, "small": 0}
    assert numbers("E07", make(heads=lambda i: anti if i == 0 else [])) == {"large": 0, "small": 1}
    assert np.isnan(numbers("E06", make(heads=lambda i: []))["depth"])
    assert np.isnan(numbers("E07", make(heads=lambda i: [(0, 0.9, float("nan"))]))["small"])


def test_e09_e10() -> None:
    position = np.arange(600)
    found = numbers("E09", make(losses=lambda i: 6 - 0.1 * i * np.minimum(position / 20, 1.0)))
    ramp = np.minimum(position / 20, 1.0)
    assert found == {"share": pytest.approx(0.5 / ramp.mean())}
    flat = make(losses=lambda i: 6 - 0.1 * i - 0.1 * np.log1p(position))
    assert numbers("E10", flat)["apart"] == pytest.approx(0, abs=1e-9)
    fanned = make(losses=lambda i: 6 - 0.1 * (i + 1) * (position / 599))
    assert numbers("E10", fanned) == pytest.approx({"apart": 0.6 * 589 / 599, "trend": 1})


def test_a17() -> None:
    flat = {"tokens": X * END, "loss": lambda i: 5 - X}
    found = numbers("A17", make(icl=lambda i: np.interp(X, (0.1 + 0.01 * i, 0.2 + 0.01 * i), (0, -1)), **flat))
    assert found["onset_min"] == pytest.approx((0.1 - EDGE) * END / 300e9, abs=0.002)
    assert found["onset_max"] == pytest.approx((0.16 - EDGE) * END / 300e9, abs=0.002)
    early = np.interp(X, (0.005, 0.01), (0, -1))
    found = numbers("A17", make(icl=lambda i: early, **flat))
    assert found["onset_min"] == 0  # too early for the registered smoothing


@pytest.mark.parametrize("flip", [40, 100])
def test_e11(flip: int) -> None:
    tokens = np.concatenate([[0], np.geomspace(1e9, END, 200)])

    def loss(i: int) -> np.ndarray:
        slope = np.where(np.arange(1, 200) < flip, -0.3 + 0.01 * i, -0.3 - 0.01 * i)
        slope[3] = -0.3 - 0.05 * i  # one interval against the rest: not the change
        return np.concatenate([[9, 8], 8 + np.cumsum(slope * np.diff(np.log(tokens[1:])))])

    tables = make(tokens=tokens, loss=loss, icl=lambda i: np.interp(tokens / END, (0.3, 0.5), (0, -1)))
    found = numbers("E11", tables)
    assert found["flip"] == 1
    assert found["ratio"] == pytest.approx(tokens[flip] / ((0.3 - EDGE) * END), rel=0.02)
    same_order = make(tokens=tokens, icl=lambda i: tokens, loss=lambda i: -(0.1 + 0.01 * i) * np.log1p(tokens))
    assert numbers("E11", same_order) == {"flip": 0, "ratio": np.inf}


def test_nothing_is_judged_unless_all_is_measured(made) -> None:
    six = make(PYTHIA[1:])
    unfinished = make(tokens=X[[0, 20, 40, 100]] * END)
    started_late = make(tokens=X[[10, 20, 40, 200]] * END)
    (zoo,), (short,), (late,) = zoos(six), zoos(unfinished), zoos(started_late)
    assert [name for name in PRETRAINED if len(PRETRAINED[name](zoo))] == ["E06"]
    assert [name for name in PRETRAINED if len(PRETRAINED[name](short))] == []
    assert [name for name in PRETRAINED if not len(PRETRAINED[name](late))] == ["A17", "E11"]
    apart = {n: pd.concat([a, b]) for (n, a), b in zip(make(PYTHIA[:3]).items(),
                                                       make(LARGE, settings="t").values(), strict=True)}
    assert [name for zoo in zoos(apart) for name in PRETRAINED if len(PRETRAINED[name](zoo))] == ["E06"]


def test_verdicts(made) -> None:
    nothing = {name: pd.DataFrame(columns=list(SCHEMA[name])) for name in ("runs", *PER_RUN)}
    away = [c.id for c in load_claims() if not c.testable]

    def judged(tables: dict[str, pd.DataFrame]) -> dict[str, object]:
        return {j.claim.id: j for j in judge_zoo(nothing, {}, only=away, pretrained=tables)}

    before = judged(stored._joined([]))
    assert {j.word for j in before.values()} == {"not testable here"}
    assert all("Needs" in j.verdict.how_to_test for j in before.values())
    after = judged(made)
    assert after["A06"].word == "reproduced" and after["A06"].verdict.n_seeds == 1
    assert after["E07"].word == "contradicted" and after["E06"].word == "reproduced"
    assert {name for name, j in after.items() if j.word == "not testable here"} == {"D02", "D03", "D04"}
    quick = make(at=lambda i: -0.1 * i, settings="quick", windows=4)  # less text: does not count
    both = {n: pd.concat([quick[n], made[n]], ignore_index=True) for n in made}
    assert judged(both)["A06"].word == "reproduced" and judged(quick)["A06"].word == "contradicted"
    undefined = judged(make(heads=lambda i: []))["E06"]
    assert undefined.word == "not testable here" and "depth of seed 0 is NaN" in undefined.why
    assert "no verdict: claim E06: depth of seed 0 is NaN" in report([undefined], "E06")
