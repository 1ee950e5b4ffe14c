"""The compiled scan of the fast-weight programmers against a loop over their steps in float64."""

import copy
import multiprocessing

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from fwagents.cores import DeltaNet, GatedDeltaNet, RotaryFastWeights, SumRule, make_core
from fwagents.kernels.cpu import program_layout, programmer
from fwagents.kernels.program_reference import ProgramInputs, ProgramOptions, loop_form
from tests.kernels.problems import distance, poison, torch_threads
from tests.kernels.programs import loop_results, program_results, random_program

TOLERANCE = 1e-4
FAMILY = {
    "rotary": ProgramOptions(2, first=1, every=2, norm_eps=1e-2),
    "rotary, all turned, silu": ProgramOptions(2, silu=True, first=0, every=1, norm_eps=1e-2),
    "gated delta": ProgramOptions(2, silu=True),
    "delta": ProgramOptions(2, gates=1, silu=True),
    "sum": ProgramOptions(2, delta=False, gates=0),
}
NAMES = ["rotary_fast_weights", "gated_delta_net", "delta_net", "sum_rule"]


@pytest.fixture
def _poisoned(monkeypatch):
    poison(monkeypatch)


def check(scan):
    apart = distance(program_results(scan), loop_results(scan))
    assert all(error <= TOLERANCE for error in apart.values()), apart


@pytest.mark.usefixtures("_poisoned")
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    T=st.sampled_from([1, 2, 3, 7, 16, 17, 33, 70]),
    B=st.integers(1, 5),
    D=st.sampled_from([1, 7, 20]),
    heads=st.integers(1, 3),
    size=st.sampled_from([1, 2, 5, 16, 17, 32, 33, 64]),
    rule=st.sampled_from(sorted(FAMILY)),
    conv=st.integers(2, 5),
    state=st.booleans(),
    mixed=st.booleans(),
    starts=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    begun=st.sampled_from([0.0, 1000.0, 1e7]),
    seed=st.integers(0, 1000),
)
def test_drawn(T, B, D, heads, size, rule, conv, state, mixed, starts, begun, seed):
    options = FAMILY[rule]._replace(heads=heads)
    if size == 1 and options.every:
        options = options._replace(every=0)  # there is no pair to turn
    check(
        random_program(
            T, B, D, heads * size, options, conv=conv, state=state, starts=starts, mixed=mixed, begun=begun, seed=seed
        )
    )


@pytest.mark.usefixtures("_poisoned")
@pytest.mark.parametrize("rule", FAMILY)
def test_in_blocks(rule, monkeypatch):
    """A block has so few steps that a sequence needs many blocks."""
    monkeypatch.setattr(program_layout, "BLOCK", 1)
    program_layout.layout.cache_clear()
    check(random_program(70, 5, 7, 20, FAMILY[rule], starts=0.05))
    program_layout.layout.cache_clear()


def test_a_long_stretch_without_a_start():
    check(random_program(700, 2, 7, 32, FAMILY["rotary"]))


@pytest.mark.parametrize("threads", [2, 3])
def test_threads(threads):
    scan = random_program(64, 21, 20, 64, FAMILY["rotary"], starts=0.05)
    one = program_results(scan)
    with torch_threads(threads):
        many = program_results(scan)
    assert max(distance(many, one).values()) < TOLERANCE


def test_zero_state_is_no_state():
    scan = random_program(20, 3, 7, 20, FAMILY["rotary"], state=False)
    zeros = {"recent": torch.zeros(3, 3, 60), "W": torch.zeros(3, 2, 10, 10), "t": torch.zeros(3, 1)}
    left = program_results(scan)
    right = program_results(scan._replace(inputs=scan.inputs._replace(**zeros)))
    assert max(distance(left, {name: right[name] for name in left}).values()) < TOLERANCE


def test_arguments_need_not_be_contiguous():
    scan = random_program(9, 4, 7, 20, FAMILY["rotary"], starts=0.1)
    strided = scan._replace(
        inputs=ProgramInputs(*(x.mT.contiguous().mT if x is not None and x.dim() > 1 else x for x in scan.inputs)),
        cotangents=type(scan.cotangents)(*(d.mT.contiguous().mT for d in scan.cotangents)),
    )
    assert max(distance(program_results(strided), program_results(scan)).values()) == 0


def test_nan_stays_in_its_episode_and_row():
    scan = random_program(40, 3, 7, 20, FAMILY["rotary"])
    start = torch.zeros(40, 3, dtype=torch.bool)
    start[20, 1] = True
    scan.inputs.x[5, 1, 3] = torch.nan
    scan.inputs.W[1] = torch.nan
    y, _, W, _ = programmer.scan(scan.inputs._replace(start=start), scan.options)
    assert y[:20, 1].isnan().all()
    assert y[20:].isfinite().all()
    assert y[:, [0, 2]].isfinite().all()
    assert W.isfinite().all()


