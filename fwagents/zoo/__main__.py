"""Runs RL Zoo's own scripts with our algorithms and environments registered.

``python -m fwagents.zoo train --algo memory_ppo --env PartialCatch-v0``
"""

import argparse
import ast
import importlib
import runpy
import sys
from typing import Any

from fwagents.zoo.hyperparams import OPTIONS, hyperparams_for

SCRIPTS = {
    "train": "rl_zoo3.train",
    "enjoy": "rl_zoo3.enjoy",
    "record_video": "rl_zoo3.record_video",
    "plot_train": "rl_zoo3.plots.plot_train",
}
SEARCHES = "searches"


def main() -> None:
    """Register our algorithms and samplers, then run the script that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "nothing"
    if name not in SCRIPTS:
        sys.exit(f"error: python -m fwagents.zoo was given {name!r}, expected one of {', '.join(SCRIPTS)}")
    try:
        from rl_zoo3 import hyperparams_opt, utils
    except ImportError:
        sys.exit('error: RL Zoo is not installed: pip install "fwagents[zoo]"')
    from fwagents.sb3 import MemoryA2C, MemoryPPO
    from fwagents.zoo import sampling

    utils.ALGOS |= {"memory_ppo": MemoryPPO, "memory_a2c": MemoryA2C}
    hyperparams_opt.HYPERPARAMS_SAMPLER |= {
        "memory_ppo": sampling.sample_memory_ppo_params,
        "memory_a2c": sampling.sample_memory_a2c_params,
    }
    hyperparams_opt.HYPERPARAMS_CONVERTER |= {
        "memory_ppo": sampling.convert_params,
        "memory_a2c": sampling.convert_params,
    }
    arguments = sys.argv[2:]
    if name == "train":
        compute_settings(arguments)
        arguments = with_settings(arguments)
    sys.argv = [SCRIPTS[name], *arguments]
    runpy.run_module(SCRIPTS[name], run_name="__main__", alter_sys=True)


def compute_settings(arguments: list[str]) -> None:
    """Compute the settings that RL Zoo will read, from the environment's arguments on the command line."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--algo", nargs="?")
    parser.add_argument("--env-kwargs", nargs="*", default=[])
    known = parser.parse_known_args(arguments)[0]
    if known.algo in OPTIONS:
        module: Any = importlib.import_module(f"fwagents.zoo.{known.algo}")
        module.hyperparams = hyperparams_for(known.algo, dict(map(_argument, known.env_kwargs)))


def _argument(word: str) -> tuple[str, Any]:
    """Parse ``"size:20"`` as RL Zoo does; a value that is no literal stays a string, which our settings ignore."""
    name, _, value = word.partition(":")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def with_settings(arguments: list[str]) -> list[str]:
    """Add our settings for the algorithm to the arguments, if we have some and the arguments name no settings file.

    A search gets a separate folder unless the arguments name one: its run has no model, and ``enjoy`` takes the latest
    run in a folder.
    """
    parser = argparse.ArgumentParser(add_help=False)  # accepts the same spellings of these options as RL Zoo's parser
    parser.add_argument("--algo", nargs="?")
    parser.add_argument("-conf", "--conf-file", nargs="?", const="")
    parser.add_argument("-f", "--log-folder", nargs="?", const="")
    parser.add_argument("-optimize", "--optimize-hyperparameters", action="store_true")
    known = parser.parse_known_args(arguments)[0]
    added = []
    if known.conf_file is None and known.algo in OPTIONS:
        added += ["--conf-file", f"fwagents.zoo.{known.algo}"]
    if known.optimize_hyperparameters and known.log_folder is None:
        added += ["--log-folder", SEARCHES]
    return [*arguments, *added]


if __name__ == "__main__":
    main()
