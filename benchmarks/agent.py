"""Training speed of agents with memory, in environment steps per second, against stock Stable-Baselines3.

    python benchmarks/agent.py               writes results/agent-speed.json and the table in docs/performance.md
    python benchmarks/agent.py --quick       tiny sizes, to see that it runs; prints the results, writes nothing
    python benchmarks/agent.py --report      only makes the table from the stored results

The agents take turns in one process, one rollout and its update each, so that other load affects all alike. The agents
with a memory have the same encoder (one linear layer on the screen, ReLU; ours skips a screen's zeros, the stock
agents' is what their users would write), the same width, and one linear layer each for policy and value behind the
memory. PPO has SB3's own MlpPolicy with two layers for the policy and two for the value. Nothing is timed unless the
agents pass a check.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import track
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common import env_util
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv

from fwagents.cores import FastWeights
from fwagents.sb3 import DenseExtractor, MemoryPPO, make_vec_env
from measuring import (
    ROOT,
    check_output,
    gemm_flops,
    geometric_mean,
    machine,
    publish,
    table,
    write_results,
    write_section,
)

DOCUMENT, SECTION = ROOT / "docs" / "performance.md", "agent-speed"
INTRODUCTION = """
## Agents

Environment steps per second of training, rollout and update together. `native` is the environment's own batch, which
MemoryPPO runs in by default; `DummyVecEnv` is what users of the stock algorithms have. A `separate` critic has a memory
of its own (the stock default), a `shared` one reads the actor's. The columns on the right: seconds of the rollout and
of the update, share of the machine's rate of float32 matrix products.
"""
STOCK = {"shared": {"shared_lstm": True, "enable_critic_lstm": False}, "separate": {}}
TARGETS = {
    ("MemoryPPO fast_weights", "RecurrentPPO lstm"): 10.0,
    ("MemoryPPO lstm", "RecurrentPPO lstm"): 6.0,
    ("MemoryPPO fast_weights", "PPO"): 1.5,
}


@dataclass
class Args:
    """Time the training of agents."""

    quick: bool = False
    """tiny sizes; prints the results and writes nothing"""
    report: bool = False
    """time nothing, make the table from the results"""
    threads: int = 1
    """torch threads"""
    envs: tuple[str, ...] = ("PartialCatch-v0", "PartialCatchLarge-v0")
    """environments"""
    num_envs: tuple[int, ...] = (64, 16)
    """number of parallel environments"""
    n_steps: int = 128
    """steps of each environment per rollout"""
    n_epochs: int = 4
    """passes over each rollout"""
    minibatches: int = 4
    """minibatches of each pass"""
    hidden_size: int = 128
    """units of every layer and memory"""
    repeats: int = 9
    """timed rollouts and updates of every agent; the median is reported"""
    output: Path = ROOT / "results" / "agent-speed.json"
    """where the results go"""


@dataclass(frozen=True)
class Agent:
    """One of the timed agents; ``critic`` and ``core`` are empty if it has no memory."""

    algorithm: str
    core: str
    critic: str
    vec_env: str

    @property
    def name(self) -> str:
        """Name of the algorithm and the core."""
        return f"{self.algorithm} {self.core}".strip()


AGENTS = [
    *(Agent("MemoryPPO", core, critic, "native") for critic in STOCK for core in ("fast_weights", "lstm")),
    *(Agent("RecurrentPPO", "lstm", critic, vec) for critic in STOCK for vec in ("DummyVecEnv", "native")),
    *(Agent("PPO", "", "", vec) for vec in ("DummyVecEnv", "native")),
]
VEC_ENVS: dict[str, Callable[..., VecEnv]] = {"native": make_vec_env, "DummyVecEnv": env_util.make_vec_env}


class Clock(BaseCallback):
    """Note the times at which the last rollout began and ended."""

    def _on_rollout_start(self) -> None:
        self.begin = time.perf_counter()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.end = time.perf_counter()


def main(args: Args) -> None:
    console = Console(stderr=True)
    if args.quick:
        args.envs, args.num_envs, args.n_steps, args.hidden_size, args.repeats = args.envs[:1], (4,), 16, 8, 1
    if not args.report:
        if not args.quick:
            check_output(args.output)
        torch.set_num_threads(args.threads)
        results = measure(args, console)
        if args.quick:
            print(json.dumps(results, indent=1))
            return
        write_results(args.output, results)
    publish(args.output, report)


def measure(args: Args, console: Console) -> dict[str, Any]:
    packages = ("torch", "numba", "numpy", "gymnasium", "stable-baselines3", "sb3-contrib")
    names = ("threads", "n_steps", "n_epochs", "minibatches", "hidden_size", "repeats")
    results: dict[str, Any] = {
        "machine": machine() | {"versions": {package: version(package) for package in packages}},
        "settings": {name: getattr(args, name) for name in names},
        "cells": [],
    }
    for env in args.envs:
        for num_envs in args.num_envs:
            check(args, env, num_envs)
            results["cells"] += cells(args, env, num_envs, console)
    results["ratios"] = list(ratios(results["cells"]))
    results["summary"] = {
        f"{r['ours']} / {r['theirs']}, {r['critic']} critic": geometric_mean(
            other["ratio"] for other in results["ratios"] if all(other[k] == r[k] for k in ("ours", "theirs", "critic"))
        )
        for r in results["ratios"]
    }
    return results


class PlainEncoder(BaseFeaturesExtractor):
    """The encoder of the stock agents."""

    def __init__(self, observation_space: Any, features_dim: int) -> None:
        super().__init__(observation_space, features_dim)
        inputs = get_flattened_obs_dim(observation_space)
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(inputs, features_dim), torch.nn.ReLU())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[B, ...] -> [B, features_dim]."""
        features: torch.Tensor = self.layers(observations)
        return features


