"""The compiled scans on the CPU, in Numba; ``fwagents/kernels/README.md`` has a map."""
