"""Set the project's home: `make release-url URL=https://github.com/you/repo [REF=v1.0]`."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import badges

URL = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")


def set_home(root: Path, url: str, ref: str | None = None) -> None:
    """Write ``url``, and ``ref`` if given, into `_config.yml`, then everything generated from them."""
    url = url.rstrip("/").removesuffix(".git")
    if not URL.fullmatch(url):
        raise SystemExit(f"URL={url!r} is not a project's home; expected https://github.com/OWNER/REPO.")
    config = root / "_config.yml"
    text = re.sub(r"^(  url: *)\S+", rf"\g<1>{url}", config.read_text(encoding="utf8"), count=1, flags=re.M)
    if ref:
        text = re.sub(r"^(  branch: *)\S+", rf"\g<1>{ref}", text, count=1, flags=re.M)
    config.write_text(text, encoding="utf8")
    print(f"_config.yml: {url}" + (f" at {ref}" if ref else ""))
    badges.main([], root)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="https://github.com/OWNER/REPO")
    parser.add_argument("--ref", help="branch or tag that badges and install lines point to")
    given = parser.parse_args()
    sys.exit(set_home(badges.ROOT, given.url, given.ref))
