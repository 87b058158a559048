"""Surveys of tiny trained runs, number by number against slow direct computations."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from ictl_utils import idealised, metrics
from ictl_utils import survey as surveying
from ictl_utils.ablations import losses_without, random_matched_sets
from ictl_utils.circuits import composition_baseline, composition_scores
from ictl_utils.circuits_paths import layer_split, term_importance
from ictl_utils.circuits_scores import qk_terms, qk_variance_shares
from ictl_utils.circuits_trigrams import bigram_kl
from ictl_utils.config import IctlError, ModelConfig, TrainConfig
from ictl_utils.measure import measure as history_of
from ictl_utils.snapshots import Run, write_manifest
from ictl_utils.survey import QUICK, TABLES, chosen_positions, is_surveyed, survey, tables_folder, texts
from ictl_utils.survey_facts import CONTROLS, Roles
from ictl_utils.tables import FACTS, OPTIONAL, SCHEMA
from ictl_utils.tokens import BOS, Tokens, eval_windows, load_tokens
from ictl_utils.train import train

N_CTX = 32
EFFORT = replace(QUICK, icl=24, losses=16, heads=6, ablations=6, fills=2, trained=128)
MODEL = ModelConfig(n_layers=2, d_model=32, n_heads=2, n_ctx=N_CTX)
FOLDER: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def small_corpus(tmp_path_factory: pytest.TempPathFactory):
    """Words over many letters, so that most ids occur; few a document, so that they repeat."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("corpus")
    letters = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
    words = ["".join(rng.choice(letters, rng.integers(2, 7))) for _ in range(8000)]
    for i in range(600):
        (folder / f"{i}.txt").write_text(" ".join(rng.choice(rng.choice(words, 12), 100)))
    FOLDER.append(str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICTL_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory):
    """Train a model of the given layers and changes once; the run."""
    made: dict[str, Run] = {}
    out = tmp_path_factory.mktemp("runs")

    def make(**changes) -> Run:
        key = str(changes)
        if key not in made:
            cfg = TrainConfig(f"path:{FOLDER[0]}/*.txt", tokens=40 * 4 * N_CTX, batch=4, snapshots=6, warmup=5)
            made[key] = train(replace(MODEL, **changes), cfg, out, device="cpu")
        return made[key]

    return make


@pytest.fixture(scope="module")
def run(runs) -> Run:
    return runs()


@pytest.fixture(scope="module")
def found(run: Run) -> dict[str, pd.DataFrame]:
    return survey(run, EFFORT)


@pytest.fixture(scope="module")
def tokens(run: Run) -> Tokens:
    return load_tokens(run.train_cfg.corpus)


def test_damaged_tables_and_parts_are_named(run: Run, found: dict[str, pd.DataFrame], tmp_path) -> None:
    copy = Run(shutil.copytree(run.path, tmp_path / run.run_id))
    path = tables_folder(copy, EFFORT) / "heads.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(IctlError, match=r"heads.parquet is damaged .*; delete .* and measure again"):
        survey(copy, EFFORT)


def slow_losses(model, windows: np.ndarray) -> np.ndarray:
    ids = torch.from_numpy(windows)
    logits = model(ids[:, :-1])
    return -logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0].numpy()


def slow_prefix(model, probe: torch.Tensor) -> np.ndarray:
    patterns = model.forward_with_cache(probe).patterns
    out = np.zeros((model.cfg.n_layers, model.cfg.n_heads))
    for layer, head in np.ndindex(out.shape):
        hits = []
        for b, row in enumerate(probe.tolist()):
            for i, token in enumerate(row):
                after = [j + 1 for j in range(i) if row[j] == token and token != BOS]
                if after:
                    hits.append(float(patterns[layer][b, head, i, after].sum()))
        out[layer, head] = np.mean(hits)
    return out


def at_last(table: pd.DataFrame, column: str, shape: tuple[int, ...]) -> np.ndarray:
    """A column at the last snapshot, in the order of layers and heads."""
    rows = table[table["snapshot"] == table["snapshot"].max()].sort_values(["layer", "head"])
    return rows[column].to_numpy(float).reshape(shape)


