"""The cores around torch's own layers: they equal these layers, and their options do what they say."""

import pytest
import torch

from fwagents.cores import make_core

from .core_family import B, D, H, T, starts

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(("name", "peer"), [("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU)])
def test_equals_the_peer(name, peer):
    core, peer = make_core(name, D, H), peer(D, H)
    peer.load_state_dict(core.rnn.state_dict())
    x = torch.randn(T, B, D)
    torch.testing.assert_close(core(x, None, starts(0))[0], peer(x)[0])


@pytest.mark.parametrize(("name", "bias"), [("lstm", {"forget_bias": 40.0}), ("gru", {"update_bias": 40.0})])
def test_a_gate_that_is_biased_to_keep_keeps(name, bias):
    """An LSTM without input to its cell, and a GRU in any case, then keep their state for all inputs."""
    core = make_core(name, D, H, **bias)
    with torch.no_grad():
        if name == "lstm":
            core.rnn.bias_ih_l0[:H] = -40.0  # closes the input gate
    state = core.state_type(*(torch.randn(B, H) for _ in core.state_shapes))
    _, after = core(torch.randn(T, B, D), state, starts())
    torch.testing.assert_close(after[-1], state[-1])


def test_irnn_starts_as_the_identity():
    """With W = I and C = I, positive inputs add up without decay; the ReLU cuts negative sums."""
    core = make_core("irnn", 2, 2, identity_scale=1.0)
    with torch.no_grad():
        core.rnn.weight_ih_l0.copy_(torch.eye(2))
    y, _ = core(torch.tensor([[[1.0, 2.0]], [[1.0, -5.0]], [[0.5, 1.0]]]))
    assert y[:, 0].tolist() == [[1.0, 2.0], [2.0, 0.0], [2.5, 1.0]]
