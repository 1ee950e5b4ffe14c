"""The memory suite: its rules against a plain second implementation, its reference returns against all policies.

In the games that show symbols, actions affect only rewards. So every start can be played with every constant action,
and the best return of a class of policies is a sum over the observations (or histories) that the class distinguishes,
of the largest mean reward over the actions.
"""

import itertools

import gymnasium
import numpy as np
import pytest

from fwagents.envs import ENVIRONMENTS, SUITE, reference_returns

NORTH, EAST, SOUTH, WEST = range(4)
NORTH_SIGN, SOUTH_SIGN, CORRIDOR, JUNCTION = [0, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 0]
LEVELS = [(name, value) for name, difficulty in SUITE.items() for value in difficulty.values]


def is_(view, screen):
    return (screen == view).all(axis=1)


def perfect_tmaze(seen, length):
    turn = np.where(is_(NORTH_SIGN, seen[0]), NORTH, SOUTH)
    return np.where(is_(JUNCTION, seen[-1]), turn, EAST)


def perfect_recall(seen, pairs):
    if len(seen) < 2 * pairs + 3:
        return np.zeros(len(seen[0]), int)
    symbols = np.array(seen).argmax(axis=2)
    asked = symbols[0 : 2 * pairs : 2] == symbols[-1]
    digits = symbols[1 : 2 * pairs : 2] - 26
    return digits[asked.argmax(axis=0), np.arange(asked.shape[1])]


def perfect_repeat(seen, delay):
    return seen[max(0, len(seen) - 1 - delay)].argmax(axis=1)


def perfect_chain(seen, length):
    return seen[0].argmax(axis=1)


PERFECT = {
    "TMaze-v0": perfect_tmaze,
    "KeyValueRecall-v0": perfect_recall,
    "RepeatPrevious-v0": perfect_repeat,
    "MemoryChain-v0": perfect_chain,
}


def memoryless(name, screen):
    """Return one of the best policies that see only the present screen."""
    if name == "TMaze-v0":
        return np.where(is_(JUNCTION, screen), NORTH, EAST)
    return np.zeros(len(screen), int)


def play(env, policy, seed=0):
    """Return the returns of one episode of each environment, and whether the episodes succeeded."""
    seen, total, over = [env.reset(seed=seed)[0]], 0.0, np.zeros(env.num_envs, bool)
    while not over.all():
        screen, rewards, terminations, truncations, infos = env.step(policy(seen))
        seen.append(screen)
        total = total + rewards
        over = terminations | truncations
        assert over.all() or not over.any(), "these policies take as long everywhere"
    return total, infos["is_success"]


def play_once(env, screen, act):
    """Return the returns of one episode of each environment, whose episodes may end at different steps.

    Args:
        env: batch that does not reset by itself.
        screen: the screens after its reset.
        act: function from screens to actions.
    """
    returns, playing = np.zeros(env.num_envs), np.ones(env.num_envs, bool)
    while playing.any():
        screen, rewards, terminations, truncations, _ = env.step(act(screen))
        returns += np.where(playing, rewards, 0)
        over = terminations | truncations
        playing &= ~over
        if over.any():
            env.reset(options={"reset_mask": over})
    return returns


def test_every_environment_of_the_suite_has_its_policies():
    assert set(SUITE) == set(PERFECT) == {n for n, e in ENVIRONMENTS.items() if "memory" in e.tags}


@pytest.mark.parametrize(("name", "value"), LEVELS)
def test_perfect_memory_earns_the_optimal_return(name, value):
    parameter = SUITE[name].parameter
    env = gymnasium.make_vec(name, num_envs=50, **{parameter: value})
    returns, success = play(env, lambda seen: PERFECT[name](seen, value))
    assert returns == pytest.approx(reference_returns(name, **{parameter: value}).optimal)
    assert success.all()


@pytest.mark.parametrize(("name", "value"), LEVELS)
def test_without_memory_the_return_is_the_closed_form(name, value):
    """The closed form lies in the 99.9 % interval of 1,000 episodes."""
    parameter = SUITE[name].parameter
    env = gymnasium.make_vec(name, num_envs=1000, **{parameter: value})
    returns, success = play(env, lambda seen: memoryless(name, seen[-1]))
    half_width = 3.29 * returns.std() / len(returns) ** 0.5
    assert returns.mean() == pytest.approx(reference_returns(name, **{parameter: value}).memoryless, abs=half_width)
    assert not success.all()


