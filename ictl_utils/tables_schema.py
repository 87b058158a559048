"""What is in the tables of measurements: every column of every table, and what makes them whole."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .config import require

Tables = dict[str, pd.DataFrame]
RUN = {"run_id": "name of the run; ends in the hash of its configuration"}
SNAP = RUN | {"snapshot": "number of the snapshot in its run, from 0"}
HEAD = SNAP | {"layer": "layer, from 0", "head": "head, from 0"}

SCHEMA: dict[str, dict[str, str]] = {
    "runs": RUN | {
        "name": "configuration in the zoo", "family": "family of the zoo", "label": "short name for figures",
        "n_layers": "layers", "d_model": "width of the residual stream", "n_heads": "heads a layer",
        "mlp": "with MLPs", "positions": "kind of positions", "smear": "what is smeared",
        "corpus": "corpus", "corpus_sha": "SHA-256 of the encoded corpus", "lr": "peak learning rate",
        "warmup_steps": "steps of warm-up", "optimizer": "optimiser", "init_seed": "seed of the weights",
        "data_seed": "seed of the data order", "parameters": "weights, embeddings included",
        "tokens": "training tokens in all; tokens_of_run where a table has tokens of its own",
        "batch_tokens": "training tokens a step",
        "seconds": "wall seconds of training", "core_seconds": "CPU seconds of training",
        "flops": "floating-point operations of training", "device": "device and precision",
        "versions": "python and torch", "snapshots": "snapshots kept",
    },
    "snapshots": SNAP | {
        "tokens": "training tokens seen", "loss_nats": "mean held-out loss",
        "icl_nats": "in-context learning score: loss at late positions (112 to 127 of 128) minus early ones (8 to 15)",
        "icl_se_nats": "its standard error over windows; over whole documents it is larger, see metrics.icl_score",
        "icl_at_positions_nats": "the same at the two single positions of the paper, scaled to n_ctx",
        "loss_new_nats": "loss where the current token is new in the window",
        "loss_repeated_nats": "loss where it was seen, once followed by the same next token",
        "loss_mismatch_nats": "loss where it was seen, always followed by another",
        "repeats_first_nats": "random tokens repeated: loss on the first block, from its second token on, as below",
        "repeats_second_nats": "loss on the second block", "repeats_later_nats": "loss on all repeats",
        "repeats_accuracy": "share of the third block that is the top prediction",
    },
    "positions": SNAP | {"position": "query position, 0 is <bos>", "loss_nats": "mean held-out loss there"},
    "token_losses": SNAP | {"losses_nats": "one loss a held-out window, always at the same position"},
    "heads": HEAD | {
        "prefix_matching": "attention on successors of earlier occurrences, the paper's probe",
        "prefix_random": "the same with random block lengths and gaps",
        "previous_token": "attention to the position before, on text",
        "present_token": "attention to the position itself, on text",
        "resting": "attention to <bos> where nothing matches, on random tokens",
        "copying": "share of the raised logits (through W_U, no LayerNorm) that is the attended token's, -1 to 1",
        "ov_copying": "sum of eigenvalues of the OV circuit over the sum of their sizes",
        "qk_trace": "trace of the QK circuit through earlier heads, by their previous-token scores",
        "qk_positivity": "sum of eigenvalues of that circuit over the sum of their sizes",
        "sigma_alpha": "share of the own key, query or value in a smeared one; empty where nothing is smeared",
    },
    "composition": SNAP | {
        "from_layer": "layer of the writing head", "from_head": "writing head", "to_layer": "layer of the reading head",
        "to_head": "reading head", "q": "Q-composition score", "k": "K-composition score", "v": "V-composition score",
    },
    "ablations": HEAD | {
        "kind": "full, or pattern-preserving",
        "fill": "what replaces the head: zero at every snapshot; mean and resample at every fourth and the last",
        "icl_change_nats": "in-context learning score without the head minus with it",
        "icl_change_se_nats": "its standard error over windows",
        "loss_change_nats": "loss without the head minus with it, at the positions of the score and eight others",
        "attribution_nats": "change of losses along the unit before-and-after vector",
    },
    "facts": SNAP | {"measure": "what, unit at the end", "item": "of which head, order, set", "value": "number"},
}  # fmt: skip
FACTS = {
    "bigram_kl_nats": "no layers: divergence between the model's next-token distribution and the text's, both ways",
    "bigram_correlation": "no layers: of model and text, over frequent bigrams, and over all next tokens of all tokens",
    "path_sum_error_logits": "one layer, attention-only: largest difference between the sum over paths and the model",
    "family_found": "one layer: 1 if some head shows this family of skip-trigrams (claims_families.csv)",
    "split_token_heads": "one layer: heads whose table joins the two halves of a token that also stands whole",
    "cross_terms": "one layer: pairs of skip-trigrams looked at, whose cross terms the text lacks",
    "cross_terms_raised": "one layer: share of those pairs in which the model raises both cross terms (the bugs)",
    "induction_heads": "heads that stand for the induction heads: those over 0.4, else the best one, so at least 1",
    "joint_icl_change_nats": "score without all those heads, or without a random set of as many a layer, minus with",
    "joint_icl_change_se_nats": "its standard error over windows",
    "joint_loss_change_nats": "loss without them minus with them",
    "prefix_without_previous": "prefix matching of a later head with the previous-token head knocked out",
    "composition_random_mean": "composition score of random matrices, by the right norm and the papers' buggy one",
    "composition_random_sd": "its standard deviation",
    "composition_q_buggy": "Q-composition score of two heads by the papers' buggy norm",
    "composition_k_buggy": "K-composition score by it", "composition_v_buggy": "V-composition score by it",
    "term_gain_nats": "two layers, attention-only: nats that terms of this order take off the loss of the order below",
    "layer_gain_nats": "nats that a layer takes off the loss, alone or given the other",
    "recovered": "share of the loss lost without heads that an idealised pattern in their place keeps",
    "score_share_k": "share of the score variance of an induction head: query reads the token, key the previous head",
    "score_share_q": "query reads earlier heads, key the token", "score_share_token": "both read the token",
    "score_share_both": "both read earlier heads",
}
"""Every measure of the table ``facts``; all are of a run's last snapshot."""
"""Every column of every table, and what it means. Losses in nats, lengths in tokens, times in seconds."""

