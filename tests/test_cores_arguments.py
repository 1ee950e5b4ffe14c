"""Arguments of cores: the accepted numbers, and errors that name wrong values."""

import json
import re

import numpy as np
import pytest
import torch

from fwagents.cores import make_core
from fwagents.cores.base import positive_int

from .core_family import FAMILY, B, D, H, T, label, random_core, starts

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=FAMILY, ids=label)
def core(request):
    return random_core(*request.param)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c(torch.randn(T, B, D + 1)), r"x has shape \(9, 3, 5\)"),
        (lambda c: c(torch.randn(T, B)), r"x has shape \(9, 3\)"),
        (lambda c: c(torch.randn(0, B, D)), r"x has shape \(0, 3, 4\)"),
        (lambda c: c.step(torch.randn(T, B, D), c.initial_state(B)), r"x has shape \(9, 3, 4\)"),
        (lambda c: c(torch.randn(T, B, D), c.initial_state(B + 1)), r"state.\w+ has shape \(4, .*\), expected \(3, "),
        (lambda c: c(torch.randn(T, B, D), (torch.zeros(B, H),)), "state is a tuple"),
        (lambda c: c(torch.randn(T, B, D), None, torch.zeros(T, B)), "start is torch.float"),
        (lambda c: c(torch.randn(T, B, D), None, starts()[:, :1]), r"start is torch.bool of shape \(9, 1\)"),
        (lambda c: c.initial_state(0), "batch_size is 0"),
    ],
)
def test_bad_input_is_named(core, call, message):
    with pytest.raises(ValueError, match=message):
        call(core)


@pytest.mark.parametrize(
    ("error", "message", "args", "kwargs"),
    [
        (ValueError, "core is 'lstmm', expected one of fast_weights, rotary_fast_weights, irnn", ("lstmm", D, H), {}),
        (TypeError, "core 'gru' has no option 'decay'", ("gru", D, H), {"decay": 0.9}),
        (
            TypeError,
            "core 'fast_weights' has no option 'dekay'; it has inner_steps",
            ("fast_weights", D, H),
            {"dekay": 1},
        ),
        (ValueError, "hidden_size is 0", ("lstm", D, 0), {}),
        (ValueError, "input_size is 2.5", ("lstm", 2.5, H), {}),
        (ValueError, "inner_steps is -1", ("fast_weights", D, H), {"inner_steps": -1}),
        (ValueError, "decay is 1.5", ("fast_weights", D, H), {"decay": 1.5}),
        (ValueError, "fast_lr is nan", ("fast_weights", D, H), {"fast_lr": float("nan")}),
        (ValueError, "boundary is 'fixed'", ("fast_weights", D, H), {"boundary": "fixed"}),
        (ValueError, "backend is 'cuda'", ("fast_weights", D, H), {"backend": "cuda"}),
        (ValueError, "identity_scale is inf", ("irnn", D, H), {"identity_scale": float("inf")}),
        (ValueError, "forget_bias is nan", ("lstm", D, H), {"forget_bias": float("nan")}),
        (ValueError, "update_bias is 'one'", ("gru", D, H), {"update_bias": "one"}),
    ],
)
def test_make_core_names_what_is_wrong(error, message, args, kwargs):
    with pytest.raises(error, match=message):
        make_core(*args, **kwargs)


@pytest.mark.parametrize(("name", "options"), FAMILY, ids=str)
def test_numpy_numbers_are_numbers(name, options):
    """Sizes and options may be NumPy's, as a sum or product of a shape is; the core stores Python numbers."""
    as_numpy = {
        n: np.int64(v) if type(v) is int else np.float32(v) if type(v) is float else v for n, v in options.items()
    }
    torch.manual_seed(3)
    core = make_core(name, np.int64(D), np.uint8(H), **as_numpy)
    torch.manual_seed(3)
    plain = make_core(name, D, H, **options)
    x = torch.randn(T, np.int64(B), D)
    torch.testing.assert_close(core(x), plain(x), rtol=1e-5, atol=1e-5)
    core.step(x[0], core.initial_state(np.int64(B)))
    core.float().stepper(np.int64(B)).step(x[0].float())
    assert not [n for n, value in vars(core).items() if isinstance(value, np.generic)]
    assert not any(isinstance(size, np.generic) for shape in core.state_shapes for size in shape)
    json.dumps(getattr(core, "options", None))


@pytest.mark.parametrize("value", [0, -1, 2.0, True, np.True_, np.float64(2), "2", None, np.int64(0)])
def test_what_is_no_positive_integer_is_named(value):
    with pytest.raises(ValueError, match=re.escape(f"size is {value!r}, expected an integer of at least 1")):
        positive_int("size", value)
