"""Where the questions are, what is expected of their answers, and the solutions of an instructor notebook.

The questions of an assignment are in a module of its own, imported when it is asked for.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import io
import json
import linecache
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from .answers import from_bytes
from .answers_sealed import opened
from .config import IctlError, require
from .grading import Expected, Mistake, Outcome, Question
from .grading_cases import error_words

ASSIGNMENTS = ("a1", "a2", "a3", "a4", "a5")
DATA_DEPTH = 60  # levels of a file of expected values


def questions(assignment: str) -> tuple[Question, ...]:
    """The questions of ``a1``, in order: ``QUESTIONS`` of ``ictl_utils.grading_a1``.

    Raises:
        IctlError: there is no such assignment.
    """
    name = f"ictl_utils.grading_{assignment}"
    known = f"there is no assignment {assignment!r}; there are {', '.join(found())}."
    require(bool(re.fullmatch(r"[a-z]\w*", assignment)), known)
    try:
        asked = getattr(importlib.import_module(name), "QUESTIONS", None)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise IctlError(known) from None
    require(asked is not None, known)
    return tuple(asked)


def question(name: str) -> Question:
    """The question ``a1.q3``.

    Raises:
        IctlError: there is no such question; the message names those that there are.
    """
    assignment = str(name).partition(".")[0]
    known = {q.name: q for q in questions(assignment)}
    require(name in known, f"there is no question {name!r}; {assignment} has {', '.join(known)}.")
    return known[name]


def found() -> list[str]:
    """The assignments whose questions come with the package."""
    modules = [path.name for path in resources.files("ictl_utils").iterdir()]
    return [name for name in ASSIGNMENTS if f"grading_{name}.py" in modules]


@functools.cache
def expected(assignment: str) -> dict[str, Expected]:
    """What the solution and typical mistakes give on the public cases, by question.

    Raises:
        IctlError: the file is missing or damaged.
    """
    file = resources.files("ictl_utils") / "coursework_data" / f"{assignment}.safetensors"
    require(file.is_file(), f"coursework_data/{file.name} is missing; write it with `make assignments`.")
    return unpacked(file.read_bytes())


def unpacked(content: bytes) -> dict[str, Expected]:
    """The content of a file of expected values."""
    return {name: _expected(name, packed) for name, packed in from_bytes(content, depth=DATA_DEPTH).items()}


def _expected(name: str, packed: dict) -> Expected:
    """One question of the file: outcomes of value questions are sealed, those of functions are plain."""

    def outcome(x: dict) -> Outcome:
        value = opened(x["packed"], name) if "packed" in x else x.get("value")
        return Outcome(value, x.get("raised", ""), changed=tuple(x.get("changed", ())))

    mistakes = [Mistake(m["name"], m["message"], [outcome(x) for x in m["outcomes"]]) for m in packed["mistakes"]]
    return Expected([outcome(x).value for x in packed["expected"]], mistakes)


def instructor_notebook(assignment: str, folder: Path) -> Path:
    """The notebook ``a1_name.ipynb`` of assignment ``a1`` (or ``A1``) in a folder.

    Raises:
        IctlError: there is none, or more than one; the message names the assignments that there are.
    """
    there = sorted(folder.glob("*_*.ipynb")) if folder.is_dir() else []
    names = {path.name.partition("_")[0]: None for path in there}
    name = next((n for n in names if n.casefold() == assignment.strip().casefold()), assignment)
    require(not names or name in names, f"assignment={assignment!r} is not known; expected one of "
                                        f"{', '.join(names)}: those have notebooks in {folder}.")  # fmt: skip
    found = [path for path in there if path.name.startswith(f"{name}_")]
    require(len(found) == 1, f"{folder} holds {len(found)} notebooks {name}_*.ipynb; expected the one with the "
                             "solutions. --solutions names its folder.")  # fmt: skip
    return found[0]


@dataclass
class Solution:
    """One question's part of an instructor notebook."""

    answer: Any
    mistakes: list[Callable] = field(default_factory=list)  # docstring: what a student who makes it is told


def cells(notebook: Path) -> list[dict]:
    """Cells of a notebook: ``id``, ``kind`` (code or markdown), ``tags``, ``source`` as one text.

    Raises:
        IctlError: the file is no notebook.
    """
    try:
        found = json.loads(notebook.read_text(encoding="utf8"))["cells"]
        return [{"id": c.get("id", ""), "kind": c["cell_type"], "tags": c["metadata"].get("tags", []),
                 "source": "".join(c["source"])} for c in found]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IctlError(f"{notebook} is no notebook that can be read ({type(error).__name__}).") from None


def solutions(notebook: Path, seen: Callable[[dict, dict], None] | None = None) -> dict[str, Solution]:
    """Run an instructor notebook at preset smoke, without a word, and collect answers and typical mistakes by question.

    Args:
        notebook: ``a1_name.ipynb``; cells tagged ``check`` are left out.
        seen: called with every cell tagged ``expected`` and the names defined so far; without it they are left out.

    Raises:
        IctlError: a cell fails; the message names cell, line and error.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled()):  # a notebook may switch gradients off, for itself
        return _collected(notebook, seen)


def _collected(notebook: Path, seen: Callable[[dict, dict], None] | None) -> dict[str, Solution]:
    assignment, found, names = notebook.stem.partition("_")[0], {}, {"__name__": "__main__", "display": print}
    by_number, apart = {q.name: q for q in questions(assignment)}, {}
    for cell in cells(notebook):
        part, _, role = cell["id"].partition("-")
        name = f"{assignment}.{part}"
        if cell["kind"] != "code" or "check" in cell["tags"]:
            continue
        if "expected" in cell["tags"]:
            if seen:
                seen(cell, names)
            continue
        mistakes = "mistakes" in cell["tags"]  # all cells of an exercise share names of their own
        space = apart.setdefault(name, dict(names)) if mistakes else names
        with quiet():
            run_cell(cell, space)
        if "parameters" in cell["tags"]:
            names["preset"] = "smoke"
        if role == "answer" and name in by_number:
            answer = by_number[name].answer
            require(answer in names, f"{notebook.name}: cell {cell['id']} defines no `{answer}`.")
            found[name] = Solution(names[answer])
        if mistakes and name in found:
            found[name].mistakes += [space[made] for made in functions_of(cell["source"])]
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing that runs inside prints or warns."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def functions_of(source: str) -> list[str]:
    """Names of the functions that a cell defines, helpers (``_name``) left out."""
    return [n.name for n in ast.parse(without_magics(source)).body
            if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]  # fmt: skip


def without_magics(source: str) -> str:
    """A cell's code with its magic and shell lines replaced by ``pass``."""
    return re.sub(r"^([ \t]*)[%!].*$", r"\1pass", source, flags=re.M)


def run_cell(cell: dict, names: dict) -> Any:
    """Run one cell; the value of its last line if that is an expression.

    Raises:
        IctlError: it fails.
    """
    file = f"<cell {cell['id']}>"
    source = without_magics(cell["source"])
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    try:
        tree = ast.parse(source, file)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, file, "exec"), names)
        return eval(compile(ast.Expression(last.value), file, "eval"), names) if last else None
    except Exception as error:
        raise IctlError(f"cell {cell['id']} fails: {' '.join(error_words(error).splitlines())}") from error
