"""Train an agent with memory on any Gymnasium environment, and watch its learning curve in TensorBoard.

``fwagents agent --env PartialCatch-v0``
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fwagents.registry import CoreName
from fwagents.runs.cli import key_values
from fwagents.runs.options import (
    ALWAYS,
    Count,
    CountOrNone,
    Norm,
    OutputFolder,
    Seed,
    Share,
    TakenBy,
    Threads,
    Units,
    Weight,
    Within,
    check_idle,
)
from fwagents.settings import AGENT_CORE, defaults_for

# Every option says who takes it. An algorithm takes what its constructor takes; see algorithms.py.
EVERY = ("memory_ppo", "memory_a2c", "recurrent_ppo", "appo")
ALL = TakenBy(algo=EVERY)
CLIPPING = TakenBy(algo=("memory_ppo", "recurrent_ppo", "appo"))
EPOCHS = TakenBy(algo=("memory_ppo", "recurrent_ppo"))
EPOCHS_SB3 = TakenBy(algo=("memory_ppo", "recurrent_ppo"), engine=("sb3",))
ADVANTAGES = TakenBy(algo=("memory_ppo", "memory_a2c", "recurrent_ppo"))
CHUNKS = TakenBy(algo=("memory_ppo", "memory_a2c", "appo"))
RAY = TakenBy(engine=("ray",))
SB3 = TakenBy(engine=("sb3",))
# The engines that train an algorithm.
ENGINES = {"memory_ppo": ("sb3", "ray"), "memory_a2c": ("sb3",), "recurrent_ppo": ("sb3",), "appo": ("ray",)}


@dataclass
class Args:
    """Train an agent with memory. The defaults shown are the settings for the given environment and core."""

    env: Annotated[str, ALWAYS] = "PartialCatch-v0"
    """Any Gymnasium id; "module:Id" imports the module first."""
    env_kwargs: Annotated[tuple[str, ...], ALWAYS] = ()
    """Keyword arguments of the environment: size=20 visible_frames=2"""
    wrappers: Annotated[tuple[str, ...], ALWAYS] = ()
    """Wrappers of each environment, the innermost first: module:Class or "module:Class(name=value)"."""
    frame_stack: Annotated[Count, ALWAYS] = 1
    """Number of last observations that are stacked into one; 1 for the current one alone."""
    observe: Annotated[tuple[Literal["action", "reward"], ...], ALWAYS] = ()
    """Add the last action, the last reward or both to each observation, with a flag that is 1 at the start of an
    episode, where action and reward are zeros; see fwagents.envs.wrappers.PreviousStep."""
    mask_actions: Annotated[bool, SB3] = False
    """Take legal actions only, which the environment's method action_masks() tells; see MaskableMemoryPolicy."""
    vec_env: Annotated[Literal["auto", "dummy", "subproc"], ALWAYS] = "auto"
    """auto runs a native batch of environments where there is one, else a loop; dummy runs a loop; subproc runs each
    environment in its own process."""
    core: Annotated[CoreName, ALWAYS] = AGENT_CORE
    """Memory core."""
    hidden_size: Annotated[Units, ALWAYS] = 128
    """Units of the memory."""
    inner_steps: Annotated[Annotated[int, Within(0, 1000)] | Literal["adaptive"] | None, ALWAYS] = None
    """Core fast_weights: reads of the fast memory per time step, 0 for no memory, or "adaptive"; None is the core's
    default, also for --decay and --fast-lr."""
    decay: Annotated[Share | None, ALWAYS] = None
    """Core fast_weights: share of the fast memory that is left after a step."""
    fast_lr: Annotated[Weight | None, ALWAYS] = None
    """Core fast_weights: rate at which a hidden state is written."""
    core_kwargs: Annotated[tuple[str, ...], ALWAYS] = ()
    """Further options of the core; for rotary_fast_weights, for example: num_heads=8 rotary=all"""
    critic_core: Annotated[Literal["shared", "detached", "separate", "none"], ALWAYS] = "separate"
    """Memory of the value function: the actor's (shared, or detached from the value loss), its own (separate), or none;
    see MemoryPolicy."""
    net_arch: Annotated[tuple[Units, ...], ALWAYS] = ()
    """Units of the layers between the memory and each head, the same for policy and value; none by default."""
    encoder_kwargs: Annotated[tuple[str, ...], ALWAYS] = ()
    """Options of the encoder: features_dim=256 layer_norm=True for a vector, features_dim=256 for an image."""
    algo: Annotated[Literal["memory_ppo", "memory_a2c", "recurrent_ppo", "appo"], ALWAYS] = "memory_ppo"
    """Our MemoryPPO or MemoryA2C, or sb3-contrib's RecurrentPPO; with --engine ray RLlib's PPO, or its asynchronous
    APPO."""
    engine: Annotated[Literal["sb3", "ray"], ALWAYS] = "sb3"
    """Stable-Baselines3 on this machine, or Ray RLlib on this one or a cluster."""
    num_workers: Annotated[CountOrNone, RAY] = 2
    """ray: number of env runners, which share the environments evenly; 0 plays in the learner's own process."""
    address: Annotated[str | None, RAY] = None
    """ray: address of a running cluster, or "auto" for the cluster that this machine is part of; None starts one here.
    """
    normalize: Annotated[bool, SB3] = False
    """Normalize observations and rewards to unit variance by running statistics (VecNormalize), which are saved with
    the agent; images are left as they are, since the encoder scales them."""
    norm_obs_keys: Annotated[tuple[str, ...], TakenBy(normalize=(True,))] = ()
    """Parts of a Dict observation to normalize; by default every Box that is not an image."""

    total_timesteps: Annotated[Count, ALWAYS] = 500_000
    """Environment steps to train for."""
    num_envs: Annotated[Count, ALWAYS] = 32
    """Number of parallel environments."""
    seed: Annotated[Seed, ALL] = 0
    """Seed of weights, environments and exploration."""
    device: Annotated[str, TakenBy(algo=EVERY, engine=("sb3",))] = "cpu"
    """Torch device; small agents are fastest on the CPU."""
    threads: Annotated[Threads, ALWAYS] = 1
    """Torch threads; one is fastest for small agents."""

    resume: Annotated[Path | None, ALWAYS] = None
    """Resume the run in this folder from its newest complete checkpoint; the only other option allowed is --address.
    Resuming imports the environment and wrapper modules that config.json names, and loads SB3's zip files, which run
    code: give only a folder that you trust."""
    log_dir: Annotated[OutputFolder, ALWAYS] = Path("runs")
    """Runs go to <log_dir>/<env>/<core>-s<seed>-<time>."""
    checkpoint_freq: Annotated[CountOrNone, ALWAYS] = 100_000
    """Environment steps between checkpoints; 0 for none."""
    eval_freq: Annotated[CountOrNone, ALWAYS] = 50_000
    """Environment steps between evaluations; 0 for none."""
    eval_episodes: Annotated[Count, ALWAYS] = 100
    """Episodes of each evaluation."""
    final_episodes: Annotated[Count, ALWAYS] = 1000
    """Fresh episodes on which the final table is measured."""
    log_memory: Annotated[bool, SB3] = False
    """Log the memory's attention, a film of an episode and histograms to TensorBoard, at least once, using at most 2 %
    of the training time."""
    log_memory_freq: Annotated[Count | None, TakenBy(log_memory=(True,))] = None
    """Least number of environment steps between two such logs; None for a twentieth of the run."""

    learning_rate: Annotated[Share, ALWAYS] = 1e-3
    """Adam's step size at the start."""
    lr_schedule: Annotated[Literal["constant", "linear"], ALWAYS] = "linear"
    """"linear" falls to a tenth of the learning rate over the run."""
    n_steps: Annotated[Count, ALL] = 32
    """Steps of each environment per rollout."""
    batch_size: Annotated[Count | None, EPOCHS] = None
    """Steps per minibatch; None for the whole rollout."""
    n_epochs: Annotated[Count, EPOCHS] = 4
    """Passes over each rollout."""
    gamma: Annotated[Share, ALL] = 0.99
    """Discount factor."""
    gae_lambda: Annotated[Share, ADVANTAGES] = 0.95
    """Lambda of generalised advantage estimation, which trades bias against variance."""
    clip_range: Annotated[Norm, CLIPPING] = 0.2
    """PPO: range to which the policy ratio is clipped."""
    clip_range_vf: Annotated[Norm | None, EPOCHS_SB3] = None
    """PPO: range to which the change of the value is clipped; None for no clipping."""
    normalize_advantage: Annotated[
        bool, TakenBy(algo=("memory_ppo", "memory_a2c", "recurrent_ppo"), engine=("sb3",))
    ] = True
    """Normalize the advantages of every minibatch to mean 0 and standard deviation 1."""
    ent_coef: Annotated[Weight, ALL] = 0.0
    """Weight of the entropy bonus."""
    vf_coef: Annotated[Weight, ALL] = 0.5
    """Weight of the value loss."""
    max_grad_norm: Annotated[Norm, ALL] = 0.5
    """Norm at which gradients are clipped."""
    target_kl: Annotated[Norm | None, EPOCHS_SB3] = None
    """KL divergence at which a rollout's epochs end early; None for never."""
    chunk_length: Annotated[Count | None, CHUNKS] = None
    """Steps over which gradients flow back; None for whole rollouts. Not for recurrent_ppo."""
    refresh_states: Annotated[bool, TakenBy(algo=("memory_ppo",), engine=("sb3",))] = False
    """memory_ppo: recompute the chunks' first states before every epoch except the first."""
    use_rms_prop: Annotated[bool, TakenBy(algo=("memory_a2c",))] = False
    """memory_a2c: RMSprop in place of Adam."""


