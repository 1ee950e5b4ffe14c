"""The compiled backward pass: the steps of a few rows in reverse, one chunk (the steps between folds) at a time.

The README has the equations. It names the scores that are summed later, p and u, for the q and g of a read.
"""

import numpy as np

from fwagents.kernels.cpu.blocks import (
    add_combination,
    add_product,
    add_scaled,
    add_transposed,
    attend_twice,
    clear,
    prefetch_floats,
    set_scaled,
)
from fwagents.kernels.cpu.forward import ONE, key_address, pack, panels, read_row, write_row
from fwagents.kernels.cpu.problem import BLOCK, FLOAT, FOLD, GO_ON, PANEL, RESET, STATE, TILE, Gradients, Problem, Slot
from fwagents.kernels.cpu.simd import (
    LANES,
    byte,
    first,
    inlined,
    integer,
    load,
    relu_backward,
    scalar,
    set_integer,
    splat,
    store,
    total,
)

# State of a chunk: first step, address of the A before it, whether A has a gradient, number of reads in the block.
BEGIN, MATRIX, PENDING, READS = range(STATE)


@inlined
def mark_at(p: Problem, b: int, t: int) -> int:
    """Return what happened to the memory of row b before step t, as GO_ON, RESET or FOLD."""
    return byte(p.marks, b * p.steps + t) if p.marks else GO_ON


