"""One way through the code: imports go only backward along the line, and the core needs no plotting."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "ictl_utils"
LINE = [
    "config", "processes", "data", "tokens", "model", "handmade", "loss", "muon", "snapshots", "train",
    "category_task", "prompts", "curves", "metrics", "probes", "ablations", "ablations_streams",
    "ablations_sweep", "idealised", "lowrank", "circuits",
    "circuits_paths", "circuits_scores", "circuits_trigrams", "circuits_split_tokens",
    "circuits_stream", "circuits_bases", "circuits_bigrams", "interop", "patching", "measure",
    "survey_trigrams", "circuits_examples", "circuits_effects", "circuits_induction",
    "survey_facts", "survey", "zoo", "tables_schema", "tables",
    "pretrained", "pretrained_texts", "pretrained_scores", "pretrained_tables", "ladder", "weights", "numbers_base",
    "numbers_shapes", "numbers_training", "numbers_smeared", "numbers_heads", "numbers_circuits",
    "numbers_pretrained", "numbers",
    "figures_style", "figures_training", "figures_context", "figures_heads", "figures_tokens",
    "figures_cooccurrence", "figures_events", "figures_single", "figures_onsets", "figures_depth",
    "figures_smeared", "figures_ablations",
    "figures_trigrams", "figures_circuits", "figures_composition", "figures_terms", "figures_paths",
    "figures_diagrams", "figures_bigrams",
    "figures_since", "figures_patching",
    "figures_table", "figures_table_counts", "figures_table_panels", "figures_table_cells",
    "figures_induction", "figures", "claims", "figures_generality", "figures_mechanism",
    "verdicts", "figure_list", "viz_slider", "viz_table", "viz_lab", "viz", "judgement",
    "figures_conclusion", "chapter", "handwritten", "answers_sealed", "answers",
    "grading_words", "grading_rules", "grading_room",
    "grading_cases", "grading", "grading_a1_cases", "grading_a1", "grading_a2",
    "grading_a3_cases", "grading_a3", "grading_a4_cases", "grading_a4",
    "research", "research_report", "grading_a5",
    "coursework", "submissions", "extraction", "isolation", "sandbox_watch", "sandbox",
    "sandbox_child", "marking", "similarity", "marks_report", "marks_pages", "grading_batch",
    "cards", "cli_tables", "cli_zoo", "cli_grade", "cli", "__main__",
]  # fmt: skip


def imported(module: str) -> set[str]:
    """Names of the package's own modules that ``module`` imports anywhere, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("ictl_utils")):
            name = (node.module or "").removeprefix("ictl_utils").removeprefix(".").split(".")[0]
            found |= {name} if name else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("ictl_utils.")}
    return found


def test_every_module_is_on_the_line() -> None:
    assert sorted(LINE) == sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def test_imports_go_backward() -> None:
    wrong = [f"{module} imports {name}" for module in LINE for name in imported(module)
             if name in LINE and LINE.index(name) >= LINE.index(module)]  # fmt: skip
    assert wrong == []


def test_the_core_imports_without_plotting_and_book_tools() -> None:
    core = LINE[: LINE.index("figures_style")]
    code = f"import sys, {', '.join('ictl_utils.' + m for m in core)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"matplotlib", "circuitsvis", "ipywidgets", "transformer_lens", "IPython", "datasets", "sphinx"}
    assert heavy.isdisjoint(loaded)


def test_modules_and_functions_stay_short() -> None:
    long = []
    for path in PACKAGE.glob("*.py"):
        text = path.read_text()
        if text.count("\n") > 275:
            long.append(path.name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and path.name != "cli.py":
                doc = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0
                if node.end_lineno - node.lineno + 1 - doc > 32:
                    long.append(f"{path.name}:{node.name}")
    assert long == []
