"""Answers in a submitted notebook: its code cells, and where each question is answered. Nothing is run."""

from __future__ import annotations

import ast
import functools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from .config import IctlError, require
from .grading import Question

BY_NAME, BY_MARKER, BY_METADATA = "function name", "cell marker", "metadata"
ABSENT = "no answer found"
CHECKS = {"check", "progress"}
MAGIC = re.compile(r"[%!?]|[\w.]+\?\??\s*$|[\w, ]+=\s*[!%]")  # of a line without its indent
SKIPPED_TAGS = {"draw", "expected", "check"}
MARKER = re.compile(r"^[ \t]*#[ \t]*([a-z]\w*)\.q\d+\b", re.M | re.I)  # of an answer
CHECKED = re.compile(r"\bcheck\(\s*[\"']([a-z]\w*)\.q\d+[\"']", re.I)
GRADE_ID = re.compile(r"([a-z]\w*)[-_.]q\d+([-_.]\w+)?", re.I)
MAX_CELLS, MAX_SOURCE = 1000, 2 << 20  # cells, and characters of code


@dataclass(frozen=True)
class Cell:
    """One code cell, without magics and shell lines."""

    index: int  # among all cells of the notebook, from 1
    source: str
    tags: frozenset[str] = frozenset()
    ids: tuple[str, ...] = ()  # nbgrader's grade_id, the cell's id
    error: str = ""  # why Python cannot read it

    @functools.cached_property
    def tree(self) -> list[ast.stmt]:
        """Its statements; none when it does not parse."""
        return [] if self.error else ast.parse(self.source).body

    @functools.cached_property
    def assignments(self) -> set[str]:
        """The assignments that it names: in markers of answers, else in its metadata."""
        ids = (found[1] for i in self.ids if (found := GRADE_ID.fullmatch(i)))
        return {name.casefold() for name in MARKER.findall(self.source) or ids}


@dataclass(frozen=True)
class Place:
    """Where an answer stands: after cell ``cell`` has run, ``name`` holds it."""

    question: str
    name: str = ""
    cell: int = 0
    way: str = ""  # function name, cell marker or metadata; empty: not found
    source: str = ""
    stub: bool = False
    problem: str = ""

    @property
    def found(self) -> bool:
        """Whether there is something to run."""
        return bool(self.way) and not self.problem


def read_cells(content: bytes) -> list[Cell]:
    """The code cells of a notebook (formats 3 and 4).

    Raises:
        IctlError: this is no notebook: wrong encoding, truncated, or something else.
    """
    try:
        book = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise IctlError(f"the file is not in UTF-8 (byte {error.start}); save it again as a notebook.") from None
    except (ValueError, RecursionError) as error:
        where = f" at character {error.pos} of {len(error.doc)}" if isinstance(error, json.JSONDecodeError) else ""
        raise IctlError(f"the file is no complete notebook: its JSON breaks off or is damaged{where}.") from None
    sheets = book.get("worksheets") if isinstance(book, dict) else None
    raw = sheets[0] if isinstance(sheets, list) and sheets and isinstance(sheets[0], dict) else book
    cells = raw.get("cells") if isinstance(raw, dict) else None
    require(isinstance(cells, list), "the file is JSON and no notebook; expected a list of cells.")
    require(len(cells) <= MAX_CELLS, f"the notebook has {len(cells)} cells; at most {MAX_CELLS} are read.")
    code = [(i, data, _source(data)) for i, data in enumerate(cells, 1)
            if isinstance(data, dict) and data.get("cell_type") == "code"]  # fmt: skip
    size = sum(len(source) for _, _, source in code)
    require(size <= MAX_SOURCE, f"the notebook holds {size} characters of code; at most {MAX_SOURCE} are read.")
    return [_cell(*each) for each in code]


def _source(data: dict) -> str:
    """Source of a cell, whatever is in its place."""
    source = data.get("source", data.get("input", ""))
    if isinstance(source, list):
        source = "".join(line for line in source if isinstance(line, str))
    return source if isinstance(source, str) else ""


