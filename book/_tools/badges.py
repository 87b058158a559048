"""Write what is generated from the project's home in `_config.yml`: `make badges`.

These are README's badge block, the line by which the notebooks install the package on Colab, and where the
package downloads weights from.
`badges.py --check` changes nothing and fails when a file is out of date.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START, END = "<!-- badges:start -->", "<!-- badges:end -->"
COLAB = "https://colab.research.google.com"
HOME = Path("ictl_utils") / "zoo_data" / "home.json"
INSTALL = re.compile(r"ictl-utils(?P<extras>\[[\w,-]+\])? @ git\+[^\s\"'\\]+")


def home(root: Path = ROOT) -> tuple[str, str]:
    """URL and ref (branch or tag) of the project's home, from ``repository`` in `_config.yml`."""
    text = (root / "_config.yml").read_text(encoding="utf8")
    url = re.search(r"^  url: *(\S+)", text, re.M)
    ref = re.search(r"^  branch: *(\S+)", text, re.M)
    if not url or not ref:
        raise SystemExit("_config.yml: expected `url:` and `branch:` under `repository:`; add them.")
    return url.group(1), ref.group(1)


def notebooks(root: Path = ROOT) -> list[Path]:
    """The chapters, in order."""
    return sorted((root / "notebooks").glob("[0-9]*.ipynb"))


def coursework(root: Path = ROOT) -> list[Path]:
    """The assignments, student editions before instructor notebooks."""
    folder = root / "notebooks" / "assignments"
    return sorted(folder.glob("a*.ipynb")) + sorted((folder / "instructor").glob("a*.ipynb"))


def title(notebook: Path) -> str:
    """First heading of a notebook, or its name."""
    for cell in json.loads(notebook.read_text(encoding="utf8"))["cells"]:
        heading = re.search(r"^# +(.+)$", "".join(cell["source"]), re.M)
        if cell["cell_type"] == "markdown" and heading:
            return heading.group(1).strip()
    return notebook.stem


def badge_block(root: Path = ROOT) -> str:
    """README's table of chapters and assignments with a Colab badge each, between the two markers."""
    url, ref = home(root)
    slug = url.removeprefix("https://github.com/")
    rows = ["| Chapter or assignment | Run it |", "| --- | --- |"]
    students = [path for path in coursework(root) if path.parent.name == "assignments"]
    for path in [*notebooks(root), *students]:
        name = path.relative_to(root).as_posix()
        badge = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/{slug}/blob/{ref}/{name})"
        rows.append(f"| [{title(path)}]({name}) | {badge} |")
    return "\n".join([START, *rows, END])


def with_badges(text: str, root: Path = ROOT) -> str:
    """``text`` with the present badge block between the markers."""
    if START not in text or END not in text:
        raise SystemExit(
            f"README.md: expected the lines {START} and {END}; add them where the table belongs."
        )
    before, after = text.split(START)[0], text.split(END)[1]
    return before + badge_block(root) + after


def install_requirement(root: Path = ROOT, extras: str = "[viz]") -> str:
    """The requirement that Colab hands to pip."""
    url, ref = home(root)
    return f"ictl-utils{extras} @ git+{url}@{ref}"


def with_install_line(text: str, root: Path = ROOT) -> str:
    """A notebook's text with every install requirement pointing at the present home; extras are kept."""
    return INSTALL.sub(lambda m: install_requirement(root, m.group("extras") or ""), text)


def outdated(root: Path = ROOT) -> dict[Path, str]:
    """Files whose generated part is not as it should be, with their right text."""
    readme, wanted = root / "README.md", {}
    if readme.exists():
        wanted[readme] = with_badges(readme.read_text(encoding="utf8"), root)
    for path in [*notebooks(root), *coursework(root)]:
        wanted[path] = with_install_line(path.read_text(encoding="utf8"), root)
    wanted[root / HOME] = json.dumps(dict(zip(("url", "ref"), home(root), strict=True)), indent=1) + "\n"
    return {path: text for path, text in wanted.items()
            if not path.exists() or path.read_text(encoding="utf8") != text}


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Rewrite the outdated files, or with ``--check`` only name them."""
    changes = outdated(root)
    for path, text in changes.items():
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf8")
        print(("out of date: " if "--check" in arguments else "written: ") + str(path.relative_to(root)))
    if not changes:
        print("badges and install lines are up to date")
    return int(bool(changes) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
