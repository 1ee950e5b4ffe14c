"""The memory that a run needs and the device that it is to run on, checked before anything is made."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from gymnasium import spaces
from torch import nn

ADAM = 4  # copies of the weights: themselves, their gradients and two moments
FLOAT = 4  # bytes
PER_STEP = 6 * FLOAT  # reward, value, log-probability, advantage, return, start
PROCESS = 100 * 2**20  # least bytes of an environment in its own process

ModelT = TypeVar("ModelT", bound=nn.Module)


def machine_memory() -> int | None:
    """Return this machine's memory in bytes; None if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def require(parts: Mapping[str, float]) -> None:
    """Raise ValueError if more memory is needed than the machine has.

    Args:
        parts: required bytes, by the name of their purpose.
    """
    needed, there = sum(parts.values()), machine_memory()
    if there is not None and needed > there:
        most = max(parts, key=lambda part: parts[part])
        raise ValueError(
            f"{most} would take {parts[most] / 1e9:,.1f} GB of memory, expected at most {there / 1e9:,.1f} GB for the "
            "whole run: this machine has no more"
        )


def check_device(name: str) -> None:
    """Raise ValueError unless torch can compute on a device."""
    try:
        if name != "auto":  # Stable-Baselines3's own word
            torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(f"--device is {name!r}, expected one that torch can compute on here: {why}") from error


def check_agent(args: Any, env_kwargs: dict[str, Any], core_kwargs: dict[str, Any]) -> None:
    """Estimate the memory of a run of ``fwagents agent``.

    Raises:
        ValueError: the run needs more memory than there is, or an option is not possible.
    """
    from fwagents.runs.agent import policy_options
    from fwagents.runs.environments import Environment
    from fwagents.sb3 import MemoryPPO
    from fwagents.sb3.registry import policy_for

    environment = Environment.of(vars(args), env_kwargs)
    one = replace(environment, frame_stack=1).one()
    seen = space_bytes(one.observation_space, FLOAT if args.normalize else 1) * args.frame_stack
    acted = space_bytes(one.action_space)
    one.close()
    steps = args.n_steps * args.num_envs
    named = f"--n-steps {args.n_steps} of --num-envs {args.num_envs}"
    process = PROCESS * args.num_envs if args.vec_env == "subproc" else 0
    parts: dict[str, float] = {
        f"the rollout, {named} with --frame-stack {args.frame_stack}": steps * (seen + acted + PER_STEP),
        f"--num-envs {args.num_envs} in processes": process,
    }
    require(parts)
    with torch.device("meta"):  # sizes without memory
        venv = replace(environment, vec_env="auto" if args.vec_env == "auto" else "dummy").many(1, None)
        policy = MemoryPPO(
            policy_for(venv.observation_space),
            venv,
            n_steps=2,
            policy_kwargs=policy_options(args, core_kwargs),
            device="meta",
        ).policy
        venv.close()
    kept = args.n_steps // (1 if args.algo == "recurrent_ppo" else args.chunk_length or args.n_steps) + 2
    state = FLOAT * sum(core.state_size for core in policy.cores.values())
    sized = f"--hidden-size {args.hidden_size}"
    layers = "".join(f" {units}" for units in args.net_arch)
    require(
        {
            **parts,
            f"the weights, with {sized}{layers and f' and --net-arch{layers}'}": ADAM * weight_bytes(policy),
            f"the memory's states, with {sized}, {named}": kept * args.num_envs * state,
        }
    )


def space_bytes(space: spaces.Space[Any], least: int = 1) -> int:
    """Return the bytes of one element of a space, counting at least ``least`` bytes for each number."""
    if isinstance(space, spaces.Dict):
        return sum(space_bytes(part, least) for part in space.values())
    if space.shape is None or space.dtype is None:
        return 0
    return math.prod(space.shape) * max(least, space.dtype.itemsize)


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's weights."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def make_model(make: Callable[[], ModelT], what: str, rows: int = 1) -> ModelT:
    """Build a model to be trained by Adam.

    Args:
        make: function that builds the model.
        what: the options that determine the model's size.
        rows: examples in a batch, each with its own state of the memory.

    Raises:
        ValueError: the model needs more memory than there is.
    """
    with torch.device("meta"):
        model = make()
    state = getattr(getattr(model, "core", None), "state_size", 0)
    require(
        {
            f"the weights, with {what},": ADAM * weight_bytes(model),
            f"the memory's states, with {what} and --batch-size {rows},": FLOAT * rows * state,
        }
    )
    return make()
