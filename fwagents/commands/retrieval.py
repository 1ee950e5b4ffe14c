"""Train a memory to look values up by their keys: ``c9k8j3f1??c`` -> ``9``. Ba et al. (2016), section 4.1.

``fwagents retrieval --core fast_weights --hidden-size 20``
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from fwagents.runs.options import Count, Seed
from fwagents.runs.supervised import Problem, SupervisedArgs, read, run

if TYPE_CHECKING:
    from fwagents.tasks.retrieval import RetrievalModel, RetrievalTask

NUMBER = 8  # bytes
EXPANSION = 100  # units of the layer before the core


@dataclass
class Args(SupervisedArgs):
    """Train a memory to look values up by their keys."""

    pairs: Count = 4
    """Key-value pairs in a string."""
    alphabet: str = "abcdefghijklmnopqrstuvwxyz"
    """Letters that keys are drawn from."""
    train_strings: Count = 100_000
    """Strings for training; no string occurs twice in all splits together."""
    validation_strings: Count = 10_000
    """Strings for validation."""
    test_strings: Count = 20_000
    """Strings for the test."""
    data_seed: Seed = 0
    """Seed of the strings."""
    test_curve: bool = False
    """Also measure the test set's NLL at every validation, for a figure; it does not affect any choice."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, train, test."""
    args, core_kwargs = read(Args, sys.argv[1:] if argv is None else argv, "retrieval")

    def build() -> Problem:
        from fwagents.runs.limits import make_model, require
        from fwagents.tasks.retrieval import RetrievalTask

        task = RetrievalTask(args.pairs, args.alphabet)
        built = make_model(
            lambda: model(args, core_kwargs)[1],
            f"--hidden-size {args.hidden_size}",
            min(args.batch_size, args.train_strings),
        )
        sizes = (args.train_strings, args.validation_strings, args.test_strings)
        require({f"{sum(sizes):,} strings": NUMBER * sum(sizes) * (len(args.alphabet) + 2 * task.length)})
        splits = task.splits(sizes, args.data_seed)

        def facts() -> dict[str, Any]:
            """Return an adaptive memory's mean number of inner steps over the time steps of some test strings."""
            if getattr(built.core, "inner_steps", None) != "adaptive":
                return {}
            taken = cast(Any, built.core).inner_steps_taken(built.core_inputs(splits.test.inputs[:1000]))
            return {"inner_steps_taken": float(taken.double().mean())}

        return Problem(built, splits, args.core, args.core, facts=facts)

    sys.exit(run(args, core_kwargs, "retrieval", build))


def model(args: Args, core_kwargs: dict[str, Any]) -> tuple["RetrievalTask", "RetrievalModel"]:
    """Return the task, and the model that the options describe."""
    from fwagents.cores import make_core
    from fwagents.tasks.retrieval import RetrievalModel, RetrievalTask

    task = RetrievalTask(args.pairs, args.alphabet)
    core = make_core(args.core, EXPANSION, args.hidden_size, **core_kwargs)
    return task, RetrievalModel(core, len(task.vocabulary))
