"""The training loop of all supervised tasks: batches, validation, and checkpoints from which to resume."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from fwagents.cores.base import finite_float, integer, positive_int
from fwagents.files import check_zip, replacing
from fwagents.tasks.data import Examples, Splits

CHECKPOINT = "checkpoint.pt"
LOG_EVERY = 100  # updates

WARMUP = 0.1  # share of the updates
# Factors on the learning rate, as functions of the share of updates done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    "warmup": lambda done: min(1.0, done / WARMUP) * 0.5 * (1.0 + math.cos(math.pi * done)),
}


@dataclass(frozen=True)
class TrainingOptions:
    """Options of training with cross-entropy and Adam.

    Attributes:
        updates: largest number of batches to train on.
        batch_size: examples in a batch; fewer if the training set has fewer.
        learning_rate: largest learning rate of Adam.
        lr_schedule: "constant", or "cosine" or "linear" down to zero over the updates, or "warmup": cosine with a
            linear rise from zero over the first tenth.
        max_grad_norm: norm at which gradients are clipped; None for never.
        eval_freq: updates between two validations; each saves a checkpoint.
        patience: number of validations in a row without improvement that ends training; None never ends it.
        solved_evals: number of validations in a row without any error that ends training; None never ends it.
        seed: seed of the order of the examples.

    Raises:
        ValueError: a value is out of range.
    """

    updates: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    lr_schedule: Literal["cosine", "warmup", "linear", "constant"] = "cosine"
    max_grad_norm: float | None = 5.0
    eval_freq: int = 1000
    patience: int | None = None
    solved_evals: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "batch_size", "eval_freq"):
            object.__setattr__(self, name, positive_int(name, getattr(self, name)))
        for name in ("patience", "solved_evals"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, positive_int(name, getattr(self, name)))
        if self.lr_schedule not in SCHEDULES:
            raise ValueError(f"lr_schedule is {self.lr_schedule!r}, expected one of {', '.join(SCHEDULES)}")
        finite_float("learning_rate", self.learning_rate, 0.0)
        if self.max_grad_norm is not None:
            finite_float("max_grad_norm", self.max_grad_norm, 0.0)
        object.__setattr__(self, "seed", integer("seed", self.seed, 0))


class Score(NamedTuple):
    """Score of a model on a set of examples.

    Attributes:
        error: percent of the examples that the model gets wrong.
        nll: mean negative log-likelihood of the right class, in nats.
        accuracy: percent of each class that the model gets right; nan for a class without examples.
    """

    error: float
    nll: float
    accuracy: list[float]

    @property
    def bits(self) -> float:
        """The NLL in bits."""
        return self.nll / math.log(2)


@torch.no_grad()
def evaluate(model: nn.Module, examples: Examples, batch_size: int = 500) -> Score:
    """Score a model, which maps inputs [B, ...] to unnormalised scores [B, classes]."""
    model.eval()
    scores = torch.cat([model(inputs) for inputs in torch.split(examples.inputs, batch_size)])
    model.train()
    wrong = scores.argmax(1) != examples.labels
    of_class = torch.bincount(examples.labels, minlength=scores.shape[1])
    wrong_of_class = torch.bincount(examples.labels[wrong], minlength=scores.shape[1])
    return Score(
        error=100 * wrong.double().mean().item(),
        nll=F.cross_entropy(scores.double(), examples.labels).item(),
        accuracy=(100 * (of_class - wrong_of_class) / of_class).tolist(),
    )


class Trainer:
    """Train a model and choose its weights by validation. Training can be killed at any time and resumed.

    The number of the update determines the order of the examples and the learning rate, and the curve determines when
    to stop. A checkpoint therefore holds the weights, Adam's moments, the best weights, the curve, and the tensors that
    a task carries from one update to the next.

    Args:
        model: maps inputs [B, ...] to unnormalised scores [B, classes].
        splits: the training, validation and test examples.
        options: see ``TrainingOptions``.
        folder: folder for checkpoints and TensorBoard's events.
        test_curve: True adds the test set's NLL to the curve, for a figure; no choice depends on it.

    Attributes:
        update: number of updates so far.
        curve: a row for each validation: the update; the measured values, such as validation_error, validation_nll;
            the mean training loss since the previous validation, except for the first; test_nll with ``test_curve``.
        seconds: training time so far, including earlier processes.
        carried: tensors that a task carries from one update to the next; none here.
    """

    measured: ClassVar[tuple[str, ...]] = ("error", "nll")  # fields of a Score in the curve and the result
    chosen_by: ClassVar[tuple[str, ...]] = ("validation_error", "validation_nll")  # minimised; the second breaks ties

    def __init__(
        self, model: nn.Module, splits: Splits, options: TrainingOptions, folder: Path, *, test_curve: bool = False
    ) -> None:
        self.model, self.splits, self.options, self.folder = model, splits, options, folder
        self.test_curve = test_curve
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, options.learning_rate, fused=True)
        self.update = 0
        self.curve: list[dict[str, float]] = []
        self.best_weights: dict[str, Tensor] = {}
        self.seconds = 0.0
        self.carried: tuple[Tensor, ...] = ()
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    @property
    def best(self) -> dict[str, float]:
        """Row of the curve with the best weights, which are kept."""
        return min(self.curve, key=self._rank)

    @property
    def stopped(self) -> str | None:
        """Reason why training has ended: "solved", "patience" or "updates"; None while it continues."""
        options, errors = self.options, [row["validation_error"] for row in self.curve]
        if not errors:
            return None
        values = [row[self.chosen_by[0]] for row in self.curve]
        solved = next((i for i, error in enumerate(reversed(errors)) if error), len(errors))  # last ones without error
        if options.solved_evals is not None and solved >= options.solved_evals:
            return "solved"
        if options.patience is not None and len(values) - 1 - values.index(min(values)) >= options.patience:
            return "patience"
        return "updates" if self.update >= options.updates else None

    def train(self) -> None:
        """Train until ``stopped`` gives a reason.

        Raises:
            FloatingPointError: a quantity, which the message names, is not finite; the last checkpoint stays valid.
            KeyboardInterrupt: training was interrupted; the last checkpoint stays valid.
        """
        writer = SummaryWriter(str(self.folder), purge_step=self.update + 1 if self.curve else None)
        bar = tqdm(total=self.options.updates, initial=self.update, unit=" updates", disable=None, dynamic_ncols=True)
        try:
            if not self.curve:
                self._validate(writer, bar)
            while self.stopped is None:
                begin = time.perf_counter()
                loss = self._learn(writer, bar)
                self.seconds += time.perf_counter() - begin
                self._validate(writer, bar, loss)
        finally:
            bar.close()
            writer.close()

    def test(self) -> Score:
        """Load the best weights into the model and score them on the test set."""
        self.model.load_state_dict(self.best_weights)
        return self.score(self.splits.test)

    def loss(self) -> Tensor:
        """Compute the loss of this update's batch."""
        train, rows = self.splits.train, self._batch()
        return F.cross_entropy(self.model(train.inputs[rows]), train.labels[rows])

    def score(self, examples: Examples) -> Score:
        """Score the model with its current weights."""
        return evaluate(self.model, examples)

    def describe(self, measured: Mapping[str, Any], split: str) -> str:
        """Return a split's values in a row of the curve or a result, as text."""
        return f"error {measured[f'{split}_error']:.2f} %, NLL {measured[f'{split}_nll']:.4f}"

    def log(self, writer: SummaryWriter) -> None:
        """Write further TensorBoard entries of a task after a validation; none by default."""

    def closing(self) -> str:
        """Return a task's text for the end of training, made with the best weights; empty by default."""
        return ""

    def load(self) -> None:
        """Resume from the folder's checkpoint.

        Raises:
            FileNotFoundError: the folder has no checkpoint.
            ValueError: the file is not a whole checkpoint of this model.
        """
        path = self.folder / CHECKPOINT
        try:
            kept = _read(path)
            self.model.load_state_dict(kept["model"])
            self.optimizer.load_state_dict(kept["optimizer"])
            self.update, self.curve, self.seconds = kept["update"], kept["curve"], kept["seconds"]
            self.best_weights, self.carried = kept["best_weights"], tuple(kept.get("carried", ()))
            torch.set_rng_state(kept["torch"])
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.folder} has no {CHECKPOINT} to go on from") from None
        except Exception as error:
            raise ValueError(f"{path} is not a whole checkpoint of this model: {error}") from error

    def _save(self) -> None:
        kept = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "update": self.update,
            "curve": self.curve,
            "seconds": self.seconds,
            "best_weights": self.best_weights,
            "carried": list(self.carried),
            "torch": torch.get_rng_state(),  # for models that draw random numbers in training
        }
        with replacing(self.folder / CHECKPOINT) as file:
            torch.save(kept, file)

    def _learn(self, writer: SummaryWriter, bar: "tqdm[Any]") -> float:
        """Run the updates up to the next validation; return their mean loss."""
        end = min(self.options.updates, self.update + self.options.eval_freq)
        total, losses = 0.0, []
        first = self.update
        while self.update < end:
            losses.append(self._step())
            if self.update % LOG_EVERY == 0 or self.update == end:
                mean = math.fsum(losses) / len(losses)
                writer.add_scalar("train/loss", mean, self.update)
                writer.add_scalar("train/learning_rate", self.optimizer.param_groups[0]["lr"], self.update)
                bar.update(len(losses))
                bar.set_postfix_str(f"loss {mean:.3f}, validation {self.describe(self.curve[-1], 'validation')}")
                total += math.fsum(losses)
                losses.clear()
        return total / (end - first)

    def _step(self) -> float:
        """Run one update; return its loss."""
        options = self.options
        rate = options.learning_rate * SCHEDULES[options.lr_schedule](self.update / options.updates)
        self.optimizer.param_groups[0]["lr"] = rate
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        value = self._finite("training loss", loss.item())
        if options.max_grad_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters, options.max_grad_norm)
            self._finite("gradient norm", norm.item())
        self.optimizer.step()
        self.update += 1
        return value

    def _batch(self) -> Tensor:
        """Return the indices of this update's examples; every epoch has its own order, without a last partial batch."""
        count = len(self.splits.train.labels)
        size = min(self.options.batch_size, count)
        epoch, place = divmod(self.update, count // size)
        if epoch != self._epoch:
            rng = np.random.default_rng((self.options.seed, epoch))
            self._epoch, self._order = epoch, torch.from_numpy(rng.permutation(count))
        return self._order[place * size : (place + 1) * size]

    def _validate(self, writer: SummaryWriter, bar: "tqdm[Any]", loss: float | None = None) -> None:
        begin = time.perf_counter()
        score = self.score(self.splits.validation)
        self._finite("validation NLL", score.nll)
        measured = {name: getattr(score, name) for name in self.measured}
        row = {"update": self.update, **{f"validation_{name}": value for name, value in measured.items()}}
        if loss is not None:
            row["loss"] = loss
        for name, value in measured.items():
            writer.add_scalar(f"validation/{name}", value, self.update)
        self.seconds += time.perf_counter() - begin
        if self.test_curve:
            row["test_nll"] = self.score(self.splits.test).nll
            writer.add_scalar("test/nll", row["test_nll"], self.update)
        if not self.curve or self._rank(row) < self._rank(self.best):
            self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.curve.append(row)
        if bar.disable:
            print(f"{self.update:,} updates: validation {self.describe(row, 'validation')}", flush=True)
        self.log(writer)
        # Written before the checkpoint, so that a resumed run finds all earlier entries in the log.
        writer.flush()
        self._save()

    def _rank(self, row: dict[str, float]) -> tuple[float, ...]:
        return tuple(row[name] for name in self.chosen_by)

    def _finite(self, name: str, value: float) -> float:
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} is {value} at update {self.update:,}")
        return value


def _read(path: Path) -> dict[str, Any]:
    """Read a checkpoint, and compare its checksums, which torch does not do."""
    check_zip(path)
    kept: dict[str, Any] = torch.load(path, weights_only=True)
    return kept


def load_best(model: nn.Module, folder: Path) -> None:
    """Load into a model the weights that validation chose in the run in ``folder``.

    Raises:
        FileNotFoundError: the folder has no checkpoint.
        RuntimeError: the weights belong to another model.
    """
    if not (folder / CHECKPOINT).is_file():
        raise FileNotFoundError(f"{folder} has no {CHECKPOINT} yet")
    model.load_state_dict(_read(folder / CHECKPOINT)["best_weights"])
