"""The command ``fwagents glimpses`` from a clone: ``python train/glimpses.py``."""

from fwagents.commands import run

if __name__ == "__main__":
    run("glimpses")
