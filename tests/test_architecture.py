"""Which modules may import which, and how light the package is to import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
APART = {"train", "experiments", "benchmarks", "tests"}
# The modules that the files of a folder may not import.
WALLS = {
    "envs": {"torch", "stable_baselines3", "sb3_contrib", "fwagents", *APART},
    "fwagents": {"fwagents.envs", "envs", *APART},
    "fwagents/cores": {"gymnasium", "stable_baselines3", "sb3_contrib", "fwagents.sb3", "fwagents.tasks"},
    "fwagents/comparison": {"torch", "gymnasium", "stable_baselines3", "sb3_contrib", "matplotlib", "pandas"},
    "fwagents/export": {"fwagents.tasks", "matplotlib"},
    "fwagents/figures": {"gymnasium", "stable_baselines3", "fwagents.sb3", "fwagents.tasks", "matplotlib.pyplot"},
    "fwagents/inspection": {"fwagents.tasks", "fwagents.kernels", "matplotlib"},
    "fwagents/kernels": {"gymnasium", "stable_baselines3", "sb3_contrib", "fwagents.sb3", "fwagents.cores"},
    "fwagents/runs": {"fwagents.commands"},
    "fwagents/sb3": {"fwagents.tasks", "fwagents.rllib", "ray"},
    "fwagents/rllib": {"fwagents.tasks", "matplotlib"},
    "fwagents/settings.py": {"torch", "gymnasium", "stable_baselines3"},
    "fwagents/tasks": {"gymnasium", "stable_baselines3", "sb3_contrib", "fwagents.sb3", "fwagents.kernels"},
}
# The one exception: ``fwagents watch`` uses the window of this package's environments.
OPENINGS = {"fwagents/commands/watch.py": "fwagents.envs.render"}


def imported(path: Path) -> set[str]:
    """Return every absolute module name that a file imports, at any depth of the code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("folder", WALLS)
def test_walls(folder):
    path = ROOT / folder
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert files
    for path in files:
        opening = OPENINGS.get(path.relative_to(ROOT).as_posix(), "none")
        for name in imported(path):
            if name == opening or name.startswith(opening + "."):
                continue
            assert not any(name == wall or name.startswith(wall + ".") for wall in WALLS[folder]), (path, name)


def test_the_scripts_of_train_import_the_commands_alone():
    for path in (ROOT / "train").glob("*.py"):
        assert imported(path) == {"fwagents.commands", "fwagents.commands.run"}, path


def test_nothing_stands_on_the_runs_but_the_commands_and_what_compares_runs():
    for path in (ROOT / "fwagents").rglob("*.py"):
        if path.relative_to(ROOT / "fwagents").parts[0] not in ("runs", "commands", "comparison", "__main__.py"):
            assert not any(name.startswith(("fwagents.runs", "fwagents.commands")) for name in imported(path)), path


def test_imports_are_absolute():
    """The rules above check absolute imports only."""
    for path in (ROOT / "fwagents").rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level], path


@pytest.mark.parametrize("folder", ["fwagents", "envs", "train", "experiments", "benchmarks"])
def test_no_folder_joins_another_by_the_path(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert "sys.path" not in path.read_text(), path


# The modules in the order in which one process imports them, each on top of the earlier ones.
LIGHT = [
    ("fwagents", ["torch", "gymnasium", "numpy"]),
    ("fwagents.commands", ["tyro", "torch", "numpy"]),
    ("fwagents.files", ["torch", "numpy"]),
    ("fwagents.comparison", ["torch", "gymnasium", "stable_baselines3", "matplotlib", "pandas", "tensorboard"]),
    ("fwagents.cores", ["gymnasium", "stable_baselines3", "matplotlib"]),
    ("fwagents.inspection", ["gymnasium", "stable_baselines3", "matplotlib", "pandas"]),
    ("fwagents.tasks.mnist", ["gymnasium", "stable_baselines3", "matplotlib", "tensorboard", "pooch"]),
    ("fwagents.tasks.retrieval", ["gymnasium", "stable_baselines3", "matplotlib", "tensorboard"]),
    ("fwagents.tasks.language", ["gymnasium", "stable_baselines3", "matplotlib", "tensorboard"]),
    ("fwagents.export", ["onnx", "onnxscript", "onnxruntime", "safetensors", "matplotlib"]),
    ("fwagents.sb3", ["ray"]),
]
IMPORTS = """
import importlib, sys
for module, absent in {modules}:
    importlib.import_module(module)
    print(module, *[name for name in absent if name in sys.modules])
"""


@pytest.mark.parametrize("modules", [LIGHT, [("fwagents.envs", ["torch", "stable_baselines3", "ray"])]])
def test_light_to_import(modules):
    command = [sys.executable, "-c", IMPORTS.format(modules=modules)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert loaded == [module for module, _ in modules]
