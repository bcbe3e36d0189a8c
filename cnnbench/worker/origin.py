"""Where a user's code is imported from: the folder where the worker starts, at last, and no other checkout of it."""

import os
import site
import sys
from pathlib import Path

from cnnbench.errors import ModelError
from cnnbench.records.messages import CHECKOUTS


def look_here_too() -> None:
    """Have modules be looked for in the current folder, after all other places: nothing in it stands for a library."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def check_origin(model: str) -> None:
    """Raises ModelError if this is another revision and code came from the checkout that it stands beside all the same.

    An editable install may lead there by a hook of the import system, and so may a submodule, which is empty here.
    """
    if CHECKOUTS not in os.environ:
        return
    other, own = os.environ[CHECKOUTS].split(os.pathsep)
    right = [own, *map(os.path.realpath, (sys.prefix, sys.base_prefix, *site.getsitepackages()))]
    for name, module in list(sys.modules.items()):
        place = getattr(module, "__file__", None)
        file = Path(place).resolve() if isinstance(place, str) else None
        if file and file.is_relative_to(other) and not any(map(file.is_relative_to, right)):
            raise ModelError(
                f"model {model!r}: expected the code of another revision; module {name!r} was imported from {file}, "
                "which is not in it: an editable install or a submodule leads there; give the interpreter of an "
                "environment that has the other revision installed"
            )
