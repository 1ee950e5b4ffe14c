"""The cell of an experiment: a core, its task, options and seeds, and the search that finds its other settings.

A cell trains with the setting that a ``Grid`` or a ``Search`` found, and with the step size that its trials chose.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fwagents.runs.cli import CORE_OPTIONS
from fwagents.runs.folder import CONFIG, RESULT, read_json, write_result
from fwagents.runs.search import BORROWED, COMMON

Setting = dict[str, Any]
Run = dict[str, Any]  # the content of a result file
Stage = tuple[Setting, ...]
SEEDS = (21, 22, 23, 24, 25)  # seeds of agents' runs


@dataclass(frozen=True)
class Times:
    """A value in a stage: ``factor`` times the best value so far."""

    factor: float


def applied(choice: Setting, best: Setting) -> Setting:
    """Return the best setting so far, overridden by a stage's choice."""
    values = {name: value.factor * best[name] if isinstance(value, Times) else value for name, value in choice.items()}
    return {**best, **values}


@dataclass(frozen=True, eq=False)
class Grid:
    """A search on validation data: every stage tries its settings on top of the best setting so far.

    Attributes:
        stages: the settings.
        updates: budget of each trial.
        start: the setting that the search starts from.
        seeds: seeds of the trials; a setting is tried with each.
        of: the cell whose best setting the search starts from, if any.
    """

    stages: tuple[Stage, ...]
    updates: int
    start: Setting
    seeds: tuple[int, ...] = (100,)
    of: "Cell | None" = None


@dataclass(frozen=True)
class Search:
    """A search of ``fwagents tune``.

    Attributes:
        env: the environment.
        core: the core.
        trials: settings that it tries.
        steps: environment steps of each training run.
        seeds: training runs of each trial.
        seconds: seconds that all trials take.
        cores: cores whose winners it tries too, when all their trials are over.
        finalists: number of best trials that are retrained for ``final_steps``, besides the starting settings.
        final_steps: environment steps of each such run.
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
        """The name of the search's files."""
        return f"{self.env}-{self.core}"

    @property
    def rivals(self) -> list["Search"]:
        """The searches of the other cores."""
        return [replace(self, core=core) for core in self.cores if core != self.core]

    def path(self, results: Path) -> Path:
        """Return the path of the search's result."""
        return results / "tuning" / f"{self.name}.json"

    def tried(self, results: Path, borrowed: bool = False) -> int:
        """Count the search's own trials so far, or the winners of other cores that it has tried."""
        kept = read_json(self.path(results))
        if kept is None or (kept["steps"], tuple(kept["seeds"])) != (self.steps, self.seeds):
            return 0
        return sum((BORROWED in trial) == borrowed for trial in kept["trials"])

    def searched(self, results: Path) -> bool:
        """Return whether the search's own trials are over."""
        return self.tried(results) >= self.trials

    def winner(self, results: Path) -> Setting | None:
        """Return the setting that the search found; None while it is not over."""
        kept = read_json(self.path(results)) or {}
        borrowed = {rival.path(results).name for rival in self.rivals}
        wanted = (True, self.finalists, self.final_steps)
        had = tuple(kept.get(name) for name in ("over", "finalists_wanted", "final_steps"))
        if not self.searched(results) or had != wanted or not borrowed <= set(kept["borrowed"]):
            return None
        setting: Setting = kept["winner"]["setting"]
        return setting

    def seconds_left(self, results: Path) -> float:
        """Return the seconds of the missing trials, the trials of its rivals' winners, and the finalists' long runs."""
        own, lent = self.tried(results), self.tried(results, borrowed=True)
        finals = (self.finalists + 1) * self.final_steps / self.steps
        return self.seconds / self.trials * (max(0, self.trials - own) + max(0, len(self.rivals) - lent) + finals)


