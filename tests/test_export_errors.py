"""Policies and files that cannot be exported or loaded: the error names the reason."""

import json
import sys
from functools import partial

import pytest
import safetensors.torch
from torch import nn

from fwagents.export import export_onnx, load_policy, save_policy
from fwagents.export.check import OnnxPlayer
from fwagents.export.safe import PLAIN

from .exported import agent, normalization


class Own(nn.Module):
    def forward(self, x):
        return x


def test_what_cannot_be_saved_or_loaded(tmp_path, monkeypatch):
    model, _ = agent("fast_weights", activation_fn=Own)
    with pytest.raises(ValueError, match="activation_fn is Own, expected one of Tanh"):
        save_policy(model.policy, tmp_path / "agent")
    with pytest.raises(ValueError, match=r"observe is \['screen'\], expected a list of 'action', 'reward' or both"):
        save_policy(agent("gru")[0].policy, tmp_path / "agent", observe=["screen"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        load_policy(tmp_path / "agent")
    model, _ = agent("gru")
    save_policy(model.policy, tmp_path / "agent")
    described = json.loads((tmp_path / "agent.json").read_text())
    for changes, message in [
        ({"format": "other"}, "not of the format"),
        ({"policy": "os.system"}, "are no policy"),
        ({"activation_fn": "builtins.eval"}, "are no policy"),
        ({"core": "lstm"}, "are no policy"),
        ({"log_std_init": float("nan")}, "not JSON: NaN"),
        ({"observe": ["action", "os.system"]}, "are no policy: observe is"),
        ({"observe": None}, "are no policy"),
    ]:
        (tmp_path / "agent.json").write_text(json.dumps({**described, **changes}))
        with pytest.raises(ValueError, match=message):
            load_policy(tmp_path / "agent")
    (tmp_path / "agent.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="not JSON"):
        load_policy(tmp_path / "agent")
    (tmp_path / "agent.json").write_text(json.dumps(described))
    (tmp_path / "agent.safetensors").write_bytes((tmp_path / "agent.safetensors").read_bytes()[:-8])
    with pytest.raises(ValueError, match="are no policy"):
        load_policy(tmp_path / "agent")


@pytest.mark.parametrize("name", [*PLAIN, "policy", "observation_space", "action_space", "activation_fn"])
def test_a_field_that_must_have_a_value_is_not_null(name, tmp_path):
    save_policy(agent("gru")[0].policy, tmp_path / "agent")
    described = json.loads((tmp_path / "agent.json").read_text())
    (tmp_path / "agent.json").write_text(json.dumps({**described, name: None}))
    with pytest.raises(ValueError, match="are no policy"):
        load_policy(tmp_path / "agent")


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 3_000_000},
        {"hidden_size": 8.0},
        {"net_arch": [3_000_000, 3_000_000]},
        {"features_extractor_kwargs": {"features_dim": 10**10}},
        {"core_kwargs": {"num_heads": None}},
        {"observation_space": {"type": "Box", "shape": [10**6, 10**6], "dtype": "float32", "low": 0.0, "high": 1.0}},
        {"observation_space": {"type": "Discrete", "n": 10**12, "start": 0, "dtype": "int64"}},
        {"action_space": {"type": "Box", "shape": [10**12], "dtype": "float32", "low": 0.0, "high": 1.0}},
        {"action_space": {"type": "MultiBinary", "n": 10**11}},
    ],
    ids=str,
)
def test_what_a_description_asks_for_is_not_made_before_it_is_known_to_fit(changes, tmp_path):
    """None of these descriptions fits into the memory of any machine."""
    save_policy(agent("sum_rule")[0].policy, tmp_path / "agent")
    described = json.loads((tmp_path / "agent.json").read_text())
    (tmp_path / "agent.json").write_text(json.dumps({**described, **changes}))
    with pytest.raises(ValueError, match="are no policy") as refused:
        load_policy(tmp_path / "agent")
    assert "alloc" not in str(refused.value)


@pytest.mark.parametrize("changes", [{"num_copies": 10**9}, {"num_heads": 10**9}], ids=str)
def test_permutations_are_not_drawn_before_they_are_known_to_fit(changes, tmp_path):
    save_policy(agent("associative_lstm")[0].policy, tmp_path / "agent")
    described = json.loads((tmp_path / "agent.json").read_text())
    (tmp_path / "agent.json").write_text(json.dumps({**described, "core_kwargs": changes}))
    with pytest.raises(ValueError, match=r"core.\w+ is torch"):
        load_policy(tmp_path / "agent")


def test_weights_are_not_cast(tmp_path):
    save_policy(agent("gru")[0].policy, tmp_path / "agent")
    weights = safetensors.torch.load_file(tmp_path / "agent.safetensors")
    weights["value_net.weight"] = weights["value_net.weight"].double()
    safetensors.torch.save_file(weights, tmp_path / "agent.safetensors")
    with pytest.raises(
        ValueError, match=r"value_net.weight is torch.float64 \(1, 8\), expected torch.float32 \(1, 8\)"
    ):
        load_policy(tmp_path / "agent")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:3].clone(), r"mean of shape \(3,\), expected the observation's, \(5,\)"),
        (lambda x: x.float(), "mean of dtype float32, expected float64"),
        (lambda x: x * float("nan"), "expected finite numbers"),
    ],
    ids=["shape", "dtype", "nan"],
)
def test_statistics_must_be_of_the_observation(change, message, tmp_path):
    model, env = agent("fast_weights")
    save_policy(model.policy, tmp_path / "agent", normalization(env)[1])
    tensors = safetensors.torch.load_file(tmp_path / "agent.safetensors")
    tensors["normalization.mean."] = change(tensors["normalization.mean."])
    safetensors.torch.save_file(tensors, tmp_path / "agent.safetensors")
    with pytest.raises(ValueError, match=message):
        load_policy(tmp_path / "agent")


@pytest.mark.parametrize("absent", ["onnx", "onnxscript", "onnxruntime", "safetensors"])
def test_what_is_missing_is_named(absent, tmp_path, monkeypatch):
    model, _ = agent("fast_weights")
    for name in [name for name in sys.modules if name.partition(".")[0] == absent]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    needs = {"safetensors": partial(save_policy, model.policy), "onnxruntime": OnnxPlayer}
    with pytest.raises(ImportError, match=r'pip install "fwagents\[export\]"'):
        needs.get(absent, partial(export_onnx, model.policy))(tmp_path / "agent")
