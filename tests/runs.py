"""Options of short runs of train/agent.py, the folder of a run, and a run that is resumed from its middle."""

import shutil

import torch

from fwagents.sb3 import MemoryPPO

from .scripts import run

TINY = [
    *("--num-envs", "4", "--hidden-size", "8", "--final-episodes", "8", "--eval-episodes", "4"),
    *("--total-timesteps", "600"),
]
CELL = ["--core", "fast_weights"]

# A run with many checkpoints, which is killed or interrupted and resumed.
RESUMABLE = [
    *("--env-kwargs", "size=6", "visible_frames=2", "--n-steps", "7", "--num-envs", "4", "--hidden-size", "8"),
    *("--total-timesteps", "2800", "--checkpoint-freq", "112", "--eval-freq", "280", "--eval-episodes", "6"),
    *("--final-episodes", "10", "--n-epochs", "2", "--batch-size", "14", "--seed", "5", "--normalize"),
]


def run_folder(cwd):
    """Return the folder of the only run that was made in ``cwd``."""
    (folder,) = cwd.glob("runs/*/*")
    return folder


def resumed_as_unbroken(trained, cwd):
    """Resume a copy of a MemoryPPO run from its second checkpoint, without its later files, and compare the two runs.

    Returns the step of that checkpoint, and the finished script.
    """
    folder = cwd / "again"
    shutil.copytree(trained, folder)
    checkpoints = sorted((folder / "checkpoints").iterdir())
    for path in (*checkpoints[2:], folder / "result.json", folder / "final_model.zip"):
        path.unlink()
    done = run("agent.py", "--resume", folder, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "New episodes begin" not in done.stdout
    ours, theirs = (dict(MemoryPPO.load(f / "final_model.zip").policy.named_parameters()) for f in (folder, trained))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert (folder / "result.json").read_text() == (trained / "result.json").read_text()
    return int(checkpoints[1].stem.removeprefix("step_")), done
