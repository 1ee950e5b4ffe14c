"""A trained policy as a pair of files that loads without pickle: its weights as ``safetensors``, all else as JSON.

SB3's zip holds pickles, and loading one runs whatever code it holds. These hold numbers and words.
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
from fwagents.sb3.policies import POLICIES, MemoryPolicy
from fwagents.sb3.previous_step import check_observe

FORMAT = "fwagents policy 3"
# The classes that a file may name, beside the policies; there are no others, so that a file cannot have code imported.
EXTRACTORS = {
    cls.__name__: cls
    for cls in (DenseExtractor, ImageExtractor, MultiInputExtractor, FlattenExtractor, NatureCNN, CombinedExtractor)
}
ACTIVATIONS = {cls.__name__: cls for cls in (nn.Tanh, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid)}
# The policy's plain options, and what each may be.
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
    """A policy that was loaded, and what observations go through before it.

    Attributes:
        policy: in the mode for acting.
        normalization: None where the policy sees observations as they are.
        observe: the parts of its last step that observations have to hold beside the environment's own, as
            ``fwagents.envs.wrappers.PreviousStep`` adds them; () for none.
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
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """As ``MemoryPolicy.predict``, on observations as the environment gives them."""
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
        policy: of a trained agent.
        path: without ending; each file is whole or absent.
        normalization: what observations go through before the policy.
        observe: the parts of its last step that ``PreviousStep`` added to the observations that it was trained on.

    Raises:
        ValueError: the policy has parts that only a pickle could carry, and the message names one; or ``observe`` is
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
    """Read what ``save_policy`` wrote; no code in the files is run, since they can hold none.

    Args:
        path: without ending.

    Raises:
        ValueError: the files are not such a pair, or do not belong together.
        FileNotFoundError: there are none.
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
        with torch.device("meta"):  # where a tensor takes no memory, whatever its description asks for
            _require_fit(_own_tensors(_described_policy(described)), weights)
        policy = _described_policy(described)
        policy.load_state_dict(weights, strict=False)  # what is left out is the same tensor under another name
        normalization = _read_normalization(described[NORMALIZATION], statistics)
        observe = tuple(described[OBSERVE])
        if observe:
            check_observe(observe)
        if normalization is not None:
            normalization.require_fit(policy.observation_space)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a damaged file leads to
        raise ValueError(f"{path}.safetensors and .json are no policy: {error}") from error
    policy.set_training_mode(False)
    return Agent(policy, normalization, observe)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _require_small_spaces(described: dict[str, Any], size: int) -> None:
    """Every entry of an observation or an action has weights of its own, of four bytes each."""
    for name in ("observation_space", "action_space"):
        entries = described_size(described[name])
        if entries > size:
            raise ValueError(f"{name} has {entries:,} entries, expected no more than the weights have bytes, {size:,}")


def _described_policy(described: dict[str, Any]) -> MemoryPolicy:
    """The policy of a description, its weights at random.

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
        lambda _: 0.0,  # it is not trained
        features_extractor_class=EXTRACTORS[described["features_extractor_class"]],
        activation_fn=ACTIVATIONS[described["activation_fn"]],
        **{name: described[name] for name in PLAIN},
    )


def _require_fit(expected: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    """Raise ValueError unless the weights are those of the description, in name, shape and dtype."""
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
    """Weights and buffers, each once: a shared encoder goes by several names."""
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
