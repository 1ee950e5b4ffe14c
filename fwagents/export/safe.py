"""Saves a trained policy as two files that load without pickle: weights as ``safetensors``, the rest as JSON.

SB3's zip holds pickles, and loading a pickle can run any code. These files hold only numbers and text.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from torch import Tensor, nn

from fwagents.export.normalization import Normalization
from fwagents.export.spaces import described_size, space_from_json, space_to_json
from fwagents.files import replacing
from fwagents.sb3.encoders import DenseExtractor, ImageExtractor, MultiInputExtractor
from fwagents.sb3.policies import MemoryPolicy
from fwagents.sb3.previous_step import check_observe
from fwagents.sb3.registry import POLICIES

FORMAT = "fwagents policy 3"
# The only classes that a file may name besides the policies, so that a file cannot cause imports.
EXTRACTORS = {
    cls.__name__: cls
    for cls in (DenseExtractor, ImageExtractor, MultiInputExtractor, FlattenExtractor, NatureCNN, CombinedExtractor)
}
ACTIVATIONS = {cls.__name__: cls for cls in (nn.Tanh, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid)}
# The policy's plain options, and the types that each may have.
PLAIN: dict[str, tuple[type, ...]] = {
    "core": (str,),
    "hidden_size": (int,),
    "core_kwargs": (dict,),
    "critic_core": (str,),
    "net_arch": (list, dict),
    "log_std_init": (int, float),
    "normalize_images": (bool,),
    "share_features_extractor": (bool,),
    "features_extractor_kwargs": (dict,),
}
NORMALIZATION, OBSERVE = "normalization", "observe"


class Agent(NamedTuple):
    """A loaded policy, and the preprocessing of its observations.

    Attributes:
        policy: the policy in evaluation mode.
        normalization: normalisation of the observations; None for none.
        observe: parts of the previous step that ``fwagents.envs.wrappers.PreviousStep`` must add to the observations;
            () for none.
    """

    policy: MemoryPolicy
    normalization: Normalization | None
    observe: tuple[str, ...]

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Run ``MemoryPolicy.predict`` on observations before normalisation."""
        observation = self.policy.observed(observation, action_masks)
        seen = observation if self.normalization is None else self.normalization(observation)
        return self.policy.predict(seen, state, episode_start, deterministic)


def save_policy(
    policy: MemoryPolicy,
    path: Path | str,
    normalization: Normalization | None = None,
    observe: Sequence[str] = (),
) -> None:
    """Write ``<path>.safetensors`` and ``<path>.json``.

    Args:
        policy: policy of a trained agent.
        path: path without ending; each file is written whole or not at all.
        normalization: normalisation of the observations in training.
        observe: parts of the previous step that ``PreviousStep`` added to the observations in training.

    Raises:
        ValueError: the policy has a part that only a pickle could store, which the message names; or ``observe`` is
            not "action", "reward" or both.
        ImportError: safetensors is not installed.
    """
    safetensors = _safetensors()
    if observe:
        check_observe(observe)
    parameters = policy._get_constructor_parameters()
    described = {
        "format": FORMAT,
        "policy": _name(type(policy), POLICIES, "policy"),
        "observation_space": space_to_json(policy.observation_space),
        "action_space": space_to_json(policy.action_space),
        "features_extractor_class": _name(policy.features_extractor_class, EXTRACTORS, "features_extractor_class"),
        "activation_fn": _name(policy.activation_fn, ACTIVATIONS, "activation_fn"),
        **{name: parameters[name] for name in PLAIN},
        NORMALIZATION: None,
        OBSERVE: list(observe),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in _own_tensors(policy).items()}
    if normalization is not None:
        normalization.require_fit(policy.observation_space)
        described[NORMALIZATION] = {"epsilon": normalization.epsilon, "clip": normalization.clip}
        tensors |= {name: _tensor(value) for name, value in _statistics(normalization)}
    try:
        text = json.dumps(described, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"the policy's options do not go into JSON: {error}") from error
    for ending, content in ((".safetensors", safetensors.save(tensors)), (".json", text.encode())):
        with replacing(Path(f"{path}{ending}")) as file:
            file.write(content)


