"""The commands of ``fwagents``: one file each, with its ``main``.

An options dataclass that a run needs without a command line stands in ``fwagents.runs``; the others stand here.
"""

import importlib
from collections.abc import Sequence

from fwagents.runs.interrupts import as_script

COMMANDS = {
    "agent": "train an agent with memory on any Gymnasium environment",
    "watch": "watch a trained agent play and remember",
    "compare": "compare runs: curves, final returns, steps to a level, with intervals over seeds",
    "export": "write a trained agent as ONNX and as safetensors",
    "tune": "search for settings that train an agent well",
    "pictures": "draw what a trained memory attends to",
    "retrieval": "train a memory to look values up by their keys",
    "glimpses": "train a memory to classify images by glimpses",
    "language": "train a memory to model any text, character by character",
}


def run(name: str, argv: Sequence[str] | None = None) -> None:
    """Run a command in a process of its own: an interrupt at any time, also during imports, ends it with exit code 130.

    Args:
        name: the command, one of ``COMMANDS``.
        argv: its command line; None is this process's.
    """
    as_script(lambda: importlib.import_module(f"{__name__}.{name}").main(argv))
