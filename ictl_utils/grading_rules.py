"""Rules that an answer must keep, and the sentences that say which one it breaks and by how much."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from .answers import plain_number
from .grading_words import (
    as_array,
    described,
    difference,
    digits,
    index,
    kind,
    leaves,
    listed,
    numeric,
    of_part,
    small,
    word_count,
)

Broken = Callable[[dict, Any, Any], str | None]
Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Rule:
    """A property of a right answer.

    ``broken(given, answer, expected)`` returns None where the property holds, else a sentence with the numbers
    that show that it does not; ``expected`` is None where no right answer is at hand.
    """

    name: str  # "rows sum to 1"
    broken: Broken
    hint: str = ""
    structural: bool = False  # about type, shape and keys: looked at first
    tolerance: float | None = None  # of `agrees`


def array(shape: Shape | Callable[[dict], Shape], dtype: str | None = None, hint: str = "") -> Rule:
    """A tensor or array of this shape (None: any length), and of kind ``float``, ``int``, ``bool`` or ``complex``."""

    def broken(given: dict, answer: Any, expected: Any) -> str | None:
        if not isinstance(answer, torch.Tensor | np.ndarray):
            return f"yours is {described(answer)}; expected a tensor or array."
        wanted = tuple(shape(given) if callable(shape) else shape)
        yours = tuple(answer.shape)
        if len(yours) != len(wanted) or any(w not in (None, y) for y, w in zip(yours, wanted, strict=True)):
            words = "(" + ", ".join("any" if w is None else str(w) for w in wanted) + ("," if len(wanted) == 1 else "")
            return f"yours has shape {yours}; expected {words})."
        found = kind(answer)
        return f"yours holds {found} numbers; expected {dtype}." if dtype and found != dtype else None

    return Rule("shape", broken, hint, structural=True)


def finite(hint: str = "") -> Rule:
    """No number of the answer, at any depth, is infinite or undefined."""

    def broken(given: dict, answer: Any, expected: Any) -> str | None:
        for path, x in leaves(answer):
            bad = ~np.isfinite(as_array(x)) if numeric(x) else np.zeros(1, bool)
            if bad.any():
                if bad.size == 1:
                    return f"the number{of_part(path)} is inf or nan."
                words = f"{int(bad.sum())} of {bad.size} numbers{of_part(path)} are inf or nan"
                return f"{words}, the first at {index(bad)}."
        return None

    return Rule("all numbers are finite", broken, hint, structural=True)


def number(hint: str = "") -> Rule:
    """The answer is one number."""

    def broken(given: dict, answer: Any, expected: Any) -> str | None:
        return None if plain_number(answer) is not None else f"yours is {described(answer)}; expected one number."

    return Rule("one number", broken, hint, structural=True)


def text(min_words: int = 1, hint: str = "") -> Rule:
    """The answer is text of at least ``min_words`` words."""

    def broken(given: dict, answer: Any, expected: Any) -> str | None:
        if not isinstance(answer, str):
            return f"yours is {described(answer)}; expected text."
        count = word_count(answer)
        return f"yours has {count} words; expected at least {min_words}." if count < min_words else None

    return Rule("text", broken, hint, structural=True)


def keys(*names: Any, of: type | tuple[type, ...] | None = None, hint: str = "") -> Rule:
    """The answer is a dict with exactly these keys (and values of class ``of``)."""
    wanted = tuple(names[0]) if len(names) == 1 and isinstance(names[0], list | tuple | set) else names

    def broken(given: dict, answer: Any, expected: Any) -> str | None:
        if not isinstance(answer, dict):
            return f"yours is {described(answer)}; expected a dict with the keys {listed(wanted)}."
        missing, more = [k for k in wanted if k not in answer], [k for k in answer if k not in wanted]
        if missing or more:
            parts = [f"{word}: {listed(ks)}" for word, ks in (("missing", missing), ("unknown", more)) if ks]
            return f"the keys differ: {'; '.join(parts)}."
        wrong = [k for k in wanted if of and not isinstance(answer[k], of)]
        kinds = " or ".join(kind.__name__ for kind in (of if isinstance(of, tuple) else (of,)) if kind)
        return f"the value of {wrong[0]!r} is {described(answer[wrong[0]])}; expected {kinds}." if wrong else None

    return Rule("keys", broken, hint, structural=True)


def rows_sum_to_one(tolerance: float = 1e-4, hint: str = "") -> Rule:
    """Sums over the last axis are 1."""

    def broken(given: dict, answer: Any, expected: Any) -> str | None:
        total = as_array(answer).sum(-1)
        bad = ~(np.abs(total - 1) <= tolerance)
        if not bad.any():
            return None
        return f"row {index(bad)} sums to {digits(total[bad][0])}; expected 1." + small(answer)

    return Rule("rows sum to 1", broken, hint or "Over which axis does the softmax go? A row is a destination.")


def causal(tolerance: float = 1e-6, hint: str = "") -> Rule:
    """Nothing above the diagonal of the last two axes."""

    def broken(given: dict, answer: Any, expected: Any) -> str | None:
        x = as_array(answer)
        above = np.triu(np.ones(x.shape[-2:], bool), 1)
        bad = ~(np.abs(x) <= tolerance) & above
        if not bad.any():
            return None
        *_, i, j = np.argwhere(bad)[0]
        return f"position {i} attends to position {j}, which comes later, with {digits(x[bad][0])}." + small(answer)

    return Rule("causal", broken, hint or "A token sees itself and what stands before it.")


def between(low: float, high: float, hint: str = "") -> Rule:
    """Every number of the answer lies in [low, high]."""

    def broken(given: dict, answer: Any, expected: Any) -> str | None:
        for path, x in leaves(answer):
            if numeric(x):
                values = as_array(x)
                bad = ~((values >= low) & (values <= high))
                if bad.any():
                    return f"{digits(values[bad][0])}{of_part(path)} is outside of {low:g} to {high:g}."
        return None

    return Rule(f"between {low:g} and {high:g}", broken, hint)


def holds(name: str, test: Callable[..., bool | str | None], hint: str = "") -> Rule:
    """``test(given, answer)`` is true; or returns None if all is well, else the sentence to tell."""

    def broken(given: dict, answer: Any, expected: Any) -> str | None:
        found = test(given, answer)
        if found is None or isinstance(found, str):
            return found or None
        return None if bool(found) else "it does not hold for yours." + small(answer)

    return Rule(name, broken, hint)


def agrees(tolerance: float = 1e-4, hint: str = "") -> Rule:
    """The answer is the expected one; numbers within ``tolerance``, relative above 1."""

    def broken(given: dict, answer: Any, expected: Any) -> str | None:
        return None if expected is None else difference(answer, expected, tolerance)

    return Rule("agrees with a worked case", broken, hint, tolerance=tolerance)


def part(key: str, rule: Rule) -> Rule:
    """``rule`` for one entry of an answer that is a dict."""

    def broken(given: dict, answer: Any, expected: Any) -> str | None:
        words = rule.broken(given, answer[key], None if expected is None else expected[key])
        return words and f"of {key!r}: {words}"

    return Rule(f"{rule.name} ({key})", broken, rule.hint, structural=rule.structural)


def called(name: str, rule: Rule) -> Rule:
    """``rule`` under another name."""
    return replace(rule, name=name)


def of_each(key: str, rule: Rule) -> Rule:
    """``rule`` for every answer of a case that asks for one an entry of the input ``key`` (:attr:`Case.each`)."""

    def broken(given: dict, answer: Any, expected: Any) -> str | None:
        if not isinstance(given[key], list):
            return rule.broken(given, answer, expected)
        found = (rule.broken({**given, key: x}, one, None) for x, one in zip(given[key], answer, strict=True))
        return next((words for words in found if words), None)

    return replace(rule, broken=broken)


def seeds_decide(same: Callable[[Any, Any], bool], key: str = "seed") -> Rule:
    """In a case with several seeds: equal seeds give the same answer, different ones do not."""

    def broken(given: dict, answer: Any, expected: Any) -> str | None:
        if not isinstance(given[key], list):
            return None
        for (i, a), (j, b) in itertools.combinations(zip(given[key], answer, strict=True), 2):
            if same(a, b) != (i == j):
                return f"{key} {i} twice gives two answers." if i == j else f"{key}s {i} and {j} give the same answer."
        return None

    return Rule("the seed decides", broken, "Make one generator from the seed, and draw all random numbers from it.")
