"""Which models the zoo has: the paper's table, the seeds, and one recipe for all."""

from collections import Counter
from dataclasses import asdict

import pytest

from ictl_utils.config import IctlError, run_id
from ictl_utils.model import Transformer
from ictl_utils.zoo import FAMILIES, HEADLINE, entries, find, names, schedule

PRESETS = ("smoke", "laptop", "gpu")
LENGTH = {"tokens", "snapshots"}  # how long, and how often it is looked at: no part of the recipe
IN_NAMES = {
    "key-": {"smear"}, "query-": {"smear"}, "value-": {"smear"}, "mlp-": {"mlp"}, "docs-": {"corpus"},
    "warm-": {"warmup"}, "-rotary": {"positions"}, "-learned": {"positions"}, "-muon": {"optimizer"},
    "ladder-": {"n_layers", "n_heads", "d_model", "lr", "init_qk"},
}  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_the_paper_s_table_and_our_controls(preset: str) -> None:
    found = entries(preset)
    assert len({e.name for e in found}) == len(found)
    per_family = Counter(e.family for e in found)
    assert set(per_family) == set(FAMILIES)
    assert per_family["attn"] == per_family["mlp"] == per_family["ladder"] == per_family["smeared"] == 6
    assert per_family["docs"] >= 12 and sum(per_family.values()) - per_family["variants"] >= 34
    for n in range(1, 7):
        for name, mlp in ((f"attn-{n}l", False), (f"mlp-{n}l", True)):
            first, second = find(name, preset), find(f"docs-{name}", preset)
            assert (first.model.n_layers, first.model.mlp, first.model.smear) == (n, mlp, "none")
            assert second.model == first.model and second.train.corpus != first.train.corpus == "stdlib"


@pytest.mark.parametrize("preset", PRESETS)
def test_one_recipe_but_for_what_the_name_says(preset: str) -> None:
    base = find("attn-2l", preset)
    plain = asdict(base.model) | asdict(base.train)
    for entry in entries(preset):
        other = asdict(entry.model) | asdict(entry.train)
        allowed = LENGTH.union(*(fields for part, fields in IN_NAMES.items() if part in entry.name))
        if entry.name.removesuffix("-long")[-1] == "l" or "0l" in entry.name:
            allowed |= {"n_layers"}
        assert {field for field in plain if plain[field] != other[field]} <= allowed, entry.name
        for part in ("key", "query", "value"):
            assert (f"{part}-" in entry.name) == (entry.model.smear == part)
        name = entry.name.removesuffix("-long")
        assert name.endswith(("rotary", "learned")) == (entry.model.positions != "shortformer")
    assert find("attn-2l-warm-double", preset).train.warmup == 2 * base.train.warmup
    assert find("attn-2l-warm-half", preset).train.warmup == base.train.warmup // 2


@pytest.mark.parametrize("preset", PRESETS)
def test_the_ladder_spans_a_factor_of_twenty(preset: str) -> None:
    sizes = []
    for entry in entries(preset, "ladder"):
        model = Transformer(entry.model)
        sizes.append(model.n_params - model.W_E.numel() - model.W_U.numel())
    assert sizes == sorted(set(sizes)) and sizes[-1] >= 20 * sizes[0]


def test_seeds_and_tokens() -> None:
    for preset in PRESETS:
        assert all(find(name, preset).seeds >= 5 for name in (*HEADLINE, "attn-3l"))
        assert all(find(f"attn-{n}l", preset).seeds >= 3 for n in (4, 5, 6))
        assert all(len(e.runs()) >= 1 for e in entries(preset))
    assert all(find(f"docs-attn-{n}l").train.tokens >= 30e6 for n in (1, 2, 3))
    assert all(e.train.tokens >= 10e6 for e in entries())
    for name in ("attn-1l", "query-1l", "value-1l", "attn-2l-rotary", "attn-2l-learned", "attn-2l-warm-half",
                 "attn-2l-warm-double"):  # in some run nothing forms, or late
        long, short = find(f"{name}-long"), find(name)
        assert long.train.tokens >= 15e6 and long.model == short.model and long.train.warmup == short.train.warmup


def test_runs_differ_in_seeds_alone() -> None:
    entry = find("attn-2l")
    seeds = [(t.init_seed, t.data_seed) for _, t in entry.runs()]
    assert seeds[:5] == [(i, 0) for i in range(5)] and len(seeds) == len(set(seeds)) == 5 + entry.data_seeds
    assert all(data_seed > 0 for _, data_seed in seeds[5:])
    assert [t.init_seed for _, t in entry.runs(2)] == [0, 1]
    plain = [asdict(t) | {"init_seed": 0, "data_seed": 0} for _, t in entry.runs()]
    assert all(each == plain[0] for each in plain)


@pytest.mark.parametrize("preset", PRESETS)
def test_each_run_is_scheduled_once(preset: str) -> None:
    todo = schedule(entries(preset))
    ids = [run_id(m, t) for _, m, t in todo]
    assert len(ids) == len(set(ids))
    assert set(ids) == {run_id(*run) for e in entries(preset) for run in e.runs()} == set(names(preset))
    assert todo[0][0] == "attn-2l" and todo[0][2].init_seed == 0
    assert [n for n, _, t in todo[:12] if t.init_seed or t.data_seed] == []  # first seeds of the first families first


def test_names_of_runs_lead_back_to_them() -> None:
    for run, (name, family) in names("laptop").items():
        entry = find(name)
        assert run in {run_id(*each) for each in entry.runs()} and entry.family == family


def test_families_and_patterns() -> None:
    assert [e.name for e in entries(family="key-*")] == ["key-1l", "key-2l"]
    assert {e.family for e in entries(family="docs")} == {"docs"}
    assert len(schedule(entries("smoke", "attn-[12]l"), seeds=1)) == 2


def test_unknown_names_are_answered_with_those_known() -> None:
    with pytest.raises(IctlError, match="'attn-9l' is no model of the zoo; known: attn-2l, .*ladder-6"):
        find("attn-9l")
    with pytest.raises(IctlError, match="family='rnn' matches no model of the zoo; use attn, mlp, .* pattern"):
        entries("laptop", "rnn")
    with pytest.raises(IctlError, match="preset='huge' is not known; choose one of smoke, laptop, gpu"):
        entries("huge")
