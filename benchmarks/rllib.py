"""RLlib against MemoryPPO on this machine, what crosses the network, and what a cluster would then do.

    python benchmarks/rllib.py               writes results/rllib.json and the tables in docs/scaling.md

Every runner plays the same number of environments, so the batch grows with the runners. Of each size a few iterations
warm up and the median of the others counts. Then both train with the environment's defaults until their latest 100
episodes are good enough, or the budget is spent.
"""

import contextlib
import pickle
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import numpy as np

from fwagents.runs.options import Count, Norm, Within
from measuring import ROOT, Options, conduct, machine, options, paired_medians, provenance, table, timed

DOCUMENT = ROOT / "docs" / "scaling.md"
CLUSTERS = (1, 2, 4, 8, 16, 64, 256, 1024)


@dataclass
class Args(Options):
    """Time RLlib, and say how it would scale."""

    env: str = "PartialCatch-v0"
    """the environment"""
    cores: Count = 2
    """of this machine; with more runners they share them"""
    runners: tuple[Annotated[int, Within(1, 64)], ...] = (1, 2, 4)
    """env runners"""
    envs_per_runner: Count = 32
    """environments of each runner"""
    iterations: Count = 60
    """of each size, of which the median counts, after a third as many to warm up"""
    learn_steps: Annotated[int, Within(0, 10**9)] = 3_000_000
    """budget of the learning runs, over which the learning rate falls; 0 for none"""
    learn_minutes: Norm = 6.0
    """the same in minutes, for each"""
    threshold: float = 0.9
    """mean return of the latest 100 episodes at which learning ends"""
    gigabits: Norm = 10.0
    """of the learner's network, for the prediction"""


class CostModel(NamedTuple):
    """Seconds of an iteration with n runners, each on a core of its own."""

    play: float  # a runner's play, side by side with the others'
    gather: float  # for each runner, what its sample and its copy of the weights cost the learner's process
    learn: float  # for each runner, the update on what it played
    fixed: float  # what every iteration costs
    network: float  # for each runner, its bytes on the learner's wire

    def parts(self, runners: int) -> dict[str, float]:
        """Seconds of an iteration, by what they go to."""
        alone = ("play", "fixed")
        return {name: cost if name in alone else cost * runners for name, cost in self._asdict().items()}


def fit(rows: list[dict[str, float]], cores: int, network: float) -> CostModel:
    """Least squares on measured iterations, no cost below zero.

    A row has ``runners``, and median seconds of an iteration, ``all``, and of the update in it, ``learn``. With more
    runners than cores they queue. ``network`` is a runner's seconds on the wire; what was measured has none.
    """
    from scipy.optimize import nnls  # type: ignore[import-untyped]

    n = np.array([row["runners"] for row in rows], float)
    rest = np.array([row["all"] - row["learn"] for row in rows])
    (play, gather), _ = nnls(np.stack([np.maximum(1, n / cores), n], 1), rest)
    (learn, fixed), _ = nnls(np.stack([n, np.ones_like(n)], 1), np.array([row["learn"] for row in rows]))
    return CostModel(float(play), float(gather), float(learn), float(fixed), network)


def predict(model: CostModel, steps_per_runner: int, runners: int) -> dict[str, Any]:
    """Predict the environment steps per second with ``runners`` runners, and the slowest part of an iteration."""
    parts = model.parts(runners)
    return {
        "runners": runners,
        "steps_per_second": runners * steps_per_runner / sum(parts.values()),
        "bottleneck": max(parts, key=lambda name: parts[name]),
        "parts": parts,
    }


def break_even(model: CostModel, steps_per_runner: int, runners: int, steps_per_second: float) -> float:
    """Return the seconds per environment step from which ``runners`` runners are as fast as MemoryPPO in one process.

    The model is of an environment whose steps take next to nothing, with which MemoryPPO does ``steps_per_second``.
    """
    costs = sum(model.parts(runners).values())
    return (costs - runners * steps_per_runner / steps_per_second) / (steps_per_runner * (runners - 1))


def agent_args(args: Args, **options: Any) -> Any:
    """The options of train/agent.py: the environment's defaults, and over them those given."""
    from fwagents.runs.agent import Args as AgentArgs
    from fwagents.runs.agent import options_for

    return AgentArgs(**{**options_for(args.env, "fast_weights"), "env": args.env, "core": "fast_weights", **options})


