"""Submissions found in folders of learning platforms, and answers found in notebooks."""

from __future__ import annotations

import json
import os
import re
import time
import zipfile
from pathlib import Path

import marking_fixture as made
import pytest

from ictl_utils.config import IctlError
from ictl_utils.coursework import questions
from ictl_utils.extraction import locate, looks_like, prepared, python_of, read_cells, worth_running
from ictl_utils.marking import find_key
from ictl_utils.submissions import end_or_moment, find, moment, whose


@pytest.mark.parametrize(
    ("place", "student", "name", "layout"),
    [
        ("Ada Lovelace_12345_assignsubmission_file_/a1.ipynb", "Ada Lovelace", "12345", "moodle"),
        ("Ada Lovelace_12345_assignsubmission_file/deep/a1.ipynb", "Ada Lovelace", "12345", "moodle"),
        ("down/Ana_Maria de Souza_7_assignsubmission_file_/x.ipynb", "Ana_Maria de Souza", "7", "moodle"),
        ("lovelaceada_12345_67890_a1_attention.ipynb", "lovelaceada", "12345", "canvas"),
        ("lovelaceada_LATE_12345_67890_a1-2.ipynb", "lovelaceada", "12345", "canvas"),
        ("ada/a1/a1.ipynb", "ada", "ada", "folder"),
        ("Copy of a1_attention_heads.ipynb", "Copy of a1_attention_heads", "Copy of a1_attention_heads", "file"),
    ],
)
def test_layouts(place: str, student: str, name: str, layout: str) -> None:
    found = whose(place)
    assert (found.student, found.id, found.layout) == (student, name, layout)
    assert found.late_mark == ("LATE" in place)


def test_the_newest_file_of_a_student_is_marked(tmp_path: Path) -> None:
    for name in ("x_1_50_a1.ipynb", "x_1_60_a1-1.ipynb", "x_1_40_a1-2.ipynb", "y_2_5_a1.ipynb"):
        (tmp_path / name).write_bytes(name.encode())
    folder = tmp_path / "Ada L_9_assignsubmission_file_"
    folder.mkdir()
    for name, at in (("old.ipynb", 1000), ("new.ipynb", 2000)):
        (folder / name).write_bytes(name.encode())
        os.utime(folder / name, (at, at))
    found = find(tmp_path)
    assert {one.id: one.content for one in found.submissions} == {
        "1": b"x_1_40_a1-2.ipynb", "2": b"y_2_5_a1.ipynb", "9": b"new.ipynb",
    }  # fmt: skip
    assert len(found.remarks) == 2
    assert found.remarks[0].startswith("1: 3 files; x_1_40_a1-2.ipynb is the newest and is marked, not ")


def test_a_table_of_times_does_not_choose_the_file(tmp_path: Path) -> None:
    for name, at in (("draft.ipynb", 1000), ("a1_final.ipynb", 2000)):
        (tmp_path / "ada").mkdir(exist_ok=True)
        (tmp_path / "ada" / name).write_bytes(name.encode())
        os.utime(tmp_path / "ada" / name, (at, at))
    (tmp_path / "submitted.csv").write_text("id,time\nada,2026-03-01 10:00\n")
    (one,) = find(tmp_path).submissions
    assert one.content == b"a1_final.ipynb" and one.timed and one.submitted > 2000


def test_archives_links_and_other_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("Ada L_9_assignsubmission_file_/a.ipynb", b"ada")
        archive.writestr("x_1_50_a1.ipynb", b"x")
        archive.writestr("__MACOSX/._x.ipynb", b"")
        archive.writestr("notes.txt", b"")
        archive.writestr("../../out.ipynb", b"below")
        archive.writestr("bob/large.ipynb", b"0" * (21 << 20), zipfile.ZIP_DEFLATED)
    (tmp_path / "broken.zip").write_bytes(b"PK no archive")
    (tmp_path / "essay.pdf").write_bytes(b"")
    (tmp_path / "eve.ipynb").symlink_to("/etc/passwd")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.ipynb")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "z.ipynb").write_bytes(b"")
    found = find(tmp_path)
    by_id = {one.id: one for one in found.submissions}
    assert by_id["9"].content == b"ada" and by_id["1"].content == b"x"
    assert "more than 20" in by_id["bob"].problem and not by_id["bob"].content
    assert "archive cannot be read" in by_id["broken"].problem
    assert "eve" not in by_id and "z" not in by_id and "pipe" not in by_id
    told = "\n".join(found.remarks)
    for words in ("eve.ipynb: a link", "loop: a link", "essay.pdf: no notebook", "notes.txt", "pipe.ipynb: no plain"):
        assert words in told
    assert not (tmp_path.parents[1] / "out.ipynb").exists()


