"""Training throughput beside other implementations, as ratios from one run. `make bench` (about a minute).

The same model (layers, width, heads, context, vocabulary), windows, dtype, AdamW and clipping in every
implementation, from the same weights; rounds go A-B-C-D, A-B-C-D in one process on one thread. The round
before the first is not timed: there the losses are compared, and the run stops where the first one differs.
Biases, which our model does not have, are kept at 0 in the peers.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ictl_utils import train as training
from ictl_utils.config import Device, IctlError, ModelConfig, TrainConfig, choose_device, preset, require
from ictl_utils.model import Transformer
from ictl_utils.processes import one_thread
from ictl_utils.tokens import Tokens, batches

OURS = "ictl_utils"
SHORTFORMER = "ictl_utils, shortformer"
GOALS = (1.3, 0.60)  # times the fastest peer; share of the GEMM rate
NOTES = {
    OURS: "the loop of `ictl train` without snapshots; learned positions, because every peer has them",
    SHORTFORMER: "the same with the positions the book trains with, which no peer has: no ratio",
    "TransformerLens": "boot_native and its own training loop; materialises patterns and calls hooks by design; "
                       "separate q, k, v; not fused AdamW with beta2 fixed at 0.999; computes one position more",
    "plain loop": "nanoGPT's way: fused c_attn, scaled_dot_product_attention, logits whole, fused AdamW",
    "HF Trainer": "GPT-2 blocks without their MLP; its own Trainer with callbacks, accelerate and DataLoader; "
                  "LayerNorm gains without weight decay",
    "HF Trainer, no DataLoader": "the same, batches made beforehand",
}  # fmt: skip
Windows = Int[Tensor, "step batch n_ctx_plus_1"]


@dataclass(frozen=True)
class Setting:
    """What is compared: one architecture, one optimiser, one device."""

    model: ModelConfig
    train: TrainConfig
    device: Device
    rounds: int = 5
    steps: int = 20  # timed steps of every implementation in every round

    def __post_init__(self) -> None:
        for name in ("rounds", "steps"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1.")

    @property
    def autocast(self):
        """The context in which products run in the device's dtype."""
        half = self.device.dtype != "float32"
        return torch.autocast(self.device.name, getattr(torch, self.device.dtype)) if half else nullcontext()

    def tokens(self) -> Tokens:
        """Random ids with the frequencies of text (Zipf): speed does not depend on which."""
        share = 1.0 / np.arange(1, self.model.d_vocab + 1)
        ids = np.random.default_rng(0).choice(self.model.d_vocab, 1_000_000, p=share / share.sum()).astype(np.uint16)
        return Tokens("zipf", self.model.d_vocab, ids, ids[:0], None, "", 0, 0)

    def laps(self) -> Iterator[Windows]:
        """Windows of each lap: one step to warm up, the timed ones, and one whose start stops the clock."""
        stream = batches(self.tokens().train, self.train.batch, self.model.n_ctx, self.train.data_seed)
        while True:
            yield torch.from_numpy(np.stack(list(islice(stream, self.steps + 2))))


@dataclass
class Lap:
    """The clock of one lap, called whenever a forward pass begins, and the loss of every step."""

    setting: Setting
    ticks: list[float] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    def tick(self, *_: object) -> None:
        """A step begins; on a GPU the two that count wait for the work before them."""
        if self.setting.device.name == "cuda" and len(self.ticks) in (1, self.setting.steps + 1):
            torch.cuda.synchronize()
        self.ticks.append(time.perf_counter())

    @property
    def rate(self) -> float:
        """Tokens a second over the timed steps: forward, backward, update and fetching the next batch."""
        size = self.setting.train.batch * self.setting.model.n_ctx
        return self.setting.steps * size / (self.ticks[self.setting.steps + 1] - self.ticks[1])


Contestant = Callable[[Windows, Lap], None]


# ---- ours -------------------------------------------------------------------------------------------


