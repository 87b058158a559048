"""A small assignment of two questions, with its instructor notebook, for the tests of the coursework tools.

No real assignment asks either: this file is in the students' repository too.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import torch

from ictl_utils.grading import Case, Question
from ictl_utils.grading_rules import agrees, array, causal, finite, keys, rows_sum_to_one

COLAB = '''import sys

if "google.colab" in sys.modules:
    %pip install -q "ictl-utils @ git+https://github.com/OWNER/REPO@main"'''

ANSWER = '''# {a}.q1
def nearness(q, k):
    """How near each point is to the points so far, as shares.

    Args:
        q, k: points, pos dim.

    Returns:
        pos pos; a row is a destination.
    """
    ### BEGIN SOLUTION
    near = (1 / (1 + torch.cdist(q, k))).tril()
    return near / near.sum(1, keepdim=True)
    ### END SOLUTION'''

MISTAKES = '''def not_rooted(q, k):
    """These are squared distances: take the root."""
    return _shares(torch.cdist(q, k) ** 2)


def not_causal(q, k):
    """Points look ahead: leave out what comes later before you take shares."""
    near = 1 / (1 + torch.cdist(q, k))
    return near / near.sum(1, keepdim=True)


def wrong_axis(q, k):
    """You take shares over destinations: each destination shares out one unit."""
    return _shares(torch.cdist(q, k), 0)


def transposed(q, k):
    """Rows and columns are exchanged: a row is a destination."""
    return _shares(torch.cdist(q, k)).T


def _shares(distance, axis=1):
    near = (1 / (1 + distance)).tril()
    return near / near.sum(axis, keepdim=True)'''

VALUE = '''# {a}.q2
### BEGIN SOLUTION
roles = {{"moves": "the OV circuit", "looks": 2}}
### END SOLUTION'''

VALUE_MISTAKES = "\n\n\n".join(
    f'def {name}():\n    """{message}"""\n    return {value}'
    for name, message, value in (
        ("exchanged", "The two are exchanged.", '{"moves": "the QK circuit", "looks": 2}'),
        ("one_more", "One too many.", '{"moves": "the OV circuit", "looks": 3}'),
        ("negative", "A sign is wrong.", '{"moves": "the OV circuit", "looks": -2}'),
        ("nobody", "Somebody moves.", '{"moves": "none", "looks": 2}'),
    )
)

PICTURE = """import matplotlib.pyplot as plt

fig, ax = plt.subplots(figsize=(3, 2))
ax.imshow(nearness(*torch.ones(2, 3, 2)))
ax.set_title("All points alike");"""


def cases(seed: int) -> list[Case]:
    """Points of three sizes."""
    draw = torch.Generator().manual_seed(seed)
    sizes = ((5, 4, "five points"), (2, 3, "two points"), (1, 2, "one point"))
    return [Case({"q": torch.randn(n, d, generator=draw), "k": torch.randn(n, d, generator=draw)}, note)
            for n, d, note in sizes]  # fmt: skip


def questions(a: str) -> tuple[Question, ...]:
    """One question that asks for a function, one that asks for a value."""
    square = array(lambda given: (len(given["q"]), len(given["q"])), "float")
    return (
        Question(f"{a}.q1", "Nearness", "nearness", 12, 10, 1, cases,
                 (square, finite(), rows_sum_to_one(), causal(), agrees()), "Divide by what?"),
        Question(f"{a}.q2", "Roles", "roles", 8, 5, 2, lambda seed: [Case({})],
                 (keys("moves", "looks"), agrees()), "Read it again.", kind="value"),
    )  # fmt: skip


def cell(kind: str, name: str, source: str, *tags: str) -> dict:
    """One cell of a notebook file."""
    found = {"cell_type": kind, "id": name, "metadata": {"tags": list(tags)} if tags else {},
             "source": source.splitlines(keepends=True)}  # fmt: skip
    return found if kind == "markdown" else {**found, "execution_count": None, "outputs": []}


def notebook(a: str) -> dict:
    """The instructor notebook."""
    made = [
        cell("markdown", "title", "# A small assignment"), cell("code", "colab", COLAB, "hide-input"),
        cell("code", "parameters", 'preset = "laptop"', "parameters"),
        cell("code", "set-up", "import torch\n\nfrom ictl_utils.grading import check, progress"),
    ]  # fmt: skip
    parts = (("q1", "Nearness", "nearness", ANSWER, MISTAKES),
             ("q2", "Roles", "roles", VALUE, VALUE_MISTAKES))  # fmt: skip
    for part, title, name, answer, mistakes in parts:
        made += [
            cell("markdown", f"{part}-text", f"## Exercise {part[1:]}: {title}\n\nDo it."),
            cell("code", f"{part}-answer", answer.format(a=a), "answer"),
            cell("code", f"{part}-check", f'check("{a}.{part}", {name})', "check"),
            cell("code", f"{part}-mistakes", mistakes, "mistakes"),
            cell("markdown", f"{part}-rubric", "Look for the secret word.", "rubric"),
        ]
    made.insert(7, cell("code", "q1-picture", PICTURE, "expected"))
    made.append(cell("code", "end", f'progress("{a}")'))
    facts = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": made, "metadata": facts, "nbformat": 4, "nbformat_minor": 5}


def install(a: str, root: Path) -> Path:
    """Make assignment ``a`` known to this process and write its instructor notebook below ``root``."""
    module = types.ModuleType(f"ictl_utils.grading_{a}")
    module.QUESTIONS = questions(a)
    sys.modules[module.__name__] = module
    path = root / "notebooks" / "assignments" / "instructor" / f"{a}_small.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook(a), indent=1))
    return path