def test_texts_are_the_held_out_windows_each_once(tokens: Tokens) -> None:
    some, rest = texts(tokens, N_CTX, EFFORT)
    assert len(some) == EFFORT.losses and len(rest) == EFFORT.icl - EFFORT.losses
    expected = eval_windows(tokens, EFFORT.icl, N_CTX)
    assert sorted(map(tuple, np.concatenate([some, rest]))) == sorted(map(tuple, expected))


def test_chosen_positions() -> None:
    at = chosen_positions(128)
    late, early = metrics.icl_ranges(128)
    assert (np.diff(at) > 0).all() and {*range(*late), *range(*early)} <= set(at.tolist())
    assert len(at) == late[1] - late[0] + early[1] - early[0] + 8 and at[0] >= 0 and at[-1] == 127


@pytest.mark.parametrize("i", [2, -1])
def test_snapshots_and_losses(run: Run, found, tokens: Tokens, i: int) -> None:
    some, rest = texts(tokens, N_CTX, EFFORT)
    i = i % len(run)
    losses, more = slow_losses(run.model(i), some), slow_losses(run.model(i), np.concatenate([some, rest]))
    row = found["snapshots"].query("snapshot == @i").iloc[0]
    score = metrics.icl_score(more)
    assert row["tokens"] == run.tokens[i] and row["loss_nats"] == pytest.approx(losses.mean(), abs=1e-5)
    assert row["icl_nats"] == pytest.approx(score.value, abs=1e-5)
    assert row["icl_se_nats"] == pytest.approx(score.se, abs=1e-5)
    assert row["icl_at_positions_nats"] == pytest.approx(float((losses[:, 31] - losses[:, 3]).mean()), abs=1e-5)
    positions = found["positions"].query("snapshot == @i")
    np.testing.assert_allclose(positions["loss_nats"], losses.mean(0), atol=1e-5)
    assert positions["position"].tolist() == list(range(N_CTX))
    each = found["token_losses"].query("snapshot == @i").iloc[0]["losses_nats"]
    assert len(each) == len(losses)
    assert all(np.abs(losses[n] - x).min() < 5e-3 for n, x in enumerate(each))  # half precision


def test_losses_by_kind_and_repeats(run: Run, found, tokens: Tokens) -> None:
    some, model = texts(tokens, N_CTX, EFFORT)[0], run.model()
    losses, kinds = slow_losses(model, some), {"new": [], "repeated": [], "mismatch": []}
    for row, each in zip(some.tolist(), losses, strict=True):
        for i in range(N_CTX):
            after = [row[j + 1] for j in range(i) if row[j] == row[i] != BOS]
            kinds["new" if not after else "repeated" if row[i + 1] in after else "mismatch"].append(each[i])
    last = found["snapshots"].iloc[-1]
    for kind, values in kinds.items():
        assert last[f"loss_{kind}_nats"] == pytest.approx(np.mean(values), abs=1e-5)
    probe = metrics.repeated_blocks(tokens, length=7, repeats=4)
    on_probe = slow_losses(model, probe.numpy())
    assert last["repeats_first_nats"] == pytest.approx(on_probe[:, 1:7].mean(), abs=1e-5)
    assert last["repeats_second_nats"] == pytest.approx(on_probe[:, 8:14].mean(), abs=1e-5)
    right = model(probe[:, :-1]).argmax(-1) == probe[:, 1:]
    assert last["repeats_accuracy"] == pytest.approx(float(right[:, 15:21].float().mean()))


