"""Pictures of games on a grid of cells: RGB arrays, text, and a window.

The colours are the colour-blind-safe palette of Okabe and Ito.
"""

from enum import IntEnum
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium.error import DependencyNotInstalled

Image = npt.NDArray[np.uint8]


class Cell(IntEnum):
    """Contents of a cell; the bits of agent and target combine."""

    EMPTY = 0
    AGENT = 1
    TARGET = 2
    BOTH = 3
    WALL = 4


class Scene(NamedTuple):
    """Content of a picture for spectators."""

    cells: npt.NDArray[np.int64]
    """`Cell` codes [rows, columns] of the true screen, which may differ from the player's observation."""
    hidden: bool
    """True if the player needs memory in this frame: its screen is blank, or an earlier frame showed the answer."""
    success: bool | None
    """True if the episode ended in success; None while it runs."""
    caption: str
    """One line of text."""


_MIN_SIDE = 320
_BORDER = 16
_HATCH = 8
_SCREEN = np.array([(24, 24, 24), (24, 24, 24)], np.uint8)
_SCREEN_HIDDEN = np.array([(56, 44, 56), (84, 66, 84)], np.uint8)
_FRAME = np.array([(120, 120, 120), (120, 120, 120)], np.uint8)
_FRAME_HIDDEN = np.array([(204, 121, 167), (84, 66, 84)], np.uint8)
_FRAME_SUCCESS = np.array([(0, 158, 115), (0, 158, 115)], np.uint8)
_FRAME_FAILURE = np.array([(213, 94, 0), (213, 94, 0)], np.uint8)
_AGENT = np.array((86, 180, 233), np.uint8)
_TARGET = np.array((240, 228, 66), np.uint8)
_WALL = np.array((120, 120, 120), np.uint8)
_GLYPHS = {False: ".=o@#", True: ":=o@#"}


def picture(scene: Scene) -> Image:
    """Draw the scene as RGB [height, width, 3], with a longer side of at least 320 pixels.

    A hatched background and border mean that the player needs its memory. At the end of an episode the border is green
    (success) or vermilion (failure).
    """
    cells = scene.cells
    # Video encoders require even sides.
    scale = 2 * ceil(_MIN_SIDE / 2 / max(cells.shape))
    height, width = (side * scale + 2 * _BORDER for side in cells.shape)
    hatch = (np.arange(height)[:, None] + np.arange(width)) // _HATCH % 2
    image: Image = _frame_colours(scene)[hatch]
    inside = image[_BORDER:-_BORDER, _BORDER:-_BORDER]
    inside[:] = (_SCREEN_HIDDEN if scene.hidden else _SCREEN)[hatch[_BORDER:-_BORDER, _BORDER:-_BORDER]]
    inside[_paint(cells == Cell.WALL, scale, margin=0)] = _WALL
    inside[_paint(cells & Cell.AGENT, scale, margin=scale // 10)] = _AGENT
    inside[_paint(cells == Cell.TARGET, scale, margin=scale // 10)] = _TARGET
    # The target is drawn smaller here, so that the agent is visible around it.
    inside[_paint(cells == Cell.BOTH, scale, margin=scale // 4)] = _TARGET
    return image


def _frame_colours(scene: Scene) -> Image:
    if scene.success is not None:
        return _FRAME_SUCCESS if scene.success else _FRAME_FAILURE
    return _FRAME_HIDDEN if scene.hidden else _FRAME


def _paint(where: npt.NDArray[Any], scale: int, margin: int) -> npt.NDArray[np.bool_]:
    stamp = np.zeros((scale, scale), np.bool_)
    stamp[margin : scale - margin, margin : scale - margin] = True
    return np.kron(where.astype(np.bool_), stamp)


def text(scene: Scene) -> str:
    """Draw the scene as text: `=` agent, `o` target, `@` both, `#` wall, `.` empty, or `:` on a hidden screen."""
    glyphs = _GLYPHS[scene.hidden]
    lines = [scene.caption, *("".join(glyphs[cell] for cell in row) for row in scene.cells)]
    return "\n".join(lines) + "\n"


class Window:
    """A window that opens with the first image; copies and pickles of it are closed windows."""

    def __init__(self, title: str, fps: float) -> None:
        self.title = title
        self.fps = fps
        self._surface: Any = None
        self._clock: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_surface": None, "_clock": None}

    def show(self, image: Image) -> None:
        """Show the image and wait until the next one is due."""
        try:
            import pygame
        except ImportError as error:
            raise DependencyNotInstalled('a window needs pygame: pip install "fwagents[render]"') from error
        if self._surface is None:
            pygame.display.init()
            pygame.display.set_caption(self.title)
            self._surface = pygame.display.set_mode((image.shape[1], image.shape[0]))
            self._clock = pygame.time.Clock()
        # pygame's arrays have x as their first axis.
        pygame.surfarray.blit_array(self._surface, image.swapaxes(0, 1))
        # The system would mark the window as not responding if its events were not handled.
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self.fps)

    def close(self) -> None:
        """Close the window if it is open."""
        if self._surface is not None:
            import pygame

            pygame.display.quit()
            self._surface = self._clock = None
