"""The training loop: updates, the choice of the best weights, stopping, and exact resuming."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from fwagents.tasks import training
from fwagents.tasks.data import Examples, Splits
from fwagents.tasks.training import CHECKPOINT, SCHEDULES, Score, Trainer, TrainingOptions, evaluate

WIDTH, CLASSES = 3, 4


def examples(count, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, WIDTH, generator=generator, dtype=torch.get_default_dtype())
    return Examples(inputs, torch.randint(0, CLASSES, (count,), generator=generator))


def splits(train=10):
    return Splits(examples(train, 0), examples(7, 1), examples(5, 2))


class Net(nn.Module):
    """A linear layer with dropout, so that training uses random numbers; it records its inputs."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.layer = nn.Linear(WIDTH, CLASSES)
        self.dropout = nn.Dropout(dropout)
        self.shown = []

    def forward(self, x):
        if self.training:
            self.shown.append(x)
        return self.layer(self.dropout(x))


def trainer(tmp_path, make=Net, train=10, **options):
    torch.manual_seed(3)
    options = {"updates": 12, "batch_size": 4, "eval_freq": 3, **options}
    return Trainer(make(), splits(train), TrainingOptions(**options), tmp_path)


def script(monkeypatch, errors, nlls=None):
    """Replace validation by given errors and NLLs; return the list of the scored data."""
    scored = []
    rows = iter(zip(errors, nlls or [1.0] * len(errors), strict=True))

    def scripted(model, given, batch_size=500):
        scored.append(given)
        error, nll = next(rows)
        return Score(error, nll, [])

    monkeypatch.setattr(training, "evaluate", scripted)
    return scored


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("constant", {0: 1, 0.3: 1, 1: 1}),
        ("linear", {0: 1, 0.25: 0.75, 1: 0}),
        ("warmup", {0: 0, 0.05: 0.496922, 0.1: 0.975528, 0.5: 0.5, 1: 0}),
        ("cosine", {0: 1, 1 / 3: 0.75, 0.5: 0.5, 2 / 3: 0.25, 1: 0}),
    ],
)
def test_schedules(name, values):
    for done, factor in values.items():
        assert SCHEDULES[name](done) == pytest.approx(factor, abs=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("max_grad_norm", [None, 0.01])
def test_updates_are_adams(max_grad_norm, tmp_path):
    """Compare with Adam, cross-entropy and clipping written out; every batch is the whole training set."""
    run = trainer(tmp_path, batch_size=10, updates=5, learning_rate=0.1, max_grad_norm=max_grad_norm)
    weight, bias = (p.detach().clone() for p in run.model.layer.parameters())
    inputs, labels = run.splits.train
    both = torch.cat([weight, bias.unsqueeze(1)], 1)
    ones = torch.cat([inputs, torch.ones(10, 1)], 1)
    m = v = torch.zeros_like(both)
    for update in range(5):
        scores = (ones @ both.T).exp()
        miss = scores / scores.sum(1, keepdim=True) - torch.eye(CLASSES)[labels]
        gradient = miss.T @ ones / 10
        if max_grad_norm is not None:
            gradient = gradient * max_grad_norm / (gradient.norm() + 1e-6)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = 0.1 * (1 + math.cos(math.pi * update / 5)) / 2
        step = (m / (1 - 0.9 ** (update + 1))) / ((v / (1 - 0.999 ** (update + 1))).sqrt() + 1e-8)
        both = both - rate * step
    run.train()
    torch.testing.assert_close(run.model.layer.weight.detach(), both[:, :WIDTH])
    torch.testing.assert_close(run.model.layer.bias.detach(), both[:, WIDTH])


def test_an_epoch_shows_every_example_once(tmp_path):
    """Ten examples in batches of four give two whole batches per epoch, in another order in every epoch."""
    shown = {}
    for seed in (0, 1):
        run = trainer(tmp_path / str(seed), updates=40, seed=seed)
        run.train()
        rows = run.splits.train.inputs
        order = [(rows == x).all(1).nonzero().item() for batch in run.model.shown for x in batch]
        epochs = [order[8 * e : 8 * e + 8] for e in range(20)]
        assert all(len(set(epoch)) == 8 for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 20
        assert set(order) == set(range(10)), "what one epoch leaves out another shows"
        shown[seed] = order
    assert shown[0] != shown[1]


def test_scores_by_hand():
    """Scores (ln 3, 0) give probabilities 3/4 and 1/4; of four examples, one of the three in class 0 is missed."""
    scores = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0], [0.0, math.log(3)], [0.0, math.log(3)]])
    found = evaluate(nn.Identity(), Examples(scores, torch.tensor([0, 0, 0, 1])), batch_size=3)
    assert found.error == 25
    assert found.nll == pytest.approx((3 * math.log(4 / 3) + math.log(4)) / 4)
    assert found.accuracy == pytest.approx([200 / 3, 100])
    absent = evaluate(nn.Identity(), Examples(scores, torch.tensor([0, 0, 0, 0])))
    assert absent.accuracy[0] == 50
    assert math.isnan(absent.accuracy[1])


def test_validation_chooses_and_the_test_set_is_read_once(monkeypatch, tmp_path):
    """Among the lowest errors the lower NLL decides; these weights are not the last."""
    run = trainer(tmp_path)
    scored = script(monkeypatch, [50, 20, 10, 10, 30, 5], [2.0, 1.0, 0.5, 0.4, 0.1, 0.1])
    weights = []
    monkeypatch.setattr(run, "_save", lambda: weights.append(run.model.layer.weight.detach().clone()))
    run.train()
    assert [row["update"] for row in run.curve] == [0, 3, 6, 9, 12]
    assert run.best == run.curve[3]
    assert all(given is run.splits.validation for given in scored)
    assert run.test().error == 5
    assert sum(given is run.splits.test for given in scored) == 1
    assert torch.equal(run.model.layer.weight, weights[3])
    assert not torch.equal(run.model.layer.weight, weights[4])


