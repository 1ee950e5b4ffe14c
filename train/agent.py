"""The command ``fwagents agent`` from a clone: ``python train/agent.py``."""

from fwagents.commands import run

if __name__ == "__main__":
    run("agent")
