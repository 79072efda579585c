"""Files on their way between the nodes of a cluster."""

from __future__ import annotations

import tempfile
from pathlib import Path

from raeflow import checkpoint
from raeflow.stored import save_fitted
from raeflow.training import Fitted


def node() -> str:
    """Id of the node this process runs on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def deliver(fitted: Fitted, folder: Path, home: str) -> None:
    """Write a trained model to `folder` on the node `home`, whichever node this is; no shared disk is needed."""
    if node() == home:
        save_fitted(fitted, folder)
        return
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with tempfile.TemporaryDirectory() as temporary:
        place = save_fitted(fitted, Path(temporary) / "model")
        files = {file.name: file.read_bytes() for file in place.iterdir()}
    there = NodeAffinitySchedulingStrategy(home, soft=False)
    ray.get(ray.remote(_write).options(num_cpus=0, scheduling_strategy=there).remote(folder, files))


def _write(folder: Path, files: dict[str, bytes]) -> None:
    def write(temporary: Path) -> None:
        for name, content in files.items():
            (temporary / name).write_bytes(content)

    checkpoint.write_folder(folder, write)
