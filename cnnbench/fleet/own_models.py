"""Users' own models travel: the source files of their packages, and model and weight files, each by its digest.

The driver lists what the models consist of; a node takes each file by its digest before the command starts, and puts
the packages before all others (PYTHONPATH) and itself where the files' relative paths lead to them. Nothing is
unpickled on the way. What does not travel must be on the node: an installed package, one with compiled code, and files
that the suite names by absolute paths.
"""

import ast
import importlib.machinery
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from cnnbench.errors import InputError
from cnnbench.fleet.artifacts import receive
from cnnbench.fleet.messages import NeededFile, NeededPackage, Own, Sent
from cnnbench.networks import registry
from cnnbench.records import artifact, cache, dataset
from cnnbench.records.toolchain import external_data, find_module
from cnnbench.suite.case import NOISE, PUBLISHED, Case
from cnnbench.suite.load import Suite
from cnnbench.suite.recipe import is_trained

CODE, FILES = "code", "files"
"""The folders of what is sent: of packages, and of files by their paths from the folder of the command."""
INSTALLED = {"site-packages", "dist-packages"}
MAX_PACKAGE_BYTES, MAX_PACKAGE_FILES = 100 * 10**6, 2000
"""Of a package that is sent."""


@dataclass(frozen=True)
class OwnModels:
    """What the models of a suite consist of, and where it lies here."""

    own: Own = field(default_factory=Own)
    places: Mapping[str, Path] = field(default_factory=dict)
    """Of what is sent, by SHA-256."""


def own_models(suite: Suite, cases: Sequence[Case]) -> OwnModels:
    """What the suite's files and the packages of these of its cases are. Raises InputError for a file that cannot go.

    Files are those of all cases, since the node reads the whole suite.
    """
    specs = dict.fromkeys(case.spec for case in cases)
    names = [name for spec in specs for name in (spec.model if spec.is_users_own else None, spec.loss) if name]
    try:
        found, packages = _packages(dict.fromkeys(name.partition(":")[0].partition(".")[0] for name in names))
        files = _files(suite)
        needed = [NeededFile(path=str(path), content=artifact.sealed(path)) for path in files if path.is_absolute()]
        below = {f"{FILES}/{path.as_posix()}": path for path in files if not path.is_absolute()}
        if outside := next((path for path in below.values() if ".." in path.parts), None):
            raise InputError(f"--fleet: {outside}: expected an absolute path, or one below the folder of the command")
        if below and (data := next(_relative_data(suite), None)):
            raise InputError(
                f"--fleet: {data}: expected an absolute path of data, which each node has itself, beside models in "
                "files, which travel"
            )
        sent = {path: _sent(name, path) for name, path in sorted({**found, **below}.items())}
    except OSError as error:
        raise InputError(f"--fleet: {error.filename}: expected a file that can be read; {error.strerror}") from None
    own = Own(sent=tuple(sent.values()), packages=tuple(packages), files=tuple(needed))
    return OwnModels(own, {each.content.sha256: path.absolute() for path, each in sent.items()})


def _sent(name: str, path: Path) -> Sent:
    return Sent(path=name, modified_ns=path.stat().st_mtime_ns, content=artifact.sealed(path))


def _files(suite: Suite) -> dict[Path, None]:
    """Of models and weights, with the files that ONNX files have weights in."""
    found: dict[Path, None] = {}
    for spec in dict.fromkeys(case.spec for case in suite.cases):
        if (spec.is_onnx_file or spec.is_program_file) and not registry.is_in_package(spec.model):
            found[model := Path(spec.model)] = None
            if spec.is_onnx_file:
                found.update(dict.fromkeys(model.parent / name for name in external_data(model.read_bytes())))
        if spec.weights not in (None, PUBLISHED) and not is_trained(spec.weights):  # each node has its own of these
            found[Path(str(spec.weights))] = None
    return found


def _relative_data(suite: Suite) -> Iterator[str]:
    """The folders of data that the suite names by relative paths."""
    named = [case.calibration for case in suite.cases] + [each.data for each in suite.tests.values()]
    for name in [*named, *([suite.input.data] if suite.input else [])]:
        if dataset.parts_of(name)[0] not in (NOISE, *dataset.NAMED) and not Path(name).is_absolute():
            yield name


def _packages(wanted: Iterable[str]) -> tuple[dict[str, Path], list[NeededPackage]]:
    """The files of top-level packages and of what they import, by their places; and the packages that are not sent.

    What they import that is installed, as torch, is left to the nodes: some of it may be optional.
    """
    asked = list(wanted)
    waiting, seen = list(asked), {*sys.stdlib_module_names, "cnnbench"}
    found: dict[str, Path] = {}
    needed = []
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            module = find_module(name)
        except Exception:  # whatever somebody's hook of the import system raises
            module = None
        where = module.submodule_search_locations or [module.origin or ""] if module else []
        places = [Path(each) for each in where if each]
        below = [(place.parent, file) for place in places for file in _in(place)]
        sources = {f"{CODE}/{file.relative_to(parent).as_posix()}": file for parent, file in below}
        why = _stays(places, list(sources.values()))
        if not why:
            found |= sources
            waiting += [each for file in sources.values() if file.suffix == ".py" for each in sorted(_imports(file))]
        elif name in asked or (places and not _is_installed(places)):
            needed.append(_needed(name, why))
    return found, needed


