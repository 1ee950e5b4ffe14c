"""Operations that memory cores need, whatever a kernel does: the numerators of the shares of the product rate."""

from torch import nn

from fwagents.cores import FastWeights, RotaryFastWeights

# Weights of the cores that are timed by themselves whose input needs no gradient.
OF_THE_INPUT = ("weight_ih", "projection.weight", "output_gate.gate.weight", "output_gate.skip.weight")


def memory_flops(core: nn.Module, keys: float) -> tuple[float, float]:
    """Operations of a step with the fast memory alone, forward and backward; 0 for a core without one.

    Args:
        core: the core.
        keys: earlier steps of the sequence that the step attends to; a read costs R^2 where that is less.
    """
    if isinstance(core, FastWeights):
        # Two passes over the keys forward, five backward.
        reads = 2.0 * core.options.inner_steps * min(keys, core.hidden_size) * core.hidden_size
        return 2 * reads, 5 * reads
    if isinstance(core, RotaryFastWeights):
        # Each head reads W with its key, writes it, and reads it with its query.
        product = 2.0 * core.hidden_size * core.hidden_size / core.num_heads
        return 3 * product, 6 * product
    return 0.0, 0.0


def scan_flops(core: nn.Module, T: int, B: int) -> float:
    """Operations of a core forward and backward, to the gradients of its weights, over B sequences of T steps."""
    matrices = {name: p.numel() for name, p in core.named_parameters() if p.ndim == 2 and len(p) > 1}
    products = 2.0 * sum(n * (2 if name in OF_THE_INPUT else 3) for name, n in matrices.items())
    return T * B * (products + sum(memory_flops(core, (T - 1) / 2)))
