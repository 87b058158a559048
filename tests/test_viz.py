"""Views: self-contained HTML, escaped tokens, still twins; drawn in Chromium where one is installed."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ictl_utils import figures, viz
from ictl_utils.config import IctlError, ModelConfig
from ictl_utils.figures_style import png
from ictl_utils.model import Transformer

LABELS = ["<bos>", "·def", "</script>", "f", "(", "<b>x</b>", ")", "↵", "a&b", '"', "'", "\u2028"]


def causal(heads: int | None = None) -> np.ndarray:
    raw = np.tril(np.exp(2 * np.random.default_rng(1).gumbel(size=(heads or 1, len(LABELS), len(LABELS)))))
    raw /= raw.sum(-1, keepdims=True)
    return raw if heads else raw[0]


def views(mode: str) -> dict[str, viz.View]:
    losses = np.linspace(0.5, 6, len(LABELS))
    return {
        "heads": viz.attention_heads(
            causal(4), LABELS, [f"L1H{i}" for i in range(4)], "Heads of layer 1", mode=mode
        ),
        "pattern": viz.attention_pattern(causal(), LABELS, "L1H2", mode=mode),
        "tokens": viz.colored_tokens(LABELS, losses, mode=mode),
        "change": viz.token_loss_change(LABELS, losses, losses[::-1], mode=mode),
    }


def frames(n: int, offset: int = 0) -> list[bytes]:
    images = []
    for i in range(n):
        buffer = io.BytesIO()
        Image.new("RGB", (300, 120), (40 * i, 90, offset)).save(buffer, "PNG")
        images.append(buffer.getvalue())
    return images


# Without a browser -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", viz.MODES)
def test_views_are_closed_escaped_and_described(mode: str) -> None:
    for name, view in views(mode).items():
        page = view._repr_html_()
        assert page.count("<div") == page.count("</div>"), name
        assert page.count("<figure") == page.count("</figure>") == 1, name
        assert page.count("</script>") == page.count("<script") - (mode == "inline"), name
        assert len(re.findall(r'<img src="data:image/png;base64,[^"]+" alt="[^"]{40,}"', page)) == 1, name
        assert "<b>x</b>" not in page, name
        assert repr(view) == view.alt and len(view.alt) > 40, name


def test_values_are_rounded_and_small() -> None:
    page = views("book")["heads"].html
    props = json.loads(re.search(r"AttentionHeads, (\{.*\})\);", page)[1])
    assert np.array(props["attention"]).shape == (4, len(LABELS), len(LABELS))
    assert np.allclose(props["attention"], causal(4), atol=6e-4)
    assert props["tokens"] == LABELS
    assert max(map(len, re.findall(r"0\.\d+", json.dumps(props["attention"])))) <= 5


def test_default_mode_follows_the_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ICTL_BOOK", raising=False)
    assert len(viz.attention_pattern(causal(), LABELS).html) > 1_000_000
    monkeypatch.setenv("ICTL_BOOK", "1")
    assert len(viz.attention_pattern(causal(), LABELS).html) < 120_000


def test_only_the_cdn_mode_names_another_host() -> None:
    for mode in ("book", "inline"):
        for view in views(mode).values():
            assert "unpkg" not in view.html
            assert "sourceMappingURL=" not in view.html
    assert "https://unpkg.com/circuitsvis@" in views("cdn")["heads"].html


def test_ids_are_unique_even_for_the_same_content() -> None:
    pages = [viz.attention_pattern(causal(), LABELS, mode="book").html for _ in range(3)]
    assert len({re.search(r'<div id="(ictl-[\w-]+)"', page)[1] for page in pages}) == 3


def test_slider_of_forty_figures_is_small() -> None:
    drawn = [png(figures.attention_pattern(np.roll(causal(), i, 0), LABELS, f"snapshot {i}")) for i in range(4)]
    pictures = drawn * 10
    page = viz.slider(pictures, [f"{i}M tokens" for i in range(40)], "L1H2 over training").html
    assert len(page) < 1_500_000
    assert page.count("<img") == 40
    assert len(re.findall(r"<img[^>]* hidden>", page)) == 39
    assert len(set(re.findall(r'alt="([^"]+)"', page))) == 40


def test_slider_keeps_the_budget_with_pictures_that_do_not_compress() -> None:
    noise = 4 * np.random.default_rng(0).integers(0, 64, (400, 600), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    page = viz.slider([buffer.getvalue()] * 8, list("abcdefgh"), "noise").html
    assert len(page) < 1_500_000
    image = re.search(r"base64,([^\"]+)", page)[1]
    assert Image.open(io.BytesIO(base64.b64decode(image))).width >= 100


def test_slider_escapes() -> None:
    page = viz.slider(frames(2), ["</script><b>", "a & b"], '<i>"title"</i>').html
    assert "<b>" not in page and "<i>" not in page
    assert page.count("</script>") == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: viz.attention_heads(causal(), LABELS), "expected 3 axes"),
        (lambda: viz.attention_heads(causal(2), LABELS[:3]), "3 labels were given"),
        (lambda: viz.attention_heads(causal(2), LABELS, ["L0H0"]), "1 entries for 2 heads"),
        (lambda: viz.attention_pattern(causal(), LABELS, mode="magic"), "mode='magic'"),
        (lambda: viz.colored_tokens(LABELS, [1.0]), "1 entries but there are 12 labels"),
        (lambda: viz.token_loss_change(LABELS, np.ones(12), np.ones(11)), "after has 11 entries"),
        (lambda: viz.colored_tokens(["a"], [float("nan")]), "NaN"),
        (lambda: viz.slider([], [], "x"), "frames is empty"),
        (lambda: viz.slider(frames(2), ["a"], "x"), "2 frames but 1 labels"),
        (lambda: viz.slider([b"no picture"], ["a"], "x"), "is no picture"),
        (lambda: viz.slider([7], ["a"], "x"), "type int is no picture"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message: str) -> None:
    with pytest.raises(IctlError, match=message):
        call()


# The lab ---------------------------------------------------------------------------------------------------


class Letters:
    """Stands in for ``tokens.Tokens``: a letter an id."""

    bos = 0

    def encode(self, text: str) -> list[int]:
        return [1 + ord(c) % 60 for c in text]

    def labels(self, ids: list[int]) -> list[str]:
        return ["<bos>" if i == 0 else chr(60 + i) for i in ids]


def small_run(layers: int = 2) -> SimpleNamespace:
    cfg = ModelConfig(n_layers=layers, d_model=16, n_heads=2, n_ctx=24, d_vocab=64)
    model = Transformer(cfg).eval().requires_grad_(False)

    class Small(SimpleNamespace):
        def __len__(self) -> int:
            return 3

    return Small(
        label=cfg.label, model_cfg=cfg, tokens=np.array([0, 500_000, 2_000_000]), model=lambda i: model
    )


def test_lab_outside_a_front_end_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICTL_BOOK", "1")
    note = viz.lab(small_run(), Letters())
    assert isinstance(note, viz.View)
    assert "JupyterLab" in note.html and "widget" not in note.html


def test_lab_follows_its_controls() -> None:
    box = viz.lab(small_run(), Letters(), text="abc < abc", live=True)
    words, which, when, shown = box.children
    assert "L1H1 after 2M training tokens" in shown.value
    which.value = (0, 1)
    assert "L0H1 after 2M training tokens" in shown.value
    when.value = 1
    assert "L0H1 after 500k training tokens" in shown.value
    before, words.value = shown.value, "x" * 100
    assert "Only the first 24 of 101 tokens are read" in shown.value and shown.value != before
    words.value = ""
    assert "Type a text" in shown.value


def test_lab_losses_are_those_of_the_model() -> None:
    run, ids = small_run(), [0, *Letters().encode("hello")]
    logits = run.model(0)(torch.tensor([ids]))
    want = torch.nn.functional.cross_entropy(logits[0, :-1], torch.tensor(ids[1:])).item()
    shown = viz.lab(run, Letters(), text="hello", live=True).children[3].value
    assert f"{want:.2f} nats per token" in shown


def test_lab_refuses_what_is_not_there() -> None:
    with pytest.raises(IctlError, match="no heads"):
        viz.lab(small_run(0), Letters())
    with pytest.raises(IctlError, match=r"head=\(5, 0\)"):
        viz.lab(small_run(), Letters(), head=(5, 0))


# In a browser ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(chromium):
    return chromium


def bundle() -> str:
    import circuitsvis

    return (Path(circuitsvis.__file__).parent / "dist" / "cdn" / "iife.js").read_text(encoding="utf-8")


def open_page(browser, tmp_path: Path, body: str, head: str = "", script: bool = True, width: int = 800):
    """A page from a file, with every request to another host refused and every error recorded."""
    file = tmp_path / "page.html"
    file.write_text(f'<!doctype html><meta charset="utf-8">{head}<body>{body}', encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 900}, java_script_enabled=script)
    page = context.new_page()
    page.trouble, page.outside = [], []
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.on("console", lambda said: page.trouble.append(said.text) if said.type == "error" else None)
    page.route(re.compile(r"^https?:"), lambda route: (page.outside.append(route.request.url), route.abort()))
    page.goto(file.as_uri())
    return page


FILLED = """() => [...document.querySelectorAll('.ictl-live canvas')].map(c => {
  const copy = document.createElement('canvas'); copy.width = c.width; copy.height = c.height;
  const pen = copy.getContext('2d'); pen.drawImage(c, 0, 0);
  return new Set(new Uint32Array(pen.getImageData(0, 0, c.width, c.height).data.buffer)).size; })"""


@pytest.mark.parametrize("mode", ["book", "inline"])
def test_every_view_is_drawn(browser, tmp_path: Path, mode: str) -> None:
    (tmp_path / "iife.js").write_text(bundle(), encoding="utf-8")
    head = '<script defer src="iife.js"></script>' if mode == "book" else ""
    page = open_page(browser, tmp_path, "".join(view.html for view in views(mode).values()), head)
    page.wait_for_function("document.querySelectorAll('.ictl-drawn').length === 4", timeout=30_000)
    page.wait_for_timeout(1500)
    colours = page.evaluate(FILLED)
    assert len(colours) == 6 and min(colours) > 3
    assert page.locator(".ictl-static:visible").count() == 0
    text = page.locator(".colored-tokens").nth(0).inner_text().replace("\u2060", "")
    assert text.split()[:2] == ["<bos>·def</script>f(<b>x</b>)↵", "a&b\"'"]
    page.hover(".colored-tokens span span >> nth=0")
    tip = page.locator(".colored-tokens").nth(0).inner_text().replace("\u2060", "")
    assert tip.startswith("<bos>\n<bos>\n0.5"), "the pointer shows the token and its value"
    assert page.trouble == [] and page.outside == []
    page.emulate_media(media="print")
    assert page.locator(".ictl-static:visible").count() == 4


def test_cdn_view_asks_the_cdn_and_keeps_its_picture_without_it(browser, tmp_path: Path) -> None:
    page = open_page(browser, tmp_path, viz.attention_pattern(causal(), LABELS, mode="cdn").html)
    page.wait_for_timeout(500)
    assert [url.split("@")[0] for url in page.outside] == ["https://unpkg.com/circuitsvis"]
    assert page.locator(".ictl-static img").is_visible()


def test_views_show_their_picture_without_javascript(browser, tmp_path: Path) -> None:
    page = open_page(browser, tmp_path, "".join(view.html for view in views("book").values()), script=False)
    assert page.locator(".ictl-static img:visible").count() == 4
    assert page.locator(".ictl-live-only:visible").count() == 0


def test_nothing_is_wider_than_a_phone(browser, tmp_path: Path) -> None:
    (tmp_path / "iife.js").write_text(bundle(), encoding="utf-8")
    fig = figures.knockout([{"name": "intact", "icl": -0.7, "icl_se": 0.03, "loss": 2.7}])
    body = "".join(view.html for view in [*views("book").values(), figures.show(fig, "Caption")])
    page = open_page(browser, tmp_path, body, '<script defer src="iife.js"></script>', width=360)
    page.wait_for_function("document.querySelectorAll('.ictl-drawn').length === 4", timeout=30_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def shown(page, slider: int) -> str:
    images = page.locator(".ictl-slider").nth(slider).locator("img:visible")
    assert images.count() == 1
    return images.first.get_attribute("alt")


def test_sliders_change_their_own_picture(browser, tmp_path: Path) -> None:
    names = ["0", "1M", "2M", "</script>"]
    body = viz.slider(frames(4), names, "First").html + viz.slider(frames(4, 200), names, "Second").html
    page = open_page(browser, tmp_path, body)
    assert (shown(page, 0), shown(page, 1)) == ("First, </script>.", "Second, </script>.")
    page.locator("input").nth(0).fill("1")
    assert (shown(page, 0), shown(page, 1)) == ("First, 1M.", "Second, </script>.")
    page.locator("input").nth(1).focus()
    page.keyboard.press("ArrowLeft")
    assert (shown(page, 0), shown(page, 1)) == ("First, 1M.", "Second, 2M.")
    assert page.locator("output").nth(1).inner_text() == "2M"
    assert page.locator("input").nth(1).get_attribute("aria-valuetext") == "2M"
    box = page.locator("input").nth(1).bounding_box()
    page.mouse.click(box["x"] + 4, box["y"] + box["height"] / 2)
    assert shown(page, 1) == "Second, 0."
    assert page.trouble == [] and page.outside == []


def test_slider_shows_its_last_picture_without_javascript(browser, tmp_path: Path) -> None:
    page = open_page(browser, tmp_path, viz.slider(frames(3), ["a", "b", "c"], "Still").html, script=False)
    assert shown(page, 0) == "Still, c."
    assert page.locator("input:visible").count() == 0
