"""The command ``fwagents pictures`` from a clone: ``python train/pictures.py``."""

from fwagents.commands import run

if __name__ == "__main__":
    run("pictures")
