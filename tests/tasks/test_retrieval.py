"""Key-value strings, and the paper's net for them."""

import re
from collections import Counter

import numpy as np
import pytest
import torch

from fwagents.cores import CORES, make_core
from fwagents.tasks.retrieval import RetrievalModel, RetrievalTask
from tests.core_family import randomised

TASKS = [RetrievalTask(), RetrievalTask(1), RetrievalTask(3, "abcXYZ"), RetrievalTask(26), RetrievalTask(2, "qz")]


def solve(text):
    """Return a string's answer: the character after the first occurrence of its last character."""
    return int(text[text.index(text[-1]) + 1])


@pytest.fixture(params=TASKS, ids=lambda task: f"{task.pairs} of {task.alphabet}")
def task(request):
    return request.param


def test_the_papers_examples():
    task = RetrievalTask()
    tokens, answers = task.encode(["c9k8j3f1??c", "j0a5s5z2??a"])
    assert answers.tolist() == [9, 5]
    a, zero, mark = 0, 26, 36
    j, s, z = 9, 18, 25
    assert tokens[1].tolist() == [j, zero, a, zero + 5, s, zero + 5, z, zero + 2, mark, mark, a]


def test_every_string_is_of_the_form_and_has_its_answer(task):
    drawn = task.draw(500, np.random.default_rng(1))
    form = re.compile(rf"(?:[{task.alphabet}]\d){{{task.pairs}}}\?\?[{task.alphabet}]")
    texts = task.decode(drawn.inputs)
    for text, answer in zip(texts, drawn.labels.tolist(), strict=True):
        assert form.fullmatch(text)
        assert len(set(text[0:-3:2])) == task.pairs, "keys are distinct"
        assert answer == solve(text)
    encoded = task.encode(texts)
    assert torch.equal(encoded.inputs, drawn.inputs)
    assert torch.equal(encoded.labels, drawn.labels)
    if task.pairs > 1:
        assert any(len(set(text[1:-3:2])) < task.pairs for text in texts), "values may repeat"


def test_keys_values_and_questions_are_uniform():
    count = 20_000
    texts = RetrievalTask(3, "abcdef").decode(RetrievalTask(3, "abcdef").draw(count, np.random.default_rng(0)).inputs)
    for counts, choices in [
        *((Counter(text[2 * place] for text in texts), 6) for place in range(3)),
        *((Counter(text[2 * place + 1] for text in texts), 10) for place in range(3)),
        (Counter(text.index(text[-1]) for text in texts), 3),
        (Counter(text[0:4:2] for text in texts), 30),
    ]:
        assert len(counts) == choices
        expected = count / choices
        assert max(abs(n - expected) for n in counts.values()) < 5 * expected**0.5


@pytest.mark.parametrize("pairs", [1, 2, 4, 16])
def test_the_most_frequent_digit_is_wrong_as_often_as_in_strings_that_were_drawn(pairs):
    task = RetrievalTask(pairs)
    tokens = task.draw(20_000, np.random.default_rng(0)).inputs[:, 1:-3:2].numpy()
    counts = (tokens[:, :, None] == np.unique(tokens)).sum(1)
    missed = 100 * (1 - counts.max(1) / pairs)
    assert task.keyless_error == pytest.approx(missed.mean(), abs=4 * missed.std() / 20_000**0.5)


def test_splits_share_no_string_and_follow_from_the_seed():
    task = RetrievalTask(2, "abcd")  # 2,400 strings
    sizes = (1500, 500, 300)
    splits = task.splits(sizes, data_seed=3)
    assert [len(part.labels) for part in splits] == list(sizes)
    texts = [text for part in splits for text in task.decode(part.inputs)]
    assert len(set(texts)) == sum(sizes)
    assert [answer for part in splits for answer in part.labels.tolist()] == [solve(text) for text in texts]
    for part, again, other in zip(splits, task.splits(sizes, 3), task.splits(sizes, 4), strict=True):
        assert torch.equal(part.inputs, again.inputs)
        assert not torch.equal(part.inputs, other.inputs)


def test_every_string_there_is():
    task = RetrievalTask(1, "ab")
    texts = [text for part in task.splits((12, 5, 3)) for text in task.decode(part.inputs)]
    assert sorted(texts) == sorted(f"{key}{value}??{key}" for key in "ab" for value in range(10))
    with pytest.raises(ValueError, match=r"sizes are \(12, 5, 4\), expected at most 20 together"):
        task.splits((12, 5, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RetrievalTask(0), "pairs is 0"),
        (lambda: RetrievalTask(27), "pairs is 27, expected at most 26"),
        (lambda: RetrievalTask(2, "aab"), "alphabet is 'aab'"),
        (lambda: RetrievalTask(1, "a1"), "alphabet is 'a1'"),
        (lambda: RetrievalTask(1, ""), "pairs is 1, expected at most 0"),
        (lambda: RetrievalTask().splits((1, 0, 1)), r"sizes are \(1, 0, 1\)"),
        *(
            (lambda text=text: RetrievalTask(2, "abc").encode([text]), re.escape(f"string is {text!r}"))
            for text in ["", "a1b2??", "a1b2??c", "a1a2??a", "a1d2??a", "abb2??a", "a1b2?!a", "a1b2c3??a"]
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", CORES)
@pytest.mark.usefixtures("float64")
def test_the_net_equals_one_character_after_the_other(name):
    """Apply embedding, expansion and core to one character at a time, with plain products."""
    task = RetrievalTask(3)
    model = RetrievalModel(make_core(name, 7, 8), len(task.vocabulary), embedding_size=5, readout_size=6)
    randomised(model, 0.2)
    tokens = task.draw(4, np.random.default_rng(0)).inputs
    state = model.core.initial_state(4)
    for t in range(task.length):
        embedded = torch.stack([model.embedding.weight[i] for i in tokens[:, t]])
        wide = (embedded @ model.expansion.weight.T + model.expansion.bias).clamp(min=0)
        y, state = model.core.step(wide, state)
    behind = (y @ model.readout.weight.T + model.readout.bias).clamp(min=0)
    scores = behind @ model.scores.weight.T + model.scores.bias
    torch.testing.assert_close(model(tokens), scores)


def test_the_sizes_and_initial_weights_are_the_papers():
    model = RetrievalModel(make_core("fast_weights", 100, 20))
    shapes = [tuple(p.shape) for p in (model.embedding.weight, model.expansion.weight, model.readout.weight)]
    assert shapes == [(37, 50), (100, 50), (100, 20)]
    for layer, outgoing in [(model.expansion, 100), (model.readout, 100), (model.scores, 10)]:
        bound = outgoing**-0.5
        assert 0.95 * bound < layer.weight.abs().max() <= bound
    assert not any(layer.bias.any() for layer in (model.expansion, model.readout, model.scores))
    assert model.embedding.weight.std().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(model.core.weight_hh, 0.05 * torch.eye(20))
