"""The README's Python runs, top to bottom, and its commands name things that exist."""

import re
from pathlib import Path

import pytest

from fwagents.cores import CORES
from fwagents.envs import ENVIRONMENTS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_python_blocks_run():
    namespace: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"\bmake ([a-z-]+)\b", README))
    assert {"agent", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("name", CORES)
def test_every_core_has_its_row(name):
    assert f"| `{name}` |" in README


@pytest.mark.parametrize("name", [name for name, environment in ENVIRONMENTS.items() if environment.returns])
def test_every_environment_has_its_row_of_returns(name):
    from fwagents.envs import reference_returns

    (row,) = re.findall(rf"^\| `{name}` \|.*$", README, re.MULTILINE)
    cells = [float(cell) for cell in row.split("|")[4:7]]
    assert cells == [pytest.approx(value, abs=5e-4) for value in reference_returns(name)]


def test_linked_files_exist():
    for link in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / link).exists(), link
