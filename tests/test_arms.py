"""Arms of a gate: what is no interpreter or no revision is told in one line, and a revision's code is its own."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from cnnbench.errors import InputError, ModelError
from cnnbench.gate import arms
from cnnbench.gate.arms import Arm, open_arms
from cnnbench.records.messages import CHECKOUTS
from cnnbench.records.toolchain import Toolchain
from cnnbench.runner import git, scratch
from cnnbench.runner.worker_process import HERE, Interpreter
from cnnbench.worker.origin import check_origin


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ('#!/bin/sh\necho welcome\necho \'{"code": "a", "versions": {}, "python": "3"}\'\n', "got 'welcome'"),
        ("#!/bin/sh\nexit 0\n", "it said nothing"),
        ("#!/bin/sh\necho '[]'\n", r"got '\[\]'"),
        ('#!/bin/sh\necho \'{"code": 1, "versions": [], "python": {}}\'\n', "prints nothing of its own"),
        ("#!/bin/sh\nprintf '\\377\\376'\n", "prints nothing of its own"),
        ("#!/bin/sh\nexec yes\n", "expected a Python"),
        ("#!/bin/sh\nexec sleep 100\n", "it said nothing"),
        ("#!/bin/sh\nkill -9 $$\n", "expected a Python with what a worker needs"),
        ("#!/bin/sh\necho no torch >&2; exit 1\n", "no torch"),
        ('#!/bin/sh\necho \'{"code": "a", "versions": {}, "python": "3"}\'; exit 1\n', "with what a worker needs"),
        ("nothing\n", "could not be run"),
    ],
)
def test_a_program_that_is_no_interpreter_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    monkeypatch.setattr(arms, "ABOUT_LIMIT_S", 1.0 if "exec" in program else 60.0)
    file = tmp_path / "python"
    file.write_text(program)
    file.chmod(0o755)
    with pytest.raises(InputError, match=message) as error, open_arms(str(file), "."):
        pass
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("threads", ["0", "-5", "99999999", "1.5", "x", "9" * 5000])
def test_threads_have_bounds(threads: str) -> None:
    with pytest.raises(InputError, match="--base: threads"), open_arms(f"threads={threads}", "."):
        pass


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "repository"
    (folder / "topic").mkdir(parents=True)
    (folder / "topic" / "file").write_text("x")
    monkeypatch.chdir(folder)
    for words in (["init", "-q", "."], ["add", "."], ["commit", "-qm", "one"], ["branch", "topic"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], check=True, capture_output=True)
    return folder


def worktrees(folder: Path) -> int:
    return git.ask(folder, "worktree", "list", "--porcelain").count("worktree ")


@pytest.mark.parametrize("text", ["HEAD~999", "--all", "HEAD:topic/file", "HEAD^{tree}", ":/x", "n" * 5000, "a\nb"])
def test_what_is_no_revision_is_refused_and_named(repository: Path, text: str) -> None:
    with pytest.raises(InputError, match="is no revision of this repository"), open_arms(text, "."):
        pass
    assert worktrees(repository) == 1


def test_a_folder_of_a_branchs_name_hides_no_branch(repository: Path) -> None:
    with open_arms("topic", ".") as (base, head):
        assert base.source == git.ask(repository, "rev-parse", "topic")
        assert worktrees(repository) == 2
        assert [(arm.name, arm.text) for arm in (base, head)] == [("base", "topic"), ("head", ".")]
        assert base.interpreter.folder is not None
        assert (base.interpreter.folder / "topic" / "file").read_text() == "x"
        both = os.pathsep.join([str(repository), str(base.interpreter.folder.resolve())])
        assert (base.interpreter.variables, head.interpreter) == ({CHECKOUTS: both}, HERE)
        assert (base.toolchain, base.python, base.settings) == (head.toolchain, head.python, {})
    assert worktrees(repository) == 1
    with pytest.raises(InputError, match="got the folder"), open_arms(str(repository / "topic"), "."):
        pass


def test_outside_a_repository_git_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="git says: fatal: not a git repository"), open_arms("main", "."):
        pass


def test_a_shallow_clone_says_that_it_is_one(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["git", "clone", "-q", "--depth", "1", f"file://{repository}", str(tmp_path / "clone")]
    subprocess.run(words, check=True, capture_output=True)
    monkeypatch.chdir(tmp_path / "clone")
    with pytest.raises(InputError, match=r"HEAD~1.*shallow clone; `git fetch --unshallow`"), open_arms("HEAD~1", "."):
        pass


def test_the_worktree_of_a_gate_that_was_killed_goes_with_the_next(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead, alive = (tmp_path / f"{scratch.PREFIX}{arms.KIND}{pid}-x" for pid in (ended.pid, os.getpid()))
    for folder in (dead, alive):
        git.ask(repository, "worktree", "add", "--detach", str(folder / "base"), "HEAD")
    with open_arms("topic", "."):
        assert not dead.exists()
        assert alive.exists()
        assert worktrees(repository) == 3


def test_a_gate_that_is_killed_leaves_nothing(repository: Path, tmp_path: Path) -> None:
    script = (
        "import time; from cnnbench.gate.arms import open_arms; from cnnbench.runner.scratch import scratch_folder\n"
        "with open_arms('topic', '.'), scratch_folder(): print('ready', flush=True); time.sleep(60)"
    )
    command, there = [sys.executable, "-c", script], {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=there) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        assert worktrees(repository) == 2
        run.kill()
    ends_s = time.monotonic() + 30
    while list(tmp_path.glob(f"{scratch.PREFIX}*")) and time.monotonic() < ends_s:
        time.sleep(0.05)
    assert not list(tmp_path.glob(f"{scratch.PREFIX}*"))
    assert worktrees(repository) == 1


def test_code_of_the_checkout_that_a_revision_stands_beside_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, worktree = tmp_path / "checkout", tmp_path / "worktree"
    module = ModuleType("nets_of_mine")
    monkeypatch.setitem(sys.modules, "nets_of_mine", module)
    monkeypatch.setenv(CHECKOUTS, os.pathsep.join([str(checkout), str(worktree)]))
    module.__file__ = str(worktree / "nets_of_mine.py")
    check_origin("nets_of_mine:build")
    module.__file__ = str(checkout / "nets_of_mine.py")
    with pytest.raises(ModelError, match=r"'nets_of_mine' was imported from .*checkout/nets_of_mine\.py, which is not"):
        check_origin("nets_of_mine:build")
    monkeypatch.delenv(CHECKOUTS)
    check_origin("nets_of_mine:build")


def test_what_an_arm_says_of_itself_is_python_interpreter_revision_versions_and_settings() -> None:
    toolchain = Toolchain("code", {"torch": "2.14"})
    arm = Arm("head", "x", Interpreter("/usr/bin/python"), "abc", toolchain, "3.12", {"threads": 2})
    own = {"python": "3.12", "interpreter": "/usr/bin/python", "revision": "abc"}
    assert arm.about() == {**own, "torch": "2.14", "threads": "2"}
    assert Arm("base", ".", toolchain=toolchain).about()["revision"] == "this"


def test_places_of_modules_inside_the_repository_are_looked_for_in_its_other_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of installed packages, hidden ones, those outside, or those that are not there; `src` always."""
    repository, folder = tmp_path / "repository", tmp_path / "other"
    for name in ("src", "lib", ".venv/lib", ".hidden", "site-packages"):
        (repository / name).mkdir(parents=True)
        (folder / name).mkdir(parents=True)
    (repository / "gone").mkdir()
    monkeypatch.chdir(repository)  # where an empty place would be
    names = ("lib", ".venv/lib", ".hidden", "gone", "site-packages", "lib")
    places = ["", str(tmp_path), *(str(repository / name) for name in names)]
    assert list(arms._inside(places, repository, folder)) == [folder / "lib", folder / "src"]
    assert list(arms._inside([str(repository)], repository, folder)) == [folder, folder / "src"]
    assert list(arms._inside([], repository, tmp_path)) == []


