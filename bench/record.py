"""Run a benchmark and keep what it prints in `bench/RESULTS.md`: `python bench/record.py ablations [its options]`.

The section of that benchmark is replaced, the others stay. A benchmark that fails leaves the file as it was.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
NAMES = ("train_throughput", "ablations", "time_to_change", "ladder", "snapshot_cost")
INTRO = """# Benchmarks

What `python bench/record.py NAME` printed, one section a benchmark. Ratios come from rounds that take turns in one run;
absolute numbers are those of the machine named.

{overview}
"""
GOALS = {  # what -> section, what was reached, the goal, and whether it is a least value
    "training: times the fastest peer": ("train_throughput", r"Reached: ([\d.]+) times", r"goals are ([\d.]+)", True),
    "training: % of the matrix product's rate": ("train_throughput", r"and (\d+)% of", r"times\s+and (\d+)%", True),
    "ablations, 3 layers: times the fastest loop": (
        "ablations", r"3 layers: ([\d.]+) times", r"goal is ([\d.]+)", True),
    "seconds to the change, nanoGPT's over ours": (
        "time_to_change", r"seconds: (?:at least )?([\d.]+)", r"goal (\d+)", True),
    "snapshots: seconds with over without": ("snapshot_cost", r"median ([\d.]+)", r"goal ([\d.]+)", False),
}  # fmt: skip


def processor() -> str:
    """Name of the processor and how many of its cores there are."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return f"{os.cpu_count()} cores, {names[0] if names else platform.processor() or platform.machine()}"


def replaced(text: str, name: str, section: str) -> str:
    """``text`` with the section ``name`` replaced, or added at the end."""
    parts = re.split(r"(?m)^(?=## )", text or "\n")
    kept = [part for part in parts if not part.startswith(f"## {name}\n")]
    order = {f"## {n}\n": i for i, n in enumerate(NAMES)}
    sections = sorted([*kept[1:], section], key=lambda part: order[part.partition("\n")[0] + "\n"])
    return "\n".join(part.strip() + "\n" for part in [INTRO.format(overview=overview(sections)), *sections])


def overview(sections: list[str]) -> str:
    """A table of the goals: what was reached, as the sections say it."""
    rows = ["| | reached | goal | |", "| --- | --- | --- | --- |"]
    for what, (name, reached, goal, least) in GOALS.items():
        text = next((part for part in sections if part.startswith(f"## {name}\n")), "")
        found = [re.search(pattern, text) for pattern in (reached, goal)]
        if all(found):
            a, b = (float(match[1]) for match in found)
            rows.append(f"| {what} | {a:g} | {b:g} | {'met' if (a >= b if least else a <= b) else 'missed'} |")
    return "\n".join(rows)


def run(name: str, options: list[str]) -> str:
    """Run a benchmark, show what it prints, and return it; exits with its code where it fails."""
    command = [sys.executable, str(HERE / f"{name}.py"), *options]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TQDM_DISABLE": "1"})
    lines = []
    for line in child.stdout or ():
        print(line, end="", flush=True)
        lines.append(line)
    if child.wait():
        raise SystemExit(child.returncode)
    return "".join(lines).strip()


def main(arguments: list[str]) -> None:
    """Run the benchmark that is named and write its section."""
    if not arguments or arguments[0] not in NAMES:
        raise SystemExit(f"usage: python bench/record.py {'|'.join(NAMES)} [options of the benchmark]")
    name, options = arguments[0], arguments[1:]
    printed = run(name, options)
    command = " ".join(["python bench/record.py", name, *options])
    body = printed if "\n|" in f"\n{printed}" else f"```text\n{printed}\n```"
    where = "" if name == "ladder" and not options else f" ({processor()}, Python {platform.python_version()})"
    section = f"## {name}\n\n`{command}`{where}\n\n{body}\n"  # the ladder's runs name their machines themselves
    text = RESULTS.read_text(encoding="utf8") if RESULTS.exists() else ""
    partial = RESULTS.with_suffix(".partial")
    partial.write_text(replaced(text, name, section), encoding="utf8")
    partial.replace(RESULTS)


if __name__ == "__main__":
    main(sys.argv[1:])
