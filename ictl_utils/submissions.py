"""Notebooks in a folder of submissions: whose they are, when they came, and what could not be read.

Known layouts: Moodle's and Canvas' downloads of all submissions, one folder a student, plain files, and
archives (.zip) of any of these. Nothing is unpacked to disk, and links are not followed.
"""

from __future__ import annotations

import csv
import os
import re
import stat
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from pathlib import Path, PurePosixPath

from .config import IctlError, require

MAX_BYTES = 20 << 20  # of a notebook
MAX_ENTRIES, MAX_UNPACKED = 20_000, 2 << 30  # of an archive
UTF8 = 0x800  # flag of a name in an archive
IGNORED = {"__MACOSX", ".ipynb_checkpoints", ".DS_Store", "Thumbs.db"}
MOODLE = re.compile(r"(?P<name>.+?)_(?P<id>\d+)_assignsubmission_\w+?_?")
CANVAS = re.compile(r"(?P<who>[^_]+)_(?P<late>LATE_)?(?P<id>\d+)_(?P<number>\d+)_(?P<file>.+)")
VERSION = re.compile(r"-(\d+)$")
TIMES = "submitted.csv"
NAMED = 10  # students named in a remark, at most


@dataclass(frozen=True)
class Submission:
    """One notebook of one student."""

    student: str  # name as far as the layout tells it
    id: str  # of the learning platform, else the name of the file or folder
    file: str  # path within the folder of submissions
    layout: str  # moodle, canvas, folder or file
    content: bytes = b""
    submitted: float = 0.0  # seconds since 1970
    order: tuple = ()  # later ones are larger
    timed: bool = False  # the time is from submitted.csv
    late_mark: bool = False  # the platform's own mark
    problem: str = ""  # why nothing of it can be read


@dataclass(frozen=True)
class Found:
    """What a folder holds: one submission a student, and remarks on everything else."""

    submissions: list[Submission]
    remarks: list[str]


def find(folder: str | Path) -> Found:
    """All submissions below ``folder``, or in one .zip; the newest of each student, sorted by id.

    Raises:
        IctlError: there is no such folder, or nothing in it.
    """
    root, remarks = Path(folder), []
    alone = root.suffix.lower() == ".zip" and root.is_file()
    require(alone or root.is_dir(), f"{root} is no folder and no .zip; expected the folder or .zip of submissions.")
    every = [one for path in ([root] if alone else _walk(root, remarks)) for one in _file(root, path, remarks)]
    require(bool(every), f"{root} holds no notebook (.ipynb, or .zip of them); expected one a student.")
    chosen: dict[str, list[Submission]] = {}
    for one in every:
        chosen.setdefault(one.id.casefold(), []).append(one)
    for _, same in sorted(chosen.items()):
        same.sort(key=lambda one: (one.order, one.submitted, one.file))
        others = ", ".join(one.file for one in same[:-1])
        if others:
            remarks.append(f"{same[-1].id}: {len(same)} files; {same[-1].file} is the newest and is marked, "
                           f"not {others}.")  # fmt: skip
    newest = [same[-1] for _, same in sorted(chosen.items())]  # by the files' own times
    return Found(_timed(newest, (root.parent if alone else root) / TIMES, remarks), remarks)


def _walk(root: Path, remarks: list[str], below: str = "") -> Iterator[Path]:
    """Plain files below ``root``, sorted; links are told and not followed."""
    with os.scandir(root / below) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            place = f"{below}{entry.name}"
            if entry.name in IGNORED or place == TIMES:
                continue
            if entry.is_symlink():
                remarks.append(f"{place}: a link, not followed; ask for the file itself.")
            elif entry.is_dir(follow_symlinks=False):
                yield from _walk(root, remarks, f"{place}/")
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
            else:
                remarks.append(f"{place}: no plain file, left alone.")


def _file(root: Path, path: Path, remarks: list[str]) -> Iterator[Submission]:
    """The submissions of one file: one of a notebook, any number of an archive."""
    place = path.name if path == root else path.relative_to(root).as_posix()
    if path.suffix.lower() == ".zip":
        yield from _archive(path, place, remarks, path == root)
    elif path.suffix.lower() != ".ipynb":
        remarks.append(f"{place}: no notebook, not marked.")
    else:
        found = replace(whose(place), submitted=path.lstat().st_mtime)
        yield _with_content(found, path.lstat().st_size, lambda: _read(path))


