"""A command ends with an exit code that means one thing, whatever its output, its terminal or a signal does."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer

from cnnbench import cli
from cnnbench.errors import InputError, WorkerHung


def exit_code(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> int:
    """Of the command line, when its command does this."""
    app = typer.Typer()
    app.command()(lambda: act())
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["cnnbench"])
    for number in (signal.SIGHUP, signal.SIGTERM):  # as in a terminal, whatever started these tests
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert isinstance(end.value.code, int)
    return end.value.code


def raising(error: BaseException) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


def sending(number: int) -> Callable[[], object]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("act", "code", "said"),
    [
        (lambda: None, 0, ""),
        (raising(typer.Exit(1)), 1, ""),
        (raising(InputError("bad word")), 2, "error: bad word"),
        (raising(WorkerHung("no answer")), 3, "error: no answer"),
        (raising(OSError(28, "No space left on device", "a/b.json")), 2, "error: a/b.json: No space left on device"),
        (raising(RuntimeError("oops")), 70, "error: internal error: RuntimeError: oops"),
        (raising(RecursionError("too deep")), 70, "CNNBENCH_TRACEBACK=1"),
        (raising(EOFError()), 70, ""),
        (raising(BrokenPipeError(32, "Broken pipe")), 70, ""),
        (raising(KeyboardInterrupt()), 130, ""),
        (sending(signal.SIGINT), 130, ""),
        (sending(signal.SIGTERM), 143, ""),
        (sending(signal.SIGHUP), 129, ""),
    ],
)
def test_an_exit_code_means_one_thing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], act: Callable[[], Any], code: int, said: str
) -> None:
    assert exit_code(monkeypatch, act) == code
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown


def test_a_fault_of_ours_shows_where_if_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CNNBENCH_TRACEBACK", "1")
    exit_code(monkeypatch, raising(RuntimeError("oops")))
    assert "test_process.py" in capsys.readouterr().err


def test_what_is_cleaned_up_when_a_signal_comes_is_not_interrupted_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned = []

    def act() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append(True)

    assert exit_code(monkeypatch, act) == 143
    assert cleaned


def test_after_a_command_signals_do_what_they_did(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    exit_code(monkeypatch, lambda: None)
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_error_is_lines_that_command_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code(monkeypatch, raising(InputError("a\x1b]0;OWNED\x07b\u202ec" + "x" * 5000)))
    shown = capsys.readouterr().err
    assert shown.startswith("error: a\\u001b]0;OWNED\\u0007b\\u202ec")
    assert len(shown) < 1100


def output_of(program: str, *, to: str = "2>&1", **variables: str) -> "subprocess.CompletedProcess[str]":
    """Of a program whose output is set up as that of the command line is."""
    set_up = f"from cnnbench.cli import process; process.set_up_output()\n{program}"
    command = ["sh", "-c", f'"$0" -c "$1" {to}', sys.executable, set_up]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **variables})


def test_a_reader_that_is_gone_ends_nothing_and_nothing_is_said() -> None:
    done = output_of("import sys\nfor n in range(100_000): print(n)\nprint('over', file=sys.stderr)", to="| true")
    assert (done.returncode, done.stderr) == (0, "over\n")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_character_that_the_encoding_lacks_is_shown_by_its_number(encoding: str) -> None:
    assert output_of("print('a\u2713')", PYTHONIOENCODING=encoding).stdout == "a\\u2713\n"


def test_colours_reach_the_terminal_and_commands_do_not() -> None:
    done = output_of(r"print('\x1b[31mred\x1b[0m \x1b]52;c;eA==\x07 \x9d \u202e')")
    assert done.stdout == "\x1b[31mred\x1b[0m \\u001b]52;c;eA==\\u0007 \\u009d \\u202e\n"


def test_output_that_was_closed_is_no_fault() -> None:
    assert output_of("print('x')", to=">&- 2>&-").returncode == 0


def test_output_that_cannot_be_written_ends_nothing_and_is_told_at_the_end() -> None:
    program = "import sys\nfrom cnnbench import cli\nfor n in range(100_000): print(n)\nsys.exit(cli._flushed({}))"
    found = [output_of(program.format(code), to="2>&1 >/dev/full") for code in (0, 3)]
    assert (found[0].returncode, found[0].stdout) == (2, "error: standard output: No space left on device\n")
    assert found[1].returncode == 3, "the exit code of what was done stands"
