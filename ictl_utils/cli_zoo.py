"""``ictl ladder | measure | table | claims | pretrained | zoo``: the model zoo, its measurements and the verdicts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from .cli_tables import AsJson, From
from .config import IctlError, require, run_id, runs_dir, runs_folder
from .zoo import FAMILIES

Out = Annotated[Path | None, typer.Option(
    help="Folder of the runs; default: $ICTL_RUNS, or runs in $ICTL_HOME, which is ~/.cache/ictl_utils if unset.",
)]
zoo_app = typer.Typer(add_completion=False, no_args_is_help=True, help="The zoo's models: list, pack, verify, retrain.")


def ladder(
    preset_name: Annotated[str, typer.Option("--preset", help="smoke, laptop or gpu.")] = "laptop",
    family: Annotated[str | None, typer.Option(
        help=f"{', '.join(FAMILIES)}, or names such as attn-*; default all.")] = None,  # fmt: skip
    seeds: Annotated[int | None, typer.Option(help="Initialisations each; default: the zoo's numbers.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes; default: one a core.")] = None,
    backend: Annotated[str, typer.Option(help="loky or dask.")] = "loky",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda for preset gpu, else cpu.")] = None,
    measure_too: Annotated[bool, typer.Option("--measure/--train-only", help="Measure every snapshot as well.")] = True,
    beyond: Annotated[bool, typer.Option("--beyond-shipped", help="Only runs that do not come measured.")] = False,
    out: Out = None,
) -> None:
    """Train and measure what is missing of the zoo; stop it at any moment, start it again, nothing is done twice."""
    from .ladder import climb, collect_zoo
    from .tables import read

    folder, device = runs_folder(out), device or ("cuda" if preset_name == "gpu" else "cpu")
    runs = climb(preset_name, family, seeds, out=folder, jobs=jobs, backend=backend, device=device, measure=measure_too,
                 skip=set(read()["runs"]["run_id"]) if beyond else ())  # fmt: skip
    if not runs:
        return typer.echo("nothing to train: all runs chosen come measured")
    typer.echo(f"{len(runs)} run{'s' * (len(runs) != 1)} trained in {folder}")
    if measure_too:
        collect_zoo(folder, preset_name)
        typer.echo(f"tables: {folder / 'tables'}")


def measure(
    out: Out = None,
    quick: Annotated[bool, typer.Option(help="Less text: rough numbers, in a tenth of the time.")] = False,
    jobs: Annotated[int | None, typer.Option(help="Processes; default: one a core.")] = None,
) -> None:
    """Measure every snapshot of every finished run in a folder; writes tables/*.parquet there.

    A run that cannot be measured is named and left out; the exit code is then 1.
    """
    from .processes import in_processes
    from .survey import FULL, QUICK
    from .tables import distinct, join, open_runs, write

    require(jobs is None or jobs >= 1, f"jobs={jobs} must be at least 1.")
    folder, effort = out or runs_dir(), QUICK if quick else FULL
    found, wrong = open_runs(folder)
    runs = [run for run in found if run.finished]
    require(bool(runs) or bool(wrong), f"{folder} holds no finished run; train one with `ictl train --out {folder}`.")
    distinct(runs)
    errors = in_processes(_measure_one, [(run, effort) for run in runs], jobs=jobs, bar="measuring")
    for words in (*wrong, *filter(None, errors)):
        typer.echo(words, err=True)
    good = [run for run, error in zip(runs, errors, strict=True) if not error]
    if good:
        tables = join(good, {run.run_id: (run.run_id, "own") for run in good}, effort)
        write(tables, folder / "tables")
        typer.echo(f"{sum(map(len, tables.values()))} rows of {len(good)} run{'s' * (len(good) != 1)}: "
                   f"{folder / 'tables'}")  # fmt: skip
    if len(good) < len(runs) + len(wrong):
        raise typer.Exit(1)


def _measure_one(run, effort) -> str:
    """Measure a run; what stands in the way, or nothing."""
    from .survey import survey
    from .tables import check, join

    try:
        survey(run, effort, progress=False)
        check(join([run], {run.run_id: (run.run_id, "own")}, effort))
    except IctlError as error:
        return f"{run.run_id}: {error}"
    return ""


def claims(
    only: Annotated[str | None, typer.Option("--id", help="One claim, with its numbers of every seed.")] = None,
    as_json: AsJson = False,
    source: From = None,
    preset_name: Annotated[str, typer.Option("--preset", help="Of the zoo the tables are of.")] = "laptop",
) -> None:
    """The verdict on every claim; exit code 1 when one in scope has none (with --id: when this one has none)."""
    from .judgement import judge_zoo, missing, report
    from .pretrained_tables import known
    from .tables import SHIPPED, read

    verdicts = judge_zoo(read(source or SHIPPED), preset_name=preset_name, pretrained=known())
    typer.echo(report(verdicts, only, as_json))
    absent = [name for name in missing(verdicts) if only in (None, name)]
    if absent:
        which = "--beyond-shipped" if preset_name == "laptop" else f"--preset {preset_name}"
        typer.echo(f"no verdict yet: {', '.join(absent)}; `ictl ladder {which}` trains and "
                   "measures what is missing, `ictl zoo pack` adds it.", err=True)
        raise typer.Exit(1)


def pretrained(
    name: Annotated[str, typer.Argument(help="pythia-70m, gpt2-xl, owner/name on the Hugging Face hub, or a folder.")],
    revisions: Annotated[str, typer.Option(help="Checkpoints with commas between (step0,step1000,main), or "
                                                "training: those of Pythia that the claims need.")] = "main",
    corpus: Annotated[str, typer.Option(help="stdlib, docstrings or path:GLOB; only its held-out texts.")] = "stdlib",
    windows: Annotated[int, typer.Option(help="Windows of text, at most.")] = 1000,
    n_ctx: Annotated[int, typer.Option(help="Tokens a window.")] = 512,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    out: Out = None,
) -> None:  # fmt: skip
    """Measure an open pretrained model for the claims that small models do not decide; `ictl claims` then judges them.

    Nothing is measured twice: stopped at any moment, the same command goes on with the next checkpoint.
    """
    from .metrics import best_head
    from .pretrained import PYTHIA_TRAINING
    from .pretrained_tables import Reading, measure

    steps = [f"step{step}" for step in PYTHIA_TRAINING] if revisions == "training" else revisions.split(",")
    reading = Reading(corpus, windows, n_ctx)
    for found in measure(name, steps, reading, device=device, dtype=dtype, folder=runs_folder(out)):
        run, row, heads = found["runs"].iloc[0], found["snapshots"].iloc[0], found["heads"]
        scores = heads["prefix_matching"].to_numpy().reshape(run["n_layers"], run["n_heads"])
        layer, head = best_head(scores)
        typer.echo(f"{run['name']} {row['revision']}: {run['windows']} windows, loss {row['loss_nats']:.3f} nats, "
                   f"ICL score {row['icl_nats']:.3f} +- {row['icl_se_nats']:.3f} nats, best prefix matching "
                   f"{scores[layer, head]:.3f} (L{layer}H{head})")  # fmt: skip


@zoo_app.command("list")
def list_zoo(preset_name: Annotated[str, typer.Option("--preset")] = "laptop") -> None:
    """Configurations of the zoo: how many of their runs are measured, and the weights that are shipped."""
    from .tables import read
    from .weights import shipped
    from .zoo import entries, names, schedule

    files, measured = Counter(one.run_id for one in shipped() if one.sha256), set(read()["runs"]["run_id"])
    for e in entries(preset_name):
        ids = [run_id(m, t) for m, t in e.runs()]
        n, done = files[ids[0]], len(measured & set(ids))
        first = names(preset_name)[ids[0]][0]
        notes = [f"same as {first}"] * (first != e.name) + [f"weights of {n} snapshot{'s' * (n > 1)}"] * (n > 0)
        typer.echo(f"{e.name:24} {e.model.label:18} {e.train.corpus:10} {e.train.tokens / 1e6:g} M tokens  "
                   f"{done} of {len(ids)} run{'s' * (len(ids) > 1)} measured  {', '.join(notes)}".rstrip())  # fmt: skip
    planned = {run_id(m, t) for _, m, t in schedule(entries(preset_name))}
    typer.echo(f"{len(planned & measured)} of {len(planned)} runs measured")


@zoo_app.command()
def pack(out: Out = None, preset_name: Annotated[str, typer.Option("--preset")] = "laptop") -> None:
    """Add the tables of all measured runs, and weights in half precision, to those that come with the package.

    Of a run that is there already the new ones count; to begin anew, delete ictl_utils/zoo_data/*.parquet first.
    """
    from .cards import write_cards
    from .ladder import collect_zoo
    from .pretrained_tables import pack as pack_pretrained
    from .tables import SHIPPED, read
    from .weights import pack as pack_weights

    require(preset_name != "smoke", "--preset smoke is for tests; the package ships runs of laptop or gpu.")
    there = read() if (SHIPPED / "runs.parquet").exists() else None
    tables = collect_zoo(out or runs_dir(), preset_name, SHIPPED, there)
    files = pack_weights(out or runs_dir(), tables)
    write_cards(tables)
    others = pack_pretrained(out)
    typer.echo(f"{len(tables['runs'])} runs, {len(files)} files of weights"
               + (f", {others} pretrained models" if others else ""))  # fmt: skip


@zoo_app.command()
def verify(
    n: Annotated[int, typer.Option(help="Snapshots drawn at random.")] = 6,
    seed: Annotated[int | None, typer.Option(help="Draw the same ones again.")] = None,
) -> None:
    """Recompute a random sample of shipped numbers from shipped weights; exit code 1 when one disagrees."""
    from .tables import read
    from .weights import verify as check

    require(n >= 1, f"n={n} must be at least 1.")
    require(seed is None or seed >= 0, f"seed={seed} must not be negative.")
    found = check(read(), n, seed)
    typer.echo(found.to_string(index=False))
    if not found["agrees"].all():
        typer.echo(f"{(~found['agrees']).sum()} of {len(found)} numbers do not agree with their weights.", err=True)
        raise typer.Exit(1)


@zoo_app.command()
def retrain(
    name: Annotated[str, typer.Argument(help="A configuration of the zoo.")] = "attn-1l",
    seed: Annotated[int, typer.Option(help="Seed of the initial weights.")] = 0,
) -> None:
    """Train a shipped model again, from its configuration; exit code 1 unless its final loss agrees to 0.001 nats."""
    from tempfile import TemporaryDirectory

    from .tables import read
    from .weights import minutes
    from .weights import retrain as again

    typer.echo(f"training {name} seed {seed}: about {minutes(name, seed):.0f} minutes on one core")
    with TemporaryDirectory(prefix="ictl_retrain_") as folder:
        shipped, now = again(name, seed, read(), folder)
    typer.echo(f"{name} seed {seed}: loss {shipped:.5f} nats shipped, {now:.5f} now, difference {now - shipped:+.5f}")
    if abs(now - shipped) > 1e-3:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add these commands to ``ictl``."""
    for command in (ladder, measure, claims, pretrained):
        app.command()(command)
    app.add_typer(zoo_app, name="zoo")
