"""Make every picture of the documentation, light and dark: of an agent, of both supervised tasks, of TensorBoard,
the page of an episode, the figure of ``docs/idea.md``, and the comparison of ``docs/compare.md``.

``python -m experiments.gallery`` trains missing runs into runs/gallery/, for about a quarter of an hour, then draws.
Other runs can be given instead. Screenshots of TensorBoard and of the page are made with Chromium, which must be on
the PATH.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fwagents.runs.cli import fail, parse
from fwagents.runs.interrupts import as_script
from fwagents.runs.options import OutputFolder, Seed

# How each run is trained, and the pictures of it that the documentation shows.
COMMANDS = {
    "agent": ("--env", "PartialCatch-v0", "--core", "fast_weights", "--seed", "10", "--log-memory"),
    "retrieval": (
        *("--hidden-size", "50", "--updates", "100000", "--learning-rate", "1e-3", "--lr-schedule", "warmup"),
        *("--decay", "0.95", "--fast-lr", "1.0"),
    ),
    "glimpses": (
        *("--hidden-size", "100", "--updates", "12900", "--eval-freq", "430", "--seed", "1"),
        *("--learning-rate", "2e-3", "--fast-lr", "0.25"),
    ),
}
SHOWN = {
    "agent": ("play.gif", "attention", "attribution", "units", "growth"),
    "retrieval": ("strings",),
    "glimpses": ("glimpses-1", "glimpses-2"),
}
FOLDERS = {"agent": "PartialCatch-v0", "retrieval": "retrieval", "glimpses": "glimpses"}


@dataclass
class Args:
    """Make every picture of the documentation."""

    output: OutputFolder = Path("docs/pictures")
    """Folder that the pictures go to."""
    agent: Path | None = None
    """Run of train/agent.py, with --log-memory; None for the run in --log-dir, which is trained if it is missing."""
    retrieval: Path | None = None
    """Run of train/retrieval.py; None as above."""
    glimpses: Path | None = None
    """Run of train/glimpses.py; None as above."""
    log_dir: OutputFolder = Path("runs/gallery")
    """Folder for the runs that are trained here."""
    seed: Seed = 3
    """Seed of the episode, the strings and the choice of images."""
    board: bool = True
    """Make screenshots of TensorBoard and of the page of an episode; --no-board if there is no Chromium."""


def main(argv: Sequence[str] | None = None) -> None:
    """Find or train the runs, draw them, make screenshots of TensorBoard and of the page of an episode."""
    args = parse(Args, argv)
    try:
        for path in pictures(args):
            print(f"wrote {path}", flush=True)
    except (OSError, ValueError, RuntimeError, subprocess.CalledProcessError) as error:
        fail(str(error))


def pictures(args: Args) -> Iterator[Path]:
    """Make every picture; yield its path once it is written."""
    from experiments import compared, idea
    from experiments.photographs import photograph_board, photograph_episode

    yield from idea.pictures(args.output)
    yield from compared.pictures(args.output)
    runs = {script: getattr(args, script) or finished(args.log_dir, script) for script in COMMANDS}
    for script, run_dir in runs.items():
        yield from draw(script, run_dir, args)
    if args.board:
        yield from photograph_board(runs["agent"].parent.parent, args.output)
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "play.html"
            _run("watch", str(runs["agent"]), "--output", str(page), "--seed", str(args.seed))
            yield from photograph_episode(page, args.output)


def finished(log_dir: Path, script: str) -> Path:
    """Return a script's finished run; train or resume it first if none is finished."""
    folder = log_dir / FOLDERS[script]
    begun = sorted(folder.glob("*/config.json"))
    if not any(path.with_name("result.json").exists() for path in begun):
        options = ("--resume", str(begun[-1].parent)) if begun else (*COMMANDS[script], "--log-dir", str(log_dir))
        _run(script, *options)
    return sorted(folder.glob("*/result.json"))[-1].parent


def draw(script: str, run_dir: Path, args: Args) -> Iterator[Path]:
    """Draw the pictures of a run that the documentation shows."""
    from fwagents.files import replacing

    with tempfile.TemporaryDirectory() as drawn:
        _run("pictures", str(run_dir), "--output", drawn, "--seed", str(args.seed))
        for name in SHOWN[script]:
            for kind in [name] if "." in name else [f"{name}-{theme}.png" for theme in ("light", "dark")]:
                with replacing(args.output / kind) as file:
                    file.write((Path(drawn) / kind).read_bytes())
                yield args.output / kind


def _run(script: str, *options: str) -> None:
    subprocess.run([sys.executable, "-m", "fwagents", script, *options], check=True)


if __name__ == "__main__":
    as_script(main)
