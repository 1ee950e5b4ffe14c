"""Read the state of environments, and restore it.

This works for an environment that, unwrapped, has ``get_state()`` and ``set_state(state)``. It may be inside
Gymnasium's wrappers, SB3's ``DummyVecEnv`` or ``SubprocVecEnv``, SB3's own ``VecEnvWrapper`` classes, and
``VecPreviousStep`` and ``VecActionMasks``, which have no state between two steps.
"""

import io
import pickle
import types
from collections.abc import Iterator
from typing import Any, TypeAlias, cast

import gymnasium as gym
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper

from fwagents.sb3.masks import VecActionMasks
from fwagents.sb3.previous_step import VecPreviousStep

Env: TypeAlias = gym.Env[Any, Any]
# State of SB3's wrappers (VecNormalize, VecMonitor, VecFrameStack).
REMEMBERED = ("obs_rms", "ret_rms", "returns", "episode_returns", "episode_lengths", "episode_count", "stacked_obs")
# Attributes of a Gymnasium wrapper that describe it and never change: by type, and by name.
CONSTANT = (spaces.Space, EnvSpec, ResultsWriter, type, types.FunctionType, types.MethodType, types.ModuleType)
DESCRIPTIONS = ("_saved_kwargs", "_cached_spec", "_metadata")


class Stateful(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper that gets and sets the state of all that it wraps, for an environment in its own process."""

    def get_chain_state(self) -> bytes | None:
        """Return the state; None if a wrapper, or the environment, cannot give its state."""
        return _pickle_chain(self.env)

    def set_chain_state(self, state: bytes) -> None:
        """Restore a state that ``get_chain_state`` returned."""
        _unpickle_chain(self.env, state)


def get_env_state(env: VecEnv) -> dict[str, Any]:
    """Return the state of a ``VecEnv`` and of everything that it wraps.

    Returns:
        ``exact``, whether an environment with this state continues exactly as this one; ``layers``, a state per layer.
    """
    layers = [_layer_state(layer) for layer in _layers(env)]
    return {"exact": None not in layers, "layers": layers}


def set_env_state(env: VecEnv, state: dict[str, Any]) -> None:
    """Restore a state that ``get_env_state`` returned for environments made with the same arguments."""
    for layer, kept in zip(_layers(env), state["layers"], strict=True):
        if kept is None:
            continue
        if isinstance(layer, VecEnvWrapper):
            for name, value in kept.items():
                setattr(layer, name, value)
        elif isinstance(layer, DummyVecEnv):
            for one, data in zip(layer.envs, kept, strict=True):
                _unpickle_chain(one, data)
        elif isinstance(layer, SubprocVecEnv):
            for number, data in enumerate(kept):
                layer.env_method("set_chain_state", data, indices=number)
        else:
            cast(Any, layer).set_state(kept)


def _layers(env: VecEnv) -> Iterator[VecEnv]:
    """Yield a VecEnv and everything that it wraps, from the outside in."""
    while isinstance(env, VecEnvWrapper):
        yield env
        env = env.venv
    yield env


def _layer_state(env: VecEnv) -> Any:
    """Return the state of one layer; None if the layer cannot give it."""
    if isinstance(env, VecEnvWrapper):
        stateless = isinstance(env, (VecPreviousStep, VecActionMasks))
        if not (stateless or type(env).__module__.startswith("stable_baselines3.")):
            return None
        return {name: vars(env)[name] for name in REMEMBERED if name in vars(env)}
    if isinstance(env, DummyVecEnv):
        return _all_of([_pickle_chain(one) for one in env.envs])
    if isinstance(env, SubprocVecEnv):
        return _all_of(env.env_method("get_chain_state")) if env.has_attr("get_chain_state") else None
    return env.get_state() if hasattr(env, "get_state") else None


def _all_of(states: list[bytes | None]) -> list[bytes | None] | None:
    return None if None in states else states


def _pickle_chain(env: Env) -> bytes | None:
    """Return the state of an environment and of its wrappers; None if one of them cannot give its state."""
    chain = _chain(env)
    inner: Any = chain[-1]
    if not (hasattr(inner, "get_state") and hasattr(inner, "set_state")):
        return None
    file = io.BytesIO()
    try:
        _Pickler(file, chain).dump((inner.get_state(), [_changing(layer) for layer in chain[:-1]]))
    except Exception:  # an open file, a window, a get_state with another meaning: the state cannot be read
        return None
    return file.getvalue()


def _unpickle_chain(env: Env, data: bytes) -> None:
    chain = _chain(env)
    state, around = _Unpickler(io.BytesIO(data), chain).load()
    cast(Any, chain[-1]).set_state(state)
    for layer, attributes in zip(chain[:-1], around, strict=True):
        vars(layer).update(attributes)


def _chain(env: Env) -> list[Env]:
    """Return the wrappers from the outside in, and last the environment itself."""
    chain = [env]
    while isinstance(chain[-1], gym.Wrapper):
        chain.append(chain[-1].env)
    return chain


def _changing(wrapper: Env) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(wrapper).items()
        if name not in DESCRIPTIONS and not isinstance(value, CONSTANT)
    }


class _Pickler(pickle.Pickler):
    """Pickler of wrappers' attributes, which stores an environment of the chain as its index in the chain."""

    def __init__(self, file: io.BytesIO, chain: list[Env]) -> None:
        super().__init__(file)
        self.places = {id(env): place for place, env in enumerate(chain)}

    def persistent_id(self, obj: Any) -> int | None:
        if isinstance(obj, gym.Env):
            return self.places[id(obj)]  # KeyError for an environment outside the chain, whose state is unknown
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, chain: list[Env]) -> None:
        super().__init__(file)
        self.chain = chain

    def persistent_load(self, pid: int) -> Env:
        return self.chain[pid]
