# %% [markdown]
"""A trace in a notebook: train an agent, trace two episodes, and see what its memory looks back at, step by step.

    python examples/trace_in_a_notebook.py

The file is a notebook in the percent format: VS Code, PyCharm and Spyder run its cells, and Jupyter opens it with
Jupytext. The last cell shows a page with a slider; a script writes it to runs/examples/episodes.html, for a browser. It
takes about a minute. Expect an agent that catches both balls, and bars for the earlier steps that it reads.
"""

# %% Imports
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from fwagents.inspection import Trace, trace
from fwagents.sb3 import MemoryPPO

GAME = {"size": 6, "visible_frames": 2}


# %% Train an agent and trace it
def main(total_timesteps: int = 150_000) -> Trace:
    """Train an agent on a small PartialCatch; return a trace of two episodes."""
    torch.set_num_threads(1)  # small agents are fastest on one
    agent = MemoryPPO.for_env("PartialCatch-v0", env_kwargs=GAME, hidden_size=32).learn(total_timesteps)
    seen = trace(agent, gym.make("PartialCatch-v0", render_mode="rgb_array", **GAME), episodes=2, seed=0)
    shares = seen.parts()[-1, 0].sum(0) / seen.parts()[-1, 0].sum()  # of each step, in the last read of episode 0
    print(f"returns {seen.rewards.sum(0)}; the last step reads the earlier ones in the shares {np.round(shares, 2)}")
    return seen


def page_of(seen: Trace) -> str:
    """Return the page of a trace, and write it for a browser."""
    page = seen.to_html(title="PartialCatch", action_names=["stay", "left", "right"])
    path = Path("runs/examples/episodes.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return page


# %% A notebook displays the last value of a cell
page = page_of(main()) if __name__ == "__main__" else None
page  # noqa: B018