def make(agent: Agent, args: Args, env: str, num_envs: int, device: str = "cpu") -> OnPolicyAlgorithm:
    venv = VEC_ENVS[agent.vec_env](env, num_envs, seed=0)
    policy, kwargs, size = "MlpPolicy", {}, args.hidden_size
    if agent.algorithm == "MemoryPPO":
        policy = "MemoryPolicy"
        kwargs = {"core": agent.core, "critic_core": agent.critic, "hidden_size": size}
    elif agent.algorithm == "RecurrentPPO":
        policy = "MlpLstmPolicy"
        kwargs = {"lstm_hidden_size": size, "net_arch": [], **STOCK[agent.critic]}
    else:
        kwargs = {"net_arch": [size, size]}
    if agent.core:
        encoder = DenseExtractor if agent.algorithm == "MemoryPPO" else PlainEncoder
        kwargs |= {"features_extractor_class": encoder, "features_extractor_kwargs": {"features_dim": size}}
    make_algorithm: Any = {"MemoryPPO": MemoryPPO, "RecurrentPPO": RecurrentPPO, "PPO": PPO}[agent.algorithm]
    model: OnPolicyAlgorithm = make_algorithm(
        policy,
        venv,
        n_steps=args.n_steps,
        batch_size=args.n_steps * num_envs // args.minibatches,
        n_epochs=args.n_epochs,
        policy_kwargs=kwargs,
        seed=0,
        device=device,
    )
    return model


def check(args: Args, env: str, num_envs: int) -> None:
    """Raise SystemExit unless updates reproduce their rollouts and the native batch equals the environments' loop."""
    for agent in AGENTS:
        if agent.algorithm == "MemoryPPO":
            model: Any = make(agent, args, env, num_envs)
            _, callback = model._setup_learn(args.n_steps * num_envs, None)
            model.collect_rollouts(model.env, callback, model.rollout_buffer, args.n_steps)
            chunks = model.rollout_buffer.chunks()
            with torch.no_grad():
                values, log_prob, _ = model.policy.evaluate_chunks(chunks)
            off = max((log_prob - chunks.old_log_prob).abs().max(), (values - chunks.old_values).abs().max())
            if not off < 1e-4:
                raise SystemExit(f"not timed: {agent} is off by {off:.1e} between rollout and update on {env}")
    native, loop = (make_env(env, num_envs, seed=0) for make_env in VEC_ENVS.values())
    rng, same = np.random.default_rng(0), np.array_equal(native.reset(), loop.reset())
    for _ in range(64):
        actions = rng.integers(3, size=num_envs)
        same = same and all(map(np.array_equal, native.step(actions)[:3], loop.step(actions)[:3]))
    if not same:
        raise SystemExit(f"not timed: the native batch of {env} is not the loop over its environments")


def cells(args: Args, env: str, num_envs: int, console: Console) -> list[dict[str, Any]]:
    """Time every agent in turn, and the rate of matrix products between them, after a warm-up round."""
    steps = args.n_steps * num_envs
    models = [(make(agent, args, env, num_envs), Clock()) for agent in AGENTS]
    rollouts: list[list[float]] = [[] for _ in models]
    updates: list[list[float]] = [[] for _ in models]
    peaks = []
    for turn in track(range(1 + args.repeats), f"{env}, {num_envs} environments", console=console):
        for number, (model, clock) in enumerate(models):
            model.learn(steps, callback=clock, reset_num_timesteps=turn == 0)
            end = time.perf_counter()
            if turn:
                rollouts[number].append(clock.end - clock.begin)
                updates[number].append(end - clock.end)
                peaks.append(gemm_flops(seconds=0.05))
    peak = statistics.median(peaks)
    result = []
    for agent, (model, _), rollout, update in zip(AGENTS, models, rollouts, updates, strict=True):
        speed = steps / statistics.median(a + b for a, b in zip(rollout, update, strict=True))
        flops = step_flops(model, args, env)
        result.append(
            {"env": env, "num_envs": num_envs, "agent": agent.name, "critic": agent.critic, "vec_env": agent.vec_env}
            | {"steps_per_second": speed, "slowest": steps / max(map(sum, zip(rollout, update, strict=True)))}
            | {"rollout_seconds": statistics.median(rollout), "update_seconds": statistics.median(update)}
            | {"flops_per_step": flops, "gemm_flops": peak, "share_of_peak": flops * speed / peak}
        )
    return result


