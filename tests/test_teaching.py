"""The lecturer's guide says what the tools do: assignments, options and files by their names."""

import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import coursework_fixture
import marking_fixture
import pytest
import typer

from ictl_utils import cli, coursework, model
from ictl_utils.grading import Question, examine

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "book" / "teaching.md").read_text(encoding="utf8")


@pytest.mark.parametrize("assignment", coursework.found())
def test_the_table_of_assignments_is_that_of_the_questions(assignment: str) -> None:
    asked = coursework.questions(assignment)
    row = next(line for line in GUIDE.splitlines() if f"assignments/{assignment}_" in line and line.startswith("|"))
    _, title, exercises, minutes, *_ = (cell.strip() for cell in row.split("|"))
    assert title.startswith(f"[{assignment[1]}. ")
    assert (int(exercises), int(minutes)) == (len(asked), sum(q.minutes for q in asked))


def test_every_option_is_explained_with_its_default() -> None:
    command = typer.main.get_command(cli.app).commands["grade"]
    options = {p.opts[0]: p.default for p in command.params if p.opts[0].startswith("--") and p.name != "help"}
    rows = dict(re.findall(r"^\| `(--\w+)` \| ([^|]+) \|", GUIDE, re.M))
    assert set(rows) == set(options)
    for name, default in options.items():
        if default is not None:
            words = f"{default:g}" if isinstance(default, float) else str(default)
            assert rows[name].strip().strip("`") == words, name


def test_files_and_targets_exist() -> None:
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"\bmake ([a-z-]+)(?=[`\s])", "\n".join(re.findall(r"`[^`]+`|```.*?```", GUIDE, re.S)))) <= {
        *targets}  # fmt: skip
    written = re.findall(r"^\| `([\w./]+)` \| ", GUIDE, re.M)
    code = "".join((ROOT / "ictl_utils" / f"{m}.py").read_text() for m in ("grading_batch", "marks_report"))
    assert {"summary.html", "feedback/ID.html", "records/"} <= set(written)
    assert all(name.partition("/")[0].partition(".")[0] in code for name in written)


def test_the_exercises_that_a_person_reads_are_named_with_their_points() -> None:
    asked = [q for name in coursework.found() for q in coursework.questions(name) if q.read]
    rows = re.findall(r"^\| (\d\.\d), .*\((\d) points\)", GUIDE, re.M)
    assert rows == [(q.name.removeprefix("a").replace("q", ""), str(q.points)) for q in asked] != []


def test_the_exercises_whose_rubrics_change_points_by_hand_are_named() -> None:
    rules = re.compile(r"\bby hand\b|\btake (\w+ )?off\b|\bworth (a third|half)\b|, one point\b", re.I)
    marked = set()
    for path in sorted((ROOT / "notebooks" / "assignments" / "instructor").glob("a?_*.ipynb")):
        rubrics = [cell for cell in coursework.cells(path) if "rubric" in cell["tags"]]
        marked |= {f"{path.name[1]}.{cell['id'].split('-')[0][1:]}" for cell in rubrics if rules.search(cell["source"])}
    rows = re.findall(r"^\| (\d\.\d+)(?:,[^|]*)? \|", GUIDE, re.M)
    assert len(rows) == len(set(rows)) and marked <= set(rows)
    asked = {f"{name[1]}.{q.name.partition('q')[2]}" for name in coursework.found() for q in coursework.questions(name)}
    assert set(rows) <= asked


HELPERS = ("grading", "research", "coursework")
CORE = ("ablations", "answers", "category", "circuits", "config", "curves", "data", "hand", "idealised", "interop",
        "loss", "lowrank", "measure", "metrics", "model", "numbers", "patching", "probes", "tokens", "verdicts")
KNOWN = {("1.1", "attention_pattern"), ("4.4", "stand_in")}  # the model and the ablations themselves; the guide says so


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("modules, known", [
    pytest.param(HELPERS, set(), id="helpers"), pytest.param(CORE, KNOWN, id="core", marks=pytest.mark.slow),
])  # fmt: skip
def test_no_function_of_the_package_is_an_answer_but_those_the_guide_names(
    modules: tuple, known: set, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"ictl_utils.{p.stem}" for p in (ROOT / "ictl_utils").glob("*.py") if p.stem.startswith(modules)]
    functions = [f for name in names for f in vars(importlib.import_module(name)).values()
                 if inspect.isfunction(f) and f.__module__ == name]  # fmt: skip
    assert len(functions) > 50
    asked = [q for name in coursework.found() for q in coursework.questions(name) if q.kind == "function"]
    found = {(q.name[1:].replace("q", ""), f.__name__) for q in asked for f in functions if answers(q, f)}
    assert found == known and all(f"`{f}` (exercise {number})" in GUIDE for number, f in known)


def test_an_answer_in_the_package_would_be_found() -> None:
    question = next(q for q in coursework.questions("a1") if q.name == "a1.q1")
    assert answers(question, model.attention_pattern) and not answers(question, model.Transformer.embed)


def answers(question: Question, function: Callable) -> bool:
    """Whether the function, called with a case's inputs in their order, is a right answer."""
    names = list(question.cases(0)[0].given)
    taken = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    if not sum(p.default is p.empty for p in taken) <= len(names) <= len(taken):
        return False
    asked = {"function": function}
    exec(f"def answer({', '.join(names)}): return function({', '.join(names)})", asked)
    known = coursework.expected(question.name.partition(".")[0])[question.name]
    return examine(question, asked["answer"], question.cases(0), known) is None


def test_the_tests_answer_no_exercise() -> None:
    asked = {q.answer for name in coursework.found() for q in coursework.questions(name) if q.kind == "function"}
    sources = [coursework_fixture.ANSWER, coursework_fixture.VALUE, *marking_fixture.ANSWERS.values()]
    made = set(re.findall(r"^(?:def )?(\w+)(?=\(|\s=)", "\n".join(sources), re.M))
    assert "nearness" in made and made.isdisjoint(asked)
