"""Marks of good, bad and hostile submissions: right marks or a clear report, never a forged point."""

from __future__ import annotations

import csv
import json
import os
import socket
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import marking_fixture as made
import pytest
from typer.testing import CliRunner

from ictl_utils.cli import app
from ictl_utils.config import IctlError
from ictl_utils.grading_batch import grade
from ictl_utils.marking import find_key, half_points
from ictl_utils.marks_report import Late
from ictl_utils.sandbox import Limits
from ictl_utils.submissions import Submission

LIMITS = Limits(15, 1.0)


class Graded:
    """The hostile batch, marked once for all tests of this file."""

    def __init__(self, root: Path) -> None:
        self.key, self.folder, self.out = made.write_key(root / "key"), root / "in", root / "out"
        self.folder.mkdir()
        self.canary = root / "precious" / "file.txt"
        self.canary.parent.mkdir()
        self.canary.write_text("still here")
        with socket.create_server(("127.0.0.1", 0)) as server:
            for name, content in made.hostile(self.key, self.canary, server.getsockname()[1]).items():
                (self.folder / name).write_bytes(content)
            made.huge(self.folder / "huge.ipynb")
            (self.folder / "link.ipynb").symlink_to(self.folder / "correct.ipynb")
            self.batch = self.grade()
            server.settimeout(0.2)
            try:
                server.accept()
                self.called = True
            except TimeoutError:
                self.called = False
        self.rows = {row.record.id: row.record for row in self.batch.rows}

    def grade(self, **options):
        """Mark the folder, again."""
        return grade(self.folder, "t1", self.out, solutions=self.key, limits=LIMITS, jobs=2, **options)

    def points(self, name: str) -> list[float]:
        """Points by question."""
        return [m.points for m in self.rows[name].questions]

    def told(self, name: str, question: int) -> str:
        """What the student is told."""
        m = self.rows[name].questions[question - 1]
        return f"{m.rule}: {m.message}"


@pytest.fixture(scope="module")
def graded(tmp_path_factory) -> Graded:
    return Graded(tmp_path_factory.mktemp("marking"))


@pytest.mark.parametrize(
    ("name", "points"),
    {
        "correct": [4, 6, 4, 6], "renamed": [4, 6, 4, 6], "reordered": [4, 6, 4, 6], "wrong": [0, 0, 0, 0],
        "partly": [4, 4, 0, 6], "leaves": [4, 0, 4, 6], "bombs": [0, 0, 4, 0], "sleeps": [0, 6, 4, 6],
        "exits": [0, 0, 4, 6], "loud": [4, 6, 4, 0], "intruder": [0, 0, 4, 0], "forger": [0, 0, 0, 0],
        "planter": [4, 0, 0, 0], "latin": [0, 0, 0, 0], "truncated": [0, 0, 0, 0], "listing": [0, 0, 0, 0],
        "huge": [0, 0, 0, 0],
    }.items(),
)  # fmt: skip
def test_marks(graded: Graded, name: str, points: list[float]) -> None:
    assert graded.points(name) == points, [graded.told(name, i) for i in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("name", "question", "words"),
    [
        ("wrong", 1, "squared: You multiply x by itself"), ("wrong", 2, "wrong_axis: You normalise over the other"),
        ("wrong", 3, "agrees with a worked case: yours at ['head'] is 7, and that is not it."),
        ("wrong", 4, "not done yet"), ("partly", 3, "not found: no answer found: neither `heads`"),
        ("partly", 2, "rows sum to 1"), ("leaves", 2, "cell 5 cannot be read: IndentationError"),
        ("bombs", 1, "did not come to an end in time"), ("bombs", 2, "MemoryError"), ("bombs", 4, "PermissionError"),
        ("sleeps", 1, "did not come to an end in time"), ("exits", 1, "ended the whole process (exit code 0)"),
        ("exits", 2, "SystemExit"), ("loud", 4, "PermissionError"), ("intruder", 1, "PermissionError"),
        ("intruder", 2, "PermissionError"), ("intruder", 4, "PermissionError"), ("planter", 2, "did not finish"),
        ("planter", 3, "nothing came back"), ("forger", 1, "agrees with a worked case"), ("forger", 4, "class Same"),
    ],
)  # fmt: skip
def test_students_are_told(graded: Graded, name: str, question: int, words: str) -> None:
    assert words in graded.told(name, question)


