"""Recordings of a memory's activity, as named arrays, as a file, and as a table of the units."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from fwagents.files import replacing

if TYPE_CHECKING:
    import pandas

    from fwagents.inspection.page import Page

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Trace:
    """Recording of T steps of B rows, time first. A row is an episode of an agent, or a sequence of a core.

    Shorter rows are padded with zeros. An attribute that does not apply is None, such as attention for a core without
    a fast memory, or actions without an agent.

    A fast memory has one or several heads, each a matrix W. ``FastWeights`` has one head, A, and reads it in each of S
    inner steps. A ``FastWeightProgrammer`` reads each of its heads once a step (S = 1). A read is a weighted sum of the
    written vectors: ``attention[t, b, n, s] @ written[:, b, n]`` is the read of head n in inner step s of step t.

    Attributes:
        core: class of the core, such as "FastWeights".
        length: int64 [B], steps of each row.
        start: bool [T, B], True where a step opens an episode.
        inputs: [T, B, D], inputs of the core.
        hidden: [T, B, H], outputs of the core.
        keys: [T, B, heads, d], key under which each step writes: h, or h / |h|, for ``FastWeights``.
        written: [T, B, heads, d], vector that each step writes: fast_lr times the key for ``FastWeights``, v for the
            sum rule, beta (v - alpha W k) for the delta rule.
        queries: [T, B, heads, S, d], vector that W multiplies in each inner step.
        attention: [T, B, heads, S, T], weight of step tau (last dimension) in each read: the product of the decays
            since tau, times ``keys[tau] . query``, within an episode, else zero. ``FastWeights`` reads before it
            writes, so a step has no weight in its own reads; a programmer writes first, so a step has a weight in its
            own read. The sum rule's weights are divided by the same number as its read. For a row that settles before
            the last inner step, the later entries repeat its last read.
        inner_steps: int64 [T, B], number of inner steps of each step; it varies only if they are adaptive.
        norm: [T, B, heads], Frobenius norm of W after each step.
        effective_rank: [T, B, heads], exp of the entropy of W's singular values (Roy and Vetterli, 2007).
        attribution: [T, B, T], norm of the derivative of a score at step t by the observation of step tau (last
            dimension). The score of an agent is the log-odds of its action, log(p / (1 - p)), summed over the parts of
            an action; for continuous actions, the sum of the distribution's mode.
        observations: [T, B, ...], inputs of the policy, or a dict of such arrays.
        actions: [T, B, ...].
        rewards: [T, B].
        values: [T, B].
        probabilities: [T, B, P], probability of every action; several discrete actions are concatenated; for binary
            actions, the probability of a 1. None for continuous actions.
        choices: int64 [A], number of probabilities of each part of an action, in the order in which they are
            concatenated: n for a Discrete action, a number for each part of a MultiDiscrete one, 1 for each bit of a
            MultiBinary one. None for continuous actions.
        means: [T, B, A], means of continuous actions, before they are clipped to the action space. None for others.
        deviations: [T, B, A], standard deviations of continuous actions. None for others.
        screens: [T + 1, B, ...], pictures or texts, the last one after the row's last step.
    """

    core: str
    length: Array
    start: Array
    inputs: Array
    hidden: Array
    keys: Array | None = None
    written: Array | None = None
    queries: Array | None = None
    attention: Array | None = None
    inner_steps: Array | None = None
    norm: Array | None = None
    effective_rank: Array | None = None
    attribution: Array | None = None
    observations: Array | dict[str, Array] | None = None
    actions: Array | None = None
    rewards: Array | None = None
    values: Array | None = None
    probabilities: Array | None = None
    choices: Array | None = None
    means: Array | None = None
    deviations: Array | None = None
    screens: Array | None = None

    @property
    def valid(self) -> Array:
        """Mask, bool [T, B], True up to each row's end."""
        return cast(Array, np.arange(len(self.start))[:, None] < self.length)

    @property
    def reads_own_write(self) -> bool:
        """True if a step has a weight in its own read, as with a programmer but not with ``FastWeights``."""
        return self.attention is not None and bool(np.diagonal(self.attention, axis1=0, axis2=-1).any())

    def parts(self, inner_step: int = -1) -> Array:
        """Return the size of each step's part in a read of each head, |weight| |written| [T, B, heads, T].

        Weights alone are not comparable, since a step that wrote nothing may have a large weight. The measure is the
        norm of Kobayashi et al. (2020), arXiv:2004.10102.

        Args:
            inner_step: read of each step; the last by default.

        Raises:
            ValueError: the trace has no attention.
        """
        if self.attention is None or self.written is None:
            raise ValueError(f"the trace of {self.core} has no attention, expected one of a core with a fast memory")
        sizes = np.linalg.norm(self.written, axis=-1)  # [T, B, heads]
        return cast(Array, np.abs(self.attention[:, :, :, inner_step]) * np.moveaxis(sizes, 0, -1))

    def row(self, b: int) -> "Trace":
        """Return a trace of row b alone, cut to its length.

        Raises:
            IndexError: there is no such row.
        """
        if not 0 <= b < len(self.length):
            raise IndexError(f"row is {b}, expected 0 to {len(self.length) - 1}")
        T = int(self.length[b])

        def cut(name: str, value: Any) -> Any:
            if isinstance(value, dict):
                return {key: cut(name, array) for key, array in value.items()}
            if not isinstance(value, np.ndarray):
                return value
            if name == "length":
                return value[b : b + 1]
            if name == "choices":
                return value
            if name in ("attention", "attribution"):
                return value[:T, b : b + 1, ..., :T]
            return value[: T + (name == "screens"), b : b + 1]

        return replace(self, **{field.name: cut(field.name, getattr(self, field.name)) for field in fields(self)})

    def to_html(
        self,
        *,
        title: str | None = None,
        action_names: Sequence[str] | None = None,
        observation_names: Sequence[str] | None = None,
        fps: float = 4.0,
    ) -> "Page":
        """Return a page that plays every row and shows what the memory looked back at.

        The page is one string of HTML. A notebook displays it as the last value of a cell, and a file that contains it
        opens in a browser without network.

        Args:
            title: heading of the page; by default the name of the core.
            action_names: names of the choices of a Discrete action; numbers by default.
            observation_names: names of an observation's numbers. They are used for vectors of that many numbers.
            fps: steps per second, above 0, when the page begins to play.

        Raises:
            ValueError: fps is out of its range, or there are more or fewer names than actions.
        """
        from fwagents.inspection.page import page  # Pillow, which a trace alone does not need

        return page([self], title=title, action_names=action_names, observation_names=observation_names, fps=fps)

    def save(self, path: Path | str) -> None:
        """Write a ``.npz``: an array under each name that applies; a dict of observations under ``observations/key``.

        Raises:
            ValueError: the name does not end in .npz.
        """
        if Path(path).suffix != ".npz":
            raise ValueError(f"path is {str(path)!r}, expected a name that ends in .npz")
        arrays = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, dict):
                arrays.update({f"{field.name}/{key}": array for key, array in value.items()})
            elif value is not None:
                arrays[field.name] = np.asarray(value)
        with replacing(Path(path)) as file:
            np.savez_compressed(cast(Any, file), **arrays)

    @classmethod
    def load(cls, path: Path | str) -> "Trace":
        """Read a file that ``save`` wrote; no code in it is run.

        Raises:
            ValueError: the file holds no trace.
        """
        values: dict[str, Any] = {}
        known = {field.name for field in fields(cls)}
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays:
                field, slash, key = name.partition("/")
                if field not in known:
                    raise ValueError(f"{path} is no trace: it holds {name!r}")
                if slash:
                    values.setdefault(field, {})[key] = arrays[name]
                else:
                    values[field] = arrays[name]
        needed = {"core", "length", "start", "inputs", "hidden"} | ({"written"} if "attention" in values else set())
        missing = needed - set(values)
        if missing:
            raise ValueError(f"{path} is no trace: it lacks {', '.join(sorted(missing))}")
        return cls(**{**values, "core": str(values["core"])})

    def frame(self) -> "pandas.DataFrame":
        """Return a pandas table with a line for each step, indexed by row and step.

        It has columns for the units, ``unit_0`` ..., and for actions, rewards, values and probabilities. Norm and
        effective rank have a column for each head, ``norm_0`` ...

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError('a frame needs pandas: pip install "fwagents[inspect]"') from error
        steps, rows = np.nonzero(self.valid.T)[::-1]
        columns: dict[str, Array] = {}
        of_agent = {"action": self.actions, "reward": self.rewards, "value": self.values}
        of_memory = {"norm": self.norm, "effective_rank": self.effective_rank}
        many = {"probability": self.probabilities, "unit": self.hidden}
        for name, values in {**of_agent, **of_memory, **many}.items():
            if values is None:
                continue
            picked = values[steps, rows]
            if picked.ndim == 1:
                columns[name] = picked
            else:
                flat = picked.reshape(len(picked), -1)
                columns.update({f"{name}_{place}": flat[:, place] for place in range(flat.shape[1])})
        index = pandas.MultiIndex.from_arrays([rows, steps], names=["row", "step"])
        return pandas.DataFrame(columns, index=index)
