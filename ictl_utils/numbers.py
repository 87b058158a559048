"""The registry: which function computes the numbers of which claim from the measurement tables."""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd

from . import numbers_circuits, numbers_heads, numbers_smeared, numbers_training
from .numbers_base import Zoo

NUMBERS: dict[str, Callable[[Zoo], pd.DataFrame]] = {
    name.upper(): function
    for part in (numbers_training, numbers_smeared, numbers_heads, numbers_circuits)
    for name, function in sorted(vars(part).items())
    if re.fullmatch(r"[a-g]\d\d", name)
}
"""Id of a claim -> function of a :class:`Zoo`: a row a seed, columns as ``numbers`` of the claim names them.

An empty frame where no seed has the models that the numbers need.
"""
