"""The README and the pages of docs/: their Python runs, and the targets of their commands and links exist."""

import dataclasses
import importlib
import re
import runpy
from pathlib import Path

import pytest

from fwagents.cores import CORES
from fwagents.envs import ENVIRONMENTS
from fwagents.sb3 import MemoryPPO

ROOT = Path(__file__).parent.parent
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}


def blocks(language, page):
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def commands():
    """Yield every command line of every page, without comments, with its page."""
    return [
        (page, line.split("  #")[0].strip())
        for page in PAGES
        for block in blocks("bash", page)
        for line in block.splitlines()
        if line.strip() and not line.startswith("#")
    ]


@pytest.fixture
def _cores_as_before():
    """Remove the core that one of the pages adds."""
    before = dict(CORES)
    yield
    CORES.clear()
    CORES.update(before)


@pytest.mark.usefixtures("_cores_as_before")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks("python", page)])
def test_python_runs(page, tmp_path, monkeypatch):
    """Each page runs by itself, from top to bottom."""
    if "from ray" in PAGES[page]:
        pytest.importorskip("ray.rllib")  # only `make test-ray` has Ray
    monkeypatch.chdir(tmp_path)
    learn = MemoryPPO.learn  # a page trains for a minute; the slow test below measures the result
    monkeypatch.setattr(MemoryPPO, "learn", lambda agent, steps: learn(agent, min(steps, 5_000)))
    namespace: dict = {"__name__": page}
    for block in blocks("python", page):
        exec(compile(block, page, "exec"), namespace)


@pytest.mark.slow
def test_the_readme_succeeds_as_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("python", "README.md")
    namespace: dict = {"__name__": "README.md"}
    exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["mean_return"] >= 0.9


def test_every_block_is_of_a_kind_that_is_tested():
    for page, text in PAGES.items():
        kinds = re.findall(r"^```(.*)$", text, re.MULTILINE)[::2]
        assert set(kinds) <= {"python", "bash", ""}, page


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_and_extras_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"[`\n]make ([a-z-]+)", PAGES[page]):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    project = (ROOT / "pyproject.toml").read_text()
    extras = re.findall(r"^([a-z]+) = \[", project[project.index("[project.optional-dependencies]") :], re.MULTILINE)
    for extra in re.findall(r"fwagents\[([a-z]+)\]", PAGES[page]):
        assert extra in extras


def options(words, monkeypatch):
    """Return the options of a command, an experiment or a benchmark: the fields of its class Args."""
    program, name = words[:2]
    if program == "fwagents":
        Args = importlib.import_module(f"fwagents.commands.{name}").Args
    elif name == "-m":
        Args = importlib.import_module(f"{words[2]}.__main__" if words[2] == "experiments" else words[2]).Args
    else:
        monkeypatch.syspath_prepend(str((ROOT / name).parent))  # as Python does for a script
        Args = runpy.run_path(str(ROOT / name))["Args"]
    return {field.name.replace("_", "-") for field in dataclasses.fields(Args)} | {"help"}


OURS = r"fwagents (?!-)|python (-m experiments|benchmarks/)"


@pytest.mark.parametrize(("page", "line"), [pair for pair in commands() if re.match(OURS, pair[1])])
def test_commands_have_the_options(page, line, monkeypatch):
    words = line.split()
    given = {word.removeprefix("--").removeprefix("no-") for word in words[2:] if word.startswith("--")}
    assert given <= {name.removeprefix("no-") for name in options(words, monkeypatch)}, line


def test_commands_are_of_a_kind_that_is_tested():
    """The commands of RL Zoo run in test_zoo.py."""
    known = (
        "make ",
        "fwagents ",
        "python benchmarks/",
        "python examples/",
        "python -m fwagents.zoo ",
        "python -m rl_zoo3.",
    )
    for page, line in commands():
        assert line.startswith(
            (*known, "tensorboard --logdir ", "pip install ", "ray start ", "source .venv/bin/activate")
        ), (page, line)


@pytest.mark.parametrize("name", [name for name, environment in ENVIRONMENTS.items() if environment.returns])
def test_every_environment_has_its_row_of_returns(name):
    from fwagents.envs import reference_returns

    (row,) = re.findall(rf"^\| `{name}` \|.*$", PAGES["docs/environments.md"], re.MULTILINE)
    cells = [float(cell) for cell in row.split("|")[4:7]]
    assert cells == [pytest.approx(value, abs=5e-4) for value in reference_returns(name)]


def anchors(text):
    """Return the anchors of a page: its headings in the form that sites and code hosts use."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", PAGES[page])
    links += [(picture, "") for picture in re.findall(r'src(?:set)?="([^"]+)"', PAGES[page])]
    for file, anchor in links:
        path = folder / file if file else ROOT / page
        assert path.exists(), file
        assert not anchor or anchor in anchors(path.read_text()), f"{file}#{anchor}"


def test_every_page_is_on_the_site():
    pages = set(re.findall(r"([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert pages == {path.name for path in (ROOT / "docs").glob("*.md")}
