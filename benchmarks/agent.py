"""Training speed of agents with memory, in environment steps per second, against stock Stable-Baselines3.

    python benchmarks/agent.py                  writes results/agent-speed.json and a section of docs/performance.md
    python benchmarks/agent.py --cases tmaze    some of the cases

Every agent takes its turn with one rollout and the update on it, in one process, so that all meet the same noise.
Those with a memory have the same encoder (the observation, one linear layer, ReLU; ours skips the zeros of a blank
screen, the stock agents' is what a user of theirs would write), the same width, and one linear layer each for policy
and value behind the memory; PPO has SB3's own MlpPolicy, two layers for the policy and two for the value. Nothing is
timed if the agents are not right.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import product
from statistics import geometric_mean, median
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common import env_util
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.vec_env import VecEnv

import measuring
from flops import memory_flops
from fwagents.runs.options import Count, Threads, Units
from fwagents.sb3 import DenseExtractor, MemoryPPO, make_vec_env
from fwagents.sb3.encoders import MOST_NONZERO
from fwagents.sb3.vec_env import native_creator
from measuring import Options, table

PACKAGES = ("torch", "numba", "numpy", "gymnasium", "stable-baselines3", "sb3-contrib")
STOCK: dict[str, dict[str, Any]] = {"shared": {"shared_lstm": True, "enable_critic_lstm": False}, "separate": {}}
LARGEST_ERROR = 1e-4  # of log-probabilities and values between rollout and update


def flat_one_hot(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """MiniGrid's view as one vector, every cell one-hot."""
    from minigrid import wrappers

    one_hot, image = (getattr(wrappers, f"{name}ObsWrapper") for name in ("OneHotPartial", "Img"))
    return gym.wrappers.FlattenObservation(image(one_hot(env)))


class Case(NamedTuple):
    """An environment and the size of a rollout."""

    env: str
    num_envs: int = 64
    n_steps: int = 128
    wrapper: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]] | None = None

    @property
    def native(self) -> bool:
        """Whether there is a batch of the environment's own."""
        return ":" not in self.env and native_creator(self.env, {}) is not None


CASES = {
    "catch": Case("PartialCatch-v0"),
    "catch-16": Case("PartialCatch-v0", 16),
    "catch-large": Case("PartialCatchLarge-v0"),
    "catch-large-16": Case("PartialCatchLarge-v0", 16),
    "catch-long": Case("PartialCatch-v0", n_steps=512),
    "cart-pole": Case("CartPoleNoVel-v1"),
    "tmaze": Case("TMaze-v0"),
    "tmaze-long": Case("TMaze-v0", 16, 512),
    "minigrid": Case("minigrid:MiniGrid-MemoryS7-v0", wrapper=flat_one_hot),
    "popgym": Case("popgym:popgym-RepeatPreviousEasy-v0"),
}

if TYPE_CHECKING:
    CaseName: TypeAlias = str
else:
    CaseName = Literal[tuple(CASES)]


@dataclass
class Args(Options):
    """Time the training of agents."""

    cases: tuple[CaseName, ...] = tuple(CASES)
    """environments and sizes"""
    num_envs: Count | None = None
    """environments side by side, in place of the case's"""
    n_steps: Count | None = None
    """steps of each environment per rollout, in place of the case's"""
    threads: Threads = 1
    """torch threads"""
    n_epochs: Count = 4
    """passes over each rollout"""
    minibatches: Count = 4
    """minibatches of each pass"""
    hidden_size: Units = 128
    """units of every layer and memory"""
    repeats: Count = 9
    """rollouts and updates of every agent, of which the median counts"""


class Agent(NamedTuple):
    """An agent that is timed; ``core`` and ``critic`` are empty where there is no memory."""

    algorithm: str
    core: str = ""
    critic: str = ""
    vec_env: str = "native"

    @property
    def name(self) -> str:
        """Algorithm and core."""
        return f"{self.algorithm} {self.core}".strip()


