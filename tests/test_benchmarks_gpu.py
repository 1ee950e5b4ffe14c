"""The benchmark of the scan on a GPU, with tiny sizes; without a GPU it runs on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
# The benchmark runs in its own process, since the names of its modules are not unique.
TINY = """
import scan
import scan_gpu

scan_gpu.NUM_ENVS = (4,)
scan_gpu.limits = lambda device: {"gemm_flops": 1e9, "copy_bytes": 1e9}
args = scan.Args(device="cpu", T=(4,), B=(2,), H=(8, 16), seconds=0.01, quick=True)
for results in scan_gpu.measure(args):
    print(len(results["grid"]), len(results["agents"]))
print(scan_gpu.sections(results)["scan-cuda"])
"""


def test_every_cell_is_kept_as_it_comes_and_the_tables_are_written():
    done = subprocess.run(
        [sys.executable, "-c", TINY],
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 0\n2 0\n2 1\n")
    assert "| T=4, B=2 |" in done.stdout
    assert "cells above 1.0" in done.stdout
