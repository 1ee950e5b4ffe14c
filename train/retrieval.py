"""The command ``fwagents retrieval`` from a clone: ``python train/retrieval.py``."""

from fwagents.commands import run

if __name__ == "__main__":
    run("retrieval")
