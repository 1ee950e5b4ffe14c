"""Truncated backpropagation through time: the training loop on texts, which carries the state from batch to batch."""

from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from fwagents.cores.base import positive_int
from fwagents.tasks.data import Examples
from fwagents.tasks.language import Corpus, LanguageModel
from fwagents.tasks.training import Score, Trainer, TrainingOptions

SCORED_ROWS = 16  # parallel pieces into which a text is split for scoring
SCORED_STEPS = 256  # characters of a piece that are scored at once
SHOWN = 200  # characters of a sample in TensorBoard
CLOSING = 500  # characters of the final sample


def batches(corpus: Corpus, batch_size: int, bptt: int) -> int:
    """Return the number of batches in a pass through the training text.

    The number does not depend on where in the first ``bptt`` characters the pass begins.

    Raises:
        ValueError: ``bptt`` is below 1, or the text is shorter than a batch.
    """
    characters, batch = len(corpus.splits.train.labels), batch_size * positive_int("bptt", bptt)
    if characters < batch + bptt - 1:
        raise ValueError(
            f"the training text has {characters} characters, expected at least {batch + bptt - 1} for batch_size "
            f"{batch_size} and bptt {bptt}"
        )
    return (characters - bptt + 1) // batch


class LanguageTrainer(Trainer):
    """Trains a ``LanguageModel`` by truncated backpropagation through time (Williams and Peng, 1990).

    The training text is split into ``batch_size`` rows, and a batch is the next ``bptt`` characters of every row. The
    state carries over from batch to batch; gradients do not. Every pass through the text begins with the initial state
    at a random place in the first ``bptt`` characters. A text is scored in 16 parallel pieces, each from the initial
    state; up to 15 characters at the end are not scored. Validation chooses the weights with the lowest NLL.

    Args:
        model: a ``LanguageModel``.
        corpus: training, validation and test text.
        options: see ``TrainingOptions``.
        folder: folder for checkpoints and TensorBoard's events.
        bptt: characters over which gradients flow back.
        test_curve: see ``Trainer``.

    Raises:
        ValueError: ``bptt`` is below 1, or the training text is shorter than a batch.
    """

    model: LanguageModel
    measured: ClassVar[tuple[str, ...]] = ("bits", "error", "nll")
    chosen_by: ClassVar[tuple[str, ...]] = ("validation_nll",)

    def __init__(
        self,
        model: LanguageModel,
        corpus: Corpus,
        options: TrainingOptions,
        folder: Path,
        *,
        bptt: int,
        test_curve: bool = False,
    ) -> None:
        super().__init__(model, corpus.splits, options, folder, test_curve=test_curve)
        self.corpus, self.bptt = corpus, bptt
        self._batches = batches(corpus, options.batch_size, bptt)

    def loss(self) -> Tensor:
        """Return the mean NLL of the next characters of every row; the state is carried to the next update."""
        if self.update % self._batches == 0:
            self.carried = ()
        scores, state = self.model(self._rows(self.splits.train.inputs), self._state())
        self.carried = tuple(leaf.detach() for leaf in state)
        return F.cross_entropy(scores.flatten(0, 1), self._rows(self.splits.train.labels).flatten())

    def _state(self) -> Any:
        return cast(Any, self.model.core.state_type)._make(self.carried) if self.carried else None

    def _rows(self, text: Tensor) -> Tensor:
        """Return the part of a text that this update reads, [bptt, batch_size]."""
        epoch, place = divmod(self.update, self._batches)
        offset = np.random.default_rng((self.options.seed, epoch)).integers(self.bptt)
        size, length = self.options.batch_size, self._batches * self.bptt
        rows = text[offset : offset + size * length].view(size, length)
        return rows[:, place * self.bptt : (place + 1) * self.bptt].t()

    @torch.no_grad()
    def score(self, examples: Examples) -> Score:
        """Score the model on a text: the share of wrong next characters, and their NLL."""
        self.model.eval()
        rows = min(SCORED_ROWS, len(examples.labels))
        length = len(examples.labels) // rows
        inputs, labels = (text[: rows * length].view(rows, length).t() for text in examples)
        wrong, nll, state = 0, 0.0, None
        for seen, following in zip(*(torch.split(text, SCORED_STEPS) for text in (inputs, labels)), strict=True):
            scores, state = self.model(seen, state)
            nll += F.cross_entropy(scores.flatten(0, 1).double(), following.flatten(), reduction="sum").item()
            wrong += int((scores.argmax(-1) != following).sum())
        self.model.train()
        return Score(error=100 * wrong / (rows * length), nll=nll / (rows * length), accuracy=[])

    def describe(self, measured: Any, split: str) -> str:
        """Return bits per character and the error of the most likely next character, as text."""
        return f"{measured[f'{split}_bits']:.4f} bits per character, error {measured[f'{split}_error']:.2f} %"

    def log(self, writer: SummaryWriter) -> None:
        """Write a sample to TensorBoard."""
        # TensorBoard shows Markdown, which keeps a line break only after two spaces.
        writer.add_text("sample", self._sample(SHOWN).replace("\n", "  \n"), self.update)

    def closing(self) -> str:
        """Return a longer sample, from the best weights."""
        self.model.load_state_dict(self.best_weights)
        return f"Sample:\n{self._sample(CLOSING)}\n"

    def _sample(self, length: int) -> str:
        generator = torch.Generator().manual_seed(self.options.seed)  # separate, so samples do not change training
        return self.corpus.decode(self.model.sample(length, generator))