def test_heads(run: Run, found, tokens: Tokens) -> None:
    model, heads = run.model(), found["heads"]
    blocks, gaps = metrics.repeated_blocks(tokens, length=7), metrics.random_blocks(tokens, N_CTX)
    np.testing.assert_allclose(at_last(heads, "prefix_matching", (2, 2)), slow_prefix(model, blocks), atol=1e-5)
    np.testing.assert_allclose(at_last(heads, "prefix_random", (2, 2)), slow_prefix(model, gaps), atol=1e-5)
    text = torch.from_numpy(texts(tokens, N_CTX, EFFORT)[0][: EFFORT.heads, :-1])
    patterns = torch.stack(model.forward_with_cache(text).patterns)  # [layer, window, head, query, key]
    i = torch.arange(1, N_CTX)
    for column, key in (("previous_token", i - 1), ("present_token", i)):
        np.testing.assert_allclose(at_last(heads, column, (2, 2)), patterns[..., i, key].mean((1, 3)), atol=1e-5)
    resting = torch.stack(model.forward_with_cache(blocks[:, :8]).patterns)[..., 1:, 0].mean((1, 3))
    np.testing.assert_allclose(at_last(heads, "resting", (2, 2)), resting, atol=1e-5)
    np.testing.assert_allclose(at_last(heads, "copying", (2, 2)), metrics.copying(model, tokens), atol=1e-5)
    x = torch.nn.functional.layer_norm(model.W_E, (32,)).double()
    for head, value in enumerate(at_last(heads, "ov_copying", (2, 2))[0]):
        written = x * model.ln1[0].double() @ (model.W_V[0, head] @ model.W_O[0, head]).double()
        full = (written - written.mean(1, keepdim=True)) * model.ln_final.double() @ model.W_U.double()
        eigenvalues = torch.linalg.eigvals(full - full.mean(1, keepdim=True))
        assert value == pytest.approx(float(eigenvalues.real.sum() / eigenvalues.abs().sum()), abs=1e-3)
    assert np.isnan(at_last(heads, "qk_trace", (2, 2))[0]).all() and len(heads) == 4 * len(run)


def test_composition(run: Run, found) -> None:
    model, table = run.model(), found["composition"]
    last = table[table["snapshot"] == len(run) - 1]
    assert sorted(zip(last["from_layer"], last["from_head"], last["to_layer"], last["to_head"], strict=True)) == [
        (0, 0, 1, 0), (0, 0, 1, 1), (0, 1, 1, 0), (0, 1, 1, 1)]  # fmt: skip
    centre = torch.eye(32) - 1 / 32
    for row in last.itertuples():
        gain = torch.diag(model.ln1[1])
        W_OV = centre @ torch.diag(model.ln1[0]) @ model.W_V[0, row.from_head] @ model.W_O[0, row.from_head] @ centre
        W_Q, W_K, W_V = (centre @ gain @ w[1, row.to_head] for w in (model.W_Q, model.W_K, model.W_V))
        for kind, M in (("q", W_Q @ W_K.T), ("k", W_K @ W_Q.T), ("v", W_V @ model.W_O[1, row.to_head] @ centre)):
            expected = float((W_OV @ M).norm() / W_OV.norm() / M.norm())
            assert getattr(row, kind) == pytest.approx(expected, abs=1e-4), kind


def test_ablations(run: Run, found, tokens: Tokens) -> None:
    few, at = texts(tokens, N_CTX, EFFORT)[0][: EFFORT.ablations], chosen_positions(N_CTX)
    late, early = metrics.icl_ranges(N_CTX)
    table, icl = found["ablations"], found["snapshots"]["icl_nats"].to_numpy()
    window = metrics.phase_change(run.tokens, icl)
    ends = [int(np.argmin(np.abs(run.tokens - t))) for t in (window.start, window.end)]
    if ends[0] == ends[1]:
        ends = [max(ends[0] - 1, 0), min(ends[1] + 1, len(run) - 1)]
    before, after = (slow_losses(run.model(i), few)[:, at] for i in ends)
    vector = (after - before) / np.linalg.norm(after - before)
    i = len(run) - 1
    model = run.model(i)
    intact = slow_losses(model, few)
    rows = table[table["snapshot"] == i]
    assert len(rows) == 4 * 2 * 3 and len(rows.drop_duplicates(["layer", "head", "kind", "fill"])) == len(rows)
    for row in rows.itertuples():
        change = losses_without(model, few, [(row.layer, row.head)], row.kind, fill=row.fill) - intact
        each = change[:, slice(*late)].mean(1) - change[:, slice(*early)].mean(1)
        assert row.icl_change_nats == pytest.approx(each.mean(), abs=1e-5)
        assert row.icl_change_se_nats == pytest.approx(each.std(ddof=1) / len(each) ** 0.5, abs=1e-5)
        assert row.loss_change_nats == pytest.approx(change[:, at].mean(), abs=1e-5)
        assert row.attribution_nats == pytest.approx((change[:, at] * vector).sum(), abs=1e-4)
    filled = table.groupby("snapshot")["fill"].nunique()
    assert filled.tolist() == [3 if i % EFFORT.fills == 0 or i == len(run) - 1 else 1 for i in range(len(run))]


