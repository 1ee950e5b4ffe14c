"""Run scripts as a user does, but in this process, because starting Python and importing torch takes seconds."""

import contextlib
import io
import multiprocessing
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

TRAIN = Path(__file__).parent.parent / "train"
FORKS = multiprocessing.get_context("forkserver")


class Done(NamedTuple):
    """The result of a script, with the attributes of ``subprocess.CompletedProcess``."""

    returncode: int
    stdout: str
    stderr: str


class Started:
    """``train/<script>`` in its own process, with the attributes of ``subprocess.Popen``; it can be killed."""

    def __init__(self, script, *args, cwd):
        (out, its_out), (err, its_err) = FORKS.Pipe(duplex=False), FORKS.Pipe(duplex=False)
        words = [str(word) for word in args]
        self._process = FORKS.Process(target=_go, args=(script, words, str(cwd), its_out, its_err), daemon=True)
        self._process.start()
        its_out.close()
        its_err.close()
        self.stdout, self.stderr = (open(os.dup(end.fileno())) for end in (out, err))  # noqa: SIM115

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self._process.pid, number)

    def wait(self, timeout=120):
        self._process.join(timeout)
        assert self.returncode is not None, "it has not ended"
        return self.returncode

    def communicate(self, timeout=120):
        self.wait(timeout)
        with self.stdout, self.stderr:
            return self.stdout.read(), self.stderr.read()


def _go(script, words, cwd, out, err):
    for stream, end in ((sys.stdout, out), (sys.stderr, err)):
        os.dup2(end.fileno(), stream.fileno())
        stream.reconfigure(line_buffering=True)
    os.chdir(cwd)
    sys.argv = [str(TRAIN / script), *words]
    runpy.run_path(sys.argv[0], run_name="__main__")


def run(script, *args, cwd):
    """Run ``train/<script>``, or a script at an absolute path, with these arguments in the folder ``cwd``."""
    return run_path(str(TRAIN / script), *args, cwd=cwd)


def run_path(path, *args, cwd):
    """Run a script with these arguments in the folder ``cwd``; its path may be relative to that folder."""
    out, err = io.StringIO(), io.StringIO()
    before = os.getcwd(), sys.argv, [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    os.chdir(cwd)
    sys.argv = [path, *map(str, args)]
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
        sys.argv = before[1]
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before[2], strict=True):
            signal.signal(number, handler)
    return Done(code, out.getvalue(), err.getvalue())


def refusal(done):
    """Check that a script has ended with exit code 2 and one line of error; return the line."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr


def refused(capsys, main, *args):
    """Check that a function leaves with exit code 2 and one line of error; return the line."""
    code = 0
    try:
        main(*args)
    except SystemExit as left:
        code = left.code
    return refusal(Done(code, *capsys.readouterr()))


class Finished:
    """A command that is one of our scripts, run in this process, with the attributes of ``subprocess.Popen``."""

    def __init__(self, command, cwd, stdout, **_):
        done = run_path(*command[1:], cwd=cwd)
        stdout.write((done.stdout + done.stderr).encode())
        self.returncode = done.returncode

    def poll(self):
        return self.returncode
