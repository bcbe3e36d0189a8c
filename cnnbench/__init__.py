"""cnnbench: which CNN, in which runtime, on which hardware, how fast, and why.

From Python: `cnnbench.load(folder)`, `cnnbench.run(suite)`, `cnnbench.compare(folder, ...)`, `cnnbench.count(model)`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnbench.api import Compared, Results, compare, count, load, run

__version__ = "0.1.0"

__all__ = ["Compared", "Results", "__version__", "compare", "count", "load", "run"]


def __getattr__(name: str) -> object:
    """The functions of `cnnbench.api`, imported when first asked for, so that importing cnnbench is instant."""
    if name in __all__:
        return getattr(import_module("cnnbench.api"), name)
    raise AttributeError(f"module 'cnnbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
