"""The rooms import one another in one direction, heavy libraries stay in their rooms, and imports are lazy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import raeflow

PACKAGE = Path(raeflow.__file__).parent
# Each room may import itself and the rooms before it.
ORDER = [
    "errors", "commands", "timeline", "events", "study", "data", "devices", "learned", "neighbours", "backbones", "variants", "heads",
    "checkpoint", "metrics", "series_metrics", "training", "pretrain", "health", "stored", "synthetic", "synthetic_tables", "selection",
    "space", "calibration", "committees", "graph", "export", "readings", "detector", "scoring", "report", "tracking", "cluster",
    "pipeline", "memory", "sklearn", "init", "verbs", "cli",
]  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, runtime_only: bool = True) -> set[str]:
    """Full names of modules that a file imports, those for type checkers alone left out."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if runtime_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            found.update({node.module} | {f"{node.module}.{alias.name}" for alias in node.names})
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


@pytest.mark.parametrize(
    "path", [f for f in FILES if f.name != "__init__.py" or f.parent != PACKAGE], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_rooms_import_only_the_rooms_before_them(path):
    own = room(path)
    assert own in ORDER, f"{own} has no place in the order of rooms"
    allowed = set(ORDER[: ORDER.index(own) + 1])
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "raeflow" and len(parts) > 1 and (parts[1] in ORDER):
            assert parts[1] in allowed, f"{path.relative_to(PACKAGE)} imports {name}"


@pytest.mark.parametrize(("library", "home"), [("ray", "cluster"), ("mlflow", "tracking")])
def test_a_cluster_library_stays_in_its_room(library, home):
    guests = {room(f) for f in FILES if any(n.split(".")[0] == library for n in imports(f, runtime_only=False))}
    assert guests == {home}


def test_import_raeflow_loads_nothing_heavy():
    code = (
        "import sys, raeflow, raeflow.cli; raeflow.Study; raeflow.cli.parser();"
        "print([m for m in ('torch', 'ray', 'mlflow', 'pyarrow', 'numpy', 'optuna', 'matplotlib') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_every_public_name_resolves():
    assert {name for name in raeflow.__all__ if getattr(raeflow, name)} == set(raeflow.__all__)
    with pytest.raises(AttributeError):
        raeflow.nothing  # noqa: B018
