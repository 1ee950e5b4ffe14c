"""Record the memory of a trained agent that plays episodes."""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib.common.maskable.distributions import (
    MaskableBernoulliDistribution,
    MaskableCategoricalDistribution,
    MaskableMultiCategoricalDistribution,
)
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.preprocessing import preprocess_obs
from torch import Tensor
from torch.distributions import Categorical

from fwagents.cores.base import positive_int
from fwagents.inspection.sequences import recorded, to_numpy
from fwagents.inspection.traces import Array, Trace
from fwagents.sb3.forward import Forward, OverTime
from fwagents.sb3.maskable import ILLEGAL
from fwagents.sb3.policies import MemoryPolicy, flat_in_time, map_observations

DRAWN = ("rgb_array", "ansi")


def trace_episodes(
    model: "BaseAlgorithm | MemoryPolicy",
    env: gym.Env[Any, Any],
    *,
    episodes: int = 1,
    seed: int | None = None,
    deterministic: bool = True,
    normalize_obs: Callable[[Any], Any] | None = None,
    attention: bool = True,
    growth: bool = True,
    attribution: bool = False,
) -> Trace:
    """Let an agent play, then run its policy again over all observations at once to record the memory's activity.

    Args:
        model: MemoryPPO, MemoryA2C, or RecurrentPPO with a ``MemoryPolicy``; or the policy alone.
        env: environment to play in; pictures are recorded if its ``render_mode`` is "rgb_array" or "ansi".
        episodes: B, the number of episodes.
        seed: seed of the first episode; each later episode adds 1. None for fresh entropy.
        deterministic: whether to take the most likely actions instead of samples.
        normalize_obs: function applied to the environment's observations, such as ``VecNormalize.normalize_obs``.
        attention: whether to record the attention of a fast memory, T^2 numbers a row for each head or inner step.
        growth: whether to record the norm and the effective rank of a fast memory, which needs its singular values at
            every step; no effect without attention.
        attribution: whether to record the attribution, which takes a backward pass for each step.

    Raises:
        TypeError: the model's policy is no ``MemoryPolicy``.
        ValueError: ``episodes`` is not a positive integer.
    """
    policy = getattr(model, "policy", model)
    if not isinstance(policy, MemoryPolicy):
        raise TypeError(f"the model's policy is {type(policy).__name__}, expected a MemoryPolicy")
    episodes = positive_int("episodes", episodes)
    played = [
        _play(policy, env, None if seed is None else seed + number, deterministic, normalize_obs)
        for number in range(episodes)
    ]
    columns = {name: [episode[name] for episode in played] for name in played[0]}
    length = np.array([len(rewards) for rewards in columns["rewards"]])
    arrays = {name: _side_by_side(rows) for name, rows in columns.items()}
    start = np.zeros((length.max(), episodes), np.bool_)
    start[0] = True
    again = _run_again(policy, arrays["observations"], arrays["actions"], start, attention, growth, attribution)
    trace = Trace(**arrays, **again, length=length, start=start, choices=_choices(policy.action_space))
    for value in again.values():
        if isinstance(value, np.ndarray):  # steps after the end of a short episode are padding
            value[~trace.valid] = 0
    return trace


def _play(
    policy: MemoryPolicy,
    env: gym.Env[Any, Any],
    seed: int | None,
    deterministic: bool,
    normalize_obs: Callable[[Any], Any] | None,
) -> dict[str, list[Any]]:
    """Play one episode; return a list of its steps for each recorded quantity."""
    kept: dict[str, list[Any]] = {name: [] for name in ("observations", "actions", "rewards")}
    if env.render_mode in DRAWN:
        kept["screens"] = []
    obs, _ = env.reset(seed=seed)
    state: Any = None
    over = False
    while not over:
        if "screens" in kept:
            kept["screens"].append(env.render())
        obs = obs if normalize_obs is None else normalize_obs(obs)
        action, state = policy.predict(obs, state, np.array([state is None]), deterministic=deterministic)
        kept["observations"].append(obs)
        kept["actions"].append(action)
        obs, reward, terminated, truncated, _ = env.step(action)
        kept["rewards"].append(float(reward))
        over = terminated or truncated
    if "screens" in kept:
        kept["screens"].append(env.render())
    return kept


def _side_by_side(rows: list[list[Any]]) -> Any:
    """Stack lists of steps, one list for each row, to [T, B, ...], zero after a row's end; a dict for a dict."""
    if isinstance(rows[0][0], dict):
        return {key: _side_by_side([[step[key] for step in row] for row in rows]) for key in rows[0][0]}
    stacked = [np.asarray(row) for row in rows]
    whole = np.zeros((max(map(len, stacked)), len(rows), *stacked[0].shape[1:]), np.result_type(*stacked))
    for b, row in enumerate(stacked):
        whole[: len(row), b] = row
    return whole


