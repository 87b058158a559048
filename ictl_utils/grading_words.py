"""Answers compared and put into words: where two differ, and values short enough for a message."""

from __future__ import annotations

import dataclasses
import math
import sysconfig
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .answers_sealed import Sealed, Sketch, plain_number, same_text

SMALL = 6  # arrays up to 6 x 6 are shown whole
LIBRARIES = tuple({str(Path(__file__).parent), *(sysconfig.get_path(p) for p in ("stdlib", "purelib", "platlib"))})
KIND_NAMES = {"b": "bool", "i": "int", "u": "int", "f": "float", "c": "complex"}


def difference(yours: Any, expected: Any, tolerance: float = 1e-4, path: str = "") -> str | None:
    """Where two answers first differ, as a sentence, or None."""
    if isinstance(expected, Sealed):
        return None if expected == yours else f"yours{of_part(path)} is {shown(yours)}, and that is not it."
    if isinstance(expected, Sketch):
        same = isinstance(yours, torch.Tensor | np.ndarray) and expected.recognises(as_array(yours), tolerance)
        return None if same else f"yours{of_part(path)} is another array."
    if isinstance(expected, dict):
        return _dict_difference(yours, expected, tolerance, path)
    if isinstance(expected, list | tuple) and isinstance(yours, list | tuple):
        if len(yours) != len(expected):
            return f"yours{of_part(path)} has {len(yours)} entries; expected {len(expected)}."
        pairs = enumerate(zip(yours, expected, strict=True))
        found = (difference(y, e, tolerance, f"{path}[{i}]") for i, (y, e) in pairs)
        return next((words for words in found if words), None)
    if isinstance(expected, list | tuple) and not isinstance(yours, torch.Tensor | np.ndarray):
        return f"yours{of_part(path)} is {described(yours)}; expected a list or array."
    if isinstance(expected, list | tuple) and any(isinstance(e, Sealed) for _, e in leaves(expected)):
        return difference(yours.tolist(), list(expected), tolerance, path)
    if isinstance(expected, str) or isinstance(yours, str):
        same = isinstance(expected, str) and isinstance(yours, str) and same_text(yours, expected)
        return None if same else f"yours{of_part(path)} is {shown(yours)}; expected {shown(expected)}."
    return _array_difference(yours, expected, tolerance, path)


def _dict_difference(yours: Any, expected: dict, tolerance: float, path: str) -> str | None:
    if not isinstance(yours, dict):
        return f"yours{of_part(path)} is {described(yours)}; expected a dict with the keys {listed(expected)}."
    if set(yours) != set(expected):
        return f"yours{of_part(path)} has the keys {listed(yours)}; expected {listed(expected)}."
    found = (difference(yours[k], e, tolerance, f"{path}[{k!r}]") for k, e in expected.items())
    return next((words for words in found if words), None)


def _array_difference(yours: Any, expected: Any, tolerance: float, path: str) -> str | None:
    row = isinstance(yours, torch.Tensor | np.ndarray | list | tuple) or plain_number(yours) is not None
    if isinstance(expected, torch.Tensor | np.ndarray) and not row:
        return f"yours{of_part(path)} is {described(yours)}; expected {described(expected)}."
    try:
        y, e = as_array(yours), as_array(expected)
    except (TypeError, ValueError):
        y, e = None, None
    if y is None or y.dtype == object:
        same = type(yours) is type(expected) and yours == expected
        return None if same else f"yours{of_part(path)} is {shown(yours)}; expected {shown(expected)}."
    if y.shape != e.shape and not (y.size == e.size == 1):
        return f"yours{of_part(path)} has shape {y.shape}; expected {e.shape}."
    y = y.reshape(e.shape)
    with np.errstate(all="ignore"):
        same = (np.abs(y - e) <= tolerance * np.maximum(1, np.abs(e))) | (y == e) | (np.isnan(y) & np.isnan(e))
    if same.all():
        return None
    if e.size == 1:
        return f"yours{of_part(path)} is {digits(y.reshape(-1)[0])}; expected {digits(e.reshape(-1)[0])}."
    words = f"{int((~same).sum())} of {e.size} entries{of_part(path)} differ"
    if _is_small(e):
        return f"{words}.\nyours\n{shown(y)}\nexpected\n{shown(e)}"
    return (f"{words}, the first at {index(~same)}: yours is {digits(y[~same][0])}, "
            f"expected {digits(e[~same][0])}.")  # fmt: skip


def leaves(answer: Any, path: str = "") -> list[tuple[str, Any]]:
    """All parts of an answer that are no containers, each with its path."""
    if isinstance(answer, dict):
        return [leaf for k, v in answer.items() for leaf in leaves(v, f"{path}[{k!r}]")]
    if isinstance(answer, list | tuple):
        return [leaf for i, v in enumerate(answer) for leaf in leaves(v, f"{path}[{i}]")]
    return [(path, answer)]