def test_a_change_between_two_snapshots_still_has_a_direction(run: Run, tokens: Tokens) -> None:
    surveyor = surveying._Surveyor(run, tokens, EFFORT)
    for i, t in enumerate(run.tokens):
        vector = surveyor.change(metrics.Window(t - 1, t + 1, t, (t - 1, t + 1)))
        before, after = (metrics.token_losses(run.model(j), surveyor.few)[:, surveyor.at]
                         for j in (max(i - 1, 0), min(i + 1, len(run) - 1)))  # fmt: skip
        np.testing.assert_allclose(vector * np.linalg.norm(after - before), after - before, atol=1e-5)
        assert np.linalg.norm(vector) == pytest.approx(1)


def fact(found, measure: str, item: str = "") -> float:
    rows = found["facts"].query("measure == @measure and item == @item")
    assert len(rows) == 1 and rows["snapshot"].iloc[0] == found["snapshots"]["snapshot"].max()
    return float(rows["value"].iloc[0])


def test_facts_of_two_layers(run: Run, found, tokens: Tokens) -> None:
    model, few = run.model(), texts(tokens, N_CTX, EFFORT)[0][: EFFORT.ablations]
    roles = Roles.of(at_last(found["heads"], "prefix_matching", (2, 2)),
                     at_last(found["heads"], "previous_token", (2, 2)))  # fmt: skip
    assert fact(found, "induction_heads") == len(roles.induction)
    intact = metrics.token_losses(model, few)
    for kind in ("full", "pattern-preserving"):
        change = losses_without(model, few, roles.induction, kind) - intact
        item = f"{kind}, induction"
        assert fact(found, "joint_loss_change_nats", item) == pytest.approx(change.mean(), abs=1e-5)
        assert fact(found, "joint_icl_change_nats", item) == pytest.approx(metrics.icl_score(change).value, abs=1e-5)
    mask = torch.ones(2, 2)
    mask[roles.previous] = 0
    probe = metrics.repeated_blocks(tokens, length=7)
    after = metrics.prefix_matching(model, probe, mask)
    layer, head = roles.in_layer(1, metrics.prefix_matching(model, probe))[0]
    assert fact(found, "prefix_without_previous", f"L{layer}H{head}") == pytest.approx(after[layer, head], abs=1e-5)
    both = [("first given second", "second alone"), ("second given first", "first alone")]
    sums = [fact(found, "layer_gain_nats", a) + fact(found, "layer_gain_nats", b) for a, b in both]
    assert sums[0] == pytest.approx(sums[1], abs=1e-6)  # two ways round from no layer to both
    buggy = found["facts"].query("measure == 'composition_k_buggy'")
    assert sorted(buggy["item"]) == ["L0H0 L1H0", "L0H0 L1H1", "L0H1 L1H0", "L0H1 L1H1"]