def _archive(path: Path, place: str, remarks: list[str], alone: bool) -> Iterator[Submission]:
    """Notebooks in a .zip; a name inside that follows a platform's layout says whose it is, else the archive's.

    An archive that stands ``alone`` holds the whole batch: then the name inside always says it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ENTRIES or sum(e.file_size for e in entries) > MAX_UNPACKED:
                raise zipfile.BadZipFile(f"{len(entries)} entries are too many or too large")
            for entry in entries:
                entry.filename = _name(entry)
            for entry in sorted(entries, key=lambda e: e.filename):
                if not IGNORED.isdisjoint(PurePosixPath(entry.filename).parts) or entry.is_dir():
                    continue
                if not entry.filename.lower().endswith(".ipynb") or stat.S_ISLNK(entry.external_attr >> 16):
                    remarks.append(f"{place}: {entry.filename} in it is no notebook, not marked.")
                    continue
                yield _with_content(_entry(place, entry, alone), entry.file_size, lambda e=entry: _unzip(archive, e))
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        require(not alone, f"{path} cannot be read: {error}; expected a .zip of submissions: name another or a folder.")
        yield replace(whose(place), submitted=path.lstat().st_mtime, problem=f"the archive cannot be read: {error}.")


def _name(entry: zipfile.ZipInfo) -> str:
    """A name in an archive; some programs write UTF-8 without the flag that says so, and it is read as cp437."""
    try:
        return entry.filename if entry.flag_bits & UTF8 else entry.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return entry.filename


def _entry(place: str, entry: zipfile.ZipInfo, alone: bool) -> Submission:
    """Whose a notebook in an archive is."""
    inside = whose(entry.filename)
    named = inside if alone or inside.layout in ("moodle", "canvas") else whose(place)
    if named.layout == "file" and inside.layout == "folder":
        named = inside
    try:
        at = datetime(*entry.date_time).timestamp()
    except ValueError:
        at = 0.0
    return replace(named, file=f"{place}!{entry.filename}", submitted=at)


def whose(place: str) -> Submission:
    """Student and id from a path: Moodle's folders, Canvas' file names, folders, or the file's own name."""
    parts = PurePosixPath(place).parts
    for part in parts[:-1]:
        if found := MOODLE.fullmatch(part):
            return Submission(found["name"], found["id"], place, "moodle")
    stem = PurePosixPath(place).stem
    if found := CANVAS.fullmatch(stem):
        version = VERSION.search(stem)
        order = (int(version[1]) if version else 0, int(found["number"]))
        return Submission(found["who"], found["id"], place, "canvas", order=order, late_mark=bool(found["late"]))
    if len(parts) > 1:
        return Submission(parts[0], parts[0], place, "folder")
    return Submission(stem, stem, place, "file")


def _with_content(one: Submission, size: int, read) -> Submission:
    """The submission with its bytes, or with the reason why they are not read."""
    if size > MAX_BYTES:
        return replace(one, problem=f"the file has {size / 2**20:.0f} MiB, more than {MAX_BYTES >> 20}; "
                                    "ask for the notebook without its outputs.")  # fmt: skip
    try:
        return replace(one, content=read())
    except (OSError, RuntimeError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        return replace(one, problem=f"the file cannot be read: {type(error).__name__}.")
    except Exception as error:  # a damaged stream raises the error of its decoder, zlib.error and others
        return replace(one, problem=f"the file is damaged: {type(error).__name__}.")


def _read(path: Path) -> bytes:
    """At most a notebook's bytes; a link put there meanwhile is not followed."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        return file.read(MAX_BYTES + 1)


def _unzip(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """At most a notebook's bytes, whatever the archive says about itself."""
    with archive.open(entry) as file:
        content = file.read(MAX_BYTES + 1)
    require(len(content) <= MAX_BYTES, f"more than {MAX_BYTES >> 20} MiB")
    return content


def _timed(every: list[Submission], path: Path, remarks: list[str]) -> list[Submission]:
    """Submissions with their times from ``submitted.csv``, found by id or name; told: what fits nobody, who has none.

    Raises:
        IctlError: the file has no columns ``id`` and ``time``.
    """
    if not os.path.lexists(path):
        return every
    times: dict[str, float] = {}
    known = {_plain(name) for one in every for name in (one.id, one.student)}
    for row, name, text in _rows(path, remarks):
        if _plain(name) not in known:
            remarks.append(f"{TIMES}, row {row}: {name!r} is nobody's id or name here; expected one such as "
                           f"{every[0].id!r}.")  # fmt: skip
            continue
        try:
            times[_plain(name)] = moment(text)
        except IctlError as error:
            remarks.append(f"{TIMES}, row {row}, {name}: {error}")
    found = [(one, times.get(_plain(one.id), times.get(_plain(one.student)))) for one in every]
    without = sorted({one.id for one, at in found if at is None})
    if without:
        names = ", ".join(without[:NAMED]) + (f" and {len(without) - NAMED} more" if len(without) > NAMED else "")
        remarks.append(f"{TIMES} gives no time for {names}: the file's time counts, or Canvas' mark.")
    return [one if at is None else replace(one, submitted=at, timed=True) for one, at in found]


def _rows(path: Path, remarks: list[str]) -> Iterator[tuple[int, str, str]]:
    """Row number, id and time of each row of ``submitted.csv``, whatever separates the columns."""
    if path.is_symlink() or not path.is_file():
        remarks.append(f"{TIMES}: no plain file, not read; put the file itself there.")
        return
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        first = file.readline()
        separator = max(",;\t|", key=first.count)
        head = [name.strip().casefold() for name in next(csv.reader([first], delimiter=separator), [])]
        require({"id", "time"} <= set(head), f"{path} begins with the line {first.strip()!r}; expected the columns id "
                                             "and time: id,time or id;time.")  # fmt: skip
        reader = csv.reader(file, delimiter=separator)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                row = dict(zip(head, cells, strict=False))
                yield reader.line_num + 1, row.get("id", "").strip(), row.get("time", "").strip()


def _plain(name: str) -> str:
    """A name as it is compared: capitals, spaces around it, and how accents are written do not matter."""
    return unicodedata.normalize("NFC", name.strip()).casefold()


def moment(text: str) -> float:
    """Seconds since 1970 of a date or time in ISO form; one without a zone is local time.

    Raises:
        IctlError: it is none.
    """
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except ValueError:
        raise IctlError(f"{text!r} is no time; expected 2026-05-31 or 2026-05-31T23:59.") from None


def end_or_moment(text: str) -> float:
    """Seconds since 1970 of the end of a day, or of a time in ISO form; local unless a zone is given.

    Raises:
        IctlError: it is neither.
    """
    try:
        return datetime.combine(date.fromisoformat(text.strip()), time(23, 59, 59)).timestamp()
    except ValueError:
        return moment(text)
