"""Questions of assignment 3, "Measure in-context learning": what an answer must keep, and what to tell if not."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import grading_a3_cases as cases
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
from .tokens import BOS

KINDS = ("fine", "training text", "wrong token scored", "padding counted", "averaged after exp", "too short windows",
         "sign", "wrong error", "fixed period", "earlier copy itself", "mean of entries")
"""What may be said of a line of the faulty measurement in exercise 9."""
SHARE = "between 0 and 1"
LINES = "ABCDEFGHIJ"
EXPERIMENTS = {
    "A": "How would the result change if the model had learnt its training text by heart?",
    "B": "Write down, for a window of four tokens, which row of the logits is compared with which token.",
    "C": "Take a window with 3 tokens and padding after them. How many of its losses are real, and how many are kept?",
    "D": "Take two tokens with losses 0 and 10 nats. What is their mean loss, and what does the line give?",
    "E": "Which is the last loss that the late range needs? Is it real in every window that is kept?",
    "F": "Should a model that uses its context get a negative score or a positive one? Which does it get here?",
    "G": "What varies from window to window: the two losses, or their difference? Of which is the error taken?",
    "H": "Would a head that always looks 24 positions back, whatever stands there, score well on this probe?",
    "I": "In A B ... A, which column does the row of the second A count: that of the first A, or that of the B?",
    "J": "Give a perfect head four repeats of a block. Which score comes out, and should it be 1?",
}


# ---- rules of their own ---------------------------------------------------------------------------


def _sure_is_cheap(given: dict, answer: Any) -> str | None:
    if float(given["logits"].max()) != 60.0 or float(answer.max()) < 0.01:
        return None
    return f"the model is sure of the right next token everywhere, and yet a loss is {float(answer.max()):.3g} nats."


def _first_tokens(given: dict, answer: Any) -> str | None:
    rows = np.asarray(answer)
    if (rows[:, 0] != BOS).any():
        return f"row {int((rows[:, 0] != BOS).argmax())} begins with {int(rows[:, 0][rows[:, 0] != BOS][0])}."
    return f"{BOS} stands again after the beginning of a row." if (rows[:, 1:] == BOS).any() else None


def _from_ids(given: dict, answer: Any) -> str | None:
    other = np.setdiff1d(np.asarray(answer)[:, 1:], given["ids"])
    return f"token {int(other[0])} is not among the ids that may be used." if len(other) else None


def _distinct(given: dict, answer: Any) -> str | None:
    for i, row in enumerate(np.asarray(answer)[:, 1 : 1 + given["length"]]):
        found = len(set(row.tolist()))
        if found < len(row):
            return f"the first block of row {i} has {len(row)} tokens, but only {found} different ones."
    return None


def _repeats(given: dict, answer: Any) -> str | None:
    blocks = np.asarray(answer)[:, 1:].reshape(given["n"], given["repeats"], given["length"])
    off = np.argwhere((blocks != blocks[:, :1]).any(axis=2))
    return f"block {off[0][1]} of row {off[0][0]} is not a copy of that row's first block." if len(off) else None


def _rows_differ(given: dict, answer: Any) -> str | None:
    rows = {tuple(sorted(set(row))) for row in np.asarray(answer).tolist()}
    few = given["n"] > 1 and len(given["ids"]) > given["length"] and len(rows) == 1
    return f"all {given['n']} rows have the same tokens." if few else None


def _random_order(given: dict, answer: Any) -> str | None:
    """Blocks that go through the ids upwards or downwards, from any token on."""
    up = np.diff(np.asarray(answer).astype(np.int64)[:, 1 : 1 + given["length"]]) > 0
    turns = np.minimum(up.sum(1), (~up).sum(1))
    ordered = (given["length"] > 4 and not turns.any()) or (given["length"] > 7 and (turns <= 1).all())
    return "the tokens of every block stand in the order of the ids." if ordered else None


def _inside(given: dict, answer: Any) -> str | None:
    start, end, tokens = plain_number(answer["start"]), plain_number(answer["end"]), given["tokens"]
    if tokens[0] <= start < end <= tokens[-1]:
        return None
    return f"from {start:.4g} to {end:.4g} is no stretch of a run from {tokens[0]:.4g} to {tokens[-1]:.4g} tokens."


def _opposite(key: str, hint: str) -> Rule:
    def broken(given: dict, answer: Any, expected: Any) -> str | None:
        yours = plain_number(answer[key])
        if expected is None or abs(yours) < 1e-3 or abs(yours + plain_number(expected[key])) > 1e-4:
            return None
        return f"yours is {yours:.4g}; the size is right, the sign is not."

    return Rule("sign", broken, hint)


def _last_row_positive(given: dict, answer: Any) -> str | None:
    last = [float(x) for x in answer["path"][-1]]
    return f"the last row is {last[0]:.3g}, {last[1]:.3g}." if min(last) < -1e-6 else None


def _named(given: dict, answer: Any, expected: Any) -> str | None:
    """The lines of one case; ``expected`` has all lines."""
    unknown = [answer[line] for line in given["lines"] if answer[line] not in KINDS]
    if unknown:
        return f"{unknown[0]!r} is none of the names that may be given: {', '.join(KINDS)}."
    wrong = [line for line in LINES if expected is not None and expected[line] != answer[line]]
    here = [line for line in wrong if line in given["lines"]]
    right = len(LINES) - len(wrong)
    return f"{right} of {len(LINES)} lines are named rightly.\nLine {here[0]}: {EXPERIMENTS[here[0]]}" if here else None


# ---- questions ------------------------------------------------------------------------------------


QUESTIONS = (
    Question(
        "a3.q1", "Losses from logits", "token_losses", 2, 10, 1, cases.logits,
        (array(lambda g: (g["tokens"].shape[0], g["tokens"].shape[1] - 1), "float",
               "The last token is not predicted from anything that follows, and the first is predicted by nothing."),
         finite("exp of a large number overflows. `log_softmax` takes the largest logit off first."),
         called("no loss is negative", between(-1e-4, float("inf"), "It is minus the logarithm of a probability.")),
         holds("sure and right costs nothing", _sure_is_cheap, "Which row of logits predicts which token?"),
         agrees()),
        "Work one window of three tokens by hand: which row of the logits is read at which token?"),
    Question(
        "a3.q2", "Loss by position", "loss_by_position", 1, 10, 1, cases.padded,
        (array(lambda g: (g["losses"].shape[1],), "float", "One number a position: the windows are averaged away."),
         finite(), agrees()),
        "Count, for one short window, how many of its columns are the loss of a real token."),
    Question(
        "a3.q3", "The ICL score and its error", "icl_score", 3, 15, 2, cases.windows,
        (keys("score", "se"), finite(), part("score", number()), part("se", number()),
         _opposite("score", "By its definition the score is the late loss minus the early one."),
         part("se", called("not negative", between(0, float("inf")))), agrees()),
        "Make one number a window first. The score is their mean; the error is that of a mean of so many numbers."),
    Question(
        "a3.q4", "Repeated random tokens", "repeated_probe", 1, 10, 2, cases.probes,
        (*(of_each("seed", rule) for rule in (
         array(lambda g: (g["n"], 1 + g["length"] * g["repeats"]), "int",
               "One token <bos>, then the repeats of a block."),
         holds("<bos> first and only there", _first_tokens, "Id 0 opens every sequence, as in training."),
         holds("only the ids that may be used", _from_ids, "Draw from `ids`, not from a range of numbers."),
         holds("a block holds different tokens", _distinct, "Draw without replacement: a token that comes twice in a "
               "block has two successors."),
         holds("every block is a copy of the first", _repeats, "Draw one block a row, then repeat it."),
         holds("a random order", _random_order, "Sorted tokens, from whichever on, are no random tokens."),
         holds("every row has a block of its own", _rows_differ, "Draw a new block for every row."))),
         seeds_decide(np.array_equal)),
        "Print a small one: `repeated_probe(np.arange(1, 50), 2, 4, 3, seed=0)`."),
    Question(
        "a3.q5", "Attention to the token before", "previous_token", 1, 5, 1, cases.patterns,
        (array(lambda g: (g["pattern"].shape[1],), "float", "One number a head."), finite(),
         called(SHARE, between(-1e-6, 1 + 1e-6, "It is a mean of shares of attention.")), agrees()),
        "A row is where attention comes from, a column where it goes to. Row 0 has nothing before it."),
    Question(
        "a3.q6", "Prefix matching", "prefix_matching", 3, 15, 3, cases.matching,
        (number(), finite(), called(SHARE, between(-1e-6, 1 + 1e-6, "Within a row attention sums to 1, so no sum over "
                                                   "part of a row is larger.")), agrees()),
        "Write the sequence A B C A down, and mark in the row of the second A the columns that count."),
    Question(
        "a3.q7", "A window by rule", "phase_window", 2, 15, 3, cases.series,
        (keys("start", "end"), finite(), part("start", number()), part("end", number()),
         holds("a stretch of the run", _inside, "Start and end are training tokens, not numbers of snapshots."),
         agrees()),
        "Draw the fall over the grid, with a line at `share` times its peak, for the case that differs."),
    Question(
        "a3.q8", "The path of the losses", "loss_path", 2, 10, 2, cases.vectors,
        (keys("path", "share"), finite(),
         part("path", array(lambda g: (len(g["losses"]), 2), "float", "One row a snapshot, one column a component.")),
         part("share", array((2,), "float")),
         part("share", called(SHARE, between(0, 1 + 1e-6, "A share of all variance."))),
         holds("the last row is not negative", _last_row_positive, "Components have no sign; turn them so."),
         agrees()),
        "Check that every column of the path has mean 0, and that the shares of all components sum to 1."),
    Question(
        "a3.q9", "Find the traps", "findings", 3, 20, 3, cases.pairs,
        (keys(*LINES, of=str, hint="One entry a line, each one of the names in the list."),
         Rule("every line is named rightly", _named, tolerance=agrees().tolerance)),
        "Some of the lines are fine.", kind="value"),
    Question(
        "a3.q10", "Repair it", "measure", 2, 10, 3, cases.models,
        (keys("loss", "icl", "icl_se", "prefix"), finite(), part("loss", number()), part("icl", number()),
         part("icl_se", number()),
         part("prefix", array(lambda g: (g["model"].cfg.n_layers, g["model"].cfg.n_heads), "float")),
         _opposite("icl", "By its definition the score is the late loss minus the early one."),
         part("prefix", called(SHARE, between(-1e-6, 1 + 1e-6))), agrees(1e-3)),
        "Compare the entries of the dict one by one with what exercises 1 to 6 give."),
)
