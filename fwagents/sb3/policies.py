"""Actor-critic policies with any memory core, which also run in sb3-contrib's unchanged RecurrentPPO."""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from fwagents.cores import MemoryCore, make_core
from fwagents.cores.base import positive_int
from fwagents.sb3.encoders import DenseExtractor, ImageExtractor, MultiInputExtractor
from fwagents.sb3.forward import Forward, OverPacked, OverTime
from fwagents.sb3.packing import PackedCore, Pair
from fwagents.sb3.spaces import check_observations, check_start
from fwagents.sb3.states import MemoryStates
from fwagents.sb3.threads import check_threads
from fwagents.sb3.unchecked import unchecked
from fwagents.settings import AGENT_CORE

if TYPE_CHECKING:
    from fwagents.sb3.buffers import Chunks, MemoryRolloutBuffer

Self = TypeVar("Self", bound="MemoryPolicy")
CriticCore = Literal["shared", "detached", "separate", "none"]

# The paper's constants suit supervised tasks but not policy gradients, so an agent's core has other defaults.
# With 128 units h.h is near 64, so with fast_lr 0.5 the memory's read outweighs the input: h is stored normalised, with
# a small fast_lr. With W = 0.05 I the state is forgotten within a step unless the fast memory already works, and with
# an IRNN's 0.5 I within a few steps: W starts at the identity.
AGENT_CORE_KWARGS: Mapping[str, Mapping[str, Any]] = {
    "fast_weights": {"normalize_storage": True, "fast_lr": 0.03, "identity_scale": 1.0},
    "irnn": {"identity_scale": 1.0},
}