def _cell(index: int, data: dict, source: str) -> Cell:
    """A code cell."""
    meta = data.get("metadata") if isinstance(data.get("metadata"), dict) else {}
    grader = meta.get("nbgrader") if isinstance(meta.get("nbgrader"), dict) else {}
    tags = meta.get("tags") if isinstance(meta.get("tags"), list) else []
    ids = (grader.get("grade_id"), data.get("id"), meta.get("id"))
    plain, error = python_of(source)
    return Cell(index, plain, frozenset(t for t in tags if isinstance(t, str)),
                tuple(i for i in ids if isinstance(i, str)), error)  # fmt: skip


def python_of(source: str) -> tuple[str, str]:
    """Python code of a cell with as many lines, and why it cannot be read (empty if it can)."""
    source = source.replace("\x00", "").replace("\r\n", "\n")
    if source.lstrip().startswith("%%") and not re.match(r"\s*%%(time|timeit|capture|prun)\b", source):
        return "", ""
    if not _error(source):
        return source, ""
    bare = [(line, line.lstrip()) for line in source.split("\n")]
    lines = [line[: len(line) - len(rest)] + "pass" if MAGIC.match(rest) else line for line, rest in bare]
    plain = "\n".join(lines)
    error = _error(plain)
    return (source if error else plain), error


def _error(source: str) -> str:
    """What keeps Python from reading a source."""
    try:
        compile(source, "cell", "exec", dont_inherit=True)
        ast.unparse(ast.parse(source))  # nested too deeply for what reads it here
    except SyntaxError as error:
        return f"{type(error).__name__}: {error.msg} (line {error.lineno})"
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def worth_running(cell: Cell) -> bool:
    """False for cells that only check, draw or report, and for those that cannot be read."""
    if cell.error or not cell.source.strip():
        return False
    names = {node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
             for node in (s.value if isinstance(s, ast.Expr) else None for s in cell.tree)}  # fmt: skip
    return not (names <= CHECKS or cell.tags & SKIPPED_TAGS and not any(defined(cell.tree)))


def prepared(cell: Cell) -> str:
    """A cell's code as it is run for marks: the preset is ``smoke``, whatever the notebook was run with."""
    sets = any(name == "preset" for name, _ in defined(cell.tree))
    return cell.source + '\npreset = "smoke"' if sets else cell.source


