"""An episode in the terminal, step by step: the content of the film as text."""

import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from PIL import Image

from fwagents.inspection import Trace
from fwagents.inspection.film import looks, sight

PIXELS = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+)m\x1b\[48;2;(\d+);(\d+);(\d+)m▀")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SHADES = " .:-=+*#%@"
LEVELS = " ▁▂▃▄▅▆▇█"
WIDEST = 40  # characters of a picture; of an action's bar
MOST_NAMED = 6  # actions, or numbers of a vector


def page(episode: Trace, t: int, action_names: Sequence[str] | None = None) -> str:
    """Return step t of an episode (a trace of one row) as text, or the episode's end if t is past the last step."""
    assert episode.screens is not None
    assert episode.rewards is not None
    screen = episode.screens[t, 0]
    over = t == len(episode.rewards)
    left = str(screen).splitlines() if screen.dtype.kind == "U" else blocks(screen)
    right = [] if over else ["what the agent sees", *_seen(episode, t)]
    lines = _side_by_side(left, right)
    gained = f"return {episode.rewards[:t, 0].sum():g}"
    if over:
        return "\n".join([*lines, gained, ""])
    assert episode.values is not None
    exact = episode.attention is not None
    title = "the memory's read comes from" if exact else "the action is moved by what was seen at"
    heads = looks(episode, t)[:, : t + 1]
    shares = heads.sum(0)
    back = f"{title} step {shares.argmax() + 1} most, {shares.max():.0%}" if shares.any() else f"{title} nothing yet"
    lines += [*_actions(episode, t, action_names), f"value {episode.values[t, 0]:+.2f}, {gained}", back]
    names = [f"head {place + 1} " for place in range(len(heads))] if len(heads) > 1 else [""]
    most = float(heads.max()) or 1.0
    lines += [f"{name}|{_bars(bars / most)}|" for name, bars in zip(names, heads, strict=True)]
    return "\n".join([*lines, ""])


def blocks(picture: Any, widest: int = WIDEST) -> list[str]:
    """Return a picture [height, width, 3] as lines of coloured half blocks, each two pixels one above the other."""
    image = Image.fromarray(picture)
    width = min(widest, image.width)
    image = image.resize((width, max(2, 2 * round(width * image.height / image.width / 2))))
    rows = np.asarray(image)
    return [
        "".join(
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m▀"
            for a, b in zip(upper, lower, strict=True)
        )
        + "\x1b[0m"
        for upper, lower in zip(rows[::2], rows[1::2], strict=True)
    ]


def plain(text: str) -> str:
    """Return a page without escape codes: a coloured character becomes a plain one of the same brightness."""
    return ESCAPES.sub("", PIXELS.sub(lambda found: _shade(*map(int, found.groups())), text))


def _shade(*levels: int) -> str:
    return SHADES[round(sum(levels) / (255 * len(levels)) * (len(SHADES) - 1))]


def _seen(episode: Trace, t: int) -> list[str]:
    assert episode.observations is not None
    seen = sight(episode.observations, t)
    if seen.ndim == 1:
        return [f"{number:+.2f}" for number in seen[:MOST_NAMED]] + (["..."] if len(seen) > MOST_NAMED else [])
    if seen.ndim == 2 and seen.shape[1] <= WIDEST:
        return ["".join(".#"[int(level > 127)] for level in row) for row in seen]
    return blocks(seen if seen.ndim == 3 else np.stack([seen] * 3, -1))


def _side_by_side(left: list[str], right: list[str]) -> list[str]:
    """Join two columns of text; colour codes in the left one count as no width."""
    width = max((_room(line) for line in left), default=0)
    pairs = zip_longest(left, right, fillvalue="")
    return [(a + " " * (width - _room(a)) + "   " + b).rstrip() for a, b in pairs]


def _room(line: str) -> int:
    return line.count("▀") if "\x1b" in line else len(line)


def _actions(episode: Trace, t: int, names: Sequence[str] | None) -> list[str]:
    assert episode.actions is not None
    taken = episode.actions[t, 0]
    if episode.probabilities is None or taken.ndim or episode.probabilities.shape[-1] > MOST_NAMED:
        return [f"action {taken}"]
    shares = episode.probabilities[t, 0]
    names = [str(action) for action in range(len(shares))] if names is None else names
    return [
        f"{'>' if action == taken else ' '} {name[:10]:10} {share:4.2f} {'█' * round(float(share) * WIDEST)}"
        for action, (name, share) in enumerate(zip(names, shares, strict=True))
    ]


def _bars(heights: Any) -> str:
    """Return a bar for each step so far, in order; heights are at most 1."""
    return "".join(LEVELS[round(float(height) * (len(LEVELS) - 1))] for height in heights[-2 * WIDEST :])
