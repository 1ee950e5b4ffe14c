"""Write a trained agent for use elsewhere: as ONNX, and as weights that load without pickle.

``fwagents export RUN_DIR`` writes to RUN_DIR/export/. ``step.onnx`` and ``sequence.onnx`` have the memory's state as an
input and an output. ``fwagents.export.load_policy`` reads ``agent.safetensors`` with ``agent.json``. Then both ONNX
files are run by onnxruntime over whole episodes, and their outputs are compared with the agent's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fwagents.runs.cli import fail, parse
from fwagents.runs.options import Count, OutputFolder, Seed, TakenBy

MOST = 1e-3  # largest difference of values (relative) and probabilities that rounding explains


@dataclass
class Args:
    """Write a trained agent as ONNX and as safetensors."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Folder that fwagents agent made. This imports the modules that its config.json names, and loads SB3's zip file,
    which runs code: give only a folder that you trust."""
    output: OutputFolder | None = None
    """Folder to write to; by default RUN_DIR/export."""
    onnx: bool = True
    """Write step.onnx and sequence.onnx."""
    episodes: Annotated[Count, TakenBy(onnx=(True,))] = 3
    """Episodes on which both ONNX files are checked."""
    seed: Annotated[Seed, TakenBy(onnx=(True,))] = 0
    """Seed of the first episode."""


def main(argv: Sequence[str] | None = None) -> None:
    """Load the run's best model, export it, check the export."""
    args = parse(Args, argv, prog="fwagents export")
    from fwagents.runs.agent import Args as AgentArgs
    from fwagents.runs.folder import best_model, read_config

    try:
        export(args, read_config(args.run_dir, AgentArgs), best_model(args.run_dir))
    except Exception as error:  # a run of somebody else's environment can fail in any way
        fail(f"{args.run_dir} cannot be exported: {error}")


def export(args: Args, config: dict[str, Any], model_path: Path) -> None:
    """Write the exported files, then check them."""
    from fwagents.export import export_onnx, save_policy
    from fwagents.export.check import compare
    from fwagents.runs.players import Player

    player = Player(config, model_path)
    folder = args.output or args.run_dir / "export"
    save_policy(player.policy, folder / "agent", player.normalization, config["args"]["observe"])
    print(f"wrote {folder / 'agent.safetensors'} and {folder / 'agent.json'}")
    if not args.onnx:
        return
    paths = folder / "step.onnx", folder / "sequence.onnx"
    export_onnx(player.policy, *paths, normalization=player.normalization)
    found = compare(
        player.model,
        *paths,
        player.env,
        episodes=args.episodes,
        seed=args.seed,
        normalize_obs=player.normalization,
    )
    for path, agreement in zip(paths, found, strict=True):
        print(
            f"wrote {path}: over {agreement.steps} steps of {args.episodes} episodes {agreement.actions:.2%} of the "
            f"actions are the agent's; values differ by at most {agreement.values:.1e}, probabilities by "
            f"{agreement.probabilities:.1e}"
        )
        if agreement.actions < 1 - MOST or max(agreement.values, agreement.probabilities) > MOST:
            raise ValueError(f"{path} does not act as the agent does")