@inlined
def enter_chunk(p: Problem, slot: Slot, b: int, end: int, state: int, at: int, scratch: int) -> None:
    """Begin the chunk that ends before step ``end``.

    The gradient of the A after the chunk goes to the chunk's keys and to the A before the chunk.
    """
    row = p.vectors * LANES
    begin = end - 1
    while begin > 0 and mark_at(p, b, begin) == GO_ON:
        begin -= 1
    mark = mark_at(p, b, begin)
    A = 0
    if mark == FOLD:
        A = p.folded + (b * p.slots + begin // p.fold_every - 1) * row * row * FLOAT
    elif mark == GO_ON and p.A:
        A = p.A + b * row * row * FLOAT
    set_integer(state, BEGIN, begin)
    set_integer(state, MATRIX, A)
    set_integer(state, READS, 0)
    n = end - begin
    dkeys = at + slot.keys * FLOAT
    for k in range(n):
        clear(p.vectors, dkeys + k * row * FLOAT)
    if integer(state, PENDING):
        dA = at + slot.A * FLOAT
        for r in range(row):
            for v in range(0, row, LANES):
                store(scratch, r * row + v, load(dA, r * row + v))
        add_transposed(row, dA, scratch)
        add_product(n, p.vectors, p.size, key_address(p, b, begin), row, 1, scratch, row, PANEL * LANES, dkeys, row)
        for k in range(n):
            weight = scalar(p.weights, p.longest - n + k)
            set_scaled(p.vectors, weight, dkeys + k * row * FLOAT, dkeys + k * row * FLOAT)
        decay = scalar(p.powers, n)
        for r in range(row):
            set_scaled(p.vectors, decay, dA + r * row * FLOAT, dA + r * row * FLOAT)
        if A == 0:
            set_integer(state, PENDING, 0)


@inlined
def norm_backward(p: Problem, b: int, t: int, i: int, dy: int, gain: int, norm: int) -> None:
    """Propagate ``dy`` in place through inner step i's layer norm; add the gradients of gain and shift to ``norm``."""
    row = p.vectors * LANES
    last = row - LANES
    step = b * p.steps + t
    normed = p.normed + (step * p.inner + i) * row * FLOAT
    which = min(i, p.norms - 1) * row
    sums = splat(np.float32(0.0))
    moments = splat(np.float32(0.0))
    for v in range(0, row, LANES):
        d, x = load(dy, v), load(normed, v)
        at = which + v
        store(norm, at, load(norm, at) + d * x)
        store(norm, p.norms * row + at, load(norm, p.norms * row + at) + d)
        d = d * load(gain, at)
        store(dy, v, d)
        sums = sums + d
        moments = moments + d * x
    count = np.float32(p.size)
    mean, moment = splat(total(sums) / count), splat(total(moments) / count)
    scale = splat(scalar(p.scales, step * p.inner + i))
    for v in range(0, row, LANES):
        d = scale * (load(dy, v) - mean - load(normed, v) * moment)
        if v == last:
            d = first(d, p.size - last)
        store(dy, v, d)


@inlined
def step_backward(
    p: Problem, g: Gradients, slot: Slot, b: int, t: int, state: int, at: int, dh: int, d: int, scratch: int,
    gain: int, norm: int,
) -> None:  # fmt: skip
    """Run one step of one row: from ``dh``, the gradient at h, to ``d``, the gradient at the pre-activation."""
    row = p.vectors * LANES
    n = t - integer(state, BEGIN)
    A = integer(state, MATRIX)
    reads = integer(state, READS)
    key = key_address(p, b, t)
    dkey = at + (slot.keys + n * row) * FLOAT
    scores = at + slot.scores * FLOAT
    vectors = at + slot.vectors * FLOAT
    add_combination(p.vectors, 2 * reads, scores + n * FLOAT, slot.scores_row, vectors, row, dkey)
    if p.normalized:
        along = load(key, 0) * load(dkey, 0)
        for v in range(LANES, row, LANES):
            along = along + load(key, v) * load(dkey, v)
        radial = splat(total(along))
        scale = splat(scalar(p.key_scales, b * p.steps + t))
        for v in range(0, row, LANES):
            store(dkey, v, scale * (load(dkey, v) - load(key, v) * radial))
    for v in range(0, row, LANES):
        store(dh, v, load(dh, v) + load(dkey, v))
    if g.y:
        read_row(p.vectors, p.size, g.y + (t * p.batch + b) * p.size * FLOAT, scratch)
        add_scaled(p.vectors, ONE, scratch, dh)
    clear(p.vectors, d)
    weights = p.weights + (p.longest - n) * FLOAT
    keys = key_address(p, b, integer(state, BEGIN))
    first_input = p.inputs + (b * p.steps + t) * p.inner * row * FLOAT
    taken = int(scalar(p.taken, b * p.steps + t)) if p.taken else p.inner
    for j in range(taken):
        i = taken - 1 - j
        s = first_input + i * row * FLOAT
        output = key if i + 1 == taken else s + row * FLOAT
        sent = vectors + 2 * reads * row * FLOAT
        for v in range(0, row, LANES):
            store(sent, v, relu_backward(load(output, v), load(dh, v)))
            store(sent, row + v, load(s, v))
        if p.norms:
            norm_backward(p, b, t, i, sent, gain, norm)
        if p.sustained:
            for v in range(0, row, LANES):
                store(d, v, load(d, v) + load(sent, v))
            clear(p.vectors, dh)
        else:
            set_scaled(p.vectors, ONE, sent, dh)
        to = scores + 2 * reads * slot.scores_row * FLOAT
        attend_twice(p.vectors, keys, n, weights, sent + row * FLOAT, to, slot.scores_row, dh)
        if A:
            decayed = at + (slot.reads + (n * p.inner + i) * row) * FLOAT
            set_scaled(p.vectors, scalar(p.powers, n), sent, decayed)
            add_combination(p.vectors, p.size, decayed, 1, A, row, dh)
        reads += 1
    if A:
        for i in range(taken, p.inner):  # steps not taken must add zero to the product that gives the gradient at A
            clear(p.vectors, at + (slot.reads + (n * p.inner + i) * row) * FLOAT)
    for v in range(0, row, LANES):
        store(d, v, load(d, v) + relu_backward(load(first_input, v), load(dh, v)))
    if reads > (BLOCK - 1) * p.inner:
        add_product(
            n, p.vectors, 2 * reads, scores, 1, slot.scores_row,
            vectors, row, PANEL * LANES, at + slot.keys * FLOAT, row,
        )  # fmt: skip
        reads = 0
    set_integer(state, READS, reads)
    if p.width == 0:
        write_row(p.vectors, p.size, d, g.drive + (t * p.batch + b) * p.size * FLOAT)


@inlined
def leave_chunk(p: Problem, slot: Slot, b: int, end: int, state: int, at: int) -> None:
    """Add the gradient from a chunk's reads to the gradient at the A before the chunk."""
    row = p.vectors * LANES
    begin = integer(state, BEGIN)
    if integer(state, MATRIX) == 0:
        return
    dA = at + slot.A * FLOAT
    if not integer(state, PENDING):
        for r in range(row):
            clear(p.vectors, dA + r * row * FLOAT)
        set_integer(state, PENDING, 1)
    inputs = p.inputs + (b * p.steps + begin) * p.inner * row * FLOAT
    reads = at + slot.reads * FLOAT
    add_product(p.size, p.vectors, (end - begin) * p.inner, reads, 1, row, inputs, row, PANEL * LANES, dA, row)


@inlined
def state_before(p: Problem, b: int, t: int, out: int) -> None:
    """Set ``out`` to the hidden state that step t multiplied by W: zero at an episode start."""
    if mark_at(p, b, t) == RESET or (t == 0 and p.h == 0):
        clear(p.vectors, out)
    elif t == 0:
        read_row(p.vectors, p.size, p.h + b * p.size * FLOAT, out)
    else:
        read_row(p.vectors, p.size, p.y + ((t - 1) * p.batch + b) * p.size * FLOAT, out)


@inlined
def open_row(p: Problem, g: Gradients, b: int, dh: int, dA: int, state: int) -> None:
    """Begin row b with the gradients at its final state."""
    row = p.vectors * LANES
    set_integer(state, BEGIN, p.steps)
    set_integer(state, PENDING, 1 if g.A_out else 0)
    if g.h_out:
        read_row(p.vectors, p.size, g.h_out + b * p.size * FLOAT, dh)
    else:
        clear(p.vectors, dh)
    if g.A_out:
        for r in range(p.size):
            read_row(p.vectors, p.size, g.A_out + (b * p.size + r) * p.size * FLOAT, dA + r * row * FLOAT)
        for r in range(p.size, row):
            clear(p.vectors, dA + r * row * FLOAT)


@inlined
def close_row(p: Problem, g: Gradients, b: int, dh: int, dA: int, state: int) -> None:
    """Write the gradients at the initial state of row b."""
    row = p.vectors * LANES
    if g.h:
        write_row(p.vectors, p.size, dh, g.h + b * p.size * FLOAT)
    if g.A_in:
        for r in range(p.size):
            if not integer(state, PENDING):
                clear(p.vectors, dA + r * row * FLOAT)
            write_row(p.vectors, p.size, dA + r * row * FLOAT, g.A_in + (b * p.size + r) * p.size * FLOAT)


def backward(p: Problem, g: Gradients, slot: Slot, begin: int, end: int, task: int, scratch: int) -> None:
    """Run rows ``begin`` to ``end`` of the batch from the trace that ``forward`` left."""
    row = p.vectors * LANES
    across = (p.width + LANES - 1) // LANES
    wide = across * LANES
    weight = scratch + 2 * TILE * STATE * FLOAT
    weight_ih = weight + p.size * panels(p.vectors) * PANEL * LANES * FLOAT
    gain = weight_ih + p.size * panels(across) * PANEL * LANES * FLOAT
    xs = gain + p.norms * row * FLOAT
    dx = xs + BLOCK * TILE * wide * FLOAT
    dweight_ih = dx + TILE * wide * FLOAT
    dweight = dweight_ih + row * wide * FLOAT
    norm = dweight + row * row * FLOAT
    dbias = norm + 2 * p.norms * row * FLOAT
    before = dbias + row * FLOAT
    sent = before + BLOCK * TILE * row * FLOAT
    dh = sent + BLOCK * TILE * row * FLOAT
    line = dh + TILE * row * FLOAT
    square = line + row * FLOAT
    slots = square + row * row * FLOAT
    pack(p.size, p.size, p.weight, False, weight)
    if p.width and g.drive:
        pack(p.size, p.width, p.weight_ih, False, weight_ih)
    for i in range(p.norms):
        read_row(p.vectors, p.size, p.gain + i * p.size * FLOAT, gain + i * row * FLOAT)
    for r in range(row):
        clear(across, dweight_ih + r * wide * FLOAT)
    for r in range(row + 2 * p.norms + 1):
        clear(p.vectors, dweight + r * row * FLOAT)
    for b in range(begin, end, p.tile):
        rows = min(p.tile, end - b)
        kept = 0
        for i in range(rows):
            dA = slots + (i * slot.floats + slot.A) * FLOAT
            open_row(p, g, b + i, dh + i * row * FLOAT, dA, scratch + 2 * i * STATE * FLOAT)
        for back in range(p.steps):
            t = p.steps - 1 - back
            d = sent + kept * row * FLOAT
            if t > 1:
                step = (t - 1) * p.batch + b
                prefetch_floats(p.y + (step - p.batch) * p.size * FLOAT, rows * p.size)
                if g.y:
                    prefetch_floats(g.y + step * p.size * FLOAT, rows * p.size)
                if p.width:
                    prefetch_floats(p.drive + step * p.width * FLOAT, rows * p.width)
            for i in range(rows):
                state = scratch + 2 * i * STATE * FLOAT
                at = slots + i * slot.floats * FLOAT
                if integer(state, BEGIN) == t + 1:
                    enter_chunk(p, slot, b + i, t + 1, state, at, square)
                step_backward(
                    p, g, slot, b + i, t, state, at,
                    dh + i * row * FLOAT, d + i * row * FLOAT, line, gain, norm,
                )  # fmt: skip
                state_before(p, b + i, t, before + (kept + i) * row * FLOAT)
                if p.width:
                    add_scaled(p.vectors, ONE, d + i * row * FLOAT, dbias)
                    x = p.drive + (t * p.batch + b + i) * p.width * FLOAT
                    read_row(across, p.width, x, xs + (kept + i) * wide * FLOAT)
                clear(p.vectors, dh + i * row * FLOAT)
            add_product(rows, p.vectors, p.size, d, row, 1, weight, PANEL * LANES, p.size * PANEL * LANES, dh, row)
            if p.width and g.drive:
                for i in range(rows):
                    clear(across, dx + i * wide * FLOAT)
                add_product(rows, across, p.size, d, row, 1, weight_ih, PANEL * LANES, p.size * PANEL * LANES, dx, wide)
                for i in range(rows):
                    out = g.drive + (t * p.batch + b + i) * p.width * FLOAT
                    write_row(across, p.width, dx + i * wide * FLOAT, out)
            kept += rows
            if kept + TILE > BLOCK * TILE or t == 0:
                add_product(p.size, p.vectors, kept, sent, 1, row, before, row, PANEL * LANES, dweight, row)
                if p.width:
                    add_product(p.size, across, kept, sent, 1, row, xs, wide, PANEL * LANES, dweight_ih, wide)
                kept = 0
            for i in range(rows):
                state = scratch + 2 * i * STATE * FLOAT
                mark = mark_at(p, b + i, t)
                if integer(state, BEGIN) == t and (mark == FOLD or (mark == GO_ON and g.A_in)):
                    at = slots + i * slot.floats * FLOAT
                    leave_chunk(p, slot, b + i, chunk_end(p, b + i, t), state, at)
                if mark == RESET:
                    set_integer(state, PENDING, 0)
                    clear(p.vectors, dh + i * row * FLOAT)
        for i in range(rows):
            dA = slots + (i * slot.floats + slot.A) * FLOAT
            close_row(p, g, b + i, dh + i * row * FLOAT, dA, scratch + 2 * i * STATE * FLOAT)
    for r in range(p.size):
        write_row(p.vectors, p.size, dweight + r * row * FLOAT, g.weight + (task * p.size + r) * p.size * FLOAT)
        if p.width:
            out = g.weight_ih + (task * p.size + r) * p.width * FLOAT
            write_row(across, p.width, dweight_ih + r * wide * FLOAT, out)
    if p.width:
        write_row(p.vectors, p.size, dbias, g.bias + task * p.size * FLOAT)
    for i in range(2 * p.norms):
        write_row(p.vectors, p.size, norm + i * row * FLOAT, g.norm + (task * 2 * p.norms + i) * p.size * FLOAT)


@inlined
def chunk_end(p: Problem, b: int, begin: int) -> int:
    """Return the step after the chunk that begins at ``begin``."""
    end = begin + 1
    while end < p.steps and mark_at(p, b, end) == GO_ON:
        end += 1
    return end
