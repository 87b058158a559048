"""What is measured once a run, on its last snapshot: joint ablations, idealised patterns, paths and terms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from . import metrics
from .ablations import Heads, head_mask, joint, random_matched_sets
from .circuits import composition_baseline, composition_scores
from .circuits_paths import layer_split, path_sum_logits, term_importance
from .circuits_scores import qk_terms
from .circuits_trigrams import bigram_kl
from .idealised import literal_match_pattern, previous_token_pattern, recovered, two_token_match_pattern
from .model import Transformer
from .survey_trigrams import cross_term_share, families_found, heads_with_split_tokens, top_entries
from .tokens import Tokens, windows_at

THRESHOLD = 0.4  # prefix matching of an induction head, at the last snapshot
CONTROLS = 10  # layer-matched random sets beside the joint ablation
MOST = 100_000  # windows of training text in which skip-trigrams are counted: all of the standard library's
Fact = tuple[str, str, float]  # measure, item, value


@dataclass(frozen=True)
class Roles:
    """Which heads do what at the last snapshot: the registered definitions (``claims_terms.csv``)."""

    induction: Heads  # prefix matching over 0.4, or the best head where none is
    previous: tuple[int, int]  # best previous-token score outside the last layer (of all, in one layer)

    @staticmethod
    def of(prefix: np.ndarray, previous: np.ndarray) -> Roles:
        """Roles from scores [layer, head]."""
        found = [(int(layer), int(head)) for layer, head in np.argwhere(prefix > THRESHOLD)]
        early = previous[:-1] if len(previous) > 1 else previous
        return Roles(found or [metrics.best_head(prefix)], metrics.best_head(early))

    def in_layer(self, layer: int, prefix: np.ndarray) -> Heads:
        """Induction heads of one layer; its best head where it has none."""
        return [h for h in self.induction if h[0] == layer] or [(layer, int(prefix[layer].argmax()))]


def facts(model: Transformer, tokens: Tokens, windows: metrics.Windows, prefix: np.ndarray, previous: np.ndarray,
          trained: int | None = None) -> pd.DataFrame:
    """Tidy rows ``measure, item, value`` on one model; units stand at the end of the measure's name.

    Args:
        windows: held-out text of the ablations.
        prefix, previous: prefix-matching and previous-token scores [layer, head] of ``model``.
        trained: windows of the training text in which skip-trigrams are counted; default :data:`MOST`, if there
            are so many.
    """
    n, rows = model.cfg.n_layers, []
    if n == 0:
        rows += _zero_layers(model, tokens)
    if n == 1 and not model.cfg.mlp:
        rows += _one_layer(model, tokens, windows, trained)
    if n >= 1:
        roles = Roles.of(prefix, previous)
        rows += _joint(model, windows, roles)
    if n >= 2:
        rows += [*_without_previous(model, tokens, prefix, roles), *_composition(model)]
    if n == 2 and not model.cfg.mlp:
        rows += [*_terms(model, windows), *_idealised(model, windows, roles)]
        rows += _score_shares(model, tokens, prefix, roles)
    return pd.DataFrame(rows, columns=["measure", "item", "value"]).astype({"value": float})


def _zero_layers(model: Transformer, tokens: Tokens) -> Iterator[Fact]:
    fit = bigram_kl(model, tokens, frequent=100, smoothing=0.5)
    yield "bigram_kl_nats", "model from text", fit.reverse_kl
    yield "bigram_kl_nats", "text from model", fit.kl
    yield "bigram_correlation", "frequent bigrams", fit.correlation
    yield "bigram_correlation", "all next tokens", fit.all_correlation


def _one_layer(model: Transformer, tokens: Tokens, windows: metrics.Windows, trained: int | None) -> Iterator[Fact]:
    ids = torch.from_numpy(windows[:64, :-1])
    double = Transformer(model.cfg)
    double.load_state_dict(model.state_dict())
    double = double.double()
    if model.cfg.smear == "none":
        error = double(ids) - sum(path_sum_logits(double, ids).values())
        yield "path_sum_error_logits", "", float(error.abs().max())
    if tokens.tokenizer is None:
        return
    seen = np.flatnonzero(tokens.counts)[1:]
    tops = top_entries(model, seen)
    for family, found in families_found(tops, seen, tokens).items():
        yield "family_found", family, float(found)
    yield "split_token_heads", "", float(heads_with_split_tokens(tops, seen, tokens))
    starts = np.arange(0, len(tokens.train) - model.cfg.n_ctx, model.cfg.n_ctx)[: trained or MOST]
    share, n = cross_term_share(model, tokens, windows_at(tokens.train, starts, model.cfg.n_ctx))
    yield "cross_terms", "", float(n)
    if n:
        yield "cross_terms_raised", "", share


def _joint(model: Transformer, windows: metrics.Windows, roles: Roles) -> Iterator[Fact]:
    """All induction heads together, and as many others of their layers, drawn at random."""
    controls = random_matched_sets(roles.induction, (model.cfg.n_layers, model.cfg.n_heads), CONTROLS)
    sets = {"induction": roles.induction} | {f"control {i}": heads for i, heads in enumerate(controls)}
    yield "induction_heads", "", float(len(roles.induction))
    for kind in ("full", "pattern-preserving"):
        for row in joint(model, windows, sets, kind)[1:]:
            item = f"{kind}, {row['name']}"
            yield "joint_icl_change_nats", item, row["icl_change"]
            yield "joint_icl_change_se_nats", item, row["icl_change_se"]
            yield "joint_loss_change_nats", item, row["loss_change"]


def _without_previous(model: Transformer, tokens: Tokens, prefix: np.ndarray, roles: Roles) -> Iterator[Fact]:
    """Prefix matching of each induction head after the first layer with the previous-token head knocked out."""
    probe = metrics.repeated_blocks(tokens, length=min(25, (model.cfg.n_ctx - 1) // 4))
    after = metrics.prefix_matching(model, probe, head_mask(model, [roles.previous]))
    for layer, head in (h for at in range(1, model.cfg.n_layers) for h in roles.in_layer(at, prefix)):
        yield "prefix_without_previous", f"L{layer}H{head}", float(after[layer, head])


def _composition(model: Transformer) -> Iterator[Fact]:
    """Baselines of composition scores, and the scores by the norm with the papers' error."""
    for norm, buggy in (("right", False), ("buggy", True)):
        baseline = composition_baseline(model.cfg, buggy=buggy)
        yield "composition_random_mean", norm, baseline.mean
        yield "composition_random_sd", norm, baseline.sd
    found = composition_scores(model, buggy=True)
    for kind in "qkv":
        for (a, b, c, d), value in np.ndenumerate(getattr(found, kind)):
            if a < c:
                yield f"composition_{kind}_buggy", f"L{a}H{b} L{c}H{d}", float(value)


