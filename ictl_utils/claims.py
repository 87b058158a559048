"""The registered claims of both papers, and the tests that decide them.

``claims.csv`` is the registration. Its first eight columns say in words what is claimed and which bounds
decide; the others make the bounds testable by a program: ``numbers`` defines what is measured, once a seed;
``reproduced_test`` and ``contradicted_test`` compare these numbers with the bounds; ``seeds`` says how seeds
combine: ``all``, ``median`` (of each number) or the share of seeds in which a test must hold.
``claims_terms.csv`` defines the terms that ``numbers`` uses. All this was written
down before the models that decide were measured.
"""

from __future__ import annotations

import ast
import csv
import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from .config import IctlError, require

REGISTERED = ("id", "part", "claim", "measure", "paper_value", "reproduced_if", "contradicted_if", "scope")
COLUMNS = (*REGISTERED, "numbers", "reproduced_test", "contradicted_test", "seeds", "models")
N_CLAIMS = 66
DIGITS = 12  # after the point that count: a number that equals its bound must not depend on the order of a sum
SCOPES = {
    "S": "small models trained for it",
    "W": "the weights of such models",
    "D": "small models to download",
    "P": "a pretrained family with checkpoints",
    "L": "a large model",
}
COMPARE = {
    ast.GtE: operator.ge, ast.Gt: operator.gt, ast.LtE: operator.le, ast.Lt: operator.lt, ast.Eq: operator.eq,
}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """One row of ``claims.csv``."""

    id: str  # "A01"
    part: str  # "P1 Argument 1"
    claim: str
    measure: str
    paper_value: str
    reproduced_if: str
    contradicted_if: str
    scope: tuple[str, ...]  # keys of SCOPES
    numbers: dict[str, str] = field(hash=False)  # name of a number -> what it is
    reproduced_test: str
    contradicted_test: str
    seeds: str  # "all", "median", or a share such as "0.8"
    models: tuple[str, ...]  # names of the models that give the numbers

    @property
    def testable(self) -> bool:
        """Whether small models of one's own, or their weights, decide it."""
        return bool({"S", "W"} & set(self.scope))


# ---- the registration -------------------------------------------------------------------------------


def load_claims(path: str | Path | None = None) -> list[Claim]:
    """All claims, checked.

    Raises:
        IctlError: naming row and column: a column is missing, an id comes twice, a cell of the registration is
            empty, a claim with bounds has no test, a test does not parse or uses a number that ``numbers`` does
            not define, or there are not 66 rows.
    """
    rows = _rows(Path(path or Path(__file__).with_name("claims.csv")), COLUMNS)
    claims = [_claim(row) for row in rows]
    ids = [claim.id for claim in claims]
    for name in ids:
        _check(ids.count(name) == 1, name, "id", f"{name!r} comes {ids.count(name)} times")
    require(len(claims) == N_CLAIMS, f"claims.csv has {len(claims)} rows; {N_CLAIMS} were registered.")
    return claims


def load_terms() -> dict[str, str]:
    """What the terms in ``numbers`` mean, such as window, onset and induction head."""
    rows = _rows(Path(__file__).with_name("claims_terms.csv"), ("term", "meaning"))
    return {row["term"]: row["meaning"] for row in rows}


def load_families() -> dict[str, tuple[str, str, str]]:
    """Families of skip-trigrams: regular expressions of source, destination and output (claim F07)."""
    rows = _rows(Path(__file__).with_name("claims_families.csv"), ("family", "source", "destination", "output"))
    return {row["family"]: (row["source"], row["destination"], row["output"]) for row in rows}


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    require(path.is_file(), f"{path} is no file; expected a list of claims as comes with the package.")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, restkey="more", restval=None)
        rows, found = list(reader), tuple(reader.fieldnames or ())
    require(found == columns, f"{path.name} has columns {', '.join(found)}; expected {', '.join(columns)}.")
    for row in rows:
        bad = [name for name, value in row.items() if value is None or name == "more"]
        _check(not bad, row[columns[0]], ", ".join(bad), f"the row has not {len(columns)} cells", path.name)
    return rows


def _claim(row: dict[str, str]) -> Claim:
    scope, models = _split(row["scope"], ","), _split(row["models"], ";")
    for name in REGISTERED:
        _check(bool(row[name].strip()), row["id"], name, "the cell is empty")
    claim = Claim(**row | {"scope": scope, "models": models, "numbers": _numbers(row)})
    _check(bool(scope) and set(scope) <= set(SCOPES), claim.id, "scope", f"{row['scope']!r} is not among S, W, D, P, L")
    _check(bool(models), claim.id, "models", "no model is named")
    _check(share_of_seeds(claim.seeds) is not None, claim.id, "seeds", f"{claim.seeds!r} is not all, median or a share")
    _check_tests(claim)
    return claim


