"""A trained policy as a pair of files that loads without pickle: its weights as ``safetensors``, all else as JSON.

SB3's zip holds pickles, and loading one runs whatever code it holds. These hold numbers and words.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from torch import Tensor, nn

from fwagents.export.normalization import Normalization
from fwagents.export.spaces import space_from_json, space_to_json
from fwagents.files import replacing
from fwagents.sb3.encoders import DenseExtractor, ImageExtractor, MultiInputExtractor
from fwagents.sb3.policies import MemoryCnnPolicy, MemoryMultiInputPolicy, MemoryPolicy

FORMAT = "fwagents policy 1"
POLICIES = {cls.__name__: cls for cls in (MemoryPolicy, MemoryCnnPolicy, MemoryMultiInputPolicy)}
# The classes that a file may name; there are no others, so that a file cannot have code imported.
EXTRACTORS = {
    cls.__name__: cls
    for cls in (DenseExtractor, ImageExtractor, MultiInputExtractor, FlattenExtractor, NatureCNN, CombinedExtractor)
}
ACTIVATIONS = {cls.__name__: cls for cls in (nn.Tanh, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid)}
PLAIN = (
    *("core", "hidden_size", "core_kwargs", "critic_core", "net_arch", "log_std_init", "normalize_images"),
    *("share_features_extractor", "features_extractor_kwargs"),
)
NORMALIZATION = "normalization"


class Agent(NamedTuple):
    """A policy that was loaded, and what observations go through before it.

    Attributes:
        policy: in the mode for acting.
        normalization: None where the policy sees observations as they are.
    """

    policy: MemoryPolicy
    normalization: Normalization | None

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """As :meth:`MemoryPolicy.predict`, on observations as the environment gives them."""
        seen = observation if self.normalization is None else self.normalization(observation)
        return self.policy.predict(seen, state, episode_start, deterministic)


def save_policy(policy: MemoryPolicy, path: Path | str, normalization: Normalization | None = None) -> None:
    """Write ``<path>.safetensors`` and ``<path>.json``.

    Args:
        policy: of a trained agent.
        path: without ending; each file is whole or absent.
        normalization: what observations go through before the policy.

    Raises:
        ValueError: the policy has parts that only a pickle could carry; the message names one.
        ImportError: safetensors is not installed.
    """
    safetensors = _safetensors()
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
    }
    tensors = _own_tensors(policy)
    if normalization is not None:
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
    """Read what :func:`save_policy` wrote; no code in the files is run, since they can hold none.

    Args:
        path: without ending.

    Raises:
        ValueError: the files are not such a pair, or do not belong together.
        FileNotFoundError: there are none.
        ImportError: safetensors is not installed.
    """
    safetensors = _safetensors()
    try:
        described = json.loads(Path(f"{path}.json").read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}.json is not JSON: {error}") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise ValueError(f"{path}.json is not of the format {FORMAT!r}")
    try:
        tensors = safetensors.load(Path(f"{path}.safetensors").read_bytes())
        policy = POLICIES[described["policy"]](
            space_from_json(described["observation_space"]),
            space_from_json(described["action_space"]),
            lambda _: 0.0,  # it is not trained
            features_extractor_class=EXTRACTORS[described["features_extractor_class"]],
            activation_fn=ACTIVATIONS[described["activation_fn"]],
            **{name: described[name] for name in PLAIN},
        )
        normalization = _read_normalization(described[NORMALIZATION], tensors)
        weights = {name: value for name, value in tensors.items() if not name.startswith(f"{NORMALIZATION}.")}
        own = _own_tensors(policy)
        if set(own) != set(weights):
            raise ValueError(f"{sorted(set(own) ^ set(weights))[0]} is in but one of weights and description")
        policy.load_state_dict(weights, strict=False)  # what is left out is the same tensor under another name
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a damaged file leads to
        raise ValueError(f"{path}.safetensors and .json are no policy: {error}") from error
    policy.set_training_mode(False)
    return Agent(policy, normalization)


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError('this needs safetensors: pip install "fwagents[export]"') from error
    return safetensors.torch


def _name(cls: type, known: dict[str, Any], option: str) -> str:
    name: str = cls.__name__
    if known.get(name) is not cls:
        raise ValueError(f"{option} is {name}, expected one of {', '.join(known)}")
    return name


def _own_tensors(policy: MemoryPolicy) -> dict[str, Tensor]:
    """Weights and buffers, each once: a shared encoder goes by several names."""
    seen: set[int] = set()
    own = {}
    for name, value in policy.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            own[name] = value.detach().cpu().contiguous()
    return own


def _statistics(normalization: Normalization) -> list[tuple[str, Any]]:
    parts = (("mean", normalization.mean), ("variance", normalization.variance))
    return [(f"{NORMALIZATION}.{kind}.{key}", value) for kind, part in parts for key, value in part.items()]


def _tensor(value: Any) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(value))


def _read_normalization(described: dict[str, float] | None, tensors: dict[str, Tensor]) -> Normalization | None:
    if described is None:
        return None
    parts: dict[str, dict[str, Any]] = {"mean": {}, "variance": {}}
    for name, value in tensors.items():
        if name.startswith(f"{NORMALIZATION}."):
            _, kind, key = name.split(".", 2)
            parts[kind][key] = value.numpy()
    return Normalization(**parts, epsilon=described["epsilon"], clip=described["clip"])