def step_flops(model: OnPolicyAlgorithm, args: Args, env: str) -> float:
    """Count the operations per environment step: forward in the rollout, forward and backward in every epoch.

    Every weight matrix is applied once per step. Its backward pass costs twice as much, or as much if its input is the
    observation, which needs no gradient. Fast weights attend to the steps of their episode so far. In the epochs our
    encoder skips the zeros of the screen, so nearly nothing of it is left to count.
    """
    matrices = [p for p in model.policy.parameters() if p.ndim == 2]
    (pixels,) = model.observation_space.shape or ()
    encoder = 2.0 * sum(p.numel() for p in matrices if p.shape[1] == pixels)
    forward = rollout = 2.0 * sum(p.numel() for p in matrices)
    backward = 2 * forward - encoder
    if isinstance(model.policy.features_extractor, DenseExtractor):
        forward, backward = forward - encoder, backward - encoder
    # An episode has one step fewer than the screen has rows; on average, half of its other steps precede a step.
    keys = (pixels**0.5 - 2) / 2
    for core in model.policy.modules():
        if isinstance(core, FastWeights):
            attention = 2 * 2 * keys * args.hidden_size
            rollout, forward = rollout + attention, forward + attention
            backward += 2 * 5 * keys * args.hidden_size
    return rollout + args.n_epochs * (forward + backward)


def ratios(measured: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the ratios of our speed to theirs, with the environments that users of each library have."""
    for (ours, theirs), target in TARGETS.items():
        for one in measured:
            for other in measured:
                where = [one[key] == other[key] for key in ("env", "num_envs")]
                if (
                    one["agent"] == ours
                    and other["agent"] == theirs
                    and all(where)
                    and other["critic"] in ("", one["critic"])
                ):
                    yield {
                        **{key: one[key] for key in ("env", "num_envs", "critic")},
                        **{"ours": ours, "theirs": theirs, "their_vec_env": other["vec_env"], "target": target},
                        "ratio": one["steps_per_second"] / other["steps_per_second"],
                    }


def report(results: dict[str, Any]) -> None:
    """Write the tables of docs/performance.md."""
    facts, settings = results["machine"], results["settings"]
    parts = [
        f"`{facts['command']}` on {facts['cpu']}, {facts['cores']} cores, {settings['threads']} thread(s), torch"
        f" {facts['torch']}, Stable-Baselines3 {facts['versions']['stable-baselines3']}, commit {facts['commit']},"
        f" {facts['date']}, load average at the start {facts['load_average'][0]:.1f}; rollouts of {settings['n_steps']}"
        f" steps, {settings['n_epochs']} epochs of {settings['minibatches']} minibatches, {settings['hidden_size']}"
        f" units, medians of {settings['repeats']}."
    ]
    places = list(dict.fromkeys((c["env"], c["num_envs"]) for c in results["cells"]))
    for env, num_envs in places:
        rows = [
            (
                ", ".join(word for word in (c["agent"], c["critic"], c["vec_env"]) if word),
                f"{c['steps_per_second']:,.0f}",
                f"{c['rollout_seconds']:.3f}",
                f"{c['update_seconds']:.3f}",
                f"{c['share_of_peak']:.0%}",
            )
            for c in results["cells"]
            if (c["env"], c["num_envs"]) == (env, num_envs)
        ]
        (peak,) = {c["gemm_flops"] for c in results["cells"] if (c["env"], c["num_envs"]) == (env, num_envs)}
        title = f"`{env}`, {num_envs} environments; matrix products at {peak / 1e9:.0f} GFlop/s meanwhile:"
        parts += [title, table(("agent", "steps/s", "rollout", "update", "peak"), rows)]
    rows = []
    for key in dict.fromkeys((r["ours"], r["theirs"], r["critic"], r["their_vec_env"]) for r in results["ratios"]):
        same = [r for r in results["ratios"] if (r["ours"], r["theirs"], r["critic"], r["their_vec_env"]) == key]
        ours, theirs, critic, vec_env = key
        by_place = {(r["env"], r["num_envs"]): f"{r['ratio']:.1f}" for r in same}
        target = f"{same[0]['target']:g}" if vec_env == "DummyVecEnv" else ""
        rows.append((f"{ours} / {theirs}, {critic}, {vec_env}", *(by_place[place] for place in places), target))
    parts += ["How many times faster:", table(("", *(f"{e}, {n}" for e, n in places), "target"), rows)]
    ensure_section()
    write_section(DOCUMENT, SECTION, "\n\n".join(parts))


def ensure_section() -> None:
    """Begin the document, or our section of it, if there is none."""
    old = DOCUMENT.read_text() if DOCUMENT.exists() else "# Performance\n"
    if f"<!-- {SECTION}: " not in old:
        markers = f"<!-- {SECTION}: written by a command, do not edit -->\n<!-- end of {SECTION} -->\n"
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(f"{old}{INTRODUCTION}\n{markers}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
