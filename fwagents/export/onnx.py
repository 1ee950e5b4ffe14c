"""Export of a trained policy to ONNX, with the memory as explicit inputs and outputs."""

import warnings
from pathlib import Path
from typing import Any

import torch

from fwagents.export.normalization import Normalization
from fwagents.export.steps import PolicyStep
from fwagents.files import replacing
from fwagents.sb3.policies import MemoryPolicy

TIME = "time"  # name of the time dimension
INNER = "step."  # prefix of every name inside the loop


def export_onnx(
    policy: MemoryPolicy,
    path: Path | str,
    sequence_path: Path | str | None = None,
    *,
    normalization: Normalization | None = None,
) -> None:
    """Write a step of a policy, and optionally a sequence of steps, as ONNX; each file is written whole or not at all.

    Inputs are ``observation`` (``observation.<key>`` for each entry of a dict), in the policy's space, in which the
    channels of images come first; ``start``, bool, true where the observation opens an episode; and the memory, a
    tensor for each leaf of each core's state: ``actor.h``, ``actor.A``, and ``critic.h`` ... if the critic has its own
    core. The memory is ignored where ``start`` is true.

    Outputs are ``action``, the most likely action; ``logits``, or ``mean`` and ``std`` of continuous actions;
    ``value``; and the memory for the next call, ``next.actor.h`` ...

    A step takes and returns tensors [batch, ...]. A sequence takes and returns [time, batch, ...], except for the
    memory: it takes the state before the first step and returns the state after the last step. The sequence is ONNX's
    ``Scan`` over the same step.

    Args:
        policy: policy of a trained agent, with any core.
        path: file of the step.
        sequence_path: file of the sequence; None for no such file.
        normalization: normalisation of the observations, which becomes a part of the model.

    Raises:
        ImportError: onnx or onnxscript is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # used by torch.onnx.export
    except ImportError as error:
        raise ImportError('ONNX needs onnx and onnxscript: pip install "fwagents[export]"') from error
    step = _step_model(PolicyStep(policy, normalization))
    models = [(path, step)] if sequence_path is None else [(path, step), (sequence_path, _over_time(step))]
    for where, model in models:
        onnx.checker.check_model(model, full_check=True)
        with replacing(Path(where)) as file:
            file.write(model.SerializeToString())


def _step_model(step: PolicyStep) -> Any:
    example = step.example(2)
    batch = torch.export.Dim("batch")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warnings concern the exporter's own code
        program = torch.onnx.export(
            step,
            example,
            dynamo=True,
            verbose=False,
            input_names=step.input_names,
            output_names=step.output_names,
            dynamic_shapes=(tuple({0: batch} for _ in example),),
        )
    assert program is not None
    return program.model_proto


def _over_time(step: Any) -> Any:
    """Build a model [time, batch, ...] that runs the model of a step in a loop."""
    import onnx
    from onnx import compose, helper

    body = compose.add_prefix(step, INNER).graph
    leaves = [name for name in _names(step.graph.output) if name.startswith("next.")]
    states = [name.removeprefix("next.") for name in leaves]
    scanned = [name for name in _names(step.graph.input) if name not in states]
    given = [name for name in _names(step.graph.output) if name not in leaves]
    # The body of a Scan has its states first, in inputs and outputs.
    _reorder(body.input, [INNER + name for name in [*states, *scanned]])
    _reorder(body.output, [INNER + name for name in [*leaves, *given]])
    loop = helper.make_node(
        "Scan", [*states, *scanned], [*leaves, *given], name="over_time", num_scan_inputs=len(scanned), body=body
    )
    known = {value.name: value for value in [*step.graph.input, *step.graph.output]}
    inputs = [known[name] if name in states else _with_time(known[name]) for name in _names(step.graph.input)]
    outputs = [known[name] if name in leaves else _with_time(known[name]) for name in _names(step.graph.output)]
    graph = helper.make_graph([loop], "policy_over_time", inputs, outputs)
    model = helper.make_model(graph, opset_imports=step.opset_import, functions=step.functions)
    model.ir_version = step.ir_version
    assert isinstance(model, onnx.ModelProto)
    return model


def _names(values: Any) -> list[str]:
    return [value.name for value in values]


def _reorder(values: Any, names: list[str]) -> None:
    found = {value.name: value for value in values}
    ordered = [found[name] for name in names]
    del values[:]
    values.extend(ordered)


def _with_time(value: Any) -> Any:
    """Add a time dimension to the description of a tensor [batch, ...]: [time, batch, ...]."""
    from onnx import helper

    of = value.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in of.shape.dim]
    return helper.make_tensor_value_info(value.name, of.elem_type, [TIME, *shape])
