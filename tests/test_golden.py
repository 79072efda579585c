"""Fixed-seed losses of every variant, as committed: a refactor reproduces them.

After a change that is meant to change the numbers, write them anew and say why in the commit:

    python tests/test_golden.py [variant ...]
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

from raeflow import variants
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.study import Training
from raeflow.training import Run, scores

FOLDER = Path(__file__).parent / "golden"
SHAPES = [(12,), (2, 20), (1, 9, 8)]


def losses(name: str, shape: tuple[int, ...]) -> dict[str, list[float]]:
    """Losses of each epoch by player, and scores of a few rows after training."""
    noise = torch.Generator().manual_seed(11)
    codes, mixing = torch.rand(160, 3, generator=noise), torch.rand(3, *shape, generator=noise)
    rows = torch.einsum("nk,k...->n...", codes, mixing) / 3 + 0.02 * torch.rand(160, *shape, generator=noise)
    spec = RowSpec(("row",), "list", shape, "float32")
    splits = Splits(spec, fit_scaling("auto", shape, torch.float32, [rows[:128]]), Rows(rows[:128]), Rows(rows[128:]), None, None)
    published = variants.get(name).published(shape)
    sizes = {"layers": (), "kernels": (), "strides": (), "width": 16, "channels": 4, "depth": 2, "latent": 2}
    small = dataclasses.replace(published, **{k: v for k, v in sizes.items() if hasattr(published, k)})
    run = Run(name, dataclasses.asdict(small), splits, Training(epochs=3, batch_size=32, patience=None, device="cpu"), seed=7)
    found: dict[str, list[float]] = {}
    for epoch in run.epochs():
        for key, value in {**{f"loss_{p}": v for p, v in epoch.losses.items()}, "validation_loss": epoch.validation_loss}.items():
            found.setdefault(key, []).append(value)
    found["scores"] = scores(run.model, run.encoding, run.validate)[:4].tolist()
    return found


def write(names: list[str]) -> None:
    for name in names:
        values = {str(shape): losses(name, shape) for shape in SHAPES}
        (FOLDER / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n")
        print(f"wrote {FOLDER / name}.json")


@pytest.mark.parametrize("name", variants.names())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses_are_those_committed(name: str, shape: tuple[int, ...]) -> None:
    golden = json.loads((FOLDER / f"{name}.json").read_text())[str(shape)]
    found = losses(name, shape)
    assert set(found) == set(golden)
    for key, values in golden.items():
        # Kernels of other processors and torch versions round differently; a changed method is further off.
        assert found[key] == pytest.approx(values, rel=1e-3, abs=1e-5), key


if __name__ == "__main__":
    write(sys.argv[1:] or list(variants.names()))