class Ours(training._Trainer):
    """The very loop of :func:`ictl_utils.train.train`; only the disk is left out."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(Path(os.devnull), setting.model, setting.train, setting.tokens(), setting.device)

    def __call__(self, windows: Windows, lap: Lap) -> None:
        """Take as many steps as there are windows; the loop draws the same ones itself."""
        self.lap, self.steps = lap, self.step + len(windows)
        self.run(progress=False)

    def _take_step(self, batch: Tensor) -> Tensor:
        self.lap.tick()
        self.lap.losses.append(super()._take_step(batch))
        return self.lap.losses[-1]

    def _keep(self) -> None:
        """No snapshots: the peers keep none either."""


# ---- peers ------------------------------------------------------------------------------------------


def matrices(setting: Setting) -> dict[str, Tensor]:
    """Our initial weights as others keep them: q, k, v, o and qkv of shape [layer, in, out]."""
    w = {name: p.detach() for name, p in Transformer(setting.model, setting.train.init_seed).named_parameters()}
    q, k, v = (w[name].transpose(1, 2).flatten(2) for name in ("W_Q", "W_K", "W_V"))
    return w | {"q": q, "k": k, "v": v, "qkv": torch.cat([q, k, v], dim=2), "o": w["W_O"].flatten(1, 2)}


def fill(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy ``weights`` in, ``{}`` standing for the layer; what our model has not (biases) is kept at 0."""
    named = {name.replace("._original_component", ""): p for name, p in model.named_parameters()}
    model.requires_grad_(False)
    for name, value in weights.items():
        layers = enumerate(value) if "{}" in name else [(0, value)]
        for layer, part in layers:
            p = named[name.format(layer)]
            p[: len(part)].copy_(part)  # TransformerLens has one position more
            p.requires_grad_(True)


@contextmanager
def watched(model: nn.Module, lap: Lap, loss_of: Callable[[object], Tensor]):
    """Tick ``lap`` at every forward pass of ``model`` and keep its losses, whoever runs the loop."""
    handles = [
        model.register_forward_pre_hook(lap.tick),
        model.register_forward_hook(lambda _m, _a, out: lap.losses.append(loss_of(out).detach())),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class InOrder(torch.utils.data.Dataset):
    """Single windows in the order given, whatever index a shuffling loader asks for."""

    def __init__(self, windows: Windows, item: Callable[[Tensor], dict[str, Tensor]]) -> None:
        self.rows, self.item = windows.flatten(0, 1), item
        self.left = iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, _: int) -> dict[str, Tensor]:
        return self.item(next(self.left))


