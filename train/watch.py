"""The command ``fwagents watch`` from a clone: ``python train/watch.py``."""

from fwagents.commands import run

if __name__ == "__main__":
    run("watch")
