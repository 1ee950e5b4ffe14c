"""What the scripts of supervised tasks share: their common options, and a run from begin to result file."""

import math
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from cli import INTERRUPTED, CoreName, core_options, fail, parse
from commands import script, tensorboard
from fwagents.settings import core_defaults_for
from runs import CONFIG, RESULT, new_run_dir, provenance, read_config, write_json, write_result

if TYPE_CHECKING:
    from torch import nn

    from fwagents.tasks.training import Trainer


@dataclass
class SupervisedArgs:
    """Options of every supervised task."""

    core: CoreName = "fast_weights"
    """The memory."""
    hidden_size: int = 50
    """Units of the memory."""
    inner_steps: int | Literal["adaptive"] | None = None
    """Fast weights: reads of the fast memory per time step, 0 for no memory, or "adaptive"; None is the task's default,
    as for the next two."""
    decay: float | None = None
    """Fast weights: what is left of the fast memory after a step."""
    fast_lr: float | None = None
    """Fast weights: rate at which a hidden state is written."""
    core_kwargs: tuple[str, ...] = ()
    """Further options of the core: norm_per_step=True identity_scale=0.05 tolerance=0.05 max_inner_steps=20"""

    updates: int = 60_000
    """Batches to learn from, at most."""
    batch_size: int = 128
    """Examples of a batch."""
    learning_rate: float = 1e-3
    """Adam's step size, at its largest."""
    lr_schedule: Literal["cosine", "warmup", "linear", "constant"] = "cosine"
    """"cosine" and "linear" fall to zero over the updates; "warmup" is cosine after a rise over the first tenth."""
    max_grad_norm: float | None = 5.0
    """Norm at which gradients are clipped; None for never."""
    seed: int = 0
    """Seed of the weights and of the order of the examples."""
    threads: int = 1
    """Torch threads; one is fastest for small models."""

    eval_every: int = 1000
    """Updates between two validations; the best weights are kept, and a checkpoint follows each."""
    patience: int | None = None
    """Validations in a row that are no better and end the run; None for none."""
    solved_evals: int | None = 10
    """Validations in a row without any error that end the run; None for none."""
    test: bool = True
    """Score the best weights on the test set at the end, the only time it is read; --no-test for a search."""

    resume: Path | None = None
    """Go on with the run in this folder, from its checkpoint; takes no other option."""
    log_dir: Path = Path("runs")
    """Runs go to <log_dir>/<task>/<model>-<hidden size>-s<seed>-<time>."""
    output: Path | None = None
    """Where to write the result besides result.json in the run's folder."""


ArgsT = TypeVar("ArgsT", bound=SupervisedArgs)
PATHS = ("log_dir", "output", "data_dir", "file")


class Problem(NamedTuple):
    """What a task's script builds from its options.

    Attributes:
        model: what is trained.
        splits: the data, as the trainer takes it.
        core: the result's ``core``.
        label: what stands for the model in the run's name.
        classes: names of the classes, if the accuracy on each is to be reported.
        trainer: makes the Trainer, if not ``Trainer`` itself; called alike.
        facts: what else the result is to say of the trained model.
    """

    model: "nn.Module"
    splits: Any
    core: str
    label: str
    classes: Sequence[str] = ()
    trainer: "Callable[..., Trainer] | None" = None
    facts: Callable[[], dict[str, Any]] = dict


def read(args_type: type[ArgsT], argv: Sequence[str], task: str, option: str) -> tuple[ArgsT, dict[str, Any]]:
    """The options and those of the core, from the command line or from the run that is to go on.

    Args:
        args_type: the script's options.
        argv: the command line.
        task: name of the task, which is the script's too.
        option: one that only this script has.
    """
    args = parse(args_type, argv)
    if args.resume is None:
        core_kwargs = core_defaults_for(task, args.core) | core_options(args)
        if args.threads < 1:
            fail(f"--threads is {args.threads}, expected at least 1")
        return args, core_kwargs
    if len(argv) > 2:
        fail("--resume takes every other option from the run's own config.json, expected none beside it")
    try:
        config = read_config(args.resume, f"train/{task}.py", option)
    except (OSError, ValueError) as error:
        fail(str(error))
    known = {field.name for field in fields(args_type)}
    stored = {name: value for name, value in config["args"].items() if name in known}
    for name in PATHS:
        if stored.get(name) is not None:
            stored[name] = Path(stored[name])
    return args_type(**{**stored, "resume": args.resume}), config["core_kwargs"]


