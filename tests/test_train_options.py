"""Every option of every script: its range, who uses it, and the values that a run's folder may hold."""

import ast
import importlib
import inspect
import json
import re
import shlex
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args, get_origin

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fwagents.commands import COMMANDS
from fwagents.cores import CORES
from fwagents.runs import algorithms, cli, options
from fwagents.runs.agent import ENGINES, Args, args_for, check_engine
from fwagents.runs.folder import read_config
from fwagents.runs.limits import check_agent

from .scripts import refusal, refused, run

SCRIPTS = [*(f"fwagents.commands.{name}" for name in COMMANDS), "experiments.gallery", "experiments.__main__"]
ODD = ("nan", "inf", "-inf", "-1", "1e30", str(10**22), "99999999999999999999")


def numbers(hint):
    """Return the number types in a field's type."""
    if hint in (int, float):
        return {hint}
    return set().union(*map(numbers, get_args(hint))) if get_origin(hint) or get_args(hint) else set()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_number_has_a_range_and_nothing_outside_it_passes(script, capsys):
    Args = importlib.import_module(script).Args
    begin = [word for field in fields(Args) if field.default is MISSING for word in _required(field.name)]
    walked = 0
    for name, hint in options.hints(Args).items():
        for kind in numbers(hint):
            walked += 1
            limits = options.metadata(Args, name, options.Within)
            assert limits is not None, name
            many = get_origin(hint) is tuple
            for word in ODD:
                value = float(word) if kind is float or not word.strip("-").isdigit() else int(word)
                allowed = (
                    isinstance(value, kind)
                    and limits.low <= value <= limits.high
                    and (value != limits.low or not limits.above)
                )
                found = options.unlike(hint, (value,) if many else value)
                assert (found is None) == allowed, (name, word)
            error = refused(capsys, cli.parse, Args, [*begin, options.flag(name), ODD[-1]])
            assert f"{options.flag(name)} is " in error
    assert walked


def _required(name):
    return ["folder"] if name == "run_dir" else [f"--{name}", "pictures"]


def test_the_options_of_an_algorithm_are_its_constructor_s():
    """The options are read from the classes' signatures; RLlib's APPO has no class here."""
    elsewhere = {"env", "learning_rate"}  # every algorithm gets these in another form
    for algo, made in algorithms.ALGORITHMS.items():
        known = set().union(*(inspect.signature(kind).parameters for kind in made.make.__mro__[:3]))
        truth = {name for name in options.hints(Args) if name in known} - elsewhere
        assert set(made.options) <= truth if algo == "appo" else set(made.options) == truth, algo


def test_every_option_says_who_takes_it():
    silent = [name for name in options.hints(Args) if options.metadata(Args, name, options.TakenBy) is None]
    assert not silent, "ALWAYS, or the algorithms and engines that take it"


def test_the_options_of_ray_are_those_that_its_configuration_reads():
    """The options are read from the source, so that Ray is not needed."""
    source = ast.parse((Path(algorithms.__file__).parent / "ray.py").read_text())
    functions = {node.name: node for node in source.body if isinstance(node, ast.FunctionDef)}
    read = {
        node.attr
        for name in ("algorithm_config", "minibatch_size")
        for node in ast.walk(functions[name])
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "args"
    }
    taken = {name: dict(options.metadata(Args, name, options.TakenBy).choices) for name in options.hints(Args)}
    of_algorithm = {name for name, by in taken.items() if "algo" in by}
    theirs = {
        name
        for name in of_algorithm
        if {"memory_ppo", "appo"} & set(taken[name]["algo"]) and "ray" in taken[name].get("engine", ("ray",))
    }
    assert theirs == read & of_algorithm
    assert not {name for name in read if "ray" not in taken[name].get("engine", ("ray",))}


@pytest.mark.parametrize("name", [field.name for field in fields(Args)])
def test_an_option_that_the_engine_does_not_take_is_not_ignored(name):
    """The environment's defaults can set such an option, too."""
    by = dict(options.metadata(Args, name, options.TakenBy).choices).get("engine")
    if by is None:
        return
    default = getattr(Args(), name)
    other = next(v for v in (True, False, 0.5, 3, "cuda", "auto") if v != default and type(v) in _types(name))
    (engine,) = {"sb3", "ray"} - set(by)
    check_engine(Args(engine=engine))
    with pytest.raises(ValueError, match=re.escape(f"{options.flag(name)} is {other!r}, expected {default!r}")):
        check_engine(Args(engine=engine, **{name: other}))


def test_no_to_what_is_off_is_taken_by_everyone():
    """Therefore an environment whose defaults normalise can train on Ray."""
    words = ["--env", "CartPoleNoVel-v1", "--engine", "ray", "--no-normalize"]
    args = cli.parse(Args, words, default=args_for(words))
    check_engine(args)
    assert args.normalize is False
    with pytest.raises(ValueError, match="--normalize is True, expected False with --engine ray"):
        check_engine(cli.parse(Args, words[:4], default=args_for(words)))


