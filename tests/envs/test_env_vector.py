"""The batched environments against Gymnasium's loop over single ones."""

import copy
import itertools
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode

from .families import BATCHED as NAMES
from .families import OPTION, actions, longest

MODES = list(AutoresetMode)
COUNT = 5


def make(name, mode=AutoresetMode.NEXT_STEP, count=COUNT, **kwargs):
    return gymnasium.make_vec(name, num_envs=count, autoreset_mode=mode, **kwargs)


def pair(name, mode):
    loop = gymnasium.make_vec(name, COUNT, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode})
    return make(name, mode), loop


def same(first, second):
    return data_equivalence(first, second, exact=True)


def reset(env, seed=None, mask=None, **options):
    # Gymnasium's own loop removes the mask from the dict that it is given.
    return env.reset(seed=seed, options=options if mask is None else {**options, "reset_mask": mask.copy()})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_loop_over_single_environments(name, mode):
    batch, loop = pair(name, mode)
    rng = np.random.default_rng(0)
    assert batch.metadata["autoreset_mode"] is mode
    assert same(reset(batch, 3), reset(loop, 3))
    over = np.zeros(COUNT, np.bool_)
    ends = 0
    for step in range(5 * longest(name)):
        if step in (7, 20, 41):
            # From here on, the environments' episodes begin at different steps.
            mask = rng.random(COUNT) < 0.5
            mask[step % COUNT] = True
            seed = {7: None, 20: [4, None, 5, None, 6], 41: 11}[step]
            assert same(reset(batch, seed, mask), reset(loop, seed, mask))
            over &= ~mask
        if over.any() and mode is AutoresetMode.DISABLED:
            assert same(reset(batch, mask=over), reset(loop, mask=over))
        chosen = rng.integers(actions(name), size=COUNT)
        result = batch.step(chosen)
        assert same(result, loop.step(chosen))
        over = result[2] | result[3]
        ends += over.any()
    assert ends > 5
    assert same(reset(batch), reset(loop))
    seed, option = [1, None, 2, None, 3], OPTION[name]
    assert same(reset(batch, seed, **option), reset(loop, seed, **option))
    assert same(batch.step(chosen), loop.step(chosen))


@pytest.mark.parametrize("name", NAMES)
def test_one_environment_and_a_thousand_agree_with_the_single_one(name):
    single = gymnasium.make(name)
    for count in (1, 1000):
        batch = make(name, AutoresetMode.SAME_STEP, count)
        observation, _ = single.reset(seed=9 + count - 1)
        assert same(batch.reset(seed=9)[0][-1], observation)
        for step in range(50):
            action = step % actions(name)
            observation, reward, terminated, truncated, _ = single.step(action)
            if terminated or truncated:
                observation, _ = single.reset()
            observations, rewards, terminations, truncations, _ = batch.step(np.full(count, action))
            assert same(observations[-1], observation)
            assert (rewards[-1], terminations[-1], truncations[-1]) == (reward, terminated, truncated)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_what_it_returns_is_the_caller_s(name, mode):
    batch, untouched = make(name, mode), make(name, mode)
    batch.reset(seed=0)[0][:] = 7
    untouched.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(2 * longest(name)):
        chosen = rng.integers(actions(name), size=COUNT)
        result, clean = batch.step(chosen), untouched.step(chosen)
        assert same(result, clean)
        over = clean[2] | clean[3]
        observation, rewards, terminations, truncations, infos = result
        for array in (observation, rewards, terminations, truncations, *infos.values()):
            if isinstance(array, np.ndarray) and array.dtype != object:
                array[:] = 1
        if over.any() and mode is AutoresetMode.DISABLED:
            assert same(reset(batch, mask=over), reset(untouched, mask=over))


def arrays_in(result):
    for value in result.values() if isinstance(result, dict) else result:
        if isinstance(value, dict):
            yield from arrays_in(value)
        elif isinstance(value, np.ndarray):
            yield value
            if value.dtype == object:
                yield from (part for part in value if part is not None)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_no_two_things_it_returns_share_memory(name, mode):
    batch = make(name, mode)
    batch.reset(seed=0)
    for _ in range(longest(name)):
        result = batch.step(np.zeros(COUNT, int))
    assert (result[2] | result[3]).all()
    arrays = list(arrays_in(result))
    assert len(arrays) == (4 + 4 + COUNT + 1 if mode is AutoresetMode.SAME_STEP else 4 + 2)
    assert not any(np.shares_memory(one, other) for one, other in itertools.combinations(arrays, 2))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("restore", ["state", "pickle", "deepcopy"])
def test_it_can_be_restored_at_any_moment(name, mode, restore):
    batch = make(name, mode)
    batch.reset(seed=0)
    batch.reset()
    mask = np.array([True, False, True, False, False])
    for step in range(longest(name)):
        batch.step(np.full(COUNT, step % actions(name)))
        if step == 4 and mode is not AutoresetMode.SAME_STEP:
            reset(batch, mask=mask)
    if restore == "state":
        twin = make(name, mode)
        twin.set_state(batch.get_state())
    else:
        twin = copy.deepcopy(batch) if restore == "deepcopy" else pickle.loads(pickle.dumps(batch))
    if mode is AutoresetMode.DISABLED:
        assert same(reset(batch), reset(twin))
    rewarded = 0.0
    for step in range(longest(name)):
        chosen = (np.arange(COUNT) + step) % actions(name)
        result = batch.step(chosen)
        assert same(result, twin.step(chosen))
        rewarded += np.abs(result[1]).sum()
    assert rewarded > 0


