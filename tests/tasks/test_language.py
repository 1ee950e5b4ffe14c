"""Texts and the language model: splits, scores character by character, sizes, samples."""

import numpy as np
import pytest
import torch

from fwagents.cores import CORES, make_core
from fwagents.tasks.language import LanguageModel, fitting_size, read_corpus


def write(folder, text):
    path = folder / "text.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_splits_follow_each_other(tmp_path):
    text = "".join(chr(97 + i % 26) for i in range(200))
    corpus = read_corpus(write(tmp_path, text))
    assert corpus.vocabulary == "abcdefghijklmnopqrstuvwxyz"
    for split, part in zip(corpus.splits, (text[:180], text[180:190], text[190:]), strict=True):
        assert corpus.decode(split.inputs) == part[:-1]
        assert corpus.decode(split.labels) == part[1:]


def test_any_character_will_do(tmp_path):
    text = "één 🙂 zwei\n\t日本 " * 9
    corpus = read_corpus(write(tmp_path, text))
    assert corpus.vocabulary == "".join(sorted(set(text)))
    assert corpus.decode(corpus.splits.train.inputs) == text[: round(0.9 * len(text)) - 1]


@pytest.mark.parametrize(
    ("content", "message"), [(b"\xff\xfe\xff", "is not UTF-8"), (b"abc", "has 3 characters"), (b"", "has 0")]
)
def test_a_text_that_will_not_do_is_named(content, message, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_corpus(path)
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt is no file"):
        read_corpus(tmp_path / "nothing.txt")


@pytest.mark.parametrize("name", CORES)
@pytest.mark.usefixtures("float64")
def test_the_net_equals_one_character_after_the_other(name):
    """Apply embedding, core and scores to one character at a time; and to a text in two parts with a carried state."""
    model = LanguageModel(make_core(name, 5, 8), 7)
    tokens = torch.randint(7, (9, 3))
    scores, last = model(tokens)
    state = model.core.initial_state(3)
    for t in range(9):
        embedded = torch.stack([model.embedding.weight[token] for token in tokens[t]])
        y, state = model.core.step(embedded, state)
        torch.testing.assert_close(scores[t], y @ model.scores.weight.T + model.scores.bias)
    torch.testing.assert_close(last, state)
    first, between = model(tokens[:4])
    second, end = model(tokens[4:], between)
    torch.testing.assert_close((torch.cat([first, second]), end), (scores, last))


@pytest.mark.usefixtures("float64")
def test_a_sample_follows_the_models_probabilities():
    """Only the bias of the scores is not zero; the same seed gives the same sample."""
    model = LanguageModel(make_core("gru", 3, 4), 3)
    with torch.no_grad():
        model.scores.weight.zero_()
        model.scores.bias.copy_(torch.tensor([0.5, 0.2, 0.3]).log())
    drawn = model.sample(4000, torch.Generator().manual_seed(1))
    np.testing.assert_allclose(torch.bincount(drawn) / 4000, [0.5, 0.2, 0.3], atol=0.03)
    assert torch.equal(model.sample(50, torch.Generator().manual_seed(1)), drawn[:50])


def test_a_sample_remembers_what_it_drew():
    """The net's state is the last character, and its scores demand the following one."""
    model = LanguageModel(make_core("none", 5, 5), 5)
    with torch.no_grad():
        model.embedding.weight.copy_(torch.eye(5))
        model.core.weight_ih.copy_(torch.eye(5))
        model.scores.weight.copy_(1000 * torch.eye(5).roll(1, 0))
    assert model.sample(7, torch.Generator()).tolist() == [1, 2, 3, 4, 0, 1, 2]
    assert model.sample(2, torch.Generator(), first=3).tolist() == [4, 0]


@pytest.mark.parametrize("name", CORES)
def test_the_size_that_comes_nearest(name):
    def build(size):
        return LanguageModel(make_core(name, 6, size), 10)

    def count(size):
        return sum(p.numel() for p in build(size).parameters() if p.requires_grad)

    for size in (4, 16):
        for budget, expected in [(count(size), size), (count(size) + 3, size), (count(size + 4) - 3, size + 4)]:
            assert fitting_size(budget, build) == expected
    with pytest.raises(ValueError, match=f"parameters is 5, expected at least {count(4)}, those of a hidden size of 4"):
        fitting_size(5, build)


def test_at_equal_parameters():
    """About 250,000 parameters: 65 (D + H + 1) outside the core; in it 4 H (H + D + 2), 3 H (..) or H (H + D + 3)."""
    sizes = {}
    for name, formula in [
        ("lstm", lambda H: 4 * H * (H + 66)),
        ("gru", lambda H: 3 * H * (H + 66)),
        ("fast_weights", lambda H: H * (H + 67)),
    ]:
        sizes[name] = fitting_size(250_000, lambda size, name=name: LanguageModel(make_core(name, 64, size), 65))
        assert 65 * (65 + sizes[name]) + formula(sizes[name]) == pytest.approx(250_000, rel=0.02)
    assert sizes == {"lstm": 212, "gru": 244, "fast_weights": 436}
