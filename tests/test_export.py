"""Exported policies against the originals: ONNX over whole episodes, weights bitwise."""

import copy
import json
import pickle
import sys
from collections import OrderedDict
from functools import partial

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from fwagents.cores import CORES, AssociativeLSTM
from fwagents.export import Normalization, export_onnx, load_policy, save_policy
from fwagents.export.associative_lstm import real_cell
from fwagents.export.check import OnnxPlayer, compare, probabilities
from fwagents.export.safe import PLAIN
from fwagents.export.spaces import space_from_json, space_to_json
from fwagents.inspection import trace
from fwagents.sb3 import MemoryPPO

from .sb3.tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, POLICIES, RandomEnv

SETTLING = {"tolerance": 0.005, "max_inner_steps": 5, "fast_lr": 0.5}  # rows settle at different steps
# Every core, and with the cores every kind of observation, action and critic; fast weights with every kind of read.
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
    "rotary_fast_weights": ("rotary_fast_weights", "vector", "discrete", "separate", {"num_heads": 2}),
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
        model.policy.action_net.weight.mul_(30)  # so that actions and log-probabilities differ
    return model, env


def normalization(env):
    normalizer = VecNormalize(DummyVecEnv([lambda: env]))
    normalizer.obs_rms.mean, normalizer.obs_rms.var = np.linspace(-1, 1, 5), np.linspace(0.1, 2, 5)
    return normalizer, Normalization.of(normalizer)


@pytest.fixture(scope="module", params=AGENTS)
def exported(request, tmp_path_factory):
    """Return a core's agent, its environment, its normalizer (for vector observations) and its folder."""
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
    """Otherwise the export of the adaptive loop would not be tested."""
    torch.manual_seed(0)
    core = agent("adaptive")[0].policy.actor_core
    taken = core.inner_steps_taken(torch.randn(12, 8, core.input_size))
    assert len(taken.unique()) > 1


def test_onnx_over_whole_episodes(exported):
    """Compare the step and the sequence graph with the policy in torch; vector observations are normalised."""
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
    """The memory need not be empty; a start clears it."""
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

    with monkeypatch.context() as patch:  # only here, since the compiled kernels are stored as pickles
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


@pytest.mark.parametrize("observe", [(), ("reward",), ("action", "reward")])
def test_what_the_agent_was_told_travels(observe, tmp_path):
    save_policy(agent("gru")[0].policy, tmp_path / "agent", observe=observe)
    assert load_policy(tmp_path / "agent").observe == observe


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


DTYPES = [f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)]
SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)


def bounds(dtype, shape):
    """Draw pairs of arrays with low <= high, over the whole range of a dtype, including infinities."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        entries = st.floats(width=8 * dtype.itemsize, allow_nan=False)
    elif dtype.kind == "b":
        entries = st.booleans()
    else:
        entries = st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    count = int(np.prod(shape, dtype=int))
    # Half of the pairs have the same bounds everywhere.
    pairs = st.one_of(
        st.tuples(entries, entries).map(lambda pair: [pair] * count),
        st.lists(st.tuples(entries, entries), min_size=count, max_size=count),
    )
    return pairs.map(
        lambda found: [np.array([pick(pair) for pair in found], dtype).reshape(shape) for pick in (min, max)]
    )


def ordered_box(dtype, pair):
    low, high = pair
    at_top, at_bottom = (np.isinf(low) & (low > 0), np.isinf(high) & (high < 0))
    low[at_top], high[at_bottom] = 0, 0  # Gymnasium does not accept these bounds
    low, high = (np.asarray(order(low, high)) for order in (np.minimum, np.maximum))
    return spaces.Box(low, high, dtype=np.dtype(dtype).type)


@st.composite
def boxes(draw):
    dtype = draw(st.sampled_from([*DTYPES, "float16", "float32", "float64", "bool"]))
    return ordered_box(dtype, draw(bounds(dtype, draw(SHAPES))))


@st.composite
def multi_discretes(draw):
    shape = draw(SHAPES.filter(bool))
    count = int(np.prod(shape))
    nvec, start = (
        np.array(draw(st.lists(st.integers(least, 100), min_size=count, max_size=count))).reshape(shape)
        for least in (1, 0)
    )
    return spaces.MultiDiscrete(nvec, start=start, dtype=np.dtype(draw(st.sampled_from(DTYPES))).type)


FLAT_SPACES = st.one_of(
    boxes(),
    st.sampled_from([f"int{bits}" for bits in (8, 16, 32, 64)]).map(
        lambda dtype: spaces.Box(-np.inf, np.inf, (2,), np.dtype(dtype).type)
    ),
    st.builds(
        lambda n, start, dtype: spaces.Discrete(n, start=start, dtype=np.dtype(dtype).type),
        *(st.integers(1, 100), st.integers(0, 20), st.sampled_from(DTYPES)),
    ),
    st.builds(spaces.Discrete, st.integers(1, 2**63 - 1), start=st.integers(-(2**63), 2**63 - 1)),
    multi_discretes(),
    st.builds(spaces.MultiBinary, st.one_of(st.integers(1, 9), SHAPES.filter(bool))),
)
SPACES = st.recursive(
    FLAT_SPACES,
    lambda parts: st.dictionaries(st.text(max_size=3), parts, max_size=3).map(
        lambda named: spaces.Dict(OrderedDict(named))
    ),
    max_leaves=4,
)


def same_space(a, b):
    """Return whether two spaces are equal exactly; Gymnasium's == compares bounds only approximately."""
    assert type(a) is type(b)
    assert a.dtype == b.dtype
    if isinstance(a, spaces.Dict):
        assert list(a.spaces) == list(b.spaces)
        for key in a.spaces:
            same_space(a[key], b[key])
    elif isinstance(a, spaces.Box):
        for name in ("low", "high", "bounded_below", "bounded_above"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), strict=True)
    else:
        assert a == b


