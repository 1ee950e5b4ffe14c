"""The compiled scan on a GPU, in Triton; ``fwagents/kernels/README.md`` has a map."""