@pytest.mark.parametrize("given", range(3))
def test_a_gradient_at_one_of_the_results_alone(given):
    scan = random_program(9, 4, 7, 20, FAMILY["rotary"], starts=0.1)
    inputs = ProgramInputs(*(x if x is None or x.dtype == torch.bool else x.requires_grad_() for x in scan.inputs))
    leaves = [x for x in (*inputs[:6], *inputs[8:]) if x is not None]

    def gradients(run):
        out = run(inputs, scan.options)[given]
        return torch.autograd.grad(out, leaves, scan.cotangents[given], allow_unused=True, materialize_grads=True)

    torch.testing.assert_close(gradients(programmer.scan), gradients(loop_form), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", FAMILY)
@pytest.mark.parametrize("mixed", [False, True])
def test_opcheck(rule, mixed):
    scan = random_program(5, 3, 7, 20, FAMILY[rule], starts=0.2, mixed=mixed)
    inputs = [x if x is None or x.dtype == torch.bool else x.requires_grad_() for x in scan.inputs]
    torch.library.opcheck(torch.ops.fwagents.program_scan, (*inputs, *scan.options, True))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_a_graph_break(name):
    core = make_core(name, 7, 20, num_heads=2)
    x, start = torch.randn(12, 4, 7), torch.rand(12, 4) < 0.2
    compiled = torch.compile(core, fullgraph=True, backend="aot_eager")
    y, z = core(x, None, start)[0], compiled(x, None, start)[0]
    assert torch.equal(y, z)
    expected, found = (torch.autograd.grad(out.square().sum(), core.taps)[0] for out in (y, z))
    torch.testing.assert_close(found, expected)


def test_second_derivatives_come_from_the_loop_over_steps():
    def penalty(run, dtype):
        scan = random_program(4, 3, 5, 8, FAMILY["rotary"], starts=0.2)
        inputs = ProgramInputs(
            *(x if x is None or x.dtype == torch.bool else x.to(dtype).requires_grad_() for x in scan.inputs)
        )
        first = torch.autograd.grad(run(inputs, scan.options).y.square().sum(), inputs.taps, create_graph=True)[0]
        return torch.autograd.grad(first.square().sum(), inputs.weight)[0]

    truth = penalty(loop_form, torch.float64)
    assert distance({"d": penalty(programmer.scan, torch.float32)}, {"d": truth})["d"] < TOLERANCE


def test_backward_twice_over_a_kept_graph():
    core = RotaryFastWeights(7, 16)
    y = core(torch.randn(5, 2, 7))[0].sum()
    first = torch.autograd.grad(y, list(core.parameters()), retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(y, list(core.parameters()))))


def test_fake_tensors_are_never_read():
    core = RotaryFastWeights(7, 20)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y, state = core(mode.from_tensor(torch.randn(5, 3, 7)))
    assert (y.shape, state.W.shape) == ((5, 3, 20), (3, 4, 5, 5))


@pytest.mark.parametrize("how", ["float64", "autocast", "variable", "transform"])
def test_what_is_not_covered_goes_to_the_torch_form(how, monkeypatch):
    monkeypatch.setattr(programmer, "scan", None)
    core, x = RotaryFastWeights(7, 16), torch.randn(5, 2, 7)
    with pytest.raises(TypeError):
        core(x)
    if how == "float64":
        assert core.double()(x.double())[0].dtype == torch.float64
    elif how == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            assert core(x)[0].shape == (5, 2, 16)
    elif how == "variable":
        monkeypatch.setenv("FWAGENTS_BACKEND", "torch")
        assert core(x)[0].shape == (5, 2, 16)
    else:
        parameters = dict(core.named_parameters())
        found = torch.func.grad(lambda p: torch.func.functional_call(core, p, (x,))[0].square().sum())(parameters)
        assert found["taps"].shape == core.taps.shape


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_cores_equal_their_torch_form(name, rate):
    """In float64 the core runs in torch, in chunks: compare outputs, last states, and the gradients of all weights."""
    core = make_core(name, 5, 24)
    exact = copy.deepcopy(core).double()
    x, start, weight = torch.randn(30, 4, 5), torch.rand(30, 4) < rate, torch.randn(30, 4, 24)

    def run(core, dtype):
        y, last = core(x.to(dtype), None, start)
        total = (y * weight).sum() + sum(leaf.square().sum() for leaf in last)
        gradients = torch.autograd.grad(total, list(core.parameters()))
        return {str(i): found for i, found in enumerate((y, *last, *gradients))}

    assert max(distance(run(core, torch.float32), run(exact, torch.float64)).values()) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("make", [RotaryFastWeights, GatedDeltaNet, DeltaNet, SumRule])
def test_a_step_changes_w_where_it_lies_and_follows_the_weights(make):
    core, x = make(5, 24, num_heads=2), torch.randn(8, 4, 5)
    stepper = core.stepper(4)
    W = stepper._steps.W
    for t in range(4):
        stepper.step(x[t])
    middle = stepper.state
    kept = [leaf.clone() for leaf in middle]
    for p in core.parameters():
        p.add_(0.1)
    found = torch.stack([stepper.step(x[t]) for t in range(4, 8)])
    torch.testing.assert_close(found, core(x[4:], middle)[0], rtol=1e-4, atol=1e-5)
    assert stepper._steps.W is W
    assert all(map(torch.equal, middle, kept))


def arrays_of(seed):
    found = program_results(random_program(48, 16, 5, 64, FAMILY["rotary"], starts=0.05, seed=seed))
    return {name: x.detach().numpy() for name, x in found.items()}


def test_forked_workers():
    """The parent has used the scan's threads; a worker has one thread, since torch's threads do not survive a fork."""
    torch.set_num_threads(2)
    arrays_of(0)
    torch.set_num_threads(1)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(arrays_of, [1, 2]).get(timeout=60)
    for seed, arrays in zip([1, 2], found, strict=True):
        truth = loop_results(random_program(48, 16, 5, 64, FAMILY["rotary"], starts=0.05, seed=seed))
        assert max(distance({name: torch.from_numpy(x) for name, x in arrays.items()}, truth).values()) < TOLERANCE
