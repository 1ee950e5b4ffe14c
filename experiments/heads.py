"""Compare parts around an agent's memory: layers before the heads, a layer norm in the encoder, the critic's memory.

All seeds are used for tuning only: the comparison decides the agents' defaults.
"""

from itertools import product
from pathlib import Path
from statistics import fmean

from experiments.agents import about, kept_runs
from experiments.cell import Cell, Setting
from experiments.document import listed, table
from fwagents.runs.agent import options_for
from fwagents.settings import AGENT

SEEDS = (101, 102)
CORES = ("rotary_fast_weights", "fast_weights", "lstm", "gru")
# By label: name in the files, and the options that differ.
CHANGES: dict[str, tuple[str, Setting]] = {
    "as it is": ("plain", {}),
    "layers of 64 before the heads": ("layers", {"net_arch": [64]}),
    "layer norm in the encoder": ("norm", {"encoder_kwargs": ["layer_norm=True"]}),
    "the other critic": ("critic", {}),  # shared where it is separate by default, and the other way round
}
# By name: options, on top of the environment's own defaults.
PLACES: dict[str, Setting] = {
    "CartPoleNoVel": {"env": "CartPoleNoVel-v1", "total_timesteps": 50_000},
    "RepeatPrevious, delay 4": {
        **{"env": "RepeatPrevious-v0", "env_kwargs": ["delay=4"], "num_envs": 64, "n_epochs": 4, "ent_coef": 0.03},
        "total_timesteps": 150_000,
    },
    "PartialCatch": {"env": "PartialCatch-v0", "n_epochs": 4, "total_timesteps": 300_000},
}


def cell(place: str, core: str, change: str) -> Cell:
    """Return one core at one place with one change."""
    env = PLACES[place]["env"]
    name, options = CHANGES[change]
    own = {**options_for(env, core), **PLACES[place]}
    if name == "critic":
        usual = own.get("critic_core", AGENT["critic_core"])
        options = {"critic_core": "separate" if usual == "shared" else "shared"}
    every: Setting = {
        "core": core,
        "core_kwargs": list(own["core_kwargs"]),
        "eval_freq": 0,
        "checkpoint_freq": 100_000,
        "final_episodes": 200,
    }
    return Cell(
        group="heads",
        label=change,
        name=f"heads-{env}-{core}-{name}",
        options={**own, **every, **options},
        seeds=SEEDS,
        seconds=40.0,
    )


CELLS: list[Cell] = [cell(place, core, change) for core, place, change in product(CORES, PLACES, CHANGES)]


def section(results: Path, _: Path) -> str:
    """Return the table of what was run: every core and change, each seed."""
    kept = {each.name: kept_runs(results, each) for each in CELLS}

    def returns(place: str, core: str, change: str) -> list[float]:
        return [run["final"]["mean_return"] for run in kept[cell(place, core, change).name]]

    def form(place: str) -> str:
        return ".0f" if "Cart" in place else ".2f"

    rows = [
        (core, change, *(listed(returns(place, core, change), form(place)) for place in PLACES))
        for core in CORES
        for change in CHANGES
    ]
    means = [
        (change, *(f"{fmean(values):{form(place)}}" if values else "" for place, values in found.items()))
        for change in CHANGES
        for found in [{place: [x for core in CORES for x in returns(place, core, change)] for place in PLACES}]
    ]
    parts = [about(CELLS, (run for runs in kept.values() for run in runs))]
    parts += [table(("core", "agent", *PLACES), rows), "Means over cores and seeds:", table(("agent", *PLACES), means)]
    return "\n\n".join(parts)
