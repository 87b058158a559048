"""The locked process: runs a submission's cells, then its answers on hidden cases, and leaves values in files.

Nothing in here decides about marks, so there is nothing to gain by changing it from a notebook.
"""

from __future__ import annotations

import contextlib
import io
import json
import linecache
import mmap
import os
import random
import signal
import socket
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .isolation import LINUX, Walls, limit_memory, lock

NOTHING, LATE = object(), "it did not come to an end in time."


class TimeUp(BaseException):
    """A cell or a question took too long; not an Exception, so that few handlers swallow it."""


class Quiet(io.TextIOBase):
    """Takes any output, keeps none."""

    def write(self, text: str) -> int:
        return len(text)


def main(task: dict) -> None:
    """Lock this process, do the task, leave at once: threads that still hang do not matter."""
    lock(Walls(**task["walls"]))
    if "probe" in task:
        write(task["out"], "report.json", json.dumps({"done": True, "walls": tried(**task["probe"])}).encode())
    else:
        try:
            Marking(task).go()
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {_text(error)}\n".encode())
            os._exit(70)
    os._exit(0)


class Marking:
    """One submission: its cells in order in one namespace, then its answers."""

    def __init__(self, task: dict) -> None:
        import numpy as np
        import torch

        from . import coursework, grading

        add_questions(task["assignment"], task["source"])
        self.task, self.out = task, task["out"]
        self.questions = {q.name: q for q in coursework.questions(task["assignment"])}
        self.report: dict = {"now": None, "problems": {}, "cells": {}}
        self.kept: dict[str, Any] = {}
        grading.check = grading.progress = lambda *_, **__: None  # the public cases are the student's own business
        sys.stdout = sys.stderr = Quiet()
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        torch.set_num_threads(1)
        limit_memory(task["memory"])
        self.space = {"__name__": "__main__", "display": lambda *_, **__: None}

    def go(self) -> None:
        """Cells, those that fail once more after the others, then the questions."""
        self.tell(None)
        again = [cell for cell in self.task["cells"] if not self.cell(*cell)]
        for cell in again:
            self.cell(*cell)
        for name, place in self.task["places"].items():
            if name not in self.task["skip"]["question"]:
                self.tell(["question", name])
                self.answer(name, *place)
        self.report["done"] = True
        self.tell(None)

    def cell(self, index: int, source: str) -> bool:
        """Run one cell and keep the answers that it holds; False if it is worth another try."""
        if index in self.task["skip"]["cell"]:
            return True
        self.tell(["cell", index])
        error = self.execute(f"cell {index}", source)
        for name, (wanted, where) in self.task["places"].items():
            if where == index and wanted in self.space:
                self.kept[name] = self.space[wanted]
        self.report["cells"].pop(index, None)
        if error:
            self.report["cells"][index] = error
        return not error or error == LATE

    def execute(self, name: str, source: str) -> str:
        """Run a cell's code; returns the error it ends with, with its line."""
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        try:
            with within(self.task["seconds"] / 3):
                exec(compile(source, name, "exec", dont_inherit=True), self.space)
        except TimeUp:
            return LATE
        except BaseException as error:
            at = error.__traceback__
            lines = [n for f, n in _frames(at) if f == name]
            return f"{type(error).__name__}: {_text(error)}" + (f" (line {lines[-1]})" if lines else "")
        return ""

    def answer(self, name: str, wanted: str, where: int) -> None:
        """Run one answer on all hidden cases; the first that takes too long ends the question."""
        found = self.kept.get(name, NOTHING)
        if found is NOTHING:
            why = self.report["cells"].get(where, "")
            self.report["problems"][name] = f"cell {where} failed before `{wanted}` was there: {why}"
            return
        try:
            with within(max(3, self.task["seconds"] / 6)):
                self.cases(name, found)
        except TimeUp:
            self.report["problems"][name] = LATE
        except BaseException as error:
            self.report["problems"][name] = f"{type(error).__name__}: {_text(error)}"

    def cases(self, name: str, found: Any) -> None:
        """Outcomes of one answer, one file a case."""
        from .answers import AnswerError, to_bytes
        from .grading import run

        question = self.questions[name]
        cases = [case for seed in self.task["seeds"] for case in question.cases(seed)]
        for i, case in enumerate(cases):
            outcome = run(question, found, case)
            packed = {"value": outcome.value, "raised": outcome.raised, "words": outcome.words[:1000],
                      "changed": list(outcome.changed)}  # fmt: skip
            try:
                content = to_bytes(packed)
            except AnswerError as error:
                content = to_bytes(packed | {"value": None, "raised": "AnswerError", "words": str(error)})
            write(self.out, f"{name}.{i}", content)

    def tell(self, now: list | None) -> None:
        """Leave word of what runs now, for the case that it brings the process down."""
        self.report["now"] = now
        write(self.out, "report.json", json.dumps(self.report).encode())


def add_questions(assignment: str, source: str) -> None:
    """Make the questions of a lecturer's own assignment known: ``source`` defines ``QUESTIONS``; empty: none."""
    if source:
        module = types.ModuleType(f"ictl_utils.grading_{assignment}")
        sys.modules[module.__name__] = module
        exec(compile(source, f"grading_{assignment}.py", "exec"), module.__dict__)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise :class:`TimeUp` inside after ``seconds``, and again every half second until it is out."""

    def up(*_) -> None:
        raise TimeUp

    signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def write(folder: str, name: str, content: bytes) -> None:
    """Write a file under another name first, so that none is ever read half."""
    path = Path(folder) / f".{name}"
    path.write_bytes(content)
    os.replace(path, Path(folder) / name)


def tried(secret: str, port: int) -> dict[str, bool]:
    """What a locked process cannot do, found by trying."""

    def blocked(attempt: Callable[[], Any]) -> bool:
        try:
            attempt()
        except (OSError, MemoryError):
            return True
        return False

    def fork() -> None:
        if os.fork() == 0:
            os._exit(0)

    limit_memory(1 << 30)
    return {
        "files": blocked(lambda: open(secret, "rb").close()),
        "network": blocked(lambda: socket.socket().connect(("127.0.0.1", port))),
        "processes": blocked(fork),
        "memory": LINUX and blocked(lambda: mmap.mmap(-1, 16 << 30)),
    }


def _frames(trace: types.TracebackType | None) -> Iterator[tuple[str, int]]:
    while trace is not None:
        yield trace.tb_frame.f_code.co_filename, trace.tb_lineno
        trace = trace.tb_next


def _text(error: BaseException) -> str:
    """An error's own words, if it has any that can be had."""
    try:
        return " ".join(str(error).split())[:300]
    except BaseException:
        return ""
