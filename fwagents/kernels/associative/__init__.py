"""The compiled scan of the associative LSTM, in Numba; ``fwagents/kernels/README.md`` has a map."""