class MemoryPolicy(RecurrentActorCriticPolicy):
    """A recurrent actor-critic policy on any memory core.

    It runs in the unchanged ``sb3_contrib.RecurrentPPO``. An encoder and a core feed one linear layer each for policy
    and value, as in Ba et al. (2016), section 4.4; SB3's own options can replace every part.

    Args:
        observation_space: observation space.
        action_space: Box, Discrete, MultiDiscrete or MultiBinary.
        lr_schedule: learning rate as a function of the remaining progress.
        core: name of a core in ``fwagents.cores.CORES``; ``RotaryFastWeights`` by default.
        hidden_size: units of the core.
        core_kwargs: options of the core, on top of ``AGENT_CORE_KWARGS[core]``.
        critic_core: memory of the value function.

            - "shared": the actor's core, trained by both losses;
            - "detached": the actor's core, trained by the policy loss alone (sb3-contrib's ``shared_lstm``);
            - "separate": a core of its own;
            - "none": no memory, one linear layer on the features.
        net_arch: layers between core and heads; none by default.
        features_extractor_class: encoder; by default the class attribute ``features_extractor``.
        **kwargs: every other option of SB3's ``ActorCriticPolicy``.

    Raises:
        ValueError: unknown core or critic core, or a value out of range.
        TypeError: the policy or the core has no such option; the message says where it belongs.
    """

    # PackedCore stands where the parent declares an LSTM.
    lstm_actor: Any
    lstm_critic: Any

    features_extractor_default: ClassVar[type[BaseFeaturesExtractor]] = DenseExtractor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        core: str = AGENT_CORE,
        hidden_size: int = 128,
        core_kwargs: Mapping[str, Any] | None = None,
        critic_core: CriticCore = "separate",
        net_arch: list[int] | dict[str, list[int]] | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        **kwargs: Any,
    ) -> None:
        _check_names(kwargs, core_kwargs or {})
        check_observations(observation_space)
        check_start("the action space", action_space)
        if critic_core not in get_args(CriticCore):
            raise ValueError(f"critic_core is {critic_core!r}, expected one of {', '.join(get_args(CriticCore))}")
        if critic_core in ("shared", "detached") and not kwargs.get("share_features_extractor", True):
            raise ValueError(f"critic_core is {critic_core!r}, which needs share_features_extractor=True")
        self.lstm_output_dim = hidden_size = positive_int("hidden_size", hidden_size)
        extractor = features_extractor_class or self.features_extractor_default
        _check_encoder(extractor, kwargs.get("features_extractor_kwargs") or {})
        if not kwargs.get("normalize_images", True) and issubclass(extractor, (ImageExtractor, MultiInputExtractor)):
            # SB3 does the same for its own extractors.
            given = kwargs.get("features_extractor_kwargs") or {}
            kwargs["features_extractor_kwargs"] = {"normalized_image": True, **given}
        # The parent would build LSTMs, and an optimizer around them; its own parent builds all the rest.
        super(RecurrentActorCriticPolicy, self).__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[] if net_arch is None else net_arch,
            features_extractor_class=extractor,
            **kwargs,
        )
        self.core_name = core
        self.core_kwargs = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in (core_kwargs or {}).items()
        }
        self.critic_core_mode = critic_core
        # Attributes that the parent's methods read, under the parent's names.
        self.shared_lstm = critic_core in ("shared", "detached")
        self.lstm_actor = self._make_core()
        self.lstm_critic = self._make_core() if critic_core == "separate" else None
        self.critic = nn.Linear(self.features_dim, hidden_size) if critic_core == "none" else None
        self.lstm_hidden_state_shape = (1, 1, self.lstm_actor.hidden_size)
        make_optimizer: Any = self.optimizer_class
        self.optimizer = make_optimizer(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Move the module as ``nn.Module.to`` does, and warn if torch's threads slow the agent down.

        Stable-Baselines3 calls this at the end of every agent's construction. Only then the device is known.
        """
        super().to(*args, **kwargs)
        if issubclass(self.features_extractor_class, DenseExtractor):
            check_threads(self.lstm_output_dim, self.device)
        return self

    def _make_core(self) -> PackedCore:
        options = {**AGENT_CORE_KWARGS.get(self.core_name, {}), **self.core_kwargs}
        return PackedCore(make_core(self.core_name, self.features_dim, self.lstm_output_dim, **options))

    @property
    def actor_core(self) -> MemoryCore[Any]:
        """The core of the policy, and also of the value function if the core is shared."""
        core: MemoryCore[Any] = self.lstm_actor.core
        return core

    @property
    def critic_core(self) -> MemoryCore[Any] | None:
        """The value function's own core; None unless ``critic_core="separate"``."""
        core: MemoryCore[Any] | None = self.lstm_critic and self.lstm_critic.core
        return core

    @property
    def cores(self) -> dict[str, MemoryCore[Any]]:
        """The cores by name: "actor", and "critic" if the value function has its own core."""
        critic = self.critic_core
        return {"actor": self.actor_core} if critic is None else {"actor": self.actor_core, "critic": critic}

    @staticmethod
    def _process_sequence(  # type: ignore[override]  # any core, where the parent has an LSTM
        features: Tensor, lstm_states: Pair, episode_starts: Tensor, lstm: PackedCore
    ) -> tuple[Tensor, Pair]:
        y, states = lstm(features, lstm_states, episode_starts)
        return y, states

    def encode(self, obs: Any, prepared: bool = False) -> tuple[Tensor, Tensor]:
        """Return features for the actor and for the critic, each [B, features_dim], of observations [B, ...].

        With ``prepared``, the observations have already passed SB3's ``preprocess_obs``.
        """
        if not prepared:
            obs = preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)
        if self.share_features_extractor:
            features: Tensor = self.features_extractor(obs)
            return features, features
        return self.pi_features_extractor(obs), self.vf_features_extractor(obs)

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        # SB3's method fills ``action_dist``. It fills a copy here, so that the policy itself never holds the graph of a
        # minibatch, which ``copy.deepcopy`` cannot copy.
        own = self.action_dist
        self.action_dist = copy.copy(own)
        try:
            distribution: Distribution = super()._get_action_dist_from_latent(latent_pi)
        finally:
            self.action_dist = own
        return distribution

    def distribution(self, actor: Tensor, obs: Any) -> Distribution:
        """Return the action distribution, from ``Forward``'s ``actor`` [B, H] and the observations [B, ...]."""
        return self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(actor))

    def value_head(self, critic: Tensor) -> Tensor:
        """Return the values [..., 1] from ``Forward``'s ``critic`` [..., H]."""
        values: Tensor = self.value_net(self.mlp_extractor.forward_critic(critic))
        return values

    def action_head(self, actor: Tensor, obs: Any) -> Tensor:
        """Return the parameters of ``distribution`` [..., P], from ``actor`` [..., H] and observations [..., ...]."""
        inputs: Tensor = self.action_net(self.mlp_extractor.forward_actor(actor))
        return inputs

    @unchecked()
    def evaluate_chunks(self, chunks: "Chunks") -> tuple[Tensor, Tensor, Tensor | None]:
        """Return a minibatch's values, log-probabilities and entropy (None without a closed form), each [L, n]."""
        shape = chunks.start.shape
        run = OverTime(self, chunks.states, chunks.start)
        distribution, values = Forward(self, flat_in_time(chunks.observations), run).heads()
        log_prob, entropy = distribution.log_prob(chunks.actions.flatten(0, 1)), distribution.entropy()
        return values.view(shape), log_prob.view(shape), None if entropy is None else entropy.view(shape)

    def values_after(self, obs: Any, states: MemoryStates, start: Tensor) -> Tensor:
        """Return values [B] of observations [B, ...] that follow ``states``; ``start`` bool [B] as for the cores."""

        def run(name: str, features: Tensor) -> Tensor:
            return self.cores[name].step(features, getattr(states, name), start)[0]

        return Forward(self, obs, run).values().squeeze(-1)

    @torch.no_grad()
    def refresh_states(self, buffer: "MemoryRolloutBuffer") -> None:
        """Recompute the states at the chunks' beginnings, except the first ones, whose earlier steps are not stored."""
        states = buffer.states[0]
        for number in range(1, len(buffer.states)):
            chunks = buffer.chunks(np.arange(buffer.n_envs) + (number - 1) * buffer.n_envs)
            run = OverTime(self, states, chunks.start)
            Forward(self, flat_in_time(chunks.observations), run).latents()
            states = buffer.states[number] = run.states

    def evaluate_actions(  # type: ignore[override]  # the parent's annotation leaves out None
        self, obs: Any, actions: Tensor, lstm_states: RNNStates, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values, log-probabilities and entropy of ``actions``; arguments as ``RecurrentPPO`` gives them."""
        if isinstance(self.action_space, spaces.MultiBinary):
            actions = actions.float()  # torch computes no Bernoulli likelihood of the buffer's int8
        distribution, values = Forward(self, obs, OverPacked(self, lstm_states, episode_starts)).heads()
        return values, distribution.log_prob(actions), distribution.entropy()

    def observed(self, observation: Any, action_masks: Any = None) -> Any:
        """Return the observation that ``predict`` passes to the encoder.

        Raises:
            ValueError: masks are given, which this policy does not use.
        """
        if action_masks is not None:
            raise ValueError(f"action_masks was given to a {type(self).__name__}, expected a MaskableMemoryPolicy")
        return observation

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Return the action for an observation, and the state to pass to the next call.

        Args:
            observation: one observation or a batch [n_envs, ...].
            state: the state that the last call returned; None starts from the initial state.
            episode_start: bool [n_envs], True where the observation opens an episode.
            deterministic: whether to return the most likely action instead of a sample.
            action_masks: bools [n_envs, K], as the environments' ``action_masks()`` returns them; for a
                ``MaskableMemoryPolicy`` whose observations do not hold them.

        Returns:
            Actions [n_envs, ...] (without the first axis for a single observation), and the state, two arrays
            [1, n_envs, S/2].

        Raises:
            ValueError: state, episode_start or a part of the observation is of another shape than these observations
                need, action_masks is not as the policy needs it, or the observation is the pair that a Gymnasium
                environment's ``reset`` returns.
        """
        if isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], dict):
            raise ValueError(
                "observation is a pair (observation, info), mixing Gym API and SB3 VecEnv API; expected the "
                "observation alone: obs, info = env.reset() of a Gymnasium environment"
            )
        observation = self.observed(observation, action_masks)
        tensor, _ = self.obs_to_tensor(observation)
        n_envs = len(next(iter(tensor.values())) if isinstance(tensor, dict) else tensor)
        if isinstance(tensor, dict) and any(len(part) != n_envs for part in tensor.values()):
            counts = ", ".join(f"{len(part)} of {key!r}" for key, part in tensor.items())
            raise ValueError(f"observation has {counts}, expected as many of every part")
        if episode_start is not None:
            episode_start = self._checked_start(episode_start, n_envs)
        if state is None:
            # The core's initial state need not be the zeros that the parent fills in.
            episode_start = np.ones(n_envs, dtype=bool)
        else:
            self._check_packed_state(state, n_envs)
        return super().predict(observation, state, episode_start, deterministic)

    def _checked_start(self, episode_start: Any, n_envs: int) -> np.ndarray:
        """Return ``episode_start`` as bool [n_envs]; a scalar is allowed for a single environment."""
        start = np.asarray(episode_start)
        if start.dtype.kind not in "biuf" or (start.shape or (1,)) != (n_envs,):
            raise ValueError(
                f"episode_start is {start.dtype} of shape {start.shape}, expected bool of shape {(n_envs,)}, "
                "one for each observation"
            )
        opens: np.ndarray = start.reshape(n_envs) != 0
        return opens

    def _check_packed_state(self, state: Any, n_envs: int) -> None:
        """Raise ValueError unless ``state`` has the form that ``predict`` returns for ``n_envs`` observations."""
        expected = (1, n_envs, self.lstm_actor.hidden_size)
        parts = state if isinstance(state, (tuple, list)) else (state,)
        if isinstance(state, (tuple, list)) and [np.shape(part) for part in parts] == [expected] * 2:
            return
        found = ", ".join(f"{type(part).__name__} of shape {np.shape(part)}" for part in parts)
        raise ValueError(f"state is {found}, expected two arrays of shape {expected}, as of {n_envs} observations")

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            core=self.core_name,
            hidden_size=self.lstm_output_dim,
            core_kwargs=self.core_kwargs,
            critic_core=self.critic_core_mode,
            share_features_extractor=self.share_features_extractor,
        )
        return data


