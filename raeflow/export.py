"""A detector's graph as a program of torch that runs without raeflow."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from raeflow import checkpoint
from raeflow.errors import RaeflowError
from raeflow.graph import Graph
from raeflow.stored import brief


def program(graph: Graph, example: Tensor, extra: Mapping[str, str], names: str, place: Path) -> Path:
    """Write the graph as a torch.export program (`.pt2`), whole or not at all; returns where.

    Args:
        graph: what is traced, on the CPU, for batches of any size.
        example: two rows as they are stored.
        extra: texts that ride along, by name.
        names: of the members, for refusals.
        place: the file.

    Raises RaeflowError where the name does not end in .pt2, or a member cannot be traced.
    """
    if place.suffix != ".pt2":
        raise RaeflowError(f"{place}: an exported program's name ends in .pt2")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The tensor attributes .*_flat_weights")  # torch's LSTM lists its weights twice
            sizes = ({0: torch.export.Dim("batch", min=1)},)
            traced = torch.export.export(copy.deepcopy(graph).cpu(), (example,), dynamic_shapes=sizes)
    except (RuntimeError, ValueError) as error:
        raise RaeflowError(f"{names}: torch.export cannot trace this model ({brief(error)})") from error
    place.parent.mkdir(parents=True, exist_ok=True)
    archive = io.BytesIO()
    torch.export.save(traced, archive, extra_files=dict(extra))
    checkpoint.write_file(place, lambda temporary: temporary.write_bytes(archive.getbuffer()))
    return place
