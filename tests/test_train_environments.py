"""--wrappers, against the same wrappers applied by hand."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import DelayObservation, FlattenObservation, RescaleObservation, TimeAwareObservation
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.runs import run_folder
from tests.scripts import run

TIMED = (
    "gymnasium.wrappers:TimeAwareObservation(flatten=False, normalize_time=True)",
    "gymnasium.wrappers:FlattenObservation",
)


def timed():
    return FlattenObservation(TimeAwareObservation(gym.make("CartPole-v1"), flatten=False, normalize_time=True))


def late():
    """Return a wrapped environment; unwrapped, the id has a native batch, which would ignore the wrapper."""
    return DelayObservation(gym.make("PartialCatch-v0"), delay=2)


@pytest.fixture
def environments(monkeypatch):
    """Import the module."""
    from fwagents.runs import environments

    return environments


@pytest.mark.parametrize(
    ("name", "texts", "by_hand"),
    [("CartPole-v1", TIMED, timed), ("PartialCatch-v0", ["gymnasium.wrappers:DelayObservation(delay=2)"], late)],
)
def test_wrappers_go_around_in_order(name, texts, by_hand, environments):
    environment = environments.Environment(name, {}, tuple(map(environments.wrapper, texts)))
    one, many = environment.one(), environment.many(2, seed=3)
    loop = DummyVecEnv([by_hand] * 2)
    loop.seed(3)
    assert one.observation_space == many.observation_space == by_hand().observation_space
    np.testing.assert_array_equal(many.reset(), loop.reset())
    for action in (0, 1, 0, 1):
        many.step_async(np.full(2, action))
        loop.step_async(np.full(2, action))
        for mine, theirs in zip(many.step_wait()[:3], loop.step_wait()[:3], strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", ["CartPole-v1", "PartialCatch-v0", "dict"])
def test_stacked_frames_alone_are_those_of_a_batch(name, environments):
    """The steps reach into the second episode, which begins with its first observation alone."""
    if name == "dict":
        gym.register("Parts-v0", lambda: TimeAwareObservation(gym.make("CartPole-v1"), flatten=False))
        name = "Parts-v0"
    environment = environments.Environment(name, {}, frame_stack=3)
    one, many = environment.one(), environment.many(1, seed=5)
    assert one.observation_space == many.observation_space
    (obs, _), batch = one.reset(seed=5), many.reset()
    for step in range(40):
        for part in obs if isinstance(obs, dict) else [None]:
            alone, beside = (obs, batch) if part is None else (obs[part], batch[part])
            np.testing.assert_array_equal(alone, beside[0], err_msg=str(step))
        obs, _, terminated, truncated, _ = one.step(1)
        batch, _, dones, _ = many.step(np.ones(1, int))
        assert dones[0] == (terminated or truncated)
        if dones[0]:
            obs, _ = one.reset()


@pytest.mark.parametrize("kind", ["auto", "dummy", "subproc"])
def test_environments_play_alike_however_they_run(kind, environments):
    found = []
    for chosen in ("dummy", kind):
        env = environments.Environment("PartialCatch-v0", {"size": 6}, vec_env=chosen).many(3, seed=2)
        played = [env.reset(), *(part for _ in range(9) for part in env.step(np.array([0, 1, 2]))[:3])]
        found.append([np.asarray(part) for part in played])
        env.close()
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)


def test_values_are_python_literals(environments):
    wrapped = environments.wrapper("gymnasium.wrappers:RescaleObservation(min_obs=-2, max_obs=2.5)")(
        gym.make("PendulumNoVel-v1")
    )
    assert isinstance(wrapped, RescaleObservation)
    assert (wrapped.observation_space.low.min(), wrapped.observation_space.high.max()) == (-2, 2.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FlattenObservation", "expected module:Class or"),
        ("gymnasium.wrappers:", "expected module:Class or"),
        ("gymnasium.wrappers:TimeLimit(5)", "expected module:Class or"),
        ("gymnasium.wrappers:TimeLimit(max_episode_steps=n)", "expected module:Class or"),
        ("gymnasium.wrappers:Flatten()()", "expected module:Class or"),
        ("nowhere.at_all:Flatten", "No module named 'nowhere'"),
        ("gymnasium.wrappers:Flatten", "has no attribute 'Flatten'"),
    ],
)
def test_mistakes_are_named(text, message, environments):
    with pytest.raises(ValueError, match=message) as raised:
        environments.wrapper(text)
    assert repr(text) in str(raised.value)


class Plain(gym.Env):
    """An environment whose constructor takes no render_mode although its metadata name one."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space, action_space = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action):
        observation, reward = self.np_random.uniform(-1, 1, 3).astype(np.float32), self.np_random.random()
        return observation, reward, reward < 0.1, False, {}


@pytest.fixture(params=["class", "text", "function"])
def plain(request):
    """Return the environment's id, registered in each possible way."""
    name = f"Plain-{request.param}-v0"
    made_by = {"class": Plain, "text": f"{__name__}:Plain", "function": lambda: Plain()}[request.param]
    gym.register(name, made_by)
    yield name
    del gym.registry[name]


def test_what_cannot_be_drawn_is_not_asked_to(plain, environments):
    environment = environments.Environment(plain, {})
    assert environment.render_mode(["rgb_array"]) is None
    assert environment.one(render_mode=None).render_mode is None
    assert environments.Environment("CartPole-v1", {}).render_mode(["ansi", "rgb_array"]) == "rgb_array"


def test_what_cannot_be_drawn_trains_and_is_exported(plain, tmp_path):
    """Its memory is logged to TensorBoard without a film."""
    options = ("--env", plain, "--core", "gru", "--hidden-size", 8, "--total-timesteps", 64, "--n-steps", 8)
    small = ("--num-envs", 2, "--eval-episodes", 1, "--final-episodes", 1, "--log-dir", "runs", "--log-memory")
    done = run("agent.py", *options, *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path)
    done = run("export.py", folder, "--no-onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_drawn_at_all_leaves_no_run_folder(tmp_path):
    """Only the environment that is made for pictures fails."""

    class Refusing(Plain):
        def __init__(self, render_mode=None):
            if render_mode is not None:
                raise ValueError("no screen")

    gym.register("Refusing-v0", Refusing)
    done = run("agent.py", "--env", "Refusing-v0", "--log-memory", "--log-dir", "runs", cwd=tmp_path)
    del gym.registry["Refusing-v0"]
    assert (done.returncode, done.stderr) == (2, "error: no screen\n")
    assert not (tmp_path / "runs").exists()
