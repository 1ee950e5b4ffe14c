"""The console script ``fwagents``: ``fwagents agent --env PartialCatch-v0``; alone it lists its commands.

``fwagents --tyro-print-completion bash`` prints a script that completes commands and options; so for zsh.
"""

import importlib
import sys
from collections.abc import Sequence

from fwagents.commands import COMMANDS, run
from fwagents.runs.interrupts import as_script

HELP = ("-h", "--help")
COMPLETION = ("--tyro-print-completion", "--tyro-write-completion")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first word names."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or HELP[:1]
    if name in COMMANDS:
        run(name, rest)
    elif name in HELP:
        print(listed())
    elif name.partition("=")[0] in COMPLETION:
        as_script(lambda: complete([name, *rest]))
    else:
        print(f"error: command is {name!r}, expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)


def listed() -> str:
    """The commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  fwagents {name:{width}}  {does}" for name, does in COMMANDS.items()]
    return "\n".join([*lines, "", "fwagents COMMAND --help lists the options of a command."])


def complete(argv: Sequence[str]) -> None:
    """Print or write the completion of every command and option for a shell."""
    import tyro

    options = {name: importlib.import_module(f"fwagents.commands.{name}").Args for name in COMMANDS}
    tyro.extras.subcommand_cli_from_dict(options, prog="fwagents", args=argv)


if __name__ == "__main__":
    main()