CORES = ("rotary_fast_weights", "fast_weights", "gru", "lstm")
AGENTS = [
    *(Agent("MemoryPPO", core, critic) for critic, core in product(STOCK, CORES)),
    *(Agent("RecurrentPPO", "lstm", critic, vec) for critic, vec in product(STOCK, ("DummyVecEnv", "native"))),
    *(Agent("PPO", vec_env=vec) for vec in ("DummyVecEnv", "native")),
]
# How many times faster than a stock agent in DummyVecEnv: where all episodes have one length, and where not.
TARGETS = {
    ("MemoryPPO rotary_fast_weights", "RecurrentPPO lstm"): (5.0, 10.0),
    ("MemoryPPO rotary_fast_weights", "PPO"): (2.0, 2.0),
    ("MemoryPPO lstm", "RecurrentPPO lstm"): (3.0, 3.0),
}
SHARE_TARGETS = {("MemoryPPO rotary_fast_weights", 64): 0.4}  # of the product rate, in the update


class PlainEncoder(DenseExtractor):
    """The encoder of the stock agents, as their users would write it."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, ...] -> [B, features_dim]."""
        return torch.relu(self.linear(observations.flatten(1)))


class Played(NamedTuple):
    """Facts about a rollout with random weights, from which operations are counted."""

    nonzero: float  # share of the observations' numbers
    keys: float  # mean number of earlier steps in a step's episode
    alike: bool  # whether all episodes that ended had one length


def make_env(kind: str, case: Case) -> VecEnv:
    maker = make_vec_env if kind == "native" else env_util.make_vec_env
    return maker(case.env, case.num_envs, seed=0, wrapper_class=case.wrapper)


def make(agent: Agent, args: Args, case: Case, device: str = "cpu") -> OnPolicyAlgorithm:
    size = args.hidden_size
    made: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
        "MemoryPPO": (
            *(MemoryPPO, "MemoryPolicy", DenseExtractor),
            {"core": agent.core, "critic_core": agent.critic, "hidden_size": size},
        ),
        "RecurrentPPO": (
            *(RecurrentPPO, "MlpLstmPolicy", PlainEncoder),
            {"lstm_hidden_size": size, "net_arch": [], **STOCK.get(agent.critic, {})},
        ),
        "PPO": (PPO, "MlpPolicy", None, {"net_arch": [size, size]}),
    }
    make_algorithm, policy, encoder, kwargs = made[agent.algorithm]
    if encoder is not None:
        kwargs |= {"features_extractor_class": encoder, "features_extractor_kwargs": {"features_dim": size}}
    model: OnPolicyAlgorithm = make_algorithm(
        policy,
        make_env(agent.vec_env, case),
        n_steps=case.n_steps,
        batch_size=case.n_steps * case.num_envs // args.minibatches,
        n_epochs=args.n_epochs,
        policy_kwargs=kwargs,
        seed=0,
        device=device,
    )
    return model


def check(args: Args, case: Case) -> Played:
    """SystemExit unless updates see what rollouts saw, and our batch is the stock loop over environments."""
    for agent in AGENTS:
        if agent.algorithm == "MemoryPPO":
            model: Any = make(agent, args, case)
            _, callback = model._setup_learn(case.n_steps * case.num_envs, None)
            model.collect_rollouts(model.env, callback, model.rollout_buffer, case.n_steps)
            chunks = model.rollout_buffer.chunks()
            with torch.no_grad():
                values, log_prob, _ = model.policy.evaluate_chunks(chunks)
            off = max((log_prob - chunks.old_log_prob).abs().max(), (values - chunks.old_values).abs().max())
            if not off < LARGEST_ERROR:
                raise SystemExit(f"not timed: {agent} is off by {off:.1e} between rollout and update on {case.env}")
    ours, loop = (cast(Any, make_env(kind, case)) for kind in ("native", "DummyVecEnv"))
    loop.action_space.seed(0)
    same, lengths = np.array_equal(ours.reset(), loop.reset()), set()
    for _ in range(64):
        actions = np.array([loop.action_space.sample() for _ in range(case.num_envs)])
        *seen, infos = loop.step(actions)
        same = same and all(map(np.array_equal, ours.step(actions)[:3], seen))
        lengths |= {info["episode"]["l"] for info in infos if "episode" in info}
    if not same:
        raise SystemExit(f"not timed: the batch of {case.env} is not the loop over its environments")
    seen, start = model.rollout_buffer.observations, chunks.start.numpy()
    steps = np.arange(len(start))[:, None]
    earlier = steps - np.maximum.accumulate(np.where(start, steps, 0))
    return Played(np.count_nonzero(seen) / seen.size, float(earlier.mean()), len(lengths) <= 1)