NUMBERS = {"n_layers", "n_heads", "snapshots", "snapshot", "layer", "head", "tokens"}  # counted with
OPTIONAL = {"sigma_alpha", "qk_trace", "qk_positivity"}  # empty where nothing is smeared, and in layer 0


def check(tables: Tables) -> None:
    """See that the tables are whole: they are used as they are, and a hole in them would become a wrong number.

    Raises:
        IctlError: a table, column, value or row is missing, or a number is infinite; says which, and of which run.
    """
    for name, columns in SCHEMA.items():
        require(name in tables, f"the table {name!r} is missing; measure again with `ictl ladder`.")
        missing = [c for c in columns if c not in tables[name]]
        require(not missing, f"table {name!r} lacks the column {', '.join(missing)}; measure again with `ictl ladder`.")
        for column in columns.keys() - OPTIONAL:
            _filled(tables[name], name, column)
    heads, smear = tables["heads"], tables["runs"].set_index("run_id")["smear"]
    _filled(heads[heads["run_id"].map(smear).fillna("none") != "none"], "heads", "sigma_alpha")
    for column in ("qk_trace", "qk_positivity"):
        _filled(heads[heads["layer"] > 0], "heads", column)
    _complete(tables)
    unknown = sorted(set(tables["facts"]["measure"]) - FACTS.keys())
    require(not unknown, f"table 'facts' has the measure {', '.join(unknown)}, which nobody documents; measure again.")


def _filled(frame: pd.DataFrame, name: str, column: str) -> None:
    """Numbers in ``column`` of (part of) a table are there, and finite."""
    values = frame[column]
    if column == "losses_nats":
        values = values.map(lambda x: float(np.sum(x, dtype=float)))
    empty = values.isin([np.inf, -np.inf, np.nan]) | values.isna()
    first = frame.loc[empty.idxmax(), "run_id"] if len(frame) else "-"
    require(not empty.any(), f"table {name!r}, column {column!r}: {int(empty.sum())} values are missing (NaN) or "
                             f"infinite, the first of run {first}; measure that run again.")  # fmt: skip
    words = column in NUMBERS and not pd.api.types.is_numeric_dtype(values)
    require(not (len(frame) and words), f"table {name!r}, column {column!r} holds no numbers; measure again.")


def _complete(tables: Tables) -> None:
    """Every run has its rows, at each snapshot: positions, heads, pairs of heads, zero ablations of both kinds."""
    zeros = tables["ablations"][tables["ablations"]["fill"] == "zero"]
    found = {name: frame["run_id"].value_counts() for name, frame in (tables | {"ablations": zeros}).items()}
    for run in tables["runs"].itertuples():
        n, heads = run.snapshots, run.n_layers * run.n_heads
        positions = max(-(-int(found["positions"].get(run.run_id, 0)) // n), 1)  # n_ctx of them at every snapshot
        rows = {"snapshots": n, "token_losses": n, "positions": n * positions, "heads": n * heads,
                "composition": n * run.n_heads * (heads - run.n_heads) * run.n_layers // 2,
                "ablations": 2 * n * heads}  # fmt: skip
        for name, expected in rows.items():
            there, what = int(found[name].get(run.run_id, 0)), "zero ablations" if name == "ablations" else "rows"
            require(there == expected, f"table {name!r} has {there} {what} of run {run.run_id}, expected {expected}; "
                                       "measure that run again.")  # fmt: skip
