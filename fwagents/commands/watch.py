"""Watch a trained agent play and remember: in a window, in the terminal, as a page, or as a GIF or MP4.

``fwagents watch runs/PartialCatch-v0/rotary_fast_weights-s0-... --output play.html``
"""

import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fwagents.runs.cli import fail, parse
from fwagents.runs.options import Count, Frequency, OutputFile, Seed, TakenBy

if TYPE_CHECKING:
    from fwagents.inspection import Trace
    from fwagents.runs.players import Player


@dataclass
class Args:
    """Watch a trained agent play: the true screen, what it saw, what it did, what it looked back at."""

    run_dir: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder that fwagents agent made; by default the folder of the newest agent in runs. This imports the modules that
    its config.json names, and loads SB3's zip file, which runs code: give only a folder that you trust."""
    episodes: Count = 3
    """Episodes to play."""
    seed: Seed = 0
    """Seed of the first episode."""
    fps: Frequency = 4.0
    """Steps per second; of a page, when it begins to play."""
    output: OutputFile | None = None
    """Write a file and show nothing. A name that ends in .html gives a page with a slider, .gif or .mp4 a film."""
    window: Annotated[bool, TakenBy(output=(None,))] = True
    """Open a window if there is a display; --no-window plays in the terminal."""


def main(argv: Sequence[str] | None = None) -> None:
    """Load the run's best model, let it play, show it."""
    args = parse(Args, argv, prog="fwagents watch")
    if args.output is not None and args.output.suffix.lower() not in (".html", ".gif", ".mp4"):
        fail(f"--output is {args.output}, expected a name that ends in .html, .gif or .mp4")
    from fwagents.runs.agent import Args as AgentArgs
    from fwagents.runs.folder import best_model, newest_agent, read_config

    try:
        run_dir = args.run_dir or newest_agent(Path("runs"))
    except FileNotFoundError as error:
        fail(str(error))
    try:
        watch(read_config(run_dir, AgentArgs), best_model(run_dir), args)
    except Exception as error:  # a run of somebody else's environment can fail in any way
        fail(f"{run_dir} cannot be shown: {error}")


def watch(config: dict[str, Any], model_path: Path, args: Args) -> None:
    """Play the episodes, and show them or write them to a file."""
    from fwagents.runs.players import Player

    window = args.window and args.output is None and can_open_a_window()
    if args.window and args.output is None and not window:
        print("no window: there is no display, or pygame-ce is not installed; playing in the terminal", file=sys.stderr)
    paged = args.output is not None and args.output.suffix.lower() == ".html"
    if paged:
        modes = ["rgb_array", "ansi"]
    else:
        modes = ["rgb_array"] if window or args.output is not None else ["ansi", "rgb_array"]
    player = Player(config, model_path, modes)
    played = episodes(player, args)
    if args.output is not None:
        if paged:
            write_page(played, player, f"{config['args']['env']}, {config['args']['core']}", args.output, args.fps)
        else:
            write_film(played, player.action_names, args.output, args.fps)
        print(f"wrote {args.output}")
    elif window:
        show_in_window(played, player.action_names, config["args"]["env"], args.fps)
    else:
        show_in_terminal(played, player.action_names, args.fps)
    player.env.close()


def episodes(player: "Player", args: Args) -> Iterator["Trace"]:
    """Yield one episode after the other, and print a line about each when it has been shown."""
    from fwagents.inspection import has_fast_memory, trace
    from fwagents.inspection.film import as_shown

    exact = has_fast_memory(player.policy.actor_core)
    for number in range(args.episodes):
        played = trace(
            player.model,
            player.env,
            seed=args.seed + number,
            normalize_obs=player.normalization,
            growth=False,
            attribution=not exact,
        )
        yield as_shown(played, player.env)
        assert played.rewards is not None
        print(f"episode {number + 1}: return {played.rewards.sum():g}", flush=True)


def write_page(played: Iterator["Trace"], player: "Player", title: str, path: Path, fps: float) -> None:
    """Write all episodes as one page."""
    from fwagents.files import replacing
    from fwagents.inspection.film import observation_names_of
    from fwagents.inspection.page import page

    names = observation_names_of(player.env)
    shown = page(played, title=title, action_names=player.action_names, observation_names=names, fps=fps)
    with replacing(path) as file:
        file.write(shown.encode())


def write_film(played: Iterator["Trace"], names: Sequence[str] | None, path: Path, fps: float) -> None:
    """Write all episodes as one film."""
    from fwagents.inspection.film import film
    from fwagents.inspection.video import write_video

    write_video((picture for episode in played for picture in film(episode, action_names=names)), path, fps)


def can_open_a_window() -> bool:
    """Return whether there is a display, and pygame to draw on it."""
    shown = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    )
    return shown and importlib.util.find_spec("pygame") is not None


def show_in_window(played: Iterator["Trace"], names: Sequence[str] | None, title: str, fps: float) -> None:
    """Show the episodes in a window, until they end or the window is closed."""
    import pygame

    from fwagents.envs.render import Window
    from fwagents.inspection.film import film

    with closing(Window(title, fps)) as window:
        for episode in played:
            for picture in film(episode, action_names=names):
                window.show(picture)
                if pygame.event.get(pygame.QUIT):
                    return


def show_in_terminal(played: Iterator["Trace"], names: Sequence[str] | None, fps: float) -> None:
    """Print each step as text over the previous one; in a pipe or a file, below it and without colours."""
    from fwagents.runs.terminal import page, plain

    live = sys.stdout.isatty()

    for episode in played:
        for t in range(int(episode.length[0]) + 1):
            text = page(episode, t, names)
            print("\x1b[H\x1b[2J" + text if live else plain(text), flush=True)
            time.sleep(1 / fps if live else 0)
