"""Common options of the supervised tasks' commands, and a run from its beginning to its result file."""

import contextlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

from fwagents.registry import CoreName
from fwagents.runs.cli import core_options, fail, parse
from fwagents.runs.folder import (
    CONFIG,
    RESULT,
    begin_again,
    new_run_dir,
    provenance,
    read_json,
    reopen,
    restored,
    write_result,
)
from fwagents.runs.interrupts import INTERRUPTED, begun
from fwagents.runs.locks import alone_with
from fwagents.runs.options import Count, Norm, OutputFile, OutputFolder, Seed, Share, Threads, Units, Weight, Within
from fwagents.runs.shell import command, tensorboard
from fwagents.settings import core_defaults_for

if TYPE_CHECKING:
    from torch import nn

    from fwagents.tasks.training import Trainer


@dataclass
class SupervisedArgs:
    """Options of every supervised task."""

    core: CoreName = "fast_weights"
    """Memory core."""
    hidden_size: Units = 50
    """Units of the memory."""
    inner_steps: Annotated[int, Within(0, 1000)] | Literal["adaptive"] | None = None
    """Core fast_weights: reads of the fast memory per time step, 0 for no memory, or "adaptive"; None is the task's
    default, also for --decay and --fast-lr."""
    decay: Share | None = None
    """Core fast_weights: share of the fast memory that is left after a step."""
    fast_lr: Weight | None = None
    """Core fast_weights: rate at which a hidden state is written."""
    core_kwargs: tuple[str, ...] = ()
    """Further options of the core: norm_per_step=True identity_scale=0.05 tolerance=0.05 max_inner_steps=20"""

    updates: Count = 60_000
    """Largest number of batches to train on."""
    batch_size: Count = 128
    """Examples in a batch."""
    learning_rate: Share = 1e-3
    """Adam's largest step size."""
    lr_schedule: Literal["cosine", "warmup", "linear", "constant"] = "cosine"
    """"cosine" and "linear" fall to zero over the updates; "warmup" is cosine after a rise over the first tenth."""
    max_grad_norm: Norm | None = 5.0
    """Norm at which gradients are clipped; None for never."""
    seed: Seed = 0
    """Seed of the weights and of the order of the examples."""
    threads: Threads = 1
    """Torch threads; one is fastest for small models."""

    eval_freq: Count = 1000
    """Updates between two validations. The best weights are kept, and a checkpoint is saved after each validation."""
    patience: Count | None = None
    """End the run after this many validations in a row without improvement; None for never."""
    solved_evals: Count | None = 10
    """End the run after this many validations in a row without any error; None for never."""
    test: bool = True
    """Score the best weights on the test set at the end, the only time it is read; --no-test for a search."""

    resume: Path | None = None
    """Resume the run in this folder from its checkpoint; no other option is allowed. Nothing in the folder is run, but
    its config.json says which files are read, and where the result is written."""
    log_dir: OutputFolder = Path("runs")
    """Runs go to <log_dir>/<task>/<model>-<hidden size>-s<seed>-<time>."""
    output: OutputFile | None = None
    """Where to write the result besides result.json in the run's folder."""


ArgsT = TypeVar("ArgsT", bound=SupervisedArgs)
NO_PART = ("resume", "log_dir", "output")  # options that change nothing in a result


class Problem(NamedTuple):
    """The objects that a task's command builds from its options.

    Attributes:
        model: the model to train.
        splits: the data, as the trainer takes it.
        core: the result's ``core``.
        label: name of the model in the run's name.
        classes: names of the classes, if the accuracy of each class is to be reported.
        trainer: function that makes the trainer, with the arguments of ``Trainer``; None for ``Trainer`` itself.
        facts: function that returns further entries of the result, about the trained model.
    """

    model: "nn.Module"
    splits: Any
    core: str
    label: str
    classes: Sequence[str] = ()
    trainer: "Callable[..., Trainer] | None" = None
    facts: Callable[[], dict[str, Any]] = dict