def _terms(model: Transformer, windows: metrics.Windows) -> Iterator[Fact]:
    """Marginal effect of each order of terms, and of layers (P2, "Term importance")."""
    importance = term_importance(model, windows)
    for order, gain in enumerate(importance.gains):
        yield "term_gain_nats", f"order {order}", float(gain)
    losses = layer_split(model, windows)
    yield "layer_gain_nats", "first given second", losses[1,] - losses[0, 1]
    yield "layer_gain_nats", "second given first", losses[0,] - losses[0, 1]
    yield "layer_gain_nats", "first alone", losses[()] - losses[0,]
    yield "layer_gain_nats", "second alone", losses[()] - losses[1,]


def _idealised(model: Transformer, windows: metrics.Windows, roles: Roles) -> Iterator[Fact]:
    """Share of the loss lost without heads that an idealised pattern keeps (P1, replication by Scherlis et al.)."""
    match = {"match": literal_match_pattern, "two-token match": two_token_match_pattern}
    yield "recovered", "previous", recovered(model, windows, [roles.previous], previous_token_pattern)
    for name, pattern in match.items():
        yield "recovered", name, recovered(model, windows, roles.induction, pattern)


def _score_shares(model: Transformer, tokens: Tokens, prefix: np.ndarray, roles: Roles) -> Iterator[Fact]:
    """Shares of score variance of each induction head of the second layer by what query and key read (P2)."""
    probe, previous = metrics.random_blocks(tokens, model.cfg.n_ctx), "L{}H{}".format(*roles.previous)
    for layer, head in roles.in_layer(1, prefix):
        terms = qk_terms(model, probe, layer, head)
        shares, at = terms.shares(), {name: i for i, name in enumerate(terms.names)}
        heads = [i for name, i in at.items() if name.startswith("L")]
        yield "score_share_k", f"L{layer}H{head}", float(shares[at["token"], at[previous]])
        yield "score_share_q", f"L{layer}H{head}", float(shares[heads, at["token"]].sum())
        yield "score_share_token", f"L{layer}H{head}", float(shares[at["token"], at["token"]])
        yield "score_share_both", f"L{layer}H{head}", float(shares[np.ix_(heads, heads)].sum())
