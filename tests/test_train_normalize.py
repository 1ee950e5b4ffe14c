"""``--normalize`` on every kind of observation: vectors are normalised, images and integers are not."""

import json
import pickle
import zipfile

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from .runs import run_folder
from .sb3.tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, RandomEnv
from .scripts import refusal, run

VECTOR, IMAGE = OBSERVATION_SPACES["vector"], OBSERVATION_SPACES["small_image"]
SPACES = {
    **OBSERVATION_SPACES,
    "multi_binary": spaces.MultiBinary(3),
    "mixed": spaces.Dict({"far": VECTOR, "near": VECTOR, "seen": IMAGE, "which": spaces.Discrete(3)}),
    "pixels": spaces.Dict({"seen": IMAGE, "which": spaces.Discrete(3)}),
}
# By the name of the space: the policy, and the normalised parts; None for the whole observation, () for nothing.
EXPECTED = {
    "vector": ("MemoryPolicy", None),
    "discrete": ("MemoryPolicy", ()),
    "multi_binary": ("MemoryPolicy", ()),
    "image": ("MemoryCnnPolicy", ()),
    "small_image": ("MemoryCnnPolicy", ()),
    "dict": ("MemoryMultiInputPolicy", ("a",)),
    "images": ("MemoryMultiInputPolicy", ()),
    "mixed": ("MemoryMultiInputPolicy", ("far", "near")),
    "pixels": ("MemoryMultiInputPolicy", ()),
}
TINY = [
    *("--normalize", "--num-envs", 2, "--n-steps", 8, "--n-epochs", 1, "--hidden-size", 8, "--total-timesteps", 128),
    *("--checkpoint-freq", 64, "--eval-freq", 64, "--eval-episodes", 2, "--final-episodes", 2),
]


@pytest.fixture(scope="module", autouse=True)
def _registered():
    for name, space in SPACES.items():
        gym.register(
            f"Normalized-{name}-v0",
            lambda space=space, render_mode=None: RandomEnv(space, ACTION_SPACES["discrete"]),
        )
    yield
    for name in SPACES:
        del gym.registry[f"Normalized-{name}-v0"]


def trained(name, cwd, *options):
    done = run("agent.py", "--env", f"Normalized-{name}-v0", *TINY, *options, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return run_folder(cwd)


def normalizer_of(path):
    with zipfile.ZipFile(path) as archive:
        return pickle.loads(archive.read("vecnormalize.pkl"))


def parts(normalizer):
    """Return names and statistics of the normalised parts."""
    if not normalizer.norm_obs:
        return {}
    return normalizer.obs_rms if isinstance(normalizer.obs_rms, dict) else {None: normalizer.obs_rms}


@pytest.mark.parametrize("name", SPACES)
def test_every_observation_trains_resumes_and_is_shown_as_it_was_learned(name, tmp_path, monkeypatch):
    folder = trained(name, tmp_path)
    policy, keys = EXPECTED[name]
    expected = {None} if keys is None else set(keys)
    finished = normalizer_of(folder / "final_model.zip")
    assert set(parts(finished)) == expected
    # The count is 128 steps of two environments, their first observations, and VecNormalize's initial 1e-4.
    assert all(part.count == pytest.approx(130, abs=1e-3) for part in parts(finished).values())
    assert finished.ret_rms.count == pytest.approx(128, abs=1e-3)

    (folder / "result.json").unlink()
    (folder / "checkpoints" / "step_000000000128.zip").unlink(missing_ok=True)
    done = run("agent.py", "--resume", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(parts(normalizer_of(folder / "final_model.zip"))) == expected

    from fwagents.runs.players import Player

    player = Player(json.loads((folder / "config.json").read_text()), folder / "final_model.zip")
    assert type(player.policy).__name__ == policy
    env = DummyVecEnv([lambda: RandomEnv(SPACES[name], ACTION_SPACES["discrete"])])
    obs = env.reset()
    shown = obs if player.normalization is None else player.normalization(obs)
    truth = normalizer_of(folder / "final_model.zip").normalize_obs(obs)
    for part in obs if isinstance(obs, dict) else [None]:
        mine, theirs, raw = (found if part is None else found[part] for found in (shown, truth, obs))
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
        assert np.array_equal(mine, raw) == (part not in expected)


@pytest.mark.parametrize("name", ["small_image", "mixed"])
def test_what_was_normalized_is_exported(name, tmp_path):
    """The script itself compares the exported policy with the original."""
    pytest.importorskip("onnxruntime")
    folder = trained(name, tmp_path)
    done = run("export.py", folder, "--episodes", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (folder / "export" / "sequence.onnx").exists()


def test_parts_can_be_chosen(tmp_path):
    folder = trained("mixed", tmp_path, "--norm-obs-keys", "near")
    assert set(parts(normalizer_of(folder / "final_model.zip"))) == {"near"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mixed", ["--norm-obs-keys", "none"], "norm_obs_keys has 'none', expected some of far, near"),
        ("mixed", ["--norm-obs-keys", "far", "seen"], "norm_obs_keys has 'seen', expected some of far, near"),
        ("mixed", ["--norm-obs-keys", "which"], "norm_obs_keys has 'which', expected some of far, near"),
        ("vector", ["--norm-obs-keys", "far"], "norm_obs_keys has 'far', expected none: Box"),
        ("pixels", ["--norm-obs-keys", "seen"], "norm_obs_keys has 'seen', expected none: no part of Dict"),
        (
            "mixed",
            ["--norm-obs-keys", "far", "--no-normalize"],
            "--norm-obs-keys does nothing with --no-normalize, expected --normalize",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(name, options, message, tmp_path):
    done = run("agent.py", "--env", f"Normalized-{name}-v0", *TINY, *options, cwd=tmp_path)
    assert message in refusal(done)
    assert not list(tmp_path.iterdir())
