"""The command ``fwagents tune`` from a clone: ``python train/tune.py``."""

from fwagents.commands import run

if __name__ == "__main__":
    run("tune")