def test_one_archive_stands_for_the_folder(tmp_path: Path) -> None:
    os.utime(made_zip(tmp_path / "all.ZIP", "Ada L_9_assignsubmission_file_/a.ipynb", "x_LATE_1_50_a1.ipynb",
                      "eve/a1.ipynb", "bob.ipynb", "cy.ipynb", "notes.txt"))  # fmt: skip
    (tmp_path / "zoe.ipynb").write_bytes(b"")
    (tmp_path / "submitted.csv").write_text("id,time\nbob,2026-05-31T10:00:00+00:00\n")
    found = find(tmp_path / "all.ZIP")
    assert [(one.id, one.file) for one in found.submissions] == [
        ("1", "all.ZIP!x_LATE_1_50_a1.ipynb"), ("9", "all.ZIP!Ada L_9_assignsubmission_file_/a.ipynb"),
        ("bob", "all.ZIP!bob.ipynb"), ("cy", "all.ZIP!cy.ipynb"), ("eve", "all.ZIP!eve/a1.ipynb"),
    ]  # fmt: skip
    assert [one.id for one in found.submissions if one.timed] == ["bob"]
    assert found.remarks[0] == "all.ZIP: notes.txt in it is no notebook, not marked."
    assert found.submissions[2].content == b"bob.ipynb"


def test_one_archive_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "all.zip").write_bytes(b"PK no archive")
    with pytest.raises(IctlError, match=r"all\.zip cannot be read: File is not a zip file; expected a \.zip"):
        find(tmp_path / "all.zip")
    (tmp_path / "ada.ipynb").write_bytes(b"")
    for name in ("ada.ipynb", "gone.zip"):
        with pytest.raises(IctlError, match=f"{name} is no folder and no .zip"):
            find(tmp_path / name)


