"""Configurations: presets, run ids, and every bad value answered in one clear sentence."""

from dataclasses import replace

import numpy as np
import pytest

from ictl_utils.config import IctlError, ModelConfig, TrainConfig, choose_device, preset, run_id, runs_folder


def test_presets_are_what_they_are_called() -> None:
    model, _ = preset("laptop")
    assert (model.d_model, model.n_heads, model.d_head, model.n_ctx, model.d_vocab) == (128, 4, 32, 128, 1024)
    assert preset("gpu")[0].n_ctx >= 512
    assert preset("smoke")[1].tokens <= 2_000_000


def test_run_id_changes_with_every_field() -> None:
    model, train = preset("laptop")
    base = run_id(model, train)
    assert base == run_id(*preset("laptop"))
    others = [preset("laptop", **change) for change in (
        {"n_layers": 3}, {"d_model": 256}, {"mlp": True}, {"smear": "key"}, {"norm": False}, {"lr": 1e-3},
        {"init_seed": 1}, {"data_seed": 1}, {"tokens": 5}, {"corpus": "repeat"}, {"snapshots": 5})]  # fmt: skip
    assert len({base, *(run_id(m, t) for m, t in others)}) == len(others) + 1


def test_a_whole_number_is_one_however_it_is_written() -> None:
    assert run_id(*preset("laptop", tokens=10e6)) == run_id(*preset("laptop", tokens=10_000_000))
    assert isinstance(TrainConfig(tokens=np.int64(5)).tokens, int)


def test_a_number_with_a_point_is_one_however_it_is_written() -> None:
    same = TrainConfig(weight_decay=0, clip=1, lr=np.float32(0.5)), TrainConfig(weight_decay=0.0, clip=1.0, lr=0.5)
    assert len({run_id(ModelConfig(init_qk=1), t) for t in same} | {run_id(ModelConfig(init_qk=1.0), same[0])}) == 1


def test_label_names_the_model() -> None:
    assert ModelConfig(n_layers=1, smear="key").label == "1L smeared keys"
    assert ModelConfig(n_layers=4, mlp=True, positions="rotary").label == "4L MLP rotary"


@pytest.mark.parametrize("change, words", [
    ({"n_heads": 3}, ["n_heads=3", "d_model=128", "divide"]),
    ({"n_layers": 9}, ["n_layers=9", "0 to 8"]),
    ({"lr": float("inf")}, ["lr=inf", "not finite"]), ({"weight_decay": float("nan")}, ["weight_decay=nan"]),
    ({"weight_decay": -5.0}, ["weight_decay=-5.0", "negative"]), ({"init_qk": -1}, ["init_qk=-1.0", "negative"]),
    ({"positions": "alibi"}, ["'alibi'", "shortformer", "rotary"]),
    ({"smear": "keys"}, ["'keys'", "key"]),
    ({"d_vocab": 70_000}, ["70000", "65536"]),
    ({"d_model": 12, "n_heads": 4}, ["d_head=3", "even"]),
    ({"tokens": 0}, ["tokens=0", "at least 1"]),
    ({"tokens": 2e12}, ["tokens=2000000000000", "at most 1e12"]),
    ({"tokens": 0.5}, ["tokens=0.5", "whole number"]),
    ({"n_layers": "2"}, ["n_layers='2'", "whole number"]),
    ({"n_layers": True}, ["n_layers=True", "whole number"]),
    ({"mlp": "yes"}, ["mlp='yes'", "True or False"]),
    ({"lr": "1e-3"}, ["lr='1e-3'", "a number"]),
    ({"corpus": None}, ["corpus=None", "a string"]),
    ({"init_seed": 10**400}, ["init_seed=1000", "less than 2**32"]),
    ({"data_seed": 2**32}, ["data_seed=4294967296", "less than 2**32"]),
    ({"lr": 0.0}, ["lr=0.0", "positive"]),
    ({"schedule": "cosine"}, ["'cosine'", "linear"]),
    ({"init_seed": -1}, ["init_seed=-1"]),
    ({"depth": 2}, ["'depth'", "n_layers"]),
])  # fmt: skip
def test_bad_values_are_named(change: dict, words: list[str]) -> None:
    with pytest.raises(IctlError) as error:
        preset("laptop", **change)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_unknown_preset() -> None:
    with pytest.raises(IctlError, match="preset='huge'.*smoke, laptop, gpu"):
        preset("huge")


def test_steps_round_to_whole_steps() -> None:
    assert TrainConfig(tokens=1024 * 7 + 3).steps(128) == 7
    assert replace(TrainConfig(), tokens=1).steps(128) == 1


def test_cuda_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(IctlError, match="device='cuda'.*no GPU.*device='cpu'"):
        choose_device("cuda")
    assert str(choose_device("auto")).startswith("cpu in float32: no GPU found")


def test_a_t4_is_not_given_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Tesla T4")
    for capability, dtype in (((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda c=capability: c)
        assert choose_device("auto").dtype == dtype


def test_a_file_is_no_folder_for_runs(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(IctlError, match="file is a file; expected a folder for runs, choose another --out"):
            runs_folder(out)
    monkeypatch.setenv("ICTL_RUNS", str(tmp_path / "new"))
    assert runs_folder() == tmp_path / "new" and runs_folder(tmp_path) == tmp_path and not (tmp_path / "new").exists()
