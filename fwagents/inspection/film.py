"""An episode as pictures, one for each step: true screen, observation, action, value, and the memory's attention."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, cast

import gymnasium as gym
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fwagents.inspection.traces import Array, Trace

Box: TypeAlias = tuple[int, int, int, int]

# Okabe and Ito's colour-blind-safe colours, on a dark background.
GROUND, PANEL, FAINT, TEXT = (24, 24, 24), (44, 44, 44), (150, 150, 150), (235, 235, 235)
CHOSEN, OTHER, VALUE, LOOK = (240, 228, 66), (86, 180, 233), (0, 158, 115), (230, 159, 0)
SIDE, GAP, LINE = 320, 16, 22  # pixels
BARS, CHART = 8, 90  # largest number of actions with a line each; height of the lowest panel
STRIP, MARGIN = 30, 60  # height of a head's strip in the lowest panel, and width of its name, if there are several
READ, READ_TOO = "share of a step in what is read now", "share of a step, this one too, in what is read"
MOVED = "share of an observation in the action"
LATEST = 60  # latest steps that the lowest panel shows
FEWEST_FOR_A_GRID = 25  # numbers from which a vector is shown as a grid


def action_names_of(env: gym.Env[Any, Any]) -> Sequence[str] | None:
    """Return the names of the environment's actions, or None; Atari games and our environments have names."""
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    return None if meanings is None else list(meanings())


def observation_names_of(env: gym.Env[Any, Any]) -> Sequence[str] | None:
    """Return the names of the observation's numbers, which ``HideObservation`` may have; None without."""
    if not env.has_wrapper_attr("get_observation_meanings"):
        return None
    return cast("Sequence[str] | None", env.get_wrapper_attr("get_observation_meanings")())


def as_shown(trace: Trace, env: gym.Env[Any, Any]) -> Trace:
    """Return a trace with the environment's own observations, for films and figures.

    If ``PreviousStep`` or ``ActionMasks`` is the outermost wrapper, the parts that it adds are left out: a film shows
    actions, their probabilities and rewards in separate panels, and lays out a screen by its size.
    """
    own_part = getattr(env, "own_part", None)
    return trace if own_part is None else replace(trace, observations=own_part(trace.observations))


def film(trace: Trace, row: int = 0, action_names: Sequence[str] | None = None, *, every: int = 1) -> Iterator[Array]:
    """Yield the pictures of an episode, one for each step and one after the last.

    The lowest panel shows the share of each step in the current step's read from the fast memory, in its last inner
    step. For a core without a fast memory, it shows how much each observation moves the current action. A memory with
    several heads has a strip for each head, all on one scale.

    Args:
        trace: trace of an agent, with screens that are pictures.
        row: index of the episode.
        action_names: names of discrete actions; numbers by default.
        every: number of steps between pictures; there is always a picture after the last step.

    Yields:
        uint8 [height, width, 3], all of one size, both sides even.

    Raises:
        ValueError: the trace has no pictures.
    """
    if trace.screens is None or trace.screens.dtype != np.uint8 or trace.actions is None:
        raise ValueError("the trace holds no pictures, expected an agent's, in an environment drawn as rgb_array")
    episode = trace.row(row)
    T = len(episode.start)
    for t in [*range(0, T, every), T]:
        yield _Frame(episode, t, action_names).picture()


