"""docs/cores.md and docs/your-own-core.md: every core has its row, the stated sizes are true, and the code runs."""

import re
from pathlib import Path
from typing import get_args

import pytest

from fwagents.cores import CORES, make_core

ROOT = Path(__file__).parent.parent
TABLE = (ROOT / "docs" / "cores.md").read_text()
PAGE = (ROOT / "docs" / "your-own-core.md").read_text()


@pytest.mark.parametrize("name", CORES)
def test_every_core_has_its_row(name):
    (row,) = re.findall(rf"^\| `{name}` \|.*$", TABLE, re.MULTILINE)
    (size,) = re.findall(r"\| `([^`]*H?[^`]*)` \| [^|]+ \| [^|]+ \| \[`", row)
    for H in (8, 16):
        assert eval(size.replace("²", "**2"), {"H": H}) == make_core(name, 5, H).state_size
    (file,) = re.findall(r"\]\(\.\./fwagents/cores/(\w+\.py)\)", row)
    assert CORES[name].__module__ == f"fwagents.cores.{Path(file).stem}"


def test_every_core_can_be_named_on_the_command_line():
    from fwagents.registry import CoreName
    from fwagents.runs.agent import Args
    from fwagents.runs.cli import parse

    assert set(get_args(CoreName)) == set(CORES)
    assert all(parse(Args, ["--core", name]).core == name for name in CORES)


def test_a_core_of_ones_own_takes_40_lines():
    """test_docs.py runs the page's code."""
    (first, *_) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert first.count("\n") <= 40
