"""Fast-weight programmers: the base of cores in which a slow net controls what a fast net stores and reads."""

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from fwagents.cores.base import MemoryCore, boolean, positive_int
from fwagents.cores.output_gate import EPSILON, OutputGate
from fwagents.cores.stepper import CompiledStepper, Stepper
from fwagents.kernels import chosen_backend
from fwagents.kernels.cpu import programmer
from fwagents.kernels.cpu.program_steps import ProgramSteps
from fwagents.kernels.program_reference import ProgramInputs, ProgramOptions

CHUNK = 64  # steps that are computed at once; a larger chunk takes more arithmetic but fewer calls per step


class ProgrammerState(NamedTuple):
    """Latest projections for the convolution ``recent [B, c-1, 3H]``, and fast weights ``W [B, heads, E, d]``."""

    recent: Tensor
    W: Tensor


class Program(NamedTuple):
    """The slow net's instructions to the fast net at every step.

    Attributes:
        query: where to read [T, B, heads, d].
        key: where to write [T, B, heads, d].
        value: what to write [T, B, heads, E].
        rate: [T, B, heads]; how far the stored value of the key moves to ``value``. None adds ``value`` to it.
        log_decay: [T, B, heads], at most 0; the logarithm of the factor that W decays by before the write. None is 0.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    rate: Tensor | None = None
    log_decay: Tensor | None = None


class FastWeightProgrammer(MemoryCore[Any]):
    r"""A slow net that programs a fast one by keys, values and queries of d = H/heads numbers per head.

    ::

        p(t)             = C x(t) + b
        q(t), k(t), v(t) = sum_{j<c} w_j * p(t-j)      a short causal depthwise convolution

    Each core has its own rule for writing; all rules write under one key and read y(t) = W(t) q(t). The convolution
    lets one layer associate this step's key with an earlier step's value. With ``output_gate`` the read passes through
    an ``OutputGate``, which has a skip connection past the memory.

    In float32 on the CPU a compiled scan, ``fwagents.kernels.cpu.programmer``, runs all these cores, unless the
    environment variable FWAGENTS_BACKEND names another backend. Otherwise ``stretch`` computes many steps at once,
    without a loop over time; see ``execute``.

    Args:
        input_size: D.
        hidden_size: H, a multiple of num_heads.
        num_heads: fast nets side by side.
        conv_size: steps that the convolution reaches over (c); 1 for no convolution.
        output_gate: put an output gate behind the read.

    Shapes:
        ``projection.weight [3H + gates, D]`` (C) and ``projection.bias``, torch's initialisation; ``taps [c, 3H]``, w
        of the oldest step first, uniform in +-1/sqrt(c); state ``(recent [B, c-1, 3H], W [B, heads, E, d])``.

    Raises:
        ValueError: an option is not as above.
    """

    state_type: type[Any] = ProgrammerState
    gates_per_head: ClassVar[int] = 0
    extra_rows: ClassVar[int] = 0  # E - d
    silu: bool = False

    def __init__(
        self, input_size: int, hidden_size: int, *, num_heads: int = 1, conv_size: int = 4, output_gate: bool = False
    ) -> None:
        super().__init__(input_size, hidden_size)
        hidden_size, num_heads = self.hidden_size, positive_int("num_heads", num_heads)
        self.num_heads = num_heads
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size is {hidden_size}, expected a multiple of num_heads, {num_heads}")
        self.conv_size = conv_size = positive_int("conv_size", conv_size)
        self.output_gate = OutputGate(self.input_size, hidden_size) if boolean("output_gate", output_gate) else None
        self.projection = nn.Linear(self.input_size, 3 * hidden_size + self.gates_per_head * num_heads)
        self.taps = nn.Parameter(torch.empty(conv_size, 3 * hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights of the projection and the convolution."""
        self.projection.reset_parameters()
        bound = self.conv_size**-0.5
        nn.init.uniform_(self.taps, -bound, bound)

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of recent and W for one row."""
        d = self.hidden_size // self.num_heads
        return (self.conv_size - 1, 3 * self.hidden_size), (self.num_heads, d + self.extra_rows, d)

    @abstractmethod
    def rule(self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor) -> Program:
        """Return the program of the projected q, k, v [T, B, heads, d] and gates [T, B, gates_per_head, heads]."""

    def divisor(self, read: Tensor) -> Tensor | None:
        """Return the divisor of a read, W q [..., E] -> [..., 1]; None for no division."""
        return None

    def read_out(self, read: Tensor) -> Tensor:
        """Return the output of a read, W q [..., E] -> [..., d]: its first d numbers over the divisor."""
        divisor = self.divisor(read)
        return read if divisor is None else read[..., : self.hidden_size // self.num_heads] / divisor

    def project(self, x: Tensor, state: Any) -> tuple[Program, Tensor]:
        """Project a stretch of steps without resets.

        Args:
            x: inputs [T, B, D].
            state: state before the first step.

        Returns:
            The program of all T steps, and ``recent`` after the last step.
        """
        T, B, _ = x.shape
        projected, gates = self.projection(x).split([3 * self.hidden_size, self.gates_per_head * self.num_heads], -1)
        reach = torch.cat([state.recent.transpose(0, 1), projected])
        mixed = self.taps[0] * reach[:T]
        for j in range(1, self.conv_size):
            mixed = torch.addcmul(mixed, self.taps[j], reach[j : j + T])
        q, k, v = mixed.view(T, B, 3, self.num_heads, -1).unbind(2)
        program = self.rule(q, k, v, gates.unflatten(-1, (self.gates_per_head, self.num_heads)))
        return program, reach[T:].transpose(0, 1)

    def run(self, program: Program, x: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
        """Run a program, ``CHUNK`` steps at once; return the outputs [T, B, H], and W after the last step."""
        reads = []
        for begin in range(0, x.shape[0], CHUNK):
            some = Program._make(None if part is None else part[begin : begin + CHUNK] for part in program)
            read, W = execute(some, W)
            reads.append(read)
        y = self.read_out(torch.cat(reads) if len(reads) > 1 else reads[0]).flatten(2)
        return (y if self.output_gate is None else self.output_gate(y, x)), W

    def stretch(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Run steps without a reset in plain torch; see ``MemoryCore.stretch``."""
        program, recent = self.project(x, state)
        y, W = self.run(program, x, state.W)
        return y, ProgrammerState(recent, W)

    def scan(self, x: Tensor, state: Any, start: Tensor | None) -> tuple[Tensor, Any]:
        """Run steps with resets, compiled where that is possible; see ``MemoryCore.scan``."""
        if not self._compiles(x, *state):
            return super().scan(x, self.initial_state(x.shape[1]) if state.W is None else state, start)
        inputs = ProgramInputs(x=x, start=start, **state._asdict(), **self.program_weights())
        _, *leaves = found = programmer.scan(inputs, self.program_options())
        return found.y, self._state(leaves[: len(self.state_type._fields)])

    def stepper(self, start_from: Any) -> Stepper[Any]:
        """Return a stepper that changes W in place where the compiled scan runs; see ``MemoryCore.stepper``."""
        plain = super().stepper(start_from)
        return ProgrammerStepper(self, plain.state) if self._compiles(*plain.state) else plain

    def program_options(self) -> ProgramOptions:
        """Return the rule in the form that the compiled scan takes."""
        return ProgramOptions(self.num_heads, self.extra_rows == 0, self.gates_per_head, self.silu, norm_eps=EPSILON)

    def program_weights(self) -> dict[str, Tensor]:
        """Return the parameters by their names in ``ProgramInputs``."""
        weight, bias, out = self.projection.weight, self.projection.bias, self.output_gate
        if out is None:
            return {"weight": weight, "bias": bias, "taps": self.taps}
        return {
            "weight": torch.cat([weight, out.gate.weight, out.skip.weight]),
            "bias": torch.cat([bias, out.gate.bias, out.skip.bias]),
            "taps": self.taps,
            "gain": out.norm.weight,
            "shift": out.norm.bias,
            "mix": out.mix.weight,
            "mix_bias": out.mix.bias,
        }

    def _compiles(self, *tensors: Tensor | None) -> bool:
        # The compiled convolution needs at least one earlier projection.
        return (
            self.conv_size > 1 and chosen_backend("auto") == "numba" and programmer.covers(*tensors, *self.parameters())
        )

    def _opening(self, batch_size: int) -> Any:
        """Return a state of None, which the compiled scan treats as zero."""
        return self._state([None] * len(self.state_type._fields))  # type: ignore[list-item]

    def extra_repr(self) -> str:
        """Return the sizes, for ``print``."""
        return f"{self.input_size}, {self.hidden_size}, num_heads={self.num_heads}, conv_size={self.conv_size}"


