"""A policy as a pure function of one step: from observation and memory to action and memory."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import MaskableBernoulliDistribution
from torch import Tensor, nn

from fwagents.cores import AssociativeLSTM, FastWeights, MemoryCore
from fwagents.export.associative_lstm import real_cell
from fwagents.export.normalization import Normalization
from fwagents.sb3.forward import Forward
from fwagents.sb3.policies import MemoryPolicy


class PolicyStep(nn.Module):
    """One step of a policy, for tracing: without internal state, and without Python branches on tensor values.

    Args:
        policy: the policy, which is copied; the copy runs fast weights in plain torch.
        normalization: normalisation of the observations; None for none.

    Raises:
        ValueError: the normalisation does not fit the policy's observations, or the policy uses state-dependent
            exploration, which cannot be exported.

    Attributes:
        input_names: names of the observation (``observation``, or ``observation.<key>`` for each entry of a dict),
            ``start``, and every leaf of the memory (``actor.h``, ``actor.A``, ``critic.h`` ...).
        output_names: ``action``, ``logits`` (or ``mean`` and ``std`` of continuous actions), ``value``, and the leaves
            as ``next.actor.h`` ...
    """

    def __init__(self, policy: MemoryPolicy, normalization: Normalization | None = None) -> None:
        super().__init__()
        if policy.use_sde:
            raise ValueError("use_sde is True, expected a policy without state-dependent exploration")
        self.policy = copy.deepcopy(policy).cpu()
        self.policy.set_training_mode(False)
        self.normalization = normalization
        space = policy.observation_space
        if normalization is not None:
            normalization.require_fit(space)
        self.keys = list(space.spaces) if isinstance(space, spaces.Dict) else None
        leaves: list[str] = []
        for name, core in self.policy.cores.items():
            if isinstance(core, FastWeights):
                core.backend = "torch"
            leaves += [f"{name}.{leaf}" for leaf in core.state_type._fields]
        observed = ["observation"] if self.keys is None else [f"observation.{key}" for key in self.keys]
        continuous = isinstance(policy.action_space, spaces.Box)
        self.input_names = [*observed, "start", *leaves]
        self.output_names = ["action", *(["mean", "std"] if continuous else ["logits"]), "value"]
        self.output_names += [f"next.{leaf}" for leaf in leaves]
        self.eval()

    def example(self, batch_size: int) -> tuple[Tensor, ...]:
        """Return inputs of the right shapes and dtypes: random observations, starts and an initial memory."""
        space: Any = self.policy.observation_space
        parts = [space] if self.keys is None else [space[key] for key in self.keys]
        observed = [torch.as_tensor(part.sample()).expand(batch_size, *part.shape).clone() for part in parts]
        start = torch.zeros(batch_size, dtype=torch.bool)
        states = [core.initial_state(batch_size) for core in self.policy.cores.values()]
        return (*observed, start, *(leaf for state in states for leaf in state))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run one step; inputs and outputs [B, ...] are in the order of ``input_names`` and ``output_names``.

        Continuous actions have the shape of the space.
        """
        count = 1 if self.keys is None else len(self.keys)
        obs: Any = inputs[0] if self.keys is None else dict(zip(self.keys, inputs[:count], strict=True))
        if self.normalization is not None:
            obs = self.normalization(obs)
        start, leaves = inputs[count], iter(inputs[count + 1 :])
        cores = self.policy.cores
        before = {name: [next(leaves) for _ in core.state_shapes] for name, core in cores.items()}
        after: dict[str, tuple[Tensor, ...]] = {}

        def run(name: str, features: Tensor) -> Tensor:
            y, after[name] = _step(cores[name], features, before[name], start)
            return y

        forward = Forward(self.policy, obs, run)
        action, value = self._actions(forward.action_inputs()), forward.values().squeeze(-1)
        return *action, value, *(leaf for name in cores for leaf in after[name])

    def _actions(self, found: Tensor) -> tuple[Tensor, ...]:
        """Return the most likely action and its distribution's parameters, from the policy's last layer [B, P]."""
        space: Any = self.policy.action_space
        if isinstance(space, spaces.Box):
            dtype = np.result_type(space.dtype, np.float32)  # the dtype of NumPy's clip, so also of ``predict``
            low, high = (torch.from_numpy(np.array(bound, dtype)) for bound in (space.low, space.high))
            mean, std = (x.reshape(-1, *space.shape) for x in (found, self.policy.log_std.exp().expand_as(found)))
            return torch.minimum(torch.maximum(mean, low), high), mean, std
        if isinstance(self.policy.action_dist, MaskableBernoulliDistribution):
            found = found[:, 1::2] - found[:, ::2]  # it has a logit for 0 and one for 1
        if isinstance(space, spaces.MultiBinary):
            return (found > 0).to(torch.int8), found
        if isinstance(space, spaces.MultiDiscrete):
            parts = torch.split(found, space.nvec.tolist(), dim=-1)
            return torch.stack([part.argmax(-1) for part in parts], dim=-1), found
        return found.argmax(-1), found


def _step(
    core: MemoryCore[Any], x: Tensor, leaves: Sequence[Tensor], start: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run one step of a core after a reset of the rows at a start; ``core.step`` checks sizes, which tracing lacks."""
    begun = [
        torch.where(start.reshape(-1, *[1] * (leaf.dim() - 1)), fresh, leaf)
        for leaf, fresh in zip(leaves, core.initial_state(1), strict=True)
    ]
    state = core.state_type._make(begun)
    if isinstance(core, AssociativeLSTM):
        return real_cell(core, x, state)
    y, state = core.stretch(x.unsqueeze(0), state)  # ``stretch`` is plain torch
    return y.squeeze(0), state
