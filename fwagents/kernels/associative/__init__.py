"""The compiled scan of the associative LSTM, in Numba; see the README beside this folder for a map."""
