"""The arms of a gate: what is measured as base and as head, and how each is run.

An arm is given as one of

    .                      this environment, as it is
    a Python interpreter   of another environment; the measuring code is this cnnbench's in both
    a git revision         of the repository around the current folder, which holds the user's models
    key=value,...          this environment, with other settings of every case: runtime, threads, precision, layout,
                           device
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import cnnbench
from cnnbench.errors import InputError, unknown
from cnnbench.records.artifact import Toolchain, own_toolchain
from cnnbench.runner.worker_process import HERE, Interpreter
from cnnbench.suite.case import Case

SETTINGS = ("runtime", "threads", "precision", "layout", "device")
"""Of a case, those that an arm may set."""

_ABOUT = """
import json, platform
from cnnbench.records.artifact import own_toolchain
tools = own_toolchain()
import numpy, psutil, pydantic, safetensors
print(json.dumps({"code": tools.code, "versions": dict(tools.versions), "python": platform.python_version()}))
"""


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
    python: str = ""
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
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cnnbench-gate-")))
        opened = [_open(name, text, scratch / name, stack) for name, text in (("base", base), ("head", head))]
        yield opened[0], opened[1]


def _open(name: str, text: str, folder: Path, stack: ExitStack) -> Arm:
    if text == ".":
        return Arm(name, text, python=_version_here())
    if "=" in text:
        return Arm(name, text, settings=_settings(text, f"--{name}"), python=_version_here())
    path = Path(text).expanduser()
    if path.is_file():
        if not os.access(path, os.X_OK):
            raise InputError(f"--{name}: expected a Python interpreter; {path} cannot be executed")
        return _another_python(name, text, path.absolute(), folder)
    if path.is_dir():
        hint = next((str(path / part) for part in ("bin/python", "Scripts/python.exe") if (path / part).exists()), "")
        raise InputError(
            f"--{name}: expected an interpreter, a git revision or settings; got the folder {path}"
            + (f"; its interpreter is {hint}" if hint else "")
        )
    return _revision(name, text, folder, stack)


def _another_python(name: str, text: str, python: Path, folder: Path) -> Arm:
    package = Path(cnnbench.__file__).parent
    shutil.copytree(package, folder / "cnnbench", ignore=shutil.ignore_patterns("__pycache__"))
    interpreter = Interpreter(str(python), paths=(folder,))
    about = _ask_about(interpreter, f"--{name}: {text}")
    return Arm(name, text, interpreter, str(python), Toolchain(about["code"], about["versions"]), about["python"])


def _revision(name: str, text: str, folder: Path, stack: ExitStack) -> Arm:
    top = _git("rev-parse", "--show-toplevel")
    commit = _git("rev-parse", "--verify", "--quiet", f"{text}^{{commit}}") if top else None
    if top is None or commit is None:
        why = "is no revision of this repository" if top else "is no file, and the current folder is in no repository"
        raise InputError(
            f"--{name}: expected `.`, a Python interpreter, a git revision, or settings such as runtime=ort; "
            f"{text!r} {why}"
        )
    if _git("worktree", "add", "--detach", "--quiet", str(folder), commit) is None:
        raise InputError(f"--{name}: git could not check out {text} beside this one; `git worktree prune` may help")
    stack.callback(_git, "worktree", "remove", "--force", str(folder), at=top)
    repository = Path(top)
    here = folder / Path.cwd().resolve().relative_to(repository.resolve())
    if not here.is_dir():
        raise InputError(f"--{name}: {text} has no folder {here.relative_to(folder)}, where this was started")
    interpreter = Interpreter(folder=here, paths=tuple(_inside(sys.path, repository, folder)))
    about = _ask_about(interpreter, f"--{name}: {text}")
    return Arm(name, text, interpreter, commit, Toolchain(about["code"], about["versions"]), about["python"])


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


def _ask_about(interpreter: Interpreter, where: str) -> Any:
    """Code, versions and Python of an interpreter, by its own word. Raises InputError if it cannot be a worker."""
    command = [interpreter.python, "-c", _ABOUT]
    try:
        done = subprocess.run(
            command,
            env=interpreter.environment(),
            cwd=interpreter.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{where}: expected a Python interpreter; it could not be run: {error}") from None
    if done.returncode != 0:
        words = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InputError(
            f"{where}: expected a Python with what a worker needs (torch, onnxruntime, pydantic, safetensors, psutil); "
            f"{words}; `{interpreter.python} -m pip install cnnbench` brings it"
        )
    return json.loads(done.stdout)


def _version_here() -> str:
    return sys.version.partition(" ")[0]


def _git(*words: str, at: str | None = None) -> str | None:
    done = subprocess.run(["git", *(["-C", at] if at else []), *words], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
