"""Fast weights: a recurrent net with a second, fast memory."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from fwagents.cores.base import HiddenState, MemoryCore, boolean, finite_float, integer, positive_int
from fwagents.cores.stepper import CompiledStepper, Stepper
from fwagents.kernels import ScanInputs, ScanOptions, check_backend, chosen_backend, fast_weight_scan
from fwagents.kernels.cpu.steps import ScanSteps
from fwagents.kernels.reference import inner_loop, key, settle
from fwagents.kernels.tensors import float32_on_cpu

MOST_INNER_STEPS = 1000


class FastWeightsState(NamedTuple):
    """Hidden state ``h [B, R]`` and fast weights ``A [B, R, R]``, h already written into A."""

    h: Tensor
    A: Tensor


class FastWeights(MemoryCore[FastWeightsState]):
    r"""The cell of Ba et al., "Using Fast Weights to Attend to the Recent Past" (2016), arXiv:1610.06258.

    With slow weights W and C, bias b, fast weights A, and f the ReLU::

        A(t)         = decay A(t-1) + fast_lr h(t) h(t)^T                      (1)
        h_0(t+1)     = f(W h(t) + C x(t) + b)
        h_{s+1}(t+1) = f(LN[W h(t) + C x(t) + b + A(t) h_s(t+1)])              (5)   s = 0 .. S-1
        h(t+1)       = h_S(t+1)

    h and A start at zero; A stays fixed during the inner loop and is updated once a step, from the settled state. So a
    read is attention to the recent past: ``A(t) h_s = fast_lr sum_tau decay^(t-tau) h(tau) [h(tau) . h_s]``.

    With ``inner_steps=0`` there is no fast memory, and the cell is a layer-normalised RNN of state ``(h,)``::

        h(t+1) = f(LN[W h(t) + C x(t) + b])

    With ``inner_steps="adaptive"`` every row of the batch iterates until it has settled, and then stays unchanged: S is
    the first step with ``|h_S - h_{S-1}| <= tolerance |h_{S-1}|``, in the Euclidean norm, or else max_inner_steps.
    The measure is relative since |h| grows with the square root of R and with the learned gain. Gradients flow through
    the steps that were taken; their number is treated as constant. ``inner_steps_taken`` returns that number.

    Initialisation is the paper's: ``W = identity_scale I``, C uniform in +-1/sqrt(R), LN gain 1, biases 0. The paper
    does not say whether the inner steps share one layer norm; here they do unless ``norm_per_step``.

    Args:
        input_size: D.
        hidden_size: R.
        inner_steps: reads of the fast memory per time step (the paper's S), or "adaptive"; 0 for no memory, and then
            the options of the memory have no effect.
        tolerance: largest change of a settled adaptive row, relative to its norm; at least 0.
        max_inner_steps: largest number of inner steps of an adaptive row.
        decay: share of A that is left after a step (lambda), in [0, 1].
        fast_lr: rate at which a hidden state is written into A (eta), at least 0.
        layer_norm: False leaves LN out of equation 5.
        norm_per_step: True gives each inner step its own gain and bias; adaptive steps have max_inner_steps of them.
        boundary: "sustained" as above, or "identity", the paper's "method 2" (appendix B): the bracket of equation 5
            is ``(I + A(t)) h_s``, so the loop holds the state itself.
        normalize_storage: True writes ``h / |h|`` into A, so that fast_lr means the same at every width.
        identity_scale: W at initialisation, as a multiple of the identity.
        backend: implementation of the scan; see ``fwagents.kernels.fast_weight_scan``.

    Shapes:
        ``weight_ih [R, D]`` (C), ``weight_hh [R, R]`` (W), ``bias [R]``, ``norm.weight`` and ``norm.bias``
        [1, R] or [S, R]; state ``(h [B, R], A [B, R, R])``, or ``(h [B, R],)`` without a memory.
    """

    state_type = FastWeightsState

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        inner_steps: int | Literal["adaptive"] = 1,
        tolerance: float = 0.1,
        max_inner_steps: int = 10,
        decay: float = 0.95,
        fast_lr: float = 0.5,
        layer_norm: bool = True,
        norm_per_step: bool = False,
        boundary: Literal["sustained", "identity"] = "sustained",
        normalize_storage: bool = False,
        identity_scale: float = 0.05,
        backend: str = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size)
        if boundary not in ("sustained", "identity"):
            raise ValueError(f"boundary is {boundary!r}, expected 'sustained' or 'identity'")
        input_size, hidden_size = self.input_size, self.hidden_size
        per_step = boolean("norm_per_step", norm_per_step)
        most, tolerance = positive_int("max_inner_steps", max_inner_steps), finite_float("tolerance", tolerance, 0.0)
        adaptive = inner_steps == "adaptive"
        if not adaptive:
            try:
                inner_steps = most = integer("inner_steps", inner_steps, 0)
            except ValueError as error:
                raise ValueError(f"{error}, or 'adaptive'") from None
        for name, value in (("inner_steps", inner_steps), ("max_inner_steps", max_inner_steps)):
            if not isinstance(value, str) and value > MOST_INNER_STEPS:
                raise ValueError(f"{name} is {value}, expected at most {MOST_INNER_STEPS}")
        self.inner_steps = inner_steps
        self.options = ScanOptions(
            inner_steps=most,
            decay=finite_float("decay", decay, 0.0, 1.0),
            fast_lr=finite_float("fast_lr", fast_lr, 0.0),
            sustained=boundary == "sustained",
            normalize_storage=boolean("normalize_storage", normalize_storage),
            tolerance=tolerance if adaptive else None,
        )
        if inner_steps == 0:
            # This equals one read of a memory that is always empty.
            self.options = ScanOptions(inner_steps=1, fast_lr=0.0)
            self.state_type = cast(Any, HiddenState)
        self.backend = check_backend(backend)
        self.identity_scale = finite_float("identity_scale", identity_scale)
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(hidden_size))
        self.norm: InnerNorm | None = (
            InnerNorm(self.options.inner_steps if per_step else 1, hidden_size)
            if boolean("layer_norm", layer_norm)
            else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights."""
        bound = self.hidden_size**-0.5
        nn.init.uniform_(self.weight_ih, -bound, bound)
        with torch.no_grad():
            self.weight_hh.copy_(self.identity_scale * torch.eye(self.hidden_size))
        nn.init.zeros_(self.bias)

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of h and A for one row; of h alone without a memory."""
        shapes = (self.hidden_size,), (self.hidden_size, self.hidden_size)
        return shapes[: len(self.state_type._fields)]

    def scan(self, x: Tensor, state: FastWeightsState, start: Tensor | None) -> tuple[Tensor, FastWeightsState]:
        """Run steps with resets in one call of the scan; see ``MemoryCore.scan``."""
        y, h, A = fast_weight_scan(self._inputs(x, state, start), self.options, backend=self.backend)
        return y, self._state((h, A)[: len(self.state_shapes)])

    def settle(self, boundary: Tensor, stored: Tensor | None = None) -> Tensor:
        """Compute equation 5 alone, for a model that chooses the stored states and the boundary itself.

        Args:
            boundary: takes the place of ``W h + C x + b`` [B, R].
            stored: states written into an empty memory one after the other, the oldest first [n, B, R]; A is the sum
                of their outer products, each decayed once more than the next. None is an empty memory.

        Returns:
            The settled state [B, R].
        """
        stored = boundary.new_zeros(0, *boundary.shape) if stored is None else stored
        return settle(boundary, stored, *self._gain_and_shift(), self.options)

    def settle_by(self, boundary: Tensor, read: Callable[[Tensor], Tensor], taken: Tensor | None = None) -> Tensor:
        """Compute equation 5 alone, with any function in the memory's place.

        Args:
            boundary: takes the place of ``W h + C x + b`` [..., R].
            read: called once per inner step with ``h_s`` [..., R]; its result takes the place of ``A h_s`` [..., R].
            taken: int64 [...], to which adaptive inner steps add the number of steps that each row takes.

        Returns:
            The settled state [..., R].
        """
        return inner_loop(boundary, read, *self._gain_and_shift(), self.options, taken)

    def key(self, h: Tensor) -> Tensor:
        """Return the key written into A once ``h`` [..., R] has settled: h, or h / |h| if ``normalize_storage``."""
        return key(h, self.options)

    def scan_weights(self) -> dict[str, Tensor]:
        """Return the parameters by their names in ``ScanInputs``."""
        weights: dict[str, Tensor] = {"weight_hh": self.weight_hh, "weight_ih": self.weight_ih, "bias": self.bias}
        return weights if self.norm is None else weights | {"gain": self.norm.weight, "shift": self.norm.bias}

    def _gain_and_shift(self) -> tuple[Tensor | None, Tensor | None]:
        return (None, None) if self.norm is None else (self.norm.weight, self.norm.bias)

    @torch.no_grad()
    def inner_steps_taken(
        self, x: Tensor, state: FastWeightsState | None = None, start: Tensor | None = None
    ) -> Tensor:
        """Return the number of inner steps at every time step, int64 [T, B]; arguments as for ``forward``.

        The reference implementation counts. It can differ from the compiled scan for a row whose change equals the
        tolerance up to rounding.
        """
        self._check_sequence(x, state, start)
        if self.inner_steps != "adaptive":
            return torch.full(x.shape[:2], self.inner_steps, device=x.device)
        taken = torch.zeros(x.shape[:2], dtype=torch.int64, device=x.device)
        inputs = self._inputs(x, self._opening(x.shape[1]) if state is None else state, start)
        fast_weight_scan(inputs, self.options, backend=self.backend, taken=taken)
        return taken

    def stepper(self, start_from: FastWeightsState | int) -> Stepper[FastWeightsState]:
        """Return a stepper that keeps the history instead of A if the scan is compiled; see ``MemoryCore.stepper``."""
        if chosen_backend(self.backend) != "numba" or not float32_on_cpu(*self.parameters()):
            return super().stepper(start_from)
        if isinstance(start_from, tuple):
            self._check_state(start_from, len(start_from.h))
            return FastWeightsStepper(self, start_from)
        h = self.bias.new_zeros(positive_int("batch_size", start_from), self.hidden_size)
        return FastWeightsStepper(self, self._state((h, cast(Any, None))[: len(self.state_shapes)]))

    def _opening(self, batch_size: int) -> FastWeightsState:
        """Return a state of None, which the scan treats as zero without writing R^2 zeros per row."""
        return self._state(cast(Any, None) for _ in self.state_shapes)

    def _inputs(self, x: Tensor, state: FastWeightsState, start: Tensor | None) -> ScanInputs:
        return ScanInputs(x, start=start, **state._asdict(), **self.scan_weights())

    def extra_repr(self) -> str:
        """Return the sizes and options, for ``print``."""
        options = self.options._asdict()
        if self.inner_steps == "adaptive":
            options["max_inner_steps"] = self.options.inner_steps
        options["inner_steps"] = self.inner_steps
        named = ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)
        return f"{self.input_size}, {self.hidden_size}, {named}, backend={self.backend!r}"


class FastWeightsStepper(CompiledStepper[FastWeightsState]):
    """Step the compiled scan; A is computed only when the state is read or a long history makes that cheaper."""

    core: FastWeights

    def __init__(self, core: FastWeights, state: FastWeightsState) -> None:
        self._steps = ScanSteps(core.scan_weights(), core.options, len(state.h))
        super().__init__(core, state)

    @property
    def state(self) -> FastWeightsState:
        """The state after the last step; safe to keep."""
        if self.core.inner_steps == 0:
            return self.core._state([self._steps.h.clone()])
        return FastWeightsState(*self._steps.state())

    def _load(self, state: FastWeightsState) -> None:
        self._steps.load(*state)

    def step(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        """Run one step: ``x [B, D]``, ``start`` bool [B] -> y [B, R]."""
        y = super().step(x, start)
        if self.core.inner_steps == 0:
            self._steps.load(y)  # forget the history, which nothing reads
        return y


class InnerNorm(nn.Module):
    """Gain and bias ``[rows, R]`` of the layer norm in the scan: one shared row, or one row per inner step."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(rows, size))
        self.bias = nn.Parameter(torch.zeros(rows, size))