def defined(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Names that statements bind at the top level, also inside ``if``, ``try``, ``with`` and loops."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                yield from ((n.id, node) for n in ast.walk(target) if isinstance(n, ast.Name))
        for part in ("body", "orelse", "finalbody", "handlers"):
            inner = getattr(node, part, [])
            if inner and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from defined([s for h in inner for s in (h.body if isinstance(h, ast.ExceptHandler) else [h])])


def is_stub(node: ast.stmt) -> bool:
    """Whether a definition is still what the student edition ships."""
    if isinstance(node, ast.FunctionDef):
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        return len(body) == 1 and isinstance(body[0], ast.Raise) and "NotImplementedError" in ast.dump(body[0])
    value = getattr(node, "value", None)
    return isinstance(value, ast.Constant) and value.value is None


def locate(cells: list[Cell], questions: tuple[Question, ...]) -> list[Place]:
    """Where each question is answered: by name, else by the marker in a cell, else by metadata."""
    return [_by_name(cells, q) or _by_cell(cells, q) or _missing(cells, q) for q in questions]


def looks_like(cells: list[Cell], assignment: str) -> str:
    """A remark where more cells name another assignment than this one, in answers and checks; else empty."""
    named = Counter(name for cell in cells
                    for name in cell.assignments | {m.casefold() for m in CHECKED.findall(cell.source)})  # fmt: skip
    name, count = max(named.items(), key=lambda pair: pair[1], default=("", 0))
    if count <= named[assignment]:
        return ""
    return (f"this looks like assignment {name}, and {assignment} is marked: the notebook of {assignment} is needed, "
            f"or the option --assignment {name}.")  # fmt: skip


def _by_name(cells: list[Cell], question: Question) -> Place | None:
    """The last definition of the name that is no stub and of the right kind, else the last that is no stub."""
    every = [(cell, name, node) for cell in cells for name, node in defined(cell.tree)]
    functions = frozenset(name for _, name, node in every if isinstance(node, ast.FunctionDef))
    found = [(cell, node) for cell, name, node in every if name == question.answer]
    if not found:
        return None
    done = [(cell, node) for cell, node in found if not is_stub(node)]
    fits = [(cell, node) for cell, node in done if _kind_fits(question, node, functions)]
    cell, node = (fits or done or found)[-1]
    return Place(question.name, question.answer, cell.index, BY_NAME, ast.unparse(node), stub=not done)


def _by_cell(cells: list[Cell], question: Question) -> Place | None:
    """The last function (or value) of a cell with the question's marker or with its id.

    All assignments give their cells the same ids (``q1-answer``): a cell that names another assignment is left out.
    """
    assignment, number = question.name.split(".")
    marker = re.compile(rf"^[ \t]*#[ \t]*{re.escape(question.name)}\b", re.M | re.I)
    ids = re.compile(rf"({assignment}[-_.])?{number}([-_.](answer|solution|stub))?", re.I)
    for way, suits in ((BY_MARKER, lambda c: marker.search(c.source)),
                       (BY_METADATA, lambda c: any(ids.fullmatch(i) for i in c.ids))):  # fmt: skip
        for cell in reversed(cells):
            if not suits(cell) or cell.assignments and assignment not in cell.assignments:
                continue
            if cell.error:
                return Place(question.name, cell=cell.index, way=way, source=cell.source,
                             problem=f"cell {cell.index} cannot be read: {cell.error}.")  # fmt: skip
            named = [(n, s) for n, s in defined(_segment(cell, question.name)) if _kind_fits(question, s)]
            if named:
                name, node = named[-1]
                return Place(question.name, name, cell.index, way, ast.unparse(node), is_stub(node))
    return None


def _segment(cell: Cell, name: str) -> list[ast.stmt]:
    """Statements between this question's marker and the next one's, where a cell holds several."""
    marks = [(i, line) for i, line in enumerate(cell.source.split("\n"), 1) if re.match(r"\s*#\s*\w+\.q\d+\b", line)]
    own = [i for i, line in marks if re.match(rf"\s*#\s*{re.escape(name)}\b", line, re.I)]
    if not own or len(marks) == len(own):
        return cell.tree
    end = min([i for i, line in marks if i > own[-1]], default=10**9)
    return [s for s in cell.tree if own[-1] <= s.lineno < end]


def _kind_fits(question: Question, node: ast.stmt, functions: frozenset[str] = frozenset()) -> bool:
    """Whether a definition is a function or a value, as asked; ``functions``: names that stand for one."""
    value = getattr(node, "value", None)
    named = isinstance(value, ast.Name) and value.id in functions
    is_function = isinstance(node, ast.FunctionDef) or isinstance(value, ast.Lambda) or named
    return is_function if question.kind == "function" else not isinstance(node, ast.FunctionDef | ast.ClassDef)


def _missing(cells: list[Cell], question: Question) -> Place:
    """No answer: the reason, where one shows."""
    mentions = re.compile(rf"^[ \t]*(def[ \t]+{question.answer}\b|{question.answer}[ \t]*=)", re.M)
    for cell in cells:
        if cell.error and mentions.search(cell.source):
            return Place(question.name, cell=cell.index, way=BY_NAME, source=cell.source,
                         problem=f"cell {cell.index} cannot be read: {cell.error}.")  # fmt: skip
    return Place(question.name, problem=f"{ABSENT}: neither `{question.answer}`, nor a cell marked "
                                        f"`# {question.name}`, nor its metadata.")  # fmt: skip
