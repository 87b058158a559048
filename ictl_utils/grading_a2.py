"""Assignment 2, "Compose an induction head by hand": cases and rules of its exercises."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .grading import Case, Question
from .grading_a1 import parts
from .grading_rules import Rule, agrees, array, finite, holds, keys, number
from .handwritten import Layout, build, layout, random_text, repeated_text, where_it_looks
from .metrics import prefix_matching
from .model import Cache, Transformer

ENOUGH = 0.99  # attention that counts as reached
CHANGES = ("L0H0 writes nothing", "L1H0 writes nothing", "all scores are 50 times smaller",
           "the rows of W_pos are shuffled", "the rows of W_E are shuffled", "L0H0 attends to itself")


# ---- cases ------------------------------------------------------------------------------------------


def _sizes(seed: int) -> list[tuple[int, int]]:
    """(d_vocab, n_ctx): small ones for the public cases, whose weights are part of the package's data."""
    return [(4, 7), (3, 6), (5, 9)] if seed == 0 else [(5 + seed % 3, 13), (4, 9 + seed % 2), (7, 16)]


def _model_cases(seed: int, with_strength: bool = True, pointer: bool = False) -> list[Case]:
    cases = []
    for d_vocab, n_ctx in _sizes(seed):
        given: dict = {"d_vocab": d_vocab, "n_ctx": n_ctx}
        if with_strength:  # a pointer to several positions is the weaker for each of them
            needed = 12 * (n_ctx if pointer else 1) * layout(d_vocab, n_ctx, pointer).d_model ** 0.5
            given["strength"] = float(round(needed))
        cases.append(Case(given, f"{d_vocab} tokens, n_ctx {n_ctx}"))
    return cases


def _move_cases(seed: int) -> list[Case]:
    k = seed % 3
    return [Case({"d_model": 6 + k, "source": 0, "target": 4 + k, "size": 2, "gain": 1.0}, "to later dimensions"),
            Case({"d_model": 5, "source": 3, "target": 1, "size": 2, "gain": 5.0 + k}, "to earlier dimensions"),
            Case({"d_model": 5, "source": 1, "target": 2, "size": 3, "gain": -2.0}, "slots that overlap"),
            Case({"d_model": 4 + k, "source": 2, "target": 0, "size": 1, "gain": 1.0}, "one dimension")]  # fmt: skip


def _strength_cases(seed: int) -> list[Case]:
    cases = [(16, 1, 0.99, 64), (100, 3, 0.9, 16), (4, 2, 0.5, 9), (512, 1, 0.999, 100)]
    return [Case({"n_keys": n + 5 * seed, "n_matches": m, "share": share, "d_head": d},
                 f"{n + 5 * seed} keys, {m} of them matching") for n, m, share, d in cases]  # fmt: skip


def _text_cases(seed: int) -> list[Case]:
    sizes = [(6, 5), (8, 7), (5 + seed % 4, 9)]
    return [Case({"d_vocab": d_vocab, "n": n}, f"{n} of {d_vocab} tokens") for d_vocab, n in sizes]


# ---- what is measured -------------------------------------------------------------------------------


def _at(given: dict, pointer: bool = False) -> Layout:
    return layout(given["d_vocab"], given["n_ctx"], pointer)


def _run(given: dict, answer: dict, filled: bool) -> tuple[Tensor, Cache]:
    """Random text through one layer with the answer's matrices; ``filled``: the spare slot holds the token before."""
    at, text = _at(given), random_text(given["d_vocab"], given["n_ctx"])
    model = build(at, answer["W_QK"][None], answer["W_OV"][None])
    stream = model.embed(text)
    if filled:
        stream[:, :, at.spare] = one_hot(torch.cat([text[:, :1], text[:, :-1]], 1), at.d_vocab).float()
    return text, model.forward_with_cache(resid=stream)


def _looks(text: Tensor, pattern: Tensor, wanted: str, repeats: bool = True) -> str | None:
    """A sentence on where the attention goes instead of ``wanted``."""
    found = where_it_looks(text, pattern, repeats)
    share = found.pop(wanted)
    most = max(found, key=found.__getitem__)
    instead = f" {most.capitalize()}: {found[most]:.3f}." if found[most] > share else ""
    return None if share > ENOUGH else f"attention on {wanted}: {share:.3f}; expected more than {ENOUGH}.{instead}"


def _previous(given: dict, answer: dict) -> str | None:
    text, cache = _run(given, answer, filled=False)
    return _looks(text, cache.patterns[0][:, 0], "the position before", repeats=False)


