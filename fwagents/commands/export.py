"""Write a trained agent for use elsewhere: as ONNX, and as weights that load without pickle.

``fwagents export RUN_DIR`` writes RUN_DIR/export/: ``step.onnx`` and ``sequence.onnx``, whose memory goes in and
comes out, and ``agent.safetensors`` with ``agent.json``, which ``fwagents.export.load_policy`` reads. Then onnxruntime
plays whole episodes with both forms, and what comes out is compared with the agent itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fwagents.runs.cli import fail, parse
from fwagents.runs.options import Count, OutputFolder, Seed, TakenBy

MOST = 1e-3  # difference of values (relative) and probabilities that rounding explains


@dataclass
class Args:
    """Write a trained agent as ONNX and as safetensors."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Folder that fwagents agent made. The modules that its config.json names are imported, and SB3's zip in it runs
    code when it is loaded: only what you trust."""
    output: OutputFolder | None = None
    """Folder to write to; by default export in the run's own."""
    onnx: bool = True
    """Write step.onnx and sequence.onnx."""
    episodes: Annotated[Count, TakenBy(onnx=(True,))] = 3
    """Episodes that both forms are checked on."""
    seed: Annotated[Seed, TakenBy(onnx=(True,))] = 0
    """Seed of the first of them."""


def main(argv: Sequence[str] | None = None) -> None:
    """Load the run's best model, write it, check it."""
    args = parse(Args, argv, prog="fwagents export")
    from fwagents.runs.agent import Args as AgentArgs
    from fwagents.runs.folder import best_model, read_config

    try:
        export(args, read_config(args.run_dir, AgentArgs), best_model(args.run_dir))
    except Exception as error:  # a run of somebody else's environment can fail in any way
        fail(f"{args.run_dir} cannot be exported: {error}")


def export(args: Args, config: dict[str, Any], model_path: Path) -> None:
    """Write, then check."""
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
