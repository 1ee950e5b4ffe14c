"""ONNX in a loop without torch: export an agent, then play it with onnxruntime and NumPy alone.

    python examples/onnx_loop.py

Another process trains and exports the agent, so this one never imports torch. The memory is explicit: the output
`next.NAME` of a step is the input NAME of the next. It takes about a minute. Expect a mean return near 1.0, the best.
"""

import sys
from multiprocessing import get_context
from pathlib import Path

import gymnasium as gym
import numpy as np
import onnxruntime
import tyro

ENV, GAME = "fwagents.envs:PartialCatch-v0", {"size": 6, "visible_frames": 2}


def export(path: Path, total_timesteps: int) -> None:
    """Train an agent and write it to ``path`` as ONNX."""
    import torch

    from fwagents.export import export_onnx
    from fwagents.sb3 import MemoryPPO

    torch.set_num_threads(1)  # small agents are fastest on one
    export_onnx(MemoryPPO.for_env(ENV, env_kwargs=GAME, hidden_size=32).learn(total_timesteps).policy, path)


def play(path: Path, steps: int) -> tuple[list[int], float]:
    """Play; return the action of each step, and the mean return of the episodes."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    memory = {x.name: np.zeros([1, *x.shape[1:]], "f4") for x in session.get_inputs() if f"next.{x.name}" in names}
    env = gym.make(ENV, **GAME)
    obs, start, actions, total, episodes = env.reset(seed=0)[0], True, [], 0.0, 0
    for _ in range(steps):  # a step with ``start`` ignores the memory
        found = session.run(names, {"observation": obs[None], "start": np.array([start]), **memory})
        out = dict(zip(names, found, strict=True))
        memory = {name: out[f"next.{name}"] for name in memory}
        actions.append(int(out["action"][0]))
        obs, reward, terminated, truncated, _ = env.step(actions[-1])
        start = terminated or truncated
        total, episodes = total + float(reward), episodes + start
        obs = env.reset()[0] if start else obs
    return actions, total / episodes


def main(total_timesteps: int = 100_000, path: Path = Path("runs/examples/agent.onnx")) -> None:
    """Train and export in another process, then play in this one."""
    with get_context("spawn").Pool(1) as other:
        other.apply(export, (path, total_timesteps))
    print(f"mean return {play(path, steps=500)[1]:.2f}; torch is imported here: {'torch' in sys.modules}")


if __name__ == "__main__":
    tyro.cli(main)
