"""Episodes as a page: one HTML file that works from the disk and in a notebook, without network or server."""

import base64
import hashlib
import html
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from fwagents.inspection.film import shares, sight
from fwagents.inspection.traces import Array, Trace

QUANTITIES = ("rewards", "values", "probabilities", "means", "deviations")  # of a trace, as the page holds them
MILLION = 1_000_000  # shares are written in millionths, as whole numbers
LONGEST_SIDE = 512  # pixels; larger screens are made smaller
LARGE = 20_000  # bytes; a picture whose exact file is larger, as a photograph's, is written with losses
QUALITY = 80  # of such a picture


class Page(str):
    """The HTML of a page. A notebook shows it in a frame, so that its styles and names stay apart from the cell's."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        style = "width: 100%; height: 900px; border: 0"  # the page corrects the height once it is laid out
        return f'<iframe srcdoc="{html.escape(self)}" title="Episodes of an agent" style="{style}"></iframe>'


def page(
    traces: Iterable[Trace],
    *,
    title: str | None = None,
    action_names: Sequence[str] | None = None,
    observation_names: Sequence[str] | None = None,
    fps: float = 4.0,
) -> Page:
    """Return a page that plays episodes and shows at each step what the memory looked back at.

    Args:
        traces: traces of an agent or of a core. Each row of each trace is an episode, which the page offers to choose.
        title: heading of the page; by default the name of the core.
        action_names: names of the choices of a Discrete action; numbers by default.
        observation_names: names of an observation's numbers. They are used for vectors of that many numbers.
        fps: steps per second, above 0, when the page begins to play.

    Raises:
        ValueError: there is no trace, fps is out of its range, or there are more or fewer names than actions.
    """
    if not 0 < fps < math.inf:
        raise ValueError(f"fps is {fps}, expected a number above 0")
    pictures = _Pictures()
    episodes: list[dict[str, Any]] = []
    core = None
    for trace in traces:
        core = trace.core
        for row in range(len(trace.length)):
            episodes.append(_episode(trace.row(row), pictures, action_names, observation_names))
    if core is None:
        raise ValueError("traces is empty, expected at least one trace")
    shown = core if title is None else title
    data = {"title": shown, "core": core, "fps": fps, "pictures": pictures.urls, "episodes": episodes}
    return Page(_filled({"title": html.escape(shown), "style": _file("page.css"), "script": _file("page.js")}, data))


def _filled(parts: dict[str, str], data: dict[str, Any]) -> str:
    """Return the template with its parts and with the data, escaped so that a browser cannot read it as markup."""
    encoded = json.dumps(data, allow_nan=False, separators=(",", ":"))
    # Only strings contain these characters. Without them there is no </script> and no <!--.
    for character in "<>&":
        encoded = encoded.replace(character, f"\\u{ord(character):04x}")
    parts = {**parts, "data": encoded}
    return re.sub(r"{{ (\w+) }}", lambda place: parts[place[1]], _file("page.html"))


def _file(name: str) -> str:
    return (resources.files("fwagents.inspection") / "template" / name).read_text("utf-8")


class _Pictures:
    """The different pictures of a page, as URLs that contain them."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self._places: dict[bytes, int] = {}

    def place(self, picture: Array) -> int:
        """Return the index of a picture uint8 [height, width] or [height, width, 3], which is added if it is new."""
        digest = hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).digest()
        if digest not in self._places:
            self._places[digest] = len(self.urls)
            self.urls.append(f"data:image/webp;base64,{base64.b64encode(_webp(picture)).decode()}")
        return self._places[digest]


def _webp(picture: Array) -> bytes:
    """Return a picture as WebP, exact unless it is large."""
    image = Image.fromarray(picture).convert("RGB")
    if max(image.size) > LONGEST_SIDE:
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    content = io.BytesIO()
    image.save(content, "WEBP", lossless=True)
    if content.tell() > LARGE:
        content = io.BytesIO()
        image.save(content, "WEBP", quality=QUALITY)
    return content.getvalue()


def _episode(
    episode: Trace,
    pictures: _Pictures,
    action_names: Sequence[str] | None,
    observation_names: Sequence[str] | None,
) -> dict[str, Any]:
    """Return a trace of one row as JSON can hold it, time first; None for what was not recorded."""
    T = len(episode.start)
    arrays = {name: getattr(episode, name) for name in QUANTITIES}
    return {
        "steps": T,
        "screens": _screens(episode, pictures),
        "sights": _sights(episode, pictures, observation_names),
        "actions": None if episode.actions is None else _rounded(episode.actions.reshape(T, -1).tolist()),
        "choices": _choices(episode, action_names),
        **{name: None if array is None else _rounded(array[:, 0].tolist()) for name, array in arrays.items()},
        "looks": _looks(episode),
    }


def _screens(episode: Trace, pictures: _Pictures) -> list[Any] | None:
    """Return T + 1 pictures by their places, or T + 1 texts."""
    if episode.screens is None:
        return None
    texts = episode.screens.dtype.kind == "U"
    return [str(screen) if texts else pictures.place(screen) for screen in episode.screens[:, 0]]


def _sights(episode: Trace, pictures: _Pictures, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Return each part of the observations, as pictures or as numbers with names; of a core alone, its inputs."""
    seen: Array | dict[str, Array]
    seen = {"input": episode.inputs} if episode.observations is None else episode.observations
    parts: dict[Any, Array] = seen if isinstance(seen, dict) else {None: seen}
    found: list[dict[str, Any]] = []
    for key, array in parts.items():
        sights = [sight(array, t) for t in range(len(array))]
        if sights[0].ndim > 1:
            found.append({"name": key, "pictures": [pictures.place(picture) for picture in sights]})
        else:
            count = len(sights[0])
            named = names if names is not None and len(names) == count else range(1, count + 1)
            numbers = _rounded([numbers.tolist() for numbers in sights])
            found.append({"name": key, "names": list(map(str, named)), "numbers": numbers})
    return found


def _choices(episode: Trace, names: Sequence[str] | None) -> list[list[str]] | None:
    """Return the names of the probabilities of each part of an action, as their numbers unless there are names."""
    if episode.choices is None:
        return None
    counts = episode.choices.tolist()
    if names is None or episode.actions is None or episode.actions.ndim > 2:
        return [[str(number) for number in range(count)] for count in counts]
    if len(names) != counts[0]:
        raise ValueError(f"action_names are {list(names)}, expected {counts[0]} names, one for each action")
    return [list(names)]


def _looks(episode: Trace) -> dict[str, Any] | None:
    """Return the shares [t][head][tau] of the steps up to t, and whether they are exact; see ``film.shares``."""
    if episode.attention is None and episode.attribution is None:
        return None
    millionths = np.rint(MILLION * np.nan_to_num(shares(episode))).astype(np.int64)
    return {
        "exact": episode.attention is not None,
        "own": episode.reads_own_write,
        "shares": [step[:, : t + 1].tolist() for t, step in enumerate(millionths)],
    }


def _rounded(value: Any) -> Any:
    """Return numbers in lists with six significant digits; None for what is not finite, which JSON cannot hold."""
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    if isinstance(value, int):
        return int(value)
    return float(f"{value:.6g}") if math.isfinite(value) else None