def _check_tests(claim: Claim) -> None:
    used: set[str] = set()
    for column, other in (("reproduced_test", "contradicted_test"), ("contradicted_test", "reproduced_test")):
        test = getattr(claim, column)
        needed = claim.contradicted_if != "-" or bool(getattr(claim, other))  # a dash: no bound is registered
        _check(bool(test) or not needed, claim.id, column, "a claim with numbers needs both tests")
        try:
            found = names_in(test) if test else set()
        except IctlError as error:
            raise IctlError(f"claims.csv, row {claim.id}, column {column}: {error}") from None
        unknown = ", ".join(sorted(found - set(claim.numbers)))
        _check(not unknown, claim.id, column, f"{unknown} is not defined in numbers")
        used |= found
    idle = [name for name, meaning in claim.numbers.items() if name not in used and "not tested" not in meaning]
    _check(not idle or not used, claim.id, "numbers", f"{', '.join(idle)} is in no test and does not say 'not tested'")


def _numbers(row: dict[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for definition in _split(row["numbers"], ";"):
        name, colon, meaning = definition.partition(": ")
        ok = bool(colon and meaning.strip()) and re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None
        _check(ok and name not in found, row["id"], "numbers", f"{definition!r} is not a new 'name: what it is'")
        found[name] = meaning.strip()
    _check(bool(found), row["id"], "numbers", "no number is defined")
    return found


def _split(text: str, separator: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(separator) if part.strip())


def _check(ok: bool, row: str, column: str, message: str, file: str = "claims.csv") -> None:
    require(ok, f"{file}, row {row}, column {column}: {message}.")


def share_of_seeds(seeds: str) -> float | None:
    """Share of seeds in which a test must hold; 0 for the median, None where ``seeds`` is no rule."""
    if seeds in ("all", "median"):
        return float(seeds == "all")
    return float(seeds) if re.fullmatch(r"0\.\d*[1-9]", seeds) else None


# ---- tests ------------------------------------------------------------------------------------------


@lru_cache
def parse_test(test: str) -> ast.expr:
    """Syntax tree of a test: comparisons ``name op number`` joined by ``and``, ``or`` and parentheses.

    ``and`` binds closer than ``or``; ``op`` is one of >=, >, <=, <, ==. Nothing else is allowed, and nothing
    is ever evaluated as Python.

    Raises:
        IctlError: anything else stands in ``test``.
    """
    try:
        tree = ast.parse(test, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise IctlError(f"{test!r} is not a test: {error}.") from None
    for node in _comparisons(tree):
        ok = isinstance(node, ast.Compare) and isinstance(node.left, ast.Name) and len(node.ops) == 1
        ok = ok and type(node.ops[0]) in COMPARE and _bound(node.comparators[0]) is not None
        require(ok, f"{ast.unparse(node)!r} in {test!r} is not a comparison 'name op number' with >=, >, <=, < or ==.")
    return tree


def names_in(test: str) -> set[str]:
    """Names of the numbers that ``test`` compares."""
    return {node.left.id for node in _comparisons(parse_test(test))}


def holds(test: str, values: Mapping[str, float]) -> bool:
    """Whether ``test`` holds for ``values``.

    Raises:
        IctlError: a number of the test is missing or NaN.
    """
    for name in sorted(names_in(test)):
        require(name in values and not math.isnan(values[name]), f"{test!r} has no value for {name}: no verdict.")
    return _holds(parse_test(test), values)


def _holds(node: ast.expr, values: Mapping[str, float]) -> bool:
    if isinstance(node, ast.BoolOp):
        return (all if isinstance(node.op, ast.And) else any)(_holds(part, values) for part in node.values)
    value = round(float(values[node.left.id]), DIGITS)
    return bool(COMPARE[type(node.ops[0])](value, _bound(node.comparators[0])))


def _comparisons(node: ast.expr) -> list[ast.expr]:
    return [leaf for part in node.values for leaf in _comparisons(part)] if isinstance(node, ast.BoolOp) else [node]


def _bound(node: ast.expr) -> float | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _bound(node.operand)
        return None if value is None else -value
    return float(node.value) if isinstance(node, ast.Constant) and type(node.value) in (int, float) else None
