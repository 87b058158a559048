"""Student notebooks and expected values, both from the instructor notebooks: `make assignments`.

``assignments.py --check`` changes nothing and fails when something is out of date.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
import traceback
import warnings
from contextlib import redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
os.environ.setdefault("MPLBACKEND", "agg")

import badges  # noqa: E402
import numpy as np  # noqa: E402
from assignment_data import pack, same_data  # noqa: E402
from PIL import Image  # noqa: E402
from student_edition import drawn, edition, solution_lines  # noqa: E402
from tqdm.auto import tqdm  # noqa: E402

from ictl_utils.config import IctlError  # noqa: E402
from ictl_utils.coursework import cells, questions, solutions  # noqa: E402
from ictl_utils.grading import Question  # noqa: E402
from ictl_utils.snapshots import write_bytes  # noqa: E402

FOLDER = Path("notebooks") / "assignments"
DATA = Path("ictl_utils") / "coursework_data"
POINTS, EXERCISES, MINUTES = 20, (6, 10), (60, 120)
ROLES = ("text", "answer", "check", "mistakes", "rubric")
LEAST_PICTURES, LARGEST_DATA = 2, 200_000
LONG_LINE = 25  # characters from which a line of a solution must not stand in the student edition
EMBEDDED = re.compile(r"data:image/png;base64,([\w+/=]+)")


def sources(root: Path = ROOT) -> list[Path]:
    """The instructor notebooks, in order."""
    return sorted((root / FOLDER / "instructor").glob("a*.ipynb"))


def made(notebook: Path, root: Path = ROOT) -> tuple[dict[Path, bytes], list[str]]:
    """The files that one instructor notebook decides, with their content, and what is wrong with it."""
    assignment = notebook.stem.partition("_")[0]
    try:
        asked = questions(assignment)
        pictures: dict = {}
        with redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            solved = solutions(notebook, lambda cell, names: pictures.update({cell["id"]: drawn(cell, names)}))
            data, wrong = pack(asked, solved)
        source = json.loads(badges.with_install_line(notebook.read_text(encoding="utf8"), root))
        student = edition(source, asked, pictures, root / FOLDER)
    except IctlError as error:
        return {}, [str(error)]
    except Exception as error:  # one broken assignment must not hide the state of the others
        last = traceback.extract_tb(error.__traceback__)[-1]
        return {}, [f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})."]
    wrong = design(asked) + layout(cells(notebook), asked) + wrong + leaks(cells(notebook), student)
    if len(data) > LARGEST_DATA:
        wrong.append(f"its expected values take {len(data) / 1e3:.0f} kB; at most {LARGEST_DATA / 1e3:.0f} kB fit.")
    text = json.dumps(student, indent=1, ensure_ascii=False) + "\n"
    return {root / FOLDER / notebook.name: text.encode(), root / DATA / f"{assignment}.safetensors": data}, wrong


def design(asked: tuple[Question, ...]) -> list[str]:
    """What is wrong with a list of questions: numbers, points, minutes, cases."""
    wrong, names = [], [q.name.partition(".")[2] for q in asked]
    if names != [f"q{i + 1}" for i in range(len(names))]:
        wrong.append(f"its questions are called {', '.join(names)}; expected q1, q2 and so on.")
    for what, found, (low, high) in (
        ("exercises", len(asked), EXERCISES), ("minutes", sum(q.minutes for q in asked), MINUTES),
        ("points", sum(q.points for q in asked), (POINTS, POINTS)),
    ):  # fmt: skip
        if not low <= found <= high:
            wrong.append(f"it has {found} {what}; expected {low}" + (f" to {high}." if high > low else "."))
    for q in asked:
        count = len(q.cases(0))
        if q.kind == "function" and not 3 <= count <= 6:
            wrong.append(f"{q.name} has {count} public cases; expected 3 to 6.")
        if q.difficulty not in (1, 2, 3):
            wrong.append(f"{q.name} has difficulty {q.difficulty}; expected 1, 2 or 3.")
    return wrong


def layout(found: list[dict], asked: tuple[Question, ...]) -> list[str]:
    """What is wrong with the cells of a notebook: ids, roles, marks, headings, pictures."""
    ids, wrong = [cell["id"] for cell in found], []
    if len(set(ids)) < len(ids):
        wrong.append("two of its cells have the same id.")
    by_id = {cell["id"]: cell for cell in found}
    for q in asked:
        part = q.name.partition(".")[2]
        missing = [f"{part}-{role}" for role in ROLES if f"{part}-{role}" not in by_id]
        untagged = [f"{part}-{role}" for role in ROLES[1:]
                    if f"{part}-{role}" in by_id and role not in by_id[f"{part}-{role}"]["tags"]]  # fmt: skip
        wrong += [f"{q.name} has no cell {name}." for name in missing]
        wrong += [f"the cell {name} lacks its tag." for name in untagged]
        if missing:
            continue
        heading = f"## Exercise {part[1:]}: {q.title}"
        if by_id[f"{part}-text"]["source"].partition("\n")[0].strip().casefold() != heading.casefold():
            wrong.append(f"{q.name}: its text must begin with `{heading}`.")
        if by_id[f"{part}-answer"]["source"].splitlines()[0].strip() != f"# {q.name}":
            wrong.append(f"{q.name}: the first line of its answer must be `# {q.name}`.")
    pictures = sum("expected" in cell["tags"] for cell in found)
    return wrong + ([f"it has {pictures} expected pictures; expected at least {LEAST_PICTURES}."]
                    if pictures < LEAST_PICTURES else [])  # fmt: skip


def leaks(found: list[dict], student: dict) -> list[str]:
    """Long lines of a solution that the student edition shows."""
    shown = "\n".join("".join(cell["source"]) for cell in student["cells"])
    lines = {line: cell["id"] for cell in found if "answer" in cell["tags"] for line in solution_lines(cell["source"])}
    return [f"{where}: its line `{line}` stands in the student edition." for line, where in lines.items()
            if len(line) >= LONG_LINE and line in shown]  # fmt: skip


def current(path: Path, content: bytes) -> bool:
    """Whether a file is as it should be; last digits and single pixels may differ between machines."""
    if not path.exists():
        return False
    there = path.read_bytes()
    if there == content or path.suffix != ".ipynb":
        return there == content or same_data(there, content)
    old, new = there.decode("utf8"), content.decode("utf8")
    pictures = zip(EMBEDDED.findall(old), EMBEDDED.findall(new), strict=False)
    return EMBEDDED.sub("", old) == EMBEDDED.sub("", new) and all(same_picture(a, b) for a, b in pictures)


def same_picture(a: str, b: str, tolerance: float = 3.0) -> bool:
    """Whether two embedded PNGs differ by less than ``tolerance`` of 255 on average."""
    x, y = (np.asarray(Image.open(io.BytesIO(base64.b64decode(t))).convert("RGB"), float) for t in (a, b))
    return x.shape == y.shape and bool(np.abs(x - y).mean() < tolerance)


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Write, or with ``--check`` only name, the files that are out of date; names of assignments choose some."""
    check, only = "--check" in arguments, [a for a in arguments if not a.startswith("-")]
    failed = False
    chosen = [path for path in sources(root) if not only or path.stem.partition("_")[0] in only]
    for notebook in tqdm(chosen, desc="assignments", unit="notebook", disable=None):
        contents, wrong = made(notebook, root)
        for sentence in wrong:
            print(f"{notebook.stem}: {sentence}")
        stale = [path for path, content in contents.items() if not current(path, content)]
        for path in stale:
            if not check:
                write_bytes(path, contents[path])
            print(("out of date: " if check else "written: ") + str(path.relative_to(root)))
        failed |= bool(wrong) or (check and bool(stale))
        if not wrong and not stale:
            print(f"{notebook.stem}: up to date")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