@pytest.mark.parametrize(
    ("name", "words"),
    [("latin", "not in UTF-8"), ("truncated", "JSON breaks off"), ("listing", "no notebook"), ("huge", "50 MiB")],
)
def test_files_that_cannot_be_read_are_reported(graded: Graded, name: str, words: str) -> None:
    assert words in graded.rows[name].problem
    assert words in (graded.out / "feedback" / f"{name}.html").read_text()
    assert any(words in line for line in (graded.out / "marks.csv").read_text().splitlines() if name in line)


def test_ways_of_finding_are_reported(graded: Graded) -> None:
    ways = {name: [m.way for m in graded.rows[name].questions] for name in ("correct", "renamed", "reordered")}
    assert ways["correct"] == ["function name"] * 4
    assert ways["renamed"] == ["cell marker", *["function name"] * 3]
    assert ways["reordered"] == ["function name", "metadata", *["function name"] * 2]


def test_nothing_outside_is_touched(graded: Graded) -> None:
    assert graded.canary.read_text() == "still here"
    assert not graded.called
    assert graded.batch.walls == {"files": True, "network": True, "processes": True, "memory": True}
    assert graded.batch.failed == []
    assert any("link.ipynb: a link, not followed" in words for words in graded.batch.remarks)


def test_words_of_a_submission_are_escaped(graded: Graded) -> None:
    page = (graded.out / "feedback" / "planter.html").read_text()
    assert "<b>20 points" not in page
    assert "root:" not in page


def test_a_second_run_writes_the_same_bytes(graded: Graded, monkeypatch) -> None:
    monkeypatch.setattr("ictl_utils.grading_batch.execute", None)  # nothing is run again
    before = {path: path.read_bytes() for path in graded.out.rglob("*") if path.is_file()}
    graded.grade()
    after = {path: path.read_bytes() for path in graded.out.rglob("*") if path.is_file()}
    assert before == after


