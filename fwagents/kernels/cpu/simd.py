# mypy: disable-error-code="no-untyped-call, misc, untyped-decorator"
"""Vectors of float32 for Numba kernels: loads, arithmetic, and sums across the lanes.

The compiler vectorises these loops poorly, because it must assume that buffers overlap. The kernels therefore use
vectors explicitly: a ``Vec`` is ``LANES`` floats in one register, loaded from and stored to addresses (integers).
The only fast-math flag is ``contract``, so NaN and infinity propagate as in torch.
"""

import operator
from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from typing import Any, TypeAlias, TypeVar

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic, lower_builtin, models, register_jitable, register_model
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature

from fwagents.kernels.cpu.problem import GROUP, lanes

LANES = lanes()

Vec: TypeAlias = Any
Function = TypeVar("Function", bound=Callable[..., Any])


def inlined(function: Function) -> Function:
    """Inline a function into the compiled functions that call it, as for functions that take a whole problem."""
    marked: Function = register_jitable(forceinline=True)(function)
    return marked


def called(function: Function) -> Function:
    """Make a function callable from compiled code; for large functions, which must call ``stay_apart`` themselves."""
    marked: Function = register_jitable(forceinline=False)(function)  # the default is the caller's option
    return marked


class _VecType(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"Vec{LANES}")


_vec = _VecType()
_address = types.intp
_float, _index = ir.FloatType(), ir.IntType(64)
_lanes = ir.VectorType(_float, LANES)


@register_model(_VecType)
class _VecModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, _lanes)


def _arithmetic(op: Any, emit: str) -> None:
    @infer_global(op)
    class _Template(ConcreteTemplate):
        cases = (signature(_vec, _vec, _vec),)

    @lower_builtin(op, _vec, _vec)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, emit)(*args, flags=("contract",))


for _op, _emit in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_op, _emit)


