"""Draw what a trained memory attends to, from the folder of a run, in a light and a dark theme.

``fwagents pictures RUN_DIR --output FOLDER``

For an agent's run, it draws the attention, the units, the growth of the fast weights and a GIF of an episode. For a run
of ``fwagents retrieval``, it draws strings with the attention to their characters. For a run of ``fwagents glimpses``
with fast weights, it draws digits with the attention to their patches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fwagents.runs.cli import fail, parse
from fwagents.runs.options import Count, Frequency, OutputFolder, Seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawing = tuple[str, "Callable[..., Figure]"]  # the picture's name, and the function that draws it in a theme


@dataclass
class Args:
    """Draw what a trained memory attends to."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Folder of a run of fwagents agent, fwagents retrieval or fwagents glimpses. For an agent, this imports the
    modules that config.json names, and loads SB3's zip file, which runs code: give only a folder that you trust."""
    output: OutputFolder
    """Folder to write the pictures to."""
    seed: Seed = 0
    """Seed of the agent's episode, the strings or the choice of images."""
    count: Count = 6
    """Number of strings in a picture, or number of images, one picture each."""
    fps: Frequency = 4.0
    """Steps per second of the GIF."""


def main(argv: Sequence[str] | None = None) -> None:
    """Find out what was run, draw it, write it."""
    args = parse(Args, argv, prog="fwagents pictures")
    from fwagents.figures import save
    from fwagents.runs.folder import CONFIG, read_json

    try:
        config = read_json(args.run_dir / CONFIG)
        options = config.get("args") if isinstance(config, dict) else None
        options = options if isinstance(options, dict) else {}
        drawers = {"env": of_agent, "pairs": of_strings, "dataset": of_glimpses}
        drawer = next((drawer for option, drawer in drawers.items() if option in options), None)
        if drawer is None:
            raise ValueError("it is no run of fwagents agent, fwagents retrieval or fwagents glimpses")
        for name, draw in drawer(args):
            for theme in ("light", "dark"):
                save(draw(theme=theme), args.output / f"{name}-{theme}.png")
                print(f"wrote {args.output / name}-{theme}.png", flush=True)
    except Exception as error:  # a run of somebody else's environment can fail in any way
        fail(f"{args.run_dir} cannot be drawn: {error}")


def of_agent(args: Args) -> Iterator[Drawing]:
    """Draw an episode's attention, units and growth, and write its film."""
    from fwagents import figures
    from fwagents.inspection import trace
    from fwagents.inspection.film import as_shown, film
    from fwagents.inspection.video import write_video
    from fwagents.runs.agent import Args as AgentArgs
    from fwagents.runs.folder import best_model, read_config
    from fwagents.runs.players import Player

    player = Player(read_config(args.run_dir, AgentArgs), best_model(args.run_dir), ["rgb_array"])
    seen = trace(player.model, player.env, seed=args.seed, normalize_obs=player.normalization, attribution=True)
    write_video(film(as_shown(seen, player.env), action_names=player.action_names), args.output / "play.gif", args.fps)
    print(f"wrote {args.output / 'play.gif'}")
    if seen.attention is not None:
        yield "attention", lambda theme: figures.attention_matrix(seen, theme=theme)
        yield "growth", lambda theme: figures.memory_growth(seen, theme=theme)
    by_gradient = replace(seen, attention=None)
    yield "attribution", lambda theme: figures.attention_matrix(by_gradient, theme=theme)
    yield "units", lambda theme: figures.unit_traces(seen, theme=theme)


def of_strings(args: Args) -> Iterator[Drawing]:
    """Draw fresh strings of the run's task, with what their last character looks back at."""
    import numpy as np

    from fwagents import figures
    from fwagents.commands import retrieval
    from fwagents.inspection import trace
    from fwagents.runs.supervised import read
    from fwagents.tasks.training import load_best

    options, core_kwargs = read(retrieval.Args, ["--resume", str(args.run_dir)], "retrieval")
    task, model = retrieval.model(options, core_kwargs)
    load_best(model, args.run_dir)
    tokens, answers = task.draw(args.count, np.random.default_rng(args.seed))
    seen = trace(model.core, model.core_inputs(tokens), attribution=True, readout=model.answer)
    assert seen.attribution is not None
    found = seen.attribution[:, :, None] if seen.attention is None else seen.parts()  # [T, B, heads, T]
    said = model(tokens).argmax(1)
    words = [[str(int(digit)) for digit in digits] for digits in (answers, said)]
    weights = found[-1]
    yield "strings", lambda theme: figures.retrieval_strings(task.decode(tokens), weights, *words, theme=theme)


def of_glimpses(args: Args) -> Iterator[Drawing]:
    """Draw test images, with the patches that the last glimpse looks back at."""
    import numpy as np

    from fwagents import figures
    from fwagents.commands import glimpses
    from fwagents.inspection import trace
    from fwagents.runs.supervised import read
    from fwagents.tasks.glimpses import boxes
    from fwagents.tasks.glimpses import glimpses as patches
    from fwagents.tasks.training import load_best

    options, core_kwargs = read(glimpses.Args, ["--resume", str(args.run_dir)], "glimpses")
    if options.model != "plain":
        raise ValueError(f"--model was {options.model}, expected plain: a core on the glimpses, one after the other")
    splits, classes = glimpses.data(options)
    model: Any = glimpses.model(options, core_kwargs, len(classes) or 10)
    load_best(model, args.run_dir)
    chosen = np.random.default_rng(args.seed).choice(len(splits.test.labels), args.count, replace=False)
    images, labels = splits.test.inputs[chosen], splits.test.labels[chosen]
    seen = trace(model.core, patches(images), attribution=True, readout=model.scores)
    assert seen.attribution is not None
    found = seen.attribution[:, :, None] if seen.attention is None else seen.parts()  # [T, B, heads, T]
    said = model(images).argmax(1)
    for n, image in enumerate(images.numpy()):
        names = [classes[int(i)] if classes else str(int(i)) for i in (labels[n], said[n])]
        title = f"a {names[0]}, read as {names[1]}"
        weights = found[-1, n].sum(0)

        def draw(theme: Any, image: Any = image, weights: Any = weights, title: str = title) -> "Figure":
            return figures.glimpse_sequence(image, boxes(len(image)), weights, title=title, theme=theme)

        yield f"glimpses-{n + 1}", draw