def _same_for_all_text(given: dict, answer: dict) -> str | None:
    pattern = _run(given, answer, filled=False)[1].patterns[0][:, 0]
    gap = float((pattern - pattern[:1]).abs().max())
    return None if gap < 1e-4 else f"two texts of one length get patterns that differ by {gap:.3f}."


def _written(given: dict, answer: dict, slot: str, filled: bool) -> str | None:
    """The slot holds what the pattern brought: tokens, mixed with the weights of the pattern; others stay."""
    text, cache = _run(given, answer, filled)
    at, wrote = _at(given), cache.resid[1] - cache.resid[0]
    brought = cache.patterns[0][:, 0] @ one_hot(text, at.d_vocab).float()
    for name in ("position", "token", "spare", "out"):
        part = wrote[:, :, getattr(at, name)]
        off = float((part - brought if name == slot else part).abs().max())
        if name == slot and not off <= 0.01:  # NaN is off as well
            return f"slot {name!r} does not hold the attended token: off by up to {off:.3g}."
        if name != slot and not off <= 1e-4:
            return f"slot {name!r} is written to as well, up to {off:.3g}."
    return None


def _matches(given: dict, answer: dict) -> str | None:
    text, cache = _run(given, answer, filled=True)
    return _looks(text, cache.patterns[0][:, 0], "the tokens after earlier occurrences")


def _model_of(given: dict, answer: dict) -> Transformer:
    """The model of an answer: one or two layers; W_OV of a last layer that is not given is 0."""
    W_QK, W_OV = (torch.as_tensor(answer[key]).float() for key in ("W_QK", "W_OV"))
    pointer, W_QK = W_OV.ndim < W_QK.ndim, W_QK if W_QK.ndim == 3 else W_QK[None]
    W_OV = W_OV if W_OV.ndim == 3 else torch.stack([W_OV, torch.zeros_like(W_OV)][: len(W_QK)])
    return build(_at(given, pointer), W_QK, W_OV, answer.get("alpha"))


def _whole_matches(given: dict, answer: dict) -> str | None:
    model, text = _model_of(given, answer), random_text(given["d_vocab"], given["n_ctx"])
    score = float(prefix_matching(model, text)[-1, 0])
    told = _looks(text, model.forward_with_cache(text).patterns[-1][:, 0], "the tokens after earlier occurrences")
    return None if score > ENOUGH else f"in the last layer, {told or f'prefix matching is {score:.3f}.'}"


def _predicts(given: dict, answer: dict) -> str | None:
    text, first = repeated_text(given["d_vocab"], given["n_ctx"]), given["d_vocab"]  # position of the first repeat
    said = _model_of(given, answer)(text)[0, first:-1].softmax(-1)
    right = float(said.gather(1, text[0, first + 1 :, None]).min())
    return None if right > 0.9 else f"on {text[0].tolist()}, after a token that repeats, the right next one gets " \
        f"probability {right:.3f} somewhere; expected more than 0.9."  # fmt: skip


def _reads_pointers(given: dict, answer: dict) -> str | None:
    """Q-composition: what layer 1 asks for comes from the pointer alone, and it is asked of positions alone."""
    at, W = _at(given, pointer=True), torch.as_tensor(answer["W_QK"])[1].clone()
    W[at.spare, at.position] = 0
    return None if float(W.abs().max()) < 1e-6 else \
        "W_QK of layer 1 is not 0 outside of the rows of `spare` and the columns of `position`."  # fmt: skip


def _ids_in_range(given: dict, answer: dict) -> str | None:
    for key in ("first", "second"):
        found = answer[key]
        if len(found) != given["n"] or not all(isinstance(i, int) and 1 <= i < given["d_vocab"] for i in found):
            return f"{key!r} is {found}; expected {given['n']} whole numbers from 1 to {given['d_vocab'] - 1}."
    return None


def _successor(text: list[int]) -> int | None:
    """The position after the only earlier occurrence of the last token, or None."""
    earlier = [i for i, token in enumerate(text[:-1]) if token == text[-1]]
    return earlier[0] + 1 if len(earlier) == 1 else None


def _one_earlier(given: dict, answer: dict) -> str | None:
    for key in ("first", "second"):
        text = answer[key]
        if _successor(text) is None:
            return f"in {key!r} = {text} the last token occurs {text[:-1].count(text[-1])} times before; expected once."
    return None


def _other_targets(given: dict, answer: dict) -> str | None:
    text, at, other = answer["first"], _successor(answer["first"]), _successor(answer["second"])
    if at == other:
        return f"in both texts an induction head must look at position {at}; expected two different positions."
    same = text[at] == text[other]
    return f"both targets hold token {text[at]}, so a head that looks at both continues both texts." if same else None