class ProgrammerStepper(CompiledStepper[Any]):
    """Step the compiled scan, which changes W in place."""

    core: FastWeightProgrammer

    def __init__(self, core: FastWeightProgrammer, state: Any) -> None:
        parameters = tuple(core.parameters())
        options, rows = core.program_options(), len(state[0])
        self._steps = ProgramSteps(core.program_weights, parameters, options, core.input_size, rows)
        super().__init__(core, state)

    @property
    def state(self) -> Any:
        """The state after the last step; safe to keep."""
        return self.core._state(self._steps.state()[: len(self.core.state_shapes)])

    def _load(self, state: Any) -> None:
        self._steps.load(**{name: leaf.detach() for name, leaf in state._asdict().items()})


def execute(program: Program, W: Tensor) -> tuple[Tensor, Tensor]:
    r"""Run a program on fast weights ``W [B, heads, E, d]``, all T steps at once, in T^2 operations.

    With g(t) the decay of step t, the result equals this recurrence::

        W(t) = g(t) W(t-1) + u(t) k(t)^T      u(t) = v(t), or rate(t) (v(t) - g(t) W(t-1) k(t))
        y(t) = W(t) q(t)

    W(t) is a decayed sum of all u(s) k(s)^T so far. Each u is corrected by the earlier ones, so all u together solve
    one triangular system, and the reads are attention to them (Yang et al., 2024, arXiv:2406.06484, section 3).

    Returns:
        Reads [T, B, heads, E], and W after the last step.
    """
    q, k, u = (part.permute(1, 2, 0, 3) for part in program[:3])  # [B, heads, T, ...]
    if program.log_decay is None:
        log_left = q.new_zeros(q.shape[2], 1)
    else:
        log_left = program.log_decay.permute(1, 2, 0).cumsum(-1).unsqueeze(-1)
    left = log_left.exp()  # share of the first W that is left at each step [..., T, 1]
    # Share of the write of step s (column) that is left at step t (row): 0 above the diagonal, where exp may overflow.
    between = (log_left - log_left.mT).tril().exp().tril()
    if program.rate is not None:
        rate = program.rate.permute(1, 2, 0).unsqueeze(-1)
        u = rate * (u - left * (k @ W.mT))
        if q.shape[2] > 1:
            u = solve_unit_lower(rate * between * (k @ k.mT), u)
    reads = left * (q @ W.mT) + (between * (q @ k.mT)) @ u
    W = left[..., -1:, :] * W + (between[..., -1:, :].mT * u).mT @ k
    return reads.permute(2, 0, 1, 3), W


def solve_unit_lower(system: Tensor, u: Tensor) -> Tensor:
    """Return x with ``(I + L) x = u`` in the dtype of u; L [..., T, T] is ``system`` below its diagonal."""
    # Autocast leaves some inputs in bfloat16, for which torch has no such solver on the CPU.
    wide = torch.promote_types(torch.promote_types(system.dtype, u.dtype), torch.float32)
    x: Tensor = torch.linalg.solve_triangular(system.to(wide), u.to(wide), upper=False, unitriangular=True)
    return x.to(u.dtype)
