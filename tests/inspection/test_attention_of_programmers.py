"""The attention of fast-weight programmers against the matrices that a step-by-step run carries, and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fwagents.cores import CORES, SumRule, make_core
from fwagents.cores.programmer import CHUNK, FastWeightProgrammer
from fwagents.inspection import trace

D, H = 4, 6
FAMILY = sorted(name for name, core in CORES.items() if issubclass(core, FastWeightProgrammer))
OPTIONS = {
    "conv_size": st.integers(2, 5),
    "output_gate": st.booleans(),
    "gate_bias": st.floats(-3.0, 9.0),
    "rotary": st.sampled_from(["half", "all", "none"]),
    "max_period": st.floats(10.0, 300.0),
    "silu": st.booleans(),
}
TAKEN = {
    "gated_delta_net": ("conv_size", "output_gate", "gate_bias"),
    "rotary_fast_weights": tuple(OPTIONS),
}


@st.composite
def problems(draw):
    """Draw a core of the family with its options, inputs [T, B, D], and starts anywhere."""
    name = draw(st.sampled_from(FAMILY))
    options = {option: draw(OPTIONS[option]) for option in TAKEN.get(name, ("conv_size", "output_gate"))}
    T, B = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    core = make_core(name, D, H, num_heads=draw(st.sampled_from([1, 2, 3])), **options).double()
    start = torch.tensor(draw(st.lists(st.lists(st.booleans(), min_size=B, max_size=B), min_size=T, max_size=T)))
    return core, torch.randn(T, B, D, dtype=torch.float64), start


def check(core, x, start):
    """Check every claim of ``Trace`` about the fast memory, step by step, with W from the core's ``step``.

    The weights are computed by their definition, from products of the decays; the decays come from the projection.
    """
    found = trace(core, x, start=start)
    T, B, heads, d = found.keys.shape
    state, alphas, episode = core.initial_state(B), [], start.numpy().cumsum(0)
    assert found.attention.shape == (T, B, heads, 1, T)
    for t in range(T):
        before = core.reset(state, start[t])
        with torch.no_grad():
            y, state = core.step(x[t], before)
            gates = core.projection(x[t])[:, 3 * H :].view(B, -1, heads)
        alphas.append(gates[:, 1].sigmoid().numpy() if gates.shape[1] == 2 else np.ones((B, heads)))
        old, new = before.W.numpy(), state.W.numpy()
        key, written, query = found.keys[t], found.written[t], found.queries[t, :, :, 0]
        # The written value, its key, and the decay of the old W.
        outer = written[..., None] * key[..., None, :]
        np.testing.assert_allclose(new[:, :, :d], alphas[t][..., None, None] * old[:, :, :d] + outer, atol=1e-12)
        if isinstance(core, SumRule):
            np.testing.assert_allclose(new[:, :, d], old[:, :, d] + key, atol=1e-12)
        else:
            np.testing.assert_allclose(np.linalg.norm(key, axis=-1), 1)
        # The read, and the output.
        read = np.einsum("bhed,bhd->bhe", new, query)
        divisor = read[..., d:] + 1e-6 if isinstance(core, SumRule) else np.ones((B, heads, 1))
        read = read[..., :d] / divisor
        parts = found.attention[t, :, :, 0, :, None] * found.written.transpose(1, 2, 0, 3)  # [B, heads, T, d]
        np.testing.assert_allclose(parts.sum(2), read, atol=1e-12)
        np.testing.assert_allclose(found.parts()[t], np.linalg.norm(parts, axis=-1), atol=1e-12)
        output = torch.from_numpy(read.reshape(B, H))
        with torch.no_grad():
            output = output if core.output_gate is None else core.output_gate(output, x[t])
        np.testing.assert_allclose(output, y, atol=1e-10)
        np.testing.assert_allclose(found.hidden[t], y, atol=1e-10)
        # The weights, by their definition.
        for tau in range(T):
            for b in range(B):
                expected = np.zeros(heads)
                if tau <= t and episode[tau, b] == episode[t, b]:
                    left = np.prod([alphas[s][b] for s in range(tau + 1, t + 1)], axis=0)
                    expected = left * (found.keys[tau, b] * query[b]).sum(-1) / divisor[b, :, 0]
                np.testing.assert_allclose(found.attention[t, b, :, 0, tau], expected, atol=1e-12)
        # The growth of W.
        values = np.linalg.svd(new[:, :, :d], compute_uv=False)
        np.testing.assert_allclose(found.norm[t], np.sqrt((values**2).sum(-1)), atol=1e-12)
        shares = values / values.sum(-1, keepdims=True)
        entropy = -np.sum(shares * np.log(np.maximum(shares, 1e-300)), -1)
        np.testing.assert_allclose(found.effective_rank[t], np.exp(entropy), rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_the_parts_add_up_to_the_read_in_every_head(problem):
    check(*problem)


@pytest.mark.parametrize("name", FAMILY)
def test_over_several_chunks_and_in_single_precision(name):
    """Compare with the core's outputs over more steps than one chunk, with an episode that begins inside."""
    core = make_core(name, D, H, num_heads=2, output_gate=False)
    x, start = torch.randn(2 * CHUNK + 9, 2, D), torch.zeros(2 * CHUNK + 9, 2, dtype=torch.bool)
    start[CHUNK + 5, 1] = True
    found = trace(core, x, start=start)
    read = np.einsum("tbhsu,ubhe->tbhe", found.attention, found.written).reshape(found.hidden.shape)
    np.testing.assert_allclose(read, found.hidden, rtol=1e-3, atol=1e-5)


def test_the_family_is_all_there():
    assert FAMILY == ["delta_net", "gated_delta_net", "rotary_fast_weights", "sum_rule"]


def test_by_hand():
    """One unit, keys and queries equal 1: v = silu(x), and each step's write corrects the stored value.

    At beta = 1/2 and inputs 1, 1: v = silu(1) = s. The first step writes s/2; the second (s - s/2) / 2 = s/4. All
    weights are 1, so the reads are s/2 and 3s/4.
    """
    core = make_core("delta_net", 1, 1, conv_size=2).double()
    with torch.no_grad():
        core.projection.weight.copy_(torch.tensor([[1.0], [1.0], [1.0], [0.0]]))
        core.projection.bias.zero_()
        core.taps.copy_(torch.tensor([[0.0] * 3, [1.0] * 3]))
    found = trace(core, torch.ones(2, 1, 1, dtype=torch.float64))
    s = 1 / (1 + np.exp(-1))
    assert found.written.ravel() == pytest.approx([s / 2, s / 4])
    assert found.attention.squeeze().tolist() == [[1, 0], [1, 1]]
    assert found.parts().squeeze() == pytest.approx(np.array([[s / 2, 0], [s / 2, s / 4]]))
    assert found.hidden.ravel() == pytest.approx([s / 2, 3 * s / 4])
    assert found.norm.ravel() == pytest.approx([s / 2, 3 * s / 4])
    assert found.inner_steps.ravel().tolist() == [1, 1]
