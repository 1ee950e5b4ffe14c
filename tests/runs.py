"""Options of short runs of train/agent.py, and the folder of a run."""

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
