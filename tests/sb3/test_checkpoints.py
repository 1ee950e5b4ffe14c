"""Checkpoint files: damaged or partly written ones are found, and every algorithm goes on from them."""

import random
import warnings
import zipfile

import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import VecNormalize

from fwagents.sb3 import MemoryA2C, MemoryPPO, make_vec_env
from fwagents.sb3.callbacks import EpisodeLogCallback
from fwagents.sb3.checkpoints import CheckpointCallback, newest_whole, read_resume, restore, save_model


def test_any_flipped_bit_is_harmless_or_found(tmp_path):
    """Bits are flipped in the zip's headers, which its checksums do not cover, and elsewhere."""
    env = make_vec_env("PartialCatch-v0", 1, size=4, visible_frames=1)
    model = MemoryPPO("MemoryPolicy", env, n_steps=3, policy_kwargs={"hidden_size": 2, "core": "gru"})
    older, path = tmp_path / "step_0.zip", tmp_path / "step_1.zip"
    save_model(model, older, {"a": 0})
    save_model(model, path, {"a": 1})
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    rng = random.Random(0)
    places = [*range(directory, len(whole)), *rng.sample(range(directory), 60)]
    found = 0
    for place in rng.sample(places, 250):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded, state = newest_whole(tmp_path, MemoryPPO.load)
        found += state["a"] == 0
        torch.testing.assert_close(loaded.policy.state_dict(), model.policy.state_dict(), rtol=0, atol=0)
    assert found > 60


@pytest.mark.parametrize("cut", [0, 3, 30, 60, 10_000])
def test_a_monitor_file_that_is_too_short_ends_with_a_whole_line(cut, tmp_path):
    path = tmp_path / "monitor.csv"
    text = '#{"t_start": 1.0, "env_id": "x"}\nr,l,t\n' + "".join(f"1.0,{line},0.5\n" for line in range(10))
    path.write_text(text[:cut])
    callback = EpisodeLogCallback(path, "x")
    callback.set_state({"bytes": len(text)})
    callback._on_training_start()
    callback._on_training_end()
    kept = path.read_text()
    assert "\0" not in kept
    assert kept.count("r,l,t\n") == 1
    rows = kept.split("r,l,t\n")[1]
    assert text.split("r,l,t\n")[1].startswith(rows)
    assert rows.count("\n") == max(0, text[:cut].count("\n") - 2)


def test_saving_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    model = MemoryPPO("MemoryPolicy", make_vec_env("PartialCatch-v0", 2, size=4, visible_frames=1), n_steps=3)
    path = tmp_path / "model.zip"
    save_model(model, path, {"a": 1})
    before = path.read_bytes()

    def fails(self, file):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(MemoryPPO, "save", fails)
    with pytest.raises(KeyboardInterrupt):
        save_model(model, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.zip"]
    assert read_resume(path) == {"a": 1}
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more", b"")
    path.write_bytes(path.read_bytes()[: len(before) // 2])
    with pytest.raises(ValueError, match=r"model.zip is not a whole checkpoint"):
        read_resume(path)


@pytest.mark.parametrize("algorithm", [RecurrentPPO, MemoryPPO, MemoryA2C])
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_algorithm_goes_on_from_its_checkpoint(algorithm, wrapped, tmp_path):
    """In one process, a model loaded from a checkpoint ends with the same weights as the uninterrupted model."""

    def environment():
        env = make_vec_env("PartialCatch-v0", 3, seed=1, size=6, visible_frames=2)
        return VecNormalize(env) if wrapped else env

    # A rollout is no multiple of the episode's five steps, so that the memory is carried over.
    sizes = {} if algorithm is MemoryA2C else {"batch_size": 21, "n_epochs": 2}
    model = algorithm("MemoryPolicy", environment(), n_steps=7, seed=2, policy_kwargs={"hidden_size": 8}, **sizes)
    model.learn(210, callback=CheckpointCallback(tmp_path, 84, []))
    paths = sorted(tmp_path.iterdir())
    assert [int(p.stem.removeprefix("step_")) for p in paths] == [0, 84, 168]
    for path in paths:
        copy = algorithm.load(path, env=environment(), force_reset=False)
        copy.set_logger(model.logger)
        restore(copy, [], read_resume(path))
        copy.learn(210 - copy.num_timesteps, reset_num_timesteps=False)
        assert copy.num_timesteps == model.num_timesteps
        torch.testing.assert_close(
            dict(copy.policy.named_parameters()), dict(model.policy.named_parameters()), rtol=0, atol=0
        )