def made_zip(path: Path, *names: str, flag: bool = True) -> Path:
    """Files that hold their names, archived; without ``flag`` nothing says that the names are in UTF-8."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name.encode())
    content = bytearray(path.read_bytes())
    for head, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        for at in [] if flag else [found.start() for found in re.finditer(re.escape(head), bytes(content))]:
            assert content[at + place + 1] & 8
            content[at + place + 1] &= ~8
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("flag", [True, False])
def test_accents_in_an_archive(tmp_path: Path, flag: bool) -> None:
    names = ["\u00c9mile No\u00ebl_7_assignsubmission_file_/\u00e9.ipynb", "\u0141uk_8_assignsubmission_file_/a.ipynb"]
    made_zip(tmp_path / "moodle.zip", *names, flag=flag)
    found = find(tmp_path).submissions
    assert [one.student for one in found] == ["\u00c9mile No\u00ebl", "\u0141uk"]
    assert [one.file for one in found] == [f"moodle.zip!{name}" for name in names]
    assert [one.content.decode() for one in found] == names


def test_accents_in_an_old_archive(tmp_path: Path) -> None:
    path = made_zip(tmp_path / "all.zip", "\u00c9mile/a.ipynb", flag=False)
    path.write_bytes(path.read_bytes().replace(b"\xc3\x89mile/", b"C\x90mile/"))  # cp437
    assert [one.id for one in find(path).submissions] == ["C\u00c9mile"]


def test_a_day_ends_at_its_end() -> None:
    end = moment("2026-05-30T23:59:59")
    assert {end_or_moment(text) for text in ("2026-05-30", " 20260530 ", "2026-W22-6", "2026-05-30T23:59:59")} == {end}
    assert end_or_moment("2026-05-30T00:00") == end_or_moment("20260530T00") == moment("2026-05-30")
    assert end_or_moment("2026-05-30T10:00+02:00") == moment("2026-05-30T08:00+00:00")
    for text in ("2026-13-01", "tomorrow", "2026-05", "0001-01-01"):
        with pytest.raises(IctlError, match=f"^'{text}' is no time; expected 2026-05-31 or 2026-05-31T23:59"):
            end_or_moment(text)


def test_times_of_submission(tmp_path: Path) -> None:
    for name in ("ada", "bob"):
        (tmp_path / f"{name}.ipynb").write_bytes(b"")
        os.utime(tmp_path / f"{name}.ipynb", (500, 500))
    (tmp_path / "submitted.csv").write_text("id,time\nada,2026-05-31T10:00:00+00:00\nbob,yesterday\n")
    found = find(tmp_path)
    assert [one.submitted for one in found.submissions] == [moment("2026-05-31T10:00+00:00"), 500]
    assert found.remarks == [
        "submitted.csv, row 3, bob: 'yesterday' is no time; expected 2026-05-31 or 2026-05-31T23:59.",
        "submitted.csv gives no time for bob: the file's time counts, or Canvas' mark.",
    ]


@pytest.mark.parametrize("text", [
    "id,time\nADA,{t}\n", "ID;Time\n ada ;{t}\n\n", "time\tid\n{t}\tAda\n", "\ufeffId,note,TIME\nada,\"a, b\",{t}\n",
])  # fmt: skip
def test_times_from_any_spreadsheet(tmp_path: Path, text: str) -> None:
    (tmp_path / "ada.ipynb").write_bytes(b"")
    (tmp_path / "submitted.csv").write_text(text.format(t="2026-05-31T10:00:00+00:00"))
    found = find(tmp_path)
    assert [(one.submitted, one.timed) for one in found.submissions] == [(moment("2026-05-31T10:00+00:00"), True)]
    assert found.remarks == []


def test_times_that_fit_nobody_are_told_with_their_row(tmp_path: Path) -> None:
    for i in range(13):
        (tmp_path / f"s{i:02}.ipynb").write_bytes(b"")
    (tmp_path / "s00.ipynb").rename(tmp_path / "Ad\u00e9le.ipynb")  # one letter
    (tmp_path / "submitted.csv").write_text("id,time\nADE\u0301LE,2026-05-31\n\nadda,2026-05-31\n")  # and two
    found = find(tmp_path)
    assert [one.id for one in found.submissions if one.timed] == ["Ad\u00e9le"]
    assert found.remarks[0].startswith("submitted.csv, row 4: 'adda' is nobody's id or name here; expected one such")
    assert "gives no time for s01, s02," in found.remarks[1] and "s10 and 2 more: the file's time" in found.remarks[1]


@pytest.mark.parametrize("text", ["", "ada,2026-05-31\n", "id,when\nada,2026-05-31\n", "name;time\nada;2026-05-31\n"])
def test_a_table_of_times_without_its_columns_stops_the_batch(tmp_path: Path, text: str) -> None:
    (tmp_path / "ada.ipynb").write_bytes(b"")
    (tmp_path / "submitted.csv").write_text(text)
    with pytest.raises(IctlError, match="expected the columns id and time: id,time or id;time"):
        find(tmp_path)


def test_a_table_of_times_that_is_not_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "bob").mkdir()
    (tmp_path / "bob" / "b.ipynb").write_bytes(b"")
    (tmp_path / "bob" / "submitted.csv").write_text("id,time\nbob,2020-01-01\n")
    (tmp_path / "submitted.csv").symlink_to(tmp_path / "bob" / "submitted.csv")
    found = find(tmp_path)
    assert not any(one.timed for one in found.submissions)
    assert found.remarks[0] == "bob/submitted.csv: no notebook, not marked."
    assert found.remarks[1].startswith("submitted.csv: no plain file, not read")


def test_folders_without_submissions_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(IctlError, match="holds no notebook"):
        find(tmp_path)
    with pytest.raises(IctlError, match="is no folder"):
        find(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("%matplotlib inline\nx = 1", "pass\nx = 1"), ("!ls\nx = 1", "pass\nx = 1"),
        ("files = !ls\nx = 1", "pass\nx = 1"), ("if x:\n    %pip install y\nz = 1", "if x:\n    pass\nz = 1"),
        ("%%bash\nls", ""), ("%%time\nx = 1", "pass\nx = 1"), ("torch.ones?\nx = 1", "pass\nx = 1"),
        ("x = (7\n% 4)", "x = (7\n% 4)"), ("def f(:\n", "def f(:\n"),
    ],
)  # fmt: skip
def test_magics_are_left_out(source: str, expected: str) -> None:
    plain, error = python_of(source)
    assert plain == expected
    assert bool(error) == ("(:" in source)


@pytest.mark.parametrize("source", [
    "?" * 3 + " " * 10**6, "x y\n" + " " * 10**6 + ")", "x y\n" * 2 + "\n" * 10**6, "a, " * 300_000 + "b", "(" * 10**6,
])  # fmt: skip
def test_reading_a_notebook_is_linear_in_its_length(source: str) -> None:
    """Quadratic reading of a million characters takes a thousand seconds and more; Python's own parser takes five."""
    began = time.process_time()
    cells = read_cells(json.dumps({"cells": [{"cell_type": "code", "source": source, "metadata": {}}]}).encode())
    locate(cells, questions("a1"))
    assert looks_like(cells, "a1") == "" and time.process_time() - began < 60


