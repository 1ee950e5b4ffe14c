"""Logs of MemoryPPO and MemoryA2C have SB3's keys and folders."""

import gymnasium as gym
import pytest
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from fwagents.sb3 import MemoryA2C, MemoryPPO

from .agents import ALGORITHMS, make


@pytest.mark.parametrize("pair", [(MemoryPPO, PPO), (MemoryA2C, A2C)])
def test_logs_the_peers_keys(pair, tmp_path):
    keys = []
    for algorithm in pair:
        kwargs = (
            {"policy_kwargs": {"net_arch": [8]}} if algorithm in (PPO, A2C) else {"policy_kwargs": {"hidden_size": 8}}
        )
        env = DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 2)
        name = "MlpPolicy" if algorithm in (PPO, A2C) else "MemoryPolicy"
        if algorithm is PPO:
            kwargs["batch_size"] = 64
        model = algorithm(name, env, n_steps=32, device="cpu", **kwargs)
        model.set_logger(configure(str(tmp_path / algorithm.__name__), ["csv"]))
        model.learn(640, log_interval=1)
        header = (tmp_path / algorithm.__name__ / "progress.csv").read_text().splitlines()[0]
        keys.append(set(header.split(",")))
    assert keys[0] == keys[1]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_folders_of_tensorboard_logs_are_named_as_sb3_names_them(algorithm, tmp_path):
    """A folder's name is the algorithm's or the given one, and a number; continued training keeps its folder."""
    model = make(algorithm, n_steps=2, tensorboard_log=str(tmp_path))
    model.learn(1)
    model.learn(1, reset_num_timesteps=False)
    for _ in range(2):
        model.learn(1, tb_log_name="again")
    assert {path.name for path in tmp_path.iterdir()} == {f"{algorithm.__name__}_1", "again_1", "again_2"}
