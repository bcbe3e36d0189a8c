"""docs/commands.md is what each command's own help says."""

from collections.abc import Callable, Iterator
from typing import Any

from tests.test_help import GROUP, commands

HEAD = """# Commands

Each command's own `--help`, made into a page by `pytest --renew tests/test_commands.py`. `cnnbench` alone shows the
three most common ones, and `cnnbench --install-completion` has your shell complete commands and options.

Exit codes: 0 success; 1 `gate` confirmed a regression, or `verify` or `diverge` found a difference; 2 invalid input;
3 a result is missing, invalid or wrong, or an exact figure or a cached artifact differs; 4 `gate --strict` is
inconclusive; 70 internal error (`CNNBENCH_TRACEBACK=1` prints the traceback); 129, 130, 143 ended by SIGHUP, Ctrl-C,
SIGTERM. What a command does with a file of somebody else is in [SECURITY.md](../SECURITY.md).
"""


def rows(command: Any) -> Iterator[str]:
    """A table's row for each argument and option."""
    for param in command.params:
        takes = "" if getattr(param, "is_flag", False) else param.metavar or param.name.upper()
        is_option = param.opts[0].startswith("-")
        names = [", ".join([*param.opts, *param.secondary_opts])] if is_option else []
        name = " ".join(filter(None, [*names, takes]))
        help_ = param.help or ""
        if param.required:
            help_ += " Required." if is_option else ""
        elif isinstance(param.default, str | int | float) and param.default is not False:
            help_ += f" Default: `{param.default}`."
        cells = (cell.replace("|", "\\|") for cell in (f"`{name}`", help_))
        yield f"| {' | '.join(cells)} |"


def page() -> Iterator[str]:
    yield HEAD
    for path in commands(GROUP):
        command = GROUP
        for name in path:
            command = command.commands[name]
        yield f"## cnnbench {' '.join(path)}\n"
        for paragraph in command.help.strip().split("\n\n"):
            if paragraph.startswith("Example: "):
                yield "```\n" + "\n".join(line.removeprefix("Example: ") for line in paragraph.splitlines()) + "\n```\n"
            else:
                yield f"{paragraph}\n"
        if table := list(rows(command)):
            yield "\n".join(["| argument or option | |", "|---|---|", *table]) + "\n"


def test_the_page_of_commands_is_made_of_their_help(golden: Callable[[str, str], None]) -> None:
    golden("../../docs/commands.md", "\n".join(page()))
