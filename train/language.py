"""The command ``fwagents language`` from a clone: ``python train/language.py``."""

from fwagents.commands import run

if __name__ == "__main__":
    run("language")