def _types(name):
    """Return the plain types that a field can have."""
    hint = options.hints(Args)[name]
    parts = {hint, *get_args(hint), *(part for outer in get_args(hint) for part in get_args(outer))}
    return parts | {part for outer in parts for part in get_args(outer)}


@pytest.mark.parametrize(("algo", "engine"), [(a, e) for a in algorithms.MAKERS for e in ("sb3", "ray")])
def test_an_engine_refuses_an_algorithm_that_it_does_not_train(algo, engine):
    if engine in ENGINES[algo]:
        check_engine(Args(algo=algo, engine=engine))
    else:
        with pytest.raises(ValueError, match=f"--algo is '{algo}', expected .* with --engine {engine}"):
            check_engine(Args(algo=algo, engine=engine))


IDLE = [
    ("agent", ["--algo", "memory_a2c", "--n-epochs", "4"], "--n-epochs does nothing with --algo memory_a2c, expected"),
    ("agent", ["--algo=memory_a2c", "--clip_range=0.2"], "--clip-range does nothing with --algo memory_a2c"),
    ("agent", ["--use-rms-prop"], "--use-rms-prop does nothing with --algo memory_ppo, expected --algo memory_a2c"),
    ("agent", ["--num-workers", "2"], "--num-workers does nothing with --engine sb3, expected --engine ray"),
    ("agent", ["--address", "auto"], "--address does nothing with --engine sb3"),
    ("agent", ["--algo", "recurrent_ppo", "--chunk-length", "8"], "--chunk-length does nothing with"),
    ("agent", ["--log-memory-freq", "9"], "--log-memory-freq does nothing with --no-log-memory, expected --log-memory"),
    ("agent", ["--algo", "appo", "--engine", "ray", "--gae-lambda", "1"], "--gae-lambda does nothing with --algo appo"),
    ("agent", ["--engine", "ray", "--normalize"], "--normalize does nothing with --engine ray, expected --engine sb3"),
    ("agent", ["--engine", "ray", "--device", "cpu"], "--device does nothing with --engine ray"),
    ("agent", ["--engine", "ray", "--algo", "memory_a2c"], "--algo is 'memory_a2c', expected memory_ppo or appo with"),
    ("language", ["--parameters", "9999", "--hidden-size", "9"], "--hidden-size does nothing with --parameters 9999"),
]
WRONG = [
    ("agent", ["--env-kwargs", "size=10", "size=11"], "--env-kwargs got 'size=11', expected size once"),
    ("agent", ["--decay", "0.5", "--core-kwargs", "decay=0.6"], "--core-kwargs has decay, expected it once"),
    (
        "agent",
        ["--core", "fast_weights", "--core-kwargs", "layer_norm=abc"],
        "layer_norm is 'abc', expected True or False",
    ),
    (
        "agent",
        ["--core", "fast_weights", "--core-kwargs", "normalize_storage=abc"],
        "normalize_storage is 'abc', expected True or False",
    ),
    (
        "agent",
        ["--core", "fast_weights", "--core-kwargs", "norm_per_step='x'"],
        "norm_per_step is 'x', expected True or False",
    ),
    ("agent", ["--encoder-kwargs", "width=9"], "DenseExtractor has no option 'width', expected one of features_dim"),
    ("agent", ["--encoder-kwargs", "layer_norm=abc"], "layer_norm is 'abc', expected True or False"),
    ("agent", ["--net-arch", "64", "0"], "--net-arch is (64, 0), expected at least 1"),
    ("agent", ["--net-arch", "1000000", "1000000"], "--net-arch 1000000 1000000 would take"),
    ("agent", ["--log-dir", ""], "--log-dir is '', expected"),
    ("agent", ["--log-dir="], "--log-dir is '', expected"),
    ("retrieval", ["--output", ""], "--output is '', expected"),
    ("retrieval", ["--output", "/etc"], "--output is '/etc', expected the name of a file"),
    ("agent", ["--device", "meta"], "--device is 'meta', expected one that torch can compute on"),
    ("agent", ["--device", "nonsense"], "--device is 'nonsense', expected one that torch can compute on"),
    ("agent", ["--wrappers", "builtins:print"], "expected a subclass of gymnasium.Wrapper"),
    ("agent", ["--env-kwargs", "size=1000000"], "size must be at most 1000, got 1000000"),
    ("agent", ["--num-envs", "1000000000"], "--num-envs 1000000000 with --frame-stack 1 would take"),
    ("agent", ["--n-steps", "1000000000"], "GB of memory, expected at most"),
    ("agent", ["--frame-stack", "1000000000"], "--frame-stack 1000000000 would take"),
    ("agent", ["--hidden-size", "1000000"], "--hidden-size 1000000"),
    ("agent", ["--vec-env", "subproc", "--num-envs", "1000000"], "in processes would take"),
    ("retrieval", ["--hidden-size", "1000000"], "--hidden-size 1000000"),
    ("retrieval", ["--train-strings", "1000000000"], "strings would take"),
    (
        "agent",
        ["--decay", "0.9"],
        "core 'rotary_fast_weights' has no option 'decay', an option of fast_weights; it has",
    ),
    ("agent", ["--hidden-size", "30"], "hidden_size is 30, expected a multiple of num_heads, 4"),
    ("tune", ["--hidden-size", "30"], "hidden_size is 30, expected a multiple of num_heads, 4"),
    ("agent", ["--inner-steps", "9999999999999999999999"], "--inner-steps is 9999999999999999999999, expected"),
    ("agent", ["--threads", "100000"], "--threads is 100000, expected at most"),
    ("agent", ["--resume=folder", "--core=gru"], "--resume takes every option but --address"),
    ("retrieval", ["--resume=folder", "--core=gru"], "--resume takes every option from"),
    ("retrieval", ["--resume=folder", "--no_test"], "--resume takes every option from"),
]


