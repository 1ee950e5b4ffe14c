"""A rollout stored time-major and cut into chunks; the memory's state is stored only where a chunk begins."""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.preprocessing import get_obs_shape
from torch import Tensor

from fwagents.cores.base import positive_int
from fwagents.sb3.states import MemoryStates, map_states

Observations: TypeAlias = Any
"""An array or tensor, or a dict of them for Dict spaces."""


class Chunks(NamedTuple):
    """A minibatch: n chunks of L steps, time first.

    Attributes:
        observations: [L, n, ...], or a dict of such tensors.
        actions: [L, n, ...].
        old_values: [L, n], from the rollout, like ``old_log_prob`` and ``advantages``.
        old_log_prob: [L, n].
        advantages: [L, n].
        returns: [L, n], targets of the value.
        states: memory before each chunk's first step, leaves [n, ...].
        start: bool [L, n], True where a step opens an episode.
    """

    observations: Observations
    actions: Tensor
    old_values: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    states: MemoryStates
    start: Tensor


class MemoryRolloutBuffer(RolloutBuffer):
    """Rollout of ``buffer_size`` steps of ``n_envs`` environments, cut into chunks of ``chunk_length`` steps.

    Everything is stored once, time first: [buffer_size, n_envs, ...]. The memory's state is stored once for each chunk,
    [buffer_size / chunk_length, n_envs, ...]. With 256 fast-weight units, 128 steps, 8 environments and chunks of 32
    this takes 8.4 MB; a copy for every step would take 268 MB.

    Args:
        buffer_size: steps of each environment.
        observation_space: any space that SB3 supports, including Dict.
        action_space: Box, Discrete, MultiDiscrete or MultiBinary.
        device: device of the minibatches.
        gae_lambda: lambda of generalised advantage estimation, which trades bias against variance.
        gamma: discount factor.
        n_envs: number of environments.
        chunk_length: steps of a chunk, a divisor of ``buffer_size``; None is ``buffer_size``.

    Raises:
        ValueError: a size is not as above; the message names it.
    """

    observations: Observations

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
        chunk_length: int | None = None,
    ) -> None:
        buffer_size, n_envs = positive_int("n_steps", buffer_size), positive_int("n_envs", n_envs)
        self.chunk_length = buffer_size if chunk_length is None else positive_int("chunk_length", chunk_length)
        if buffer_size % self.chunk_length:
            raise ValueError(f"chunk_length is {chunk_length}, expected a divisor of n_steps, which is {buffer_size}")
        self.n_chunks = buffer_size // self.chunk_length * n_envs
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)

    def reset(self) -> None:
        """Discard the rollout; its arrays are reused."""
        self.pos, self.full = 0, False
        self.states: list[MemoryStates] = []
        if hasattr(self, "rewards"):
            return
        steps = (self.buffer_size, self.n_envs)
        if isinstance(self.observation_space, spaces.Dict):
            shapes = get_obs_shape(self.observation_space)
            assert isinstance(shapes, dict)
            self.observations = {
                key: np.zeros((*steps, *shape), self.observation_space[key].dtype) for key, shape in shapes.items()
            }
        else:
            self.observations = np.zeros((*steps, *get_obs_shape(self.observation_space)), self.observation_space.dtype)
        self.actions = np.zeros((*steps, self.action_dim), self.action_space.dtype)
        self.rewards, self.values, self.log_probs, self.advantages, self.returns, self.episode_starts = (
            np.zeros(steps, np.float32) for _ in range(6)
        )

    def add_states(self, states: MemoryStates) -> None:
        """Store the memory's state before the next added step, with which a chunk begins."""
        self.states.append(states)

    def add(
        self,
        obs: Observations,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: Tensor,
        log_prob: Tensor,
    ) -> None:
        """Store one step of every environment, each array [n_envs, ...], ``value`` [n_envs, 1]."""
        self.rewards[self.pos] = reward
        if isinstance(self.observations, dict):
            self.observations = {key: self._kept(store, obs[key]) for key, store in self.observations.items()}
        else:
            self.observations = self._kept(self.observations, obs)
        self.actions[self.pos] = action.reshape(self.n_envs, self.action_dim)
        self.episode_starts[self.pos] = episode_start
        self.values[self.pos] = value.cpu().numpy().reshape(self.n_envs)
        self.log_probs[self.pos] = log_prob.cpu().numpy()
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def _kept(self, store: np.ndarray, obs: np.ndarray) -> np.ndarray:
        """Write the current step's observations into ``store``; return it, converted if its dtype cannot hold them.

        VecNormalize turns integers into floats but does not change the space.
        """
        if not np.can_cast(obs.dtype, store.dtype, "same_kind"):
            store = store.astype(np.promote_types(store.dtype, obs.dtype))
        store[self.pos] = obs.reshape(store.shape[1:])
        return store

    def chunks(self, ids: np.ndarray | None = None) -> Chunks:
        """Return the chunks ``ids`` [n], None for all; chunk ``k * n_envs + e`` is the k-th chunk of environment e."""
        assert self.full, "the rollout is not complete"
        ids = np.arange(self.n_chunks) if ids is None else ids
        piece, env = np.divmod(ids, self.n_envs)
        first = piece * self.chunk_length * self.n_envs + env
        # Indices of the steps [L, n] if time and environments are one axis: then a single gather suffices.
        steps = torch.from_numpy((np.arange(self.chunk_length)[:, None] * self.n_envs + first).ravel())
        states = [self.states[number] for number in piece.tolist()]

        def cut(array: np.ndarray) -> Tensor:
            rows = torch.from_numpy(array).view(-1, *array.shape[2:]).index_select(0, steps)
            return rows.view(self.chunk_length, len(ids), *array.shape[2:]).to(self.device)

        def pick(*leaves: Tensor) -> Tensor:
            return torch.stack([leaf[i] for leaf, i in zip(leaves, env.tolist(), strict=True)])

        observations = self.observations
        if isinstance(observations, dict):
            cut_observations: Observations = {key: cut(array) for key, array in observations.items()}
        else:
            cut_observations = cut(observations)
        return Chunks(
            observations=cut_observations,
            actions=self._action_shape(cut(self.actions)),
            old_values=cut(self.values),
            old_log_prob=cut(self.log_probs),
            advantages=cut(self.advantages),
            returns=cut(self.returns),
            states=map_states(pick, *states),
            start=cut(self.episode_starts) > 0.5,
        )

    def _action_shape(self, actions: Tensor) -> Tensor:
        """Return actions [L, n, action_dim] in the form that SB3's distributions take."""
        if isinstance(self.action_space, spaces.Discrete):
            return actions.squeeze(-1).long()
        return actions.float() if isinstance(self.action_space, spaces.MultiBinary) else actions

    def get(self, batch_size: int | None = None) -> Iterator[Chunks]:  # type: ignore[override]  # chunks, not steps
        """Yield minibatches of ``batch_size`` steps, each chunk once, in random order; None is one minibatch of all."""
        per_batch = self.n_chunks if batch_size is None else batch_size // self.chunk_length
        order = np.random.permutation(self.n_chunks)  # noqa: NPY002 -- the generator that SB3 seeds
        for begin in range(0, self.n_chunks, per_batch):
            yield self.chunks(order[begin : begin + per_batch])
