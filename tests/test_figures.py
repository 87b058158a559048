"""Figures: axes with units, alt text, bad input. The histories are made up, no model is trained."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ictl_utils import figures
from ictl_utils.config import IctlError
from ictl_utils.measure import History
from ictl_utils.metrics import loss_derivative


def made_up(
    label: str = "2L",
    layers: int = 2,
    onset: float | None = 2.5e6,
    seed: int = 0,
    heads: int = 4,
    end: float = 6e6,
) -> History:
    """A history with the fields of ``measure.History``: a phase change at ``onset`` tokens, or none."""
    rng = np.random.default_rng(seed)
    tokens = np.unique(
        np.concatenate([[0], np.geomspace(2e4, end, 14), np.linspace(0, end, 40)[1:]]).astype(int)
    )
    rise = 0.0 * tokens if onset is None else 1 / (1 + np.exp((onset - tokens) / (end / 30)))
    shape = (len(tokens), layers, heads)
    pm = np.clip(rng.normal(0.01, 0.01, shape), 0, 1)
    pm[:, -1, 2] += 0.58 * rise
    pm[:, -1, 0] += 0.35 * rise
    positions = np.arange(1, 129)
    loss = 2.9 + 4 * np.exp(-tokens / 4e5) - 0.35 * rise
    by_position = loss[:, None] + 1.5 / np.sqrt(positions) - 0.12 * rise[:, None] * np.log(positions)
    copying = rng.normal(0, 0.15, shape)
    copying[:, -1, 2] += 0.7 * rise
    return History(
        label=label,
        run_id="x",
        tokens=tokens,
        loss=loss + rng.normal(0, 0.02, len(tokens)),
        icl=-0.38 * (1 - np.exp(-tokens / (end / 5))) - 0.4 * rise + rng.normal(0, 0.02, len(tokens)),
        icl_se=np.full(len(tokens), 0.03),
        loss_by_position=by_position + rng.normal(0, 0.05, by_position.shape),
        prefix_matching=pm,
        prefix_random=0.9 * pm,
        previous_token=rng.uniform(0, 0.4, shape),
        copying=copying,
        token_losses=rng.normal(3, 1, (len(tokens), 200)),
    )


def three_models() -> dict[str, list[History]]:
    return {
        "1L": [made_up("1L", 1, None, s) for s in range(3)],
        "1L smeared keys": [made_up("1L smeared keys", 1, 6e5, s, end=1.5e6) for s in range(3)],
        "2L": [made_up("2L", 2, 2.4e6 + 4e5 * s, s) for s in range(3)],
    }


TABLE = [
    {"name": "intact", "icl": -0.70, "icl_se": 0.03, "loss": 2.67},
    {"name": "without induction heads L1H2, L1H3", "icl": -0.09, "icl_se": 0.02, "loss": 3.28},
    {"name": "without L1H0, L1H1 (as many others)", "icl": -0.69, "icl_se": 0.03, "loss": 3.09},
]
LABELS = ["<bos>", "def", "·self", "(", "$x$", ")", "↵", "····", "</script>", "é", "漢", "\x00"]


def causal(n: int = len(LABELS), heads: int | None = None) -> np.ndarray:
    raw = np.random.default_rng(1).gumbel(size=(heads or 1, n, n)) * 2
    shares = np.tril(np.exp(raw))
    shares /= shares.sum(-1, keepdims=True)
    return shares if heads else shares[0]


def paths(models: dict) -> dict[str, np.ndarray]:
    rise = {label: np.linspace(0, 1, len(group[0].tokens)) for label, group in models.items()}
    return {label: np.stack([40 * r, 10 * np.maximum(0, r - 0.4)], 1) for label, r in rise.items()}


def gallery() -> dict[str, Figure]:
    models, run = three_models(), made_up()
    return {
        "training_curves": figures.training_curves(models),
        "icl_scores": figures.icl_scores(models),
        "loss_curves": figures.loss_curves(models),
        "heads_over_training": figures.heads_over_training(run),
        "heads_copying": figures.heads_over_training(run, "copying"),
        "loss_by_position": figures.loss_by_position(run),
        "loss_map": figures.loss_map(run),
        "loss_derivative_map": figures.loss_derivative_map(run, *loss_derivative(run.loss_by_position)),
        "pca_paths": figures.pca_paths(
            paths(models), {k: figures.window_snapshots(g[0]) for k, g in models.items()}, (0.71, 0.12)
        ),
        "head_scores": figures.head_scores(run),
        "knockout": figures.knockout(TABLE),
        "attention_pattern": figures.attention_pattern(causal(), LABELS, "L1H2 after 6M training tokens"),
        "attention_heads": figures.attention_heads(causal(heads=5), LABELS),
        "token_losses": figures.token_losses(LABELS * 12, np.abs(np.random.default_rng(0).normal(2, 2, 144))),
        "token_change": figures.token_losses(LABELS, np.linspace(-3, 2, 12), unit="change of loss (nats)"),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    return gallery()


def words(fig: Figure) -> list[str]:
    """Labels of all visible axes of a figure, colour bars and shared labels included."""
    axes = [ax for ax in fig.axes if ax.axison]
    shared = [fig.get_supxlabel(), fig.get_supylabel()]
    return [*(ax.get_xlabel() for ax in axes), *(ax.get_ylabel() for ax in axes), *shared]


UNITS = re.compile(r"nats|share|tokens|position|token \(|−1 to 1")


def test_every_figure_has_title_alt_text_and_axes_with_units(drawn: dict[str, Figure]) -> None:
    for name, fig in drawn.items():
        assert fig.get_suptitle(), name
        assert len(fig.alt) > 40, name
        named = [word for word in words(fig) if word]
        assert named, name
        assert all(UNITS.search(word) for word in named), (name, named)


def test_nothing_is_cut_off_or_overlaps_the_legend(drawn: dict[str, Figure]) -> None:
    for name, fig in drawn.items():
        image = np.asarray(Image.open(io.BytesIO(figures.png(fig, dpi=60))).convert("L"))
        edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert edge.min() > 250, f"{name}: something touches the edge of the picture"


def test_alt_text_tells_what_was_computed(drawn: dict[str, Figure]) -> None:
    assert re.search(r"best at the end is L1H2 with 0\.\d\d", drawn["heads_over_training"].alt)
    assert "intact: ICL score -0.70 ± 0.03 nats" in drawn["knockout"].alt
    assert re.search(r"phase change from \d\.\d+M to \d\.\d+M tokens", drawn["heads_over_training"].alt)


def test_a_phase_change_is_shaded_only_where_a_head_formed() -> None:
    flat, formed = made_up("1L", 1, None), made_up()
    assert figures.window_snapshots(flat) is None
    assert "phase change" not in figures.icl_scores({"1L": [flat]}).alt
    first, last = figures.window_snapshots(formed)
    assert formed.tokens[first] <= 2.5e6 <= formed.tokens[last]
    patches = {
        label: len(figures.icl_scores({label: [h]}).axes[0].patches)
        for label, h in (("1L", flat), ("2L", formed))
    }
    assert patches == {"1L": 0, "2L": 1}


def test_same_label_same_colour_everywhere(drawn: dict[str, Figure]) -> None:
    for name in ("training_curves", "icl_scores", "loss_curves"):
        handles = {h.get_label().split(" (")[0]: h for h in drawn[name].legends[0].legend_handles}
        for label in ("1L", "1L smeared keys", "2L"):
            assert handles[label].get_color() == figures.colour(label)
    labels = [
        "0L",
        "1L",
        "2L",
        "3L",
        "4L",
        "5L",
        "6L",
        "1L smeared keys",
        "2L smeared keys",
        "2L MLP",
        "other",
    ]
    assert len({figures.colour(label) for label in labels[:-1]}) == len(labels) - 1


def test_the_median_of_the_seeds_is_the_bold_line() -> None:
    group = [made_up(seed=s) for s in range(3)]
    ax = figures.icl_scores({"2L": group}).axes[0]
    bold = max(ax.lines, key=lambda drawn_line: drawn_line.get_linewidth())
    assert np.allclose(bold.get_ydata(), np.median([h.icl for h in group], axis=0))
    assert len(ax.lines) == 4


def test_show_escapes_and_describes() -> None:
    fig = figures.knockout([{**TABLE[0], "name": '</script><b>"x"'}, *TABLE[1:]])
    page = figures.show(fig, "a < b & </figure>")._repr_html_()
    assert "&lt;/script&gt;&lt;b&gt;&quot;x&quot;" in page
    assert "a &lt; b &amp; &lt;/figure&gt;" in page
    assert page.count("<img") == 1 and 'alt="Bars of ICL score' in page
    assert fig._repr_html_().startswith("<style>")
    assert repr(figures.show(fig)) == fig.alt


def test_a_dark_notebook_style_does_not_reach_the_figures() -> None:
    import matplotlib.style

    with matplotlib.style.context("dark_background"):
        fig = figures.icl_scores(three_models())
    assert fig.get_facecolor() == (1, 1, 1, 1)
    assert fig.axes[0].get_facecolor() == (1, 1, 1, 1)


def test_the_same_figure_gives_the_same_bytes() -> None:
    assert figures.png(figures.knockout(TABLE)) == figures.png(figures.knockout(TABLE))


def empty() -> History:
    return replace(made_up(), tokens=np.array([]))


def headless() -> History:
    return replace(made_up(), prefix_matching=np.zeros((53, 0, 4)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figures.training_curves({}), "histories is empty"),
        (lambda: figures.training_curves({"2L": []}), r"histories\['2L'\] is empty"),
        (lambda: figures.loss_curves({"2L": [empty()]}), "no snapshot"),
        (lambda: figures.heads_over_training(empty()), "no snapshot"),
        (lambda: figures.heads_over_training(made_up(), "luck"), "score='luck'"),
        (
            lambda: figures.heads_over_training(headless()),
            "none 0",
        ),
        (lambda: figures.head_scores(made_up(), 999), "snapshot=999"),
        (lambda: figures.loss_by_position(made_up(), []), "at least one"),
        (lambda: figures.loss_by_position(made_up(), [1000]), "at least one"),
        (
            lambda: figures.loss_derivative_map(made_up(), np.arange(1, 5), np.zeros((2, 4))),
            r"shape \(2, 4\)",
        ),
        (lambda: figures.pca_paths({}), "paths is empty"),
        (lambda: figures.pca_paths({"2L": np.zeros((4, 3))}), r"expected \(snapshots, 2\)"),
        (lambda: figures.knockout([]), "table is empty"),
        (lambda: figures.knockout([{"name": "intact", "icl": 0.1}]), "lacks icl_se, loss"),
        (lambda: figures.attention_pattern(np.eye(3), ["a", "b"]), "2 labels were given"),
        (lambda: figures.attention_pattern(np.full((2, 2), np.nan), ["a", "b"]), "NaN"),
        (lambda: figures.attention_heads(np.eye(2)[None], ["a", "b"], ["x", "y"]), "2 entries for 1 heads"),
        (lambda: figures.token_losses(["a"], [1.0, 2.0]), "2 entries but there are 1 labels"),
        (lambda: figures.token_losses([], []), "nothing to show"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message: str) -> None:
    with pytest.raises(IctlError, match=message):
        call()
