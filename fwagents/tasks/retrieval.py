"""Associative retrieval: ``c9k8j3f1??c`` -> ``9``. Ba et al. (2016), section 4.1."""

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fwagents.cores import MemoryCore
from fwagents.cores.base import positive_int
from fwagents.tasks.data import Examples, Splits
from fwagents.tasks.initialisation import uniform_by_outputs

DIGITS = string.digits
MARK = "?"
SIZES = (100_000, 10_000, 20_000)


@dataclass(frozen=True)
class RetrievalTask:
    """Strings of key-value pairs, then ``??``, then one of the keys; the answer is that key's value.

    Keys are distinct letters; values are digits, drawn independently, so they may repeat. Keys, values and the queried
    key are uniformly distributed.

    Args:
        pairs: K; a string has ``2 K + 3`` characters.
        alphabet: letters from which keys are drawn, at least K.

    Raises:
        ValueError: ``pairs`` or ``alphabet`` is not as above.
    """

    pairs: int = 4
    alphabet: str = string.ascii_lowercase

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", positive_int("pairs", self.pairs))
        letters = set(self.alphabet)
        if len(letters) < len(self.alphabet) or not letters <= set(string.ascii_letters):
            raise ValueError(f"alphabet is {self.alphabet!r}, expected letters a-z or A-Z, each once")
        if self.pairs > len(letters):
            raise ValueError(f"pairs is {self.pairs}, expected at most {len(letters)}, the letters there are for keys")

    @property
    def vocabulary(self) -> str:
        """All characters that occur; a token is an index into this string."""
        return self.alphabet + DIGITS + MARK

    @property
    def length(self) -> int:
        """T, the number of characters in a string."""
        return 2 * self.pairs + 3

    @property
    def keyless_error(self) -> float:
        """Exact error, in percent, of answering with the string's most frequent digit.

        No answer that ignores the keys has a lower error.
        """

        def strings(most: int) -> int:
            """Return the number of rows of K digits in which no digit occurs more than ``most`` times."""
            ways = [1] + [0] * self.pairs
            for _ in DIGITS:
                ways = [
                    sum(math.comb(k, times) * ways[k - times] for times in range(min(most, k) + 1))
                    for k in range(self.pairs + 1)
                ]
            return ways[self.pairs]

        rarer = sum(strings(most) for most in range(self.pairs))
        expected = self.pairs - rarer / len(DIGITS) ** self.pairs  # mean count of the most frequent digit
        return float(100 * (1 - expected / self.pairs))

    @property
    def possible(self) -> int:
        """Number of different strings."""
        keys = math.perm(len(self.alphabet), self.pairs)
        return keys * math.prod([len(DIGITS)] * self.pairs) * self.pairs

    def draw(self, count: int, rng: np.random.Generator) -> Examples:
        """Draw random strings as tokens int64 [count, T], with their answers [count]."""
        letters, digits = len(self.alphabet), len(DIGITS)
        rows = np.arange(count)
        keys = rng.permuted(np.tile(np.arange(letters), (count, 1)), axis=1)[:, : self.pairs]
        values = rng.integers(0, digits, (count, self.pairs))
        asked = rng.integers(0, self.pairs, count)
        tokens = np.full((count, self.length), letters + digits)
        tokens[:, 0:-3:2] = keys
        tokens[:, 1:-3:2] = letters + values
        tokens[:, -1] = keys[rows, asked]
        return Examples(torch.from_numpy(tokens), torch.from_numpy(values[rows, asked]))

    def splits(self, sizes: tuple[int, int, int] = SIZES, data_seed: int = 0) -> Splits:
        """Draw training, validation and test strings that are all distinct, so that no two splits share one.

        Args:
            sizes: number of strings in each split.
            data_seed: seed of the strings.

        Raises:
            ValueError: a size is below 1, fewer different strings exist, or the seed is negative.
        """
        if data_seed < 0:
            raise ValueError(f"data_seed is {data_seed}, expected an integer of at least 0")
        if min(sizes) < 1:
            raise ValueError(f"sizes are {sizes}, expected at least 1 each")
        total = sum(sizes)
        if total > self.possible:
            raise ValueError(
                f"sizes are {sizes}, expected at most {self.possible:,} together: there are no more strings"
            )
        rng = np.random.default_rng(data_seed)
        tokens, labels = self.draw(total, rng)
        while len(kept := self._first_of_each(tokens)) < total:
            more = self.draw(total, rng)
            tokens, labels = torch.cat([tokens[kept], more.inputs]), torch.cat([labels[kept], more.labels])
        kept = kept[:total]
        parts = zip(torch.split(tokens[kept], [*sizes]), torch.split(labels[kept], [*sizes]), strict=True)
        return Splits(*(Examples(inputs, answers) for inputs, answers in parts))

    def _first_of_each(self, tokens: Tensor) -> Tensor:
        """Return the index of each string's first occurrence, in order."""
        texts = self._characters(tokens).view(f"S{self.length}").ravel()
        return torch.from_numpy(np.sort(np.unique(texts, return_index=True)[1]))

    def _characters(self, tokens: Tensor) -> NDArray[np.uint8]:
        table = np.frombuffer(self.vocabulary.encode(), np.uint8)
        return np.ascontiguousarray(table[tokens.numpy()])

    def decode(self, tokens: Tensor) -> list[str]:
        """Convert tokens [N, T] to strings."""
        return [row.tobytes().decode() for row in self._characters(tokens)]

    def encode(self, strings: Sequence[str]) -> Examples:
        """Convert strings to tokens int64 [N, T], with their answers.

        Raises:
            ValueError: a string does not belong to this task.
        """
        places = {character: place for place, character in enumerate(self.vocabulary)}
        answers = [self._answer(text) for text in strings]
        tokens = [[places[character] for character in text] for text in strings]
        return Examples(torch.tensor(tokens), torch.tensor(answers))

    def _answer(self, text: str) -> int:
        keys, values, marks, asked = text[0:-3:2], text[1:-3:2], text[-3:-1], text[-1:]
        right = len(text) == self.length and len(set(keys)) == self.pairs and marks == 2 * MARK and asked in keys
        if not right or not set(keys) <= set(self.alphabet) or not set(values) <= set(DIGITS):
            raise ValueError(
                f"string is {text!r}, expected {self.pairs} pairs of a letter of {self.alphabet!r}, each once, and a "
                f"digit, then ?? and one of those letters"
            )
        return int(values[keys.index(asked)])


