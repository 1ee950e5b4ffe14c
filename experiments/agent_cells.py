"""The runs of agents behind the figures of docs/results.md, as data: who trains where, for how long, with what.

Learning curves: every core has the same search on PartialCatch-v0, train/tune.py's, with seeds that are reported
nowhere; its winner also plays the larger game, there with a smaller step size. Memory suite: every core tries the same
step sizes in every game. Elsewhere: one setting for all.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from experiments.cells import INNER_STEPS, PER_STEP
from fwagents.envs import SUITE

SEEDS = (21, 22, 23, 24, 25)
CORES = ("fast_weights", "lstm", "gru", "irnn", "none")
ALGORITHMS = {"memory_ppo": "memory_ppo", "memory_a2c": "a2c"}  # and their names in those of files
Setting = dict[str, Any]
# What W = I is to an IRNN, a bias is to a gate: 3 keeps 95 % a step.
KEEPING: dict[str, Setting] = {
    "lstm": {"core_kwargs": ["forget_bias=3.0"]},
    "gru": {"core_kwargs": ["update_bias=3.0"]},
    "irnn": {"core_kwargs": ["identity_scale=1.0"]},
}
# What plays, by the label of its line: a core, and options of its own.
PLAYERS: dict[str, tuple[str, Setting]] = {
    "fast_weights": ("fast_weights", {}),
    # Without its memory it is a layer-normalised RNN, which tells what the memory is worth.
    "no_reads": ("fast_weights", {"inner_steps": 0, "core_kwargs": ["identity_scale=1.0"]}),
    "lstm": ("lstm", {}),
    "gru": ("gru", {}),
    # As fast weights, whose search could choose it; the IRNN's was with 0.5 I and could not.
    "irnn": ("irnn", KEEPING["irnn"]),
    "none": ("none", {}),
}


@dataclass(frozen=True)
class Search:
    """A search of train/tune.py.

    Attributes:
        env: where.
        core: for whom.
        trials: settings that it tries.
        steps: of each training run.
        seeds: training runs of each trial.
        seconds: that these take.
        cores: whose winners it tries too, when all their trials are over.
        finalists: the best of all these, which at last train with what the search began with.
        final_steps: of each such run.
    """

    env: str
    core: str
    trials: int = 16
    steps: int = 500_000
    seeds: tuple[int, ...] = (100, 101)
    seconds: float = 900.0
    cores: tuple[str, ...] = ()
    finalists: int = 4
    final_steps: int = 1_500_000

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.env}-{self.core}"

    @property
    def rivals(self) -> list["Search"]:
        """The searches of the other cores."""
        return [replace(self, core=core) for core in self.cores if core != self.core]


@dataclass(frozen=True)
class AgentCell:
    """One agent in one environment.

    Attributes:
        group: the figure or table that it stands in.
        label: what its line is called there.
        name: of its files.
        options: of ``train/agent.py``, which win over what the search found.
        search: whose winner it trains with; None for the defaults.
        rate: factor on the learning rate that the search found.
        seconds: that a run takes.
        seeds: of the runs.
        trials: on a tuning seed, with a step size each; it trains with the best one.
    """

    group: str
    label: str
    name: str
    options: Setting
    search: Search | None = None
    rate: float = 1.0
    seconds: float = 60.0
    seeds: tuple[int, ...] = field(default=SEEDS)
    trials: tuple["AgentCell", ...] = ()


# Steps of a run, factor on the step size, steps between evaluations, seconds of a run.
GAMES = {
    "PartialCatch-v0": (1_500_000, 1.0, 50_000, 50.0),
    "PartialCatchLarge-v0": (4_000_000, 0.7, 200_000, 110.0),
}
# Times as long, with as few environments as the search chose.
SLOWER = {"lstm": 5.0, "gru": 4.5, "none": 2.0}
UNSEARCHED = [
    ("PartialCatchLarge-v0", "memory_a2c", core) for core in ("lstm", "gru")
]  # these have the game's defaults
SEARCHES = {core: Search("PartialCatch-v0", core, cores=CORES) for core in CORES}
RAW = "normalize_storage=False"
# Ba et al. (2016), section 2 and appendix A.
PAPER_CONSTANTS: Setting = {
    "decay": 0.95,
    "fast_lr": 0.5,
    "core_kwargs": [RAW, "identity_scale=0.05"],
}
# A2C as it is known: with Adam and normalised advantages it would be MemoryPPO of one epoch, which is what won there.
CLASSIC_A2C: Setting = {"use_rms_prop": True, "normalize_advantage": False}


def watched(steps: int, every: int) -> Setting:
    """A run of so many steps with a curve."""
    return {"total_timesteps": steps, "eval_freq": every, "eval_episodes": 200, "checkpoint_freq": steps // 10}


def learning_curves() -> list[AgentCell]:
    """The paper's Figure 5, for every core and both algorithms; and fast weights with the paper's constants.

    On the larger game under MemoryA2C, LSTM and GRU have the game's defaults: with the 8 environments that their
    searches chose, these ten runs alone take an hour and a half, and the defaults have served them better.
    """
    return [
        AgentCell(
            group="curves",
            label=label,
            name=f"{env}-{label}-{ALGORITHMS[algo]}",
            options={
                **{"env": env, "core": core, "algo": algo, **watched(steps, every)},
                **(CLASSIC_A2C if algo == "memory_a2c" else {}),
                **more,
            },
            search=search,
            rate=rate,
            seconds=seconds * (1.0 if search is None else SLOWER.get(core, 1.0)),
        )
        for env, (steps, rate, every, seconds) in GAMES.items()
        for algo in ALGORITHMS
        for label, (core, more) in {**PLAYERS, "paper_constants": ("fast_weights", PAPER_CONSTANTS)}.items()
        for search in [None if (env, algo, core) in UNSEARCHED else SEARCHES[core]]
    ]


def other_settings() -> list[AgentCell]:
    """Cores with other settings, on the smaller game.

    LSTM and GRU with the defaults of train/agent.py, for what their search chose is fragile, and with gates that begin
    by keeping besides; an IRNN that begins with W = 0.5 I, as the paper's; fast weights with one of the paper's
    constants at a time, to see whether one alone stalls them.
    """
    env, (steps, _, every, seconds) = next(iter(GAMES.items()))
    return [
        AgentCell(
            group="curves",
            label=f"{core}_{what}",
            name=f"{env}-{core}-{what}-memory_ppo",
            options={"env": env, "core": core, "algo": "memory_ppo", **watched(steps, every), **more},
            search=search,
            seconds=1.5 * seconds,
        )
        for core, what, search, more in [
            ("lstm", "defaults", None, {}),
            ("gru", "defaults", None, {}),
            ("lstm", "keeping", None, KEEPING["lstm"]),
            ("gru", "keeping", None, KEEPING["gru"]),
            ("irnn", "half", SEARCHES["irnn"], {"core_kwargs": ["identity_scale=0.5"]}),
            ("fast_weights", "rate", SEARCHES["fast_weights"], {"fast_lr": 0.5}),
            ("fast_weights", "raw", SEARCHES["fast_weights"], {"core_kwargs": ["identity_scale=1.0", RAW]}),
            ("fast_weights", "small", SEARCHES["fast_weights"], {"core_kwargs": ["identity_scale=0.05"]}),
        ]
    ]


def weaker() -> list[AgentCell]:
    """A weaker fast memory where fast weights lose most to S = 0: is its strength what holds them up?"""
    env, algo = "PartialCatchLarge-v0", "memory_a2c"
    (cell,) = (cell for cell in learning_curves() if cell.name == f"{env}-fast_weights-{ALGORITHMS[algo]}")
    options = {**cell.options, "fast_lr": 0.01}
    return [
        replace(cell, label="fast_weights_weak", name=f"{env}-fast_weights-weak-{ALGORITHMS[algo]}", options=options)
    ]


def inner_steps() -> list[AgentCell]:
    """How many inner steps serve an agent: all else as the search for fast weights found it, with one step."""
    return [
        AgentCell(
            group="inner-steps",
            label=str(steps),
            name=f"{env}-steps-{steps}{'-per-step' if per_step else ''}",
            options={
                **{"env": env, "core": "fast_weights", "algo": "memory_ppo", "inner_steps": steps},
                # In place of those that the search found, so with its W at first.
                **({"core_kwargs": ["identity_scale=1.0", "norm_per_step=True"]} if per_step else {}),
                **watched(total, every),
            },
            search=SEARCHES["fast_weights"],
            rate=rate,
            seconds=1.3 * seconds,
            seeds=SEEDS[:3],
        )
        for env, (total, rate, every, seconds) in GAMES.items()
        for per_step in (False, True)
        for steps in (PER_STEP if per_step else INNER_STEPS)
        if steps not in (0, 1)  # which the learning curves have
    ]


# Steps of a rollout at each difficulty of the memory suite (fwagents.envs.SUITE) that is run: an episode, in the maze
# of the shortest way and as much again. The hardest of two games are left out: nobody would learn them at this budget.
ROLLOUTS: dict[str, dict[int, int]] = {
    "TMaze-v0": {n: 2 * (n + 1) for n in (5, 10, 20, 40, 80)},
    "KeyValueRecall-v0": {n: 2 * n + 3 for n in (1, 2, 4, 8)},
    "RepeatPrevious-v0": {n: n + 16 for n in (1, 2, 4, 8, 16)},
    "MemoryChain-v0": {n: n + 1 for n in (5, 10, 20, 40, 80)},
}
# A discount of 0, for no action changes what comes later; but in the maze, where a long way should be worth less.
SUITE_SETTING: Setting = {
    **{"num_envs": 64, "n_epochs": 4, "ent_coef": 0.03, "max_grad_norm": 0.5, "gamma": 0.0, "gae_lambda": 0.0},
    **{"critic_core": "shared", "vf_coef": 0.05},
    **{"total_timesteps": 300_000, "eval_freq": 0, "checkpoint_freq": 100_000},
}
# The agents' fast rate of 0.03 was found where nothing is to be associated; the rate of 1 is retrieval's.
STRONG: Setting = {"decay": 0.95, "fast_lr": 1.0}
SUITE_PLAYERS = {**PLAYERS, "strong": ("fast_weights", STRONG), "rotary": ("rotary_fast_weights", {})}
SUITE_OWN: dict[str, Setting] = {"TMaze-v0": {"gamma": 0.98, "gae_lambda": 1.0}}
# The step sizes that every core tries, where, and on which seed: no search on one game knows what serves on another.
STEP_SIZES = (0.001, 0.003)
TRIED_AT: dict[str, tuple[int, ...]] = {
    "TMaze-v0": (10, 20),
    "KeyValueRecall-v0": (2, 4),
    "RepeatPrevious-v0": (2, 4),
    "MemoryChain-v0": (10, 20),
}
TRIAL_SEED = 101


def suite_cell(env: str, difficulty: int, player: str) -> AgentCell:
    """One player at one difficulty, without trials."""
    core, more = SUITE_PLAYERS[player]
    return AgentCell(
        group="suite",
        label=player,
        name=f"{env}-{difficulty}-{player}",
        options={
            **{"env": env, "env_kwargs": [f"{SUITE[env].parameter}={difficulty}"], "core": core},
            **{"n_steps": ROLLOUTS[env][difficulty], **SUITE_SETTING, **SUITE_OWN.get(env, {})},
            **KEEPING.get(core, {}),
            **more,
        },
        seconds=25.0,
        seeds=SEEDS[:3],
    )


def suite_trials(env: str, player: str) -> tuple[AgentCell, ...]:
    """One player with every step size, at two difficulties."""
    return tuple(
        replace(
            cell,
            name=f"{cell.name}-trial-{size}",
            options={**cell.options, "learning_rate": size, "eval_freq": 75_000, "eval_episodes": 200},
            seeds=(TRIAL_SEED,),
        )
        for size in STEP_SIZES
        for cell in (suite_cell(env, difficulty, player) for difficulty in TRIED_AT[env])
    )


def memory_suite() -> list[AgentCell]:
    """How much each core can remember: every environment of the suite, from easy to hard, at one budget."""
    return [
        replace(suite_cell(env, difficulty, player), trials=suite_trials(env, player))
        for env, rollouts in ROLLOUTS.items()
        for difficulty in rollouts
        for player in SUITE_PLAYERS
    ]


# Environments that others wrote, by the name that they are known under: how train/agent.py is told of them, and how it
# trains there, every core alike. Chosen by hand, with LSTM and fast weights on seed 101.
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


# A game of associations, as in the suite but with many answers a rollout, gone through often, and little entropy, which
# holds an agent at guessing. Chosen by hand with fast weights, on seed 101.
RECALL, RECALL_PAIRS = "KeyValueRecall-v0", 2
RECALL_SETTING: Setting = {
    **{"algo": "memory_ppo", "num_envs": 256, "n_epochs": 16, "ent_coef": 0.003},
    **watched(1_000_000, 50_000),
}
# By label: which player of the suite it is, and what of its memory is another.
RECALLING: dict[str, tuple[str, Setting]] = {
    "strong_small": ("fast_weights", {**STRONG, "core_kwargs": ["identity_scale=0.05"]}),
    "fast_weights": ("fast_weights", {}),
    "paper_constants": ("fast_weights", PAPER_CONSTANTS),
    "no_reads": ("no_reads", {}),
    "no_reads_small": ("no_reads", {"core_kwargs": ["identity_scale=0.05"]}),
    **{core: (core, {}) for core in ("lstm", "gru", "irnn", "none")},
}


def recall() -> list[AgentCell]:
    """Does an agent's fast memory serve where something is to be associated? Step sizes are the suite's."""
    cells = {label: suite_cell(RECALL, RECALL_PAIRS, player) for label, (player, _) in RECALLING.items()}
    return [
        replace(
            cells[label],
            group="curves",
            label=label,
            name=f"recall-{label}",
            seeds=SEEDS,
            options={**cells[label].options, **RECALL_SETTING, **more},
            seconds=150.0,
            trials=suite_trials(RECALL, player),
        )
        for label, (player, more) in RECALLING.items()
    ]


def elsewhere() -> list[AgentCell]:
    """Does it hold in environments that we did not write? One setting and one budget for all cores of each."""
    return [
        AgentCell(
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


CELLS: list[AgentCell] = [
    *learning_curves(),
    *other_settings(),
    *weaker(),
    *recall(),
    *inner_steps(),
    *memory_suite(),
    *elsewhere(),
]
