"""Compare parts around an agent's memory: layers before the heads, a layer norm after the encoder, a separate critic.

``python -m experiments.heads`` runs what is missing from ``results/heads.json``, on seeds that are used for tuning.
"""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import tyro
from stable_baselines3.common.evaluation import evaluate_policy
from torch import Tensor, nn

from experiments.board import ROOT
from experiments.cell import Cell
from experiments.document import listed, table
from fwagents.runs.folder import provenance, read_json, write_json
from fwagents.sb3 import MemoryPPO
from fwagents.sb3.encoders import DenseExtractor
from fwagents.settings import AGENT, defaults_for

CELLS: list[Cell] = []  # its runs are short, and of agents that the command line does not make
RESULTS = ROOT / "results" / "heads.json"
SEEDS = (101, 102)
EPISODES = 200
CORES = ("rotary_fast_weights", "fast_weights", "lstm", "gru")


class NormalisedExtractor(DenseExtractor):
    """The agents' encoder with a layer norm behind its linear layer, before the ReLU."""

    def __init__(self, observation_space: Any, features_dim: int = 128) -> None:
        super().__init__(observation_space, features_dim)
        self.norm = nn.LayerNorm(features_dim)

    def forward(self, observations: Tensor) -> Tensor:
        """[B, ...] -> [B, features_dim]."""
        return torch.relu(self.norm(self.linear(observations.flatten(1))))


# By label: what is put in, as options of the agent.
CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "layers before the heads": {"policy_kwargs": {"net_arch": {"pi": [64], "vf": [64]}}},
    "layer norm after the encoder": {"policy_kwargs": {"features_extractor_class": NormalisedExtractor}},
    "the other critic": {"critic_core": None},  # shared where it is separate by default, and the other way round
}
_REPEAT = {"num_envs": 64, "n_epochs": 4, "ent_coef": 0.03}
# By name: environment, its arguments, steps, and options where the environment's own defaults are not used.
PLACES: dict[str, tuple[str, dict[str, Any], int, dict[str, Any]]] = {
    "CartPoleNoVel": ("CartPoleNoVel-v1", {}, 50_000, {}),
    "RepeatPrevious, delay 4": ("RepeatPrevious-v0", {"delay": 4}, 150_000, _REPEAT),
    "PartialCatch": ("PartialCatch-v0", {}, 300_000, {"n_epochs": 4}),
}


@dataclass
class Args:
    """Run what is missing, one run after the other."""

    cores: tuple[str, ...] = CORES
    """Cores to run."""
    output: Path = RESULTS
    """Result."""


def train(place: str, core: str, change: str, seed: int) -> float:
    """The mean return of greedy play after one run."""
    env_id, env_kwargs, steps, options = PLACES[place]
    changed = dict(CHANGES[change])
    if "critic_core" in changed:
        own = {**AGENT, **defaults_for(env_id, core)}["critic_core"]
        changed["critic_core"] = "separate" if own == "shared" else "shared"
    model = MemoryPPO.for_env(env_id, core=core, seed=seed, env_kwargs=env_kwargs, **{**options, **changed})
    model.learn(steps)
    env: Any = model.get_env()
    if hasattr(env, "norm_reward"):
        env.training, env.norm_reward = False, False
    mean, _ = evaluate_policy(model, env, n_eval_episodes=EPISODES, warn=False)
    return float(mean)


def key(place: str, core: str, change: str, seed: int) -> str:
    """The name of a run in the file of the results."""
    return json.dumps([place, core, change, seed])


def main(args: Args) -> None:
    """Run what is missing; each result is written as it comes."""
    torch.set_num_threads(1)
    kept = read_json(args.output) or {"runs": {}}
    for seed, core, place, change in product(SEEDS, args.cores, PLACES, CHANGES):
        name = key(place, core, change, seed)
        if name not in kept["runs"]:
            kept["runs"][name] = {"mean_return": train(place, core, change, seed), **provenance()}
            write_json(args.output, kept)
            print(name, kept["runs"][name]["mean_return"], flush=True)


def section(results: Path, _: Path) -> str:
    """The table of what was run: every core, every change, each seed."""
    runs = (read_json(results / RESULTS.name) or {"runs": {}})["runs"]

    def returns(place: str, core: str, change: str) -> str:
        names = [key(place, core, change, seed) for seed in SEEDS]
        found = [runs[name]["mean_return"] for name in names if name in runs]
        return listed(found, ".0f" if "Cart" in place else ".2f")

    rows = [(core, change, *(returns(place, core, change) for place in PLACES)) for core in CORES for change in CHANGES]
    return table(("core", "agent", *PLACES), rows)


if __name__ == "__main__":
    main(tyro.cli(Args))
