"""How much room an answer may take: exercises that ask to do without a large table notice when it is made."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

ROOM = 1_000_000  # bytes that any answer may take


class TooLarge(Exception):
    """An answer made a larger tensor than the case allows."""


class NoLarger(TorchFunctionMode):
    """Inside, a tensor of more than ``largest`` numbers raises :class:`TooLarge`; at the end NumPy's arrays do."""

    def __init__(self, largest: int) -> None:
        super().__init__()
        self.largest = largest

    def __enter__(self) -> NoLarger:
        self.traced = tracemalloc.is_tracing()
        tracemalloc.start()  # PyTorch's memory is not traced, NumPy's is
        tracemalloc.reset_peak()
        self.before = tracemalloc.get_traced_memory()[0]
        return super().__enter__()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        most = tracemalloc.get_traced_memory()[1] - self.before
        if not self.traced:
            tracemalloc.stop()
        if error is None and most > max(8 * self.largest, ROOM):
            raise TooLarge(f"arrays of {most / 1e6:.1f} MB have been made; this exercise has to do without the table.")

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple) else (result,):
            if isinstance(x, torch.Tensor) and x.numel() > self.largest:
                raise TooLarge(f"a tensor of shape {tuple(x.shape)} has been made; this exercise has to do without.")
        return result
