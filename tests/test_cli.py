"""The command line, as a user meets it."""

import re

import pandas as pd
import pytest

from ictl_utils import cli, data


@pytest.fixture
def ictl(monkeypatch: pytest.MonkeyPatch, tmp_path_factory, capfd):
    """Run ``ictl ...`` in this process; returns exit code, stdout and stderr."""
    monkeypatch.setenv("ICTL_HOME", str(tmp_path_factory.getbasetemp() / "cli_home"))
    monkeypatch.setattr(data, "SYNTHETIC_TOKENS", 512 * 256 * 4)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["ictl", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
            raise SystemExit(0)
        out, err = capfd.readouterr()
        return done.value.code or 0, out, err

    return run


LINE = re.compile(r"^1L seed 3: 20480 tokens, [\d.]+ s, loss [\d.]+ nats, ICL score -?[\d.]+ \+- [\d.]+ nats, "
                  r"best prefix matching [\d.]+ \(L0H\d\)$")  # fmt: skip


def test_train_show_measure(ictl, tmp_path) -> None:
    train = ("train", "--preset", "laptop", "--layers", 1, "--seed", 3, "--tokens", "20e3", "--corpus", "repeat",
             "--out", tmp_path)  # fmt: skip
    code, out, err = ictl(*train)
    assert code == 0 and LINE.match(out.strip().splitlines()[-1]), out
    assert "device: cpu in float32" in err or "device: cuda" in err
    code, out, _ = ictl("show", "--out", tmp_path)
    assert code == 0 and "finished" in out and "1l-s3-" in out
    code, out, _ = ictl("measure", "--out", tmp_path, "--windows", 16, "--jobs", 1)
    table = pd.read_parquet(tmp_path / "measures.parquet")
    assert code == 0 and {"loss_nats", "icl_nats", "prefix_matching"} <= set(table["measure"])
    assert len(table) == len(table.drop_duplicates(["run_id", "snapshot", "measure", "layer", "head"]))


def test_zero_layers_have_no_heads(ictl, tmp_path) -> None:
    code, out, _ = ictl("train", "--layers", 0, "--tokens", "5e3", "--corpus", "repeat", "--out", tmp_path)
    assert code == 0 and out.strip().endswith("no heads")


def test_corpora(ictl) -> None:
    code, out, _ = ictl("corpora", "bursty")
    assert code == 0 and re.search(r"bursty  \d+ documents .* copy_pay 0\.\d+", out)


@pytest.mark.parametrize("arguments, words", [
    (("train", "--preset", "huge"), "preset='huge' is not known; choose one of smoke, laptop, gpu"),
    (("train", "--corpus", "books"), "corpus='books' is not known"),
    (("train", "--layers", "12"), "n_layers=12 is out of range"),
    (("train", "--tokens", "-5"), "tokens=-5 must be at least 1"),
    (("show", "--out", "/nowhere/at/all"), "holds no run"),
])  # fmt: skip
def test_mistakes_are_one_sentence(ictl, arguments: tuple, words: str) -> None:
    code, _, err = ictl(*arguments)
    assert code == 2 and words in err and "Traceback" not in err


def test_no_gpu(ictl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = ictl("train", "--device", "cuda")
    assert code == 2 and "device='cuda'" in err