def run(args: SupervisedArgs, core_kwargs: dict[str, Any], task: str, build: Callable[[], Problem]) -> int:
    """Build, train, test, write; returns the exit code: 0, 130 after an interrupt, 1 where training diverged."""
    import torch

    from fwagents.tasks.training import Trainer, TrainingOptions

    torch.set_num_threads(args.threads)
    try:
        options = TrainingOptions(**{field.name: getattr(args, field.name) for field in fields(TrainingOptions)})
        torch.manual_seed(args.seed)
        problem = build()
        if args.resume is None:
            folder = _begin(args, core_kwargs, task, problem.label)
        else:
            folder = args.resume
            if (folder / RESULT).exists():
                raise ValueError(f"{folder} is finished: it has a {RESULT}")
        trainer = (problem.trainer or Trainer)(
            problem.model, problem.splits, options, folder, test_curve=getattr(args, "test_curve", False)
        )
        if args.resume is not None:
            trainer.load()
            print(f"Resumed {folder} at {trainer.update:,} updates")
    except (ValueError, TypeError, OSError, ImportError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("\nInterrupted before the first update.")
        return INTERRUPTED
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    diverged = None
    try:
        try:
            trainer.train()
        except FloatingPointError as error:
            diverged = str(error)
        score = trainer.test() if args.test and trainer.curve else None  # of what validation chose, even so
    except KeyboardInterrupt:
        print(f"\nInterrupted after {trainer.update:,} updates.")
        if trainer.curve:
            done = trainer.curve[-1]["update"]
            print(f"Go on from the checkpoint at {done:,}:  {script(f'{task}.py', '--resume', folder)}")
        return INTERRUPTED
    result = _result(args, task, problem, trainer, score, diverged)
    write_result(folder / RESULT, result)
    if args.output is not None:
        write_result(args.output, result)
    if diverged:
        print(f"stopped: {diverged}", file=sys.stderr)
        print(f"The last checkpoint is in {folder}")
        return 1
    _report(result, trainer, args)
    return 0


def _script(task: str) -> str:
    return f"train/{task}.py"


def _begin(args: SupervisedArgs, core_kwargs: dict[str, Any], task: str, label: str) -> Path:
    """Make the run's folder and write down what runs there."""
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)  # what cannot be written is known now, not at the end
    folder = new_run_dir(args.log_dir, task, f"{label}-{args.hidden_size}", args.seed)
    as_text = {name: str(value) for name, value in asdict(args).items() if isinstance(value, Path)}
    described = {"args": {**asdict(args), **as_text}, "core_kwargs": core_kwargs, **provenance()}
    write_json(folder / CONFIG, described)
    print(f"Run folder: {folder}", flush=True)
    return folder


def _result(
    args: SupervisedArgs, task: str, problem: Problem, trainer: "Trainer", score: Any, diverged: str | None
) -> dict[str, Any]:
    """The result file: what came out, what it took, and what it takes to run it again."""
    described = read_config(trainer.folder, _script(task), "core")
    best = trainer.best if trainer.curve else {}
    validated = [f"validation_{name}" for name in trainer.measured]
    columns = ["update", "loss", *validated, *(["test_nll"] if trainer.test_curve else [])]
    result = {
        "task": task,
        "core": problem.core,
        "hidden_size": args.hidden_size,
        "seed": args.seed,
        "updates": trainer.update,
        "stopped": diverged or trainer.stopped,
        **{f"test_{name}": None if score is None else getattr(score, name) for name in trainer.measured},
        **{name: best.get(name) for name in validated},
        "best_update": best.get("update"),
        "seconds": round(trainer.seconds, 1),
        "parameters": sum(p.numel() for p in trainer.parameters),
        "config": described["args"],
        "core_kwargs": described["core_kwargs"],
        "curve": {name: [row.get(name) for row in trainer.curve] for name in columns},
        **({} if score is None else problem.facts()),
        **{name: described[name] for name in ("command", "commit", "machine", "versions")},
    }
    if problem.classes and score is not None:
        of_class = zip(problem.classes, score.accuracy, strict=True)
        result["class_accuracy"] = {name: share for name, share in of_class if not math.isnan(share)}
    return result


def _report(result: dict[str, Any], trainer: "Trainer", args: SupervisedArgs) -> None:
    """The closing lines."""
    if shown := trainer.closing():
        print(shown)
    print(
        f"{result['updates']:,} updates in {result['seconds']:.0f} s; at {result['best_update']:,} the best validation "
        f"{trainer.describe(result, 'validation')}"
    )
    if result["test_error"] is not None:
        print(f"Test {trainer.describe(result, 'test')}")
    for name, accuracy in result.get("class_accuracy", {}).items():
        print(f"  {name}: {accuracy:.2f} % right")
    print(f"Result:           {args.output or trainer.folder / RESULT}")
    print(f"Learning curves:  {tensorboard(args.log_dir)}")
