"""Train an agent with memory on any Gymnasium environment, and watch its learning curve in TensorBoard.

``fwagents agent --env PartialCatch-v0``
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fwagents.runs.cli import CoreName, key_values
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
    """Train an agent with memory. The defaults shown are those of the environment and core given."""

    env: Annotated[str, ALWAYS] = "PartialCatch-v0"
    """Any Gymnasium id; "module:Id" imports the module first."""
    env_kwargs: Annotated[tuple[str, ...], ALWAYS] = ()
    """Keyword arguments of the environment: size=20 visible_frames=2"""
    wrappers: Annotated[tuple[str, ...], ALWAYS] = ()
    """Around each environment, the innermost first: module:Class or "module:Class(name=value)"."""
    frame_stack: Annotated[Count, ALWAYS] = 1
    """Last observations side by side as one; 1 for none but the present one."""
    observe: Annotated[tuple[Literal["action", "reward"], ...], ALWAYS] = ()
    """Parts of each observation beside the environment's own: the last action, the last reward or both, with a flag
    that is 1 at the start of an episode, where they are zeros; see fwagents.envs.wrappers.PreviousStep."""
    vec_env: Annotated[Literal["auto", "dummy", "subproc"], ALWAYS] = "auto"
    """Environments as one batch where there is a native one; in a loop; or each in a process of its own."""
    core: Annotated[CoreName, ALWAYS] = AGENT_CORE
    """The memory."""
    hidden_size: Annotated[Units, ALWAYS] = 128
    """Units of the memory."""
    inner_steps: Annotated[Annotated[int, Within(0, 1000)] | Literal["adaptive"] | None, ALWAYS] = None
    """Core fast_weights: reads of the fast memory per time step, 0 for no memory, or "adaptive"; None is the core's
    default, as for the next two."""
    decay: Annotated[Share | None, ALWAYS] = None
    """Core fast_weights: what is left of the fast memory after a step."""
    fast_lr: Annotated[Weight | None, ALWAYS] = None
    """Core fast_weights: rate at which a hidden state is written."""
    core_kwargs: Annotated[tuple[str, ...], ALWAYS] = ()
    """Further options of the core, as of rotary_fast_weights: num_heads=8 rotary=all"""
    critic_core: Annotated[Literal["shared", "detached", "separate", "none"], ALWAYS] = "separate"
    """Where the value's memory comes from; see MemoryPolicy."""
    algo: Annotated[Literal["memory_ppo", "memory_a2c", "recurrent_ppo", "appo"], ALWAYS] = "memory_ppo"
    """Our MemoryPPO or MemoryA2C, or sb3-contrib's RecurrentPPO; with --engine ray RLlib's PPO, or its asynchronous
    APPO."""
    engine: Annotated[Literal["sb3", "ray"], ALWAYS] = "sb3"
    """Stable-Baselines3 on this machine, or Ray RLlib on this one or a cluster."""
    num_workers: Annotated[CountOrNone, RAY] = 2
    """ray: env runners, among which the environments are shared out; 0 plays in the learner's own process."""
    address: Annotated[str | None, RAY] = None
    """ray: of a running cluster, or "auto" for the one that this machine is part of; None starts one here."""
    normalize: Annotated[bool, SB3] = False
    """Observations and rewards to unit variance by running statistics (VecNormalize), saved with the agent; images stay
    as they are, since convolutions scale them."""
    norm_obs_keys: Annotated[tuple[str, ...], TakenBy(normalize=(True,))] = ()
    """The parts of a Dict observation to normalize; none given is every Box that is no image."""

    total_timesteps: Annotated[Count, ALWAYS] = 500_000
    """Environment steps to train for."""
    num_envs: Annotated[Count, ALWAYS] = 32
    """Environments side by side."""
    seed: Annotated[Seed, ALL] = 0
    """Seed of weights, environments and exploration."""
    device: Annotated[str, TakenBy(algo=EVERY, engine=("sb3",))] = "cpu"
    """Torch device; small agents are fastest on the CPU."""
    threads: Annotated[Threads, ALWAYS] = 1
    """Torch threads; one is fastest for small agents."""

    resume: Annotated[Path | None, ALWAYS] = None
    """Go on with the run in this folder, from its newest whole checkpoint; takes no other option but --address.
    That imports the modules of the environment and the wrappers that its config.json names, and loads SB3's zip files,
    which run code: only a folder that you trust."""
    log_dir: Annotated[OutputFolder, ALWAYS] = Path("runs")
    """Runs go to <log_dir>/<env>/<core>-s<seed>-<time>."""
    checkpoint_freq: Annotated[CountOrNone, ALWAYS] = 100_000
    """Environment steps between checkpoints; 0 for none."""
    eval_freq: Annotated[CountOrNone, ALWAYS] = 50_000
    """Environment steps between evaluations; 0 for none."""
    eval_episodes: Annotated[Count, ALWAYS] = 100
    """Episodes of each evaluation."""
    final_episodes: Annotated[Count, ALWAYS] = 1000
    """Fresh episodes that the closing table is measured on."""
    log_memory: Annotated[bool, SB3] = False
    """In TensorBoard: the memory's attention, a film of an episode, histograms, as often as 2 % of the time allow, and
    once at least."""
    log_memory_freq: Annotated[Count | None, TakenBy(log_memory=(True,))] = None
    """Environment steps between them, at least; None for a twentieth of the run."""

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
    """Bias against variance in generalised advantage estimation."""
    clip_range: Annotated[Norm, CLIPPING] = 0.2
    """PPO's clipping of the policy ratio."""
    clip_range_vf: Annotated[Norm | None, EPOCHS_SB3] = None
    """PPO's clipping of the value; None for none."""
    normalize_advantage: Annotated[
        bool, TakenBy(algo=("memory_ppo", "memory_a2c", "recurrent_ppo"), engine=("sb3",))
    ] = True
    """Advantages to mean 0 and deviation 1 in every minibatch."""
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
    """memory_ppo: compute the chunks' first states anew before every epoch but the first."""
    use_rms_prop: Annotated[bool, TakenBy(algo=("memory_a2c",))] = False
    """memory_a2c: RMSprop in place of Adam."""


def check_engine(args: Args) -> None:
    """ValueError unless the engine trains the algorithm and takes every option that is not as it is by default."""
    if args.engine not in ENGINES[args.algo]:
        known = " or ".join(algo for algo, engines in ENGINES.items() if args.engine in engines)
        raise ValueError(f"--algo is {args.algo!r}, expected {known} with --engine {args.engine}")
    check_idle(args, "engine")


def args_for(argv: Sequence[str]) -> Args:
    """The defaults for the environment, its arguments and the core that the command line names."""
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