def test_summary_and_tables(graded: Graded) -> None:
    page = (graded.out / "summary.html").read_text()
    assert "hints, not findings" in page and "data:image/png" in page and "broken most often" in page
    canvas = list(csv.reader((graded.out / "canvas.csv").read_text().splitlines()))
    assert canvas[0] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "t1"]
    moodle = list(csv.reader((graded.out / "moodle.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert moodle[0] == ["Identifier", "Full name", "Email address", "Grade", "Feedback comments"]
    assert len(canvas) == len(moodle) + 1 == len(graded.rows) + 2


def test_what_a_person_reads_is_said_to_be_provisional(graded: Graded) -> None:
    marks = list(csv.DictReader((graded.out / "marks.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert {row["to be read"] for row in marks} == {"", "t1.q3"}
    waiting = [row["id"] for row in marks if row["to be read"]]
    assert all((float(row["t1.q3"]) > 0) == (row["id"] in waiting) for row in marks)
    assert f"t1.q3: {len(waiting)} answers" in (graded.out / "summary.html").read_text()
    page = (graded.out / "feedback" / "correct.html").read_text()
    assert page.count("Provisional") == 1
    moodle = (graded.out / "moodle.csv").read_text(encoding="utf-8-sig")
    assert moodle.count("still to be read: t1.q3") == len(waiting)


def test_the_command(graded: Graded, tmp_path: Path) -> None:
    options = ["--assignment", "t1", "--out", str(graded.out), "--solutions", str(graded.key), "--due", "2001-01-01",
               "--late", "0.001", "--seconds", "15", "--memory", "1"]  # fmt: skip
    done = CliRunner().invoke(app, ["grade", str(graded.folder), *options])
    assert done.exit_code == 0, done.output
    assert f"{len(graded.rows)} submissions, median" in done.output
    assert "days of delay" in (graded.out / "feedback" / "correct.html").read_text()
    assert "truncated: the file is no complete notebook" in done.stderr


def command(folder: Path, *options: str):
    """``ictl grade`` with the small assignment's key."""
    (folder / "in").mkdir(exist_ok=True)
    given = ["grade", str(folder / "in"), "--out", str(folder / "out"), "--solutions", str(folder / "key")]
    return CliRunner().invoke(app, [*given, *options])


def test_a_notebook_of_another_assignment_is_said_to_be_one(tmp_path: Path) -> None:
    made.write_key(tmp_path / "key")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ada.ipynb").write_bytes(made.of_another("t3"))
    (tmp_path / "in" / "bob.ipynb").write_bytes(made.submission())
    done = command(tmp_path, "--assignment", "T1")
    assert done.exit_code == 0, done.output
    words = "this looks like assignment t3, and t1 is marked"
    assert done.stderr.count("looks like") == 1 and f"ada: {words}" in done.stderr
    assert "2 submissions, median 10 of 20 points" in done.stdout
    assert "histogram of 2 totals, median 10 of 20 points. Right:" in (tmp_path / "out" / "summary.html").read_text()
    marks = list(csv.DictReader((tmp_path / "out" / "marks.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert [(row["total"], row["remarks"].count(words), "not found" in row["remarks"]) for row in marks] == [
        ("0.0", 1, False), ("20.0", 0, False)]  # fmt: skip
    for page in ("summary.html", "feedback/ada.html"):
        assert (tmp_path / "out" / page).read_text().count(words) == 1, page
    assert words in (tmp_path / "out" / "moodle.csv").read_text(encoding="utf-8-sig")


def test_what_is_wrong_with_the_command_is_said_before_anything_is_marked(tmp_path: Path) -> None:
    made.write_key(tmp_path / "key")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ada.ipynb").write_bytes(made.submission())
    assert "--assignment" in command(tmp_path).output
    for name in ("1", "t6", "t", "[t]1", ""):
        error = command(tmp_path, "--assignment", name).exception
        assert str(error).startswith(f"assignment={name!r} is not known; expected one of t1"), error
    (tmp_path / "out" / "records").mkdir(parents=True)
    (tmp_path / "out" / "records" / "zoe.json").write_text('{"questions": [{"question": "t3.q1"}]}')
    error = command(tmp_path, "--assignment", "t1").exception
    assert str(error).startswith(f"{tmp_path / 'out'} holds the marks of t3; expected a new folder for t1")
    assert not (tmp_path / "out" / "marks.csv").exists()
    assert str(command(tmp_path, "--assignment", "t1", "--due", "2026-13-01").exception).startswith("'2026-13-01' is")


@pytest.mark.parametrize("place", ["file", "file/a1", "gone"])
def test_a_place_that_is_no_folder_is_refused_before_anything_runs(tmp_path: Path, monkeypatch, place: str) -> None:
    made.write_key(tmp_path / "key")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ada.ipynb").write_bytes(made.submission())
    (tmp_path / "file").write_text("mine")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr("ictl_utils.grading_batch.grade", None)
    error = command(tmp_path, "--assignment", "t1", "--out", str(tmp_path / place)).exception
    why = f"because {tmp_path / place.partition('/')[0]} is no folder; name"
    assert isinstance(error, IctlError)
    assert str(error).startswith(f"--out {tmp_path / place} cannot hold the marks, {why}")
    assert (tmp_path / "file").read_text() == "mine"


def test_one_archive_is_marked_and_canvas_late_mark_is_one_day(tmp_path: Path) -> None:
    made.write_key(tmp_path / "key")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:  # its files carry the time of the download
        for name in ("ada_LATE_1_50_a.ipynb", "bob_2_51_a.ipynb"):
            archive.writestr(zipfile.ZipInfo(name, (2026, 6, 20, 12, 0, 0)), made.submission())
    options = ["grade", str(tmp_path / "all.zip"), "--out", str(tmp_path / "out"), "--solutions", str(tmp_path / "key"),
               "--assignment", "t1", "--late", "10"]  # fmt: skip

    def table(*more: str) -> list[tuple[str, ...]]:
        done = CliRunner().invoke(app, [*options, *more])
        assert done.exit_code == 0, done.output
        rows = csv.DictReader((tmp_path / "out" / "marks.csv").read_text(encoding="utf-8-sig").splitlines())
        return [(row["id"], row["days late"], row["mark"], row["remarks"]) for row in rows]

    words = "marked late by Canvas; how many days is not known without submitted.csv"
    assert table("--due", "20260530") == [("1", "1", "18.0", f"{words}, and one is counted"), ("2", "0", "20.0", "")]
    assert "; 1 day late; " in (tmp_path / "out" / "moodle.csv").read_text(encoding="utf-8-sig")
    assert table() == [("1", "0", "20.0", words), ("2", "0", "20.0", "")]
    (tmp_path / "submitted.csv").write_text("id,time\n1,2026-06-01T10:00\n2,2026-05-30T23:59\n")
    assert table("--due", "20260530") == [("1", "2", "16.0", ""), ("2", "0", "20.0", "")]


def test_pages_of_students_who_are_gone_are_removed(tmp_path: Path) -> None:
    made.write_key(tmp_path / "key")
    (tmp_path / "in").mkdir()
    for name in ("ada", "zoe"):
        (tmp_path / "in" / f"{name}.ipynb").write_bytes(made.submission())
    assert command(tmp_path, "--assignment", "t1").exit_code == 0
    own = [tmp_path / "out" / place for place in ("records/notes.json", "feedback/notes.html")]
    for path in own:
        path.write_text("[]")
    (tmp_path / "in" / "zoe.ipynb").unlink()
    done = command(tmp_path, "--assignment", "t1")
    assert "zoe: no longer among the submissions" in done.stderr and done.exit_code == 0
    assert "1 submission, median 20 of 20 points" in done.stdout
    assert "histogram of 1 total, median 20 of 20 points" in (tmp_path / "out" / "summary.html").read_text()
    left = {path.name for path in tmp_path.rglob("out/*/*")}
    assert left == {"ada.json", "ada.html", "notes.json", "notes.html"}
    assert "no longer" not in command(tmp_path, "--assignment", "t1").stderr


def test_the_instructors_notebook_prints_and_warns_nothing(tmp_path: Path, capsys, recwarn) -> None:
    key = made.write_key(tmp_path / "key")
    path = key / "t1_small.ipynb"
    loud = "import warnings\\nwarnings.warn('mistaken')\\nprint('spoken')\\n"
    text = path.read_text().replace("import os, sys, time", f"{loud}display('shown')\\nimport os")
    path.write_text(text.replace("return x * x", "print('spoken'); warnings.warn('mistaken'); return x * x"))
    assert path.read_text().count("spoken") == 2
    assert find_key("t1", key).expected
    assert capsys.readouterr() == ("", "") and not recwarn.list


def test_pages_and_tables_have_words_for_names_of_mistakes(graded: Graded) -> None:
    from ictl_utils.marks_pages import summary

    texts = [(graded.out / name).read_text(encoding="utf-8-sig") for name in ("feedback/wrong.html", "moodle.csv")]
    one = [row for row in graded.batch.rows if row.record.id == "wrong"]
    texts.append(summary(replace(graded.batch, rows=one)).decode())
    assert all("wrong axis" in text and "wrong_axis" not in text for text in texts)


def test_hints_at_similar_answers_are_hints(tmp_path: Path) -> None:
    from ictl_utils.similarity import hints

    more = "    for a, b in zip(x, x):\n        print(a.mean() + b.mean(), a - b)"
    loop = more + "\n    for row in x:\n        total = total + row.sum() * len(row)"
    long = f"def f(x):\n    total = 0\n{loop}\n    return total / 7"
    renamed = long.replace("total", "acc").replace("row", "line")
    other = "def f(x):\n    import math\n    return math.fsum(a for b in x for a in b) / math.tau if x else None"
    found = hints({"ada": {"q": long}, "bob": {"q": renamed}, "eve": {"q": other}})
    assert [(h.a, h.b) for h in found] == [("ada", "bob")]
    assert hints({"ada": {"q": long}, "bob": {"q": renamed}}, {"q": long}) == []  # as shipped


def test_half_points() -> None:
    assert [half_points(x) for x in (0, 0.24, 0.25, 2.67, 2.75, 6)] == [0, 0, 0.5, 2.5, 3, 6]


def test_late_days_cost_percent() -> None:
    late = Late(1000.0, 10)
    one = Submission("Ada", "1", "ada.ipynb", "file")

    def days(at: float, **facts) -> int:
        return late.days(replace(one, submitted=at, **facts))

    assert [days(t) for t in (1000, 1001, 1000 + 86400, 1001 + 86400)] == [0, 1, 1, 2]
    assert [late.mark(20, n) for n in (0, 1, 20)] == [20, 18, 0]
    assert days(9999, layout="canvas") == 0  # Canvas says itself who is late; its files carry the time of the download
    for at in (0, 9999, 1000 + 9 * 86400):
        assert days(at, layout="canvas", late_mark=True) == 1
        assert Late(None, 10).days(replace(one, submitted=at, layout="canvas", late_mark=True)) == 0
    assert days(9999, layout="canvas", timed=True) == 1
    assert [days(t, layout="canvas", timed=True, late_mark=True) for t in (0, 1001 + 86400)] == [0, 2]
    with pytest.raises(IctlError, match="late=120"):
        Late(0, 120)


def test_a_wrong_key_is_said_before_anything_runs(tmp_path: Path) -> None:
    key = made.write_key(tmp_path / "key")
    path = key / "t1_small.ipynb"
    path.write_text(path.read_text().replace("return 2 * x", "return 2 * x / 0"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ada.ipynb").write_bytes(made.submission())
    with pytest.raises(IctlError, match=r"own answer to t1.q1 breaks a rule on a hidden case"):
        grade(tmp_path / "in", "t1", tmp_path / "out", solutions=key)
    with pytest.raises(IctlError, match="expected the one with the solutions"):
        find_key("t1", tmp_path)
    with pytest.raises(IctlError, match="lies within"):
        grade(tmp_path / "in", "t1", tmp_path / "in" / "out", solutions=key)


def test_a_formula_for_a_name_is_text(tmp_path: Path) -> None:
    from ictl_utils.marks_report import safe

    assert [safe(x) for x in ("=1+1", "+1", "-1", "@x", "Ada", " =x")] == ["'=1+1", "'+1", "'-1", "'@x", "Ada", "'=x"]


def test_a_broken_machine_is_no_mark(tmp_path: Path, monkeypatch) -> None:
    from ictl_utils.sandbox import Ran

    key = made.write_key(tmp_path / "key")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ada.ipynb").write_bytes(made.submission())
    monkeypatch.setattr("ictl_utils.grading_batch.execute", lambda *_: Ran(broken="no Python"))
    batch = grade(tmp_path / "in", "t1", tmp_path / "out", solutions=key)
    assert batch.failed == ["ada.ipynb: no Python"]
    assert not list((tmp_path / "out").glob("records/*"))
    monkeypatch.setattr("ictl_utils.grading_batch.execute", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in grade(tmp_path / "in", "t1", tmp_path / "out", solutions=key).failed[0]


REAL = sorted((Path(__file__).parents[1] / "notebooks" / "assignments" / "instructor").glob("a*_*.ipynb"))


def edition(path: Path, solved: bool) -> bytes:
    """A student's notebook from the instructor's: with all solutions, or with none."""
    book = json.loads(path.read_text())
    gone = {"mistakes", "rubric", "expected"}
    book["cells"] = [c for c in book["cells"] if gone.isdisjoint(c["metadata"].get("tags", []))]
    student = path.parents[1] / path.name
    return json.dumps(book).encode() if solved else student.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem[:2])
def test_solutions_have_all_points_and_stubs_none(path: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("ada", "stub"):
        (tmp_path / "in" / f"{name}.ipynb").write_bytes(edition(path, name == "ada"))
    batch = grade(tmp_path / "in", path.stem[:2], tmp_path / "out", late=Late())
    full, none = (row.record for row in batch.rows)
    assert [(m.question, m.points) for m in full.questions] == [(m.question, m.of) for m in full.questions], full
    assert {m.rule for m in none.questions} == {"not done yet"}
    assert none.total == 0 and batch.failed == []


@pytest.mark.slow
def test_a_hundred_submissions_in_ten_minutes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(100):
        (tmp_path / "in" / f"student{i}.ipynb").write_bytes(edition(REAL[0], True) + b" " * i)
    start = time.monotonic()
    batch = grade(tmp_path / "in", "a1", tmp_path / "out", jobs=2)
    assert time.monotonic() - start < 600
    assert {row.final for row in batch.rows} == {20.0}


@pytest.mark.slow
def test_a_loop_that_swallows_everything_ends_by_the_clock(tmp_path: Path) -> None:
    key = made.write_key(tmp_path / "key")
    (tmp_path / "in").mkdir()
    body = "while True:\n    try:\n        time.sleep(1)\n    except BaseException:\n        pass"
    (tmp_path / "in" / "ada.ipynb").write_bytes(made.submission({"q1": made.answer("q1", body)}))
    batch = grade(tmp_path / "in", "t1", tmp_path / "out", solutions=key, limits=Limits(8))
    assert [m.points for m in batch.rows[0].record.questions][0] == 0
    assert "time was up" in batch.rows[0].record.questions[0].message
    assert json.loads((tmp_path / "out" / "records" / "ada.json").read_text())["id"] == "ada"
    assert os.listdir(tmp_path / "in") == ["ada.ipynb"]
