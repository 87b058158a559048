"""Student notebooks and expected values come from the instructor notebooks; what is wrong with one is said."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import replace
from pathlib import Path

import assignment_data
import assignments
import instructor
import nbformat
import papermill
import pytest
import student_edition
from conftest import ROOT
from coursework_fixture import VALUE, install, notebook

from ictl_utils import coursework

SOURCES = assignments.sources()
STUDENT = [ROOT / assignments.FOLDER / path.name for path in SOURCES]
COUNTS = ("exercises; expected 6 to 10", "minutes; expected 60", "expected pictures; expected at least 2")


def name(path: Path) -> str:
    """``a1`` of a notebook."""
    return path.stem.partition("_")[0]


def first_quick(paths: list[Path]) -> list:
    """Parameters: one notebook in the default tests, the others in the slow ones."""
    return [pytest.param(p, id=name(p), marks=[pytest.mark.slow] if i else []) for i, p in enumerate(paths)]


@pytest.fixture
def root(tmp_path) -> Path:
    """A project with the small assignment a8."""
    shutil.copy(ROOT / "_config.yml", tmp_path)
    install("a8", tmp_path)
    return tmp_path


def test_mistakes_of_an_exercise_may_stand_in_several_cells(root: Path) -> None:
    """The later cell uses a name of the earlier one; the notebook itself sees none of theirs."""
    book = notebook("a8")
    at = next(i for i, cell in enumerate(book["cells"]) if cell["id"] == "q2-mistakes")
    first = book["cells"][at]
    lines = "".join(first["source"]).split("\n\n\n")
    second = first | {"id": "q2-mistakes-2", "source": ["\n\n\n".join([*lines[2:], "roles = negative()"])]}
    after = {"cell_type": "code", "id": "after", "metadata": {},
             "source": ['assert roles["looks"] == 2 and "SIGN" not in globals()']}
    first["source"] = ["\n\n\n".join(lines[:2] + ["SIGN = -1"])]
    second["source"] = [second["source"][0].replace("-2}", "SIGN * 2}")]
    book["cells"][at + 1 : at + 1] = [second, after]
    path = assignments.sources(root)[0]
    path.write_text(json.dumps(book))
    found = coursework.solutions(path)["a8.q2"]
    assert [m.__name__ for m in found.mistakes] == ["exchanged", "one_more", "negative", "nobody"]
    assert found.mistakes[2]() == {"moves": "the OV circuit", "looks": -2}


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_cells_of_mistakes_are_short(path: Path) -> None:
    made = [c for c in coursework.cells(path) if "mistakes" in c["tags"]]
    assert made and max(len(c["source"].splitlines()) for c in made) <= 15


def problems(root: Path, changed: dict | None = None) -> list[str]:
    """What is wrong with the small assignment, but for its small numbers."""
    path = assignments.sources(root)[0]
    if changed:
        path.write_text(json.dumps(changed))
    _, wrong = assignments.made(path, root)
    return [w for w in wrong if not any(count in w for count in COUNTS)]


def edited(**sources: str | None) -> dict:
    """The small notebook with cells replaced (None: dropped), named by their id with an underscore."""
    made = notebook("a8")
    by_id = {k.replace("_", "-"): v for k, v in sources.items()}
    made["cells"] = [c for c in made["cells"] if by_id.get(c["id"], "") is not None]
    for c in made["cells"]:
        c["source"] = by_id[c["id"]].splitlines(keepends=True) if c["id"] in by_id else c["source"]
    return made


def test_the_small_assignment_is_made_once(root, capsys):
    assert problems(root) == []
    assert assignments.main([], root) == 1  # it is too small
    assert capsys.readouterr().out.count("written: ") == 2
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert assignments.main([], root) == 1 and "written" not in capsys.readouterr().out
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before
    student = root / assignments.FOLDER / "a8_small.ipynb"
    student.write_text(student.read_text().replace("Do it.", "Do it!"))
    assert assignments.main(["--check"], root) == 1 and "Do it!" in student.read_text()
    assert "out of date: notebooks/assignments/a8_small.ipynb" in capsys.readouterr().out


def test_the_student_edition_of_the_small_assignment(root):
    assignments.main([], root)
    source = root / assignments.FOLDER / "a8_small.ipynb"
    made = json.loads(source.read_text())
    nbformat.validate(nbformat.read(source, as_version=4))
    text = source.read_text()
    for secret in ("cdist", "the OV circuit", "secret word", "not_rooted", "wrong axis", "SOLUTION"):
        assert secret not in text, secret
    by_id = {c["id"]: c for c in made["cells"]}
    assert list(by_id) == ["title", "colab", "parameters", "set-up", "q1-text", "q1-answer", "q1-check", "q1-expected",
                           "q1-draw", "q2-text", "q2-answer", "q2-check", "end"]  # fmt: skip
    stub = "".join(by_id["q1-answer"]["source"])
    assert stub.startswith("# a8.q1\ndef nearness(q, k):") and "A row is a destination".lower() in stub.lower()
    assert 'raise NotImplementedError("a8.q1: nearness is still to be written.")' in stub
    assert "".join(by_id["q2-answer"]["source"]) == "# a8.q2\nroles = None  # a8.q2: your answer in place of None"
    assert "*10 minutes, difficulty ★☆☆, 12 points*" in "".join(by_id["q1-text"]["source"])
    assert 'alt="All points alike"' in "".join(by_id["q1-expected"]["source"])
    assert 'if done("a8.q1"):\n    import matplotlib' in "".join(by_id["q1-draw"]["source"])
    assert by_id["q1-answer"]["metadata"]["nbgrader"] == {
        "grade": False, "grade_id": "a8-q1", "locked": False, "schema_version": 3, "solution": True, "task": False}
    assert by_id["q2-check"]["metadata"]["nbgrader"] == {
        "grade": True, "grade_id": "a8-q2-check", "locked": True, "schema_version": 3, "solution": False, "task": False,
        "points": 8}  # fmt: skip


def test_points_that_a_reader_gives_sit_on_the_answer(root, monkeypatch):
    first, second = coursework.questions("a8")
    monkeypatch.setattr(sys.modules["ictl_utils.grading_a8"], "QUESTIONS", (first, replace(second, read=True)))
    student = json.loads(assignments.made(assignments.sources(root)[0], root)[0][
        root / assignments.FOLDER / "a8_small.ipynb"])  # fmt: skip
    graded = {c["id"]: c["metadata"]["nbgrader"] for c in student["cells"] if "nbgrader" in c["metadata"]}
    assert graded["q2-answer"]["grade"] and graded["q2-answer"]["points"] == 8
    assert not graded["q2-check"]["grade"] and "points" not in graded["q2-check"]
    assert sum(g.get("points", 0) for g in graded.values()) == 20


TWICE = '''def a():
    """One."""
    return {"moves": "x", "looks": 2}


def b():
    """The same."""
    return {"moves": "X", "looks": 2}


def c():
    """Right."""
    return {"moves": "the OV circuit", "looks": 2}


def d():
    return 3
'''
FAILING = '''def e(q, k):
    """Fails."""
    return q @ k
'''


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (edited(q2_mistakes=TWICE), [
            "q2-mistakes: b is told `a`, the same as another mistake", "q2-mistakes: c agrees with the solution",
            "q2-mistakes: d has no docstring to tell"]),
        (edited(q1_mistakes=FAILING), [
            "a8.q1 has 1 mistakes; expected at least 4", "q1-mistakes: e fails on every case (RuntimeError"]),
        (edited(q2_rubric=None), ["a8.q2 has no cell q2-rubric"]),
        (edited(q1_text="## Something"), ["a8.q1: its text must begin with `## Exercise 1: Nearness`"]),
        (edited(q2_answer="roles = 3"), ["a8.q2: no lines `### BEGIN SOLUTION` and `### END SOLUTION`"]),
        (edited(q2_answer="### BEGIN SOLUTION\nroles = 3\n### END SOLUTION"), [
            "a8.q2: its own solution is told `keys`: yours is 3", "a8.q2: the first line of its answer must be"]),
        (edited(q2_answer=VALUE.format(a="a8").replace("roles", "role")), ["cell q2-answer defines no `roles`"]),
        (edited(q1_answer="# a8.q1\n1 / 0"), ["cell q1-answer fails: ZeroDivisionError: division by zero in line 2"]),
        (edited(q1_answer="# a8.q1\ndef ("), ["cell q1-answer fails: SyntaxError"]),
        (edited(q1_picture="x = 1"), ["cell q1-picture shows no figure"]),
        (edited(end="near.sum(1)"), ["cell end fails: NameError"]),
        (edited(q1_text="## Exercise 1: Nearness\n\n[see](../99.ipynb#x)"), ["its link ../99.ipynb leads nowhere"]),
        (edited(q1_text='## Exercise 1: Nearness\n\nnear = (1 / (1 + torch.cdist(q, k))).tril()'), [
            "q1-answer: its line `near = (1 / (1 + torch.cdist(q, k))).tril()` stands in the student edition"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_sentences(root, changed, words):
    found = problems(root, changed)
    assert all(any(w in sentence for sentence in found) for w in words), found


def test_a_notebook_that_cannot_be_read_is_reported(root, capsys):
    assignments.sources(root)[0].write_text("{")
    assert assignments.main([], root) == 1
    assert "is no notebook that can be read" in capsys.readouterr().out


def test_text_as_expected_output_and_displayed_figures(root):
    for source, words in (
        ('print("three", 3)', "```text\nthree 3\n```"),
        ("from matplotlib.figure import Figure\nfig = Figure()\nfig.suptitle('Own')\nfig", "<img alt=\"Own\""),
    ):  # fmt: skip
        path = assignments.sources(root)[0]
        path.write_text(json.dumps(edited(q1_picture=source)))
        contents, _ = assignments.made(path, root)
        made = {c["id"]: "".join(c["source"]) for c in json.loads(next(iter(contents.values())))["cells"]}
        assert words in made["q1-expected"]
        assert made["q1-draw"].endswith("    display(fig)" if "Own" in words else '    print("three", 3)')


def test_links_are_written_for_the_students_folder(root):
    folder = root / assignments.FOLDER
    (root / "notebooks" / "02_x.ipynb").touch()
    for link in ("../02_x.ipynb", "../../02_x.ipynb", "../../02_x.html"):
        made = student_edition.with_links(f"[a]({link}#b) [c](https://d.e/f) [g](#h)", folder)
        assert made == f"[a]({link.replace('../../', '../')}#b) [c](https://d.e/f) [g](#h)"


def test_last_digits_and_single_pixels_are_no_change(root):
    assignments.main([], root)
    data = root / assignments.DATA / "a8.safetensors"
    content = data.read_bytes()
    tree = coursework.from_bytes(content, depth=60)
    tree["a8.q1"]["expected"][0]["value"] += 1e-5
    assert assignments.current(data, coursework_bytes(tree))
    tree["a8.q1"]["expected"][0]["value"] += 0.1
    assert not assignments.current(data, coursework_bytes(tree)) and not assignments.current(data, b"x")


def coursework_bytes(tree: dict) -> bytes:
    """The tree as a file of expected values."""
    return assignment_data.to_bytes(tree, depth=60)


def test_pictures_are_made_small_enough():
    import io

    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (150, 150, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    assert len(student_edition.small_png(buffer.getvalue(), 8_000)) <= 8_000
    assert student_edition.with_display("a = 1\nf(a,\n  2);") == "a = 1\ndisplay(f(a,\n  2))"


def test_the_instructors_folder_of_the_small_assignment(root, capsys):
    assignments.main([], root)
    assert instructor.main(["--no-run"], root) == 0
    made = json.loads((root / instructor.TARGET / "nbgrader" / "source" / "a8" / "a8_small.ipynb").read_text())
    ids = [c["id"] for c in made["cells"]]
    assert "q1-mistakes" not in ids and "q1-rubric" not in ids and "q1-answer" in ids
    assert zipfile.ZipFile(root / instructor.TARGET / "students.zip").namelist() == ["a8_small.ipynb"]


def test_solution_pages_ask_no_other_host(tmp_path):
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("A head is $W_{QK}$.")])
    nbformat.write(made, tmp_path / "a8_small.ipynb")
    page = instructor.page(tmp_path / "a8_small.ipynb")
    scripts = re.findall(r'<script[^>]* src="([^"]*)"', page.read_text(encoding="utf8"))
    assert scripts and all((tmp_path / script).is_file() for script in scripts)


# The real assignments.


@pytest.mark.parametrize("source", first_quick(SOURCES))
def test_regenerating_changes_nothing(source):
    """Includes: the solution keeps every rule, also on hidden cases; every typical mistake gets its own message."""
    contents, wrong = assignments.made(source)
    assert wrong == [], "\n".join(wrong)
    stale = [path.name for path, content in contents.items() if not assignments.current(path, content)]
    assert stale == [], "run `make assignments`"


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_the_stub_is_the_solution_with_answers_blanked(source):
    solved = {c["id"]: "".join(c["source"]) for c in json.loads(source.read_text())["cells"]}
    folder = ROOT / assignments.FOLDER
    student = json.loads((ROOT / assignments.FOLDER / source.name).read_text())["cells"]
    tags = {c["id"]: c["metadata"].get("tags", []) for c in json.loads(source.read_text())["cells"]}
    private = {i for i in solved if {"mistakes", "rubric", "instructor", "expected"} & set(tags[i])}
    own = {c["id"] for c in student if c["id"].endswith(("-expected", "-draw"))}
    assert [c["id"] for c in student if c["id"] not in own] == [i for i in solved if i not in private]
    asked = {q.name.partition(".")[2]: q for q in coursework.questions(name(source))}
    for c in student:
        text, part = "".join(c["source"]), c["id"].partition("-")[0]
        if c["id"] in own:
            continue
        if c["cell_type"] == "markdown":
            solved[c["id"]] = student_edition.with_links(solved[c["id"]], folder)
        if "answer" in tags[c["id"]]:
            assert text == student_edition.stub(solved[c["id"]], asked[part]) != solved[c["id"]]
        elif c["id"].endswith("-text") and part in asked:
            assert text == student_edition.with_facts(solved[c["id"]], asked[part])
        else:
            assert text == solved[c["id"]]


@pytest.mark.parametrize("path", STUDENT, ids=name)
def test_inputs_come_in_the_order_of_the_arguments(path):
    """Answers whose arguments have other names are called by order."""
    sources = {c["id"]: "".join(c["source"]) for c in json.loads(path.read_text())["cells"]}
    for q in coursework.questions(name(path)):
        if q.kind == "function":
            tree = ast.parse(sources[f"{q.name.partition('.')[2]}-answer"])
            arguments = next([a.arg for a in n.args.args] for n in ast.walk(tree)
                             if isinstance(n, ast.FunctionDef) and n.name == q.answer)  # fmt: skip
            assert {tuple(case.given) for seed in (0, 1) for case in q.cases(seed)} == {tuple(arguments)}, q.name


@pytest.mark.parametrize("path", STUDENT, ids=name)
def test_student_notebooks_are_clean_and_valid(path):
    read = nbformat.read(path, as_version=4)
    nbformat.validate(read)
    code = [c for c in read.cells if c.cell_type == "code"]
    assert all(not c.outputs and c.execution_count is None for c in code)
    assert "colab" in read.metadata and sum("parameters" in c.metadata.get("tags", []) for c in code) == 1
    marks = [c.metadata.nbgrader for c in read.cells if "nbgrader" in c.metadata]
    assert len({m.grade_id for m in marks}) == len(marks) and sum(m.get("points", 0) for m in marks) == 20
    for picture in re.findall(r"base64,([\w+/=]+)", path.read_text()):
        assert len(picture) * 3 / 4 <= student_edition.LARGEST_PNG


@pytest.mark.parametrize("path", STUDENT, ids=name)
def test_links_lead_somewhere(path):
    text = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http", "#", "data:"))]
    missing = []
    for link in links:
        target = (path.parent / link.partition("#")[0]).resolve()
        sources = [target, *(target.with_suffix(end) for end in (".md", ".ipynb") if target.suffix == ".html")]
        missing += [] if any(s.exists() for s in sources) else [link]
    assert missing == []


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_instructor_notebooks_are_committed_clean(path):
    read = nbformat.read(path, as_version=4)
    nbformat.validate(read)
    assert all(not c.outputs and c.execution_count is None for c in read.cells if c.cell_type == "code")


def test_spelling():
    texts = [c.source for p in SOURCES for c in nbformat.read(p, as_version=4).cells if c.cell_type == "markdown"]
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list", "hapax,te,nd,ot,ba,alph", "-"]
    done = subprocess.run(command, input="\n".join(texts), capture_output=True, text=True, check=False)
    assert "==>" not in done.stdout, done.stdout


def outputs(done) -> str:
    """All that the code cells of an executed notebook printed."""
    return "".join(o.get("text", "") for c in done.cells for o in c.get("outputs", []))


@pytest.mark.parametrize("path", first_quick(STUDENT))
def test_the_stub_runs_and_nothing_is_done(path, tmp_path):
    done = papermill.execute_notebook(path, tmp_path / path.name, parameters={"preset": "smoke"}, cwd=path.parent,
                                      progress_bar=False, execution_timeout=200, kernel_name="python3")  # fmt: skip
    said = outputs(done)
    for q in coursework.questions(name(path)):
        assert f"{q.name}: not done yet." in said
    assert "broken" not in said and "all holds" not in said


@pytest.mark.slow
@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_the_solution_runs_and_everything_holds(path, tmp_path):
    done = papermill.execute_notebook(path, tmp_path / path.name, parameters={"preset": "smoke"}, cwd=path.parent,
                                      progress_bar=False, execution_timeout=400, kernel_name="python3")  # fmt: skip
    said = outputs(done)
    for q in coursework.questions(name(path)):
        assert f"{q.name} {q.title}: all holds" in said
    assert "20 of 20 points are done" in json.dumps(done)


def test_the_public_book_has_the_student_edition_only():
    contents, settings = (ROOT / "_toc.yml").read_text(), (ROOT / "_config.yml").read_text()
    assert [f"notebooks/assignments/{p.stem}" in contents for p in STUDENT] == [True] * len(STUDENT)
    assert "instructor" not in contents and "notebooks/assignments/instructor" in settings


# nbgrader's own command line.


def nbgrader(folder: Path, *arguments: str) -> str:
    """Run nbgrader in a course folder."""
    command = [sys.executable, "-m", "nbgrader", *arguments]
    scripts = sysconfig.get_path("scripts")  # nbgrader calls alembic by name
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def submit(course: Path, student: str, assignment: str, path: Path) -> None:
    """Put a notebook where nbgrader looks for submissions."""
    folder = course / "submitted" / student / assignment
    folder.mkdir(parents=True)
    shutil.copy(path, folder / path.name)


def solved(student: Path, source: Path, target: Path) -> None:
    """A student notebook with the answers of the instructor notebook filled in."""
    made, answers = json.loads(student.read_text()), json.loads(source.read_text())["cells"]
    by_id = {c["id"]: c["source"] for c in answers if "answer" in c["metadata"].get("tags", [])}
    for c in made["cells"]:
        c["source"] = by_id.get(c["id"], c["source"])
    target.write_text(json.dumps(made))


@pytest.mark.slow
@pytest.mark.parametrize("source", [SOURCES[0], SOURCES[-1]], ids=name)
def test_nbgrader_accepts_and_marks_them(source, tmp_path):
    """The first assignment, and the last, whose points are in part a reader's."""
    pytest.importorskip("nbgrader", reason="nbgrader is not installed (it is in the extra `dev`)")
    import pandas as pd

    assignment, course = name(source), tmp_path / "course"
    made = instructor.nbgrader_source(json.loads(source.read_text()), assignment)
    folder = course / "source" / assignment
    folder.mkdir(parents=True)
    (folder / source.name).write_bytes(instructor.as_bytes(made))
    (course / "nbgrader_config.py").write_text(instructor.CONFIG)
    nbgrader(course, "generate_assignment", assignment)
    released = course / "release" / assignment / source.name
    assert "BEGIN SOLUTION" not in released.read_text()
    solved(released, source, tmp_path / source.name)
    submit(course, "ada", assignment, tmp_path / source.name)
    submit(course, "stub", assignment, released)
    own = ROOT / assignments.FOLDER / source.name  # our own student edition, released without nbgrader
    solved(own, source, tmp_path / source.name)
    submit(course, "grace", assignment, tmp_path / source.name)
    nbgrader(course, "autograde", assignment)
    nbgrader(course, "export", "--to", str(tmp_path / "grades.csv"))
    scores = pd.read_csv(tmp_path / "grades.csv").set_index("student_id")["raw_score"]
    due = 20 - sum(q.points for q in coursework.questions(assignment) if q.read)  # a reader's points come later
    assert dict(scores) == {"ada": due, "grace": due, "stub": 0}