@pytest.mark.parametrize("name", SUITE)
@pytest.mark.parametrize("easiest", [True, False], ids=["easiest", "as registered"])
def test_a_random_player_earns_what_the_table_says(name, easiest):
    """The table's return lies in the 99.9 % interval of 1,000 episodes."""
    kwargs = {SUITE[name].parameter: SUITE[name].values[0]} if easiest else {}
    env = gymnasium.make_vec(name, num_envs=1000, autoreset_mode="Disabled", **kwargs)
    env.reset(seed=3)
    rng = np.random.default_rng(0)
    returns = play_once(env, None, lambda _: rng.integers(env.single_action_space.n, size=1000))
    half_width = 3.29 * returns.std() / len(returns) ** 0.5
    assert returns.mean() == pytest.approx(reference_returns(name, **kwargs).random, abs=half_width)


def product(count, length):
    return np.array(list(itertools.product(range(count), repeat=length)))


def every_start_with_two_of_three_keys():
    rows = [(*k, *v, a) for k in itertools.permutations([3, 9, 25], 2) for v in product(10, 2) for a in (0, 1)]
    starts = np.array(rows)
    return {"keys": starts[:, :2], "values": starts[:, 2:4], "asked": starts[:, 4]}


# Small games of symbols, and all their starts, or a uniform subset of them.
SMALL = [
    (
        "KeyValueRecall-v0",
        {"pairs": 1},
        {"keys": product(26, 1).repeat(10, 0), "values": np.tile(product(10, 1).T, 26).T},
    ),
    ("KeyValueRecall-v0", {"pairs": 2}, every_start_with_two_of_three_keys()),
    ("RepeatPrevious-v0", {"delay": 1, "symbols": 3, "answers": 4}, {"sequence": product(3, 5)}),
    ("RepeatPrevious-v0", {"delay": 3, "symbols": 2, "answers": 4}, {"sequence": product(2, 7)}),
    ("MemoryChain-v0", {"length": 1}, {"context": np.arange(2)}),
    ("MemoryChain-v0", {"length": 4}, {"context": np.arange(2)}),
]


def constant_play(name, kwargs, starts):
    """Return the symbols seen [T, N] from all starts, which no action changes, and the rewards [A, T, N] of every
    constant action."""
    count = len(next(iter(starts.values())))
    screens, rewards = [], []
    for action in range(gymnasium.make(name, **kwargs).action_space.n):
        env = gymnasium.make_vec(name, count, **kwargs)
        screen, _ = env.reset(options=starts)
        screens.append([])
        rewards.append([])
        over = False
        while not over:
            screens[-1].append(screen)
            screen, reward, terminations, _, _ = env.step(np.full(count, action))
            rewards[-1].append(reward)
            over = terminations.all()
    assert all((np.array(other) == screens[0]).all() for other in screens)
    # Encode each screen as one number; a screen that is not blank has a single 1.
    shown = np.array(screens[0])
    assert shown.sum(axis=2).max() == 1
    return shown @ np.arange(1, shown.shape[2] + 1), np.array(rewards)


def best(told_apart, rewards):
    """Return the largest sum of rewards [A, n] if equal rows of ``told_apart`` [n, ...] get the same action."""
    rows, row = np.unique(told_apart, axis=0, return_inverse=True)
    sums = np.zeros((len(rewards), len(rows)))
    np.add.at(sums, (slice(None), row.ravel()), rewards)
    return sums.max(axis=0).sum()


