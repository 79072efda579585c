"""`cluster.yaml` passes the checks that `ray up` makes, with no cloud at hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

PATH = Path(__file__).parents[1] / "cluster.yaml"


def validated(config: dict[str, Any]) -> dict[str, Any]:
    util = pytest.importorskip("ray.autoscaler._private.util")
    prepared: dict[str, Any] = util.prepare_config(copy.deepcopy(config))
    util.validate_config(prepared)
    return prepared


@pytest.fixture
def config() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(PATH.read_text())
    return found


def test_ray_takes_it(config: dict[str, Any]) -> None:
    validated(config)


def test_gpu_workers_come_and_go_beside_a_cpu_head(config: dict[str, Any]) -> None:
    prepared = validated(config)
    gpu = prepared["available_node_types"]["gpu"]
    assert prepared["head_node_type"] == "head"
    assert gpu["min_workers"] == 0 < gpu["max_workers"] <= prepared["max_workers"]


def test_nodes_are_started_by_the_projects_own_environment_with_a_token(config: dict[str, Any]) -> None:
    prepared = validated(config)
    starts = [c for name in ("head", "worker") for c in prepared[f"{name}_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in c and "$HOME/env/bin" in c for c in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert any("~/raeflow" in c for c in prepared["setup_commands"])


def test_it_holds_no_secret() -> None:
    text = PATH.read_text().lower()
    assert not any(word in text for word in ("akia", "secret", "private_key", "password"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.update(head_node_type="nobody"),
        lambda c: c.update(unknown=1),
        lambda c: c["available_node_types"]["gpu"].update(min_workers=9),
    ],
)
def test_the_check_would_notice(config: dict[str, Any], spoil: Any) -> None:
    spoil(config)
    with pytest.raises(Exception, match=r".+"):  # Ray raises several kinds
        validated(config)