def test_facts_are_what_their_names_say(run: Run, found, tokens: Tokens) -> None:
    """Each against the function that computes it alone, so that no two are exchanged."""
    model, few = run.model(), texts(tokens, N_CTX, EFFORT)[0][: EFFORT.ablations]
    roles = Roles.of(at_last(found["heads"], "prefix_matching", (2, 2)),
                     at_last(found["heads"], "previous_token", (2, 2)))  # fmt: skip
    expected = {("recovered", "previous"): idealised.recovered(
        model, few, [roles.previous], idealised.previous_token_pattern)}  # fmt: skip
    for item, pattern in (("match", "literal_match"), ("two-token match", "two_token_match")):
        pattern = getattr(idealised, f"{pattern}_pattern")
        expected["recovered", item] = idealised.recovered(model, few, roles.induction, pattern)
    for order, gain in enumerate(term_importance(model, few).gains):
        expected["term_gain_nats", f"order {order}"] = gain
    for item, buggy in (("right", False), ("buggy", True)):
        random = composition_baseline(model.cfg, buggy=buggy)
        expected["composition_random_mean", item], expected["composition_random_sd", item] = random.mean, random.sd
    scores, right = (composition_scores(model, buggy=buggy) for buggy in (True, False))
    for kind in "qkv":
        expected[f"composition_{kind}_buggy", "L0H1 L1H0"] = getattr(scores, kind)[0, 1, 1, 0]
        assert getattr(scores, kind)[0, 1, 1, 0] != getattr(right, kind)[0, 1, 1, 0]
    controls = random_matched_sets(roles.induction, (2, 2), CONTROLS)
    intact = metrics.token_losses(model, few)
    change = losses_without(model, few, controls[-1], "full") - intact
    expected["joint_icl_change_nats", f"full, control {len(controls) - 1}"] = metrics.icl_score(change).value
    expected["joint_icl_change_se_nats", f"full, control {len(controls) - 1}"] = metrics.icl_score(change).se
    layer, head = roles.in_layer(1, at_last(found["heads"], "prefix_matching", (2, 2)))[0]
    groups = qk_variance_shares(model, metrics.random_blocks(tokens, N_CTX), layer, head)
    for measure, group in (("q", "Q"), ("token", "Id"), ("both", "both")):
        expected[f"score_share_{measure}", f"L{layer}H{head}"] = groups[group]
    for (measure, item), value in expected.items():
        assert fact(found, measure, item) == pytest.approx(value, abs=1e-5), (measure, item)
    several = {name: value for name, value in expected.items() if name[1] != "two-token match"}  # here no pair matches
    assert len({round(float(value), 5) for value in several.values()}) == len(several), "all differ"


def test_roles() -> None:
    prefix = np.array([[0.1, 0.5], [0.45, 0.2], [0.3, 0.1]])
    previous = np.array([[0.2, 0.1], [0.6, 0.3], [0.9, 0.9]])
    roles = Roles.of(prefix, previous)
    assert roles.induction == [(0, 1), (1, 0)] and roles.previous == (1, 0)
    assert roles.in_layer(1, prefix) == [(1, 0)] and roles.in_layer(2, prefix) == [(2, 0)]
    assert Roles.of(prefix / 10, previous).induction == [(0, 1)]
    assert Roles.of(prefix[:1], previous[-1:]).previous == (0, 0)


@pytest.mark.parametrize("changes", [{"n_layers": 0}, {"n_layers": 1}, {"n_layers": 1, "smear": "key"}, {"mlp": True},
                                     {"n_layers": 1, "mlp": True}, {"positions": "rotary"}], ids=str)  # fmt: skip
def test_other_models_survive(runs, changes: dict) -> None:
    run = runs(**changes)
    found, cfg = survey(run, EFFORT), run.model_cfg
    assert found["snapshots"].drop(columns="run_id").notna().all().all()
    assert len(found["heads"]) == len(run) * cfg.n_layers * cfg.n_heads
    assert found["composition"].empty == (cfg.n_layers < 2) and found["ablations"].empty == (cfg.n_layers == 0)
    measures = set(found["facts"]["measure"])
    assert ("bigram_kl_nats" in measures) == (cfg.n_layers == 0)
    assert ("family_found" in measures) == (cfg.n_layers == 1 and not cfg.mlp)
    assert ("term_gain_nats" in measures) == (cfg.n_layers == 2 and not cfg.mlp)
    assert ("path_sum_error_logits" in measures) == (cfg.n_layers == 1 and not cfg.mlp and cfg.smear == "none")
    if "path_sum_error_logits" in measures:
        assert fact(found, "path_sum_error_logits") < 1e-9
    if cfg.smear == "key":
        expected = torch.sigmoid(run.model().alpha).numpy()
        np.testing.assert_allclose(at_last(found["heads"], "sigma_alpha", (1, 2)), expected, atol=1e-6)
        assert np.abs(expected - 0.5).max() > 1e-4


