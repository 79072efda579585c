"""Where a result comes from: code, packages, machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from typing import Any

GIT_PATIENCE_S = 10


def environment() -> dict[str, Any]:
    """Versions of Python, raeflow and every installed package, and the machine; plain JSON values."""
    import torch

    cuda = torch.cuda.is_available()
    packages = {d.name: d.version for d in metadata.distributions()}
    return {
        "version": version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "gpus": torch.cuda.device_count() if cuda else 0,
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "ray": packages.get("ray", ""),
        "packages": dict(sorted(packages.items(), key=lambda p: p[0].lower())),
    }


def version() -> str:
    """Version of raeflow."""
    return metadata.version("raeflow")


def git() -> dict[str, str]:
    """Commit, branch and state of the current folder's repository, as MLflow tags; empty outside of one."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return {}
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": _git("rev-parse", "--abbrev-ref", "HEAD"),
        "mlflow.source.git.dirty": str(bool(changed)).lower(),
    }


def source() -> dict[str, str]:
    """Tags by which MLflow shows who ran what."""
    from mlflow.tracking.context.default_context import DefaultRunContext

    tags: dict[str, str] = DefaultRunContext().tags()  # type: ignore[no-untyped-call]
    return {**tags, "mlflow.source.name": "raeflow"}


def requirements() -> list[str]:
    """What a served detector needs, in raeflow's own tested ranges; given whole, so that MLflow infers nothing by importing."""
    needed = {"mlflow", "numpy", "pillow", "pyarrow", "safetensors", "scikit-learn", "torch"}
    ranges = [r for r in metadata.requires("raeflow") or [] if "extra ==" not in r and re.split(r"[^\w-]", r)[0] in needed]
    return [f"raeflow=={version()}", *ranges]


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=GIT_PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
