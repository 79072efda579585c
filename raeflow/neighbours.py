"""Nearest rows of a bank by Euclidean distance: one matrix product and a `topk` of fixed size, so that it exports.

Shapes: B rows, N rows of the bank, D values, K neighbours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GROUP = 16
"""Rows of the bank among which the nearest is found before the K nearest are: a `topk` over all N takes longer than the product."""


def padded(bank: Tensor) -> Tensor:
    """(N, D) with rows of infinity added up to a whole number of groups; nobody's neighbours, as `norms` gives them."""
    missing = -len(bank) % GROUP
    return torch.cat([bank, bank.new_full((missing, bank.shape[1]), math.inf)]) if missing else bank


def norms(bank: Tensor) -> Tensor:
    """(N,): squared lengths of the bank's rows."""
    return bank.square().sum(1)


def nearest(x: Tensor, bank: Tensor, lengths: Tensor, k: int) -> Tensor:
    """(B, K) int64 places of the K nearest rows of a bank (N, D), in no order.

    Args:
        x: (B, D).
        bank: (N, D), N a multiple of `GROUP` (`padded`), with zeros in place of what `padded` added.
        lengths: (N,) squared lengths, infinite where a row is no row.
        k: neighbours, at most N.
    """
    # |x - b|^2 without |x|^2, which is the same for all rows of the bank.
    apart_BN = torch.addmm(lengths, x, bank.T, alpha=-2.0)
    groups = bank.shape[0] // GROUP
    if groups <= 2 * k:
        return apart_BN.topk(k, largest=False, sorted=False).indices
    # The K nearest rows lie in the K groups with the nearest rows: row n is in group n % groups.
    least_BG = apart_BN.view(-1, GROUP, groups).amin(1)
    chosen_BK = least_BG.topk(k, largest=False, sorted=False).indices
    offsets = torch.arange(GROUP, device=x.device) * groups
    candidates_BC = (chosen_BK.unsqueeze(2) + offsets).flatten(1)
    best_BK = apart_BN.gather(1, candidates_BC).topk(k, largest=False, sorted=False).indices
    return candidates_BC.gather(1, best_BK)


def kept(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """A bank (N, D) of rows (M, D) and its lengths (N,), as `nearest` takes them; so few rows that there are no K are repeated."""
    if len(rows) < k:
        rows = rows.repeat(-(-k // len(rows)), 1)
    bank = padded(rows)
    return torch.where(bank.isinf(), 0.0, bank), norms(bank)


def distances(x: Tensor, bank: Tensor, lengths: Tensor, k: int) -> Tensor:
    """(B, K): Euclidean distances of rows (B, D) to their K nearest."""
    return differences(x, bank, lengths, k).square().sum(2).sqrt()


def differences(x: Tensor, bank: Tensor, lengths: Tensor, k: int) -> Tensor:
    """(B, K, D): a row less each of its K nearest, by subtraction: the product alone loses small distances."""
    return x.unsqueeze(1) - bank[nearest(x, bank, lengths, k)]


def spread_out(rows: Tensor, count: int, seed: int = 0) -> Tensor:
    """(count,) places of rows (N, D) that cover the others best: the greedy k-centre algorithm.

    Gonzalez 1985; as a coreset Sener & Savarese 2018, "Active Learning for Convolutional Neural Networks: A Core-Set
    Approach", arXiv:1708.00489. It starts from a row of chance and takes the row farthest from those it has, time after
    time, so it keeps just the lonely rows: for clean rows alone.
    """
    count = min(count, len(rows))
    first = int(torch.randint(len(rows), (1,), generator=torch.Generator().manual_seed(seed)))
    chosen, lengths = [first], norms(rows)
    apart = torch.full((len(rows),), math.inf, dtype=rows.dtype, device=rows.device)
    while len(chosen) < count:
        last = rows[chosen[-1]]
        apart = torch.minimum(apart, lengths - 2 * (rows @ last) + last @ last)
        apart[chosen[-1]] = -math.inf
        chosen.append(int(apart.argmax()))
    return torch.tensor(chosen, device=rows.device)
