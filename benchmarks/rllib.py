"""Time RLlib against MemoryPPO on this machine, measure the network traffic, and predict the speed of a cluster.

    python benchmarks/rllib.py               writes results/rllib.json and the tables in docs/scaling.md
    python benchmarks/rllib.py --quick       tiny sizes, to see that it runs; prints the results, writes nothing
    python benchmarks/rllib.py --report      only makes the tables from the stored results

Every runner plays the same number of environments, so the batch grows with the runners. For each number of runners, a
few iterations warm up and the median of the others is reported. Then both train with the environment's defaults until
their latest 100 episodes reach a threshold, or the budget is spent.
"""

import contextlib
import json
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from measuring import ROOT, check_output, machine, publish, table, write_results, write_section

DOCUMENT = ROOT / "docs" / "scaling.md"
CLUSTERS = (1, 2, 4, 8, 16, 64, 256, 1024)


@dataclass
class Args:
    """Time RLlib, and predict how it scales."""

    quick: bool = False
    """tiny sizes; prints the results and writes nothing"""
    report: bool = False
    """time nothing, make the tables from the results"""
    env: str = "PartialCatch-v0"
    """the environment"""
    cores: int = 2
    """CPU cores of this machine; more runners than cores share them"""
    runners: tuple[int, ...] = (1, 2, 4)
    """numbers of env runners"""
    envs_per_runner: int = 32
    """environments of each runner"""
    iterations: int = 60
    """timed iterations for each number of runners, after a third as many to warm up; the median is reported"""
    learn_steps: int = 3_000_000
    """budget of the learning runs in steps, over which the learning rate falls; 0 for no such runs"""
    learn_minutes: float = 6
    """budget of each learning run in minutes"""
    threshold: float = 0.9
    """mean return of the latest 100 episodes at which learning ends"""
    gigabits: float = 10.0
    """bandwidth of the learner's network in Gbit/s, for the prediction"""
    output: Path = ROOT / "results" / "rllib.json"
    """where the results go"""


class CostModel(NamedTuple):
    """Seconds of an iteration with n runners, each on its own core.

    Attributes:
        play: time that the runners play, in parallel.
        gather: time per runner to collect its sample and send it the weights.
        learn: time per runner for the update on its sample.
        fixed: time that every iteration takes.
        network: time per runner for its bytes on the learner's network.
    """

    play: float
    gather: float
    learn: float
    fixed: float
    network: float

    def parts(self, runners: int) -> dict[str, float]:
        """Return the seconds of each part of an iteration."""
        return {
            "play": self.play,
            "gather": self.gather * runners,
            "learn": self.learn * runners,
            "fixed": self.fixed,
            "network": self.network * runners,
        }


def fit(rows: list[dict[str, float]], cores: int, network: float) -> CostModel:
    """Fit the costs to measured iterations by non-negative least squares.

    Args:
        rows: ``runners``, and the median seconds of an iteration, ``all``, and of its update, ``learn``.
        cores: cores of the machine; more runners than cores take turns.
        network: seconds per runner for its bytes on the network, which the measurements do not include.
    """
    from scipy.optimize import nnls

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

    Args:
        model: costs of iterations with an environment whose steps take nearly no time.
        steps_per_runner: steps of a runner in an iteration.
        runners: number of runners, at least 2.
        steps_per_second: MemoryPPO's speed with that environment.
    """
    costs = sum(model.parts(runners).values())
    return (costs - runners * steps_per_runner / steps_per_second) / (steps_per_runner * (runners - 1))


def agent_args(args: Args, **options: Any) -> Any:
    """Return the options of train/agent.py: the environment's defaults, overridden by the given options."""
    from fwagents.runs.agent import Args as AgentArgs
    from fwagents.runs.agent import options_for

    return AgentArgs(**{**options_for(args.env, "fast_weights"), "env": args.env, "core": "fast_weights", **options})