@pytest.mark.parametrize(("script", "args", "message"), [*IDLE, *WRONG], ids=lambda p: str(p)[:50])
def test_a_mistake_is_one_line_before_anything_is_made(script, args, message, tmp_path):
    assert message in refusal(run(f"{script}.py", *args, cwd=tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(tmp_path):
    assert "--device is 'cuda'" in refusal(run("agent.py", "--device", "cuda", cwd=tmp_path))


@pytest.mark.parametrize("word", ["false", "no", "off", "False", "NO", "true", "yes", "On"])
def test_words_for_booleans(word):
    assert cli.key_values("--x", [f"a={word}"]) == {"a": word.lower() in ("true", "yes", "on")}


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("env", ["PartialCatch-v0", "CartPole-v1"])
def test_the_estimate_takes_no_memory_and_knows_every_core(core, env):
    check_agent(Args(env=env, core=core), {}, {})


@pytest.mark.parametrize("name", ["a[/b]c", "[red]", ":smile: $x"])
def test_a_path_is_printed_as_it_is_and_commands_are_quoted(name, tmp_path):
    tiny = ["--num-envs", 2, "--n-steps", 4, "--hidden-size", 4, "--total-timesteps", 16, "--final-episodes", 2]
    done = run("agent.py", *tiny, "--eval-freq", 0, "--log-dir", name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / name).glob("*/*")
    shown = str(folder.relative_to(tmp_path))
    assert f"Run folder: {shown}\n" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("Watch it play:")]
    assert shlex.split(line)[-1] == shown


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Return a valid config.json, and a folder with an empty model file."""
    folder = tmp_path_factory.mktemp("run")
    args = {**vars(Args()), "log_dir": "runs"}
    policy_kwargs = {"core": "fast_weights", "hidden_size": 8, "core_kwargs": {}, "critic_core": "shared"}
    (folder / "best_model.zip").touch()
    (folder / "out").mkdir()
    return folder, {"args": args, "env_kwargs": {}, "policy_kwargs": policy_kwargs}


def tried(folder, content):
    """Return the exit codes and messages of the scripts on a folder with this config.json."""
    (folder / "config.json").write_text(json.dumps(content))
    for script, args in [
        ("agent.py", ["--resume", folder]),
        ("watch.py", [folder, "--no-window"]),
        ("export.py", [folder]),
        ("pictures.py", [folder, "--output", folder / "out"]),
    ]:
        yield refusal(run(script, *args, cwd=folder))


@pytest.mark.parametrize(
    "wrappers",
    [
        ["builtins:str", "os:getenv(default='touch ran')", "os:system"],
        ["builtins:print"],
        ["subprocess:Popen(args='touch ran', shell=True)"],
        ["..x:Y"],
        ["nowhere:X"],
    ],
)
def test_a_stranger_s_folder_runs_no_command(wrappers, config):
    folder, good = config
    for error in tried(folder, {**good, "args": {**good["args"], "wrappers": wrappers}}):
        assert repr(wrappers[0])[1:-1].partition("(")[0] in error
    assert not (folder / "ran").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_config_is_refused_in_one_line_or_is_a_config(data, config):
    folder, good = config
    changed = json.loads(json.dumps(good))
    where = data.draw(st.sampled_from([changed, changed["args"], changed["policy_kwargs"]]))
    name = data.draw(st.sampled_from([*where, "unknown"]))
    if data.draw(st.booleans()):
        where[name] = data.draw(JSON)
    else:
        where.pop(name, None)
    path = folder / "config.json"
    path.write_text(json.dumps(changed))
    error = ""
    try:
        found = read_config(folder, Args)
    except ValueError as raised:
        error = str(raised)
    if error:
        assert str(path) in error
        return
    Args(**found["args"])
    assert isinstance(found["env_kwargs"], dict)
    assert isinstance(found["policy_kwargs"]["core_kwargs"], dict)
    assert all(isinstance(word, str) for word in found["args"]["wrappers"])
    assert isinstance(found["args"]["log_dir"], Path)


@pytest.mark.parametrize(
    "change", [{"algo": None}, {"algo": "dqn"}, {"core": "x"}, {"gamma": float("nan")}, {"env": 3}]
)
def test_a_wrong_field_is_named_by_every_script(change, config):
    folder, good = config
    (name,) = change
    for error in tried(folder, {**good, "args": {**good["args"], **change}}):
        assert f"args.{name} is " in error
