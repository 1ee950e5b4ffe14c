"""Train an agent with memory on any Gymnasium environment, and watch its learning curve in TensorBoard.

``fwagents agent --env PartialCatch-v0``
"""

import importlib
import sys
from collections.abc import Sequence

from fwagents.runs.agent import Args, args_for, check_engine
from fwagents.runs.cli import core_options, fail, key_values, parse
from fwagents.runs.folder import restored
from fwagents.runs.interrupts import INTERRUPTED


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, train, evaluate."""
    try:
        code = _main(argv)
    except KeyboardInterrupt:
        print("\nInterrupted before the first step.")
        code = INTERRUPTED
    sys.exit(code)


def _main(argv: Sequence[str] | None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = parse(Args, argv, default=args_for(argv), beside_resume=("address",), prog="fwagents agent")
    if args.resume is not None:
        try:
            args, config = restored(args, "agent", beside=("address",))
        except (OSError, ValueError) as error:
            fail(str(error))
        env_kwargs, core_kwargs = config["env_kwargs"], config["policy_kwargs"]["core_kwargs"]
    else:
        env_kwargs = key_values("--env-kwargs", args.env_kwargs)
        core_kwargs = core_options(args)
    if args.n_steps * args.num_envs < 2:
        fail("--n-steps times --num-envs is 1, expected at least 2: one step has no spread to normalise by")

    try:
        check_engine(args)
        # Imported here, so that --help and mistakes answer at once.
        from fwagents.runs.limits import check_agent, check_device
        from fwagents.runs.run import Run

        make = Run
        if args.engine == "ray":
            importlib.import_module("fwagents.rllib")  # if the extra is missing, the error says what to install
            from fwagents.runs.ray import RayRun

            make = RayRun
        check_device(args.device)
        check_agent(args, env_kwargs, core_kwargs)
        run = make(args, env_kwargs, core_kwargs)
        if args.resume is None:
            run.begin()
        else:
            run.resume(args.resume)
    except (ValueError, TypeError, AssertionError, OSError, RuntimeError, ImportError, MemoryError) as error:
        fail(str(error))
    return run.go()
