"""Every registered id can be found, and passes the checkers of Gymnasium and Stable-Baselines3."""

import importlib
import subprocess
import sys
import warnings

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from fwagents.envs import ENVIRONMENTS, SUITE, reference_returns, register_envs
from fwagents.envs.vector import GameVectorEnv

from .families import BATCHED, other_arguments

WITH_RETURNS = [name for name, environment in ENVIRONMENTS.items() if environment.returns]
pytestmark = pytest.mark.filterwarnings("error")


def run(code):
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_an_id_that_names_the_package_needs_no_import():
    run('import gymnasium; gymnasium.make("fwagents.envs:PartialCatch-v0").reset(seed=0)')
    run('import gymnasium; gymnasium.make_vec("fwagents.envs:PartialCatch-v0", num_envs=2).reset(seed=0)')


def test_registration_is_light():
    run(
        "import sys, fwagents.envs\n"
        "assert 'fwagents.envs.catch' not in sys.modules\n"
        "import gymnasium\n"
        "env = gymnasium.make('PartialCatch-v0')\n"
        "env.reset()\n"
        "assert not {'torch', 'pygame', 'matplotlib', 'stable_baselines3'} & set(sys.modules)"
    )


def test_registering_again_changes_nothing():
    specs = {name: gymnasium.spec(name) for name in ENVIRONMENTS}
    register_envs()
    assert all(gymnasium.spec(name) is spec for name, spec in specs.items())


def test_another_owner_of_an_id_is_overridden_with_a_warning(monkeypatch):
    name = next(iter(ENVIRONMENTS))
    other = gymnasium.envs.registration.EnvSpec(name, entry_point="other:Env")
    monkeypatch.setitem(gymnasium.registry, name, other)
    with pytest.warns(UserWarning, match=f"Overriding environment {name}"):
        register_envs()
    assert gymnasium.registry[name] is not other


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_spec_is_the_table_s(name):
    spec, environment = gymnasium.spec(name), ENVIRONMENTS[name]
    assert spec.kwargs == environment.kwargs
    assert spec.reward_threshold == environment.reward_threshold
    assert spec.max_episode_steps == environment.max_episode_steps
    assert gymnasium.envs.registration.EnvSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_checkers_find_nothing(name, monkeypatch):
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    module, make = ENVIRONMENTS[name].entry_point.split(":")
    env = getattr(importlib.import_module(module), make)(**ENVIRONMENTS[name].kwargs)
    env.unwrapped.spec = gymnasium.spec(name)
    with warnings.catch_warnings():
        # pygame itself uses deprecated parts of setuptools.
        warnings.filterwarnings("ignore", module="pygame")
        # Some of our environments are wrappers by design.
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")
        # The actions of Gymnasium's Pendulum go from -2 to 2.
        warnings.filterwarnings("ignore", message=".*symmetric and normalized")
        check_env(env)
        # The environments and the tests above need no torch; Stable-Baselines3 does.
        sb3 = pytest.importorskip("stable_baselines3.common.env_checker")
        sb3.check_env(env)
        sb3.check_env(gymnasium.make(name, render_mode="rgb_array"), skip_render_check=False)


@pytest.mark.parametrize("name", BATCHED)
def test_make_vec_picks_the_batched_environment(name):
    kwargs = other_arguments(name)
    env = gymnasium.make_vec(name, num_envs=3, **kwargs)
    assert isinstance(env, GameVectorEnv)
    assert env.num_envs == 3
    single = gymnasium.make(name, **kwargs)
    assert env.single_observation_space == single.observation_space
    assert env.single_action_space == single.action_space
    sync = gymnasium.make_vec(name, num_envs=3, vectorization_mode="sync", **kwargs)
    assert isinstance(sync, SyncVectorEnv)
    assert env.observation_space == sync.observation_space
    assert env.action_space == sync.action_space
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    sync.close()


def test_it_runs_in_worker_processes():
    env = gymnasium.make_vec("fwagents.envs:PartialCatch-v0", num_envs=2, vectorization_mode="async")
    assert isinstance(env, AsyncVectorEnv)
    batched = gymnasium.make_vec("PartialCatch-v0", num_envs=2)
    assert (env.reset(seed=4)[0] == batched.reset(seed=4)[0]).all()
    env.close()


@pytest.mark.parametrize("name", WITH_RETURNS)
def test_memory_is_needed_where_the_table_says_so(name):
    reference = reference_returns(name)
    assert (reference.memoryless < reference.optimal) == ENVIRONMENTS[name].needs_memory
    assert reference.random <= reference.memoryless
    assert reference.random < ENVIRONMENTS[name].reward_threshold <= reference.optimal


@pytest.mark.parametrize("name", SUITE)
def test_difficulty_is_one_argument(name):
    parameter, values = SUITE[name]
    assert list(values) == sorted(set(values))
    assert ENVIRONMENTS[name].kwargs[parameter] in values
    for value in values:
        assert gymnasium.make(name, **{parameter: value}).unwrapped.spec.kwargs[parameter] == value
        reference = reference_returns(name, **{parameter: value})
        assert reference.random <= reference.memoryless < reference.optimal
