"""Settings that depend on an environment's arguments suit the environment made with these arguments."""

import gymnasium as gym
import pytest

from fwagents.envs import ENVIRONMENTS, SUITE
from fwagents.settings import DEFAULTS, core_defaults_for, defaults_for

EPISODES = {"KeyValueRecall-v0": 2}  # episodes per rollout, if not one
CATCH = [name for name, environment in ENVIRONMENTS.items() if "catch" in environment.tags]
ARGUMENTS = [
    *((name, {}) for name in [*CATCH, *SUITE]),
    *((name, {"size": size, "visible_frames": 2}) for name in CATCH for size in (2, 7, 20, 33)),
    *((name, {level.parameter: value}) for name, level in SUITE.items() for value in level.values),
    ("RepeatPrevious-v0", {"delay": 3, "answers": 5, "symbols": 2}),
]


def longest_episode(name, arguments):
    """Return the length of the longest episode in which one action is repeated."""
    env = gym.make(name, **arguments)
    lengths = []
    for action in range(env.action_space.n):
        env.reset(seed=0)
        lengths.append(1)
        while not any(env.step(action)[2:4]):
            lengths[-1] += 1
    return max(lengths)


@pytest.mark.parametrize(("name", "arguments"), ARGUMENTS, ids=str)
def test_a_rollout_is_whole_episodes(name, arguments):
    found = defaults_for(f"fwagents.envs:{name}", "fast_weights", arguments)["n_steps"]
    assert found == EPISODES.get(name, 1) * longest_episode(name, arguments)


@pytest.mark.parametrize("name", DEFAULTS)
def test_registered_arguments_given_by_hand_change_nothing(name):
    assert defaults_for(name, "lstm", ENVIRONMENTS[name].kwargs) == defaults_for(name, "lstm")


@pytest.mark.parametrize("size", ["abc", None, 0, -3, 1.5, True, float("nan")])
def test_an_argument_that_cannot_be_is_left_to_the_environment(size):
    assert defaults_for("PartialCatch-v0", "gru", {"size": size, "nothing": 1})["n_steps"] == 15


@pytest.mark.parametrize("pairs", range(1, 27))
def test_a_retrieval_memory_lasts_as_long_as_its_strings(pairs):
    """The strength, to which many writes of one vector converge, is always fast_lr / (1 - decay); and the first pair's
    write has not decayed away at the last character."""
    found = core_defaults_for("retrieval", "fast_weights", {"pairs": pairs, "hidden_size": 50, "alphabet": "abc"})
    assert found["fast_lr"] / (1 - found["decay"]) == pytest.approx(10, rel=0.01)
    assert found["decay"] ** (2 * pairs + 1) > 0.4
    if pairs <= 8:
        assert found == {"decay": 0.95, "fast_lr": 0.5}
    assert core_defaults_for("retrieval", "lstm", {"pairs": pairs}) == {}


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        ([], 15),
        (["--env-kwargs", "size=20", "visible_frames=2", "--core", "lstm"], 19),
        (["--env_kwargs", "size=20", "--env", "fwagents.envs:PartialCatchLarge-v0"], 19),
        (["--env", "TMaze-v0", "--env-kwargs", "length=80"], 324),
        (["--env", "CartPoleNoVel-v1", "--env-kwargs", "sutton_barto_reward=True"], 128),
        (["--env", "Acrobot-v1"], 32),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_the_command_line_has_them(words, steps, monkeypatch):
    from fwagents.runs.agent import args_for

    assert args_for(words).n_steps == steps
