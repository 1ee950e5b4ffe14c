"""A run's folder is complete from the moment it exists."""

import json
import os
import sys

from fwagents.runs.folder import new_run_dir

CONFIG = {"args": {"env": "PartialCatch-v0"}}


def killed_at(operation, function):
    """Call a function in a process that dies at its n-th audited operation; return whether it died."""
    child = os.fork()
    if child == 0:
        count = 0

        def die(event, args):
            nonlocal count
            count += 1
            if count == operation:
                os._exit(9)

        sys.addaudithook(die)
        function()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_kill_at_any_operation_leaves_no_run_without_its_config(tmp_path):
    operation = 1
    while killed_at(operation, lambda: new_run_dir(tmp_path, "Catch", "gru", 0, CONFIG)):
        for folder in tmp_path.glob("*/[!.]*"):
            assert json.loads((folder / "config.json").read_text()) == CONFIG
        operation += 1
    assert operation > 10  # the process died at earlier operations


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda form: "20260101-000000")
    (tmp_path / "Catch-v0").mkdir()
    (tmp_path / "Catch-v0" / "gru-s0-20260101-000000-2").touch()  # a file in the way
    made = [new_run_dir(tmp_path, "games:Catch-v0", "gru", 0, {"number": number}) for number in range(3)]
    assert [folder.name.removeprefix("gru-s0-20260101-000000") for folder in made] == ["", "-3", "-4"]
    assert [json.loads((folder / "config.json").read_text())["number"] for folder in made] == [0, 1, 2]
    assert [path.name for path in (tmp_path / "Catch-v0").iterdir() if path.name.startswith(".")] == []
