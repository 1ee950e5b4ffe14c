"""Exported policies against the originals: ONNX over whole episodes, weights bit for bit."""

import json
import pickle
import sys
from functools import partial

import numpy as np
import onnx
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from fwagents.cores import CORES, AssociativeLSTM
from fwagents.export import Normalization, export_onnx, load_policy, save_policy
from fwagents.export.associative_lstm import real_cell
from fwagents.export.check import OnnxPlayer, compare, probabilities
from fwagents.export.spaces import space_from_json, space_to_json
from fwagents.inspection import trace
from fwagents.sb3 import MemoryPPO

from .sb3.tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, POLICIES, RandomEnv

SETTLING = {"tolerance": 0.005, "max_inner_steps": 5, "fast_lr": 0.5}  # rows settle at different steps
# Every core, and with it every kind of observation, of action, and of critic; fast weights in each way to read.
AGENTS = {
    "fast_weights": ("fast_weights", "vector", "discrete", "separate", {"inner_steps": 2}),
    "adaptive": ("fast_weights", "vector", "discrete", "shared", {"inner_steps": "adaptive", **SETTLING}),
    "no_reads": ("fast_weights", "vector", "discrete", "separate", {"inner_steps": 0}),
    "irnn": ("irnn", "discrete", "multi_binary", "detached", {}),
    "lstm": ("lstm", "dict", "multi_discrete", "none", {}),
    "gru": ("gru", "image", "discrete", "shared", {}),
    "associative_lstm": ("associative_lstm", "vector", "box", "separate", {"num_heads": 2}),
    "sum_rule": ("sum_rule", "vector", "discrete", "shared", {"num_heads": 2}),
    "delta_net": ("delta_net", "vector", "box", "separate", {}),
    "gated_delta_net": ("gated_delta_net", "vector", "discrete", "none", {"num_heads": 2}),
    "hebbian": ("hebbian", "vector", "discrete", "detached", {}),
    "ffm": ("ffm", "vector", "discrete", "separate", {"memory_size": 4, "context_size": 2}),
    "none": ("none", "vector", "discrete", "separate", {}),
}


def agent(name, **policy_kwargs):
    core, obs, action, critic, core_kwargs = AGENTS[name]
    env = RandomEnv(OBSERVATION_SPACES[obs], ACTION_SPACES[action])
    options = {"core": core, "critic_core": critic, "hidden_size": 8, "core_kwargs": core_kwargs, **policy_kwargs}
    model = MemoryPPO(POLICIES[obs], env, n_steps=8, seed=0, policy_kwargs=options)
    with torch.no_grad():
        model.policy.action_net.weight.mul_(30)  # so that actions differ, and log-probabilities matter
    return model, env


def normalization(env):
    normalizer = VecNormalize(DummyVecEnv([lambda: env]))
    normalizer.obs_rms.mean, normalizer.obs_rms.var = np.linspace(-1, 1, 5), np.linspace(0.1, 2, 5)
    return normalizer, Normalization.of(normalizer)


@pytest.fixture(scope="module", params=AGENTS)
def exported(request, tmp_path_factory):
    """A core's agent, its environment, its normalizer (where observations are vectors) and the folder it is in."""
    torch.manual_seed(0)
    model, env = agent(request.param)
    normalizer = own = None
    if AGENTS[request.param][1] == "vector":
        normalizer, own = normalization(env)
    folder = tmp_path_factory.mktemp(request.param)
    export_onnx(model.policy, folder / "step.onnx", folder / "sequence.onnx", normalization=own)
    return model, env, normalizer, folder


def test_every_core_is_here():
    assert {core for core, *_ in AGENTS.values()} == set(CORES)


def test_adaptive_rows_settle_at_different_steps():
    """Else the export of settling would not be seen."""
    torch.manual_seed(0)
    core = agent("adaptive")[0].policy.actor_core
    taken = core.inner_steps_taken(torch.randn(12, 8, core.input_size))
    assert len(taken.unique()) > 1


def test_onnx_over_whole_episodes(exported):
    """Step and sequence, observations normalised where they are vectors, against the policy in torch."""
    model, env, normalizer, folder = exported
    normalize = None if normalizer is None else normalizer.normalize_obs
    for found in compare(
        model, folder / "step.onnx", folder / "sequence.onnx", env, episodes=8, normalize_obs=normalize
    ):
        assert found.steps > 10
        assert found.actions == 1
        assert found.values < 1e-5
        assert found.probabilities < 1e-4


def test_a_batch_in_onnx_is_its_rows(exported):
    """Also from a memory that is not empty; a start clears it."""
    model, _, _, folder = exported
    step = OnnxPlayer(folder / "step.onnx")
    space = model.policy.observation_space
    samples = [space.sample() for _ in range(3)]
    rows = (
        {key: np.stack([s[key] for s in samples]) for key in space}
        if isinstance(space, spaces.Dict)
        else np.stack(samples)
    )
    rng = np.random.default_rng(0)
    memory = {name: 0.1 * rng.random(value.shape).astype(np.float32) for name, value in step.empty(3).items()}
    together, after = step(rows, np.array([True, False, False]), memory)
    for b in range(3):
        row = {key: value[b : b + 1] for key, value in rows.items()} if isinstance(rows, dict) else rows[b : b + 1]
        alone, after_alone = step(row, np.array([b == 0]), {name: value[b : b + 1] for name, value in memory.items()})
        for name, value in {**alone, **after_alone}.items():
            np.testing.assert_allclose(value[0], {**together, **after}[name][b], rtol=1e-4, atol=1e-6)
    assert all(np.isfinite(value).all() for value in after.values())


