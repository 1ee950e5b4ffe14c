"""experiments/settling.py: how well states distinguish keys."""

import pytest
import torch


@pytest.fixture
def settling(monkeypatch):
    """Import the module."""
    from experiments import settling

    return settling


def test_without_what_is_stored_every_read_is_the_same_and_keys_stay_apart(settling):
    """An empty memory reads zero, so the state is the same for every S."""
    alone = settling.told_apart(20, 0, 1.0, False)
    assert alone > 0.3
    for steps in (1, 3):
        assert settling.told_apart(20, steps, 0.0, False) == pytest.approx(alone, rel=1e-5)


def test_a_memory_that_drowns_what_asks_tells_no_keys_apart(settling):
    """A very strong memory's read has the same direction for every key: the common part of the stored states."""
    assert settling.told_apart(20, 3, 1e6, False) < 1e-5


def test_it_is_the_mean_distance_of_states_from_their_mean(settling, monkeypatch):
    """The core's state is the number of its last character: four keys of a string, spread around their mean."""
    from fwagents.tasks.retrieval import RetrievalTask

    class Last(torch.nn.Module):
        input_size = output_size = 1

        def forward(self, x):
            return x, None

    monkeypatch.setattr(settling, "FastWeights", lambda *_, **__: Last())
    monkeypatch.setattr(settling.RetrievalModel, "core_inputs", lambda _, tokens: 1.0 + tokens.T[..., None].float())
    tokens = RetrievalTask().draw(settling.STRINGS, settling.np.random.default_rng(0)).inputs
    keys = 1.0 + tokens[:, 0:8:2].float()
    expected = ((keys - keys.mean(1, keepdim=True)).abs() / keys).mean()
    assert settling.told_apart(1, 1, 1.0, False) == pytest.approx(float(expected), rel=1e-5)
