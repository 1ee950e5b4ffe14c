"""The command ``fwagents compare`` from a clone: ``python train/compare.py``."""

from fwagents.commands import run

if __name__ == "__main__":
    run("compare")