@dataclass(frozen=True, eq=False)
class Cell:
    """One model or agent that is trained.

    Attributes:
        group: the experiment, or the part of one, that the cell belongs to.
        label: the name of its line there.
        name: the name of its files.
        options: options of the script.
        script: ``train/<script>.py``.
        seeds: seeds of the runs.
        seconds: seconds that a run takes.
        search: the search whose best setting it trains with; None for the defaults.
        rate: factor on the learning rate that a search of ``fwagents tune`` found.
        trials: cells on a tuning seed, with a step size each; the cell trains with the best step size.
    """

    group: str
    label: str
    name: str
    options: Setting
    script: str = "agent"
    seeds: tuple[int, ...] = SEEDS
    seconds: float = 60.0
    search: Grid | Search | None = None
    rate: float = 1.0
    trials: tuple["Cell", ...] = ()

    @property
    def fixed(self) -> Setting:
        """The options without the budget, by which a search recognises its cell."""
        return {name: value for name, value in self.options.items() if name != "updates"}

    def path(self, results: Path, seed: int) -> Path:
        """Return the path of a run's result."""
        folder = "curves" if self.script == "agent" else self.script
        return results / folder / f"{self.name}-s{seed}.json"

    def kept(self, results: Path, seed: int, options: Setting | None = None) -> Run | None:
        """Return the stored run; None if there is none, or if it has other options.

        Raises:
            ValueError: the file is damaged.
        """
        run: Run | None = read_json(self.path(results, seed))
        same = run is not None and had({**(options or self.options), "seed": seed}, run["config"])
        return run if same else None

    def keep(self, results: Path, seed: int, run: Path) -> str | None:
        """Store the result of a run, if it has ended, and return a short summary."""
        result = read_json(run / RESULT)
        if result is None or (self.script == "agent" and "final_model" not in result):
            return None
        if self.script != "agent":
            write_result(self.path(results, seed), result)
            return in_words(result, "test")
        write_result(self.path(results, seed), agent_result(run, result))
        why = f"; {result['stopped']}" if "stopped" in result else ""
        return f"mean return {result['final_model']['mean_return']:.3f} after {result['steps']:,} steps{why}"


def had(options: Setting, config: Setting) -> bool:
    """Return whether a run's config has the options."""
    return all(name in config and config[name] == value for name, value in options.items())


def in_words(result: Run, what: str) -> str:
    """Return the validation or test error of a supervised run, in words."""
    error = result[f"{what}_error"]
    came = result["stopped"] if error is None else f"{what} error {error:.2f} %"
    return f"{came} after {result['updates']:,} updates, {result['seconds']:.0f} s"


def agent_result(run: Path, result: Run) -> Run:
    """Return the result file of an agent's run: its curve, its final evaluation, and what is needed to repeat it.

    If training stopped early, the file says why, and the curve continues with the return of the final evaluation.
    """
    config = read_json(run / CONFIG)
    args, final = config["args"], result["final_model"]
    steps, means, episodes = [], [], 0
    if (run / "evaluations.npz").exists():
        with np.load(run / "evaluations.npz") as evaluations:
            steps, episodes = evaluations["timesteps"].tolist(), evaluations["results"].shape[1]
            means = evaluations["results"].mean(1).tolist()
    if "stopped" in result and args["eval_freq"]:
        rest = range((len(steps) + 1) * args["eval_freq"], args["total_timesteps"] + 1, args["eval_freq"])
        steps, means = [*steps, *rest], means + len(rest) * [final["mean_return"]]
    return {
        **{name: args[name] for name in ("env", "core", "algo", "seed")},
        "steps": steps,
        "mean_return": [round(mean, 6) for mean in means],
        "episodes": episodes,
        "final": final,
        **({"stopped": result["stopped"]} if "stopped" in result else {}),
        "config": args,
        "policy_kwargs": config["policy_kwargs"],
        **{name: config[name] for name in ("command", "commit", "machine", "versions")},
    }


def as_options(winner: Setting) -> Setting:
    """Return the winner of ``fwagents tune`` as options of ``fwagents agent``."""
    options = {name: value for name, value in winner.items() if name in COMMON or name in CORE_OPTIONS}
    core_kwargs = [f"{name}={value}" for name, value in winner.items() if name not in options]
    return {**options, "core_kwargs": core_kwargs} if core_kwargs else options
