"""What builds and runs models: the installed libraries, the package's own code, and the file of a user's own model."""

import ast
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType

from cnnbench.errors import InputError
from cnnbench.networks import registry
from cnnbench.records import files, trained
from cnnbench.suite.case import ModelSpec

LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime-gpu",
    "onnxruntime",
    "fvcore",
    "torchao",
)
ENGINES = ("openvino",)
"""What runs models and builds none, so that no artifact depends on it."""
BUILDERS = ("networks/**/*.py", "suite/optimizer.py", "worker/**/*.py")
"""The modules that build, count, export and verify models, with the optimizer whose step is exported."""


@cache
def library_versions() -> Mapping[str, str]:
    """The installed versions of what builds and runs models, without importing any of it."""
    return _versions(LIBRARIES)


@cache
def engine_versions() -> Mapping[str, str]:
    """Those of engines that are installed beside them."""
    return _versions(ENGINES)


def _versions(names: Iterable[str]) -> Mapping[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return MappingProxyType(found)


@cache
def instruction_set() -> str:
    """A digest of what this processor can execute, which machine code depends on."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else [platform.processor()]
    flags = sorted({line for line in lines if line.startswith(("flags", "Features"))}) or lines[:1]
    return sha256("".join([platform.machine(), *flags]).encode()).hexdigest()[:8]


INT8_FLAGS = ("amx_int8", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "i8mm", "asimddp")
"""Of processors that add up products of 8-bit integers without saturation."""


@cache
def int8_instructions() -> tuple[str, ...]:
    """Those of this processor, by the names that Linux has for them."""
    file = Path("/proc/cpuinfo")
    flags = set(file.read_text().split()) if file.exists() else set()
    return tuple(name for name in INT8_FLAGS if name in flags)


@dataclass(frozen=True)
class Toolchain:
    """What builds artifacts: the code, as a digest, and the libraries' versions."""

    code: str
    versions: Mapping[str, str]


@cache
def own_toolchain() -> Toolchain:
    """That of this process."""
    return Toolchain(_code_digest(), library_versions())


def _code_digest() -> str:
    """A digest of the code that builds and counts models, so that a change of it is never hidden by the cache."""
    package = Path(__file__).parent.parent
    digest = sha256()
    for file in sorted(file for pattern in BUILDERS for file in package.glob(pattern)):
        digest.update(meaning(file.read_text()).encode())
    return digest.hexdigest()


def meaning(source: str) -> str:
    """A module's syntax tree as text, without comments, docstrings and the descriptions of constants and fields."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            body[:] = [each for each in body if not _is_description(each)]
    return ast.dump(tree)


def _is_description(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def source_digest(spec: ModelSpec) -> str:
    """A digest of the files that a model stands in, without importing them; empty for a model without any.

    These are a user's module, that of a loss, an exported program, an ONNX file (with names, sizes and times of the
    files that hold its weights), and a file of weights.
    """
    own = _model_digest(spec) + (_module_digest(spec.loss) if spec.loss else "")
    try:
        return own + files.digest(trained.weights_file(spec)) if spec.weights else own
    except OSError:  # told where the weights are loaded
        return own


def _model_digest(spec: ModelSpec) -> str:
    try:
        if spec.is_program_file:
            return files.digest(Path(spec.model))
        if spec.is_onnx_file:
            digest = sha256(content := files.read(file := registry.file_of(spec.model), MAX_ONNX_BYTES))
            for name in external_data(content):
                about = (file.parent / name).stat()
                digest.update(f"{name} {about.st_size} {about.st_mtime_ns}".encode())
            return digest.hexdigest()
    except (OSError, InputError):  # told where the model is built
        return ""
    return _module_digest(spec.model) if spec.is_users_own else ""


MAX_ONNX_BYTES = 2**31
"""Of a message of protobuf."""


def external_data(content: bytes) -> list[str]:
    """The files below an ONNX file's folder that it has tensors in (onnx.proto, `external_data`), by its content."""
    names = {_location(match) for match in _LOCATION.finditer(content)}
    return sorted(name for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts)


_LOCATION = re.compile(rb"\n\x08location\x12(?:([\x00-\x7f])|([\x80-\xff])([\x00-\x7f]))")
"""A StringStringEntryProto with the key `location`, up to the length of its value."""


def _location(match: re.Match[bytes]) -> str:
    short, low, high = match.groups()
    size = short[0] if short else (low[0] & 0x7F) + (high[0] << 7)
    return match.string[match.end() : match.end() + size].decode(errors="replace")


def _module_digest(name: str) -> str:
    """Of the file that holds the module of `package.module:callable`."""
    try:
        found = find_module(name.partition(":")[0])
        origin = found and found.origin
        return sha256(files.read(Path(origin))).hexdigest() if origin else ""
    except Exception:  # whatever somebody's hook of the import system raises
        return ""


def find_module(module: str) -> ModuleSpec | None:
    """Where a module is, found as a worker finds it, with the current folder at last; no package is imported.

    Raises whatever somebody's hook of the import system raises.
    """
    found, places = None, None
    for depth, name in enumerate(accumulate(module.split("."), "{}.{}".format)):
        found = next((spec for finder in sys.meta_path if (spec := finder.find_spec(name, places))), None)
        if found is None and depth == 0:
            found = PathFinder.find_spec(name, [os.getcwd()])
        if found is None:
            return None
        places = found.submodule_search_locations
    return found
