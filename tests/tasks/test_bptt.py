"""Training on a text: its batches, the carried state, the score, and exact resuming."""

import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fwagents.cores import make_core
from fwagents.tasks.bptt import SCORED_STEPS, LanguageTrainer
from fwagents.tasks.data import Examples
from fwagents.tasks.language import LanguageModel, read_corpus
from fwagents.tasks.training import CHECKPOINT, TrainingOptions

SYMBOLS = "abcdefg"


def trainer(folder, core="gru", characters=200, bptt=5, **options):
    """Return a trainer on a text of independent random characters."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(SYMBOLS), (characters,), generator=generator)
    (folder / "text.txt").write_text("".join(SYMBOLS[i] for i in drawn))
    corpus = read_corpus(folder / "text.txt")
    torch.manual_seed(1)
    model = LanguageModel(make_core(core, 3, 4), len(corpus.vocabulary))
    options = {"updates": 20, "batch_size": 4, "eval_freq": 5, "learning_rate": 0.01, **options}
    return LanguageTrainer(model, corpus, TrainingOptions(**options), folder, bptt=bptt)


class Watched:
    """Record a model's inputs and first states while it learns."""

    def __init__(self, model):
        self.seen, self.states = [], []
        model.register_forward_pre_hook(self)

    def __call__(self, model, args):
        if model.training:
            self.seen.append(args[0])
            self.states.append(args[1])


def test_batches_follow_each_other_through_the_text(tmp_path):
    """179 characters in batches of 4 rows of 5 give 8 batches per pass, which begins at any of the first 5 of them."""
    run = trainer(tmp_path, updates=24)
    watched = Watched(run.model)
    run.train()
    text, begins = run.splits.train.inputs.tolist(), []
    for epoch in range(3):
        rows = torch.cat(watched.seen[8 * epoch : 8 * epoch + 8]).T
        (begin,) = [b for b in range(5) if rows.flatten().tolist() == text[b : b + 160]]
        begins.append(begin)
    assert len(set(begins)) > 1


def test_the_state_is_carried_until_the_text_is_over(tmp_path):
    """Each batch begins with the last state of the batch before, without its gradient."""
    run = trainer(tmp_path, updates=10, learning_rate=0.0)
    watched = Watched(run.model)
    run.train()
    assert [place for place, state in enumerate(watched.states) if state is None] == [0, 8]
    state = None
    for seen, begun in zip(watched.seen[:8], watched.states[:8], strict=True):
        if begun is not None:
            torch.testing.assert_close(begun, state)
            assert not any(leaf.requires_grad for leaf in begun)
        with torch.no_grad():
            _, state = run.model.eval()(seen, begun)


def test_the_loss_is_that_of_the_next_characters(tmp_path):
    run = trainer(tmp_path, seed=3)
    watched = Watched(run.model)
    loss = run.loss()
    (seen,) = watched.seen
    text = run.splits.train.inputs.tolist() + run.splits.train.labels.tolist()[-1:]
    (begin,) = [b for b in range(5) if text[b : b + 5] == seen[:, 0].tolist()]
    with torch.no_grad():
        likelihoods = run.model.eval()(seen)[0].log_softmax(-1)
    nll = [-likelihoods[t, row, text[begin + 40 * row + t + 1]].item() for t in range(5) for row in range(4)]
    assert loss.item() == pytest.approx(sum(nll) / 20, rel=1e-5)


@pytest.mark.parametrize("characters", [5, 16, 16 * 3 + 7, 16 * (SCORED_STEPS + 2)])
def test_a_score_counts_every_character_once(characters, tmp_path):
    """Compare with the pieces one by one, character by character."""
    run = trainer(tmp_path)
    text = torch.randint(7, (characters + 1,))
    score = run.score(Examples(text[:-1], text[1:]))
    rows = min(16, characters)
    length = characters // rows
    wrong, nll = 0, 0.0
    with torch.no_grad():
        for row in range(rows):
            piece = text[row * length : (row + 1) * length + 1]
            likelihoods = run.model(piece[:-1].unsqueeze(1))[0][:, 0].log_softmax(-1)
            wrong += sum(int(likelihoods[t].argmax() != piece[t + 1]) for t in range(length))
            nll -= sum(likelihoods[t, piece[t + 1]].item() for t in range(length))
    assert score.error == pytest.approx(100 * wrong / (rows * length))
    assert score.nll == pytest.approx(nll / (rows * length), rel=1e-5)
    assert score.bits == pytest.approx(score.nll / math.log(2))


def test_what_cannot_be_known_costs_its_entropy(tmp_path):
    """Zero weights give all seven characters the same probability: log2 7 bits, and 6 of 7 characters are missed."""
    run = trainer(tmp_path)
    with torch.no_grad():
        for p in run.model.parameters():
            p.zero_()
    text = torch.arange(7 * 16 + 1) % 7
    score = run.score(Examples(text[:-1], text[1:]))
    assert (score.bits, score.error) == (pytest.approx(math.log2(7)), pytest.approx(600 / 7))


@pytest.mark.parametrize("core", ["fast_weights", "lstm", "delta_net"])
def test_going_on_equals_never_having_stopped(core, tmp_path):
    """Training is stopped in the middle of a pass, where a state is carried."""
    whole = trainer(tmp_path / "whole", core)
    whole.train()
    first = trainer(tmp_path / "parts", core)
    first.__dict__["_validate"] = lambda *args: LanguageTrainer._validate(first, *args) or stop(first)

    def stop(run):
        if run.update == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = trainer(tmp_path / "parts", core)
    second.load()
    assert second.update == 10
    assert second.carried
    second.train()
    assert second.curve == whole.curve
    kept = [torch.load(folder / CHECKPOINT, weights_only=True) for folder in (whole.folder, second.folder)]
    for name in ("model", "optimizer", "best_weights", "carried"):
        torch.testing.assert_close(kept[0][name], kept[1][name], rtol=0, atol=0)


def test_the_lowest_nll_is_chosen(tmp_path):
    run = trainer(tmp_path)
    run.curve = [
        {"update": update, "validation_error": error, "validation_nll": nll}
        for update, error, nll in [(0, 50.0, 1.2), (5, 52.0, 1.1), (10, 40.0, 1.3)]
    ]
    assert run.best["update"] == 5
    run.update = 10
    assert run.stopped is None
    assert trainer(tmp_path, patience=1).options.patience == 1
    run.options = TrainingOptions(updates=20, patience=1)
    assert run.stopped == "patience", "the error is lower, the NLL is not"


def test_samples(tmp_path):
    """TensorBoard has one sample per validation and one at the end; training is the same as without samples."""
    run = trainer(tmp_path / "shown")
    run.train()
    silent = trainer(tmp_path / "silent")
    silent.log = lambda writer: None
    silent.train()
    assert run.curve == silent.curve
    events = EventAccumulator(str(tmp_path / "shown")).Reload()
    assert [event.step for event in events.Tensors("sample/text_summary")] == [0, 5, 10, 15, 20]
    assert {"validation/bits", "validation/error", "validation/nll"} <= {*events.Tags()["scalars"]}
    head, sample = run.closing().rstrip("\n").split("\n")
    assert head == "Sample:"
    assert len(sample) == 500
    assert set(sample) <= set(SYMBOLS)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("has 179 characters, expected at least 184 for batch_size 36 and bptt 5", {"batch_size": 36}),
        ("bptt is 0", {"bptt": 0}),
    ],
)
def test_what_will_not_do_is_named(message, options, tmp_path):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, **options)
