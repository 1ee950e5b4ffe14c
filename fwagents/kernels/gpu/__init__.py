"""The compiled scan on a GPU, in Triton; see the README beside this folder for a map."""
