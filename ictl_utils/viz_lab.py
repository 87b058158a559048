"""The lab: type a text, choose a head and a snapshot, see its attention and the loss of every token."""

from __future__ import annotations

import html
import os
import sys
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.colors import to_hex

from .config import require
from .figures_style import View, picture, png, token_text
from .figures_tokens import attention_pattern, ink_on, token_scale

if TYPE_CHECKING:
    from jaxtyping import Float

    from .model import Transformer
    from .snapshots import Run
    from .tokens import Tokens

TEXT = (
    "def area(width, height):\n    return width * height\n\n"
    "def volume(width, height, depth):\n    return width * "
)
ELSEWHERE = (
    "The lab needs a running notebook: open this chapter in Colab (rocket button above) or in JupyterLab "
    "and run it there. Type a text, choose a head and a snapshot, and see attention and losses."
)
LONGEST = 64  # tokens the attention picture can label


def live_kernel() -> bool:
    """Whether a reader is likely to sit in front: not in a book build, under papermill, or in a script.

    Jupyter Server, VS Code, Colab and Kaggle leave a name in the environment of the kernels they start.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if os.environ.get("ICTL_BOOK") == "1" or not hasattr(shell, "kernel"):
        return False
    fronts = ("JPY_SESSION_NAME", "VSCODE_PID", "VSCODE_CWD", "COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE")
    return any(name in os.environ for name in fronts) or "google.colab" in sys.modules


def lab(
    run: Run, tokens: Tokens, text: str = TEXT, head: tuple[int, int] | None = None, live: bool | None = None
):
    """Widgets that run a snapshot on the reader's text; a short note where nobody could use them.

    Args:
        run: a run with at least one layer.
        tokens: the tokens it was trained on.
        text: what to start with.
        head: layer and head to start with; default the last head of the last layer.
        live: whether to show the widgets; default :func:`live_kernel`.

    Returns:
        An ipywidgets box, or a :class:`View` with a note.

    Raises:
        IctlError: a model without heads, or a head it does not have.
    """
    cfg = run.model_cfg
    require(cfg.n_layers > 0, f"{run.label} has no heads to look at; choose a run with at least one layer.")
    head = (cfg.n_layers - 1, cfg.n_heads - 1) if head is None else tuple(head)
    heads = [(f"L{i}H{j}", (i, j)) for i in range(cfg.n_layers) for j in range(cfg.n_heads)]
    require(
        head in dict(heads).values(),
        f"head={head} is not there; {run.label} has {cfg.n_layers} layers of {cfg.n_heads} heads.",
    )
    if not (live_kernel() if live is None else live):
        return View(f'<p class="ictl-lab-note"><em>{ELSEWHERE}</em></p>', ELSEWHERE)
    return _widgets(run, tokens, text, heads, head)


def _widgets(
    run: Run, tokens: Tokens, text: str, heads: list[tuple[str, tuple[int, int]]], head: tuple[int, int]
):
    import ipywidgets as widgets

    wide = widgets.Layout(width="95%")
    words = widgets.Textarea(value=text, description="Text", continuous_update=False, layout=wide, rows=5)
    which = widgets.Dropdown(options=heads, value=head, description="Head")
    times = [(token_text(count), i) for i, count in enumerate(run.tokens)]
    when = widgets.SelectionSlider(options=times, value=len(run) - 1, continuous_update=False, layout=wide)
    when.description, when.style.description_width = "Tokens seen", "initial"
    shown = widgets.HTML(layout=wide)
    model = lru_cache(maxsize=8)(run.model)

    def update(_change: dict | None = None) -> None:
        seen = token_text(run.tokens[when.value])
        shown.value = report(model(when.value), tokens, words.value, which.value, seen)

    for control in (words, which, when):
        control.observe(update, names="value")
    update()
    return widgets.VBox([words, which, when, shown])


def report(model: Transformer, tokens: Tokens, text: str, head: tuple[int, int], when: str) -> str:
    """HTML with the loss of every token of ``text`` and the attention pattern of ``head``."""
    limit = min(model.cfg.n_ctx, LONGEST)
    ids = [tokens.bos, *tokens.encode(text)] if text else []
    if len(ids) < 2:
        return "<p>Type a text above, then leave the field.</p>"
    note = f"<p>Only the first {limit} of {len(ids)} tokens are read.</p>" if len(ids) > limit else ""
    ids = ids[:limit]
    labels = tokens.labels(ids)
    with torch.no_grad():
        seen = model.forward_with_cache(torch.tensor([ids]))
    log_probs = seen.logits[0, :-1].float().log_softmax(-1)
    losses = -log_probs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()
    layer, index = head
    fig = attention_pattern(
        seen.patterns[layer][0, index], labels, f"L{layer}H{index} after {when} training tokens"
    )
    return (
        f"{note}<p>Loss after {when} training tokens: {losses.mean():.2f} nats per token.</p>"
        f"{_spans(labels[1:], losses)}{picture(png(fig, 110), fig.alt, 96 * fig.get_figwidth())}"
    )


def _spans(labels: list[str], losses: Float[np.ndarray, "pos"]) -> str:
    """The text on a coloured background, the loss of a token in its tooltip."""
    norm, shades = token_scale(losses)
    parts = []
    for label, loss in zip(labels, losses, strict=True):
        back = shades(norm(loss))
        style = f"background:{to_hex(back)};color:{ink_on(back)};padding:1px 0"
        parts.append(f'<span title="{loss:.2f} nats" style="{style}">{html.escape(label)}</span>')
        parts += ["<br>"] if "↵" in label else []
    return f'<p style="font-family:monospace;line-height:1.6;white-space:pre-wrap">{"".join(parts)}</p>'
