"""Where tensors live and how many are handled at a time: device, threads, order in memory, rows of a pass."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from raeflow.data.rows import Resident
from raeflow.errors import RaeflowError

WIDE = 8
"""What scoring makes of a row besides (distances to a bank) may take so many times as many values: it is read once."""
SCORE_BATCHES = {"cpu": (4, 4096, 1 << 16), "cuda": (64, 1 << 16, 1 << 22)}
"""Fewest and most rows to score at a time, and most values: on a CPU as many as its second-level cache takes, with activations."""


def score_batch(shape: tuple[int, ...], device: torch.device, width: int = 0) -> int:
    """Rows to score at a time, fewer the larger they are (on a CPU twice as fast for images as large batches).

    `width` counts the values that scoring a row takes besides its own, where that is known.
    """
    fewest, most, values = SCORE_BATCHES.get(device.type, SCORE_BATCHES["cuda"])
    return max(fewest, min(most, values // math.prod(shape), WIDE * values // max(width, 1)))


def device_of(module: nn.Module) -> torch.device:
    """Where a module is: its parameters, or its buffers where it has none; the CPU where it has neither."""
    tensor = next(itertools.chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def resolve_device(device: str) -> torch.device:
    """auto takes cuda where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise RaeflowError(f"Training(device={device!r}): this machine has no such device ({str(error).splitlines()[0]})") from error


def memory_format(device: torch.device, shape: tuple[int, ...]) -> torch.memory_format:
    """Order of images in memory: a GPU's tensor cores take them with channels last; backbones see to CPUs themselves."""
    return torch.channels_last if device.type == "cuda" and len(shape) == 3 else torch.contiguous_format


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many torch threads inside, as many as before afterwards; None changes nothing."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def to_device(rows: Any, device: torch.device) -> Any:
    """Resident rows move once, whole, to an accelerator; streams stay where they are."""
    return rows.to(device) if isinstance(rows, Resident) and device.type != "cpu" else rows
