"""The arms of a gate: what is measured as base and as head, and how each is run.

An arm is given as one of

    .                      this environment, as it is
    a Python interpreter   of another environment; the measuring code is this cnnbench's in both
    a git revision         of the repository around the current folder, which holds the user's models
    key=value,...          this environment, with other settings of every case: runtime, threads, precision, layout,
                           device
"""

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import cnnbench
from cnnbench.errors import InputError, unknown
from cnnbench.records.messages import CHECKOUTS
from cnnbench.records.toolchain import Toolchain, own_toolchain
from cnnbench.runner import git, scratch
from cnnbench.runner.worker_process import HERE, SAFE_PATH, Interpreter
from cnnbench.suite.case import Case, Frozen

INTERPRETERS = ("bin/python", "Scripts/python.exe")
SETTINGS = ("runtime", "threads", "precision", "layout", "allocator", "device")
"""Of a case, those that an arm may set."""

_ABOUT = """
import json, platform
from cnnbench.records.toolchain import own_toolchain
tools = own_toolchain()
import numpy, psutil, pydantic, safetensors
print(json.dumps({"code": tools.code, "versions": dict(tools.versions), "python": platform.python_version()}))
"""
ABOUT_LIMIT_S, ABOUT_BYTES = 60.0, 2**16
_CLEAR = "import sys; sys.stdin.read(); from cnnbench.gate import arms; arms.clear(sys.argv[1])"
KIND = "gate-"
"""Of a gate's folder for temporary files, which has worktrees in it."""


class _About(Frozen):
    """An interpreter, by its own word."""

    code: str
    versions: dict[str, str]
    python: str


@dataclass(frozen=True)
class Arm:
    """One side of a gate."""

    name: str
    """`base` or `head`."""
    text: str
    """As it was given."""
    interpreter: Interpreter = HERE
    source: str = ""
    """What tells its models from another arm's: the revision, the interpreter; empty for this environment."""
    toolchain: Toolchain = field(default_factory=own_toolchain)
    python: str = field(default_factory=platform.python_version)
    """The version of its Python."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What it sets of every case."""

    def case(self, case: Case) -> Case:
        """The case as it is run in this arm."""
        return case.model_copy(update=dict(self.settings))

    def about(self) -> dict[str, str]:
        """What may make its times differ from another arm's, by name."""
        own = {"python": self.python, "interpreter": self.interpreter.python, "revision": self.source or "this"}
        return {**own, **self.toolchain.versions, **{key: str(value) for key, value in self.settings.items()}}


@contextmanager
def open_arms(base: str, head: str) -> Iterator[tuple[Arm, Arm]]:
    """Both arms, with what they need on disk, which is gone afterwards. Raises InputError."""
    with ExitStack() as stack:
        # Both lie at paths of equal length: the size of the environment and of arguments moves a program's stack, and
        # with it its speed (Mytkowicz et al., "Producing wrong data without doing anything obviously wrong", 2009).
        folder = stack.enter_context(scratch.scratch_folder(KIND))
        opened = [_open(name, text, folder / name, stack) for name, text in (("base", base), ("head", head))]
        yield opened[0], opened[1]


def _open(name: str, text: str, folder: Path, stack: ExitStack) -> Arm:
    if text == ".":
        return Arm(name, text)
    if "=" in text:
        return Arm(name, text, settings=_settings(text, f"--{name}"))
    path = Path(text).expanduser()
    if not os.path.isfile(path):  # unlike `is_file`, False for a name that is too long to be one
        return _revision(name, text, folder, stack)
    if not os.access(path, os.X_OK):
        raise InputError(f"--{name}: expected a Python interpreter; {path} cannot be executed")
    package, python = Path(cnnbench.__file__).parent, str(path.absolute())
    shutil.copytree(package, folder / "cnnbench", ignore=shutil.ignore_patterns("__pycache__"))
    return _arm(name, text, Interpreter(python, paths=(folder,)), python)


def _revision(name: str, text: str, folder: Path, stack: ExitStack) -> Arm:
    here = Path.cwd()
    try:
        commit = git.ask(here, "rev-parse", "--verify", "--end-of-options", f"{text}^{{commit}}")
        repository = Path(git.ask(here, "rev-parse", "--show-toplevel")).resolve()
    except git.GitError as error:
        raise InputError(f"--{name}: {_what_else(text)}; {_why_no_revision(text, here, str(error))}") from None
    _forget_dead_gates(repository)
    stack.enter_context(_cleared_if_killed(repository))
    stack.callback(_remove_worktree, repository, folder)
    try:
        git.ask(repository, "worktree", "add", "--detach", "--quiet", str(folder), commit, may_fetch=True)
    except git.GitError as error:
        raise InputError(f"--{name}: {text} could not be checked out beside this one: {error}") from None
    started = folder / here.resolve().relative_to(repository)
    if not started.is_dir():
        raise InputError(f"--{name}: {text} has no folder {started.relative_to(folder)}, where this was started")
    paths = tuple(_inside(sys.path, repository, folder))
    checkouts = {CHECKOUTS: os.pathsep.join([str(repository), str(folder.resolve())])}
    return _arm(name, text, Interpreter(folder=started, paths=paths, variables=checkouts), commit)


