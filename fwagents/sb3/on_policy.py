"""Common base of MemoryPPO and MemoryA2C: it collects rollouts with a memory and checks the arguments."""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from fwagents.cores.base import positive_int
from fwagents.sb3.buffers import MemoryRolloutBuffer
from fwagents.sb3.faults import EnvironmentFault
from fwagents.sb3.policies import STOCK_OPTIONS, MemoryPolicy
from fwagents.sb3.presets import agent_for
from fwagents.sb3.registry import POLICIES
from fwagents.sb3.states import MemoryStates, map_states
from fwagents.sb3.stepping import PolicyStepper
from fwagents.sb3.vec_env import GymnasiumVecEnv
from fwagents.settings import AGENT_CORE

Self = TypeVar("Self", bound="MemoryRollouts")


class MemoryRollouts(OnPolicyAlgorithm):
    """Mixin that collects rollouts of a ``MemoryPolicy`` into a ``MemoryRolloutBuffer``.

    Our algorithms inherit from it first, then from SB3's algorithm.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = dict(POLICIES)
    policy: MemoryPolicy
    rollout_buffer: MemoryRolloutBuffer
    chunk_length: int | None
    _stepper: PolicyStepper | None = None
    _last_states: MemoryStates | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name in (*inspect.signature(MemoryPolicy).parameters, *STOCK_OPTIONS):
            if name in kwargs and name not in inspect.signature(super().__init__).parameters:
                raise TypeError(f"{name} is an option of the policy, expected policy_kwargs={{{name!r}: ...}}")
        super().__init__(*args, **kwargs)

    @classmethod
    def for_env(
        cls: type[Self],
        env_id: str,
        *,
        core: str = AGENT_CORE,
        seed: int | None = 0,
        env_kwargs: Mapping[str, Any] | None = None,
        policy_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Return an untrained agent with the settings of ``fwagents/settings.py``, as ``fwagents agent --env ID`` does.

        The environments are made here; ``get_env()`` returns them.

        Args:
            env_id: Gymnasium id; "module:Id" imports the module first.
            core: the memory, a name in ``fwagents.cores.CORES``.
            seed: seed of weights, environments and exploration; None for fresh entropy.
            env_kwargs: keyword arguments of the environment.
            policy_kwargs: further options of the policy.
            **options: options that override the settings: ``num_envs``, ``observe`` ("action", "reward" or both, in a
                list; see ``VecPreviousStep``), ``mask_actions`` (a bool; see ``VecActionMasks``), ``hidden_size``,
                ``critic_core``, ``core_kwargs`` (a dict), ``normalize``, ``lr_schedule`` ("linear" or "constant"), and
                every argument of the class.

        Raises:
            gymnasium.error.Error: there is no such environment.
            ValueError, TypeError: an option is not as above; the message names it.
        """
        return agent_for(cls, env_id, core, seed, env_kwargs, policy_kwargs, options)

    def _setup_model(self) -> None:
        if self.use_sde:
            raise ValueError(f"use_sde is True; {type(self).__name__} does not support state-dependent exploration")
        if self.rollout_buffer_class is None:
            self.rollout_buffer_class = MemoryRolloutBuffer
        if not issubclass(self.rollout_buffer_class, MemoryRolloutBuffer):
            name = self.rollout_buffer_class.__name__
            raise ValueError(f"rollout_buffer_class is {name}, expected a subclass of MemoryRolloutBuffer")
        if not issubclass(self.policy_class, MemoryPolicy):
            raise ValueError(f"policy is {self.policy_class.__name__}, expected a MemoryPolicy")
        self.n_steps = positive_int("n_steps", self.n_steps)
        self.rollout_buffer_kwargs = {**self.rollout_buffer_kwargs, "chunk_length": self.chunk_length}
        super()._setup_model()

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """Wrap an environment as SB3 does; Gymnasium's ``VectorEnv`` is accepted too."""
        if isinstance(env, VectorEnv):
            env = GymnasiumVecEnv(env)
        return OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name in self.policy_aliases:
            return self.policy_aliases[policy_name]
        # The beginnings of SB3's policy names, also of sb3-contrib's "MlpLstmPolicy", and our policies in their place.
        ours = {"Mlp": "MemoryPolicy", "Cnn": "MemoryCnnPolicy", "MultiInput": "MemoryMultiInputPolicy"}
        named = [name for beginning, name in ours.items() if policy_name.startswith(beginning)]
        expected = named[0] if named else f"one of {', '.join(self.policy_aliases)}"
        raise ValueError(f"Policy {policy_name} unknown to {type(self).__name__}, expected {expected}")

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Act, as ``MemoryPolicy.predict`` describes it."""
        return self.policy.predict(observation, state, episode_start, deterministic, action_masks)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_stepper", "_last_states"]

    def collect_rollouts(  # type: ignore[override]  # the buffer is ours
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: MemoryRolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Fill the buffer with ``n_rollout_steps`` steps of every environment; False if a callback stops it.

        After a stop, the next ``learn`` continues from the step of the stop. After an exception, it begins new
        episodes, since the state of the environments is unknown.

        Raises:
            EnvironmentFault: an environment fails, or an observation or reward is not finite; the message says which.
            FloatingPointError: the probabilities of the actions are not finite.
        """
        try:
            return self._collect(env, callback, rollout_buffer, n_rollout_steps)
        except BaseException:
            self._last_obs = None  # SB3 then begins new episodes
            raise

    def _collect(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: MemoryRolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Do the work of ``collect_rollouts``. Callbacks read the local variables, so these have SB3's names."""
        assert isinstance(self._last_obs, (np.ndarray, dict))
        self.policy.set_training_mode(False)
        if self._stepper is None or self._stepper.policy is not self.policy or self._stepper.n_envs != env.num_envs:
            self._stepper = PolicyStepper(self.policy, env.num_envs)
        stepper = self._stepper
        if self._last_states is None or len(self._last_states.actor[0]) != env.num_envs:
            self._last_states = stepper.states
        # The stepper may keep its state in another form. A resumed run has only this form, so every rollout starts from
        # it: then both runs compute the same numbers.
        stepper.load(self._last_states)
        n_steps = 0
        _require_finite("observation", self._last_obs, n_steps)
        rollout_buffer.reset()
        callback.on_rollout_start()
        while n_steps < n_rollout_steps:
            if n_steps % rollout_buffer.chunk_length == 0:
                rollout_buffer.add_states(stepper.states if n_steps else self._last_states)
            obs_tensor = obs_as_tensor(self._last_obs, self.device)
            episode_starts = torch.as_tensor(self._last_episode_starts, dtype=torch.bool, device=self.device)
            actions_tensor, values, log_probs = stepper.step(obs_tensor, episode_starts)
            actions = actions_tensor.cpu().numpy()
            clipped_actions = actions
            if isinstance(self.action_space, spaces.Box):
                clipped_actions = np.clip(actions, self.action_space.low, self.action_space.high)
            try:
                new_obs, rewards, dones, infos = cast(Any, env.step(clipped_actions))
            except EnvironmentFault:
                raise
            except Exception as error:
                message = f"the environments at step {n_steps + 1} of the rollout: {type(error).__name__}: {error}"
                raise EnvironmentFault(message) from error
            _require_finite("reward", rewards, n_steps)
            _require_finite("observation", new_obs, n_steps + 1)

            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                self._last_obs, self._last_episode_starts, self._last_states = new_obs, dones, stepper.states
                return False
            bootstrapped = rewards
            if dones.any():
                self._update_info_buffer(infos, dones)
                bootstrapped = self._bootstrap_truncated(rewards, dones, infos, n_steps + 1)
            rollout_buffer.add(
                self._last_obs, actions, bootstrapped, cast(Any, self._last_episode_starts), values, log_probs
            )
            self._last_obs, self._last_episode_starts = new_obs, dones
            n_steps += 1

        self._last_states = stepper.states
        with torch.no_grad():
            episode_starts = torch.as_tensor(dones, dtype=torch.bool, device=self.device)
            obs_tensor = obs_as_tensor(cast(Any, new_obs), self.device)
            values = self.policy.values_after(obs_tensor, self._last_states, episode_starts).unsqueeze(-1)
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _bootstrap_truncated(
        self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]], step: int
    ) -> np.ndarray:
        """Add the discounted value of the final observation to the rewards of truncated episodes.

        The value is computed with the state after the episode's last step, before any reset. Without a final
        observation from the environment, the reward is unchanged, as in SB3.

        Raises:
            EnvironmentFault: a final observation is not finite.
        """
        rows = [
            i
            for i in np.flatnonzero(dones).tolist()
            if infos[i].get("TimeLimit.truncated", False) and infos[i].get("terminal_observation") is not None
        ]
        if not rows:
            return rewards
        final = [infos[i]["terminal_observation"] for i in rows]
        if isinstance(final[0], dict):
            last_obs: Any = {key: np.stack([f[key] for f in final]) for key in final[0]}
        else:
            last_obs = np.stack(final)
        _require_finite("terminal observation", last_obs, step, rows)
        assert self._stepper is not None
        states: MemoryStates = map_states(lambda leaf: leaf[rows], self._stepper.states)
        start = torch.zeros(len(rows), dtype=torch.bool, device=self.device)
        with torch.no_grad():
            values = self.policy.values_after(obs_as_tensor(last_obs, self.device), states, start)
        rewards = rewards.copy()
        rewards[rows] += self.gamma * values.cpu().numpy()
        return rewards

    def _record_update(self) -> None:
        """Log the values that every update has."""
        buffer = self.rollout_buffer
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        self.logger.record("train/explained_variance", explained)
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", torch.exp(self.policy.log_std).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _apply_gradient(self, losses: dict[str, Tensor], loss: Tensor) -> None:
        """Take one optimizer step on ``loss``.

        Raises:
            FloatingPointError: a part of the loss, or its gradient, is not finite. The weights are then unchanged.
        """
        for name, part in losses.items():
            if not torch.isfinite(part):
                raise FloatingPointError(
                    f"{name} is {part.item()} after {self.num_timesteps} steps; the weights were left as they were"
                )
        optimizer = self.policy.optimizer
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"gradient norm is {norm.item()} after {self.num_timesteps} steps; the weights were left as they were"
            )
        optimizer.step()


def _require_finite(name: str, values: Any, step: int, environments: list[int] | None = None) -> None:
    """Raise EnvironmentFault unless ``values`` [n, ...] of the numbered environments (None is all) are finite."""
    if isinstance(values, dict):
        for key, array in values.items():
            _require_finite(f"{name} {key!r}", array, step, environments)
    elif values.dtype.kind == "f" and not np.isfinite(values).all():
        where = np.argwhere(~np.isfinite(values))[0]
        environment = where[0] if environments is None else environments[where[0]]
        raise EnvironmentFault(
            f"{name} of environment {environment} is {values[tuple(where)]} at step {step} of the rollout, "
            "expected a finite number"
        )
