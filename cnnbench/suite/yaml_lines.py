"""A YAML file whose every key remembers its line, so that an error can name file and line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cnnbench.errors import SuiteError

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlSource:
    """A parsed file: its data, and the line on which each key or item stands."""

    path: Path
    text: str
    data: Any
    lines: dict[KeyPath, int]

    def line(self, where: KeyPath) -> int:
        """The line of the key at `where`, or of the nearest one around it that is written down."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)

    def place(self, where: KeyPath) -> str:
        """`suites/classic.yaml:14: models[3].batches`."""
        return f"{self.path}:{self.line(where)}" + (f": {spelled_path(where)}" if where else "")


def spelled_path(where: KeyPath) -> str:
    """models[3].batches from ("models", 3, "batches")."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)
    return text.removeprefix(".")


def read_yaml(path: Path) -> YamlSource:
    """Read and parse. Raises SuiteError for a file that cannot be read, is not YAML, or says a key twice."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SuiteError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SuiteError(f"{path}: expected a YAML text in UTF-8; got other bytes") from None
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            lines: dict[KeyPath, int] = {}
            if root is not None:
                _note_lines(path, root, (), lines)
            data = loader.construct_document(root) if root is not None else None
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SuiteError(f"{path}{line}: expected YAML; got a text that is not: {problem}") from None
    return YamlSource(path=path, text=text, data=data, lines=lines)


def _note_lines(path: Path, node: yaml.Node, where: KeyPath, lines: dict[KeyPath, int]) -> None:
    lines.setdefault(where, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*where, str(key.value))
            if inner in lines:
                raise SuiteError(
                    f"{path}:{key.start_mark.line + 1}: {spelled_path(inner)}: stands twice, "
                    f"first on line {lines[inner]}; keep one"
                )
            lines[inner] = key.start_mark.line + 1
            _note_lines(path, value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _note_lines(path, value, (*where, index), lines)
