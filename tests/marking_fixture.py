"""A small assignment for the tests of the batch grader, and notebooks that answer it well, badly and with malice."""

from __future__ import annotations

import json
import os
from pathlib import Path

QUESTIONS = '''
import torch
from ictl_utils.grading import Case, Question
from ictl_utils.grading_rules import agrees, array, finite, keys, number, rows_sum_to_one


def tensors(seed):
    draw = torch.Generator().manual_seed(seed)
    return [Case({"x": torch.randn(n, n + 1, generator=draw)}, f"{n} rows") for n in (3, 2, 1)]


def words(seed):
    return [Case({"tokens": [seed % 5, 1, 2, 1], "token": t}, f"token {t}") for t in (1, 2, 9)]


alike = array(lambda given: tuple(given["x"].shape), "float")
QUESTIONS = (
    Question("t1.q1", "Twice", "double", 4, 5, 1, tensors, (alike, finite(), agrees()), "Add it to itself."),
    Question("t1.q2", "Pattern", "pattern", 6, 10, 2, tensors, (alike, finite(), rows_sum_to_one(), agrees())),
    Question("t1.q3", "Heads", "heads", 4, 5, 1, lambda seed: [Case({})], (keys("layer", "head"), agrees()),
             kind="value", read=True),
    Question("t1.q4", "Count", "count", 6, 5, 1, words, (number(), agrees())),
)
'''
SET_UP = "import os, sys, time\nimport torch\nfrom ictl_utils.grading import check, progress\n%matplotlib inline"
ANSWERS = {
    "q1": "# t1.q1\ndef double(x):\n    return 2 * x",
    "q2": "# t1.q2\ndef pattern(x):\n    return x.softmax(-1)",
    "q3": '# t1.q3\nheads = {"layer": 1, "head": 4}',
    "q4": "# t1.q4\ndef count(tokens, token):\n    return sum(t == token for t in tokens)",
}
STUBS = {
    "q1": '# t1.q1\ndef double(x):\n    """Twice x."""\n    raise NotImplementedError("t1.q1: write it")',
    "q2": '# t1.q2\ndef pattern(x):\n    raise NotImplementedError("t1.q2: write it")',
    "q3": "# t1.q3\nheads = None  # t1.q3: write it",
    "q4": '# t1.q4\ndef count(tokens, token):\n    raise NotImplementedError("t1.q4: write it")',
}
MISTAKES = {
    "q1": 'def squared(x):\n    """You multiply x by itself: twice is a sum."""\n    return x * x',
    "q2": 'def wrong_axis(x):\n    """You normalise over the other axis."""\n    return x.softmax(0)',
    "q3": 'def one_off():\n    """Heads are counted from 0."""\n    return {"layer": 2, "head": 5}',
    "q4": 'def other(tokens, token):\n    """You count the others."""\n    return sum(t != token for t in tokens)',
}
POINTS = {"q1": 4, "q2": 6, "q3": 4, "q4": 6}


def cell(source: str, name: str = "", tags: tuple[str, ...] = (), grade_id: str = "") -> dict:
    """A code cell."""
    meta = {"tags": list(tags)} if tags else {}
    if grade_id:
        meta["nbgrader"] = {"grade_id": grade_id, "schema_version": 3}
    return {"cell_type": "code", "id": name or "x", "metadata": meta, "outputs": [], "execution_count": None,
            "source": source.splitlines(keepends=True)}  # fmt: skip


def notebook(cells: list[dict]) -> bytes:
    """A notebook file."""
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


def cells_of(changes: dict[str, str | None] | None = None, first: str = "", named: bool = True) -> list[dict]:
    """The solution with some answers exchanged (None: deleted), and a cell that runs first."""
    answers = {**ANSWERS, **(changes or {})}
    made = [cell(SET_UP, "set-up"), *([cell(first)] if first else [])]
    for name, source in answers.items():
        if source is not None:
            made.append(cell(source, f"{name}-answer" if named else "", ("answer",) if named else ()))
            made.append(cell(f'check("t1.{name}", None)', f"{name}-check"))
    return [*made, cell('progress("t1")')]


def submission(changes: dict[str, str | None] | None = None, first: str = "", named: bool = True) -> bytes:
    """The file of :func:`cells_of`."""
    return notebook(cells_of(changes, first, named))


def of_another(assignment: str) -> bytes:
    """A notebook of another assignment, its cells named as in this one."""
    made = [cell(SET_UP, "set-up")]
    for name in ANSWERS:
        source = f"# {assignment}.{name}\ndef other_{name}(x):\n    return 2 * x"
        made.append(cell(source, f"{name}-answer", ("answer",), f"{assignment}-{name}"))
        made.append(cell(f'check("{assignment}.{name}", other_{name})', f"{name}-check", ("check",)))
    return notebook(made)


def write_key(folder: Path) -> Path:
    """Instructor notebook and questions of assignment t1."""
    folder.mkdir(parents=True)
    made = [cell(SET_UP, "set-up")]
    for name, source in ANSWERS.items():
        made += [cell(source, f"{name}-answer", ("answer",)), cell(MISTAKES[name], f"{name}-mistakes", ("mistakes",))]
    (folder / "t1_small.ipynb").write_bytes(notebook(made))
    (folder / "grading_t1.py").write_text(QUESTIONS)
    return folder


