"""Commands that are printed for the user to paste: programs of this environment, by name where the shell finds them, else by path."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

_MODULES = {"raeflow": "raeflow.cli", "mlflow": "mlflow"}
"""What runs as `python -m` where a program was not installed as a script."""


def program(name: str) -> str:
    """`raeflow`, `mlflow` or `python` so that a shell in the current folder runs the one of this environment.

    Its bare name where PATH leads there, else its path, relative to the current folder where that is shorter;
    quoted for a shell.
    """
    own = _script(name)
    if own is None:
        return f"{program('python')} -m {_MODULES[name]}" if name in _MODULES else name
    return name if _found(name, own) else shlex.quote(_short(own))


def finding(name: str) -> str:
    """What to put before a command that itself starts this program by its name: nothing, or `PATH=...:"$PATH" `."""
    own = _script(name)
    return "" if own is None or _found(name, own) else f'PATH={shlex.quote(str(own.parent))}:"$PATH" '


def _script(name: str) -> Path | None:
    """Where this environment keeps a program; None where it has none of this name."""
    if name == "python" and sys.executable:
        named = Path(sys.executable).with_name("python")
        return named if named.exists() else Path(sys.executable)
    started = Path(sys.argv[0]) if sys.argv and sys.argv[0] else None
    folders = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))]
    if started is not None and started.name in _MODULES:
        folders.insert(0, started.absolute().parent)
    return next((folder / name for folder in folders if os.access(folder / name, os.X_OK)), None)


def _found(name: str, own: Path) -> bool:
    """Whether PATH leads to this very program: an environment's python is a link to another's, so folders count, not files."""
    found = shutil.which(name)
    if found is None:
        return False
    there = Path(found).absolute()
    return there.parent.samefile(own.parent) or (name != "python" and there.samefile(own))


def _short(path: Path) -> str:
    """The path from here or from the root, whichever is shorter; always with a slash, for a bare name is looked up on PATH."""
    whole, here = str(path), os.path.relpath(path)
    here = here if os.sep in here else f"{os.curdir}{os.sep}{here}"
    return here if len(here) < len(whole) else whole
