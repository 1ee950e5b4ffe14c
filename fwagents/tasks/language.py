"""Character-level language modelling: predict the next character of a text from all characters before it."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwagents.cores import MemoryCore
from fwagents.cores.base import positive_int
from fwagents.tasks.data import Examples, Splits
from fwagents.tasks.initialisation import uniform_by_outputs

SHARES = (0.9, 0.05)  # shares of the training and validation text; the rest is the test text
SIZE_STEP = 4  # every core supports its multiples as hidden size


class Corpus(NamedTuple):
    """A text in three consecutive splits.

    Attributes:
        splits: for each split, all characters but the last as inputs, int64 [N], and the next characters as labels.
        vocabulary: every character of the text, sorted; a token is an index into it.
    """

    splits: Splits
    vocabulary: str

    def decode(self, tokens: Tensor) -> str:
        """Convert tokens [N] to text."""
        return "".join(self.vocabulary[token] for token in tokens.tolist())


def read_corpus(path: str | Path) -> Corpus:
    """Read a UTF-8 text file: the first 90 % for training, then 5 % for validation and 5 % for testing.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not UTF-8, or too short for every split to have two characters.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file, expected a text")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    points, tokens = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_inverse=True)
    first, second = (round(sum(SHARES[: count + 1]) * len(tokens)) for count in range(2))
    parts = [torch.from_numpy(part) for part in np.split(tokens, [first, second])]
    if min(map(len, parts)) < 2:
        raise ValueError(f"{path} has {len(tokens)} characters, expected at least 40")
    return Corpus(Splits(*(Examples(part[:-1], part[1:]) for part in parts)), "".join(map(chr, points)))


class LanguageModel(nn.Module):
    """Language model: character -> embedding -> core -> a score for each possible next character.

    Args:
        core: any core; its ``input_size`` is the width of the embedding.
        symbols: number of characters in the vocabulary.
    """

    def __init__(self, core: MemoryCore[Any], symbols: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(positive_int("symbols", symbols), core.input_size)
        self.scores = nn.Linear(core.output_size, symbols)
        self.apply(uniform_by_outputs)
        self.core = core  # set after ``apply``, since the core has drawn its own weights

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Map tokens int64 [T, B] and the core's state before them to scores [T, B, symbols] and the state after."""
        y, state = self.core(self.embedding(tokens), state)
        return self.scores(y), state

    @torch.no_grad()
    def sample(self, length: int, generator: torch.Generator, first: int = 0) -> Tensor:
        """Sample a text of tokens, int64 [length], that follows the token ``first``."""
        stepper = self.core.stepper(1)
        token, drawn = torch.tensor([first]), []
        for _ in range(length):
            scores = self.scores(stepper.step(self.embedding(token)))
            token = torch.multinomial(F.softmax(scores, -1), 1, generator=generator).squeeze(1)
            drawn.append(token)
        return torch.cat(drawn)


def fitting_size(parameters: int, build: Callable[[int], nn.Module]) -> int:
    """Return the hidden size, a multiple of 4, whose model comes closest to a number of trainable parameters.

    Args:
        parameters: wanted number of trainable parameters.
        build: function from the hidden size to the model; it is called on the meta device.

    Raises:
        ValueError: the smallest model has more parameters.
    """
    below = 0
    for size in itertools.count(SIZE_STEP, SIZE_STEP):
        with torch.device("meta"):
            count = sum(p.numel() for p in build(size).parameters() if p.requires_grad)
        if count >= parameters:
            break
        below = count
    if count > parameters and not below:
        raise ValueError(f"parameters is {parameters}, expected at least {count}, those of a hidden size of {size}")
    return size if count - parameters < parameters - below else size - SIZE_STEP
