"""Compile the Triton kernels, as the scan launches them, without a GPU; print the resources that they use.

python -m tests.kernels.ahead_of_time R T float32
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fwagents.kernels import ScanOptions
from fwagents.kernels.gpu import kernels
from fwagents.kernels.gpu.scan import backward_pass, forward_pass
from tests.kernels.problems import changed, random_scan

TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32", int: "i32", float: "fp32"}


class Compiled:
    """Replaces a kernel: a launch compiles it for the given arguments, and runs nothing."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return self

    def __call__(self, *tensors, num_warps, num_stages, **more):
        given = dict(zip(self.kernel.arg_names, tensors, strict=False)) | more
        given = {name: given[name] for name in self.kernel.arg_names}
        fixed = {p.name for p in self.kernel.params if p.is_constexpr} | {n for n, x in given.items() if x is None}
        types = {
            name: "constexpr" if name in fixed else TYPES[getattr(x, "dtype", type(x))] for name, x in given.items()
        }
        constants = {(i,): x for i, (n, x) in enumerate(given.items()) if n in fixed}
        aligned = {(i,): [["tt.divisibility", 16]] for i, x in enumerate(given.values()) if hasattr(x, "data_ptr")}
        source = ASTSource(self.kernel, types, constants, aligned)
        options = {"num_warps": num_warps, "num_stages": num_stages}
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        print(f"{self.kernel.__name__}: {resources(compiled)}, {num_warps} warps")


def resources(compiled) -> str:
    """Return the registers and spilled bytes per thread, and the shared bytes per program, as text."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
        found = subprocess.run([tool, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", found.stdout).groups()
    return f"{registers} registers, {stack} bytes spilled, {compiled.metadata.shared} bytes shared"


def main(size: int, steps: int, dtype: str) -> None:
    kernels.forward, kernels.backward = Compiled(kernels.forward), Compiled(kernels.backward)
    options = ScanOptions(2, normalize_storage=True, tolerance=0.1)
    scans = [
        random_scan(steps, 2, size, starts=0.1),
        random_scan(steps, 2, size, options, norms=2),
        random_scan(steps, 2, size, norms=0, state=False),
    ]
    for scan in scans:
        inputs = changed(scan.inputs, lambda x: x.to(getattr(torch, dtype)))
        y, *_, trace = forward_pass(inputs, scan.options, True)
        backward_pass([y, y[-1], inputs.A], [y], trace, inputs, scan.options, [True] * len(inputs))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
