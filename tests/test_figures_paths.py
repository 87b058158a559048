"""Figures of chapters 3 and 4: axes with units, alt text with the finding, bad input. No model is trained."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ictl_utils import figures, figures_bigrams, figures_diagrams, figures_paths
from ictl_utils.config import IctlError
from ictl_utils.measure import History

LABELS = ["<bos>", "def", "·self", "(", "$x$", "</b>", "↵···", "é"]
HEADS = ["L1H0", "L1H1", "L1H2", "L1H3"]
UNITS = ("nats", "share", "tokens", "number", "no unit", "−1 to 1", "layers", "part")


def history(end: float = 4.1) -> History:
    tokens = np.array([0, 1000, 100_000, 1_000_000, 10_000_000])
    none = np.zeros((5, 0, 4))
    loss = np.array([7.0, 6.9, 5.5, 4.3, end])
    return History("0L", "x", tokens, loss, loss, loss, loss[:, None], none, none, none, none, loss[:, None])


def shares() -> pd.DataFrame:
    return pd.DataFrame({"length": [9.0, 4.0, 2.0], "share": [0.7, 0.35, -0.05]}, index=["embedding", "L0H0", "L1H0"])


def reads() -> dict[str, pd.DataFrame]:
    cells = np.linspace(0, 1, 12).reshape(3, 4)
    return {name: pd.DataFrame(cells, index=["embedding", "L0H0", "positions"], columns=HEADS)
            for name in ("queries", "keys", "values")}  # fmt: skip


def paths(n: int = 30) -> pd.DataFrame:
    heads = np.array([0, 1, 1] + [2] * (n - 3))
    last = np.array([-1, 0, 1] + [1] * (n - 3))
    size = np.geomspace(1.3, 0.1, n)
    return pd.DataFrame({"heads": heads, "last": last, "size": size, "right": size - 0.2},
                        index=[f"path {i}" for i in range(n)])  # fmt: skip


def log_tables() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    text, model = (np.log(rng.dirichlet(np.full(60, 0.2), 40) + 1e-6) for _ in range(2))
    text[:, :20] = -np.inf
    return text, 0.5 * np.maximum(text, -14) + 0.5 * model


def depth_table() -> pd.DataFrame:
    return pd.DataFrame({"direct": [0.1, 1.6], "whole": [0.1, 0.4], "log-probability": [0.76, 0.57],
                         "lift": [0.05, -0.1]}, index=["0L", "1L"])  # fmt: skip


def gallery() -> dict[str, Figure]:
    text, model = log_tables()
    pattern = np.tril(np.ones((8, 8))) / np.arange(1, 9)[:, None]
    seeds = [history(4.1), history(4.2), history(4.3)]
    return {
        "architecture": figures_diagrams.architecture(2, 4),
        "architecture_deep": figures_diagrams.architecture(6, 8),
        "paths_through_head": figures_diagrams.paths_through_head(),
        "information_movement": figures_diagrams.information_movement(pattern, LABELS, "L0H3"),
        "stream_parts": figures_paths.stream_parts(shares(), "2L"),
        "read_map": figures_paths.read_map(reads(), "What is read", "share"),
        "overlap": figures_paths.read_map(reads(), "Overlap of subspaces of two layers", "share", 0.25),
        "spectra": figures_paths.spectra({"W_E": np.full(10, 0.1), "W_U": np.eye(10)[0]}, "Directions that are used"),
        "path_sizes": figures_paths.path_sizes(paths(), "2L"),
        "path_sizes_zero": figures_paths.path_sizes(paths()[:1], "0L"),
        "bigram_scatter": figures_bigrams.bigram_scatter({"0L": model, "1L": model - 1}, text, "Bigrams"),
        "loss_and_tables": figures_bigrams.loss_and_tables(seeds, [h.loss for h in seeds], {"bigrams": 4.0}),
        "direct_paths": figures_bigrams.direct_paths(depth_table()),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    return gallery()


def test_every_figure_has_title_alt_text_and_axes_with_units(drawn: dict[str, Figure]) -> None:
    for name, fig in drawn.items():
        assert fig.get_suptitle() and len(fig.alt) > 40, name
        named = [word for ax in fig.axes if ax.axison for word in (ax.get_xlabel(), ax.get_ylabel()) if word]
        assert all(any(unit in word for unit in UNITS) for word in named), (name, named)


def test_nothing_is_cut_off(drawn: dict[str, Figure]) -> None:
    for name, fig in drawn.items():
        image = np.asarray(Image.open(io.BytesIO(figures.png(fig, dpi=60))).convert("L"))
        edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert edge.min() > 250, f"{name}: something touches the edge of the picture"


def test_alt_text_tells_what_was_computed(drawn: dict[str, Figure]) -> None:
    assert "embedding 0.70, L0H0 0.35, L1H0 -0.05" in drawn["stream_parts"].alt
    assert "keys: most in L1H3 from positions, 1.00" in drawn["read_map"].alt
    assert "W_E needs 9 of 10" in drawn["spectra"].alt and "W_U needs 1 of 10" in drawn["spectra"].alt
    assert "25 of 30 paths" in drawn["path_sizes"].alt and "Largest: path 0 1.30" in drawn["path_sizes"].alt
    assert "from '<bos>' to 'def' (0.50)" in drawn["information_movement"].alt
    assert "ending at 4.10, 4.20, 4.30 nats" in drawn["loss_and_tables"].alt
    assert "1L: KL 1.60 nats by the direct path, 0.40 by the whole model" in drawn["direct_paths"].alt
    assert "correlation" in drawn["bigram_scatter"].alt and "1600 bigrams" in drawn["bigram_scatter"].alt


def test_the_median_of_the_seeds_is_the_bold_line(drawn: dict[str, Figure]) -> None:
    lines = drawn["loss_and_tables"].axes[0].lines
    bold = max(lines, key=lambda one: one.get_linewidth())
    assert bold.get_ydata()[-1] == pytest.approx(4.2) and len(lines) == 5  # three seeds, the median, one table


def test_a_head_of_a_layer_has_one_colour_in_bars_and_diagram(drawn: dict[str, Figure]) -> None:
    bars = drawn["path_sizes"].axes[0].patches
    stream = drawn["stream_parts"].axes[0].patches
    assert bars[1].get_facecolor() == stream[1].get_facecolor() and bars[2].get_facecolor() == stream[2].get_facecolor()


TEXT, MODEL = log_tables()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: figures_diagrams.architecture(0, 4), "0 layers"),
    (lambda: figures_diagrams.architecture(2, 9), "do not fit"),
    (lambda: figures_diagrams.information_movement(np.eye(3), ["a"], "L0H0"), "1 labels were given"),
    (lambda: figures_paths.stream_parts(shares().drop(columns="share"), "2L"), "lacks the column share"),
    (lambda: figures_paths.stream_parts(shares()[:0], "2L"), "no rows"),
    (lambda: figures_paths.read_map({}, "x", "share"), "panels is empty"),
    (lambda: figures_paths.read_map(reads() | {"keys": reads()["keys"][:1]}, "x", "share"), "different shapes"),
    (lambda: figures_paths.spectra({}, "x"), "shares is empty"),
    (lambda: figures_paths.path_sizes(paths().drop(columns="right"), "2L"), "lacks the column right"),
    (lambda: figures_bigrams.bigram_scatter({}, TEXT, "x"), "tables is empty"),
    (lambda: figures_bigrams.bigram_scatter({"0L": MODEL[:3]}, TEXT, "x"), "table of 0L has another shape"),
    (lambda: figures_bigrams.loss_and_tables([], [], {}), "histories is empty"),
    (lambda: figures_bigrams.loss_and_tables([history()], [np.zeros(2)], {}), "do not fit"),
    (lambda: figures_bigrams.loss_and_tables([replace(history(), tokens=np.array([]))], [[]], {}), "no snapshot"),
    (lambda: figures_bigrams.direct_paths(depth_table().drop(columns="lift")), "lacks the column lift"),
])  # fmt: skip
def test_bad_input_is_one_clear_sentence(call, message: str) -> None:
    with pytest.raises(IctlError, match=message):
        call()
