"""What a user sees who types nothing, and examples in the help that parse."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cnnbench.cli import START, app
from tests.conftest import ROOT, Cli

GROUP: Any = typer.main.get_command(app)


def commands(of: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command that does something."""
    if hasattr(of, "commands"):
        for name, command in of.commands.items():
            yield from commands(command, (*path, name))
    else:
        yield path


def parse(words: list[str], of: Any = GROUP) -> None:
    """As the command line does, and nothing is called. Raises a usage error."""
    context = of.make_context(of.name or "cnnbench", [*words])
    if hasattr(of, "commands"):
        _, command, rest = of.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        parse(rest, command)


def examples(path: tuple[str, ...]) -> list[list[str]]:
    """The words of a command's examples."""
    command = GROUP
    for name in path:
        command = command.commands[name]
    found = re.findall(r"Example: cnnbench (.+?)(?=Example:|\n\n|$)", command.help or "", re.DOTALL)
    assert found, f"cnnbench {' '.join(path)}: its help has no example"
    return [shlex.split(text.partition(" > ")[0]) for text in found]


@pytest.mark.parametrize("path", list(commands(GROUP)), ids=" ".join)
def test_every_command_has_examples_that_parse_and_whose_files_are_in_the_repository(path: tuple[str, ...]) -> None:
    for words in examples(path):
        assert words[: len(path)] == list(path)
        parse(words)
        for word in words:
            assert not word.startswith(("suites/", "reports/")) or Path(ROOT / word).exists(), word


@pytest.mark.parametrize("path", list(commands(GROUP)), ids=" ".join)
def test_every_commands_help_is_shown_with_all_its_words(cli: Cli, path: tuple[str, ...]) -> None:
    command = GROUP
    for name in path:
        command = command.commands[name]
    done = cli(*path, "--help")
    assert done.returncode == 0, done.stderr
    letters = re.sub(r"[\s│]", "", done.stdout)  # a long word is broken at the column's end
    for param in command.params:
        assert all(word in letters for word in (param.help or "").split() if len(word) < 20), param.help


def test_an_example_that_does_not_parse_is_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["run", "classic", "--fast"])
    with pytest.raises(Exception, match="Missing"):
        parse(["report"])
    assert len(list(commands(GROUP))) > 25


def test_the_command_alone_shows_the_three_things_that_people_do(cli: Cli) -> None:
    done = cli()
    assert done.returncode == 0
    assert done.stdout.rstrip() == START
    lines = [line.partition("cnnbench ")[2].split("   ")[0] for line in START.splitlines()[2:5]]
    for line in lines:
        parse(shlex.split(line))


def test_a_shell_can_ask_for_completion(cli: Cli) -> None:
    assert "--install-completion" in cli("--help").stdout