def _same_view(given: dict, answer: dict) -> str | None:
    """The query and both competing keys are the same token at the same position in both texts."""
    first, second = answer["first"], answer["second"]
    for what, i in (("query", -1), *(("key", _successor(text)) for text in (first, second))):
        if first[i] != second[i]:
            return f"the {what} at position {i % len(first)} is token {first[i]} in the first text and {second[i]} " \
                "in the second: one layer can tell the texts apart there."  # fmt: skip
    return None


# ---- questions --------------------------------------------------------------------------------------

_HEAD = {"W_QK": lambda g: (_at(g).d_model,) * 2, "W_OV": lambda g: (_at(g).d_model,) * 2}
_MODEL = {key: lambda g: (2, *(_at(g).d_model,) * 2) for key in ("W_QK", "W_OV")}
_POINTER = {"W_QK": lambda g: (2, *(_at(g, True).d_model,) * 2), "W_OV": lambda g: (_at(g, True).d_model,) * 2}
_ALPHA = Rule("alpha is a number", lambda g, a, e: number().broken(g, a["alpha"], e), structural=True)
_STREAM = "Rows are what a matrix reads, columns what it writes (W_OV) or what the key has (W_QK)."

QUESTIONS = (
    Question(
        "a2.q1", "Move a slot", "move", 2, 8, 1, _move_cases,
        (array(lambda g: (g["d_model"],) * 2, "float"), finite(), agrees()),
        "Send the first one-hot vector of the source through your matrix: which dimension should be on?",
    ),
    Question(
        "a2.q2", "How strong is strong enough?", "strength_for", 2, 10, 1, _strength_cases,
        (number(), finite(), agrees(1e-3)),
        "Write down the attention on the matching keys as a fraction, then solve for the score.",
    ),
    Question(
        "a2.q3", "A previous-token head", "previous_token_head", 3, 15, 2, _model_cases,
        (keys("W_QK", "W_OV"), parts(_HEAD), finite(), holds("attends to the token before", _previous, _STREAM),
         holds("the pattern does not depend on the tokens", _same_for_all_text, "Which slots may W_QK read?"),
         holds("writes the token before into spare", lambda g, a: _written(g, a, "spare", False), _STREAM)),
    ),
    Question(
        "a2.q4", "An induction head on top", "induction_head", 3, 15, 2, _model_cases,
        (keys("W_QK", "W_OV"), parts(_HEAD), finite(),
         holds("attends to what followed", _matches, "Which slot of the key says what stood before it?"),
         holds("writes the attended token into out", lambda g, a: _written(g, a, "out", True), _STREAM)),
    ),
    Question(
        "a2.q5", "The whole model", "induction_model", 3, 10, 2, partial(_model_cases, with_strength=False),
        (keys("W_QK", "W_OV"), parts(_MODEL), finite(),
         holds("prefix matching above 0.99", _whole_matches, "Look at the two heads one after the other."),
         holds("predicts the next token", _predicts, "What arrives in the slot that W_U reads?")),
    ),
    Question(
        "a2.q6", "Predict, then break it", "still_works", 1, 10, 2, lambda seed: [Case({}, "six changes")],
        (keys(*CHANGES, of=bool), agrees(hint="Make the change in the cell below and measure.")),
        kind="value",
    ),
    Question(
        "a2.q7", "Why one layer cannot", "two_texts", 2, 12, 2, _text_cases,
        (keys("first", "second", of=list), holds("tokens in range", _ids_in_range),
         holds("one earlier occurrence of the last token", _one_earlier, "Count it in both texts."),
         holds("the targets differ", _other_targets, "The token before each of the two keys decides; the keys differ."),
         holds("one layer sees the same", _same_view, "Change only tokens that are neither query nor target.")),
    ),
    Question(
        "a2.q8", "One layer with smeared keys", "smeared_head", 2, 12, 3, _model_cases,
        (keys("W_QK", "W_OV", "alpha"), parts(_HEAD), _ALPHA, finite(),
         holds("prefix matching above 0.99", _whole_matches, "What is in a key when sigmoid(alpha) is near 0?"),
         holds("predicts the next token", _predicts, "Only keys are smeared; values are not.")),
    ),
    Question(
        "a2.q9", "Another way: a pointer", "pointer_model", 2, 20, 3, partial(_model_cases, pointer=True),
        (keys("W_QK", "W_OV"), parts(_POINTER), finite(),
         holds("layer 1 reads the pointer", _reads_pointers, "The query side reads `spare`, the key side `position`."),
         holds("prefix matching above 0.99", _whole_matches,
               "Look at what layer 0 has written into `spare`, and at what layer 1 makes of the last pointer.")),
    ),
)
