"""Right answers and typical mistakes as they come with the package: to be recognised, not to be read."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .config import IctlError

MAX_SEALED = 256  # numbers of one sealed array
MAX_PLAIN, SUMS = 64, 8  # numbers of an array that is kept whole; sums of a larger one


class AnswerError(IctlError):
    """An answer that cannot be sent, or bytes that hold none."""


@dataclass(frozen=True)
class Sealed:
    """A number, text or truth value that can be recognised and not read: ``sealed == 3`` says whether it is that.

    A number matches within about the tolerance it was sealed with, text whatever its case and spaces.
    """

    digests: frozenset[str]
    salt: str
    width: float = 0.0  # of a bucket of numbers; 0 for other leaves

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sealed):
            return (self.digests, self.salt) == (other.digests, other.salt)
        if self.width:
            x = plain_number(other)
            return x is not None and math.isfinite(x) and _digest(self.salt, round(x / self.width)) in self.digests
        if isinstance(other, np.bool_):
            other = bool(other)
        known = other is None or isinstance(other, bool | str)
        return known and _digest(self.salt, _plain_text(other)) in self.digests

    def __hash__(self) -> int:
        return hash(self.digests)

    def __repr__(self) -> str:
        return "(not shown)"


def seal(answer: Any, salt: str, tolerance: float = 1e-4) -> Any:
    """The tree with every leaf as a :class:`Sealed` in its packed form; keys and shapes stay readable.

    Raises:
        AnswerError: an array of more than 256 numbers, or a number that is not finite.
    """
    if isinstance(answer, dict):
        return {"dict": [[key, seal(value, salt, tolerance)] for key, value in answer.items()]}
    if isinstance(answer, list | tuple):
        return {"list": [seal(value, salt, tolerance) for value in answer]}
    if isinstance(answer, torch.Tensor | np.ndarray):
        if np.prod(answer.shape) > MAX_SEALED:
            raise AnswerError(f"an array of shape {tuple(answer.shape)} as value; at most {MAX_SEALED} numbers: "
                              "leave out `agrees` or ask for a function.")  # fmt: skip
        return seal(answer.tolist(), salt, tolerance)
    x = plain_number(answer)
    if x is None:
        return {"sealed": [_digest(salt, _plain_text(answer))]}
    if not math.isfinite(x):
        raise AnswerError(f"the number {x} cannot be sealed; expected a finite one.")
    width = tolerance * 10.0 ** max(0, math.ceil(math.log10(max(1.0, abs(x)))))
    middle = round(x / width)
    return {"sealed": sorted(_digest(salt, middle + i) for i in (-1, 0, 1)), "width": width}


@dataclass(frozen=True)
class Sketch:
    """A large array by its shape and a few sums with random signs: enough to recognise it."""

    shape: tuple[int, ...]
    sums: tuple[float, ...]
    largest: float  # of the absolute values

    @classmethod
    def of(cls, x: np.ndarray) -> Sketch:
        """Sketch of a real array without inf and nan."""
        return cls(tuple(x.shape), tuple(_sums(x)), float(np.abs(x).max(initial=0)))

    def recognises(self, x: np.ndarray, tolerance: float) -> bool:
        """Whether ``x`` is that array, entries within ``tolerance``, relative above 1."""
        if tuple(x.shape) != self.shape or x.dtype.kind not in "biuf":
            return False
        width = 4 * tolerance * math.sqrt(x.size) * max(1.0, self.largest)
        return bool((np.abs(_sums(x) - np.array(self.sums)) <= width).all())


def _sums(x: np.ndarray) -> np.ndarray:
    signs = np.random.RandomState(x.size % 2**32).randint(0, 2, (SUMS, x.size)) * 2 - 1
    return signs @ x.reshape(-1).astype(float)


def sketched(answer: Any) -> Any:
    """The tree in packed form with every large array as a :class:`Sketch`; the rest stays as it is."""
    if isinstance(answer, dict):
        return {"dict": [[key, sketched(value)] for key, value in answer.items()]}
    if isinstance(answer, list | tuple):
        return {"list": [sketched(value) for value in answer]}
    if isinstance(answer, torch.Tensor | np.ndarray) and np.prod(answer.shape) > MAX_PLAIN:
        tensor = isinstance(answer, torch.Tensor) and not answer.is_complex()
        x = answer.detach().cpu().double().numpy() if tensor else np.asarray(answer)
        if x.dtype.kind in "biuf" and np.isfinite(x).all():
            found = Sketch.of(x)
            return {"sketch": [list(found.shape), list(found.sums), found.largest]}
    return {"plain": answer}


def opened(packed: Any, salt: str) -> Any:
    """The tree that :func:`seal` or :func:`sketched` packed, with :class:`Sealed` and :class:`Sketch` in it."""
    if "plain" in packed:
        return packed["plain"]
    if "sketch" in packed:
        shape, sums, largest = packed["sketch"]
        return Sketch(tuple(shape), tuple(sums), largest)
    if "dict" in packed:
        return {key: opened(value, salt) for key, value in packed["dict"]}
    if "list" in packed:
        return [opened(value, salt) for value in packed["list"]]
    return Sealed(frozenset(packed["sealed"]), salt, packed.get("width", 0.0))


def plain_number(x: object) -> float | None:
    """``x`` as float if it is one number: int, float, or an array of one entry, real but for rounding; else None."""
    if isinstance(x, torch.Tensor | np.ndarray):
        if np.prod(x.shape) != 1:
            return None
        x = x.reshape(()).item()
    if isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, complex) and abs(x.imag) <= 1e-5 * max(1.0, abs(x.real)):
        x = x.real
    return float(x) if isinstance(x, int | float) and not isinstance(x, bool) else None


def same_text(a: str, b: str) -> bool:
    """Whether two texts are the same but for case and spaces."""
    return _plain_text(a) == _plain_text(b)


def _plain_text(x: object) -> str:
    return "text " + " ".join(x.split()).casefold() if isinstance(x, str) else repr(x)


def _digest(salt: str, x: object) -> str:
    return hashlib.sha256(f"{salt}|{x}".encode()).hexdigest()[:20]
