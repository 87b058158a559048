"""Hints at answers that look alike. A hint is no finding: short exercises have few right answers."""

from __future__ import annotations

import ast
import builtins
import itertools
import keyword
import re
from collections import Counter
from dataclasses import dataclass

LENGTH = 5  # tokens of a shingle
LEAST = 0.8  # shared part of the shingles
LONGER = 1.3  # than the stub
SHORTEST = 25  # tokens
KNOWN = frozenset(dir(builtins)) | frozenset(keyword.kwlist)


@dataclass(frozen=True)
class Hint:
    """Two answers to one question that share most of their code, names aside."""

    question: str
    a: str  # ids of the students
    b: str
    shared: float  # Jaccard index of the shingles
    others: int  # answers to this question that are as close to one of the two


def tokens(source: str) -> list[str]:
    """A definition's code as words: own names by order of appearance, no comments, docstrings or layout."""
    try:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        plain = ast.unparse(tree)
        own = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        own |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    numbers: dict[str, str] = {}
    return [numbers.setdefault(word, f"name{len(numbers)}") if word in own - KNOWN else word
            for word in re.findall(r"\w+|[^\w\s]", plain)]  # fmt: skip


def shingles(source: str) -> frozenset[tuple[str, ...]]:
    """All runs of five words."""
    words = tokens(source)
    return frozenset(tuple(words[i : i + LENGTH]) for i in range(max(0, len(words) - LENGTH + 1)))


def hints(answers: dict[str, dict[str, str]], stubs: dict[str, str] | None = None, least: float = LEAST) -> list[Hint]:
    """Pairs that share at least ``least`` of their shingles, most unusual first.

    Args:
        answers: student -> question -> source.
        stubs: question -> source as shipped; what it shares with everybody counts for nothing.
    """
    found = []
    for question in sorted({name for own in answers.values() for name in own}):
        stub = (stubs or {}).get(question, "")
        common, shortest = shingles(stub), LONGER * len(tokens(stub))
        sets = {who: shingles(own[question]) - common for who, own in sorted(answers.items())
                if len(tokens(own.get(question, ""))) > max(shortest, SHORTEST)}  # fmt: skip
        pairs = [(a, b, jaccard(sets[a], sets[b])) for a, b in itertools.combinations(sets, 2)]
        close = [pair for pair in pairs if pair[2] >= least]
        degree = Counter(who for a, b, _ in close for who in (a, b))
        found += [Hint(question, a, b, shared, max(degree[a], degree[b]) - 1) for a, b, shared in close]
    return sorted(found, key=lambda h: (h.others, -h.shared, h.question, h.a, h.b))


def jaccard(a: frozenset, b: frozenset) -> float:
    """Size of what both have over the size of what either has; 0 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 0.0
