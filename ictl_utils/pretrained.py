"""Open pretrained language models, for the claims that small models do not decide: finding and loading them.

A model is a name on the Hugging Face hub (``pythia-70m`` is EleutherAI's) or a folder; a checkpoint is one of its
revisions (``step1000``), or a folder of that name inside the folder. Needs ``transformers``, which the extra
``tl`` brings.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError

from .config import IctlError, choose_device, digest, one_of, require

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAIN = "main"  # revision of the trained model
DTYPES = ("float32", "bfloat16", "float16")
PYTHIA_STEP = 2_097_152  # training tokens a step of every Pythia model
PYTHIA_END = 143_000 * PYTHIA_STEP  # and of its whole training
PYTHIA_TRAINING = (0, *(2**k for k in range(10)), *range(1000, 10_000, 1000), 10_000, 15_000,
                   *range(20_000, 143_000, 10_000), 143_000)  # fmt: skip
OWNERS = ("EleutherAI/", "openai-community/")  # left out of names
FILES = (".json", ".safetensors", ".bin", ".txt", ".model")  # of a checkpoint: configuration, weights, tokenizer


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """One checkpoint of a pretrained model, in evaluation mode on its device."""

    name: str
    revision: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    dtype: str

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def context(self) -> int:
        """Longest sequence, in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", 0) or 1 << 20)

    @property
    def tokens(self) -> float:
        """Training tokens seen; nan where the revision does not say."""
        return tokens_of(self.name, self.revision)

    @property
    def n_params(self) -> int:
        """Number of weights, embeddings included."""
        return sum(p.numel() for p in self.model.parameters())


def short_name(name: str) -> str:
    """What a model is called in tables: ``pythia-70m`` for EleutherAI/pythia-70m and for a folder of that name."""
    if Path(name).is_dir():
        return Path(name).resolve().name
    for owner in OWNERS:
        name = name.removeprefix(owner)
    return name.replace("/", "--")


def tokens_of(name: str, revision: str) -> float:
    """Training tokens of a checkpoint: known of Pythia models, nan of others."""
    if not short_name(name).startswith("pythia-"):
        return float("nan")
    if revision == MAIN:
        return float(PYTHIA_END)
    step = revision.removeprefix("step")
    require(step.isdigit(), f"revision={revision!r} is none of Pythia's; use main, or step0 to step143000.")
    return float(int(step) * PYTHIA_STEP)


# ---- loading ----------------------------------------------------------------------------------------


def load(name: str, revision: str = MAIN, device: str = "auto", dtype: str = "float32") -> LanguageModel:
    """Load a checkpoint.

    Args:
        name: ``pythia-70m``, ``gpt2-xl``, ``owner/name`` on the hub, or a folder.
        revision: branch on the hub, or folder inside the folder.
        device: auto, cpu or cuda.
        dtype: of the weights; losses and attention are summed in float32.

    Raises:
        IctlError: ``transformers`` is not installed, the checkpoint is neither here nor can be fetched, it does not
            fit into memory, or it has no token to begin a text with.
    """
    one_of("dtype", dtype, DTYPES)
    hub, place = _transformers(), choose_device(device).name
    path, where = source(name, revision)
    with _explained(name, revision), fits(name, dtype):
        config = hub.AutoConfig.from_pretrained(path, **where)
        _check_memory(hub, config, name, place, dtype)
        tokenizer = hub.AutoTokenizer.from_pretrained(path, **where)
        model = hub.AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), attn_implementation="eager", **where)  # other kinds give no patterns
        model = model.to(place).eval().requires_grad_(False)
    rows = model.get_input_embeddings().weight.shape[0]
    require(len(tokenizer) <= rows, f"the tokenizer of {name} has {len(tokenizer)} ids, its model only {rows}; "
                                    "they do not belong together.")  # fmt: skip
    first_id(tokenizer)
    return LanguageModel(short_name(name), revision, model, tokenizer, dtype)


def source(name: str, revision: str = MAIN) -> tuple[str, dict[str, str]]:
    """Path or hub name of a checkpoint, and the keywords that choose its revision there."""
    folder = Path(name)
    if folder.is_dir():
        inside = folder / revision
        require(inside.is_dir() or revision == MAIN, f"{folder} has no folder {revision!r} with that checkpoint.")
        return str(inside if inside.is_dir() else folder), {}
    require(not name.startswith((".", "/", "~")), f"{name} is no folder; expected a folder with config.json, "
                                                  "or a name on the Hugging Face hub such as pythia-70m.")  # fmt: skip
    return ("EleutherAI/" + name if name.startswith("pythia-") else name), {"revision": revision}


def place_key(name: str) -> str:
    """What tells a folder from others of its name, a hash of its path; empty for a name on the hub."""
    return digest(str(Path(name).resolve()))[:8] if Path(name).is_dir() else ""


def fingerprint(name: str, revision: str = MAIN) -> str:
    """Changes when the files of a checkpoint in a folder do: hash of names, sizes and times; empty on the hub."""
    path, on_hub = source(name, revision)
    if on_hub:
        return ""
    files = sorted(file for file in Path(path).iterdir() if file.suffix in FILES)
    return digest([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files])


def _transformers():
    try:
        import transformers
    except ImportError as error:
        raise IctlError(f'transformers is needed ({error}); run: pip install "ictl-utils[tl]"') from None
    return transformers


@contextmanager
def _explained(name: str, revision: str) -> Iterator[None]:
    """Turn what can go wrong with a checkpoint into one sentence."""
    try:
        yield
    except IctlError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        if "connect" in first or "offline" in first.lower():
            raise IctlError(f"{name} at revision {revision!r} is not in the cache, and huggingface.co cannot be "
                            "reached; run this where there is a network, or give a folder with the model.") from None
        raise IctlError(f"{name} at revision {revision!r} could not be loaded ({first}); expected a causal language "
                        "model: pythia-70m, gpt2-xl, owner/name on the Hugging Face hub, or a folder.") from None


@contextmanager
def fits(name: str, dtype: str) -> Iterator[None]:
    """Turn running out of memory into an :class:`IctlError`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and "allocate memory" not in str(error):  # what PyTorch says on a CPU
            raise
        raise IctlError(f"{name} does not fit into memory in {dtype}; {_smaller(dtype)}.") from None


def _check_memory(hub, config, name: str, device: str, dtype: str) -> None:
    """Raise :class:`IctlError` where the weights and a fifth more do not fit, before anything large is fetched."""
    with torch.device("meta"):
        n = sum(p.numel() for p in hub.AutoModelForCausalLM.from_config(config).parameters())
    need, free = 1.2 * n * getattr(torch, dtype).itemsize, free_memory(device)
    require(need <= free, f"{name} needs about {need / 1e9:.1f} GB on {device} in {dtype}, and {free / 1e9:.1f} GB are "
                          f"free; {_smaller(dtype)}.")  # fmt: skip


def _smaller(dtype: str) -> str:
    half = "try bfloat16, or " if dtype == "float32" else ""
    return f"{half}take a smaller model or a machine with more memory"


def free_memory(device: str) -> float:
    """Free bytes of the GPU, or of main memory where the system tells (Linux); else infinite."""
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024.0 * int(found[0]) if found else float("inf")


def first_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that begins a text: BOS, or EOS where there is no BOS."""
    found = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    require(found is not None, "the tokenizer has neither a BOS nor an EOS token to begin a text with.")
    return int(found)


def end_of(name: str) -> float:
    """Training tokens at which a model's training ends; nan where that is not known."""
    return tokens_of(name, MAIN)


def device_name(device: torch.device) -> str:
    """Name of a device, for the tables."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} cpu"