@pytest.mark.parametrize("exported", ["fast_weights"], indirect=True)
def test_what_goes_in_and_out(exported):
    *_, folder = exported
    step, sequence = (onnx.load(folder / f"{name}.onnx").graph for name in ("step", "sequence"))
    memory = ["actor.h", "actor.A", "critic.h", "critic.A"]
    for graph in (step, sequence):
        assert [value.name for value in graph.input] == ["observation", "start", *memory]
        assert [value.name for value in graph.output] == [
            *("action", "logits", "value"),
            *(f"next.{name}" for name in memory),
        ]
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*sequence.input, *sequence.output]
    }
    assert shapes["observation"] == ["time", "batch", 5]
    assert shapes["actor.A"] == shapes["next.actor.A"] == ["batch", 8, 8]
    assert shapes["logits"] == ["time", "batch", 3]


def test_the_associative_lstm_in_real_numbers(float64):
    core = AssociativeLSTM(3, 8, num_copies=3, num_heads=2)
    state = core.initial_state(4)
    for _ in range(5):
        x = 3 * torch.randn(4, 3)
        expected = core.cell(x, state)
        found = real_cell(core, x, state)
        torch.testing.assert_close(found, expected)
        state = expected[1]


def test_probabilities():
    logits = np.array([[0.0, np.log(3), 5, 5]])
    assert probabilities(spaces.MultiDiscrete([2, 2]), logits)[0] == pytest.approx([0.25, 0.75, 0.5, 0.5])
    assert probabilities(spaces.MultiBinary(4), logits)[0][:2] == pytest.approx([0.5, 0.75])


@pytest.mark.parametrize("name", AGENTS)
def test_weights_load_without_pickle(name, tmp_path, monkeypatch):
    model, env = agent(name)
    save_policy(model.policy, tmp_path / "agent")
    assert {path.name for path in tmp_path.iterdir()} == {"agent.json", "agent.safetensors"}

    def refused(*_, **__):
        raise AssertionError("a pickle was read")

    with monkeypatch.context() as patch:  # no longer: the compiled kernels are kept as pickles
        for function in ("load", "loads", "Unpickler"):
            patch.setattr(pickle, function, refused)
        loaded = load_policy(tmp_path / "agent")
    assert type(loaded.policy) is type(model.policy)
    assert loaded.policy.observation_space == model.policy.observation_space
    weights = model.policy.state_dict()
    assert set(loaded.policy.state_dict()) == set(weights)
    for key, value in loaded.policy.state_dict().items():
        assert torch.equal(value, weights[key]), key
    there, here = (trace(player, env, episodes=2, seed=3) for player in (model, loaded))
    np.testing.assert_array_equal(there.actions, here.actions)
    np.testing.assert_array_equal(there.values, here.values)


def test_normalization_travels(tmp_path):
    model, env = agent("fast_weights", share_features_extractor=False, activation_fn=nn.ReLU, net_arch=[4])
    normalizer, own = normalization(env)
    save_policy(model.policy, tmp_path / "agent", own)
    loaded = load_policy(tmp_path / "agent")
    obs = 20 * np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    np.testing.assert_array_equal(loaded.normalization(obs), normalizer.normalize_obs(obs))
    torch.testing.assert_close(
        loaded.normalization(torch.from_numpy(obs)), torch.from_numpy(normalizer.normalize_obs(obs))
    )
    first, second = (
        loaded.predict(obs, deterministic=True),
        model.predict(normalizer.normalize_obs(obs), deterministic=True),
    )
    np.testing.assert_array_equal(first[0], second[0])
    assert Normalization.of(VecNormalize(DummyVecEnv([lambda: env]), norm_obs=False)) is None


@pytest.mark.parametrize("space", [*OBSERVATION_SPACES.values(), *ACTION_SPACES.values()], ids=str)
def test_spaces_come_back(space):
    assert space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False))) == space


def test_spaces_with_bounds_of_their_own():
    low, high = np.float32([[-np.inf, 0], [1, 2]]), np.float32([[3, np.inf], [4, 5]])
    box = spaces.Box(low, high, dtype=np.float32)
    assert space_from_json(json.loads(json.dumps(space_to_json(box), allow_nan=False))) == box
    with pytest.raises(ValueError, match="expected a Box"):
        space_to_json(spaces.Text(3))


class Own(nn.Module):
    def forward(self, x):
        return x


def test_what_cannot_be_saved_or_loaded(tmp_path, monkeypatch):
    model, _ = agent("fast_weights", activation_fn=Own)
    with pytest.raises(ValueError, match="activation_fn is Own, expected one of Tanh"):
        save_policy(model.policy, tmp_path / "agent")
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
    ]:
        (tmp_path / "agent.json").write_text(json.dumps({**described, **changes}))
        with pytest.raises(ValueError, match=message):
            load_policy(tmp_path / "agent")
    (tmp_path / "agent.json").write_text(json.dumps(described))
    (tmp_path / "agent.safetensors").write_bytes((tmp_path / "agent.safetensors").read_bytes()[:-8])
    with pytest.raises(ValueError, match="are no policy"):
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
