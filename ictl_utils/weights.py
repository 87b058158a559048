"""Shipped weights of the zoo: packed in half precision, found by name, checked by hash, recomputed on request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load as load_tensors

from . import metrics, zoo
from .ablations import losses_without
from .config import IctlError, ModelConfig, TrainConfig, home, require, run_id, runs_dir
from .model import Transformer
from .snapshots import MANIFEST, Run, write_bytes, write_tensors
from .survey import FULL, Effort, texts
from .tables import Tables
from .tokens import eval_windows, load_tokens, other_text
from .train import train

PACKAGE = Path(__file__).parent
DATA, FOLDER = PACKAGE / "zoo_data", PACKAGE / "zoo_weights"
REGISTRY, HOME = DATA / "weights.json", DATA / "home.json"
PLACEHOLDER = "OWNER/REPO"
TOLERANCE = 0.05  # logits; half-precision weights against the trained ones
FAMILIES, BIGRAMS = ("attn", "mlp", "smeared"), "attn-0l"  # final weights of seed 0
AROUND = {"attn-2l": 8, "attn-3l": 6, "key-1l": 6}  # and so many snapshots around the change, the first counted
AGREE = {"loss_nats": 0.001, "icl_nats": 0.002, "prefix_matching": 0.002, "icl_change_nats": 0.002}  # and not more
SPEED = 50e9  # floating-point operations a second of one laptop core, for expected times


@dataclass(frozen=True)
class Shipped:
    """One snapshot of weights: a file, or a seed that draws them again."""

    file: str
    sha256: str  # empty: initial weights, which need no file
    run_id: str
    name: str
    init_seed: int
    tokens: int
    final: bool
    logits_error: float  # largest difference of a logit from the trained weights, on held-out text


def shipped() -> list[Shipped]:
    """All files of weights, as the registry lists them."""
    try:
        return [Shipped(**row) for row in json.loads(REGISTRY.read_text())] if REGISTRY.exists() else []
    except (ValueError, TypeError):
        raise IctlError(f"{REGISTRY} is damaged; restore the file (git checkout), or reinstall the package.") from None


def load(name: str, seed: int = 0, tokens: float | None = None, *, retrain: bool = False) -> Transformer:
    """A trained model of the zoo, ready to use on the CPU.

    From a finished run on this machine, else from the checkout, else downloaded once and checked by hash, else
    trained again when ``retrain`` allows it.

    Args:
        name: a configuration, ``attn-2l``; :func:`ictl_utils.zoo.entries` lists them.
        seed: seed of the initial weights.
        tokens: training tokens seen; the nearest snapshot there is. Default: the end of training.

    Raises:
        IctlError: unknown name, a seed or number of tokens that is none, a damaged file, or weights that are
            neither here nor shipped; the message says how long training takes.
    """
    number = isinstance(tokens, int | float | np.number) and np.isfinite(tokens) and tokens >= 0
    require(tokens is None or number, f"tokens={tokens!r} is no number of training tokens; expected one such as 4e6, "
                                      "or none for the end of training.")  # fmt: skip
    model_cfg, train_cfg = _configs(name, seed)
    path = runs_dir() / run_id(model_cfg, train_cfg)
    if (path / "manifest.json").exists() and Run(path).finished:
        return _nearest(Run(path), tokens)
    found = [s for s in shipped() if s.run_id == path.name and (s.final or tokens is not None)]
    if found:
        best = min(found, key=lambda s: abs(s.tokens - tokens) if tokens is not None else 0)
        return _read(best, Transformer(model_cfg))
    require(retrain, f"the weights of {name!r} seed {seed} are not shipped; load(..., retrain=True) trains them, "
                     f"about {minutes(name, seed):.0f} minutes on one core.")
    print(f"training {name} seed {seed}: about {minutes(name, seed):.0f} minutes on one core")
    return _nearest(train(model_cfg, train_cfg), tokens)


def minutes(name: str, seed: int = 0) -> float:
    """How long training a model of the zoo takes on one core of a laptop, roughly."""
    model_cfg, train_cfg = _configs(name, seed)
    return Transformer(model_cfg).flops_per_token() * train_cfg.tokens / SPEED / 60


def _configs(name: str, seed: int) -> tuple[ModelConfig, TrainConfig]:
    entry = zoo.find(name)
    require(isinstance(seed, int | np.integer) and seed >= 0, f"seed={seed!r} is no seed; expected 0, 1 and so on.")
    require(seed < 2**32, f"seed={seed} is too large; use less than 2**32.")
    return entry.model, replace(entry.train, init_seed=int(seed))


def _nearest(run: Run, tokens: float | None) -> Transformer:
    return run.model(-1 if tokens is None else int(np.abs(run.tokens - tokens).argmin()))


def _read(one: Shipped, model: Transformer) -> Transformer:
    if not one.sha256:
        return Transformer(model.cfg, seed=one.init_seed).eval().requires_grad_(False)
    path = FOLDER / one.file if (FOLDER / one.file).exists() else _download(one)
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    require(found == one.sha256, f"{path} is damaged: its SHA-256 is {found[:12]}..., the registry says "
                                 f"{one.sha256[:12]}...; restore the file (git checkout), or delete it.")
    model.load_state_dict({key: x.float() for key, x in load_tensors(content).items()})
    return model.eval().requires_grad_(False)


def _download(one: Shipped) -> Path:
    import pooch

    where = json.loads(HOME.read_text())
    require(PLACEHOLDER not in where["url"], f"{one.file} is not in this installation, and the project has no public "
                                             "home yet to download it from; work in a checkout of the project.")
    base = where["url"].replace("github.com", "raw.githubusercontent.com")
    url = f"{base}/{where['ref']}/ictl_utils/zoo_weights/{one.file}"
    try:
        return Path(pooch.retrieve(url, f"sha256:{one.sha256}", fname=one.file, path=home() / "weights"))
    except (OSError, ValueError) as error:
        raise IctlError(f"{url} could not be downloaded ({error}); check the network, or work in a checkout.") from None


# ---- packing --------------------------------------------------------------------------------------


def pack(folder: str | Path, tables: Tables) -> list[Shipped]:
    """Write weights in half precision and their registry, from the finished runs in ``folder``.

    Of a run in ``tables`` that is not in ``folder``, what was packed before stays.

    Raises:
        IctlError: a logit moves by more than :data:`TOLERANCE`.
    """
    runs = tables["runs"]
    wanted = runs["family"].isin(FAMILIES) | (runs["name"] == BIGRAMS)
    chosen = runs[wanted & (runs["init_seed"] == 0) & (runs["data_seed"] == 0)]
    before, rows = shipped(), []
    for row in chosen.itertuples():
        path = Path(folder) / row.run_id
        if not (path / MANIFEST).exists() or not Run(path).finished:
            rows += [one for one in before if one.run_id == row.run_id]
            continue
        run = Run(path)
        for i in _around(tables, run, AROUND[row.name]) if row.name in AROUND else [len(run) - 1]:
            rows.append(_pack_one(run, row.name, i))
    write_bytes(REGISTRY, json.dumps([vars(row) for row in rows], indent=1).encode())
    for stray in set(FOLDER.glob("*.safetensors")) - {FOLDER / row.file for row in rows if row.sha256}:
        stray.unlink()
    return rows


def _around(tables: Tables, run: Run, n: int) -> list[int]:
    """``n`` snapshots: the first, the last, and others spread evenly over the phase change."""
    rows = tables["snapshots"][tables["snapshots"]["run_id"] == run.run_id]
    window = metrics.phase_change(rows["tokens"].to_numpy(), rows["icl_nats"].to_numpy(), share=0.5)
    inside = [int(np.abs(run.tokens - t).argmin()) for t in np.linspace(window.start, window.end, n - 2)]
    return sorted({0, len(run) - 1, *inside})


def _pack_one(run: Run, name: str, i: int) -> Shipped:
    model, seen, seed = run.model(i), int(run.tokens[i]), run.train_cfg.init_seed
    drawn = Transformer(run.model_cfg, seed).state_dict()
    if all(torch.equal(x, drawn[key]) for key, x in model.state_dict().items()):
        return Shipped(f"{name}-s{seed}, initial weights", "", run.run_id, name, seed, seen, False, 0.0)
    half = {key: x.half() for key, x in model.state_dict().items()}
    rough = Transformer(run.model_cfg)
    rough.load_state_dict({key: x.float() for key, x in half.items()})
    ids = torch.from_numpy(eval_windows(load_tokens(run.train_cfg.corpus, run.model_cfg.d_vocab), 16, model.cfg.n_ctx))
    with torch.no_grad():
        error = float((model(ids[:, :-1]) - rough(ids[:, :-1])).abs().max())
    require(error <= TOLERANCE, f"{name} at {seen} tokens: half precision moves a logit by {error:.3f}, more than "
                                f"{TOLERANCE}; ship it in full precision.")
    file = f"{name}-s{seed}-{seen}.safetensors"
    sha = write_tensors(FOLDER / file, half)
    return Shipped(file, sha, run.run_id, name, seed, seen, i == len(run) - 1, round(error, 5))


# ---- verification ---------------------------------------------------------------------------------


def verify(tables: Tables, n: int = 6, seed: int | None = None, effort: Effort = FULL) -> pd.DataFrame:
    """Recompute numbers of ``n`` random shipped snapshots from their weights, on the same text.

    Loss, ICL score, prefix matching of every head, and both ablations of one head drawn at random. Weights are
    shipped in half precision: the tolerances are :data:`AGREE`.

    Args:
        effort: with which the tables were made.

    Returns:
        One row a number: file, measure, shipped, recomputed, tolerance, agrees.

    Raises:
        IctlError: nothing is shipped, or this machine's corpus is another state than the one trained on.
    """
    files = shipped()
    require(n >= 1, f"n={n} must be at least 1.")
    require(bool(files), "no weights are shipped; `ictl zoo pack` writes them.")
    chosen = np.random.default_rng(seed).choice(len(files), min(n, len(files)), replace=False)
    rows = [row for i in chosen for row in _verify_one(files[i], tables, effort, seed)]
    return pd.DataFrame(rows, columns=["file", "measure", "shipped", "recomputed", "tolerance", "agrees"])


def _verify_one(one: Shipped, tables: Tables, effort: Effort, seed: int | None) -> list[tuple]:
    run = tables["runs"].set_index("run_id").loc[one.run_id]
    entry = zoo.find(one.name)
    tokens, model = load_tokens(run["corpus"], entry.model.d_vocab), _read(one, Transformer(entry.model))
    require(tokens.sha == run["corpus_sha"], f"corpus={run['corpus']!r} is not the one the zoo was trained on (other "
                                             f"Python or packages: {run['versions']}); numbers cannot be compared.")
    snap = tables["snapshots"].query("run_id == @one.run_id and tokens == @one.tokens").iloc[0]
    some, rest = texts(tokens, model.cfg.n_ctx, effort)
    losses = metrics.token_losses(model, np.concatenate([some, rest]))
    found = [("loss_nats", snap["loss_nats"], losses[: len(some)].mean()),
             ("icl_nats", snap["icl_nats"], metrics.icl_score(losses).value)]  # fmt: skip
    if model.cfg.n_layers:
        of_it = "run_id == @one.run_id and snapshot == @snap.snapshot"
        scores = metrics.prefix_matching(model, metrics.repeated_probe(tokens, model.cfg.n_ctx))
        found += [(f"prefix_matching L{h.layer}H{h.head}", h.prefix_matching, scores[h.layer, h.head])
                  for h in tables["heads"].query(of_it).itertuples()]  # fmt: skip
        rng = np.random.default_rng(None if seed is None else (seed, one.tokens))
        layer, head = rng.integers((model.cfg.n_layers, model.cfg.n_heads))
        of_head = f"{of_it} and layer == {layer} and head == {head} and fill == 'zero'"
        n = effort.ablations
        found += _without(model, some[:n], losses[:n], tables["ablations"].query(of_head))
    rows = [(what, float(a), float(b), AGREE[what.split()[0]]) for what, a, b in found]
    return [(one.file, what, a, b, tol, abs(a - b) <= tol) for what, a, b, tol in rows]


def _without(model: Transformer, windows: metrics.Windows, intact: np.ndarray, ablations: pd.DataFrame
             ) -> Iterator[tuple[str, float, float]]:
    """Change of the ICL score of ``intact`` without the head of each row, in the table and now."""
    for row in ablations.itertuples():
        losses = losses_without(model, windows, [(row.layer, row.head)], row.kind)
        change = metrics.icl_score(losses - intact).value
        yield f"icl_change_nats L{row.layer}H{row.head} {row.kind}", row.icl_change_nats, change


def retrain(name: str, seed: int, tables: Tables, folder: str | Path) -> tuple[float, float]:
    """Train a shipped run again in ``folder``; its final loss in nats, shipped and now, on the same text.

    Raises:
        IctlError: that run is not in ``tables``.
    """
    model_cfg, train_cfg = _configs(name, seed)
    rows = tables["snapshots"][tables["snapshots"]["run_id"] == run_id(model_cfg, train_cfg)]
    require(len(rows) > 0, f"{name} seed {seed} was not measured; `ictl table runs` lists what was.")
    tokens = load_tokens(train_cfg.corpus, model_cfg.d_vocab)
    different = other_text(tokens)
    require(not different, f"nothing was trained. {different.strip()}")
    run = train(model_cfg, train_cfg, folder, device="cpu")
    text = texts(tokens, model_cfg.n_ctx)[0]
    now = float(metrics.token_losses(run.model(), text).mean())
    return float(rows.sort_values("snapshot")["loss_nats"].iloc[-1]), now
