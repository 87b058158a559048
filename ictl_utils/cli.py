"""``ictl``: train, measure, judge claims, mark coursework; every mistake is one sentence."""

from __future__ import annotations

import math
import sys
from typing import Annotated

import typer

from . import cli_grade, cli_tables, cli_zoo
from .cli_zoo import Out
from .config import IctlError, ModelConfig, TrainConfig, choose_device, preset, require, runs_dir, runs_folder
from .data import SYNTHETIC

STOPPED = 130  # exit code that Typer makes of Ctrl-C
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
Corpus = Annotated[str, typer.Option(
    help=f"stdlib, docstrings, path:GLOB, hf:NAME (pip install datasets), or made up: {', '.join(SYNTHETIC)}.",
)]
Tokens = Annotated[float | None, typer.Option(help="Training tokens, 10e6 style; default: the preset's.")]


@app.command()
def train(
    preset_name: Annotated[str, typer.Option("--preset", help="smoke, laptop or gpu.")] = "laptop",
    layers: Annotated[int, typer.Option(help="Layers, 0 to 8.")] = 2,
    smear: Annotated[str, typer.Option(help="none, key, query or value.")] = "none",
    positions: Annotated[str, typer.Option(help="shortformer, learned or rotary.")] = "shortformer",
    mlp: Annotated[bool, typer.Option(help="With MLPs.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the initial weights.")] = 0,
    data_seed: Annotated[int, typer.Option(help="Seed of the order of the data.")] = 0,
    tokens: Tokens = None,
    corpus: Corpus = "stdlib",
    out: Out = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Train a model (or go on with it, or do nothing when it is finished) and measure the last snapshot."""
    from . import train as training

    changes = {"n_layers": layers, "smear": smear, "positions": positions, "mlp": mlp, "init_seed": seed,
               "data_seed": data_seed, "corpus": corpus}  # fmt: skip
    if tokens is not None:
        require(math.isfinite(tokens), f"tokens={tokens} is no number of training tokens; use a number such as 10e6.")
        changes["tokens"] = int(tokens)
    require(1 <= threads <= 1024, f"threads={threads} is out of range; use 1 to 1024.")
    configs, folder = preset(preset_name, **changes), runs_folder(out)
    typer.echo(f"device: {choose_device(device)}", err=True)
    check_corpus(*configs)
    run = training.train(*configs, folder, device=device, threads=threads)
    typer.echo(f"run: {run.path}", err=True)
    typer.echo(summary(run))


@app.command()
def show(out: Out = None) -> None:
    """List the runs in a folder, one line each."""
    from .tables import open_runs

    runs, wrong = open_runs(out or runs_dir())
    for words in wrong:
        typer.echo(f"warning: {words}", err=True)
    for run in runs:
        m = run.manifest
        loss = f"{m['losses'][-1][1]:.3f}" if m["losses"] else "-"
        state = "finished" if run.finished else "unfinished"
        typer.echo(f"{run.run_id}  {run.label}  {len(run)} snapshot{'s' * (len(run) != 1)}  {run.tokens[-1]} tokens  "
                   f"{m['seconds']:.0f} s  training loss {loss}  {m['device']['name']}  {state}")  # fmt: skip


@app.command()
def corpora(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all that need no download.")] = None,
    d_vocab: Annotated[int, typer.Option(help="Vocabulary size.")] = 1024,
) -> None:
    """Size of each corpus, and the share of tokens where copying pays (copy_pay)."""
    from .data import SYNTHETIC, TEXT, copy_pay
    from .tokens import load_tokens

    for name in names or (*TEXT, *SYNTHETIC):
        t = load_tokens(name, d_vocab)
        pay = copy_pay(t.train, t.held_out, d_vocab)
        typer.echo(f"{name}  {t.documents} documents  {t.characters} characters  {len(t.train)} training tokens  "
                   f"{len(t.held_out)} held out  copy_pay {pay:.3f}  sha {t.sha[:12]}")  # fmt: skip


cli_zoo.register(app)
cli_tables.register(app)
cli_grade.register(app)


def check_corpus(model_cfg: ModelConfig, train_cfg: TrainConfig) -> None:
    """Raise :class:`IctlError` where a corpus is too small for what :func:`summary` measures after training."""
    from . import metrics
    from .tokens import load_tokens

    tokens, n_ctx = load_tokens(train_cfg.corpus, model_cfg.d_vocab), model_cfg.n_ctx
    require(len(tokens.held_out) >= 2 * n_ctx,
            f"corpus={train_cfg.corpus!r} holds out {len(tokens.held_out)} tokens, fewer than two windows of {n_ctx}; "
            "give more or longer documents: one in twenty is held out.")  # fmt: skip
    if model_cfg.n_layers:
        metrics.repeated_probe(tokens, n_ctx)


def summary(run) -> str:
    """One line on a finished run: tokens, seconds, loss, ICL score, best prefix matching and its head."""
    from . import metrics
    from .tokens import eval_windows, load_tokens

    tokens = load_tokens(run.train_cfg.corpus, run.model_cfg.d_vocab)
    model, n_ctx = run.model(), run.model_cfg.n_ctx
    losses = metrics.token_losses(model, eval_windows(tokens, min(512, len(tokens.held_out) // n_ctx), n_ctx))
    icl = metrics.icl_score(losses)
    line = (f"{run.label} seed {run.train_cfg.init_seed}: {run.tokens[-1]} tokens, {run.manifest['seconds']:.1f} s, "
            f"loss {losses.mean():.3f} nats, ICL score {icl.value:.3f} +- {icl.se:.3f} nats, ")  # fmt: skip
    if run.model_cfg.n_layers == 0:
        return line + "no heads"
    scores = metrics.prefix_matching(model, metrics.repeated_probe(tokens, n_ctx))
    layer, head = metrics.best_head(scores)
    return line + f"best prefix matching {scores[layer, head]:.3f} (L{layer}H{head})"


def main() -> None:
    """Entry point; an :class:`IctlError` becomes one line on stderr and exit code 2."""
    try:
        app()
    except IctlError as error:
        typer.echo(f"ictl: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        typer.echo(f"ictl: {error.filename}: {error.strerror}; check the path and its permissions.", err=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == STOPPED:
            typer.echo("ictl: stopped; what is finished is kept, the same command goes on from there.", err=True)
        raise


if __name__ == "__main__":
    main()