def read(args_type: type[ArgsT], argv: Sequence[str], task: str) -> tuple[ArgsT, dict[str, Any]]:
    """Return the options and the core's options, from the command line or from the run that is resumed.

    Args:
        args_type: the command's options.
        argv: the command line.
        task: name of the task and of its command.
    """
    args = parse(args_type, argv, prog=f"fwagents {task}")
    if args.resume is None:
        core_kwargs = core_defaults_for(task, args.core, vars(args)) | core_options(args)
        return args, core_kwargs
    try:
        args, config = restored(args, task)
    except (OSError, ValueError) as error:
        fail(str(error))
    return args, config["core_kwargs"]


def run(args: SupervisedArgs, core_kwargs: dict[str, Any], task: str, build: Callable[[], Problem]) -> int:
    """Build, train, test, write; return the exit code: 0, 130 after an interrupt, 1 if training diverged."""
    with contextlib.ExitStack() as held:
        try:
            return _run(args, core_kwargs, task, build, held)
        except KeyboardInterrupt:
            print("\nInterrupted before the first update.")
            return INTERRUPTED


def _run(
    args: SupervisedArgs,
    core_kwargs: dict[str, Any],
    task: str,
    build: Callable[[], Problem],
    held: contextlib.ExitStack,
) -> int:
    import torch

    from fwagents.tasks.training import CHECKPOINT, Trainer, TrainingOptions

    torch.set_num_threads(args.threads)
    try:
        _check_output(args)
        options = TrainingOptions(**{field.name: getattr(args, field.name) for field in fields(TrainingOptions)})
        torch.manual_seed(args.seed)
        problem = build()
        folder = _begin(args, core_kwargs, task, problem.label) if args.resume is None else args.resume
        held.enter_context(alone_with(folder))
        if args.resume is not None:
            reopen(folder)
        trainer = (problem.trainer or Trainer)(
            problem.model, problem.splits, options, folder, test_curve=getattr(args, "test_curve", False)
        )
        if args.resume is not None:
            if (folder / CHECKPOINT).is_file():
                trainer.load()
            else:  # it was killed before its first checkpoint
                begin_again(folder)
            print(f"Resumed {folder} at {trainer.update:,} updates")
    except (ValueError, TypeError, OSError, ImportError, RuntimeError, MemoryError) as error:
        fail(str(error))
    begun()
    diverged = None
    try:
        try:
            trainer.train()
        except FloatingPointError as error:
            diverged = str(error)
        # The weights that validation chose are tested even if training diverged.
        score = trainer.test() if args.test and trainer.curve else None
    except KeyboardInterrupt:
        print(f"\nInterrupted after {trainer.update:,} updates.")
        done = trainer.curve[-1]["update"] if (folder / CHECKPOINT).is_file() and trainer.curve else 0
        print(f"Go on from the checkpoint at {done:,}:  {command(task, '--resume', folder)}")
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


def _check_output(args: SupervisedArgs) -> None:
    """Raise ValueError if ``--output`` names a file that is not an earlier result of the same options."""
    if args.output is None or not args.output.is_file():
        return
    kept = read_json(args.output)
    if not isinstance(kept, dict) or _compared(kept.get("config")) != _compared(_as_json(args)):
        raise ValueError(f"output is {args.output}, which holds something else, expected no file or this run's result")


def _compared(config: Any) -> Any:
    """Return the options on which a result depends."""
    return {name: value for name, value in config.items() if name not in NO_PART} if isinstance(config, dict) else None


def _as_json(args: SupervisedArgs) -> dict[str, Any]:
    """Return the options as config.json holds them."""
    options: dict[str, Any] = json.loads(json.dumps(asdict(args), default=str))
    return options


def _begin(args: SupervisedArgs, core_kwargs: dict[str, Any], task: str, label: str) -> Path:
    """Make the run's folder and write its ``config.json``."""
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)  # an output that cannot be written fails now
    described = {"args": _as_json(args), "core_kwargs": core_kwargs, **provenance()}
    folder = new_run_dir(args.log_dir, task, f"{label}-{args.hidden_size}", args.seed, described)
    print(f"Run folder: {folder}", flush=True)
    return folder


def _result(
    args: SupervisedArgs, task: str, problem: Problem, trainer: "Trainer", score: Any, diverged: str | None
) -> dict[str, Any]:
    """Return the content of the result file: the scores, the cost, and what is needed to repeat the run."""
    described = read_json(trainer.folder / CONFIG)
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
    """Print the closing lines."""
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