def answer(name: str, body: str) -> str:
    """An answer cell whose function has this body; ``right`` is the right answer inside."""
    parameters, right = {"q1": ("x", "2 * x"), "q2": ("x", "x.softmax(-1)"),
                         "q4": ("tokens, token", "sum(t == token for t in tokens)")}[name]  # fmt: skip
    function = {"q1": "double", "q2": "pattern", "q4": "count"}[name]
    lines = "\n".join("    " + line for line in body.replace("right", right).splitlines())
    return f"# t1.{name}\ndef {function}({parameters}):\n{lines}"


def hostile(key: Path, canary: Path, port: int) -> dict[str, bytes]:
    """File name -> notebook; what each must get is in ``tests/test_marking.py``."""
    read = f"source = open({str(key / 't1_small.ipynb')!r}).read()\nspace = {{}}\nexec(source, space)\nreturn right"
    forge = """import ictl_utils.grading as g, ictl_utils.grading_cases as c, ictl_utils.answers as a
import ictl_utils.sandbox_child as s, numpy as np
g.judge = c.judge = g.first_broken = c.first_broken = c.recognise = lambda *args, **kwargs: None
torch.allclose = torch.equal = np.allclose = np.array_equal = np.isclose = lambda *args, **kwargs: True
torch.Tensor.__eq__ = lambda self, other: True
print('{"t1.q1": 4, "total": 20}')
print("SCORE 20/20", file=sys.stderr)
for fd in range(1, 64):
    try:
        os.write(fd, b'{"points": 20, "total": 20, "held": 3}')
    except OSError:
        pass"""
    plant = """import glob, json
folder = next(a for a in sys.argv if a.endswith("task.json")).replace("task.json", "out")
os.mkdir(f"{folder}/t1.q3.0")
for case in range(6):
    try:
        os.symlink("/etc/passwd", f"{folder}/t1.q2.{case}")
    except OSError:
        pass
    try:
        os.mkfifo(f"{folder}/t1.q2.{case}")
    except OSError:
        pass
    open(f"{folder}/t1.q2.{case}", "wb").write(b"\\x80\\x04cposix\\nsystem\\n")
open(f"{folder}/report.json", "w").write('{"done": true, "total": 20, "problems": {"t1.q2": "<b>20 points</b>"}}')
os._exit(0)"""
    delete = f"""import shutil
shutil.rmtree(os.getcwd(), ignore_errors=True)
shutil.rmtree({str(canary.parent)!r}, ignore_errors=True)
os.remove({str(canary)!r})
return right"""
    call = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2).sendall(b'x')\nreturn right"
    renamed = ANSWERS["q1"].replace("double(x)", "twice(values)").replace("* x", "* values")
    shared = {"q1": answer("q1", "return factor * x"), "q2": "def shares(x):\n    return x.softmax(-1) ** (factor / 2)"}
    made = {
        "correct": submission(),
        "renamed": submission({"q1": renamed}, named=False),
        "reordered": notebook([*reversed(cells_of(shared)), cell("factor = 2")]),
        "wrong": submission({"q1": answer("q1", "return x * x"), "q2": answer("q2", "return x.softmax(0)"),
                             "q3": '# t1.q3\nheads = {"layer": 1, "head": 7}', "q4": STUBS["q4"]}),
        "partly": submission({"q2": answer("q2", "return x.softmax(-1 if len(x) > 1 else 0)"), "q3": None}),
        "leaves": submission({"q2": "# t1.q2\ndef pattern(x):\nreturn x"}, first="sys.exit('20 of 20')"),
        "bombs": submission({"q1": answer("q1", "while True:\n    pass"),
                             "q2": answer("q2", "hog = []\nwhile True:\n    hog.append(bytearray(1 << 33))"),
                             "q4": answer("q4", "for _ in range(400):\n    if os.fork() == 0:\n        time.sleep(60)\n"
                                                "return right")}),
        "sleeps": submission({"q1": answer("q1", "time.sleep(1000)"), "q2": answer("q2", "import threading\n"
                              "threading.Thread(target=time.sleep, args=(1000,)).start()\nreturn right")}),
        "exits": submission({"q1": answer("q1", "os._exit(0)"), "q2": answer("q2", "sys.exit(0)")},
                            first="os._exit(0)"),
        "loud": submission({"q1": answer("q1", "for _ in range(300):\n    print('x' * 10**6)\nreturn right"),
                            "q2": answer("q2", "os.system('echo loud')\nreturn right"), "q4": answer("q4", delete)}),
        "intruder": submission({"q1": answer("q1", read), "q2": answer("q2", call),
                                "q4": answer("q4", "os.kill(os.getppid(), 15)\nreturn right")}),
        "forger": submission({"q1": answer("q1", "return x"), "q2": answer("q2", "return -x"),
                              "q3": '# t1.q3\nheads = {"layer": 0, "head": 0}',
                              "q4": answer("q4", "class Same:\n    def __eq__(self, other):\n        return True\n"
                                                 "return Same()")}, first=forge),
        "planter": submission({"q2": answer("q2", plant)}),
        "latin": submission()[:40] + b'"\xe9\xff' + submission()[40:],
        "truncated": submission()[:-200],
        "listing": b"[1, 2, 3]",
    }  # fmt: skip
    return {f"{name}.ipynb": content for name, content in made.items()}


def huge(path: Path, size: int = 50 << 20) -> None:
    """A file of 50 MB that takes no room."""
    with open(path, "wb") as file:
        file.write(submission())
        os.truncate(path, size)