def test_a_name_that_is_no_revision_is_quoted_up_to_a_hundred_letters(repository: Path) -> None:
    for length, shown in ((100, f"'{'n' * 100}' is"), (101, f"'{'n' * 100}...' is")):
        with pytest.raises(InputError, match=shown.replace(".", r"\.")), open_arms("n" * length, "."):
            pass


def test_a_revision_is_used_from_the_folder_where_this_was_started(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository / "topic")
    with open_arms(".", "HEAD") as (_, head):
        assert head.interpreter.folder is not None
        assert [file.name for file in head.interpreter.folder.iterdir()] == ["file"]
    (repository / "new").mkdir()
    monkeypatch.chdir(repository / "new")
    with (
        pytest.raises(InputError, match="--head: HEAD has no folder new, where this was started"),
        open_arms(".", "HEAD"),
    ):
        pass
    assert worktrees(repository) == 1


def test_another_interpreter_gets_a_copy_of_the_measuring_code_and_speaks_for_itself(tmp_path: Path) -> None:
    file = tmp_path / "python"
    file.write_text('#!/bin/sh\necho \'{"code": "a", "versions": {"torch": "1"}, "python": "3.9"}\'\n')
    with pytest.raises(InputError, match=f"--base: expected a Python interpreter; {file} cannot be executed"):
        open_arms(str(file), ".").__enter__()
    file.chmod(0o755)
    with open_arms(".", str(file)) as (_, head):
        (place,) = head.interpreter.paths
        assert (place / "cnnbench" / "gate" / "arms.py").read_text() == Path(arms.__file__).read_text()
        assert not list(place.rglob("__pycache__"))
        assert (head.name, head.source, head.interpreter.python) == ("head", str(file), str(file))
        assert (head.toolchain, head.python) == (Toolchain("a", {"torch": "1"}), "3.9")
        assert place.name == "head"
    assert not place.exists()


def test_a_folder_is_told_with_the_interpreter_that_it_has(tmp_path: Path) -> None:
    for interpreter, message in (
        ("", f"got the folder {tmp_path}; "),
        ("bin/python", f"its interpreter is {tmp_path}/bin/p"),
    ):
        if interpreter:
            (tmp_path / interpreter).parent.mkdir()
            (tmp_path / interpreter).touch()
        with pytest.raises(InputError, match=message), open_arms(str(tmp_path), "."):
            pass


def test_settings_are_read_as_a_cases_own() -> None:
    with open_arms("threads = 2, precision=amp-bf16,runtime=eager", "layout=channels_last") as (base, head):
        assert base.settings == {"threads": 2, "precision": "amp-bf16", "runtime": "eager"}
        assert (head.settings, head.source, head.name) == ({"layout": "channels_last"}, "", "head")
