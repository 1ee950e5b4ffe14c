"""Train a memory to model any text, character by character.

``fwagents language --file FILE --core fast_weights --parameters 250000``
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fwagents.runs.options import Count, TakenBy, Units
from fwagents.runs.supervised import Problem, SupervisedArgs, read, run

TEXT = Path("data") / "tinyshakespeare.txt"
HOW_TO_GET_A_TEXT = (
    f"expected --file FILE with any UTF-8 text, or Tiny Shakespeare (input.txt of Karpathy's char-rnn) saved as {TEXT}"
)


@dataclass
class Args(SupervisedArgs):
    """Train a memory to model a text."""

    file: Path = TEXT
    """Text in UTF-8: 90 % for training, 5 % for validation, 5 % for the test."""
    hidden_size: Annotated[Units, TakenBy(parameters=(None,))] = 256
    """Units of the memory, if --parameters is not given."""
    parameters: Count | None = None
    """Number of parameters of the whole model, to compare memories of equal size; sets the hidden size that comes
    nearest."""
    embedding_size: Units = 64
    """Width of the embedding of a character."""
    bptt: Count = 64
    """Characters over which gradients flow back; the state is carried over from batch to batch."""

    updates: Count = 5000
    """Largest number of batches to train on."""
    batch_size: Count = 32
    """Rows of text in a batch."""
    eval_freq: Count = 250
    """Updates between two validations. The best weights are kept, and a checkpoint is saved after each validation."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, train, test, sample."""
    args, core_kwargs = read(Args, sys.argv[1:] if argv is None else argv, "language")

    def build() -> Problem:
        from fwagents.runs.limits import ADAM, FLOAT, make_model, require
        from fwagents.tasks.bptt import LanguageTrainer, batches
        from fwagents.tasks.language import fitting_size, read_corpus

        if args.file == TEXT and not TEXT.is_file():
            raise FileNotFoundError(f"{TEXT} is no file, {HOW_TO_GET_A_TEXT}")
        corpus = read_corpus(args.file)
        batches(corpus, args.batch_size, args.bptt)  # raises before anything is written
        make = partial(model, args, core_kwargs, len(corpus.vocabulary))
        if args.parameters is not None:
            require({f"--parameters {args.parameters}": ADAM * FLOAT * args.parameters})
            args.hidden_size = fitting_size(args.parameters, make)
        trainer = partial(LanguageTrainer, bptt=args.bptt)
        built = make_model(lambda: make(args.hidden_size), f"--hidden-size {args.hidden_size}", args.batch_size)
        return Problem(built, corpus, args.core, args.core, trainer=trainer)

    sys.exit(run(args, core_kwargs, "language", build))


def model(args: Args, core_kwargs: dict[str, Any], symbols: int, hidden_size: int) -> Any:
    """Return the model that the options describe."""
    from fwagents.cores import make_core
    from fwagents.tasks.language import LanguageModel

    return LanguageModel(make_core(args.core, args.embedding_size, hidden_size, **core_kwargs), symbols)