def measure(args: Args) -> Iterator[dict[str, Any]]:
    torch.set_num_threads(args.threads)
    facts = measuring.machine() | {"versions": {package: version(package) for package in PACKAGES}}
    names = ("threads", "n_epochs", "minibatches", "hidden_size", "repeats")
    settings = {"n_steps": args.n_steps or 128, **{name: getattr(args, name) for name in names}}
    results: dict[str, Any] = {"machine": facts, "settings": settings, "cells": [], "ratios": []}
    for name in measuring.progress(args.cases, "cases"):
        case = CASES[name]
        case = case._replace(num_envs=args.num_envs or case.num_envs, n_steps=args.n_steps or case.n_steps)
        place: dict[str, Any] = {"env": case.env, "num_envs": case.num_envs}
        if case.n_steps != settings["n_steps"]:
            place["n_steps"] = case.n_steps
        played = check(args, case)
        found = [place | cell for cell in cells(args, case, played)]
        results["cells"] += found
        results["ratios"] += [place | ratio for ratio in ratios(found, played.alike)]
        pairs: dict[str, list[float]] = {}
        for r in results["ratios"]:
            pairs.setdefault(f"{r['ours']} / {r['theirs']}, {r['critic']} critic", []).append(r["ratio"])
        yield results | {"summary": {pair: geometric_mean(values) for pair, values in pairs.items()}}


def cells(args: Args, case: Case, played: Played) -> Iterator[dict[str, Any]]:
    """Every agent in turn, and the rate of matrix products among them."""
    agents = [agent for agent in AGENTS if case.native or agent.algorithm == "MemoryPPO" or agent.vec_env != "native"]
    models: list[Any] = [make(agent, args, case) for agent in agents]
    steps = case.n_steps * case.num_envs
    rates: list[float] = []
    clocks: list[tuple[list[float], list[float]]] = [([], []) for _ in models]
    for model, (rollouts, updates) in zip(models, clocks, strict=True):
        model.collect_rollouts = measuring.timed(model.collect_rollouts, rollouts)
        model.train = measuring.timed(model.train, updates)

    def turn(model: OnPolicyAlgorithm) -> None:
        model.learn(steps, reset_num_timesteps=False)
        rates.append(measuring.gemm_flops(seconds=0.05))

    measuring.in_turns([partial(turn, model) for model in models], 0.0, args.repeats, args.repeats)
    peak = median(rates)
    for agent, model, (rollouts, updates) in zip(agents, models, clocks, strict=True):
        taken = [sum(parts) for parts in zip(rollouts[1:], updates[1:], strict=True)]
        rollout, update, both = (median(spent) for spent in (rollouts[1:], updates[1:], taken))
        flops, of_update = step_flops(model, args.n_epochs, played)
        yield {
            **{"agent": agent.name, "critic": agent.critic, "vec_env": agent.vec_env, "alike": played.alike},
            **{"steps_per_second": steps / both, "slowest": steps / max(taken)},
            **{"rollout_seconds": rollout, "update_seconds": update, "flops_per_step": flops, "gemm_flops": peak},
            **{"share_of_peak": flops * steps / both / peak, "update_share_of_peak": of_update * steps / update / peak},
            "update_share_target": SHARE_TARGETS.get((agent.name, case.num_envs)),
        }


def step_flops(model: OnPolicyAlgorithm, n_epochs: int, played: Played) -> tuple[float, float]:
    """Operations of one environment step, forward in the rollout and both ways in every epoch; those of the epochs.

    Every matrix of weights meets every step once; backward it takes twice as much again, or once where its input is the
    observation, which needs no gradient. In the epochs our encoder skips the zeros of a screen that is nearly blank,
    and they are not counted. A fast memory adds its own operations.
    """
    matrices = [p for p in model.policy.parameters() if p.ndim == 2]
    inputs = get_flattened_obs_dim(model.observation_space)
    encoder = 2.0 * sum(p.numel() for p in matrices if p.shape[1] == inputs)
    rollout = 2.0 * sum(p.numel() for p in matrices)
    forward, backward = rollout, 2 * rollout - encoder
    if isinstance(model, MemoryPPO) and played.nonzero <= MOST_NONZERO:
        skipped = encoder * (1 - played.nonzero)
        forward, backward = forward - skipped, backward - skipped
    for core in model.policy.modules():
        there, back = memory_flops(core, played.keys)
        rollout, forward, backward = rollout + there, forward + there, backward + back
    update = n_epochs * (forward + backward)
    return rollout + update, update