def _run_again(
    policy: MemoryPolicy,
    observations: Any,
    actions: Array,
    start: Array,
    attention: bool,
    growth: bool,
    attribution: bool,
) -> dict[str, Any]:
    """Run the policy over the recorded episodes; return arrays [T, B, ...] by their names in ``Trace``."""
    policy.set_training_mode(False)
    shape = start.shape
    starts = torch.as_tensor(start, device=policy.device)
    flat: Any = map_observations(lambda x: x.reshape(-1, *x.shape[2:]), observations)
    # Converted to floats, so that they can have gradients.
    obs: Any = preprocess_obs(
        cast(Any, policy.obs_to_tensor(flat)[0]), policy.observation_space, normalize_images=policy.normalize_images
    )
    obs = map_observations(lambda x: x.view(*shape, *x.shape[1:]).requires_grad_(attribution), obs)
    with torch.set_grad_enabled(attribution):
        forward = Forward(policy, flat_in_time(obs), OverTime(policy, None, starts), prepared=True)
        distribution, values = forward.heads()
        scores = None
        if attribution:
            taken = torch.as_tensor(actions, device=policy.device).flatten(0, 1)
            by = list(obs.values()) if isinstance(obs, dict) else [obs]
            scores = _scores(distribution, taken).view(shape), by
    x, y = (part.view(*shape, -1) for part in (forward.features, forward.actor))
    found = recorded(policy.actor_core, x, y, starts, attention, growth, scores)
    found["values"] = to_numpy(values.view(shape))
    for name, quantity in _quantities(distribution).items():
        found[name] = to_numpy(quantity.reshape(*shape, -1))
    return found


def _scores(distribution: Distribution, taken: Tensor) -> Tensor:
    """Return the logits [N] of the actions [N, ...] that were taken; see ``Trace``.

    Log-probabilities are not used: their gradient is almost zero for a confident agent, and zero at a Gaussian's mode.
    """
    if parts := _categoricals(distribution):
        actions = taken.reshape(len(taken), -1).unbind(-1)
        return torch.stack([_log_odds(p.logits, action) for p, action in zip(parts, actions, strict=True)]).sum(0)
    if isinstance(distribution, BernoulliDistribution):
        return (distribution.distribution.logits * (2 * taken - 1)).sum(-1)
    return distribution.mode().flatten(1).sum(-1)


def _log_odds(logits: Tensor, taken: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of the taken actions [N] from logits [N, P]: [N].

    The result is 0 if there is only one action, or only one legal action.
    """
    place = taken.long().unsqueeze(-1)
    own = logits.gather(-1, place).squeeze(-1)
    if logits.shape[-1] == 1:
        return 0 * own
    others = logits.scatter(-1, place, -math.inf).logsumexp(-1)
    return (own - others) * (others > ILLEGAL / 2)


def _quantities(distribution: Distribution) -> dict[str, Tensor]:
    """Return the parameters of N distributions [N, ...] by their names in ``Trace``."""
    if isinstance(distribution, BernoulliDistribution):
        return {"probabilities": distribution.distribution.probs}
    parts = _categoricals(distribution)
    if isinstance(distribution, MaskableBernoulliDistribution):
        return {"probabilities": torch.stack([part.probs[:, 1] for part in parts], dim=-1)}
    if parts:
        return {"probabilities": torch.cat([part.probs for part in parts], dim=-1)}
    gaussian: Any = distribution.distribution
    return {"means": gaussian.mean, "deviations": gaussian.stddev}


def _categoricals(distribution: Distribution) -> Sequence[Categorical]:
    """Return a categorical distribution for each action; none if the actions are of another kind."""
    if isinstance(distribution, (CategoricalDistribution, MaskableCategoricalDistribution)):
        return [distribution.distribution]
    if isinstance(distribution, MultiCategoricalDistribution):
        return distribution.distribution
    return distribution.distributions if isinstance(distribution, MaskableMultiCategoricalDistribution) else []


def _choices(space: gym.Space[Any]) -> Array | None:
    """Return the number of probabilities of each part of an action; see ``Trace``."""
    if isinstance(space, gym.spaces.Discrete):
        return np.array([int(space.n)])
    if isinstance(space, gym.spaces.MultiDiscrete):
        return space.nvec.astype(np.int64).ravel()
    if isinstance(space, gym.spaces.MultiBinary):
        return np.ones(int(np.prod(space.shape)), np.int64)
    return None