def _arm(name: str, text: str, interpreter: Interpreter, source: str) -> Arm:
    about = _ask_about(interpreter, f"--{name}: {text}")
    return Arm(name, text, interpreter, source, Toolchain(about.code, about.versions), about.python)


def _what_else(text: str) -> str:
    """What was expected, and what a folder's interpreter would be."""
    path = Path(text).expanduser()
    if not os.path.isdir(path):
        return "expected `.`, a Python interpreter, a git revision, or settings such as runtime=ort"
    hint = next((f"; its interpreter is {path / part}" for part in INTERPRETERS if (path / part).exists()), "")
    return f"expected an interpreter, a git revision or settings; got the folder {path}{hint}"


def _why_no_revision(text: str, here: Path, said: str) -> str:
    shown = text if len(text) <= 100 else f"{text[:100]}..."
    with contextlib.suppress(git.GitError):
        if git.ask(here, "rev-parse", "--is-shallow-repository") == "true":
            return f"{shown!r} is no revision of this shallow clone; `git fetch --unshallow` gets its history"
        return f"{shown!r} is no revision of this repository"
    return f"{shown!r} is no file, and git says: {said}"


@contextmanager
def _cleared_if_killed(repository: Path) -> Iterator[None]:
    """A process waits for the end of this one, and deletes what it has left if it was killed."""
    waiting = subprocess.Popen(
        [HERE.python, *SAFE_PATH, "-c", _CLEAR, str(repository)],
        env=HERE.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with waiting:
        try:
            yield
        finally:
            waiting.kill()


def clear(repository: str) -> None:
    """Delete what killed gates of a repository have left, and what their workers have."""
    _forget_dead_gates(Path(repository))
    scratch.sweep()


def _forget_dead_gates(repository: Path) -> None:
    """Remove the worktrees of gates that were killed."""
    for left in scratch.leftovers(KIND):
        for name in ("base", "head"):
            _remove_worktree(repository, left / name)
        shutil.rmtree(left, ignore_errors=True)


def _remove_worktree(repository: Path, folder: Path) -> None:
    with contextlib.suppress(git.GitError):  # it is not there, or another repository's
        git.ask(repository, "worktree", "remove", "--force", str(folder))


def _inside(places: Sequence[str], repository: Path, folder: Path) -> Iterator[Path]:
    """The places of modules that lie in the repository, in its other checkout; `src` where there is one."""
    root = repository.resolve()
    found = [Path(place).resolve() for place in places if place]
    inside = [place.relative_to(root) for place in found if place.is_relative_to(root) and ".venv" not in place.parts]
    for place in dict.fromkeys([*inside, Path("src")]):
        if (folder / place).is_dir() and not any(part.startswith((".", "site-packages")) for part in place.parts):
            yield folder / place


def _settings(text: str, option: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for pair in text.split(","):
        key, _, value = (part.strip() for part in pair.partition("="))
        if key not in SETTINGS:
            raise InputError(f"{option}: {unknown('setting', key, SETTINGS)}")
        settings[key] = value
    sample = {"spec": {"model": "lenet5"}, "workload": "inference", "runtime": "eager", "batch": 1}
    try:
        checked = Case.model_validate({**sample, **settings})
    except ValidationError as error:
        detail = error.errors()[0]
        raise InputError(f"{option}: {detail['loc'][0]}: {detail['msg']}; got {detail['input']!r}") from None
    return {key: getattr(checked, key) for key in settings}


def _ask_about(interpreter: Interpreter, where: str) -> _About:
    """Code, versions and Python of an interpreter, by its own word. Raises InputError if it cannot be a worker."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                [interpreter.python, *SAFE_PATH, "-c", _ABOUT],
                env=interpreter.environment(),
                cwd=interpreter.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        except OSError as error:
            raise InputError(f"{where}: expected a Python interpreter; it could not be run: {error.strerror}") from None
        with process:  # what it says is bounded, and so is its time: it may be any program
            timer = threading.Timer(ABOUT_LIMIT_S, process.kill)
            timer.start()
            assert process.stdout is not None
            said = process.stdout.read(ABOUT_BYTES).decode(errors="replace").splitlines()
            process.stdout.close()
            process.wait()
            timer.cancel()
        errors.seek(0)
        words = errors.read(ABOUT_BYTES).decode(errors="replace").strip().splitlines()
    if process.returncode or not said:
        needs = "a Python with what a worker needs (torch, onnxruntime, pydantic, safetensors, psutil)"
        why = words[-1][:200] if words else "it said nothing"
        raise InputError(f"{where}: expected {needs}; {why}; `{interpreter.python} -m pip install cnnbench` brings it")
    with contextlib.suppress(ValidationError):
        return _About.model_validate_json("\n".join(said))
    quiet = "a Python interpreter that prints nothing of its own where workers answer"
    raise InputError(f"{where}: expected {quiet}; got {said[0][:80]!r}")
