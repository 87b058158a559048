"""Ask every address outside the book whether it still answers: `make links`. No test does: it needs a network."""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = re.compile(r"https?://[^\s\"'<>\\)\]}`]+")
PLACEHOLDERS = ("OWNER/REPO", "127.0.0.1", "localhost", "www.w3.org/2000/svg")
LIMIT = 20.0  # seconds for one answer


def addresses(root: Path) -> dict[str, list[str]]:
    """Address -> files that link to it."""
    files = [*root.glob("book/*.md"), *root.glob("book/*.bib"), *root.glob("notebooks/**/*.ipynb"), root / "README.md"]
    found: dict[str, list[str]] = {}
    for path in sorted(files):
        for address in ADDRESS.findall(path.read_text(encoding="utf8")):
            if not any(part in address for part in PLACEHOLDERS):
                found.setdefault(address.rstrip(".,;:"), []).append(path.relative_to(root).as_posix())
    return found


def answer(address: str) -> str:
    """Empty if the address answers, else what came back."""
    request = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0 (link check)"})
    try:
        with urllib.request.urlopen(request, timeout=LIMIT):
            return ""
    except urllib.error.HTTPError as error:
        return "" if error.code in (403, 405, 429) else f"{error.code} {error.reason}"  # there, but not for programs
    except (OSError, ValueError) as error:
        return str(error)


def main(root: Path = ROOT) -> int:
    """Print what does not answer, and where it is linked; exit code 1 if anything is."""
    found = addresses(root)
    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(found, pool.map(answer, found), strict=True))
    broken = {address: words for address, words in answers.items() if words}
    for address, words in broken.items():
        print(f"{address}: {words} ({', '.join(sorted(set(found[address])))})")
    print(f"{len(found)} addresses, {len(broken)} do not answer")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
