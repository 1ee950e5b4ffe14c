"""A trace in a file, row by row, and as a table."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from fwagents.cores import make_core
from fwagents.inspection import Trace, trace


@pytest.fixture(params=["fast_weights", "rotary_fast_weights"])
def found(request):
    return trace(make_core(request.param, 3, 4), torch.randn(5, 2, 3))


def test_a_file_gives_the_same_trace(found, tmp_path):
    found.save(tmp_path / "sub" / "trace.npz")
    same = Trace.load(tmp_path / "sub" / "trace.npz")
    for name, value in vars(found).items():
        np.testing.assert_array_equal(getattr(same, name), value)
    assert (same.core, same.rewards) == (found.core, None)


def test_files_that_are_no_trace(found, tmp_path):
    with pytest.raises(ValueError, match="npz"):
        found.save(tmp_path / "trace.csv")
    np.savez(tmp_path / "other.npz", something=np.zeros(3))
    with pytest.raises(ValueError, match="'something'"):
        Trace.load(tmp_path / "other.npz")
    np.savez(tmp_path / "part.npz", length=np.zeros(3))
    with pytest.raises(ValueError, match="lacks core, hidden"):
        Trace.load(tmp_path / "part.npz")
    replace(found, written=None).save(tmp_path / "old.npz")
    with pytest.raises(ValueError, match="lacks written"):
        Trace.load(tmp_path / "old.npz")
    np.savez(tmp_path / "code.npz", hidden=np.array([print], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        Trace.load(tmp_path / "code.npz")


def test_a_row(found):
    row = found.row(1)
    assert row.attention.shape == (5, 1, found.keys.shape[2], 1, 5)
    np.testing.assert_array_equal(row.parts()[:, 0], found.parts()[:, 1])
    np.testing.assert_array_equal(row.hidden[:, 0], found.hidden[:, 1])
    with pytest.raises(IndexError, match="row is 2, expected 0 to 1"):
        found.row(2)


def test_a_frame_of_units(found):
    frame = found.frame()
    assert frame.index.names == ["row", "step"]
    heads = range(found.keys.shape[2])
    of_heads = [f"{name}_{head}" for name in ("norm", "effective_rank") for head in heads]
    assert list(frame.columns) == [*of_heads, *(f"unit_{i}" for i in range(4))]
    assert frame.loc[(1, 3), "unit_2"] == found.hidden[3, 1, 2]
    assert frame[f"norm_{heads[-1]}"].to_numpy() == pytest.approx(found.norm[..., -1].T.ravel())


def test_a_frame_without_pandas(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'pip install "fwagents\[inspect\]"'):
        found.frame()