@pytest.mark.parametrize(
    ("options", "errors", "reason"),
    [
        ({}, [9, 8, 7, 6, 5], "updates"),
        ({"patience": 2}, [9, 5, 6, 5], "patience"),
        ({"patience": 2}, [9, 5, 6, 4, 5], "updates"),
        ({"patience": 2}, [9, 5, 6, 4, 4, 4], "patience"),
        ({"solved_evals": 2}, [9, 0, 1, 0, 0], "solved"),
        ({"solved_evals": 3}, [0, 0, 0], "solved"),
        ({"solved_evals": 2, "patience": 1}, [9, 0, 0], "solved"),
    ],
)
def test_where_it_stops(options, errors, reason, monkeypatch, tmp_path):
    updates = 3 * (len(errors) - 1) if reason == "updates" else 100
    run = trainer(tmp_path, updates=updates, **options)
    script(monkeypatch, errors)
    assert run.stopped is None
    run.train()
    assert run.stopped == reason
    assert [row["validation_error"] for row in run.curve] == errors


@pytest.mark.parametrize("after", [0, 3, 6, 9, 12])
def test_a_run_that_goes_on_ends_as_one_that_never_stopped(after, tmp_path, monkeypatch):
    """Weights, moments, curve, best weights and generator are bitwise equal, with dropout and across epochs."""
    options = {"updates": 14, "learning_rate": 0.1}
    whole = trainer(tmp_path / "whole", partial(Net, 0.3), **options)
    whole.train()

    class Killed(BaseException):
        pass

    first = trainer(tmp_path / "cut", partial(Net, 0.3), **options)
    step = first._step

    def dies():
        if first.update == after + 1:
            raise Killed
        return step()

    monkeypatch.setattr(first, "_step", dies)
    with pytest.raises(Killed):
        first.train()
    second = trainer(tmp_path / "cut", partial(Net, 0.3), **options)
    torch.manual_seed(99)
    second.load()
    assert second.update == after
    second.train()
    for ours, theirs in [
        (second.model.state_dict(), whole.model.state_dict()),
        (second.best_weights, whole.best_weights),
        (second.optimizer.state_dict(), whole.optimizer.state_dict()),
    ]:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert second.curve == whole.curve
    assert second.test() == whole.test()
    events = [EventAccumulator(str(tmp_path / name)).Reload() for name in ("cut", "whole")]
    for tag in ("train/loss", "train/learning_rate", "validation/error", "validation/nll"):
        ours, theirs = ([(s.step, s.value) for s in event.Scalars(tag)] for event in events)
        assert ours == theirs, tag


def test_the_test_curve_is_measured_and_not_chosen_by(tmp_path):
    plain, curved = trainer(tmp_path / "a"), trainer(tmp_path / "b")
    curved.test_curve = True
    plain.train()
    curved.train()
    with_it = [row.pop("test_nll") for row in curved.curve]
    assert curved.curve == plain.curve
    curved.model.load_state_dict(torch.load(tmp_path / "b" / CHECKPOINT, weights_only=True)["model"])
    assert with_it[-1] == evaluate(curved.model, curved.splits.test).nll


class Breaks(Net):
    """A net whose scores, or only their gradients, become NaN at some update."""

    def __init__(self, at, what):
        super().__init__()
        self.at, self.what = at, what

    def forward(self, x):
        scores = super().forward(x)
        if self.training and len(self.shown) > self.at:
            if self.what == "loss":
                return scores * math.nan
            scores.register_hook(lambda gradient: gradient * math.inf)
        return scores


@pytest.mark.parametrize(
    ("what", "message"), [("loss", "training loss is nan at update 7"), ("gradient", "gradient norm is (inf|nan) at")]
)
def test_what_is_not_finite_is_named_and_the_last_checkpoint_is_whole(what, message, tmp_path):
    run = trainer(tmp_path, partial(Breaks, 7, what))
    with pytest.raises(FloatingPointError, match=message):
        run.train()
    again = trainer(tmp_path)
    again.load()
    assert again.update == 6
    assert all(p.isfinite().all() for p in again.model.parameters())


def test_validation_that_is_not_finite_is_named(monkeypatch, tmp_path):
    run = trainer(tmp_path)
    script(monkeypatch, [9, 9], [1.0, math.nan])
    with pytest.raises(FloatingPointError, match="validation NLL is nan at update 3"):
        run.train()


def test_checkpoints_that_cannot_be_read_are_named(tmp_path):
    run = trainer(tmp_path)
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
        run.load()
    run.train()
    path = Path(tmp_path / CHECKPOINT)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is not a whole checkpoint"):
        trainer(tmp_path).load()
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="is not a whole checkpoint of this model"):
        trainer(tmp_path, partial(nn.Linear, WIDTH, CLASSES)).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"updates": 0}, "updates is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"eval_freq": -1}, "eval_freq is -1"),
        ({"patience": 0}, "patience is 0"),
        ({"solved_evals": 0}, "solved_evals is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"max_grad_norm": -0.5}, "max_grad_norm is -0.5"),
        ({"lr_schedule": "step"}, "lr_schedule is 'step', expected one of constant, linear, cosine"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**{"updates": 10, **options})
