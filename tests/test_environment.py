"""The lock, pyproject.toml and environment.yml say the same."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CONDA_NAMES = {"pytorch": "torch"}
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]


def declared() -> list[Requirement]:
    """Every dependency of the package and of its extras."""
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(line) for line in PROJECT["dependencies"] + [r for extra in extras for r in extra]]


def locked() -> dict[str, str]:
    """Version of every locked package."""
    pins = [line.split("==") for line in LOCK.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def conda() -> dict[str, Requirement]:
    """Requirements of environment.yml, its pip section included, without python, pip and the package."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf8"))
    lines = [d for d in environment["dependencies"] if isinstance(d, str)]
    lines += next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    found = [Requirement(line) for line in lines if not line.startswith(("-e", "python>", "pip"))]
    return {CONDA_NAMES.get(r.name, r.name): r for r in found}


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_the_lock_has_every_dependency_within_its_bound(requirement):
    version = locked().get(canonicalize_name(requirement.name))
    assert version, f"{requirement.name} is missing from requirements.lock"
    assert requirement.specifier.contains(version), f"requirements.lock has {requirement.name} {version}"


def test_the_lock_is_exact_and_portable():
    for line in LOCK.splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line
    assert "ictl-utils" not in locked()


def test_pyproject_has_bounds_and_no_pins():
    for requirement in declared():
        operators = {s.operator for s in requirement.specifier}
        assert ">=" in operators and not operators & {"==", "===", "~="}, str(requirement)


def test_the_runtime_has_lower_bounds_only():
    """An upper bound could downgrade what Colab has."""
    extras = PROJECT["optional-dependencies"]
    for line in PROJECT["dependencies"] + extras["viz"] + extras["tl"]:
        assert {s.operator for s in Requirement(line).specifier} == {">="}, line


def test_conda_has_the_same_set_with_the_same_bounds():
    wanted = {r.name: r.specifier for r in declared()}
    assert {name: r.specifier for name, r in conda().items()} == wanted
