"""The kernels of `zoo_ray.networks.triton_norm`, which says what they are for.

Tensors are channels-last: M rows (samples and pixels) of C channels, images of H by W; P results of
HO by WO, half as high and wide if pooled. `won` says which of a window's four values has won (4:
none); without pooling it is the result, where what is positive has won. A sum over the rows goes
over parts of ROWS rows, a tile of TILE at a time; who needs it adds up the parts.
"""

import triton
import triton.language as tl


@triton.jit
def _combine(means, squares, ROWS, M, channel, kept, parts, C, PARTS: tl.constexpr):
    """Mean and mean square deviation of the rows, from those of its parts (Chan's formula)."""
    part = tl.arange(0, PARTS)[:, None]
    there = (part < parts) & kept[None, :]
    count = tl.minimum(ROWS, M - part * ROWS).to(tl.float32)
    count = tl.where(part < parts, count, 0.0)
    at = part * C + channel[None, :]
    mean_of = tl.load(means + at, mask=there, other=0.0)
    square_of = tl.load(squares + at, mask=there, other=0.0)
    mean = tl.sum(count * mean_of, axis=0) / M
    apart = mean_of - mean[None, :]
    return mean, tl.sum(square_of + count * apart * apart, axis=0) / M


@triton.jit
def _sum_parts(sums, channel, kept, parts, C, PARTS: tl.constexpr):
    part = tl.arange(0, PARTS)[:, None]
    at = part * C + channel[None, :]
    return tl.sum(tl.load(sums + at, mask=(part < parts) & kept[None, :], other=0.0), axis=0)


@triton.jit
def statistics(x, means, squares, M, C, ROWS, TILE: tl.constexpr, BLOCK_C: tl.constexpr):
    """Mean and sum of square deviations of a part of the rows."""
    part = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    kept = channel < C
    count = tl.full([], 0.0, tl.float32)
    mean = tl.zeros([BLOCK_C], tl.float32)
    square = tl.zeros([BLOCK_C], tl.float32)
    begin = part * ROWS
    end = tl.minimum(begin + ROWS, M)
    for start in range(begin, end, TILE):
        row = (start + tl.arange(0, TILE))[:, None]
        there = (row < end) & kept[None, :]
        here = tl.load(x + row * C + channel[None, :], mask=there, other=0.0).to(tl.float32)
        new = tl.minimum(TILE, end - start).to(tl.float32)
        mean_of = tl.sum(here, axis=0) / new
        apart = tl.where(there, here - mean_of[None, :], 0.0)
        step = mean_of - mean
        both = count + new
        square += tl.sum(apart * apart, axis=0) + step * step * (count * new / both)
        mean += step * (new / both)
        count = both
    tl.store(means + part * C + channel, mean, mask=kept)
    tl.store(squares + part * C + channel, square, mask=kept)


