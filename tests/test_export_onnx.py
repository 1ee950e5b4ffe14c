"""Exported ONNX files against the policies in torch."""

import copy

import numpy as np
import onnx
import pytest
import torch
from gymnasium import spaces

from fwagents.cores import CORES, AssociativeLSTM
from fwagents.export import export_onnx
from fwagents.export.associative_lstm import real_cell
from fwagents.export.check import OnnxPlayer, compare, probabilities
from fwagents.sb3 import MemoryPPO

from .exported import AGENTS, agent, normalization
from .sb3.tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, RandomEnv


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