def policy_options(args: Args, core_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as ``policy_kwargs`` of Stable-Baselines3's algorithms.

    Args:
        args: the command line.
        core_kwargs: options of the core.
    """
    return {
        "core": args.core,
        "hidden_size": args.hidden_size,
        "core_kwargs": dict(core_kwargs),
        "critic_core": args.critic_core,
        "net_arch": list(args.net_arch),
        "features_extractor_kwargs": key_values("--encoder-kwargs", args.encoder_kwargs),
    }


def check_engine(args: Args) -> None:
    """Raise ValueError unless the engine trains the algorithm and takes every option that differs from its default."""
    if args.engine not in ENGINES[args.algo]:
        known = " or ".join(algo for algo, engines in ENGINES.items() if args.engine in engines)
        raise ValueError(f"--algo is {args.algo!r}, expected {known} with --engine {args.engine}")
    check_idle(args, "engine")


def args_for(argv: Sequence[str]) -> Args:
    """Return the defaults for the environment, its arguments and the core that the command line names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--env", nargs="?", default=Args.env)
    parser.add_argument("--env-kwargs", "--env_kwargs", nargs="*", default=())
    parser.add_argument("--core", nargs="?", default=Args.core)
    known = parser.parse_known_args(argv)[0]
    env, core = known.env or Args.env, known.core or Args.core  # what is missing is reported when all is parsed
    return Args(**{"env": env, **options_for(env, core, key_values("--env-kwargs", known.env_kwargs))})


def options_for(env: str, core: str, env_kwargs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """``fwagents.settings.defaults_for`` as fields of ``Args``, which hold the core's options as words."""
    found = defaults_for(env, core, env_kwargs)
    words = tuple(f"{name}={value!r}" for name, value in found.get("core_kwargs", {}).items())
    return {**found, "core_kwargs": words}
