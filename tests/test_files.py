"""Files are written whole or not at all, never through a link, and read with an end."""

import os
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path

import pytest

from cnnbench.records import files
from tests.conftest import FillDisk


def test_a_file_is_written_and_read_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    files.write(file, "one\n")
    files.write(file, b"two\n")
    assert files.read(file) == b"two\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_files_mode_is_the_umasks_whatever_a_library_gives_it(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with files.replacing(tmp_path / "w.safetensors") as file:
            (tmp_path / "of a library").write_text("weights")
            (tmp_path / "of a library").chmod(0o600)
            (tmp_path / "of a library").replace(file)
    finally:
        os.umask(before)
    assert (tmp_path / "w.safetensors").read_text() == "weights"
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o640


def test_a_link_is_replaced_and_what_it_leads_to_is_untouched(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "a.json").symlink_to("secret")
    files.write(tmp_path / "a.json", "theirs")
    assert (tmp_path / "secret").read_text() == "mine"
    assert files.read(tmp_path / "a.json") == b"theirs"


def test_lines_are_not_added_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "a.jsonl").symlink_to("secret")
    with pytest.raises(OSError, match=r"a\.jsonl"):
        files.append(tmp_path / "a.jsonl", "theirs")
    with pytest.raises(OSError, match=r"a\.jsonl"):
        files.open_to_append(tmp_path / "a.jsonl")
    assert (tmp_path / "secret").read_text() == "mine"


def test_a_torn_line_is_ended_before_the_next(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"torn')
    files.append(file, "whole")
    files.append(file, "another")
    assert list(files.read_lines(file)) == [b'{"torn', b"whole", b"another"]


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    line = "a\u2028b\u2029c\x85d\x0ce\r"
    files.append(tmp_path / "a.jsonl", line)
    assert list(files.read_lines(tmp_path / "a.jsonl")) == [line.encode()]


def test_a_file_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert list(files.read_lines(tmp_path / "none")) == []
    with pytest.raises(FileNotFoundError):
        files.read(tmp_path / "none")


@pytest.mark.parametrize(
    "use",
    [
        files.read,
        lambda file: list(files.read_lines(file)),
        lambda file: files.append(file, "x"),
        lambda file: files.write(file, "x"),
    ],
    ids=["read", "read_lines", "append", "write"],
)
def test_a_pipe_is_refused_and_waits_for_nobody(tmp_path: Path, use: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"expected a file.*pipe"):
        use(tmp_path / "pipe")


def test_a_device_is_refused_also_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="expected a file"):
        files.read(tmp_path / "a")
    with pytest.raises(OSError, match="expected a file"):
        files.write(tmp_path / "a", "x")


def test_what_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 10)
    (tmp_path / "a").write_bytes(b"12345678901")
    with pytest.raises(OSError, match="larger than 10 bytes"):
        files.read(tmp_path / "a", 10)
    with pytest.raises(OSError, match="line of more than 10 bytes"):
        list(files.read_lines(tmp_path / "a"))


def test_lines_are_read_up_to_a_bound_of_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINES_BYTES", 6)
    (tmp_path / "a").write_bytes(b"1\n2\n3\n4\n")
    found = files.read_lines(tmp_path / "a")
    assert [next(found) for _ in range(3)] == [b"1", b"2", b"3"]
    with pytest.raises(OSError, match="larger than 6 bytes"):
        next(found)


def _fail_at(monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """The nth of all writes, syncs and renames fails as on a full disk."""
    count = 0

    def failing(function: Callable[..., object]) -> Callable[..., object]:
        def call(*words: object, **more: object) -> object:
            nonlocal count
            count += 1
            if count == nth:
                raise OSError(ENOSPC, "No space left on device")
            return function(*words, **more)

        return call

    monkeypatch.setattr(Path, "write_bytes", failing(Path.write_bytes))
    for name in ("open", "fsync", "replace"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))


@pytest.mark.parametrize("nth", range(1, 9))
def test_whatever_fails_the_files_are_as_before_or_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    whole, lines = tmp_path / "whole", tmp_path / "lines"
    files.write(whole, "old")
    files.append(lines, "old")
    with monkeypatch.context() as patch:
        _fail_at(patch, nth)
        named = []
        acts: list[Callable[[], None]] = [lambda: files.write(whole, "new"), lambda: files.append(lines, "new")]
        for act in acts:
            try:
                act()
            except OSError as error:
                named.append(error.filename)
    assert named == ([str(whole)] if nth <= 4 else [str(lines)] if nth <= 6 else [])
    assert files.read(whole) == (b"old" if nth <= 4 else b"new")
    assert list(files.read_lines(lines)) == ([b"old"] if nth in (5, 6) else [b"old", b"new"])
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "lines"}


def test_an_interrupt_while_a_line_reaches_the_disk_does_not_take_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.append(tmp_path / "lines", "measured")
    assert list(files.read_lines(tmp_path / "lines")) == [b"measured"]


def test_lines_that_a_full_disk_refuses_are_written_in_order_once_there_is_room(
    tmp_path: Path, fill_disk: FillDisk
) -> None:
    is_full, lines = False, files.Appender()
    fill_disk(lambda: is_full)
    lines.append(tmp_path / "a", "1")
    is_full = True
    lines.append(tmp_path / "a", "2")
    lines.append(tmp_path / "b", "3")
    assert lines.fault == f"{tmp_path / 'a'}: No space left on device"
    assert (list(files.read_lines(tmp_path / "a")), (tmp_path / "b").exists()) == ([b"1"], False)
    is_full = False
    lines.append(tmp_path / "a", "4")
    assert lines.fault == ""
    assert list(files.read_lines(tmp_path / "a")) == [b"1", b"2", b"4"]
    assert list(files.read_lines(tmp_path / "b")) == [b"3"]