def test_nothing_makes_reading_fail() -> None:
    deep = "x = " + "(" * 500 + "1" + ")" * 500
    for source in ("\x00def f(): pass", deep, "x = " + "-" * 5000 + "1", "x = " + "+".join(["1"] * 20000), "'" * 7):
        python_of(source)
    for content in (b"", b"{}", b'{"cells": 3}', b"[" * 100_000, b"\xff\xfe", b'{"cells": [1, {}]'):
        with pytest.raises(IctlError):
            read_cells(content)
    odd = b'{"cells": [1, {"cell_type": "code", "source": 5, "metadata": []}, {"cell_type": "code", "source": [3]}]}'
    assert [cell.source for cell in read_cells(odd)] == ["", ""]
    old = b'{"worksheets": [{"cells": [{"cell_type": "code", "input": "x = 1", "metadata": {}}]}]}'
    assert [cell.source for cell in read_cells(old)] == ["x = 1"]


def test_where_answers_are(tmp_path: Path) -> None:
    questions = find_key("t1", made.write_key(tmp_path / "key")).questions

    def ways(cells: list[dict]) -> list[str]:
        return [p.way if p.found else p.problem for p in locate(read_cells(made.notebook(cells)), questions)]

    assert ways(made.cells_of()) == ["function name"] * 4
    two = [made.cell("# t1.q1\ndef a(x):\n    return 1\n# t1.q2\ndef b(x):\n    return 2\n# t1.q3\nmine = {}")]
    assert ways(two)[:3] == ["cell marker"] * 3
    assert [p.name for p in locate(read_cells(made.notebook(two)), questions)][:3] == ["a", "b", "mine"]
    graded = [made.cell("def b(x):\n    return 2", grade_id="t1-q2"), made.cell("f = lambda t, u: 3", "q4-answer")]
    assert ways(graded)[1::2] == ["metadata", "metadata"]
    assert "no answer found: neither `double`" in ways(graded)[0]


def test_cells_of_another_assignment_answer_nothing(tmp_path: Path) -> None:
    questions = find_key("t1", made.write_key(tmp_path / "key")).questions
    cells = read_cells(made.of_another("t3"))
    assert [p.problem.partition(":")[0] for p in locate(cells, questions)] == ["no answer found"] * 4
    unmarked = made.cell("def mine(x):\n    return 2 * x", "q1-answer", grade_id="t3-q1")
    own = made.cell("# as in t3.q1\n# T1.q1\ndef mine(x):\n    return 2 * x", "q1-answer", grade_id="t3-q1")
    for cell, found in ((unmarked, False), (own, True)):
        assert locate(read_cells(made.notebook([cell])), questions)[0].found == found


def test_the_assignment_that_a_notebook_looks_like() -> None:
    cells = read_cells(made.of_another("t3"))
    assert looks_like(cells, "t3") == ""
    assert looks_like(cells, "t1").startswith("this looks like assignment t3, and t1 is marked")
    assert looks_like(read_cells(made.notebook([made.cell('check("t3.q1", f)')])), "t1")
    assert looks_like(read_cells(made.submission()), "t1") == ""


def test_a_name_used_again_for_a_value_does_not_hide_the_function(tmp_path: Path) -> None:
    questions = find_key("t1", made.write_key(tmp_path / "key")).questions

    def place(*sources: str):
        return locate(read_cells(made.notebook([made.cell(source) for source in sources])), questions)[0]

    wanted = made.ANSWERS["q1"]
    for later in ("double = double(3)", "double, other = double(1), 2", "class double:\n    pass"):
        assert place(wanted, later).cell == 1, later
    assert place("def twice(x):\n    return x + x", made.STUBS["q1"], "double = twice").cell == 3
    assert place(wanted, "def twice(x):\n    return x + x", "double = twice").cell == 3
    assert place("import functools", "double = functools.partial(max, 2)").cell == 2  # nothing else has the name


def test_a_stub_left_below_an_answer_does_not_count(tmp_path: Path) -> None:
    questions = find_key("t1", made.write_key(tmp_path / "key")).questions
    cells = [made.cell(made.ANSWERS["q1"]), made.cell(made.STUBS["q1"]), made.cell(made.STUBS["q3"])]
    places = locate(read_cells(made.notebook(cells)), questions)
    assert (places[0].cell, places[0].stub, places[2].stub) == (1, False, True)


def test_what_is_run() -> None:
    cells = read_cells(made.notebook([
        made.cell('check("t1.q1", double)'), made.cell("# only a comment"), made.cell("plot()", "p", ("draw",)),
        made.cell("def f():\n    pass", "q", ("draw",)), made.cell('preset = "gpu"'), made.cell("f()"),
    ]))  # fmt: skip
    assert [worth_running(cell) for cell in cells] == [False, False, False, True, True, True]
    assert prepared(cells[4]) == 'preset = "gpu"\npreset = "smoke"'
    assert prepared(cells[5]) == "f()"