@pytest.mark.parametrize("name", NAMES)
def test_its_state_is_those_of_the_single_environments_side_by_side(name):
    batch = make(name)
    batch.reset(seed=4)
    singles = [gymnasium.make(name).unwrapped for _ in range(COUNT)]
    for number, single in enumerate(singles):
        single.reset(seed=4 + number)
    states = [single.get_state() for single in singles]
    assert same(batch.get_state(), {key: np.concatenate([state[key] for state in states]) for key in states[0]})


def test_starts_can_be_given_one_by_one():
    batch = make("PartialCatch-v0")
    ball = np.arange(COUNT) + 3
    observation, _ = batch.reset(options={"ball": ball, "paddle": 14})
    screen = observation.reshape(COUNT, 16, 16)
    assert (screen[:, 0].argmax(axis=1) == ball).all()
    assert (screen[:, -1, 14:] == 1).all()
    assert (screen.sum(axis=(1, 2)) == 3).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (np.zeros(COUNT), InvalidAction, "whole numbers"),
        (np.full(COUNT, np.nan), InvalidAction, "whole numbers"),
        (np.zeros(COUNT, np.bool_), InvalidAction, "whole numbers"),
        ([0] * (COUNT + 1), ValueError, r"shape \(5,\), got \(6,\)"),
        (np.zeros(COUNT - 1, np.int64), ValueError, r"shape \(5,\), got \(4,\)"),
        (np.zeros((COUNT, 1), np.int64), ValueError, r"shape \(5,\), got \(5, 1\)"),
        (1, TypeError, r"shape \(5,\), got 1"),
        ([0, 0, 10, 0, 0], InvalidAction, "from 0 to [1239]"),
        ([0, 0, -1, 0, 0], InvalidAction, "from 0 to [1239]"),
        (np.full(COUNT, 2**64 - 1, np.uint64), InvalidAction, "from 0 to [1239]"),
    ],
)
def test_bad_actions_are_refused_and_change_nothing(name, bad, error, message):
    batch = make(name)
    batch.reset(seed=0)
    state = batch.get_state()
    with pytest.raises(error, match=message):
        batch.step(bad)
    assert same(batch.get_state(), state)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64])
def test_integers_of_every_kind_are_actions(dtype):
    batch, reference = make("PartialCatch-v0"), make("PartialCatch-v0")
    batch.reset(seed=0)
    reference.reset(seed=0)
    assert same(batch.step(np.array([0, 1, 2, 0, 1], dtype)), reference.step([0, 1, 2, 0, 1]))


def test_calls_out_of_order_are_refused():
    batch = make("PartialCatch-v0", AutoresetMode.DISABLED, render_mode="ansi")
    for call in (lambda: batch.step(np.zeros(COUNT, int)), batch.render):
        with pytest.raises(ResetNeeded, match=r"call reset\(\)"):
            call()
    some = np.array([True, False, False, False, False])
    with pytest.raises(ResetNeeded, match="first reset"):
        reset(batch, mask=some)
    batch.reset(seed=0)
    for _ in range(15):
        batch.step(np.zeros(COUNT, int))
    reset(batch, mask=~some)
    with pytest.raises(ResetNeeded, match=r"environments \[0\] have ended"):
        batch.step(np.zeros(COUNT, int))


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"seed": [1, 2]}, ValueError, "a list of 5, got 2"),
        ({"seed": -1}, gymnasium.error.Error, "-1"),
        ({"options": {"wind": 1}}, ValueError, "wind"),
        ({"options": {"ball": [1, 2]}}, ValueError, r"shape \(5,\), got shape \(2,\)"),
        ({"options": {"ball": [1, 2, 3, 4, 16]}}, ValueError, "ball must be from 0 to 15"),
        ({"options": {"reset_mask": [True] * COUNT}}, TypeError, "NumPy array of bool"),
        ({"options": {"reset_mask": np.ones(COUNT)}}, TypeError, "NumPy array of bool"),
        ({"options": {"reset_mask": np.ones(2, np.bool_)}}, ValueError, r"shape \(5,\), got \(2,\)"),
        ({"options": {"reset_mask": np.zeros(COUNT, np.bool_)}}, ValueError, "at least one"),
    ],
)
def test_bad_resets_are_refused_and_change_nothing(kwargs, error, message):
    batch = make("PartialCatch-v0")
    batch.reset(seed=0)
    state = batch.get_state()
    with pytest.raises(error, match=message):
        batch.reset(**kwargs)
    assert same(batch.get_state(), state)


def test_a_reset_leaves_its_options_alone():
    options = {"ball": 1, "reset_mask": np.ones(COUNT, np.bool_)}
    make("PartialCatch-v0").reset(options=options)
    assert set(options) == {"ball", "reset_mask"}


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"autoreset_mode": "never"}, ValueError, "'NextStep'.*got 'never'"),
        ({"num_envs": 0}, ValueError, "num_envs must be at least 1, got 0"),
        ({"num_envs": 2.0}, TypeError, r"num_envs .* got 2\.0"),
        ({"render_mode": "human"}, ValueError, "render_mode .* got 'human'"),
        ({"colour": 1}, TypeError, "colour"),
    ],
)
def test_bad_arguments_are_named(kwargs, error, message):
    with pytest.raises(error, match=message):
        gymnasium.make_vec("PartialCatch-v0", **kwargs)


def test_gymnasium_s_wrappers_fit():
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(make("PartialCatch-v0"))
    env.reset(seed=0)
    for _ in range(15):
        *_, infos = env.step(env.action_space.sample())
    assert (infos["episode"]["l"] == 15).all()
    assert (infos["episode"]["r"] == np.where(infos["is_success"], 1, -1)).all()