class PlainBlock(nn.Module):
    """LayerNorm and causal attention with one matrix for q, k and v."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.n_heads = cfg.n_heads
        self.ln_1 = nn.LayerNorm(cfg.d_model, bias=False)
        self.c_attn = nn.Linear(cfg.d_model, 3 * cfg.d_model, bias=False)
        self.c_proj = nn.Linear(cfg.d_model, cfg.d_model, bias=False)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        split = self.c_attn(self.ln_1(x)).chunk(3, dim=2)
        q, k, v = (part.unflatten(2, (self.n_heads, -1)).transpose(1, 2) for part in split)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.c_proj(z.transpose(1, 2).flatten(2))


class PlainGPT(nn.Module):
    """A small GPT as most people write it, without MLPs."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(cfg.d_vocab, cfg.d_model), nn.Embedding(cfg.n_ctx, cfg.d_model)
        self.h = nn.ModuleList(PlainBlock(cfg) for _ in range(cfg.n_layers))
        self.ln_f = nn.LayerNorm(cfg.d_model, bias=False)
        self.lm_head = nn.Linear(cfg.d_model, cfg.d_vocab, bias=False)

    def forward(self, ids: Int[Tensor, "batch pos"], targets: Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        for block in self.h:
            x = block(x)
        return F.cross_entropy(self.lm_head(self.ln_f(x)).float().flatten(0, 1), targets.flatten())


def plain_loop(setting: Setting) -> Contestant:
    """The plain model with a loop of a dozen lines."""
    t, device, w = setting.train, setting.device.name, matrices(setting)
    model = PlainGPT(setting.model)
    fill(model, {
        "wte.weight": w["W_E"], "wpe.weight": w["W_pos"], "h.{}.ln_1.weight": w["ln1"],
        "h.{}.c_attn.weight": w["qkv"].mT, "h.{}.c_proj.weight": w["o"].mT, "ln_f.weight": w["ln_final"],
        "lm_head.weight": w["W_U"].T})  # fmt: skip
    model.to(device)
    opt = torch.optim.AdamW(model.parameters(), t.lr, training.BETAS, weight_decay=t.weight_decay, fused=True)
    scaler = torch.amp.GradScaler(device, enabled=setting.device.dtype == "float16")

    def go(windows: Windows, lap: Lap) -> None:
        with watched(model, lap, lambda loss: loss):
            for batch in windows:
                batch = batch.to(device)
                with setting.autocast:
                    loss = model(batch[:, :-1], batch[:, 1:])
                scaler.scale(loss).backward()
                scaler.unscale_(opt)
                torch.nn.utils.clip_grad_norm_(model.parameters(), t.clip)
                scaler.step(opt)
                scaler.update()
                opt.zero_grad(set_to_none=True)

    return go


def transformer_lens(setting: Setting) -> Contestant:
    """``TransformerBridge.boot_native`` under ``transformer_lens.tools.training.train``."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.tools import training as theirs

    m, t, w = setting.model, setting.train, matrices(setting)
    model = TransformerBridge.boot_native(TransformerBridgeConfig(
        n_layers=m.n_layers, d_model=m.d_model, n_heads=m.n_heads, d_head=m.d_head, n_ctx=m.n_ctx + 1,
        d_vocab=m.d_vocab, attn_only=True, normalization_type="LN", positional_embedding_type="standard",
        device=setting.device.name))  # fmt: skip
    fill(model, {
        "tok_embed.weight": w["W_E"], "pos.weight": w["W_pos"], "layers.{}.ln1.weight": w["ln1"],
        "ln_out.weight": w["ln_final"], "head.weight": w["W_U"].T,
        **{f"layers.{{}}.attn.{x}.weight": w[x].mT for x in "qkvo"}})  # fmt: skip
    config = theirs.TrainConfig(num_epochs=1, batch_size=t.batch, lr=t.lr, weight_decay=t.weight_decay,
                                optimizer_name="AdamW", max_grad_norm=t.clip, device=setting.device.name,
                                print_every=None)  # fmt: skip

    def go(windows: Windows, lap: Lap) -> None:
        with watched(model, lap, lambda loss: loss), setting.autocast:
            theirs.train(model, config, InOrder(windows, lambda row: {"tokens": row}))

    return go


def attention_only_gpt2(setting: Setting) -> nn.Module:
    """Hugging Face's GPT-2 with its own attention and loss; the blocks lose LayerNorm 2 and MLP."""
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.models.gpt2.modeling_gpt2 import GPT2Block

    class AttentionBlock(GPT2Block):
        def __init__(self, config: GPT2Config, layer: int) -> None:
            super().__init__(config, layer)
            del self.ln_2, self.mlp

        def forward(self, x, past=None, mask=None, encoder=None, **options):
            return x + self.attn(self.ln_1(x), past, mask, **options)[0]

    m, w = setting.model, matrices(setting)
    config = GPT2Config(
        n_layer=m.n_layers, n_embd=m.d_model, n_head=m.n_heads, n_positions=m.n_ctx, vocab_size=m.d_vocab,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, tie_word_embeddings=False, use_cache=False,
        bos_token_id=0, eos_token_id=0, loss_type="ForCausalLM")  # fmt: skip
    model = GPT2LMHeadModel(config)
    model.transformer.h = nn.ModuleList(AttentionBlock(config, i) for i in range(m.n_layers))
    fill(model, {
        "transformer.wte.weight": w["W_E"], "transformer.wpe.weight": w["W_pos"],
        "transformer.h.{}.ln_1.weight": w["ln1"], "transformer.h.{}.attn.c_attn.weight": w["qkv"],
        "transformer.h.{}.attn.c_proj.weight": w["o"], "transformer.ln_f.weight": w["ln_final"],
        "lm_head.weight": w["W_U"].T})  # fmt: skip
    return model


def hf_inputs(rows: Int[Tensor, "... n_ctx_plus_1"]) -> dict[str, Tensor]:
    """Windows as the model takes them; ``shift_labels`` spares it the position that predicts nothing."""
    labels = rows[..., 1:].contiguous()
    return {"input_ids": rows[..., :-1], "labels": labels, "shift_labels": labels}


def hf_arguments(setting: Setting) -> dict[str, object]:
    """Our optimiser in the words of ``TrainingArguments``; nothing logged, nothing saved."""
    t, device = setting.train, setting.device
    return {
        "per_device_train_batch_size": t.batch, "learning_rate": t.lr, "lr_scheduler_type": "constant",
        "adam_beta1": training.BETAS[0], "adam_beta2": training.BETAS[1], "weight_decay": t.weight_decay,
        "max_grad_norm": t.clip, "optim": "adamw_torch_fused", "use_cpu": device.name == "cpu",
        "bf16": device.dtype == "bfloat16", "fp16": device.dtype == "float16",
        "dataloader_pin_memory": device.name == "cuda", "remove_unused_columns": False,
        "save_strategy": "no", "logging_strategy": "no", "report_to": [], "disable_tqdm": True,
    }  # fmt: skip


def hf_trainer(setting: Setting, loader: bool = True) -> Contestant:
    """``transformers.Trainer``; without ``loader`` it gets a list of batches instead of its DataLoader."""
    from transformers import Trainer, TrainingArguments

    class NoLoader(Trainer):
        def get_train_dataloader(self) -> list[dict[str, Tensor]]:
            return [hf_inputs(batch) for batch in self.train_dataset.rows.split(self.args.train_batch_size)]

    model = attention_only_gpt2(setting)

    def go(windows: Windows, lap: Lap) -> None:
        with tempfile.TemporaryDirectory() as folder, watched(model, lap, lambda out: out.loss):
            arguments = TrainingArguments(folder, max_steps=len(windows), **hf_arguments(setting))
            kind = Trainer if loader else NoLoader
            kind(model, arguments, train_dataset=InOrder(windows, hf_inputs)).train()

    return go


CONTESTANTS: dict[str, Callable[[Setting], Contestant]] = {
    OURS: Ours,
    SHORTFORMER: lambda setting: Ours(replace(setting, model=replace(setting.model, positions="shortformer"))),
    "TransformerLens": transformer_lens,
    "plain loop": plain_loop,
    "HF Trainer": hf_trainer,
    "HF Trainer, no DataLoader": lambda setting: hf_trainer(setting, loader=False),
}


# ---- limits -----------------------------------------------------------------------------------------


def gemm_rate(device: Device, seconds: float = 0.2) -> float:
    """FLOP/s of the best of a few matrix products in the dtype of training: what could be reached here."""
    shapes = [(1024, 128, 1024), (1024, 1024, 1024)] + ([(8192, 8192, 8192)] if device.name == "cuda" else [])
    rates = []
    for m, k, n in shapes:
        a, b = (torch.randn(*shape, device=device.name).to(getattr(torch, device.dtype)) for shape in ((m, k), (k, n)))
        out = a @ b
        sync = torch.cuda.synchronize if device.name == "cuda" else lambda: None
        sync()
        began, calls = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < seconds:
            for _ in range(4):
                torch.mm(a, b, out=out)
            sync()
            calls += 4
        rates.append(2 * m * k * n * calls / spent)
    return max(rates)


def counted_flops(cfg: ModelConfig) -> float:
    """FLOPs a token as PyTorch counts them on the open path, less the half of attention causality spares."""
    model = Transformer(cfg)
    window = torch.zeros(1, cfg.n_ctx + 1, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        logits = model.forward_with_cache(window[:, :-1]).logits
        F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten()).backward()
    return counter.get_total_flops() / cfg.n_ctx - 3 * cfg.n_layers * 2 * cfg.n_ctx * cfg.d_model


# ---- the run ----------------------------------------------------------------------------------------


@dataclass
class Result:
    """Everything measured: by implementation, one number a round."""

    setting: Setting
    rates: dict[str, list[float]] = field(default_factory=dict)  # tokens a second
    losses: dict[str, list[float]] = field(default_factory=dict)  # nats, of the lap before the first
    gemm: list[float] = field(default_factory=list)  # FLOP/s
    skipped: dict[str, str] = field(default_factory=dict)

    def ratios(self, name: str) -> list[float]:
        """How many times faster ours is, round by round."""
        return [ours / other for ours, other in zip(self.rates[OURS], self.rates[name], strict=True)]

    def share(self, name: str) -> float:
        """Useful FLOP/s over the GEMM rate, medians of the same run."""
        useful = Transformer(self.setting.model).flops_per_token() * statistics.median(self.rates[name])
        return useful / statistics.median(self.gemm)

    def apart(self, name: str, step: int) -> float:
        """Distance of the loss at ``step`` from ours, in nats."""
        return abs(self.losses[name][step] - self.losses[OURS][step])


@contextmanager
def silence():
    """Swallow what the peers print: bars, warnings, logs."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def enter(setting: Setting) -> tuple[dict[str, Contestant], dict[str, str]]:
    """All implementations that can be imported, and why the others cannot."""
    there, skipped = {}, {}
    for name, build in CONTESTANTS.items():
        try:
            with silence(), torch.no_grad():
                there[name] = build(setting)
        except ImportError as error:
            skipped[name] = str(error).splitlines()[0]
    return there, skipped


def one_round(setting: Setting, there: dict[str, Contestant], windows: Windows) -> dict[str, Lap]:
    """Every implementation after the other on the same windows."""
    laps = {name: Lap(setting) for name in there}
    for name, go in there.items():
        with silence():
            go(windows, laps[name])
    return laps


def measure(setting: Setting, say: Callable[[str], None] = print) -> Result:
    """Run all rounds.

    Raises:
        IctlError: an implementation starts from another loss than ours, so that ratios would mean nothing.
    """
    with one_thread():
        there, skipped = enter(setting)
        result = Result(setting, {name: [] for name in there}, skipped=skipped)
        for i, windows in enumerate(islice(setting.laps(), setting.rounds + 1)):
            laps = one_round(setting, there, windows)
            if i == 0:
                result.losses = {name: [loss.item() for loss in lap.losses] for name, lap in laps.items()}
                check_start(result)
                continue
            for name, lap in laps.items():
                result.rates[name].append(lap.rate)
            result.gemm.append(gemm_rate(setting.device))
            say(f"round {i} of {setting.rounds}")
    return result


def check_start(result: Result) -> None:
    """Raise unless the first loss is everybody's; in half precision it is only nearly so."""
    allowed = 1e-4 if result.setting.device.dtype == "float32" else 2e-2
    for name in result.losses.keys() - {SHORTFORMER}:
        require(
            result.apart(name, 0) <= allowed,
            f"{name} starts from a loss of {result.losses[name][0]:.5f}, ours from {result.losses[OURS][0]:.5f}, more "
            f"than {allowed:g} apart: not the same model. Its installed version may have changed its defaults.",
        )


# ---- what is shown ----------------------------------------------------------------------------------


def spread(values: list[float], unit: float, digits: int) -> str:
    """``median (lowest - highest)``."""
    low, middle, high = (f / unit for f in (min(values), statistics.median(values), max(values)))
    return f"{middle:.{digits}f} ({low:.{digits}f} - {high:.{digits}f})"


def table(result: Result) -> Table:
    """One line an implementation."""
    shown = Table(box=SIMPLE, padding=(0, 1))
    shown.add_column("implementation", no_wrap=True)
    for title in ("1000 tokens/s", "ours / it", "of GEMM", "loss apart"):
        shown.add_column(title, justify="right", no_wrap=True)
    for name, rates in result.rates.items():
        peer = name not in (OURS, SHORTFORMER)
        shown.add_row(
            name, spread(rates, 1e3, 1), spread(result.ratios(name), 1, 2) if peer else "", f"{result.share(name):.0%}",
            f"{result.apart(name, 0):.0e}, {result.apart(name, -1):.0e}" if peer else "",
        )  # fmt: skip
    return shown


def report(result: Result, console: Console) -> None:
    """The setting, the table, what differs, the limits."""
    s = result.setting
    console.print(
        f"{s.model.n_layers} attention-only layers, width {s.model.d_model}, {s.model.n_heads} heads, context "
        f"{s.model.n_ctx}, vocabulary {s.model.d_vocab}, batch {s.train.batch}; {s.device.name} in {s.device.dtype}, "
        f"one thread; median (lowest - highest) of {s.rounds} rounds of {s.steps} steps. Loss apart: distance from "
        f"our loss in nats at step 1 and at step {len(result.losses[OURS])} from the same weights on the same windows."
    )
    console.print(table(result))
    for name in result.rates:
        console.print(f"{name}: {NOTES[name]}.", highlight=False)
    for name, reason in result.skipped.items():
        console.print(f"[bold]skipped {name}[/]: {reason}. `pip install -r requirements.lock` brings it.")
    report_limits(result, console)


def report_limits(result: Result, console: Console) -> None:
    """The GEMM rate, the FLOPs, and the goals beside what was reached."""
    flops, counted = Transformer(result.setting.model).flops_per_token(), counted_flops(result.setting.model)
    console.print(
        f"GEMM rate in this run: {spread(result.gemm, 1e9, 0)} GFLOP/s. Training FLOPs a token: {flops / 1e6:.3f} M by "
        f"formula, {counted / 1e6:.3f} M counted by PyTorch ({abs(counted / flops - 1):.1%} apart)."
    )
    peers = [name for name in result.rates if name not in (OURS, SHORTFORMER)]
    best = min(peers, key=lambda name: statistics.median(result.ratios(name)))
    console.print(
        f"Reached: {statistics.median(result.ratios(best)):.2f} times the fastest peer ({best}) and "
        f"{result.share(OURS):.0%} of the GEMM rate; the goals are {GOALS[0]} times and {GOALS[1]:.0%}."
    )


def as_json(result: Result) -> dict[str, object]:
    """All numbers, round by round, with what is needed to read them."""
    packages = [name for name in ("torch", "transformer-lens", "transformers") if find_spec(name.replace("-", "_"))]
    return {
        "model": asdict(result.setting.model), "train": asdict(result.setting.train),
        "device": asdict(result.setting.device), "steps": result.setting.steps,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "platform": platform.platform(), "gemm_flops_per_second": result.gemm,
        "flops_per_token": Transformer(result.setting.model).flops_per_token(),
        "flops_per_token_counted": counted_flops(result.setting.model),
        "tokens_per_second": result.rates, "losses_of_first_lap": result.losses, "skipped": result.skipped,
        "ratio_medians": {name: statistics.median(result.ratios(name)) for name in result.rates},
        "gemm_shares": {name: result.share(name) for name in result.rates},
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write the numbers where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each implementation in each round")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cpu: preset laptop; cuda: preset gpu")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    options = parser.parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=100)
    try:
        device = choose_device(options.device)
        model, train = preset("gpu" if device.name == "cuda" else "laptop", n_layers=options.layers,
                              positions="learned", corpus="zipf", warmup=0, schedule="constant")  # fmt: skip
        result = measure(Setting(model, train, device, options.rounds, options.steps), console.print)
    except IctlError as error:
        sys.exit(f"train_throughput: {error}")
    report(result, console)
    if options.json:
        options.json.write_text(json.dumps(as_json(result), indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