# sb3-contrib's options of its LSTM, and the options that replace them here.
STOCK_OPTIONS = {
    "lstm_hidden_size": "hidden_size",
    "n_lstm_layers": "core_kwargs",
    "lstm_kwargs": "core_kwargs",
    "shared_lstm": 'critic_core="detached"',
    "enable_critic_lstm": 'critic_core="separate" or "none"',
}


def _check_names(kwargs: Mapping[str, Any], core_kwargs: Mapping[str, Any]) -> None:
    """Raise TypeError if an option has sb3-contrib's name, or is given in the wrong dict."""
    for name, ours in STOCK_OPTIONS.items():
        if name in kwargs:
            raise TypeError(f"policy_kwargs has {name!r}, an option of sb3-contrib's LSTM, expected {ours}")
    for name in ("hidden_size", "core"):
        if name in core_kwargs:
            raise TypeError(f"core_kwargs has {name!r}, expected it in policy_kwargs, beside core_kwargs")


def _check_encoder(extractor: type[BaseFeaturesExtractor], options: Mapping[str, Any]) -> None:
    """Raise TypeError if an encoder has no such option."""
    known = inspect.signature(extractor).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values()):
        return
    for name in options:
        if name not in known:
            own = ", ".join(each for each in known if each != "observation_space") or "none"
            raise TypeError(f"{extractor.__name__} has no option {name!r}, expected one of {own}")


class FastWeightPolicy(MemoryPolicy):
    """``MemoryPolicy`` on the cell of Ba et al. (2016), ``FastWeights``."""

    def __init__(self, *args: Any, core: str = "fast_weights", **kwargs: Any) -> None:
        super().__init__(*args, core=core, **kwargs)


class MemoryCnnPolicy(MemoryPolicy):
    """``MemoryPolicy`` for images of any size: the encoder is an ``ImageExtractor``."""

    features_extractor_default = ImageExtractor


class MemoryMultiInputPolicy(MemoryPolicy):
    """``MemoryPolicy`` for Dict observations: the encoder is a ``MultiInputExtractor``."""

    features_extractor_default = MultiInputExtractor


def map_observations(function: Callable[[Any], Any], obs: Any) -> Any:
    """Apply a function to an observation, or to every part of a dict."""
    return {key: function(value) for key, value in obs.items()} if isinstance(obs, dict) else function(obs)


def flat_in_time(obs: Any) -> Any:
    """Return observations [T, B, ...], or a dict of them, as [T * B, ...]."""
    return map_observations(lambda x: x.flatten(0, 1), obs)
