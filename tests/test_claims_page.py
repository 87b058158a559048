"""The page of claims is what the shipped measurements give."""

import subprocess
import sys

from conftest import ROOT


def test_page_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "book" / "_tools" / "claims_page.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}: run `make claims`"