def ratios(found: Sequence[dict[str, Any]], alike: bool) -> Iterator[dict[str, Any]]:
    """Each of ours over each stock agent of an equal critic, with the target where there is one."""
    for one, other in product(found, found):
        ours, theirs, critic = one["agent"], other["agent"], one["critic"]
        if ours.startswith("MemoryPPO") and not theirs.startswith("MemoryPPO") and other["critic"] in ("", critic):
            target = TARGETS.get((ours, theirs), (None, None))[0 if alike else 1]
            ratio = one["steps_per_second"] / other["steps_per_second"]
            yield {
                **{"critic": critic, "ours": ours, "theirs": theirs, "their_vec_env": other["vec_env"]},
                **{"target": target, "ratio": ratio},
            }


COLUMNS = (
    ("steps/s", "steps_per_second", ",.0f"),
    ("rollout", "rollout_seconds", ".3f"),
    ("update", "update_seconds", ".3f"),
    ("peak", "share_of_peak", ".0%"),
    ("peak, update", "update_share_of_peak", ".0%"),
    ("target", "update_share_target", ".0%"),
)


def sections(results: dict[str, Any]) -> dict[str, str]:
    facts, settings = results["machine"], results["settings"]
    versions = f"torch {facts['torch']}", f"Stable-Baselines3 {facts['versions']['stable-baselines3']}"
    said = measuring.provenance(facts, f"{settings['threads']} thread(s)", *versions)
    parts = [
        f"{said}; rollouts of {settings['n_steps']} steps, {settings['n_epochs']} epochs of {settings['minibatches']}"
        f" minibatches, {settings['hidden_size']} units, medians of {settings['repeats']}."
    ]
    columns = [column for column in COLUMNS if column[1] in results["cells"][0]]
    places: dict[str, list[dict[str, Any]]] = {}
    for cell in results["cells"]:
        places.setdefault(place_of(cell), []).append(cell)
    for one, *others in places.values():
        steps = f", rollouts of {one['n_steps']} steps" if "n_steps" in one else ""
        rows = [
            (
                ", ".join(word for word in (c["agent"], c["critic"], c["vec_env"]) if word),
                *("" if c[key] is None else f"{c[key]:{form}}" for _, key, form in columns),
            )
            for c in (one, *others)
        ]
        parts.append(
            f"`{one['env']}`, {one['num_envs']} environments{steps}; matrix products at"
            f" {one['gemm_flops'] / 1e9:.0f} GFlop/s meanwhile:"
        )
        parts.append(table(("agent", *(head for head, *_ in columns)), rows))
    pairs: dict[tuple[str, str], dict[str, str]] = {}
    for r in results["ratios"]:
        name = f"{r['ours']} / {r['theirs']}, {r['critic']}, {r['their_vec_env']}"
        target = f"{r['target']:g}" if r["target"] and r["their_vec_env"] == "DummyVecEnv" else ""
        pairs.setdefault((name, target), {})[place_of(r)] = f"{r['ratio']:.1f}"
    rows = [(name, *(by.get(place, "") for place in places), target) for (name, target), by in pairs.items()]
    parts += ["How many times faster:", table(("", *places, "target"), rows)]
    return {"agent-speed": "\n\n".join(parts)}


def place_of(cell: dict[str, Any]) -> str:
    """Environment, number of environments, and the steps of a rollout where the settings have others."""
    return f"{cell['env']}, {cell['num_envs']}" + (f", {cell['n_steps']} steps" if "n_steps" in cell else "")


if __name__ == "__main__":
    args = measuring.options(Args, cases=("catch",), num_envs=4, n_steps=16, hidden_size=8, repeats=1)
    measuring.conduct(args, "agent-speed", partial(measure, args), sections)