def _intrinsic(result: Any, *params: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Turn ``emit(builder, *values)`` into a function that compiled code can call."""

    def wrap(emit: Callable[..., Any]) -> Callable[..., Any]:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return emit(builder, *args)

        def typer(context: Any, *args: Any) -> Any:
            return signature(result, *params), codegen

        # Numba reads the number of arguments from the signature.
        names = ["context", *(f"arg{i}" for i in range(len(params)))]
        parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        vars(typer)["__signature__"] = Signature(parameters)
        typer.__name__ = emit.__name__
        made: Callable[..., Any] = intrinsic(typer)
        return made

    return wrap


def _pointer(builder: Any, address: Any, offset: Any, type_: Any = _lanes) -> Any:
    """Return a pointer to the float ``offset`` floats after ``address``."""
    byte = builder.add(address, builder.shl(offset, _index(2)))
    return builder.inttoptr(byte, type_.as_pointer())


def _read(builder: Any, address: Any, offset: Any) -> Any:
    return builder.load(_pointer(builder, address, offset), align=4)


def _splat(builder: Any, x: Any, type_: Any = _lanes) -> Any:
    one = builder.insert_element(ir.Constant(type_, ir.Undefined), x, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), type_.count), [0] * type_.count)
    return builder.shuffle_vector(one, ir.Constant(type_, ir.Undefined), zeros)


def _zero() -> Any:
    return ir.Constant(_lanes, [0.0] * LANES)


def _mask(builder: Any, n: Any) -> Any:
    """Return a mask of the first n lanes."""
    i32s = ir.VectorType(ir.IntType(32), LANES)
    count = _splat(builder, builder.trunc(n, ir.IntType(32)), i32s)
    return builder.icmp_signed("<", ir.Constant(i32s, list(range(LANES))), count)


def _masked(builder: Any, name: str, result: Any, values: Any, types_: Any) -> Any:
    bits = ir.VectorType(ir.IntType(1), LANES)
    kind = ir.FunctionType(result, [bits if t is None else t for t in types_])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, values)


@_intrinsic(types.void)
def stay_apart(builder: Any) -> Any:
    """Keep the compiler from inlining the function that contains this call.

    By default it copies large loops to every caller. The kernel then no longer fits the instruction cache and takes up
    to twice the time.
    """
    builder.function.attributes.add("noinline")
    return ir.Constant(ir.IntType(8).as_pointer(), None)


@_intrinsic(_vec, _address, types.intp)
def load(builder: Any, address: Any, offset: Any) -> Any:
    """Load LANES floats, ``offset`` floats after ``address``."""
    return _read(builder, address, offset)


@_intrinsic(types.void, _address, types.intp, _vec)
def store(builder: Any, address: Any, offset: Any, x: Any) -> Any:
    """Store LANES floats, ``offset`` floats after ``address``."""
    builder.store(x, _pointer(builder, address, offset), align=4)
    return ir.Constant(ir.IntType(8).as_pointer(), None)


@_intrinsic(_vec, _address, types.intp, types.intp)
def load_first(builder: Any, address: Any, offset: Any, n: Any) -> Any:
    """Load the first n lanes and set the others to zero, without access to their memory."""
    pointer = _pointer(builder, address, offset)
    name = f"llvm.masked.load.v{LANES}f32.p0"
    values = [pointer, ir.IntType(32)(4), _mask(builder, n), _zero()]
    return _masked(builder, name, _lanes, values, [pointer.type, ir.IntType(32), None, _lanes])


@_intrinsic(types.void, _address, types.intp, _vec, types.intp)
def store_first(builder: Any, address: Any, offset: Any, x: Any, n: Any) -> Any:
    """Store only the first n lanes."""
    pointer = _pointer(builder, address, offset)
    name = f"llvm.masked.store.v{LANES}f32.p0"
    values = [x, pointer, ir.IntType(32)(4), _mask(builder, n)]
    _masked(builder, name, ir.VoidType(), values, [_lanes, pointer.type, ir.IntType(32), None])
    return ir.Constant(ir.IntType(8).as_pointer(), None)


@_intrinsic(types.void, _address)
def prefetch(builder: Any, address: Any) -> Any:
    """Prefetch the cache line at an address."""
    i32, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.inttoptr(address, pointer), i32(0), i32(3), i32(1)])
    return ir.Constant(ir.IntType(8).as_pointer(), None)


@_intrinsic(_vec, _vec, types.intp)
def first(builder: Any, x: Any, n: Any) -> Any:
    """Return the first n lanes of x, and zero in the others."""
    return builder.select(_mask(builder, n), x, _zero())


@_intrinsic(_vec, types.float32)
def splat(builder: Any, x: Any) -> Any:
    """Return a vector with x in every lane."""
    return _splat(builder, x)


@_intrinsic(_vec, _vec)
def exp(builder: Any, x: Any) -> Any:
    """Return ``e ** x`` to about two units in the last place, with x clamped to [-87, 88]; NaN where x is NaN."""

    def every(value: float) -> Any:
        return ir.Constant(_lanes, [value] * LANES)

    x = builder.select(builder.fcmp_ordered("<", x, every(-87.0)), every(-87.0), x)
    x = builder.select(builder.fcmp_ordered(">", x, every(88.0)), every(88.0), x)
    # Adding 1.5 * 2**23 rounds to an integer, which is then in the lowest bits.
    rounder = every(12582912.0)
    shifted = _fma(builder, x, every(1.4426950408889634), rounder)
    n = builder.fsub(shifted, rounder)
    # ln 2 is split in two parts; n times the first is exact.
    r = _fma(builder, n, every(-0.693145751953125), x)
    r = _fma(builder, n, every(-1.4286068202862268e-06), r)
    series = every(1 / 5040)
    for divisor in (720, 120, 24, 6, 2, 1, 1):
        series = _fma(builder, series, r, every(1 / divisor))
    i32s = ir.VectorType(ir.IntType(32), LANES)
    exponent = builder.shl(builder.bitcast(shifted, i32s), ir.Constant(i32s, [23] * LANES))
    power = builder.add(exponent, ir.Constant(i32s, [127 << 23] * LANES))
    return builder.fmul(series, builder.bitcast(power, _lanes))


@_intrinsic(_vec, _vec)
def swap_pairs(builder: Any, x: Any) -> Any:
    """Swap lanes 2j and 2j + 1."""
    return _shuffle(builder, x, x, [i ^ 1 for i in range(LANES)])


@_intrinsic(_vec, _vec)
def positive(builder: Any, x: Any) -> Any:
    """Return 1 where x is above 0, else 0; 0 where x is NaN."""
    return builder.select(builder.fcmp_ordered(">", x, _zero()), ir.Constant(_lanes, [1.0] * LANES), _zero())


@_intrinsic(_vec, _vec)
def relu(builder: Any, x: Any) -> Any:
    """Return ``max(x, 0)``, and NaN where x is NaN, as in torch."""
    return builder.select(builder.fcmp_ordered("<", x, _zero()), _zero(), x)


@_intrinsic(_vec, _vec, _vec)
def relu_backward(builder: Any, y: Any, gradient: Any) -> Any:
    """Return the gradient at x, given y = relu(x): zero where y <= 0, so kept where y is NaN, as in torch."""
    return builder.select(builder.fcmp_ordered("<=", y, _zero()), _zero(), gradient)


@_intrinsic(_vec, _vec, _vec)
def inverse_modulus(builder: Any, x: Any, y: Any) -> Any:
    """Return ``1 / max(1, |x + i y|)``, and 1 where the modulus is NaN."""
    one = ir.Constant(_lanes, [1.0] * LANES)
    square = _fma(builder, x, x, builder.fmul(y, y))
    square = builder.select(builder.fcmp_ordered(">", square, one), square, one)
    root = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_lanes, [_lanes]), f"llvm.sqrt.v{LANES}f32")
    return builder.fdiv(one, builder.call(root, [square]))


@_intrinsic(_vec, _vec, _vec)
def where_below_one(builder: Any, x: Any, y: Any) -> Any:
    """Return y where x < 1, else zero."""
    one = ir.Constant(_lanes, [1.0] * LANES)
    return builder.select(builder.fcmp_ordered("<", x, one), y, _zero())


def _shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    """Select lanes of a, numbered from 0, and of b, numbered after those of a."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def _folded(builder: Any, a: Any, b: Any, left: list[int], right: list[int]) -> Any:
    return builder.fadd(_shuffle(builder, a, b, left), _shuffle(builder, a, b, right))


def _neighbours(builder: Any, a: Any, b: Any) -> Any:
    """Sum neighbouring lanes: every four lanes hold two sums of a, then two of b. A shuffle is one instruction."""
    left = [offset + at for at in range(0, LANES, 4) for offset in (0, 2, LANES, LANES + 2)]
    return _folded(builder, a, b, left, [i + 1 for i in left])


def _eight_totals(builder: Any, x: Sequence[Any]) -> Any:
    """Return the totals of eight vectors, as eight floats."""
    pairs = [_neighbours(builder, a, b) for a, b in zip(x[::2], x[1::2], strict=True)]
    a, b = (_neighbours(builder, c, d) for c, d in zip(pairs[::2], pairs[1::2], strict=True))  # partial sums in fours
    if LANES == 16:
        lower = [*range(8), *range(16, 24)]
        a = b = _folded(builder, a, b, lower, [i + 8 for i in lower])
        lower = [*range(4), *range(8, 12)]
    else:
        lower = [*range(4), *range(8, 12)]
    return _folded(builder, a, b, lower, [i + 4 for i in lower])


@_intrinsic(types.void, _address, types.intp, *[_vec] * GROUP)
def store_totals(builder: Any, address: Any, offset: Any, *x: Any) -> Any:
    """Store the sums over the lanes of GROUP vectors, one float each."""
    narrow = ir.VectorType(_float, GROUP)
    builder.store(_eight_totals(builder, x), _pointer(builder, address, offset, narrow), align=4)
    return ir.Constant(ir.IntType(8).as_pointer(), None)


@_intrinsic(types.float32, _vec)
def total(builder: Any, x: Any) -> Any:
    """Return the sum over the lanes."""
    width = LANES
    while width > 1:
        width //= 2
        x = _folded(builder, x, x, list(range(width)), list(range(width, 2 * width)))
    return builder.extract_element(x, ir.IntType(32)(0))


@_intrinsic(types.float32, _address, types.intp)
def scalar(builder: Any, address: Any, offset: Any) -> Any:
    """Load one float."""
    return builder.load(_pointer(builder, address, offset, _float), align=4)


@_intrinsic(types.void, _address, types.intp, types.float32)
def set_scalar(builder: Any, address: Any, offset: Any, x: Any) -> Any:
    """Store one float."""
    builder.store(x, _pointer(builder, address, offset, _float), align=4)
    return ir.Constant(ir.IntType(8).as_pointer(), None)


@_intrinsic(types.uint8, _address, types.intp)
def byte(builder: Any, address: Any, offset: Any) -> Any:
    """Load one byte, ``offset`` bytes after ``address``."""
    return builder.load(builder.inttoptr(builder.add(address, offset), ir.IntType(8).as_pointer()))


@_intrinsic(types.void, _address, types.intp, types.uint8)
def set_byte(builder: Any, address: Any, offset: Any, x: Any) -> Any:
    """Store one byte."""
    builder.store(x, builder.inttoptr(builder.add(address, offset), ir.IntType(8).as_pointer()))
    return ir.Constant(ir.IntType(8).as_pointer(), None)


@_intrinsic(types.intp, _address, types.intp)
def integer(builder: Any, address: Any, offset: Any) -> Any:
    """Load one 64-bit integer, ``offset`` integers after ``address``."""
    where = builder.add(address, builder.shl(offset, _index(3)))
    return builder.load(builder.inttoptr(where, _index.as_pointer()))


@_intrinsic(types.void, _address, types.intp, types.intp)
def set_integer(builder: Any, address: Any, offset: Any, x: Any) -> Any:
    """Store one 64-bit integer."""
    where = builder.add(address, builder.shl(offset, _index(3)))
    builder.store(x, builder.inttoptr(where, _index.as_pointer()))
    return ir.Constant(ir.IntType(8).as_pointer(), None)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return builder.fadd(c, builder.fmul(a, b, flags=("contract",)), flags=("contract",))


@_intrinsic(types.void, _address, types.intp, _address, types.intp)
def add_transposed_tile(builder: Any, x: Any, row: Any, out: Any, out_row: Any) -> Any:
    """Add the transpose of x to ``out``, for LANES rows of LANES floats, ``row`` and ``out_row`` floats apart."""
    lines = [_read(builder, x, builder.mul(row, _index(i))) for i in range(LANES)]
    d = 1
    while d < LANES:
        left = [i if not i & d else LANES + i - d for i in range(LANES)]
        right = [i + d if not i & d else LANES + i for i in range(LANES)]
        for i in range(LANES):
            if not i & d:
                a, b = lines[i], lines[i + d]
                lines[i], lines[i + d] = _shuffle(builder, a, b, left), _shuffle(builder, a, b, right)
        d *= 2
    for i, line in enumerate(lines):
        at = _pointer(builder, out, builder.mul(out_row, _index(i)))
        builder.store(builder.fadd(builder.load(at, align=4), line), at, align=4)
    return ir.Constant(ir.IntType(8).as_pointer(), None)
