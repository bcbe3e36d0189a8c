"""Whether this machine can compile what PyTorch writes for it. Importing this imports no part of PyTorch's compiler."""

from cnnbench.errors import WorkerError


def check_compiler(what: str) -> None:
    """Raises WorkerError where nothing compiles the code that torch writes for the CPU."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        raise WorkerError(f"{what} needs a C++ compiler such as g++: {type(error).__name__}") from None