class RetrievalModel(nn.Module):
    """The paper's network: character -> embedding -> ReLU layer -> core -> ReLU layer -> a score for each digit.

    The scores are computed at the last character. The layers before the core see one character at a time, so they run
    once over the vocabulary, and the results are looked up, which is equivalent and far cheaper.

    The paper does not give the distribution of the embedding; it is standard normal here. With +-1/sqrt(50), as in the
    other layers, training of fast weights with 20 units stalls for long at remembering two of the four pairs.

    Args:
        core: any core; its ``input_size`` is the width of the layer before the core (100 in the paper).
        symbols: number of characters in the vocabulary.
        embedding_size: width of the embedding.
        readout_size: width of the layer after the core.
    """

    def __init__(self, core: MemoryCore[Any], symbols: int = 37, embedding_size: int = 50, readout_size: int = 100):
        super().__init__()
        self.embedding = nn.Embedding(symbols, embedding_size)
        self.expansion = nn.Linear(embedding_size, core.input_size)
        self.readout = nn.Linear(core.output_size, readout_size)
        self.scores = nn.Linear(readout_size, len(DIGITS))
        self.apply(uniform_by_outputs)
        self.core = core  # set after ``apply``, since the core has drawn its own weights

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens int64 [B, T] to unnormalised scores [B, 10]."""
        y, _ = self.core(self.core_inputs(tokens))
        return self.answer(y[-1])

    def core_inputs(self, tokens: Tensor) -> Tensor:
        """Map tokens int64 [B, T] to the inputs of the core [T, B, D]."""
        table = torch.relu(self.expansion(self.embedding.weight))
        return F.embedding(tokens.T, table)

    def answer(self, y: Tensor) -> Tensor:
        """Map the core's outputs [..., H] to unnormalised scores [..., 10]."""
        scores: Tensor = self.scores(torch.relu(self.readout(y)))
        return scores
