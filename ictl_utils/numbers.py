"""The registry: which function computes the numbers of which claim from the measurement tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType

import pandas as pd

from . import numbers_circuits, numbers_heads, numbers_pretrained, numbers_smeared, numbers_training
from .numbers_base import Zoo

Registry = dict[str, Callable[[Zoo], pd.DataFrame]]


def _registry(*parts: ModuleType) -> Registry:
    return {name.upper(): function for part in parts for name, function in sorted(vars(part).items())
            if re.fullmatch(r"[a-g]\d\d", name)}  # fmt: skip


NUMBERS = _registry(numbers_training, numbers_smeared, numbers_heads, numbers_circuits)
"""Id of a claim -> function of a :class:`Zoo`: a row a seed, columns as ``numbers`` of the claim names them.

An empty frame where no seed has the models that the numbers need.
"""

PRETRAINED = _registry(numbers_pretrained)
"""The same of claims that small models do not decide, for :func:`ictl_utils.numbers_pretrained.zoos`."""
