"""Watch a trained agent play: in the terminal, or as a GIF.

``python train/watch.py runs/PartialCatch-v0/fast_weights-s0-...``
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from cli import fail, parse


@dataclass
class Args:
    """Watch a trained agent play."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Folder that train/agent.py made."""
    episodes: int = 3
    """Episodes to play."""
    seed: int = 0
    """Seed of the first episode."""
    fps: float = 6.0
    """Frames per second."""
    output: Path | None = None
    """Write a GIF there; without it the game is drawn in the terminal."""


def main(argv: Sequence[str] | None = None) -> None:
    """Load the run's best model and let it play."""
    args = parse(Args, argv)
    if args.episodes < 1 or not args.fps > 0:
        fail(f"--episodes is {args.episodes} and --fps {args.fps}, expected both to be above 0")
    from runs import read_config

    try:
        config = read_config(args.run_dir)
        frames = play(config, best_model(args.run_dir), args)
    except Exception as error:  # a run of somebody else's environment can fail in any way
        fail(f"{args.run_dir} cannot be shown: {error}")
    if args.output is not None:
        write_gif(frames, args.output, args.fps)
        print(f"wrote {args.output}")


def best_model(run_dir: Path) -> Path:
    """The best model of a run, else the last."""
    for name in ("best_model.zip", "final_model.zip", "interrupted_model.zip"):
        if (run_dir / name).is_file():
            return run_dir / name
    raise FileNotFoundError(f"{run_dir} has no model yet: no best_model.zip, final_model.zip or interrupted_model.zip")


def play(config: dict[str, Any], model_path: Path, args: Args) -> list[Any]:
    """Play episodes; returns the pictures if they are to be written, else draws them in the terminal."""
    import gymnasium as gym
    import numpy as np
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    from algorithms import load_model
    from fwagents.sb3.checkpoints import load_normalizer

    model = load_model(config["args"]["algo"], model_path)
    name = config["args"]["env"]
    offered = gym.make(name, **config["env_kwargs"]).metadata.get("render_modes", [])
    modes = ["ansi", "human"] if args.output is None else ["rgb_array"]
    mode = next((mode for mode in modes if mode in offered), None)
    if mode is None:
        raise ValueError(f"{name} can be drawn as {', '.join(offered) or 'nothing'}, expected {' or '.join(modes)}")
    env = gym.make(name, render_mode=mode, **config["env_kwargs"])
    normalizer = load_normalizer(model_path, DummyVecEnv([lambda: env]))
    frames: list[Any] = []
    for episode in range(args.episodes):
        obs, _ = env.reset(seed=args.seed + episode)
        state, total, over = None, 0.0, False
        show(env, frames, args)
        while not over:
            if isinstance(normalizer, VecNormalize):
                obs = normalizer.normalize_obs(obs)
            action, state = model.predict(obs, state, np.array([state is None]), deterministic=True)
            obs, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            over = terminated or truncated
            show(env, frames, args)
        print(f"episode {episode + 1}: return {total:g}")
    env.close()
    return frames


def show(env: Any, frames: list[Any], args: Args) -> None:
    """Keep the picture, or draw over the last one in the terminal."""
    picture = env.render()
    if args.output is not None:
        frames.append(picture)
        return
    if picture is None:  # it is in a window
        return
    print("\x1b[H\x1b[2J" + picture, flush=True)
    time.sleep(1 / args.fps)


def write_gif(frames: list[Any], path: Path, fps: float) -> None:
    """Write pictures [H, W, 3] as a GIF that repeats."""
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)


if __name__ == "__main__":
    main()
