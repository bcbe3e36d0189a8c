"""A YAML file whose every key remembers its line, so that an error can name file and line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cnnbench.errors import SuiteError

KeyPath = tuple[str | int, ...]

MAX_BYTES, MAX_DEPTH, MAX_NODES = 2**20, 20, 20_000


@dataclass(frozen=True)
class YamlSource:
    """A parsed file: its data, and the line on which each key or item stands."""

    path: Path
    text: str
    data: Any
    lines: dict[KeyPath, int]

    def place(self, where: KeyPath) -> str:
        """`suites/classic.yaml:14: models[3].batches`, with the line of the nearest key around that is written down."""
        around = where
        while around and around not in self.lines:
            around = around[:-1]
        return f"{self.path}:{self.lines.get(around, 1)}" + (f": {spelled_path(where)}" if where else "")


def spelled_path(where: KeyPath) -> str:
    """models[3].batches from ("models", 3, "batches")."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)
    return text.removeprefix(".")


def read_yaml(path: Path) -> YamlSource:
    """Read and parse. Raises SuiteError for a file that cannot be read, is not YAML as below, or says a key twice."""
    text = _read(path)
    lines: dict[KeyPath, int] = {}
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is not None:
            _note_lines(path, root, (), lines)
        data = None if root is None else loader.construct_document(root)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SuiteError(f"{path}:{line}: cannot be read as YAML: a character that it cannot hold") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f"{path}:{mark.line + 1}" if mark else f"{path}"
        where = max((key for key, line in lines.items() if mark and line == mark.line + 1), key=len, default=())
        place += f": {spelled_path(where)}" if where else ""
        raise SuiteError(f"{place}: cannot be read as YAML: {problem}") from None
    return YamlSource(path=path, text=text, data=data, lines=lines)


def _read(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise SuiteError(f"{path}: expected a file; got a folder, a pipe or a device")
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SuiteError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise SuiteError(f"{path}: expected at most {MAX_BYTES:,} bytes; there are more")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise SuiteError(f"{path}: expected a YAML text in UTF-8; got other bytes") from None


class _Loader(yaml.SafeLoader):
    """YAML as a person writes it: a few levels, no value by an alias, which could stand for billions."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next value. Raises ComposerError for one that is not written out, too deep or one too many."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            problem = f"an alias, *{event.anchor}; write the value out"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        self._nodes += 1
        self._depth += 1
        if self._depth > MAX_DEPTH or self._nodes > MAX_NODES:
            problem = f"more than {MAX_DEPTH} levels or {MAX_NODES:,} values"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value. Raises ConstructorError, whatever is wrong with it."""
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception:  # PyYAML's own constructors let pass whatever int, float, date raise
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(None, None, f"a value that is no {kind}", node.start_mark) from None


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