def test_every_column_is_documented(runs, found) -> None:
    smeared = survey(runs(n_layers=1, smear="key"), EFFORT)
    assert set(found) == set(TABLES)
    for name in TABLES:
        assert set(found[name]) | set(smeared[name]) <= set(SCHEMA[name])
        assert set(SCHEMA[name]) - OPTIONAL <= set(found[name]), name
    measured = [survey(runs(**kind), EFFORT)["facts"]["measure"] for kind in ({}, {"n_layers": 0}, {"n_layers": 1})]
    assert set(pd.concat(measured)) == set(FACTS) - {"cross_terms_raised"}  # no two skip-trigrams to cross here


def test_the_second_time_it_is_read(run: Run, found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveying, "_Surveyor", lambda *_: pytest.fail("measured again"))
    again = survey(run, EFFORT)
    for name in TABLES:
        pd.testing.assert_frame_equal(again[name], found[name])
    assert is_surveyed(run, EFFORT) and not is_surveyed(run, QUICK)


@pytest.mark.parametrize(("kind", "at"), [("snapshot", 1), ("ablations", 2)])
def test_a_stopped_survey_goes_on(run: Run, found, tmp_path, monkeypatch, kind: str, at: int) -> None:
    """Nothing that was measured is measured again, and the tables are those of a survey in one go."""
    copy, seen = copied(run, tmp_path), []
    whole = surveying._Surveyor.kept

    def stops(self, name, i, measure):
        if (name, i) == (kind, at) and not seen:
            seen.append(len(list(self.parts.iterdir())))
            (self.parts / f"{name}_{i}.tmp").mkdir()  # begun
            raise KeyboardInterrupt
        done = seen and (name == "snapshot" or name == kind) and (i < at or name != kind)
        return whole(self, name, i, (lambda model: pytest.fail("measured again")) if done else measure)

    monkeypatch.setattr(surveying._Surveyor, "kept", stops)
    with pytest.raises(KeyboardInterrupt):
        survey(copy, EFFORT)
    assert seen == [at + (len(run) if kind == "ablations" else 0)] and not is_surveyed(copy, EFFORT)
    again = survey(copy, EFFORT)
    for name in TABLES:
        pd.testing.assert_frame_equal(again[name], found[name])
    assert not list(copy.path.glob("tables_*/parts"))


