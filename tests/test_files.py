"""On a full disk, every error names the file that was being written, and no incomplete file is left."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fwagents.files import naming, replacing

TRAIN = Path(__file__).parent.parent / "train"


def in_a_zip(file):
    with zipfile.ZipFile(file, "w") as archive, archive.open("entry", "w", force_zip64=True) as entry:
        torch.save({"x": torch.randn(1000)}, entry)


WRITERS = {
    "bytes": lambda file: file.write(bytes(100_000)),
    "torch": lambda file: torch.save({"x": torch.randn(1000)}, file),
    "numpy": lambda file: np.savez(file, x=np.zeros(5000)),
    "zip": in_a_zip,
}
# The largest size of a file: as on a full disk, the system refuses to write more.
LIMITED = """
import resource, runpy, signal, sys

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_an_error_names_the_file(write, tmp_path):
    resource = pytest.importorskip("resource")
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = tmp_path / "out"
    path.write_text("old")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        with pytest.raises(OSError, match=r"too large: '.*/out'$"), replacing(path) as file:
            write(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_there_stays():
    with pytest.raises(FileNotFoundError, match="'nowhere'"), naming(Path("other")):
        os.stat("nowhere")
    with pytest.raises(OSError, match=r"^\[Errno 28\] full: 'other'$"), naming(Path("other")):
        raise OSError(28, "full")


# The file that grows first depends on the limit.
@pytest.mark.parametrize(
    ("limit", "name"),
    [
        (20, "config.json"),
        (6000, "step_0"),
        pytest.param(100, "", marks=pytest.mark.slow),
        pytest.param(1000, "", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_run_on_a_full_disk_ends_in_one_line(limit, name, tmp_path):
    words = ["--env", "PartialCatch-v0", "--core", "gru", "--hidden-size", "8", "--total-timesteps", "3000"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), str(TRAIN / "agent.py"), *words, "--log-dir", "runs"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "runs/PartialCatch-v0" in line
    assert name in line