def as_array(x: Any) -> np.ndarray:
    """Numbers as an array of doubles (or complex ones)."""
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        x = x.to(torch.complex128 if x.is_complex() else torch.float64).numpy()
    x = np.asarray(x)
    if x.dtype.kind not in "biufc":
        return x.astype(object)
    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)


def described(x: Any) -> str:
    """What kind of thing an answer is: ``a tensor of shape (3, 3)``, ``None``."""
    if isinstance(x, torch.Tensor | np.ndarray):
        return f"{'a tensor' if isinstance(x, torch.Tensor) else 'an array'} of shape {tuple(x.shape)}"
    if x is None or isinstance(x, bool | int | float):
        return repr(x)
    if isinstance(x, list | tuple | dict | str):
        return f"a {type(x).__name__} of length {len(x)}"
    return f"an object of class {type(x).__name__}"


def shown(x: Any) -> str:
    """A value in a message: small arrays to 3 digits, anything else shortened to a line."""
    if isinstance(x, torch.Tensor | np.ndarray):
        if not _is_small(x):
            return described(x)
        with np.printoptions(precision=3, suppress=True, linewidth=110):
            return str(as_array(x))
    if isinstance(x, float):
        return digits(x)
    words = repr(x)
    return words if len(words) <= 100 else words[:97] + "..."


def small(answer: Any) -> str:
    """The answer on lines of its own if it is a small array, else nothing."""
    return f"\nyours\n{shown(answer)}" if _is_small(answer) else ""


def _is_small(x: Any) -> bool:
    return isinstance(x, torch.Tensor | np.ndarray) and 0 < len(x.shape) <= 2 and all(n <= SMALL for n in x.shape)


def numeric(x: Any) -> bool:
    """Whether ``x`` is a number or an array of numbers."""
    return isinstance(x, int | float | torch.Tensor | np.ndarray) and not isinstance(x, bool)


def kind(x: torch.Tensor | np.ndarray) -> str:
    """What the numbers are: ``float``, ``int``, ``bool`` or ``complex``."""
    if isinstance(x, torch.Tensor):
        x = np.empty(0, "float32" if x.dtype == torch.bfloat16 else str(x.dtype).removeprefix("torch."))
    return KIND_NAMES.get(x.dtype.kind, x.dtype.name)


def index(bad: np.ndarray) -> str:
    """First index at which ``bad`` is true."""
    where = np.argwhere(bad)[0].tolist()
    return str(where[0]) if len(where) == 1 else str(tuple(where))


def of_part(path: str) -> str:
    """`` at [...]`` where a part of an answer is meant."""
    return f" at {path}" if path else ""


def listed(names: Any) -> str:
    """Names in a row, shortened."""
    words = ", ".join(repr(name) for name in names)
    return words if len(words) <= 200 else words[:197] + "..."


def digits(x: Any) -> str:
    """One number, to four digits."""
    x = x.real if isinstance(x, complex) and not x.imag else x
    if isinstance(x, complex):
        return f"{x:.4g}"
    return str(int(x)) if math.isfinite(x) and float(x).is_integer() and abs(x) < 1e6 else f"{float(x):.4g}"


def word_count(x: Any) -> int:
    """Words of a text: what stands between spaces and holds a letter or digit; 0 where ``x`` is no text."""
    return sum(any(c.isalnum() for c in word) for word in x.split()) if isinstance(x, str) else 0


def unchanged(now: Any, before: Any) -> bool:
    """Whether an input is as it was; of objects that are no data only the weights are compared."""
    if isinstance(before, torch.nn.Module):
        return unchanged(dict(now.state_dict()), dict(before.state_dict()))
    if isinstance(before, torch.Tensor):
        return now.shape == before.shape and bool(((now == before) | ((now != now) & (before != before))).all())
    if isinstance(before, np.ndarray):
        return now.shape == before.shape and now.tobytes() == before.tobytes()
    if isinstance(before, dict):
        return now.keys() == before.keys() and all(unchanged(now[k], x) for k, x in before.items())
    if isinstance(before, list | tuple):
        return len(now) == len(before) and all(map(unchanged, now, before))
    if dataclasses.is_dataclass(before) and not isinstance(before, type):
        names = [field.name for field in dataclasses.fields(before)]
        return all(unchanged(getattr(now, n, None), getattr(before, n)) for n in names)
    return now == before if isinstance(before, int | float | str | bool) else True


def error_words(error: BaseException) -> str:
    """Class, message, and the last line of the student's own code, in which it came about."""
    words = " ".join(str(error).split())
    words = f"{type(error).__name__}: {words[:300]}" if words else type(error).__name__
    own = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(LIBRARIES)]
    if not own or not own[-1].line:
        return words
    return f"{words}\nin line {own[-1].lineno} of `{own[-1].name}`: {own[-1].line}"