def time_rllib(args: Args, runners: int) -> dict[str, float]:
    """Median seconds of an iteration, and of the update in it."""
    import ray

    from fwagents.runs.ray import RayRun, connect

    given = agent_args(args, engine="ray", num_workers=runners, num_envs=runners * args.envs_per_runner)
    connect(None, runners)
    algorithm = RayRun(given, {}, {}).config.build_algo()
    # RLlib's own timers are moving averages, of which the first call, which compiles, is still most of it.
    learned: list[float] = []
    algorithm.learner_group.update = timed(algorithm.learner_group.update, learned)
    try:
        whole = iteration(args, algorithm.train)
    finally:
        algorithm.stop()
        ray.shutdown()
    steps = runners * args.envs_per_runner * given.n_steps
    spent = median(learned[-args.iterations :])
    return {"runners": runners, "steps": steps, "all": whole, "learn": spent, "steps_per_second": steps / whole}


def iteration(args: Args, call: Any) -> float:
    """Median seconds of a call, after a third as many to warm up."""
    count = args.iterations
    return paired_medians([call], least=count, most=count, warm=count // 3)[0]


def time_memory_ppo(args: Args, num_envs: int) -> dict[str, float]:
    """MemoryPPO on as many environments, in one process."""
    from fwagents.runs.run import Run

    given = agent_args(args, num_envs=num_envs)
    steps = num_envs * given.n_steps
    seconds = iteration(args, partial(Run(given, {}, {}).model.learn, steps, reset_num_timesteps=False))
    return {"num_envs": num_envs, "all": seconds, "steps_per_second": steps / seconds}


def traffic(args: Args) -> dict[str, float]:
    """Bytes per environment step that leave an env runner, with and without every state; bytes of the weights."""
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

    from fwagents.rllib import KeepOpenings
    from fwagents.runs.ray import RayRun

    given = agent_args(args, engine="ray", num_workers=0, num_envs=args.envs_per_runner)
    sizes = {}
    for name in ("ours", "every_state"):
        config = RayRun(given, {}, {}).config
        if name == "every_state":
            config.callbacks([callback for callback in config.callbacks_class if callback is not KeepOpenings])
        runner = SingleAgentEnvRunner(config=config)
        samples = runner.sample()
        sizes[name] = len(pickle.dumps(samples, protocol=5)) / sum(map(len, samples))
        weights = sum(leaf.nbytes for leaf in runner.module.get_state(inference_only=True).values())
        state = sum(leaf.numel() * leaf.element_size() for leaf in runner.module.get_initial_state().values())
    return {**sizes, "weights": weights, "state": state}


def learn(args: Args, engine: str) -> dict[str, Any]:
    """Train until the latest 100 episodes are good enough; steps and seconds."""
    from stable_baselines3.common.callbacks import BaseCallback

    from fwagents.runs.ray import RayRun
    from fwagents.runs.run import Run

    class Enough(Exception):
        """Good enough, or no time left."""

    class Watch(BaseCallback):
        best, begin = -np.inf, time.perf_counter()

        def _on_rollout_end(self) -> None:
            rows: Any = self.model.ep_info_buffer
            if len(rows) == rows.maxlen:
                self.best = max(self.best, float(np.mean([row["r"] for row in rows])))
            if self.best >= args.threshold or time.perf_counter() - self.begin > 60 * args.learn_minutes:
                raise Enough

        def _on_step(self) -> bool:
            return True

    budget = {"eval_freq": 0, "checkpoint_freq": 0, "total_timesteps": args.learn_steps}
    with tempfile.TemporaryDirectory() as folder:
        run = (RayRun if engine == "ray" else Run)(
            agent_args(args, engine=engine, num_workers=2, log_dir=Path(folder), **budget), {}, {}
        )
        run.begin()
        watch = Watch()
        run.callbacks.append(watch)
        watch.begin = time.perf_counter()
        with contextlib.suppress(Enough):
            run._learn()
        seconds = time.perf_counter() - watch.begin
    solved = watch.best >= args.threshold
    return {
        **{"engine": engine, "solved": solved, "steps": run.model.num_timesteps},
        **{"seconds": seconds, "best": watch.best},
    }


def measure(args: Args) -> Iterator[dict[str, Any]]:
    names = ("env", "envs_per_runner", "threshold", "learn_steps", "learn_minutes")
    facts = {**machine(), "ray": version("ray")}
    results: dict[str, Any] = {"machine": facts, "settings": {name: getattr(args, name) for name in names}}
    results["traffic"] = sent = traffic(args)
    results["memory_ppo"] = [time_memory_ppo(args, n * args.envs_per_runner) for n in args.runners]
    results["rllib"] = rows = [time_rllib(args, n) for n in args.runners]
    steps = round(rows[0]["steps"] / rows[0]["runners"])
    network = (steps * sent["ours"] + sent["weights"]) * 8 / (args.gigabits * 1e9)
    model = fit(rows, args.cores, network)
    results["model"] = {**model._asdict(), "steps_per_runner": steps, "gigabits": args.gigabits}
    results["fitted"] = [fitted(model, row, args.cores) for row in rows]
    results["predicted"] = [predict(model, steps, n) for n in CLUSTERS]
    results["learning"] = []
    yield results  # learning takes the longest
    for engine in ("sb3", "ray") if args.learn_steps else ():
        results["learning"].append(learn(args, engine))
        yield results


def fitted(model: CostModel, row: dict[str, float], cores: int) -> dict[str, float]:
    """Return a measured iteration's time and the model's prediction, with this machine's cores and no network."""
    n = int(row["runners"])
    parts = {**model.parts(n), "network": 0.0, "play": model.play * max(1, n / cores)}
    return {"runners": n, "measured": row["all"], "model": sum(parts.values())}


def sections(results: dict[str, Any]) -> dict[str, str]:
    """The tables of docs/scaling.md."""
    facts, settings, sent, model = (results[name] for name in ("machine", "settings", "traffic", "model"))
    said = (
        f"{provenance(facts, 'torch ' + facts['torch'], 'Ray ' + facts['ray'])}; {settings['env']},"
        f" {settings['envs_per_runner']} environments each. [The numbers themselves](../results/rllib.json)."
    )
    speed = [
        (
            *(row["runners"], ours["num_envs"], f"{row['steps_per_second']:,.0f}", f"{ours['steps_per_second']:,.0f}"),
            f"{row['steps_per_second'] / ours['steps_per_second']:.0%}",
        )
        for row, ours in zip(results["rllib"], results["memory_ppo"], strict=True)
    ]
    learned = [
        (
            *(row["engine"], f"{row['steps']:,}", f"{row['seconds'] / 60:.1f}"),
            *("yes" if row["solved"] else "no", f"{row['best']:.3f}"),
        )
        for row in results["learning"]
    ]
    traffic = [
        ("a sample, per environment step", f"{sent['ours']:,.0f}"),
        ("the same if every state went with it", f"{sent['every_state']:,.0f}"),
        ("one state", f"{sent['state']:,}"),
        ("the weights, to every runner once an iteration", f"{sent['weights']:,}"),
    ]
    costs = CostModel(*(model[name] for name in CostModel._fields))
    fits = [(row["runners"], f"{1e3 * row['measured']:.1f}", f"{1e3 * row['model']:.1f}") for row in results["fitted"]]
    best = max(row["steps_per_second"] for row in results["memory_ppo"])
    predicted = []
    for row in results["predicted"]:
        n = row["runners"]
        pays = f"{1e3 * break_even(costs, model['steps_per_runner'], n, best):.2f} ms" if n > 1 else ""
        predicted.append((n, f"{row['steps_per_second']:,.0f}", row["bottleneck"], pays))
    tables = {
        "speed": [
            table(("env runners", "environments", "RLlib, steps/s", "MemoryPPO on as many, steps/s", "of it"), speed),
            table(("engine", "steps", "minutes", f"reached {settings['threshold']}", "best"), learned),
        ],
        "traffic": [table(("what", "bytes"), traffic)],
        "model": [
            table(("cost", "ms"), [(name, f"{1e3 * cost:.2f}") for name, cost in costs._asdict().items()]),
            table(("env runners", "measured, ms", "model, ms"), fits),
            table(("env runners", "steps/s", "most of it goes to", "pays for environments slower than"), predicted),
        ],
    }
    return {"machine": said, **{name: "\n\n".join(parts) for name, parts in tables.items()}}


if __name__ == "__main__":
    args = options(Args, runners=(1, 2), iterations=3, envs_per_runner=4, learn_steps=0)
    conduct(args, "rllib", partial(measure, args), sections, DOCUMENT)
