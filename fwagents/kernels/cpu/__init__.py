"""The compiled scans on the CPU, in Numba; see the README beside this folder for a map."""
