"""Search for settings that train an agent well. Every core's search is the same and begins with its current settings.

``fwagents tune --env PartialCatch-v0 --core lstm --trials 50 --total-timesteps 200000``
"""

import importlib
import sys
from collections.abc import Sequence

from fwagents.runs.cli import fail, parse
from fwagents.runs.interrupts import INTERRUPTED
from fwagents.runs.search import Args, check_core


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, search, write."""
    args = parse(Args, argv, prog="fwagents tune")
    if not args.seeds:
        fail("--seeds is empty, expected at least one")
    try:
        check_core(args)
        try:
            importlib.import_module("optuna")
        except ImportError:
            fail('the search needs Optuna: pip install "fwagents[tune]"')
        from fwagents.runs import study

        study.search(args)
    except (ValueError, TypeError, AssertionError, OSError, ImportError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on.", file=sys.stderr)
        sys.exit(INTERRUPTED)