@triton.jit
def forward(
    x, y, won, means, squares, saved, weight, shift, bias, running_mean, running_var, batches,
    M, P, C, H, W, HO, WO, ROWS, parts, eps, momentum,
    NORM: tl.constexpr, POOL: tl.constexpr, BIAS: tl.constexpr, PARTS: tl.constexpr,
    TILE: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Norm, pool and ReLU of a tile of results; the first tile saves the statistics."""
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    kept = channel < C
    if NORM:
        mean, var = _combine(means, squares, ROWS, M, channel, kept, parts, C, PARTS)
        scale = 1.0 / tl.sqrt(var + eps)
        if tl.program_id(0) == 0:
            tl.store(saved + channel, mean, mask=kept)
            tl.store(saved + C + channel, scale, mask=kept)
            true_mean = mean
            if BIAS:
                true_mean += tl.load(bias + channel, mask=kept, other=0.0)
            old = tl.load(running_mean + channel, mask=kept, other=0.0)
            new = (1 - momentum) * old + momentum * true_mean
            tl.store(running_mean + channel, new, mask=kept)
            old = tl.load(running_var + channel, mask=kept, other=0.0)
            new = (1 - momentum) * old + momentum * (var * M / (M - 1))
            tl.store(running_var + channel, new, mask=kept)
            if tl.program_id(1) == 0:
                tl.store(batches, tl.load(batches) + 1)
        scale *= tl.load(weight + channel, mask=kept, other=0.0)
        added = tl.load(shift + channel, mask=kept, other=0.0)
    result = (tl.program_id(0) * TILE + tl.arange(0, TILE))[:, None]
    there = (result < P) & kept[None, :]
    row = result
    if POOL:
        row = result // (HO * WO) * (H * W) + result // WO % HO * (2 * W) + result % WO * 2
    at = row * C + channel[None, :]
    best = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    if NORM:
        best = (best - mean[None, :]) * scale[None, :] + added[None, :]
    if POOL:
        winner = tl.zeros([TILE, BLOCK_C], tl.int8)
        for place in tl.static_range(1, 4):
            at_place = at + (place // 2 * W + place % 2) * C
            value = tl.load(x + at_place, mask=there, other=0.0).to(tl.float32)
            if NORM:
                value = (value - mean[None, :]) * scale[None, :] + added[None, :]
            # Ties go to the first, and a NaN wins, as in ATen.
            wins = (value > best) | (value != value)
            best = tl.where(wins, value, best)
            winner = tl.where(wins, place, winner).to(tl.int8)
        winner = tl.where(best <= 0, 4, winner).to(tl.int8)
        tl.store(won + result * C + channel[None, :], winner, mask=there)
    best = tl.where(best <= 0, 0.0, best)
    tl.store(y + result * C + channel[None, :], best.to(y.dtype.element_ty), mask=there)


@triton.jit
def gradient_sums(
    x, grad, won, saved, sums, products, P, C, H, W, HO, WO, ROWS,
    POOL: tl.constexpr, TILE: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Of a part of the results: sum of their gradients, and of those times the normed values."""
    part = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    kept = channel < C
    mean = tl.load(saved + channel, mask=kept, other=0.0)
    scale = tl.load(saved + C + channel, mask=kept, other=0.0)
    total = tl.zeros([BLOCK_C], tl.float32)
    product = tl.zeros([BLOCK_C], tl.float32)
    begin = part * ROWS
    end = tl.minimum(begin + ROWS, P)
    for start in range(begin, end, TILE):
        result = (start + tl.arange(0, TILE))[:, None]
        there = (result < end) & kept[None, :]
        at = result * C + channel[None, :]
        if POOL:
            place = tl.load(won + at, mask=there, other=4).to(tl.int32)
            live = there & (place < 4)
            row = result // (HO * WO) * (H * W) + result // WO % HO * (2 * W) + result % WO * 2
            from_x = (row + place // 2 * W + place % 2) * C + channel[None, :]
        else:
            live = there & (tl.load(won + at, mask=there, other=0.0).to(tl.float32) > 0)
            from_x = at
        here = tl.load(grad + at, mask=live, other=0.0).to(tl.float32)
        value = tl.load(x + from_x, mask=live, other=0.0).to(tl.float32)
        total += tl.sum(here, axis=0)
        product += tl.sum(here * ((value - mean[None, :]) * scale[None, :]), axis=0)
    tl.store(sums + part * C + channel, total, mask=kept)
    tl.store(products + part * C + channel, product, mask=kept)


@triton.jit
def backward(
    x, grad, won, saved, sums, products, weight, grad_x, grad_weight, grad_shift,
    M, C, H, W, HO, WO, parts,
    NORM: tl.constexpr, POOL: tl.constexpr, PARTS: tl.constexpr,
    TILE: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of the input; the first tile gives those of weight and shift."""
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    kept = channel < C
    row = (tl.program_id(0) * TILE + tl.arange(0, TILE))[:, None]
    there = (row < M) & kept[None, :]
    at = row * C + channel[None, :]
    if POOL:
        column = row % W
        line = row // W % H
        covered = there & (line < 2 * HO) & (column < 2 * WO)
        result = row // (H * W) * (HO * WO) + line // 2 * WO + column // 2
        from_grad = result * C + channel[None, :]
        place = tl.load(won + from_grad, mask=covered, other=4).to(tl.int32)
        live = covered & (place == line % 2 * 2 + column % 2)
    else:
        from_grad = at
        live = there & (tl.load(won + at, mask=there, other=0.0).to(tl.float32) > 0)
    here = tl.load(grad + from_grad, mask=live, other=0.0).to(tl.float32)
    if NORM:
        mean = tl.load(saved + channel, mask=kept, other=0.0)
        scale = tl.load(saved + C + channel, mask=kept, other=0.0)
        total = _sum_parts(sums, channel, kept, parts, C, PARTS)
        product = _sum_parts(products, channel, kept, parts, C, PARTS)
        if tl.program_id(0) == 0:
            tl.store(grad_weight + channel, product, mask=kept)
            tl.store(grad_shift + channel, total, mask=kept)
        value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        normed = (value - mean[None, :]) * scale[None, :]
        here -= total[None, :] / M + normed * (product[None, :] / M)
        here *= (scale * tl.load(weight + channel, mask=kept, other=0.0))[None, :]
    tl.store(grad_x + at, here.to(grad_x.dtype.element_ty), mask=there)
