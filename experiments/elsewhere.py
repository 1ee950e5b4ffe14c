"""Environments from other packages: in each, all cores have the same setting and budget."""

from pathlib import Path

from experiments.agents import PLAYERS, about
from experiments.cell import SEEDS, Cell, Run, Setting
from experiments.document import table
from experiments.estimates import Curves
from experiments.figures import NAMES
from fwagents.comparison.estimates import means

# Environments from other packages, by their usual name: the options that select them, and the training options, equal
# for every core. The options were chosen by hand, with LSTM and fast weights on seed 101.
_CARDS: Setting = {
    **{"num_envs": 64, "n_epochs": 4, "critic_core": "shared", "vf_coef": 0.05, "ent_coef": 0.01},
    **{"total_timesteps": 300_000},
}
_FLAT = "gymnasium.wrappers:FlattenObservation"
ELSEWHERE: dict[str, Setting] = {
    "CartPole-v1 without velocity": {"env": "CartPoleNoVel-v1", "hidden_size": 128, "total_timesteps": 50_000},
    "Pendulum-v1 without velocity": {
        **{"env": "PendulumNoVel-v1", "num_envs": 16, "n_steps": 200, "batch_size": 800, "n_epochs": 10},
        **{"gamma": 0.9, "normalize": True, "critic_core": "shared", "total_timesteps": 200_000},
    },
    "MiniGrid-MemoryS7-v0": {
        **{"env": "minigrid:MiniGrid-MemoryS7-v0"},
        **{"wrappers": [*(f"minigrid.wrappers:{name}ObsWrapper" for name in ("OneHotPartial", "Img")), _FLAT]},
        **{"num_envs": 16, "n_steps": 128, "n_epochs": 4, "critic_core": "shared", "ent_coef": 0.01},
        **{"total_timesteps": 500_000},
    },
    "POPGym RepeatFirst Easy": {"env": "popgym:popgym-RepeatFirstEasy-v0", "n_steps": 51, **_CARDS},
    "POPGym RepeatPrevious Easy": {"env": "popgym:popgym-RepeatPreviousEasy-v0", "n_steps": 51, **_CARDS},
    "POPGym Autoencode Easy": {
        **{"env": "popgym:popgym-AutoencodeEasy-v0", "wrappers": [_FLAT]},
        **{"n_steps": 103, **_CARDS},
    },
}


def elsewhere() -> list[Cell]:
    """Return a cell for every core in every environment; in each, all cores have the same setting and budget."""
    return [
        Cell(
            group="elsewhere",
            label=player,
            name=f"{setting['env'].rpartition(':')[2]}-{player}",
            options={
                **{"core": core, "eval_freq": 0, "final_episodes": 200, "checkpoint_freq": 100_000},
                **setting,
                **more,
            },
            seconds=65.0,
            seeds=SEEDS[:3],
        )
        for setting in ELSEWHERE.values()
        for player, (core, more) in PLAYERS.items()
    ]


CELLS: list[Cell] = elsewhere()


def section(results: Path, folder: Path) -> str:
    """Return the table of what was run."""
    rows: list[tuple[str, ...]] = []
    runs: list[Run] = []
    for name, setting in ELSEWHERE.items():
        curves = Curves(results, [c for c in CELLS if c.options["env"] == setting["env"]])
        found = means({core: curves.finals(core) for core in curves.runs})
        runs += curves.all()
        if found:
            rows.append((name, f"{setting['total_timesteps']:,}", *(str(found.get(player, "")) for player in PLAYERS)))
    missing = [name for name in ELSEWHERE if name not in {row[0] for row in rows}]
    parts = [about(CELLS, runs)]
    if rows:
        parts.append(table(("environment", "steps", *map(NAMES.get, PLAYERS)), rows))
    if missing:
        parts.append(f"Not run: {', '.join(missing)}.")
    return "\n\n".join(parts)