def load_policy(path: Path | str) -> Agent:
    """Read the files of ``save_policy``; they can hold no code.

    Args:
        path: path without ending.

    Raises:
        ValueError: the files are not such a pair, or do not belong together.
        FileNotFoundError: a file does not exist.
        ImportError: safetensors is not installed.
    """
    safetensors = _safetensors()
    try:
        described = json.loads(Path(f"{path}.json").read_text(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}.json is not JSON: {error}") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise ValueError(f"{path}.json is not of the format {FORMAT!r}")
    try:
        content = Path(f"{path}.safetensors").read_bytes()
        tensors = safetensors.load(content)
        statistics = {name: value for name, value in tensors.items() if name.startswith(f"{NORMALIZATION}.")}
        weights = {name: value for name, value in tensors.items() if name not in statistics}
        _require_small_spaces(described, len(content))
        with torch.device("meta"):  # tensors take no memory there, even if the file describes huge ones
            _require_fit(_own_tensors(_described_policy(described)), weights)
        policy = _described_policy(described)
        policy.load_state_dict(weights, strict=False)  # a missing name is an alias of a tensor that is present
        normalization = _read_normalization(described[NORMALIZATION], statistics)
        observe = tuple(described[OBSERVE])
        if observe:
            check_observe(observe)
        if normalization is not None:
            normalization.require_fit(policy.observation_space)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file can cause any exception
        raise ValueError(f"{path}.safetensors and .json are no policy: {error}") from error
    policy.set_training_mode(False)
    return Agent(policy, normalization, observe)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _require_small_spaces(described: dict[str, Any], size: int) -> None:
    """Raise ValueError if a space has more entries than the weights have bytes, since every entry has weights."""
    for name in ("observation_space", "action_space"):
        entries = described_size(described[name])
        if entries > size:
            raise ValueError(f"{name} has {entries:,} entries, expected no more than the weights have bytes, {size:,}")


def _described_policy(described: dict[str, Any]) -> MemoryPolicy:
    """Build the described policy with random weights.

    Raises:
        ValueError: a field has a value of the wrong type.
    """
    for name, types in PLAIN.items():
        if type(described[name]) not in types:
            expected = " or ".join(kind.__name__ for kind in types)
            raise ValueError(f"{name} is {described[name]!r}, expected {expected}")
    for name in ("core_kwargs", "features_extractor_kwargs"):
        for option, value in described[name].items():
            if value is None:
                raise ValueError(f"{option} of {name} is null, expected a value")
    return POLICIES[described["policy"]](
        space_from_json(described["observation_space"]),
        space_from_json(described["action_space"]),
        lambda _: 0.0,  # the learning rate is not used
        features_extractor_class=EXTRACTORS[described["features_extractor_class"]],
        activation_fn=ACTIVATIONS[described["activation_fn"]],
        **{name: described[name] for name in PLAIN},
    )


def _require_fit(expected: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    """Raise ValueError unless the weights have the names, shapes and dtypes of the description."""
    if set(expected) != set(weights):
        raise ValueError(f"{sorted(set(expected) ^ set(weights))[0]} is in only one of weights and description")
    for name, tensor in expected.items():
        found, wanted = ((tuple(x.shape), x.dtype) for x in (weights[name], tensor))
        if found != wanted:
            raise ValueError(f"{name} is {found[1]} {found[0]}, expected {wanted[1]} {wanted[0]}")


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError('this needs safetensors: pip install "fwagents[export]"') from error
    return safetensors.torch


def _name(cls: type, known: Mapping[str, Any], option: str) -> str:
    name: str = cls.__name__
    if known.get(name) is not cls:
        raise ValueError(f"{option} is {name}, expected one of {', '.join(known)}")
    return name


def _own_tensors(policy: MemoryPolicy) -> dict[str, Tensor]:
    """Return weights and buffers, each under one name, since a shared encoder has several."""
    seen: set[int] = set()
    own = {}
    for name, value in policy.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            own[name] = value
    return own


def _statistics(normalization: Normalization) -> list[tuple[str, Any]]:
    parts = (("mean", normalization.mean), ("variance", normalization.variance))
    return [(f"{NORMALIZATION}.{kind}.{key}", value) for kind, part in parts for key, value in part.items()]


def _tensor(value: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(value))


def _read_normalization(described: dict[str, float] | None, statistics: dict[str, Tensor]) -> Normalization | None:
    if described is None:
        if statistics:
            raise ValueError(f"{min(statistics)} is in the weights, expected no such: {NORMALIZATION} is null")
        return None
    for name in ("epsilon", "clip"):
        if type(described[name]) not in (int, float) or described[name] <= 0:
            raise ValueError(f"{name} of {NORMALIZATION} is {described[name]!r}, expected a number above 0")
    parts: dict[str, dict[str, Any]] = {"mean": {}, "variance": {}}
    for name, value in statistics.items():
        _, kind, key = name.split(".", 2)
        parts[kind][key] = value.numpy()
    return Normalization(**parts, epsilon=described["epsilon"], clip=described["clip"])