class _Frame:
    """One picture, drawn from top to bottom."""

    def __init__(self, episode: Trace, t: int, action_names: Sequence[str] | None) -> None:
        self.episode, self.t, self.over = episode, t, t == len(episode.start)
        self.action_names = action_names
        assert episode.screens is not None
        screen = Image.fromarray(episode.screens[t, 0])
        size = (SIDE * screen.width // screen.height, SIDE)
        enlarged = Image.Resampling.NEAREST if screen.height <= SIDE else Image.Resampling.LANCZOS
        self.screen = screen.resize(size, enlarged)
        self.middle = GAP + self.screen.width + GAP  # left edge of the right half
        self.width = 2 * (self.middle + SIDE + GAP + 1 >> 1)
        self.panel = GAP + 2 * LINE + SIDE  # top of the panels below the screens
        self.lowest = self.panel + LINE + self._panel_height() + GAP
        self.heads = len(looks(episode, 0))
        self.legend = self.lowest + LINE + max(CHART, self.heads * STRIP) + LINE
        self.height = 2 * (self.legend + LINE + GAP + 1 >> 1)
        self.image = Image.new("RGB", (self.width, self.height), GROUND)
        self.draw = ImageDraw.Draw(self.image)
        self.font, self.small = ImageFont.load_default(15), ImageFont.load_default(12)

    def picture(self) -> Array:
        t, T = self.t, len(self.episode.start)
        at = "the end" if self.over else f"step {t + 1} of {T}"
        self._text((GAP, GAP), f"true screen, {at}")
        self.image.paste(self.screen, (GAP, GAP + LINE))
        self._text((self.middle, GAP), "what the agent sees")
        self._sight((self.middle, GAP + LINE, self.middle + SIDE, GAP + LINE + SIDE))
        below = self.panel + LINE + self._panel_height()
        self._actions((GAP, self.panel, self.middle - GAP, below))
        self._values((self.middle, self.panel, self.width - GAP, below))
        self._look_back((GAP, self.lowest, self.width - GAP, self.legend - LINE))
        self._legend()
        return np.asarray(self.image)

    def _legend(self) -> None:
        """Draw the meaning of every colour, in a line at the bottom."""
        exact = READ_TOO if self.episode.reads_own_write else READ
        bars = MOVED if self.episode.attention is None else exact
        named = {CHOSEN: "action taken, present step", OTHER: "other actions", VALUE: "value", LOOK: bars}
        x, y = float(GAP), self.legend
        for colour, words in named.items():
            self.draw.rectangle((x, y + 5, x + 9, y + 14), colour)
            self.draw.text((x + 14, y + 3), words, TEXT, self.small)
            x += 14 + self.small.getlength(words) + 12

    def _text(self, at: tuple[float, float], words: str, fill: tuple[int, int, int] = TEXT, anchor: str = "la") -> None:
        self.draw.text(at, words, fill, self.font, anchor)

    def _panel_height(self) -> int:
        """Return the height of the panels in the middle: a line per action, at least 3 and at most ``BARS`` lines."""
        probabilities, actions = self.episode.probabilities, self.episode.actions
        assert actions is not None
        count = int(actions[0].size if probabilities is None else probabilities.shape[-1])
        return LINE * min(max(count, 3), BARS)

    def _sight(self, box: Box) -> None:
        self.draw.rectangle(box, PANEL)
        if self.over:
            return
        assert self.episode.observations is not None
        seen = sight(self.episode.observations, self.t)
        if seen.ndim > 1:
            self.image.paste(Image.fromarray(seen).resize((SIDE, SIDE), Image.Resampling.NEAREST), box[:2])
            return
        self._signed_bars(box, seen, sight_scale(self.episode.observations), OTHER)

    def _signed_bars(self, box: Box, numbers: Array, largest: float, fill: tuple[int, int, int]) -> None:
        """Draw a vector as vertical bars from the middle, one for each number."""
        left, top, right, bottom = box
        middle, pitch = (top + bottom) / 2, (right - left) / len(numbers)
        for place, number in enumerate(numbers):
            x, end = left + place * pitch, middle - number / largest * (bottom - top) / 2
            self.draw.rectangle((x + 0.15 * pitch, min(middle, end), x + 0.85 * pitch, max(middle, end)), fill)
        self.draw.line((left, middle, right, middle), FAINT)

    def _actions(self, box: Box) -> None:
        left, top, right, bottom = box
        probabilities, actions = self.episode.probabilities, self.episode.actions
        assert actions is not None
        continuous = probabilities is None
        self._text((left, top), "action" if continuous else "action probabilities")
        if self.over:
            return
        box = (left, top + LINE, right, bottom)
        taken = actions[self.t, 0]
        if probabilities is None:
            self._signed_bars(box, taken.ravel(), float(np.abs(actions).max()) or 1.0, CHOSEN)
            return
        shares = probabilities[self.t, 0]
        chosen = {int(taken)} if taken.ndim == 0 else set()
        if len(shares) > BARS:
            self._shares(box, shares, chosen)
            return
        names = self.action_names or [str(action) for action in range(len(shares))]
        for action, (name, share) in enumerate(zip(names, shares, strict=True)):
            y = top + LINE * (action + 1)
            fill = CHOSEN if action in chosen else OTHER
            self._text((left, y), name[:10], fill if action in chosen else TEXT)
            begin, end = left + 90, right - 50
            self.draw.rectangle((begin, y + 2, begin + share * (end - begin), y + LINE - 5), fill)
            self._text((right, y), f"{share:.2f}", anchor="ra")

    def _shares(self, box: Box, shares: Array, chosen: set[int]) -> None:
        left, top, right, bottom = box
        pitch = (right - left) / len(shares)
        for place, share in enumerate(shares):
            x, fill = left + place * pitch, CHOSEN if place in chosen else OTHER
            self.draw.rectangle((x, bottom - share * (bottom - top), x + 0.8 * pitch, bottom), fill)

    def _values(self, box: Box) -> None:
        """Draw the value, the return so far, and the curve of the values so far."""
        left, top, right, bottom = box
        values, rewards = self.episode.values, self.episode.rewards
        assert values is not None
        assert rewards is not None
        gained = rewards[: self.t, 0].sum()
        now = f"return {gained:g}" if self.over else f"value {values[self.t, 0]:+.2f}, return so far {gained:g}"
        self._text((left, top), now)
        top += LINE
        self.draw.rectangle((left, top, right, bottom), PANEL)
        low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
        across = (right - left) / max(len(values) - 1, 1)

        def height(value: float) -> float:
            return bottom - 3 - (value - low) / ((high - low) or 1.0) * (bottom - top - 6)

        self.draw.line((left, height(0.0), right, height(0.0)), FAINT)
        points = [(left + t * across, height(v)) for t, v in enumerate(values[: self.t + 1, 0])]
        if len(points) > 1:
            self.draw.line(points, VALUE, 2)
        x, y = points[-1]
        self.draw.ellipse((x - 3, y - 3, x + 3, y + 3), VALUE)

    def _look_back(self, box: Box) -> None:
        left, top, right, bottom = box
        exact = self.episode.attention is not None
        title = "what the memory's read comes from" if exact else "which observations move the action"
        T = len(self.episode.start)
        weights = np.zeros((self.heads, T)) if self.over else looks(self.episode, self.t)
        whole = weights.sum(0)
        found = f"; step {whole.argmax() + 1} most, {whole.max():.0%}" if whole.any() else ""
        self._text((left, top), title + found)
        first = max(0, min(self.t, T - 1) - LATEST + 1)
        slots = min(T, LATEST)
        top += LINE
        height = (bottom - top) / self.heads
        begin = left + (MARGIN if self.heads > 1 else 0)
        for head, bars in enumerate(weights[:, first : first + slots]):
            strip = (begin, round(top + head * height) + (head > 0), right, round(top + (head + 1) * height) - 1)
            if self.heads > 1:
                self.draw.text((left, (strip[1] + strip[3]) / 2), f"head {head + 1}", TEXT, self.small, "lm")
            self._bars(strip, bars / (weights.max() or 1.0), slots)
        pitch = (right - begin) / slots
        if not self.over:
            x = begin + (self.t - first) * pitch
            self.draw.rectangle((x, top, x + pitch, bottom), outline=CHOSEN)
        every = next(n for n in (1, 2, 5, 10, 20, 50) if n * pitch >= 28)
        for tau in range(first, first + slots):
            if (tau + 1) % every == 0 or tau == first == 0:
                self._text((begin + (tau - first + 0.5) * pitch, bottom + 3), str(tau + 1), FAINT, "ma")

    def _bars(self, box: Box, heights: Array, slots: int) -> None:
        """Draw a vertical bar of height 0 to 1 for each step, on a panel with space for ``slots`` bars."""
        left, top, right, bottom = box
        self.draw.rectangle(box, PANEL)
        pitch = (right - left) / slots
        for place in np.flatnonzero(heights).tolist():
            x, height = left + place * pitch, float(heights[place]) * (bottom - top - 3)
            self.draw.rectangle((x + 1, bottom - height, x + pitch - 1, bottom), LOOK)


def looks(episode: Trace, t: int) -> Array:
    """Return the share of each step in the last read of step t for each head [heads, T]; the sum over heads is 1.

    Without attention, return the share of each observation in the attribution [1, T]. The result is zero if nothing is
    read, or if the trace has neither.
    """
    return cast(Array, shares(episode)[t])


def shares(episode: Trace) -> Array:
    """Share of each step in the last read of every step, head by head; see ``looks`` [T, heads, T]."""
    T = len(episode.start)
    if episode.attention is not None:
        sizes = episode.parts()[:, 0]
    elif episode.attribution is not None:
        sizes = episode.attribution
    else:
        return np.zeros((T, 1, T))
    total = sizes.sum((1, 2), keepdims=True)
    return cast(Array, np.divide(sizes, total, out=np.zeros_like(sizes), where=total > 0))


def sight(observations: Array | dict[str, Array], t: int) -> Array:
    """Return the observation at step t as a picture uint8 [height, width] or [height, width, 3], or as a short vector.

    A long vector is laid out row by row, in a shape close to a square. A dict is shown as its first entry that is a
    picture, or else as all its entries, concatenated. Of stacked frames, the newest is shown.
    """
    if isinstance(observations, dict):
        pictures = [array for array in observations.values() if array.ndim - 2 > 1]
        if pictures:
            return sight(pictures[0], t)
        return sight(np.concatenate([array.reshape(*array.shape[:2], -1) for array in observations.values()], 2), t)
    seen = observations[t, 0]
    if seen.ndim <= 1 and seen.size < FEWEST_FOR_A_GRID:
        return np.atleast_1d(seen).astype(float)
    low, high = float(observations.min()), float(observations.max())
    levels: Array = (255 * (seen - low) / ((high - low) or 1.0)).astype(np.uint8)
    if levels.ndim == 1:
        columns = int(np.ceil(levels.size**0.5))
        rows = -(-levels.size // columns)
        return np.pad(levels, (0, rows * columns - levels.size)).reshape(rows, columns)
    if levels.ndim == 3:
        channels = int(np.argmin(levels.shape))
        levels = np.moveaxis(levels, channels, -1)
        return levels if levels.shape[-1] == 3 else levels[..., -1]
    return levels.reshape(len(levels), -1)


def sight_scale(observations: Array | dict[str, Array]) -> float:
    """Return the largest absolute value in the observations, which scales the bars of short vectors."""
    arrays = observations.values() if isinstance(observations, dict) else [observations]
    return max(float(np.abs(array).max()) for array in arrays) or 1.0