@pytest.mark.parametrize(("name", "kwargs", "starts"), SMALL, ids=lambda value: str(value)[:30])
def test_no_policy_does_better(name, kwargs, starts):
    seen, rewards = constant_play(name, kwargs, starts)
    steps, count = seen.shape
    reference = reference_returns(name, **kwargs)
    memoryless = best(seen.reshape(-1), rewards.reshape(len(rewards), -1))
    assert memoryless / count == pytest.approx(reference.memoryless)
    optimal = sum(best(seen[: step + 1].T, rewards[:, step]) for step in range(steps))
    assert optimal / count == pytest.approx(reference.optimal)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_no_memoryless_policy_does_better_in_the_maze(length):
    """Every deterministic policy is played; the returns of random policies come from a second implementation."""
    reference = reference_returns("TMaze-v0", length=length)
    # Each policy's actions at the two signs, in the corridor and at the junction; each plays both goals.
    policies = product(4, 4).repeat(2, axis=0)
    env = gymnasium.make_vec("TMaze-v0", len(policies), length=length, autoreset_mode="Disabled")
    screen, _ = env.reset(options={"goal": np.tile([0, 1], len(policies) // 2)})

    def act(screen):
        seen = np.select([is_(view, screen) for view in (NORTH_SIGN, SOUTH_SIGN, CORRIDOR)], [0, 1, 2], 3)
        return policies[np.arange(len(policies)), seen]

    returns = play_once(env, screen, act)
    values = returns.reshape(-1, 2).mean(axis=1)
    assert values.max() == pytest.approx(reference.memoryless)

    rng = np.random.default_rng(0)
    policies = rng.dirichlet([0.2] * 4, size=(2000, 4))
    followed = np.mean([followed_return(policies, goal, length) for goal in (0, 1)], axis=0)
    assert followed.max() < reference.memoryless
    assert followed.max() > reference.memoryless - 1, "some of them are good"
    uniform = np.full((1, 4, 4), 0.25)
    followed = np.mean([followed_return(uniform, goal, length) for goal in (0, 1)])
    assert followed == pytest.approx(reference.random, abs=1e-12)


def followed_return(policies, goal, length):
    """Return the expected returns [P] of policies [P, observation, action] with the goal north (0) or south (1)."""
    place = np.zeros((len(policies), length + 1))
    place[:, 0] = 1
    act = policies[:, [goal] + [2] * (length - 1) + [3]]  # [P, place, action]
    total = 0.0
    for _ in range(4 * (length + 1)):
        at = place[:, :, None] * act
        turns, right = at[:, -1, [NORTH, SOUTH]], at[:, -1, (NORTH, SOUTH)[goal]]
        stands = at[:, :-1, [NORTH, SOUTH]].sum(axis=2)
        place = np.zeros_like(place)
        place[:, :-1] += stands
        place[:, 1:] += at[:, :-1, EAST]
        place[:, :-1] += at[:, 1:, WEST]
        place[:, 0] += at[:, 0, WEST]
        place[:, -1] += at[:, -1, EAST]
        total += 4 * right - 0.1 * (turns.sum(axis=1) - right)
        total -= 0.1 * (stands.sum(axis=1) + at[:, 0, WEST] + at[:, -1, EAST])
    return total


@pytest.mark.parametrize(
    ("name", "kwargs", "options", "tape", "answers"),
    [
        (
            *("KeyValueRecall-v0", {}, {"keys": [2, 10, 9, 5], "values": [9, 8, 3, 1], "asked": 0}),
            *("c9k8j3f1??c", {10: 9}),
        ),
        ("KeyValueRecall-v0", {"pairs": 2}, {"keys": [25, 0], "values": [0, 0], "asked": 1}, "z0a0??a", {6: 0}),
        (
            *("RepeatPrevious-v0", {"delay": 2, "symbols": 3, "answers": 3}, {"sequence": [2, 0, 1, 1, 2]}),
            *("20112", {2: 2, 3: 0, 4: 1}),
        ),
        ("RepeatPrevious-v0", {"delay": 1, "symbols": 10, "answers": 1}, {"sequence": [9, 4]}, "94", {1: 9}),
        ("MemoryChain-v0", {"length": 4}, {"context": 1}, "1...?", {4: 1}),
        ("MemoryChain-v0", {"length": 1}, {"context": 0}, "0?", {1: 0}),
    ],
)
def test_the_game_is_the_one_described(name, kwargs, options, tape, answers):
    alphabet = {"K": "abcdefghijklmnopqrstuvwxyz0123456789?", "R": "0123456789", "M": "01?"}[name[0]]
    alphabet = alphabet[: kwargs.get("symbols")]
    env = gymnasium.make(name, **kwargs)
    rng = np.random.default_rng(0)
    for trial in range(20):
        screen, info = env.reset(options=options)
        right = 0
        for step, character in enumerate(tape):
            assert screen.tolist() == [int(symbol == character) for symbol in alphabet]
            assert info == {}
            action = answers.get(step, 0) if trial == 0 else rng.integers(env.action_space.n)
            screen, reward, terminated, truncated, info = env.step(action)
            correct = action == answers.get(step)
            right += correct
            assert reward == pytest.approx((1 if correct else -1) / len(answers) if step in answers else 0)
            assert terminated == (step == len(tape) - 1)
            assert not truncated
        assert not screen.any()
        assert info == {"is_success": right == len(answers)}
        assert type(info["is_success"]) is bool


@pytest.mark.parametrize("pairs", [1, 4, 26])
def test_recall_is_the_supervised_task(pairs):
    task = pytest.importorskip("fwagents.tasks.retrieval").RetrievalTask(pairs)
    env = gymnasium.make_vec("KeyValueRecall-v0", num_envs=40, pairs=pairs)
    screens = [env.reset(seed=0)[0]]
    while len(screens) < task.length:
        screens.append(env.step(np.zeros(40, int))[0])
    texts = ["".join(task.vocabulary[token] for token in tokens) for tokens in np.array(screens).argmax(axis=2).T]
    # ``encode`` raises an error for every string that is not one of the task's.
    labels = task.encode(texts).labels.numpy()
    assert (env.step(labels)[1] == 1).all()


@pytest.mark.parametrize("length", [1, 2, 7])
def test_the_maze_is_the_one_described(length):
    env = gymnasium.make("TMaze-v0", length=length)
    rng = np.random.default_rng(0)
    ends = {"right": 0, "wrong": 0, "late": 0}
    for trial in range(60):
        goal = trial % 2
        screen, info = env.reset(options={"goal": goal})
        # Players walk at random, mostly eastward, or never eastward.
        east, place, steps, over = (0.25, 0.7, 0.0)[trial % 3], 0, 0, False
        while not over:
            sign = SOUTH_SIGN if goal else NORTH_SIGN
            assert screen.tolist() == (sign if place == 0 else JUNCTION if place == length else CORRIDOR)
            assert info == {}
            action = int(rng.choice(4, p=[(1 - east) / 3, east, (1 - east) / 3, (1 - east) / 3]))
            screen, reward, terminated, truncated, info = env.step(action)
            steps += 1
            before = place
            if action in (EAST, WEST):
                place = min(max(place + (1 if action == EAST else -1), 0), length)
            chosen = before == length and action in (NORTH, SOUTH)
            success = chosen and (action == SOUTH) == bool(goal)
            assert reward == (4 if success else -0.1 if place == before else 0)
            assert terminated == chosen
            assert truncated == (not chosen and steps == 4 * (length + 1))
            over = terminated or truncated
        ends["late" if truncated else "right" if success else "wrong"] += 1
        assert info == {"is_success": success}
        # After a choice the screen is blank; after a truncation it shows the player's position.
        assert screen.any() == truncated
    assert min(ends.values()) > 0


def test_a_choice_in_the_last_step_is_no_cut():
    env = gymnasium.make_vec("TMaze-v0", num_envs=2, length=2, autoreset_mode="SameStep")
    env.reset(options={"goal": [0, 1]})
    for step in range(11):
        env.step(np.full(2, EAST if step < 2 else WEST if step % 2 else EAST))
    _, rewards, terminations, truncations, infos = env.step(np.array([NORTH, EAST]))
    assert terminations.tolist() == [True, False]
    assert truncations.tolist() == [False, True]
    assert [view.tolist() for view in infos["final_obs"]] == [[0, 0, 0], JUNCTION]
    assert infos["final_info"]["is_success"].tolist() == [True, False]
    assert rewards.tolist() == [4, -0.1]


@pytest.mark.parametrize(
    ("name", "kwargs", "error", "message"),
    [
        ("TMaze-v0", {"length": 0}, ValueError, "length must be at least 1, got 0"),
        ("TMaze-v0", {"length": 2.0}, TypeError, r"length must be a whole number, got 2\.0"),
        ("KeyValueRecall-v0", {"pairs": 0}, ValueError, "pairs must be from 1 to 26, got 0"),
        ("KeyValueRecall-v0", {"pairs": 27}, ValueError, "pairs must be from 1 to 26, got 27"),
        ("KeyValueRecall-v0", {"pairs": True}, TypeError, "pairs .* got True"),
        ("RepeatPrevious-v0", {"delay": 0}, ValueError, "delay must be at least 1, got 0"),
        ("RepeatPrevious-v0", {"delay": "4"}, TypeError, "delay .* got '4'"),
        ("RepeatPrevious-v0", {"symbols": 1}, ValueError, "symbols must be from 2 to 10, got 1"),
        ("RepeatPrevious-v0", {"symbols": 11}, ValueError, "symbols must be from 2 to 10, got 11"),
        ("RepeatPrevious-v0", {"answers": 0}, ValueError, "answers must be at least 1, got 0"),
        ("MemoryChain-v0", {"length": 0}, ValueError, "length must be at least 1, got 0"),
        ("MemoryChain-v0", {"length": None}, TypeError, "length .* got None"),
    ],
)
def test_bad_arguments_are_named(name, kwargs, error, message):
    for call in (
        lambda: gymnasium.make(name, **kwargs),
        lambda: gymnasium.make_vec(name, num_envs=2, **kwargs),
        lambda: reference_returns(name, **kwargs),
    ):
        with pytest.raises(error, match=message):
            call()