def time_rllib(args: Args, runners: int) -> dict[str, float]:
    """Return the median seconds of an iteration and of its update."""
    import ray

    from fwagents.runs.ray import RayRun, connect

    options = agent_args(args, engine="ray", num_workers=runners, num_envs=runners * args.envs_per_runner)
    connect(None, runners)
    algorithm = RayRun(options, {}, {}).config.build_algo()
    # RLlib's own timers are moving averages, which the first call, with the compilation, still dominates.
    learned: list[float] = []
    algorithm.learner_group.update = timed(algorithm.learner_group.update, learned)
    try:
        taken = []
        for _ in range(args.iterations + args.iterations // 3):
            begin = time.perf_counter()
            algorithm.train()
            taken.append(time.perf_counter() - begin)
    finally:
        algorithm.stop()
        ray.shutdown()
    whole, learn = (statistics.median(seconds[args.iterations // 3 :]) for seconds in (taken, learned))
    steps = runners * args.envs_per_runner * options.n_steps
    return {"runners": runners, "steps": steps, "all": whole, "learn": learn, "steps_per_second": steps / whole}


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Return the function with a clock: each call appends its duration to ``seconds``."""

    def call(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        found = function(*args, **kwargs)
        seconds.append(time.perf_counter() - begin)
        return found

    return call


def time_memory_ppo(args: Args, num_envs: int) -> dict[str, float]:
    """Time MemoryPPO on as many environments, in one process."""
    from fwagents.runs.run import Run

    options = agent_args(args, num_envs=num_envs)
    model = Run(options, {}, {}).model
    steps = num_envs * options.n_steps
    model.learn(steps * max(1, args.iterations // 3))
    taken = []
    for _ in range(args.iterations):
        begin = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        taken.append(time.perf_counter() - begin)
    seconds = statistics.median(taken)
    return {"num_envs": num_envs, "all": seconds, "steps_per_second": steps / seconds}


def traffic(args: Args) -> dict[str, float]:
    """Return the bytes per environment step that an env runner sends, with and without all states, and the weights'."""
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

    from fwagents.rllib import KeepOpenings
    from fwagents.runs.ray import RayRun

    options = agent_args(args, engine="ray", num_workers=0, num_envs=args.envs_per_runner)
    sizes = {}
    for name in ("ours", "every_state"):
        config = RayRun(options, {}, {}).config
        if name == "every_state":
            config.callbacks([callback for callback in config.callbacks_class if callback is not KeepOpenings])
        runner = SingleAgentEnvRunner(config=config)
        samples = runner.sample()
        sizes[name] = len(pickle.dumps(samples, protocol=5)) / sum(map(len, samples))
        weights = sum(leaf.nbytes for leaf in runner.module.get_state(inference_only=True).values())
        state = sum(leaf.numel() * leaf.element_size() for leaf in runner.module.get_initial_state().values())
    return {**sizes, "weights": weights, "state": state}


def learn(args: Args, engine: str) -> dict[str, Any]:
    """Train until the latest 100 episodes reach the threshold; return the steps and seconds."""
    from stable_baselines3.common.callbacks import BaseCallback

    options = {"eval_freq": 0, "checkpoint_freq": 0, "total_timesteps": args.learn_steps}
    with tempfile.TemporaryDirectory() as folder:
        if engine == "ray":
            from fwagents.runs.ray import RayRun as Made
        else:
            from fwagents.runs.run import Run as Made
        run = Made(agent_args(args, engine=engine, num_workers=2, log_dir=Path(folder), **options), {}, {})

        class Enough(Exception):
            """The threshold is reached, or the time is up."""

        class Watch(BaseCallback):
            best = -np.inf

            def _on_rollout_end(self) -> None:
                rows = self.model.ep_info_buffer
                if len(rows) == rows.maxlen:
                    self.best = max(self.best, float(np.mean([row["r"] for row in rows])))
                if self.best >= args.threshold or time.perf_counter() - begin > 60 * args.learn_minutes:
                    raise Enough

            def _on_step(self) -> bool:
                return True

        run.begin()
        watch = Watch()
        run.callbacks.append(watch)
        begin = time.perf_counter()
        with contextlib.suppress(Enough):
            run._learn()
        seconds = time.perf_counter() - begin
    best = watch.best
    steps = run.model.num_timesteps
    return {"engine": engine, "solved": best >= args.threshold, "steps": steps, "seconds": seconds, "best": best}


def measure(args: Args) -> dict[str, Any]:
    settings = {
        name: getattr(args, name) for name in ("env", "envs_per_runner", "threshold", "learn_steps", "learn_minutes")
    }
    results: dict[str, Any] = {"machine": {**machine(), "ray": version("ray")}, "settings": settings}
    results["traffic"] = bytes_ = traffic(args)
    results["memory_ppo"] = [time_memory_ppo(args, n * args.envs_per_runner) for n in args.runners]
    results["rllib"] = rows = [time_rllib(args, n) for n in args.runners]
    steps = round(rows[0]["steps"] / rows[0]["runners"])
    network = (steps * bytes_["ours"] + bytes_["weights"]) * 8 / (args.gigabits * 1e9)
    model = fit(rows, args.cores, network)
    results["model"] = {**model._asdict(), "steps_per_runner": steps, "gigabits": args.gigabits}
    results["fitted"] = [fitted(model, row, args.cores) for row in rows]
    results["predicted"] = [predict(model, steps, n) for n in CLUSTERS]
    results["learning"] = []
    for engine in ("sb3", "ray") if args.learn_steps else ():
        if not args.quick:
            write_results(args.output, results)  # learning takes the longest
        results["learning"].append(learn(args, engine))
    return results


def fitted(model: CostModel, row: dict[str, float], cores: int) -> dict[str, float]:
    """Return a measured iteration's time and the model's prediction, with this machine's cores and no network."""
    n = int(row["runners"])
    parts = {**model.parts(n), "network": 0.0, "play": model.play * max(1, n / cores)}
    return {"runners": n, "measured": row["all"], "model": sum(parts.values())}


def report(results: dict[str, Any]) -> None:
    """Write the tables of docs/scaling.md."""
    at, settings = results["machine"], results["settings"]
    write_section(
        DOCUMENT,
        "machine",
        f"`{at['command']}` at commit {at['commit']}, {at['date']}: {at['cpu']}, {at['cores']} cores, "
        f"torch {at['torch']}, Ray {at['ray']}; {settings['env']}, {settings['envs_per_runner']} environments each. "
        "[The numbers themselves](../results/rllib.json).",
    )
    speed = table(
        ["env runners", "environments", "RLlib, steps/s", "MemoryPPO on as many, steps/s", "of it"],
        [
            (
                row["runners"],
                ours["num_envs"],
                f"{row['steps_per_second']:,.0f}",
                f"{ours['steps_per_second']:,.0f}",
                f"{row['steps_per_second'] / ours['steps_per_second']:.0%}",
            )
            for row, ours in zip(results["rllib"], results["memory_ppo"], strict=True)
        ],
    )
    learned = table(
        ["engine", "steps", "minutes", f"reached {settings['threshold']}", "best"],
        [
            (
                row["engine"],
                f"{row['steps']:,}",
                f"{row['seconds'] / 60:.1f}",
                "yes" if row["solved"] else "no",
                f"{row['best']:.3f}",
            )
            for row in results["learning"]
        ],
    )
    write_section(DOCUMENT, "speed", f"{speed}\n\n{learned}")
    sent = results["traffic"]
    write_section(
        DOCUMENT,
        "traffic",
        table(
            ["what", "bytes"],
            [
                ("a sample, per environment step", f"{sent['ours']:,.0f}"),
                ("the same if every state went with it", f"{sent['every_state']:,.0f}"),
                ("one state", f"{sent['state']:,}"),
                ("the weights, to every runner once an iteration", f"{sent['weights']:,}"),
            ],
        ),
    )
    model = results["model"]
    costs = table(["cost", "ms"], [(name, f"{1e3 * model[name]:.2f}") for name in CostModel._fields])
    fits = table(
        ["env runners", "measured, ms", "model, ms"],
        [(r["runners"], f"{1e3 * r['measured']:.1f}", f"{1e3 * r['model']:.1f}") for r in results["fitted"]],
    )
    fitted_costs = CostModel(*(model[name] for name in CostModel._fields))
    best = max(row["steps_per_second"] for row in results["memory_ppo"])
    rows = []
    for found in results["predicted"]:
        n = found["runners"]
        pays = f"{1e3 * break_even(fitted_costs, model['steps_per_runner'], n, best):.2f} ms" if n > 1 else ""
        rows.append((n, f"{found['steps_per_second']:,.0f}", found["bottleneck"], pays))
    predictions = table(["env runners", "steps/s", "most of it goes to", "pays for environments slower than"], rows)
    write_section(DOCUMENT, "model", f"{costs}\n\n{fits}\n\n{predictions}")


def main() -> None:
    args = tyro.cli(Args)
    if args.report:
        publish(args.output, report)
        return
    if args.quick:
        args.runners, args.iterations, args.envs_per_runner, args.learn_steps = (1, 2), 3, 4, 0
    else:
        check_output(args.output)
    results = measure(args)
    if args.quick:
        print(json.dumps(results))
        return
    write_results(args.output, results)
    publish(args.output, report)


if __name__ == "__main__":
    main()
