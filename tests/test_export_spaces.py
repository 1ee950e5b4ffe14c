"""Spaces as JSON: every space that SB3 supports comes back exactly."""

import json
from collections import OrderedDict

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from fwagents.export.spaces import space_from_json, space_to_json

DTYPES = [f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)]
SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)


def bounds(dtype, shape):
    """Draw pairs of arrays with low <= high, over the whole range of a dtype, including infinities."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        entries = st.floats(width=8 * dtype.itemsize, allow_nan=False)
    elif dtype.kind == "b":
        entries = st.booleans()
    else:
        entries = st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    count = int(np.prod(shape, dtype=int))
    # Half of the pairs have the same bounds everywhere.
    pairs = st.one_of(
        st.tuples(entries, entries).map(lambda pair: [pair] * count),
        st.lists(st.tuples(entries, entries), min_size=count, max_size=count),
    )
    return pairs.map(
        lambda found: [np.array([pick(pair) for pair in found], dtype).reshape(shape) for pick in (min, max)]
    )


def ordered_box(dtype, pair):
    low, high = pair
    at_top, at_bottom = (np.isinf(low) & (low > 0), np.isinf(high) & (high < 0))
    low[at_top], high[at_bottom] = 0, 0  # Gymnasium does not accept these bounds
    low, high = (np.asarray(order(low, high)) for order in (np.minimum, np.maximum))
    return spaces.Box(low, high, dtype=np.dtype(dtype).type)


@st.composite
def boxes(draw):
    dtype = draw(st.sampled_from([*DTYPES, "float16", "float32", "float64", "bool"]))
    return ordered_box(dtype, draw(bounds(dtype, draw(SHAPES))))


@st.composite
def multi_discretes(draw):
    shape = draw(SHAPES.filter(bool))
    count = int(np.prod(shape))
    nvec, start = (
        np.array(draw(st.lists(st.integers(least, 100), min_size=count, max_size=count))).reshape(shape)
        for least in (1, 0)
    )
    return spaces.MultiDiscrete(nvec, start=start, dtype=np.dtype(draw(st.sampled_from(DTYPES))).type)


FLAT_SPACES = st.one_of(
    boxes(),
    st.sampled_from([f"int{bits}" for bits in (8, 16, 32, 64)]).map(
        lambda dtype: spaces.Box(-np.inf, np.inf, (2,), np.dtype(dtype).type)
    ),
    st.builds(
        lambda n, start, dtype: spaces.Discrete(n, start=start, dtype=np.dtype(dtype).type),
        *(st.integers(1, 100), st.integers(0, 20), st.sampled_from(DTYPES)),
    ),
    st.builds(spaces.Discrete, st.integers(1, 2**63 - 1), start=st.integers(-(2**63), 2**63 - 1)),
    multi_discretes(),
    st.builds(spaces.MultiBinary, st.one_of(st.integers(1, 9), SHAPES.filter(bool))),
)
SPACES = st.recursive(
    FLAT_SPACES,
    lambda parts: st.dictionaries(st.text(max_size=3), parts, max_size=3).map(
        lambda named: spaces.Dict(OrderedDict(named))
    ),
    max_leaves=4,
)


def same_space(a, b):
    """Return whether two spaces are equal exactly; Gymnasium's == compares bounds only approximately."""
    assert type(a) is type(b)
    assert a.dtype == b.dtype
    if isinstance(a, spaces.Dict):
        assert list(a.spaces) == list(b.spaces)
        for key in a.spaces:
            same_space(a[key], b[key])
    elif isinstance(a, spaces.Box):
        for name in ("low", "high", "bounded_below", "bounded_above"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), strict=True)
    else:
        assert a == b


@settings(deadline=None, max_examples=200)
@given(SPACES)
def test_spaces_come_back(space):
    same_space(space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False))), space)


def test_what_is_no_space():
    with pytest.raises(ValueError, match="expected a Box"):
        space_to_json(spaces.Text(3))
    box = {"type": "Box", "shape": [2], "dtype": "int8", "low": 0, "high": 5}
    for changes in (
        {"low": None},
        {"low": 0.5},
        {"high": 128},
        {"high": True},
        {"low": [0]},
        {"shape": [2.0]},
        {"dtype": None},
        {"dtype": "float32", "high": "much"},
    ):
        with pytest.raises(ValueError, match=r"space|dtype|reshape"):
            space_from_json({**box, **changes})
