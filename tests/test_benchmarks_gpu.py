"""The benchmark of the scan on a GPU, with tiny sizes; without a GPU it runs on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
# The benchmark runs in its own process, since the names of its modules are not unique.
TINY = """
import sys
from pathlib import Path

from rich.console import Console

import scan
import scan_gpu

scan_gpu.DEVICE, scan_gpu.STEPS, scan_gpu.BATCHES, scan_gpu.SIZES, scan_gpu.NUM_ENVS = "cpu", (4,), (2,), (8, 16), (4,)
scan_gpu.limits = lambda: {"gemm_flops": 1e9, "copy_bytes": 1e9}
scan.DOCUMENT = Path(sys.argv[1])
counts = []
results = scan_gpu.measure(
    False, 0.01, Console(stderr=True), lambda now: counts.append((len(now["grid"]), len(now["agents"])))
)
scan_gpu.report(results)
print(counts)
"""


def test_every_cell_is_kept_as_it_comes_and_the_tables_are_written(tmp_path):
    document = tmp_path / "document.md"
    document.write_text("<!-- scan-cuda: written by a command, do not edit -->\n<!-- end of scan-cuda -->\n")
    done = subprocess.run(
        [sys.executable, "-c", TINY, document],
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[(1, 0), (2, 0), (2, 1)]\n"
    text = document.read_text()
    assert "| T=4, B=2 |" in text
    assert "cells above 1.0" in text
