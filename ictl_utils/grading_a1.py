"""Assignment 1, "Attention heads as circuits": rules and questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .answers import plain_number
from .grading import Question
from .grading_a1_cases import (
    circuit_cases,
    copying_cases,
    drawn,
    frozen_cases,
    path_cases,
    pattern_cases,
    result_cases,
    text_cases,
    trigram_cases,
    two_layer_cases,
)
from .grading_rules import Rule, agrees, array, between, causal, finite, holds, keys, number, part, rows_sum_to_one

# ---- rules ------------------------------------------------------------------------------------------


def parts(shapes: dict[str, Callable[[dict], tuple]]) -> Rule:
    """Each entry of a dict is an array of its shape."""

    def broken(given: dict, answer: Any, expected: Any) -> str | None:
        for key, shape in shapes.items():
            told = array(shape).broken(given, answer[key], None)
            if told:
                return f"{key!r}: {told}"
        return None

    return Rule("shapes", broken, structural=True)


def apart(one: Tensor, other: Tensor, tolerance: float = 1e-3) -> str | None:
    """Where two arrays of one shape differ most, or None where they do not."""
    gap = (torch.as_tensor(one).double() - other.double()).abs()
    if bool((gap <= tolerance * other.abs().max().clamp_min(1.0)).all()):
        return None
    at = tuple(int(i) for i in np.unravel_index(int(gap.argmax()), gap.shape))
    return f"the largest difference is {float(gap.max()):.3g}, at {list(at)}."


def _low_rank(given: dict, answer: dict) -> str | None:
    d_head = given["W_Q"].shape[1]
    for key in answer:
        rank = int(torch.linalg.matrix_rank(torch.as_tensor(answer[key]).double(), rtol=1e-5))
        if rank > d_head:
            return f"{key!r} has rank {rank}; what passes through {d_head} dimensions of a head has at most {d_head}."
    return None


def _sums_to_logits(given: dict, answer: dict) -> str | None:
    """All paths together are the logits of the model."""
    paths = [torch.as_tensor(x).float() for x in answer.values()]
    total = sum(x.flatten(0, -3).sum(0) if x.ndim > 2 else x for x in paths)
    told = apart(total, given["model"](given["ids"][None])[0])
    return told and f"the sum of all paths is not the model's logits: {told}"


def _same_stream(given: dict, answer: Tensor) -> str | None:
    """A random stream sent through the map gives what the model gives with these patterns."""
    n, d_model = answer.shape[0], answer.shape[2]
    stream = drawn(7)(n, d_model)
    through = torch.einsum("sa,dsab->db", stream, torch.as_tensor(answer).float())
    cache = given["model"].forward_with_cache(resid=stream[None], patterns={0: given["pattern"][None]})
    told = apart(through, cache.resid[-1][0])
    return told and f"a random stream comes out of your map otherwise than out of the model: {told}"


def _no_future(given: dict, answer: Tensor) -> str | None:
    future = torch.ones(answer.shape[:2], dtype=torch.bool).triu(1)
    size = torch.as_tensor(answer).abs().amax((2, 3))[future]
    return f"a later source changes an earlier destination, by up to {float(size.max()):.3g}." \
        if len(size) and float(size.max()) > 1e-6 else None  # fmt: skip


def _different_ids(given: dict, answer: dict) -> str | None:
    for key in ("destinations", "outs"):
        found = [int(i) for i in answer[key]]
        if len(found) != given["n"] or len(set(found)) != len(found):
            return f"{key!r} lists {len(found)} tokens, {len(set(found))} of them different; expected {given['n']}."
    return None


def _sorted_sizes(given: dict, answer: dict) -> bool:
    sizes = torch.as_tensor(answer["sizes"])
    return bool((sizes >= 0).all() and (sizes.diff() <= 1e-6 * sizes.abs().max()).all())


def _statistic_fits(given: dict, answer: dict) -> bool:
    return -1.0001 <= plain_number(answer["statistic"]) <= 1.0001


# ---- questions --------------------------------------------------------------------------------------

_pos = lambda given: len(given["ids"])  # noqa: E731
_cfg = lambda given: given["model"].cfg  # noqa: E731

QUESTIONS = (
    Question(
        "a1.q1", "The pattern of a head", "attention_pattern", 2, 10, 1, pattern_cases,
        (array(lambda g: (len(g["q"]), len(g["q"])), "float"), finite("Can a row be left without any token to see?"),
         causal(), rows_sum_to_one(), between(0, 1), agrees()),
        "Work out the second row by hand: two scores, scaled, and a softmax of two numbers.",
    ),
    Question(
        "a1.q2", "What one head writes", "head_result", 2, 8, 1, result_cases,
        (array(lambda g: tuple(g["resid"].shape), "float"), finite(), agrees()),
        "Follow one destination: which row of the pattern belongs to it, and what is mixed with these weights?",
    ),
    Question(
        "a1.q3", "Two circuits instead of four matrices", "head_circuits", 2, 10, 1, circuit_cases,
        (keys("W_QK", "W_OV", "QK", "OV"),
         parts({"W_QK": lambda g: (len(g["W_U"]),) * 2, "W_OV": lambda g: (len(g["W_U"]),) * 2,
                "QK": lambda g: (len(g["W_E"]),) * 2, "OV": lambda g: (len(g["W_E"]),) * 2}),
         finite(), holds("rank at most d_head", _low_rank), agrees()),
        "A row is where something comes in: the destination's side for QK, the source's side for OV.",
    ),
    Question(
        "a1.q4", "Paths through one layer", "one_layer_paths", 3, 12, 2, path_cases,
        (keys("direct", "heads"),
         parts({"direct": lambda g: (_pos(g), _cfg(g).d_vocab),
                "heads": lambda g: (_cfg(g).n_heads, _pos(g), _cfg(g).d_vocab)}),
         finite(), holds("the paths sum to the logits", _sums_to_logits), agrees()),
        "One term for the token itself, one for each head; nothing is left over and nothing is counted twice.",
    ),
    Question(
        "a1.q5", "A frozen layer is one linear map", "frozen_map", 3, 12, 2, frozen_cases,
        (array(lambda g: (g["pattern"].shape[1],) * 2 + (_cfg(g).d_model,) * 2, "float"), finite(),
         holds("later sources have no effect", _no_future), holds("maps streams as the model does", _same_stream),
         agrees()),
        "Ask for one destination and one source: what does the destination's output contain of the source's stream?",
    ),
    Question(
        "a1.q6", "Skip-trigrams", "skip_trigrams", 2, 10, 2, trigram_cases,
        (keys("destinations", "outs", of=(list, tuple)), holds("lists n different tokens", _different_ids), agrees()),
        "Softmax looks at one row at a time: what a destination gives to all sources alike does not matter.",
    ),
    Question(
        "a1.q7", "Detect copying by eigenvalues", "copying_statistic", 2, 12, 2, copying_cases,
        (keys("sizes", "statistic"), parts({"sizes": lambda g: (g["W_V"].shape[1],)}), finite(),
         part("statistic", number()),
         holds("sizes are sorted", _sorted_sizes, "From the largest to the smallest, and none below 0."),
         holds("statistic between -1 and 1", _statistic_fits), agrees()),
        "AB and BA have the same eigenvalues apart from zeros: which order of the four factors is smallest?",
    ),
    Question(
        "a1.q8", "Copying, measured on text", "copying_on_text", 2, 15, 3, text_cases,
        (array(lambda g: (_cfg(g).n_layers, _cfg(g).n_heads), "float"), finite(), between(0, 1), agrees()),
        "Take one head and one destination first; average over destinations when that one is right.",
    ),
    Question(
        "a1.q9", "All paths through two layers", "two_layer_paths", 2, 15, 3, two_layer_cases,
        (keys("direct", "layer 0", "layer 1", "virtual"),
         parts({"direct": lambda g: (_pos(g), _cfg(g).d_vocab),
                "layer 0": lambda g: (_cfg(g).n_heads, _pos(g), _cfg(g).d_vocab),
                "layer 1": lambda g: (_cfg(g).n_heads, _pos(g), _cfg(g).d_vocab),
                "virtual": lambda g: (_cfg(g).n_heads,) * 2 + (_pos(g), _cfg(g).d_vocab)}),
         finite(), holds("the paths sum to the logits", _sums_to_logits), agrees()),
        "Layer 1 reads the sum of the embedding and of what each head of layer 0 wrote. Take that sum apart.",
    ),
)
