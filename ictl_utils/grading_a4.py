"""Questions of assignment 4, "Knock heads out": what an answer must keep, and what to tell if not."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import cache
from typing import Any

from . import grading_a4_cases as cases
from . import tables
from .answers import plain_number
from .grading import Question
from .grading_rules import (
    Rule,
    agrees,
    array,
    between,
    called,
    finite,
    holds,
    keys,
    number,
    of_each,
    part,
    seeds_decide,
)
from .grading_words import word_count

MODEL, THRESHOLD = "attn-6l", 0.3  # of exercise 9
MOST = 3.0  # nats: more than any model of the book gains from context
LIMITS = 30  # words at least on what the experiment cannot say


def _logits(given: dict) -> tuple[int, ...]:
    return (*given["tokens"].shape, given["model"].cfg.d_vocab)


# ---- control sets ---------------------------------------------------------------------------------


def _pairs(given: dict, answer: Any) -> str | None:
    if not isinstance(answer, list | tuple) or not all(isinstance(one, list | tuple) for one in answer):
        return "expected a list of sets, each a list of [layer, head]."
    for one in answer:
        bad = [x for x in one if not _is_pair(x)]
        if bad:
            return f"{bad[0]!r} is not a [layer, head]."
    return None if len(answer) == given["n"] else f"yours has {len(answer)} sets; expected {given['n']}."


def _is_pair(x: Any) -> bool:
    return isinstance(x, list | tuple) and len(x) == 2 and all(type(i) is int for i in x)


def _sets(answer: Any) -> list[list[tuple[int, int]]]:
    return [[(layer, head) for layer, head in one] for one in answer]


def _exist(given: dict, answer: Any) -> str | None:
    for layer, head in itertools.chain(*_sets(answer)):
        if not (0 <= layer < given["n_layers"] and 0 <= head < given["n_heads"]):
            return f"L{layer}H{head} is not in a model of {given['n_layers']} layers of {given['n_heads']} heads."
    return None


def _matched(given: dict, answer: Any) -> str | None:
    wanted = Counter(layer for layer, _ in given["heads"])
    for one in _sets(answer):
        found = Counter(layer for layer, _ in one)
        if found != wanted:
            layer = min(layer for layer in wanted | found if wanted[layer] != found[layer])
            return f"a control set has {found[layer]} heads in layer {layer}; the tested set has {wanted[layer]}."
    return None


def _apart(given: dict, answer: Any) -> str | None:
    tested = {tuple(head) for head in given["heads"]}
    both = [head for head in itertools.chain(*_sets(answer)) if head in tested]
    return f"L{both[0][0]}H{both[0][1]} is one of the tested heads, and stands in a control set." if both else None


def _once_each(given: dict, answer: Any) -> str | None:
    twice = [one for one in _sets(answer) if len(set(one)) < len(one)]
    return f"a control set holds a head twice: {twice[0]}." if twice else None


def _different(given: dict, answer: Any) -> str | None:
    found = {frozenset(one) for one in _sets(answer)}
    return f"only {len(found)} of {len(answer)} sets are different." if len(found) < len(answer) else None


def _drawn(given: dict, answer: Any) -> str | None:
    if given["n_heads"] < 20:
        return None
    found = [head for _, head in itertools.chain(*_sets(answer))]
    for side, off in (("first", max(found) + 1), ("last", given["n_heads"] - min(found))):
        if off <= 10:
            return f"all controls are among the {side} {off} of {given['n_heads']} heads."
    return None


def _same_sets(a: Any, b: Any) -> bool:
    return {frozenset(one) for one in _sets(a)} == {frozenset(one) for one in _sets(b)}


# ---- the verdict ----------------------------------------------------------------------------------


@cache
def measured() -> dict[str, Any]:
    """What the package's tables hold on the model of exercise 9: its induction heads, and the joint effects."""
    found = tables.read()
    heads = tables.select(found, "heads", name=MODEL, init_seed=0, data_seed=0)
    last = heads[(heads["snapshot"] == heads["snapshot"].max()) & (heads["prefix_matching"] > THRESHOLD)]
    facts = tables.select(found, "facts", name=MODEL, init_seed=0, data_seed=0, measure="joint_icl_change_nats")
    joint = facts[facts["item"].str.endswith(", induction")]["value"]
    return {"heads": {(int(a), int(b)) for a, b in last[["layer", "head"]].to_numpy()}, "joint": joint.tolist()}


def _induction_heads(given: dict, answer: Any) -> str | None:
    if not isinstance(answer["heads"], list | tuple) or not all(_is_pair(x) for x in answer["heads"]):
        return "'heads' must be a list of [layer, head]."
    yours, there = {tuple(x) for x in answer["heads"]}, measured()["heads"]
    if yours == there:
        return None
    more, less = len(yours - there), len(there - yours)
    return f"{more} of your heads have a prefix matching score of at most {THRESHOLD}; {less} others have a higher one."


def _control_effects(given: dict, answer: Any) -> str | None:
    values = answer["controls"]
    if not isinstance(values, list | tuple) or any(plain_number(x) is None for x in values):
        return "'controls' must be a list of numbers, one a control set."
    if len(values) < 2:
        return f"there are {len(values)} control sets; use at least 2."
    sizes = [abs(plain_number(x)) for x in values]
    if max(sizes) == 0:
        return "all effects are exactly 0; heads that are taken out change the score at least a little."
    return f"an effect of {max(sizes):.3g} nats is more than these models can lose." if max(sizes) > MOST else None


