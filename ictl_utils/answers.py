"""Answers as bytes and back: trees of numbers, text and arrays, without pickles.

A tree is one safetensors file: its arrays, and in the header the tree itself as JSON. Same tree, same bytes.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save

from .answers_sealed import AnswerError, Sealed, opened, plain_number, same_text, seal

__all__ = ["AnswerError", "Sealed", "from_bytes", "opened", "plain_number", "same_text", "seal", "to_bytes"]

MAX_BYTES = 32 * 2**20
MAX_DEPTH, MAX_NODES, MAX_TEXT = 12, 20_000, 200_000
KINDS = "an array, a tensor, a number, text, True or False, None, or a dict, list or tuple of these"
NARROW = {torch.bfloat16: "bfloat16", torch.complex64: "complex64", torch.complex128: "complex128"}


def to_bytes(answer: Any, limit: int = MAX_BYTES, depth: int = MAX_DEPTH) -> bytes:
    """The answer as one safetensors file.

    Raises:
        AnswerError: it holds an object of another class, or is larger or deeper than allowed.
    """
    arrays: dict[str, np.ndarray] = {}
    tree = _Writer(arrays, depth).node(answer, "", 0)
    content = save(arrays, {"tree": json.dumps(tree, separators=(",", ":"))})
    if len(content) > limit:
        raise AnswerError(f"the answer has {len(content) / 2**20:.1f} MiB; at most {limit / 2**20:g} MiB can be sent.")
    return content


def from_bytes(content: bytes, limit: int = MAX_BYTES, depth: int = MAX_DEPTH) -> Any:
    """The answer that :func:`to_bytes` wrote; nothing of it is run.

    Raises:
        AnswerError: the bytes are damaged, too many, or hold something else.
    """
    if len(content) > limit:
        raise AnswerError(f"{len(content) / 2**20:.1f} MiB are no answer; expected at most {limit / 2**20:g} MiB.")
    try:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        return _Reader(load(content), depth).node(json.loads(header["__metadata__"]["tree"]), 0)
    except AnswerError:
        raise
    except (Exception, RecursionError) as error:
        raise AnswerError(f"these bytes hold no answer ({type(error).__name__}); write them again.") from None


class _Writer:
    """Turns an answer into JSON, collecting its arrays."""

    def __init__(self, arrays: dict[str, np.ndarray], deepest: int) -> None:
        self.arrays, self.deepest, self.nodes = arrays, deepest, 0

    def node(self, x: Any, path: str, depth: int) -> Any:
        self.nodes += 1
        if depth > self.deepest:
            raise AnswerError(f"the answer is nested deeper than {self.deepest} levels at {path[:80]}; flatten it.")
        if self.nodes > MAX_NODES:
            raise AnswerError(f"the answer has more than {MAX_NODES} parts; put the numbers into an array.")
        x = x.item() if isinstance(x, np.generic) else x
        if x is None or isinstance(x, bool | str):
            return self.text(x, path) if isinstance(x, str) else x
        if isinstance(x, int | float):
            return self.number(x, path)
        if isinstance(x, torch.Tensor | np.ndarray | complex):
            return self.array(np.asarray(x) if isinstance(x, complex) else x, path)
        if isinstance(x, dict):
            pairs = enumerate(x.items())
            return {"d": [[self.node(k, f"{path} key {i}", depth + 1), self.node(v, f"{path}[{k!r}]", depth + 1)]
                          for i, (k, v) in pairs]}  # fmt: skip
        if isinstance(x, list | tuple):
            items = [self.node(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(x)]
            return items if isinstance(x, list) else {"t": items}
        where = f"its part {path}" if path else "it"
        remedy = "; make it a sorted list" if isinstance(x, set | frozenset) else ""
        raise AnswerError(f"{where} is of class {type(x).__name__}; an answer is {KINDS}{remedy}.")

    def text(self, x: str, path: str) -> str:
        if len(x) > MAX_TEXT:
            raise AnswerError(f"the text {path} has {len(x)} characters; at most {MAX_TEXT} can be sent.")
        return x.encode("utf8", "replace").decode("utf8")

    def number(self, x: float, path: str) -> Any:
        if isinstance(x, int) and abs(x) >= 2**63:
            raise AnswerError(f"the number {path} has more than 64 bits; use a float.")
        return float(x) if isinstance(x, float) else int(x)

    def array(self, x: torch.Tensor | np.ndarray, path: str) -> dict:
        facts = {"n": 1} if isinstance(x, np.ndarray) else {}
        if isinstance(x, torch.Tensor):
            x = x.detach().cpu().resolve_conj().resolve_neg().to_dense()
            facts |= {"as": NARROW[x.dtype]} if x.dtype in NARROW else {}
            x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
        if x.dtype.kind not in "biufc" or x.dtype.itemsize > 16:
            raise AnswerError(f"the array {path} has dtype {x.dtype}; expected numbers.")
        if x.dtype.kind == "c":
            facts["as"] = x.dtype.name
            x = np.stack([x.real, x.imag], -1)
        name = str(len(self.arrays))
        self.arrays[name] = np.array(x, dtype=x.dtype.newbyteorder("="), order="C", copy=True)
        return {"a": name, **facts}


class _Reader:
    """Turns JSON and arrays into the answer again."""

    def __init__(self, arrays: dict[str, np.ndarray], deepest: int) -> None:
        self.arrays, self.deepest, self.nodes = arrays, deepest, 0

    def node(self, x: Any, depth: int) -> Any:
        self.nodes += 1
        if depth > self.deepest or self.nodes > MAX_NODES + 1:
            raise AnswerError("these bytes hold an answer that is deeper or larger than allowed.")
        if x is None or isinstance(x, bool | int | float | str):
            return x
        if isinstance(x, list):
            return [self.node(v, depth + 1) for v in x]
        if "t" in x:
            return tuple(self.node(v, depth + 1) for v in x["t"])
        if "d" in x:
            return {self.node(k, depth + 1): self.node(v, depth + 1) for k, v in x["d"]}
        return self.array(x)

    def array(self, facts: dict) -> torch.Tensor | np.ndarray:
        x = self.arrays[facts["a"]].copy()
        kind = facts.get("as", "")
        if kind.startswith("complex"):
            x = (x[..., 0] + 1j * x[..., 1]).astype(kind)
        if "n" in facts:
            return x
        tensor = torch.from_numpy(np.ascontiguousarray(x).reshape(x.shape))
        return tensor.bfloat16() if kind == "bfloat16" else tensor
