"""Every core with its options, for tests of the properties that all cores share."""

import torch

from fwagents.cores import CORES, MemoryCore, make_core

FAST_WEIGHT_OPTIONS = [
    {"inner_steps": 3},
    {"inner_steps": 2, "norm_per_step": True},
    {"layer_norm": False, "fast_lr": 0.02},
    {"boundary": "identity", "inner_steps": 2},
    {"normalize_storage": True},
    {"backend": "attention"},
    {"inner_steps": 0},
    {"inner_steps": 0, "layer_norm": False},
    {"inner_steps": "adaptive", "max_inner_steps": 4},
    {"inner_steps": "adaptive", "max_inner_steps": 3, "norm_per_step": True},
    {"inner_steps": "adaptive", "max_inner_steps": 3, "boundary": "identity", "backend": "attention"},
]
FAMILY = [
    *((name, {}) for name in CORES),
    *(("fast_weights", options) for options in FAST_WEIGHT_OPTIONS),
    ("associative_lstm", {"num_copies": 1, "num_heads": 2}),
    ("sum_rule", {"num_heads": 2, "conv_size": 2}),
    ("delta_net", {"num_heads": 4, "conv_size": 3}),
    ("gated_delta_net", {"num_heads": 2, "gate_bias": 1.0}),
    ("delta_net", {"output_gate": True}),
    ("rotary_fast_weights", {"rotary": "all", "num_heads": 2, "conv_size": 2, "min_period": 3.0}),
    ("rotary_fast_weights", {"rotary": "none", "num_heads": 1, "output_gate": False, "silu": True}),
    ("hebbian", {"eta": 0.4}),
    ("ffm", {"memory_size": 3, "context_size": 2, "max_period": 10}),
]
T, B, D, H = 9, 3, 4, 8


def randomised(module, scale=0.3):
    """Return the module with random weights: special initial values such as 0 could hide a mistake."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn_like(p))
    return module


def random_state(core, batch_size=B):
    state = core.initial_state(batch_size)
    return type(state)(*(torch.randn_like(leaf, requires_grad=True) for leaf in state))


def starts(*steps, row=slice(None)):
    start = torch.zeros(T, B, dtype=torch.bool)
    for t in steps:
        start[t, row] = True
    return start


def label(member) -> str:
    """Return the id of a member of ``FAMILY``."""
    name, options = member
    return "-".join([name, *map(str, options.values())])


def random_core(name, options) -> MemoryCore:
    """Return a member of ``FAMILY`` with random weights."""
    return randomised(make_core(name, D, H, **options))