def test_two_at_once_measure_once(run: Run, found, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes second waits, and then reads."""
    copy, ready, go, measured = copied(run, tmp_path), threading.Event(), threading.Event(), []
    whole = surveying._Surveyor.run_all

    def slow(self, progress):
        measured.append(self.run.run_id)
        ready.set()
        assert go.wait(60)
        return whole(self, progress)

    monkeypatch.setattr(surveying._Surveyor, "run_all", slow)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(survey, copy, EFFORT)
        assert ready.wait(60)
        two = pool.submit(survey, copy, EFFORT)
        with pytest.raises(TimeoutError):
            two.result(timeout=0.5)
        go.set()
        tables = one.result(), two.result()
    assert len(measured) == 1
    for name in TABLES:
        for mine in tables:
            pd.testing.assert_frame_equal(mine[name], found[name])


def test_the_folder_follows_effort_and_weights(run: Run) -> None:
    names = {tables_folder(run, e).name for e in (EFFORT, replace(EFFORT, trained=None), replace(EFFORT, fills=3))}
    other = Run(run.path)
    other.manifest["snapshots"][2]["sha256"] = "0" * 64
    assert len(names | {tables_folder(other, EFFORT).name}) == 4


def copied(run: Run, folder, **changes) -> Run:
    shutil.copytree(run.path, folder / run.run_id, ignore=shutil.ignore_patterns("tables_*"))
    write_manifest(folder / run.run_id, run.manifest | changes)
    return Run(folder / run.run_id)


def test_half_a_survey_is_measured_again(run: Run, found, tmp_path) -> None:
    copy = copied(run, tmp_path)
    shutil.copytree(tables_folder(run, EFFORT), tables_folder(copy, EFFORT))
    (tables_folder(copy, EFFORT) / "facts.parquet").unlink()
    assert not is_surveyed(copy, EFFORT)
    again = survey(copy, EFFORT)
    for name in TABLES:
        pd.testing.assert_frame_equal(again[name], found[name])


def test_an_unfinished_run_and_another_corpus_are_refused(run: Run, tmp_path) -> None:
    with pytest.raises(IctlError, match="is not finished; train it to its end"):
        survey(copied(run, tmp_path / "a", finished=False), EFFORT)
    corpus = run.manifest["corpus"] | {"sha256": "0" * 64}
    with pytest.raises(IctlError, match="trained on another state of corpus='path:.*train it again here"):
        survey(copied(run, tmp_path / "b", corpus=corpus), EFFORT)


def test_layers_and_sides_are_not_exchanged(run: Run, found, tokens: Tokens) -> None:
    model, few = run.model(), texts(tokens, N_CTX, EFFORT)[0][: EFFORT.ablations]
    losses = layer_split(model, few)
    expected = {"first given second": losses[1,] - losses[0, 1], "second given first": losses[0,] - losses[0, 1],
                "first alone": losses[()] - losses[0,], "second alone": losses[()] - losses[1,]}
    assert abs(expected["first alone"] - expected["second alone"]) > 1e-5
    for item, value in expected.items():
        assert fact(found, "layer_gain_nats", item) == pytest.approx(value, abs=1e-6), item
    prefix, previous = (at_last(found["heads"], name, (2, 2)) for name in ("prefix_matching", "previous_token"))
    roles = Roles.of(prefix, previous)
    (layer, head), *_ = roles.in_layer(1, prefix)
    terms = qk_terms(model, metrics.random_blocks(tokens, N_CTX), layer, head)
    shares, token = terms.shares(), terms.names.index("token")
    before = terms.names.index("L{}H{}".format(*roles.previous))
    assert fact(found, "score_share_k", f"L{layer}H{head}") == pytest.approx(shares[token, before], abs=1e-5)
    assert abs(shares[token, before] - shares[before, token]) > 1e-4


def test_facts_of_no_layers(runs, tokens: Tokens) -> None:
    """As registered for F01: the hundred most frequent tokens, half a count to every bigram."""
    run = runs(n_layers=0)
    found, fit = survey(run, EFFORT), bigram_kl(run.model(), tokens, frequent=100, smoothing=0.5)
    expected = {("bigram_kl_nats", "model from text"): fit.reverse_kl, ("bigram_kl_nats", "text from model"): fit.kl,
                ("bigram_correlation", "frequent bigrams"): fit.correlation,
                ("bigram_correlation", "all next tokens"): fit.all_correlation}
    for (measure, item), value in expected.items():
        assert fact(found, measure, item) == pytest.approx(value), (measure, item)
    assert len({round(x, 4) for x in expected.values()}) == 4


def test_a_history_is_what_its_names_say(run: Run, tokens: Tokens) -> None:
    history, model, text = history_of(run, 8), run.model(), eval_windows(tokens, 8, N_CTX)
    blocks, gaps = metrics.repeated_probe(tokens, N_CTX), metrics.random_blocks(tokens, N_CTX)
    np.testing.assert_allclose(history.prefix_matching[-1], slow_prefix(model, blocks), atol=1e-5)
    np.testing.assert_allclose(history.prefix_random[-1], slow_prefix(model, gaps), atol=1e-5)
    assert np.abs(history.prefix_matching[-1] - history.prefix_random[-1]).max() > 1e-4
    np.testing.assert_allclose(history.previous_token[-1], metrics.previous_token(model, text), atol=1e-5)
    np.testing.assert_allclose(history.loss_by_position[-1], slow_losses(model, text).mean(0), atol=1e-5)
    np.testing.assert_allclose(history.copying[-1], metrics.copying(model, tokens), atol=1e-5)