@settings(deadline=None, max_examples=200)
@given(SPACES)
def test_spaces_come_back(space):
    same_space(space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False))), space)


def test_what_is_no_space():
    with pytest.raises(ValueError, match="expected a Box"):
        space_to_json(spaces.Text(3))
    box = {"type": "Box", "shape": [2], "dtype": "int8", "low": 0, "high": 5}
    for changes in (
        {"low": None},
        {"low": 0.5},
        {"high": 128},
        {"high": True},
        {"low": [0]},
        {"shape": [2.0]},
        {"dtype": None},
        {"dtype": "float32", "high": "much"},
    ):
        with pytest.raises(ValueError, match=r"space|dtype|reshape"):
            space_from_json({**box, **changes})


ACTIONS = {
    **ACTION_SPACES,
    **{f"box{shape}": spaces.Box(-0.1, 0.1, shape, np.float32) for shape in ((2, 3), (3, 1), (1, 3), ())},
    "own_bounds": spaces.Box(np.array([-0.1, 0.0]), np.array([0.0, 0.1]), dtype=np.float64),
    "whole": spaces.Box(-1, 1, (2,), np.int32),
}


@pytest.mark.parametrize("space", ACTIONS.values(), ids=ACTIONS)
def test_every_kind_of_action_after_learning(space, tmp_path):
    """The agent is exported right after learning: no copy holds the last minibatch's graph."""
    torch.manual_seed(0)
    env = RandomEnv(OBSERVATION_SPACES["vector"], space)
    if space.dtype == np.int32:
        env.step = lambda action: (env.observation_space.sample(), 0.0, True, False, {})  # agents' actions are floats
    options = {"core": "none", "critic_core": "shared", "hidden_size": 8}
    model = MemoryPPO("MemoryPolicy", env, n_steps=8, seed=0, policy_kwargs=options).learn(8)
    copy.deepcopy(model.policy)
    with torch.no_grad():
        model.policy.action_net.weight.mul_(300)  # so that actions differ and some are clipped
    export_onnx(model.policy, tmp_path / "step.onnx")
    step = OnnxPlayer(tmp_path / "step.onnx")
    obs = np.random.default_rng(0).uniform(-1, 1, (5, 5)).astype(np.float32)
    found, _ = step(obs, np.ones(5, bool), step.empty(5))
    expected, _ = model.predict(obs, deterministic=True)
    assert found["action"].shape == expected.shape == (5, *space.shape)
    np.testing.assert_allclose(found["action"], expected, rtol=0, atol=1e-5)
    if isinstance(space, spaces.Box):
        assert found["action"].dtype == expected.dtype
        assert found["mean"].shape == found["std"].shape == expected.shape


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
