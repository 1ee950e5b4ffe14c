"""Scripts run as a user runs them, but in this process: to start Python and import torch takes seconds."""

import contextlib
import io
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

TRAIN = Path(__file__).parent.parent / "train"


class Done(NamedTuple):
    """What a script left behind, by the names of ``subprocess.CompletedProcess``."""

    returncode: int
    stdout: str
    stderr: str


def run(script, *args, cwd):
    """Run ``train/<script>``, or the script at an absolute path, with these arguments in a folder."""
    out, err = io.StringIO(), io.StringIO()
    before = os.getcwd(), sys.argv, list(sys.path), [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    os.chdir(cwd)
    sys.argv = [str(TRAIN / script), *map(str, args)]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))  # as Python does
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except Exception:
        code = 1
        err.write(traceback.format_exc())
    finally:
        os.chdir(before[0])
        sys.argv, sys.path[:] = before[1], before[2]
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before[3], strict=True):
            signal.signal(number, handler)
    return Done(code, out.getvalue(), err.getvalue())
