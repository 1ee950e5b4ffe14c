"""Arguments of MemoryPPO and MemoryA2C: the accepted forms, and errors that name the others."""

import json

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

from fwagents.sb3 import MemoryPPO
from fwagents.sb3.buffers import MemoryRolloutBuffer

from .agents import ALGORITHMS, make
from .tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, RandomEnv, RecallEnv


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"chunk_length": 5}, "chunk_length is 5, expected a divisor of n_steps, which is 12"),
        ({"chunk_length": 0}, "chunk_length is 0"),
        ({"batch_size": 10}, r"batch_size is 10, expected a multiple of chunk_length \(12\)"),
        ({"batch_size": 0}, "batch_size is 0, expected an integer of at least 1"),
        ({"batch_size": 12.0}, "batch_size is 12.0, expected an integer"),
        ({"n_epochs": 0}, "n_epochs is 0, expected an integer of at least 1"),
        ({"n_steps": 0}, "n_steps is 0, expected an integer of at least 1"),
        ({"n_steps": "8"}, "n_steps is '8', expected an integer of at least 1"),
        ({"use_sde": True, "action": "box"}, "use_sde is True"),
        ({"rollout_buffer_class": RolloutBuffer}, "rollout_buffer_class is RolloutBuffer"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_policies_without_memory_are_refused():
    from stable_baselines3.common.policies import ActorCriticPolicy

    with pytest.raises(ValueError, match="policy is ActorCriticPolicy, expected a MemoryPolicy"):
        MemoryPPO(ActorCriticPolicy, RecallEnv())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("MlpPolicy", "MemoryPolicy"),
        ("MlpLstmPolicy", "MemoryPolicy"),
        ("CnnPolicy", "MemoryCnnPolicy"),
        ("CnnLstmPolicy", "MemoryCnnPolicy"),
        ("MultiInputPolicy", "MemoryMultiInputPolicy"),
        ("MultiInputLstmPolicy", "MemoryMultiInputPolicy"),
        ("Policy", "one of MemoryPolicy, .*MaskableMemoryPolicy"),
    ],
)
def test_the_names_of_other_policies_get_a_hint(algorithm, theirs, ours):
    with pytest.raises(ValueError, match=f"Policy {theirs} unknown to {algorithm.__name__}, expected {ours}$"):
        algorithm(theirs, RecallEnv())


def test_minibatches_need_not_divide_the_rollout(tmp_path):
    """The last minibatch is smaller, but of whole chunks, and every chunk is in one minibatch."""
    with pytest.warns(UserWarning, match="there will be a truncated mini-batch of size 4"):
        model = make(chunk_length=4, batch_size=16)
    model.learn(36)
    sizes = [chunks.start.numel() for chunks in model.rollout_buffer.get(16)]
    assert sizes == [16, 16, 4]
    seen = torch.cat([chunks.old_log_prob.flatten() for chunks in model.rollout_buffer.get(16)])
    np.testing.assert_array_equal(np.sort(seen.numpy()), np.sort(model.rollout_buffer.log_probs.flatten()))
    model.save(tmp_path / "m.zip")
    for number in (1, 2, 5):
        env = DummyVecEnv([lambda: RandomEnv(OBSERVATION_SPACES["vector"], ACTION_SPACES["discrete"])] * number)
        loaded = MemoryPPO.load(tmp_path / "m.zip", env=env)
        loaded.predict(env.reset())
        loaded.learn(12 * number)
        assert loaded.num_timesteps == 12 * number


def test_one_step_of_one_environment_cannot_be_normalised():
    with pytest.raises(AssertionError, match="must be greater than 1"):
        make(n_envs=1, n_steps=1)
    make(n_envs=1, n_steps=1, normalize_advantage=False).learn(2)


@pytest.mark.parametrize(
    ("core", "core_kwargs"),
    [
        ("fast_weights", {"inner_steps": np.int64(2), "decay": np.float32(0.5)}),
        ("rotary_fast_weights", {"num_heads": np.int64(2), "max_period": np.float32(50)}),
    ],
)
def test_numpy_integers_are_integers(core, core_kwargs):
    numbers = {name: np.int64(value) for name, value in [("n_steps", 12), ("chunk_length", 4), ("n_epochs", 2)]}
    policy = {"core": core, "hidden_size": np.int32(8), "core_kwargs": core_kwargs}
    model = make(batch_size=np.uint8(12), policy_kwargs=policy, **numbers)
    model.learn(36)
    sizes = (model.n_steps, model.n_epochs, model.batch_size, model.rollout_buffer.chunk_length)
    assert sizes == (12, 2, 12, 4)
    assert {type(size) for size in sizes} == {int}
    parameters = model.policy._get_constructor_parameters()
    json.dumps([parameters["hidden_size"], parameters["core_kwargs"]])


class Doubled(MemoryRolloutBuffer):
    """A user-defined buffer."""


def test_a_buffer_of_ones_own():
    model = make(rollout_buffer_class=Doubled, chunk_length=6)
    model.learn(36)
    assert isinstance(model.rollout_buffer, Doubled)
    assert model.rollout_buffer.chunk_length == 6
