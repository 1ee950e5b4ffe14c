"""train/agent.py with other environments, cores and options, and its errors."""

import pytest

from .runs import CELL, TINY
from .scripts import refusal, run

FILTER = "gymnasium.wrappers:FilterObservation"


@pytest.mark.parametrize(
    "args",
    [
        ["--env", "CartPole-v1", "--core", "lstm"],
        ["--env", "Pendulum-v1", "--core", "gru", "--critic-core", "none", "--lr-schedule", "constant"],
        ["--core", "irnn", "--critic-core", "shared", "--algo", "memory_a2c", "--use-rms-prop"],
        ["--env", "TMaze-v0", "--env-kwargs", "length=3"],
        ["--wrappers", "gymnasium.wrappers:FlattenObservation", "--core", "gru", "--frame-stack", "2", "--normalize"],
        ["--vec-env", "subproc", "--core", "none", "--num-envs", "2"],
        ["--algo", "recurrent_ppo"],
        ["--chunk-length", "10", "--refresh-states"],
        ["--core-kwargs", "num_heads=2", "rotary=all", "--net-arch", "8", "6", "--encoder-kwargs", "layer_norm=True"],
        [*CELL, "--inner-steps", "2", "--decay", "0.9", "--fast-lr", "0.1", "--core-kwargs", "boundary='identity'"],
        [*CELL, "--inner-steps", "adaptive", "--core-kwargs", "tolerance=0.2", "max_inner_steps=3"],
        ["--env", "ale_py:ALE/Pong-v5", "--wrappers", "gymnasium.wrappers:TimeLimit(max_episode_steps=9)"],
        ["--env", "minigrid:MiniGrid-MemoryS7-v0", "--wrappers", f"{FILTER}(filter_keys=['image', 'direction'])"],
        ["--env", "minigrid:MiniGrid-MemoryS7-v0", "--wrappers", "minigrid.wrappers:ImgObsWrapper"],
        ["--env", "popgym:popgym-AutoencodeEasy-v0", "--wrappers", "gymnasium.wrappers:FlattenObservation"],
        ["--env", "HalfCheetah-v5", "--env-kwargs", "max_episode_steps=9", "--normalize"],
    ],
    ids=lambda args: " ".join(args[:4]),
)
def test_other_environments_and_cores(args, tmp_path):
    done = run("agent.py", *TINY, "--n-steps", "20", "--eval-freq", "0", "--checkpoint-freq", "0", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--env", "NoSuch-v0"], "Another package's is module:Id"),
        (["--env", "minigrid:MiniGrid-MemoryS7-v0"], "observation 'mission' is a MissionSpace, expected Box, Discrete"),
        (["--env", "nomodule:NoSuch-v0"], "No module named 'nomodule'"),
        (["--n-steps", "1", "--num-envs", "1"], "expected at least 2"),
        (["--core", "lstm", "--decay", "0.9"], "core 'lstm' has no option 'decay'"),
        (["--env-kwargs", "size"], "--env-kwargs got 'size', expected name=value"),
        (["--env-kwargs", "sizes=3"], "unexpected keyword argument 'sizes'"),
        (["--wrappers", "Flatten"], "wrapper is 'Flatten', expected module:Class or module:Class(name=value)"),
        (["--frame-stack", "0"], "--frame-stack is 0, expected at least 1"),
        (["--num-envs", "0"], "--num-envs is 0, expected at least 1"),
        (["--inner-steps", "-1"], "--inner-steps is -1, expected at least 0 or adaptive or None"),
        (["--log-dir", "file"], "file"),
    ],
    ids=lambda p: " ".join(p) if isinstance(p, list) else "",
)
def test_a_mistake_is_one_clear_line(args, message, tmp_path):
    (tmp_path / "file").touch()
    assert message in refusal(run("agent.py", *args, cwd=tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["file"], "nothing was written"


@pytest.mark.parametrize(
    ("args", "word"), [(["--env"], "--env"), (["--corre", "lstm"], "--corre"), (["--vec-env", "thread"], "thread")]
)
def test_words_that_are_no_options_are_named_in_a_box(args, word, tmp_path):
    done = run("agent.py", *args, cwd=tmp_path)
    assert done.returncode == 2
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
