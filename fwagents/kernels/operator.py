"""A compiled scan as a differentiable torch operator: the code shared by every scan and every backend."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar, cast, get_type_hints

import torch
from torch import Tensor

from fwagents.kernels.tensors import plain

InputsT = TypeVar("InputsT", bound=tuple[Any, ...])
OptionsT = TypeVar("OptionsT", bound=tuple[Any, ...])
ResultT = TypeVar("ResultT", bound=tuple[Tensor, ...])

# The types of torch's schemas.
SCHEMA = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    bool: "bool",
    int: "int",
    float: "float",
    float | None: "float?",
    tuple[float, ...]: "float[]",
}


class CompiledScan(Generic[InputsT, OptionsT, ResultT]):
    """A scan with a compiled forward and backward pass, differentiable in its tensors.

    The forward pass saves a trace for the backward pass, a flat float32 tensor. Three NamedTuples declare the tensors,
    constants and results. They determine the schemas of the operators ``fwagents::name`` and
    ``fwagents::name_backward``.

    Args:
        name: the operator's name.
        inputs: NamedTuple of the tensors, each a Tensor or None.
        options: NamedTuple of the constants.
        result: NamedTuple of the results.
        forward: ``(inputs, options, traced)`` -> the results, and the trace, which is empty unless ``traced``.
        backward: ``(gradients, kept, trace, inputs, options, wanted)`` -> a gradient or None for each input.
            ``gradients`` has a gradient or None for each result, ``kept`` holds the results named in ``kept`` below,
            and ``wanted`` has a bool for each input: whether its gradient is used.
        sizes: ``(inputs, options)`` -> the shape of each result, and the number of floats in a trace.
        reference: ``(inputs, options)`` -> the results in plain torch, for derivatives of derivatives.
        kept: names of the results that the backward pass reads.
    """

    def __init__(
        self,
        name: str,
        inputs: type[InputsT],
        options: type[OptionsT],
        result: type[ResultT],
        *,
        forward: Callable[[InputsT, OptionsT, bool], tuple[Tensor, ...]],
        backward: Callable[..., Sequence[Tensor | None]],
        sizes: Callable[[InputsT, OptionsT], tuple[Sequence[Sequence[int]], int]],
        reference: Callable[[InputsT, OptionsT], ResultT],
        kept: Sequence[str],
    ) -> None:
        self.inputs: Any = inputs
        self.options: Any = options
        self.result: Any = result
        self.forward, self.backward, self.sizes, self.reference = forward, backward, sizes, reference
        results: tuple[str, ...] = cast(Any, result)._fields
        self.kept = [results.index(field) for field in kept]
        given = f"{_parameters(inputs)}, {_parameters(options)}"
        outputs = ", ".join(["Tensor"] * (len(results) + 1))
        read = [*(f"Tensor? d_{field}" for field in results), *(f"Tensor {field}_out" for field in kept)]
        self._forward = torch.library.custom_op(
            f"fwagents::{name}", self._run_forward, mutates_args=(), schema=f"({given}, bool traced) -> ({outputs})"
        )
        self._backward = torch.library.custom_op(
            f"fwagents::{name}_backward",
            self._run_backward,
            mutates_args=(),
            schema=f"({', '.join(read)}, Tensor trace, {given}, bool[] wanted) -> Tensor[]",
        )
        self._forward.register_fake(self._fake_forward)
        self._backward.register_fake(self._fake_backward)
        self._forward.register_autograd(self.differentiate, setup_context=self._save)

    def __call__(self, inputs: InputsT, options: OptionsT) -> ResultT:
        """Run the scan; the compiled passes must cover the inputs."""
        traced = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
        if torch.compiler.is_compiling() or not all(map(plain, inputs)):
            found = self._forward(*inputs, *options, traced)
        elif traced:
            found = cast(Any, _Direct).apply(*inputs, options, self)
        else:
            found = self.forward(inputs, options, False)
        named: ResultT = self.result(*found[:-1])
        return named

    def _given(self, arguments: Sequence[Any]) -> tuple[InputsT, OptionsT]:
        """Return the inputs and options, with which the arguments of an operator begin."""
        tensors, constants = len(self.inputs._fields), len(self.options._fields)
        values = (tuple(x) if isinstance(x, list) else x for x in arguments[tensors : tensors + constants])
        return self.inputs(*arguments[:tensors]), self.options(*values)

    def _run_forward(self, *arguments: Any) -> tuple[Tensor, ...]:
        return self.forward(*self._given(arguments), arguments[-1])

    # The fake implementation, which torch uses while it traces.
    def _fake_forward(self, *arguments: Any) -> tuple[Tensor, ...]:
        inputs, options = self._given(arguments)
        shapes, floats = self.sizes(inputs, options)
        like = inputs[0]
        trace = like.new_empty(floats if arguments[-1] else 0, dtype=torch.float32)
        return *(like.new_empty(tuple(shape)) for shape in shapes), trace

    def _run_backward(self, *arguments: Any) -> list[Tensor]:
        """Return a gradient for each input: empty if the input is None or its gradient is not wanted."""
        results, kept = len(self.result._fields), len(self.kept)
        gradients, outputs, trace = arguments[:results], arguments[results : results + kept], arguments[results + kept]
        inputs, options = self._given(arguments[results + kept + 1 :])
        wanted = arguments[-1]
        found = self.backward(gradients, outputs, trace, inputs, options, wanted)
        empty = outputs[0].new_empty(0)
        return [
            # An operator's outputs must not share memory.
            empty.clone() if x is None or not wants else torch.zeros_like(x) if d is None else d.clone()
            for x, d, wants in zip(inputs, found, wanted, strict=True)
        ]

    def _fake_backward(self, *arguments: Any) -> list[Tensor]:
        before = len(self.result._fields) + len(self.kept) + 1
        inputs, _ = self._given(arguments[before:])
        like = arguments[before - 2]
        return [
            like.new_empty(x.shape if x is not None and wants else 0)
            for x, wants in zip(inputs, arguments[-1], strict=True)
        ]

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        self.save(ctx, *self._given(inputs), output, False)

    def save(self, ctx: Any, inputs: InputsT, options: OptionsT, output: tuple[Tensor, ...], direct: bool) -> None:
        """Save the tensors of the backward pass; ``direct`` says that it runs without torch's dispatcher."""
        ctx.save_for_backward(*inputs, *(output[i] for i in self.kept), output[-1])
        ctx.options, ctx.direct = options, direct
        ctx.mark_non_differentiable(output[-1])
        ctx.set_materialize_grads(False)

    def differentiate(self, ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return a gradient or None for each argument of the forward pass."""
        number = len(self.inputs._fields)
        inputs = self.inputs(*ctx.saved_tensors[:number])
        *kept, trace = ctx.saved_tensors[number:]
        needs, gradients = ctx.needs_input_grad, gradients[:-1]
        wanted = list(needs[:number])
        found: Sequence[Tensor | None]
        if torch.is_grad_enabled():
            found = differentiable(self.reference(inputs, ctx.options), gradients, inputs, wanted)
        elif ctx.direct:
            found = self.backward(gradients, kept, trace, inputs, ctx.options, wanted)
        else:
            found = self._backward(*gradients, *kept, trace, *inputs, *ctx.options, wanted)
        used = [d if wants else None for d, wants in zip(found, wanted, strict=True)]
        return *used, *(None,) * (len(needs) - number)


class _Direct(torch.autograd.Function):
    """Run a scan without torch's dispatcher, which costs more time than a small scan."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, options, scan = arguments
        inputs = scan.inputs(*tensors)
        output: tuple[Tensor, ...] = scan.forward(inputs, options, True)
        ctx.scan = scan
        scan.save(ctx, inputs, options, output, True)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        found: tuple[Tensor | None, ...] = ctx.scan.differentiate(ctx, *gradients)
        return found


def _parameters(kind: type[Any]) -> str:
    """Return the fields of a NamedTuple as a schema declares them."""
    return ", ".join(f"{SCHEMA[hint]} {field}" for field, hint in get_type_hints(kind).items())


def differentiable(
    outputs: Iterable[Tensor],
    gradients: Iterable[Tensor | None],
    inputs: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Return differentiable gradients at the wanted inputs, None at the others."""
    pairs = [(o, d) for o, d in zip(outputs, gradients, strict=True) if d is not None]
    found = iter(
        torch.autograd.grad(
            [o for o, _ in pairs],
            [x for x, wants in zip(inputs, wanted, strict=True) if wants and x is not None],
            [d for _, d in pairs],
            create_graph=True,
            allow_unused=True,
        )
    )
    return tuple(next(found) if wants else None for wants in wanted)
