"""Comparison of an exported policy with the original policy on the same episodes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from fwagents.inspection.episodes import trace_episodes
from fwagents.inspection.traces import Array
from fwagents.sb3.policies import MemoryPolicy, map_observations


class OnnxPlayer:
    """A policy in onnxruntime, one step at a time or over a sequence.

    Args:
        path: a file that ``export_onnx`` wrote.

    Raises:
        ImportError: onnxruntime is not installed.
    """

    def __init__(self, path: Path | str) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError('this needs onnxruntime: pip install "fwagents[export]"') from error
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.leaves = [name.removeprefix("next.") for name in self.outputs if name.startswith("next.")]
        self.shapes = {value.name: value.shape for value in self.session.get_inputs()}

    def empty(self, batch_size: int) -> dict[str, Array]:
        """Return an initial memory of NaN, since a policy ignores the memory at a start."""
        return {name: np.full((batch_size, *self.shapes[name][1:]), np.nan, np.float32) for name in self.leaves}

    def __call__(self, observation: Any, start: Array, memory: dict[str, Array]) -> tuple[dict[str, Array], Any]:
        """Run the policy: observations, starts and memory -> outputs by name, and the memory after them.

        Observations are [batch, ...], or [time, batch, ...] for a sequence; they may be a dict.
        """
        parts = observation.items() if isinstance(observation, dict) else [("", observation)]
        fed = {"observation" + (f".{key}" if key else ""): value for key, value in parts}
        found = dict(zip(self.outputs, self.session.run(None, {**fed, "start": start, **memory}), strict=True))
        return found, {name: found.pop(f"next.{name}") for name in self.leaves}


class Agreement(NamedTuple):
    """Agreement of an exported policy with its original over whole episodes.

    Attributes:
        steps: number of steps that were compared.
        actions: share of the steps with the same action; continuous actions may differ by 1e-3.
        values: largest difference of the values, divided by the largest absolute value if that is above 1.
        probabilities: largest difference of the actions' probabilities; 0 for continuous actions.
    """

    steps: int
    actions: float
    values: float
    probabilities: float


def compare(
    model: Any,
    step_path: Path | str,
    sequence_path: Path | str,
    env: gym.Env[Any, Any],
    *,
    episodes: int = 3,
    seed: int = 0,
    normalize_obs: Callable[[Any], Any] | None = None,
) -> tuple[Agreement, Agreement]:
    """Let the original policy play, then run both exported forms on the same observations.

    Args:
        model: the original, an SB3 model.
        step_path: the exported step.
        sequence_path: the exported sequence.
        env: environment to play.
        episodes: number of episodes.
        seed: seed of the first episode.
        normalize_obs: function applied to observations before the original policy; None for none.

    Returns:
        The agreement of the step, which carries its own memory from call to call, and the agreement of the sequence,
        which gets all episodes as one stream with starts.
    """
    step, sequence = OnnxPlayer(step_path), OnnxPlayer(sequence_path)
    seen: list[Any] = []

    def note(obs: Any) -> Any:
        seen.append(obs)
        return obs if normalize_obs is None else normalize_obs(obs)

    truth = trace_episodes(model, env, episodes=episodes, seed=seed, normalize_obs=note, attention=False)
    start = np.concatenate([np.arange(length) == 0 for length in truth.length])[:, None]
    stream = _stream(model.policy, seen)
    outputs = []
    memory = step.empty(1)
    for t in range(len(start)):
        found, memory = step(_pick(stream, t), start[t], memory)
        outputs.append(found)
    stepped = {name: np.stack([found[name] for found in outputs]) for name in outputs[0]}
    whole, _ = sequence(stream, start, sequence.empty(1))
    # Episodes side by side [T, B, ...] -> concatenated in time, as in the stream.
    order = truth.valid.T
    told = {
        name: None if value is None else np.swapaxes(value, 0, 1)[order]
        for name, value in (("action", truth.actions), ("value", truth.values), ("shares", truth.probabilities))
    }
    space = model.policy.action_space
    return _agreement(space, told, stepped), _agreement(space, told, whole)


def _agreement(space: Any, told: dict[str, Any], found: dict[str, Array]) -> Agreement:
    actions = found["action"][:, 0]
    if actions.shape != told["action"].shape:
        raise ValueError(f"action has shape {actions.shape[1:]}, expected the agent's, {told['action'].shape[1:]}")
    same = np.isclose(actions, told["action"], rtol=0, atol=1e-3).reshape(len(actions), -1).all(1)
    shares = 0.0
    if told["shares"] is not None:
        shares = float(np.abs(probabilities(space, found["logits"][:, 0]) - told["shares"]).max())
    off, largest = (float(np.abs(value).max()) for value in (found["value"][:, 0] - told["value"], told["value"]))
    return Agreement(len(actions), float(same.mean()), off / max(1.0, largest), shares)


def probabilities(space: gym.Space[Any], logits: Array) -> Array:
    """Return the probabilities of discrete actions from logits [N, P]."""
    if isinstance(space, gym.spaces.MultiBinary):
        binary: Array = 1 / (1 + np.exp(-logits))
        return binary
    sizes = space.nvec if isinstance(space, gym.spaces.MultiDiscrete) else [logits.shape[-1]]
    parts = np.split(logits, np.cumsum(sizes)[:-1], axis=-1)
    shares = [np.exp(part - part.max(-1, keepdims=True)) for part in parts]
    return np.concatenate([share / share.sum(-1, keepdims=True) for share in shares], axis=-1)


def _stream(policy: MemoryPolicy, seen: list[Any]) -> Any:
    """Stack a list of observations to [N, 1, ...] in the policy's space, or to a dict of such arrays."""
    if isinstance(seen[0], dict):
        stacked: Any = {key: np.stack([np.asarray(obs[key]) for obs in seen]) for key in seen[0]}
    else:
        stacked = np.stack([np.asarray(obs) for obs in seen])
    tensors: Any = policy.obs_to_tensor(stacked)[0]
    found: Any = map_observations(lambda x: x.unsqueeze(1).cpu(), tensors)
    return {key: value.numpy() for key, value in found.items()} if isinstance(found, dict) else found.numpy()


def _pick(stream: Any, t: int) -> Any:
    return {key: value[t] for key, value in stream.items()} if isinstance(stream, dict) else stream[t]
