"""The command ``fwagents export`` from a clone: ``python train/export.py``."""

from fwagents.commands import run

if __name__ == "__main__":
    run("export")