def _in(place: Path) -> Iterator[Path]:
    """The files of a package, or the one of a module; without hidden ones and what Python has compiled."""
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    for file in files:
        parts = file.relative_to(place).parts
        is_left_out = any(part.startswith(".") or part == "__pycache__" or not part.isprintable() for part in parts)
        if not is_left_out and file.is_file():
            yield file


def _is_installed(places: Sequence[Path]) -> bool:
    return any(INSTALLED & set(place.parts) for place in places)


def _stays(places: Sequence[Path], sources: Sequence[Path]) -> str:
    """Why a package is not sent; empty if it is."""
    if not sources:
        return "is not found where the command runs"
    if _is_installed(places):
        return "is installed where the command runs"
    endings = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    if compiled := next((file for file in sources if file.name.endswith(endings)), None):
        return f"has compiled code ({compiled.name})"
    if len(sources) > MAX_PACKAGE_FILES or sum(file.stat().st_size for file in sources) > MAX_PACKAGE_BYTES:
        return f"has more than {MAX_PACKAGE_FILES:,} files or {MAX_PACKAGE_BYTES / 1e6:g} MB"
    return ""


def _imports(file: Path) -> set[str]:
    """The top-level packages that a module names in its imports, wherever they stand in it."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return set()
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in whole | parts}


def _needed(name: str, why: str) -> NeededPackage:
    distribution = next(iter(importlib.metadata.packages_distributions().get(name, [])), "")
    version = importlib.metadata.version(distribution) if distribution else ""
    return NeededPackage(name=name, distribution=distribution, version=version, why=why)


def take(own: Own, place: Path, ask: Callable[[str], Iterator[bytes]]) -> Path | None:
    """Have what was sent in a folder below a place, named by its content; None if there is nothing.

    Raises InputError, with what to install, for what the node lacks and for what arrives damaged; OSError.
    """
    for package in own.packages:
        _check_package(package)
    for needed in own.files:
        _check_file(needed)
    if not own.sent:
        return None
    listed = "".join(f"{each.path}\n{each.content.sha256}\n" for each in own.sent)
    folder = place / f"own-{sha256(listed.encode()).hexdigest()[:16]}"
    if not all(_is_there(folder, each) for each in own.sent):
        shutil.rmtree(folder, ignore_errors=True)
        for each in own.sent:
            file = folder / each.path
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                receive(file, each.content, ask(each.content.sha256))
            except ValueError:
                raise InputError(
                    f"{each.path}: it arrived with another content than it had when the fleet began; repeat the command"
                ) from None
            os.utime(file, ns=(each.modified_ns, each.modified_ns))  # part of the key of an ONNX file's artifact
    return folder


def _is_there(folder: Path, each: Sent) -> bool:
    file = folder / each.path
    return file.is_file() and artifact.sealed(file) == each.content


def _check_package(needed: NeededPackage) -> None:
    what = f"{needed.name!r} {needed.why}, so it does not travel"
    install = f"pip install {needed.distribution}=={needed.version}" if needed.distribution else "install it there"
    try:
        module = find_module(needed.name)
    except Exception:  # whatever somebody's hook of the import system raises
        module = None
    if module is None:
        raise InputError(f"package {what}, and {sys.executable} lacks it: {install}")
    if not needed.distribution:
        return
    try:
        got = importlib.metadata.version(needed.distribution)
    except importlib.metadata.PackageNotFoundError:
        got = "one without a version"
    if got != needed.version:
        raise InputError(f"package {what}; expected version {needed.version}; got {got}: {install}")


def _check_file(needed: NeededFile) -> None:
    path = Path(needed.path)
    got = "there is none" if not path.is_file() else "it has another content"
    if not path.is_file() or artifact.sealed(path) != needed.content:
        raise InputError(
            f"{path}: expected the driver's file, which does not travel because its path is absolute; {got}: copy it "
            "there, or name it by a path below the folder of the command"
        )


def variables(folder: Path | None) -> tuple[Path | None, dict[str, str]]:
    """Where the command starts (None is here) and its environment, for what was sent into a folder."""
    environment = dict(os.environ)
    if folder is None:
        return None, environment
    theirs = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    environment["PYTHONPATH"] = os.pathsep.join([str(folder / CODE), *theirs])
    if not (folder / FILES).is_dir():
        return None, environment
    return folder / FILES, environment | {cache.PLACE: str(cache.cache_folder())}