def _joint_effect(given: dict, answer: Any) -> str | None:
    joint, se = plain_number(answer["joint"]), plain_number(answer["se"])
    near = any(abs(joint - x) <= 0.3 * abs(x) + 3 * se for x in measured()["joint"])
    if near and 0 < se < min(0.3, joint / 2):
        return None
    if near:
        return f"{joint:.3g} nats fits; a standard error of {se:.3g} does not: it is one standard error of the mean."
    return f"{joint:.3g} nats with a standard error of {se:.3g} is far from what these heads do in this model."


def _criterion(given: dict, answer: Any) -> str | None:
    least, times = plain_number(answer["least"]), plain_number(answer["times"])
    if least < 0.05:
        return f"a joint effect of {least:.3g} nats would do: such small ones are within the noise."
    if times < 1.5:
        return f"the tested heads need only {times:.3g} times the effect of controls: that is hardly more than they do."
    if least > MOST or times > 100:
        return f"no heads of any model could meet it: {least:.3g} nats, and {times:.3g} times the controls."
    return None


def _follows(given: dict, answer: Any) -> str | None:
    if not isinstance(answer["holds"], bool):
        return "'holds' must be True or False."
    joint, se, least, times = (plain_number(answer[name]) for name in ("joint", "se", "least", "times"))
    low, largest = joint - 2 * se, max(abs(plain_number(x)) for x in answer["controls"])
    meets = low >= least and joint >= times * largest
    if meets == answer["holds"]:
        return None
    return (f"'holds' is {answer['holds']}. The joint effect less 2 errors is {low:.3g}, the least {least:.4g}. "
            f"The largest control is {largest:.3g}, to be taken {times:.4g} times.")  # fmt: skip


def _limits(given: dict, answer: Any) -> str | None:
    if not isinstance(answer["limits"], str):
        return "'limits' must be text."
    count = word_count(answer["limits"])
    return f"'limits' has {count} words; use at least {LIMITS}." if count < LIMITS else None


# ---- questions ------------------------------------------------------------------------------------

_CHANGE = (keys("change", "se"), finite(), part("change", number()), part("se", number()),
           part("se", called("not negative", between(0, float("inf")))))  # fmt: skip

QUESTIONS = (
    Question(
        "a4.q1", "A layer without one head", "without_head", 1, 5, 1, cases.layers,
        (array(lambda g: g["resid"].shape, "float", "The residual stream keeps its shape."), finite(), agrees()),
        "Heads add to the stream one beside the other. The sum without one of them is the rest of the sum."),
    Question(
        "a4.q2", "Put something else in place of a head", "with_result", 3, 15, 2, cases.replacements,
        (array(_logits, "float", "Logits of all tokens: [batch, pos, d_vocab]."), finite(), agrees(1e-3)),
        "Change the stream right after the layer of the head, and let every later layer read the changed stream."),
    Question(
        "a4.q3", "Keep the patterns", "patterns_kept", 3, 15, 2, cases.kept,
        (array(_logits, "float", "Logits of all tokens: [batch, pos, d_vocab]."), finite(), agrees(1e-3)),
        "Two passes: which patterns does the first record, and what is different in the second?"),
    Question(
        "a4.q4", "What stands in for a head", "stand_in", 2, 10, 1, cases.fills,
        (array(lambda g: g["results"].shape, "float", "As many windows and positions as before."), finite(), agrees()),
        "Each position of each window gets something from the same position: zeros, a mean, or another window's."),
    Question(
        "a4.q5", "The effect of a head", "effect", 2, 10, 2, cases.losses, (*_CHANGE, agrees()),
        "One number a window: how much its own score changed. Then mean and standard error of these numbers."),
    Question(
        "a4.q6", "Control sets", "control_sets", 3, 15, 3, cases.controls,
        (*(of_each("seed", rule) for rule in (
         Rule("a list of sets of heads", lambda g, a, e: _pairs(g, a), structural=True),
         holds("heads of this model", _exist, "Layers and heads count from 0."),
         holds("none of the tested heads", _apart, "A control that holds a tested head has part of the effect."),
         holds("a head once in a set", _once_each, "Draw without replacement."),
         holds("as many heads in each layer", _matched, "Late layers matter more than early ones whatever their heads "
               "do, so controls come from the same layers."),
         holds("different sets", _different, "Draw until there are enough different ones."),
         holds("drawn at random", _drawn, "The first or last heads in order are no random draw."))),
         seeds_decide(_same_sets)),
        "Draw layer by layer: from the other heads of a layer, as many as the tested set has there."),
    Question(
        "a4.q7", "Attribution to the change", "attribution", 2, 10, 2, cases.vectors, (number(), finite(), agrees()),
        "First a direction of length 1; then how far the ablation moves the losses along it."),
    Question(
        "a4.q8", "More than the sum", "redundancy", 2, 10, 2, cases.subsets,
        (keys("joint", "sum", "last"), finite(), part("joint", number()), part("sum", number()), agrees()),
        "Names in `effects` are joined in the order of `heads`. Without any head taken out the effect is 0."),
    Question(
        "a4.q9", "A verdict", "verdict", 2, 20, 3, cases.once,
        (keys("least", "times", "heads", "joint", "se", "controls", "holds", "limits"), finite(),
         *(part(name, number()) for name in ("least", "times", "joint", "se")),
         holds("a criterion that could fail", _criterion, "Which result would have made you give the claim up?"),
         holds("the induction heads of the model", _induction_heads, "Print the scores: "
               "`tables.select(tables.read(), \"heads\", name=\"attn-6l\", init_seed=0, data_seed=0)`, last snapshot."),
         holds("effects of control sets", _control_effects, "One number for each set of exercise 6."),
         holds("the measured effect", _joint_effect, "Take all the induction heads out together, on held-out text."),
         holds("the verdict follows from the criterion", _follows, "Change neither the criterion nor the numbers: "
               "change the verdict."),
         holds("limits are named", _limits, "How many models, which text, which kind of ablation, which score?")),
        kind="value"),
)
