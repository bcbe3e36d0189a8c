"""Artifacts that are built once and travel to the nodes of a fleet: offered, asked for, checked as they arrive."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cnnbench.fleet import node, task
from cnnbench.fleet.artifacts import Build, Offered, offered, take, toolchain_digest
from cnnbench.fleet.messages import Job, Message, Note, Offer, Wants, parse_message
from cnnbench.records import artifact, cache
from cnnbench.records.toolchain import own_toolchain
from cnnbench.suite.case import ModelSpec
from tests.records import case

ROOT = Path(__file__).parent.parent
FILES = {"model.onnx": b"graph" * 1000, "weights.safetensors": b"", "artifact.json": b"{}"}
ENTRY = "lenet5-0123"
ABOUT = {"fleet": "f", "machine": "m", "file": "s.yaml", "suite": "?"}


@pytest.fixture
def offers(tmp_path: Path) -> Offered:
    """An artifact in the driver's cache."""
    folder = tmp_path / "driver" / ENTRY
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    artifact.seal(folder, "0123")
    text = (folder / cache.SEAL).read_text()
    sealed = artifact.Seal.model_validate_json(text).files
    return Offered((Offer(entry=ENTRY, seal=text),), {each.sha256: folder / name for name, each in sealed.items()})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The artifact's in the node's cache."""
    monkeypatch.setenv(cache.PLACE, str(tmp_path / "node"))
    return tmp_path / "node" / "artifacts" / ENTRY


class Sends:
    """Sends files, and notes which."""

    def __init__(self, files: Offered, change: Callable[[bytes], bytes] = lambda content: content) -> None:
        self.files, self.change = files.files, change
        self.asked: list[str] = []

    def __call__(self, digest: str) -> Iterator[bytes]:
        self.asked.append(self.files[digest].name)
        content = self.change(self.files[digest].read_bytes())
        return iter([content[:7], content[7:]])


def test_a_node_takes_what_its_cache_lacks_and_asks_for_it_once(offers: Offered, place: Path) -> None:
    sends = Sends(offers)
    assert take(offers.offers, sends) == []
    assert artifact.fault_of(place) is None
    assert {name: (place / name).read_bytes() for name in FILES} == FILES
    assert sorted(sends.asked) == sorted(FILES)
    assert take(offers.offers, sends) == []
    assert len(sends.asked) == len(FILES)


def test_what_another_node_with_the_same_cache_has_put_there_meanwhile_stays(
    offers: Offered, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(offers.offers, Sends(offers))
    marked = (place / "model.onnx").stat().st_ino
    faults = iter(["is missing"])
    fault_of = artifact.fault_of
    monkeypatch.setattr(artifact, "fault_of", lambda folder: next(faults, None) or fault_of(folder))
    sends = Sends(offers)
    assert take(offers.offers, sends) == []
    assert (sends.asked, (place / "model.onnx").stat().st_ino) == ([], marked)


@pytest.mark.parametrize("change", [lambda c: c.replace(b"g", b"h"), lambda c: c[:-1], lambda c: c + b"x"])
def test_what_was_tampered_with_is_refused_and_leaves_nothing(
    offers: Offered, place: Path, change: Callable[[bytes], bytes]
) -> None:
    (fault,) = take(offers.offers, Sends(offers, change))
    assert fault.startswith(f"{ENTRY}: ")
    assert fault.endswith("arrived damaged, so it is built here")
    assert list(place.parent.iterdir()) == []


def test_what_is_damaged_on_the_node_is_fetched_again(offers: Offered, place: Path) -> None:
    take(offers.offers, Sends(offers))
    (place / "model.onnx").write_bytes(b"other" * 1000)
    assert take(offers.offers, Sends(offers)) == []
    assert artifact.fault_of(place) is None


@pytest.mark.parametrize(
    ("how", "nodes", "sent"),
    [("cheapest", 1, True), ("cheapest", 10**7, False), ("once", 10**7, True), ("on-node", 1, False)],
)
def test_what_is_offered_is_what_is_cheaper_to_send(
    artifact_of: Callable[[ModelSpec], Path],
    monkeypatch: pytest.MonkeyPatch,
    how: Build,
    nodes: int,
    sent: bool,
) -> None:
    spec = case().spec
    folder = artifact_of(spec)
    monkeypatch.setenv(cache.PLACE, str(folder.parent.parent))
    found = offered([case(), case("ort")], nodes, how)
    assert [offer.entry for offer in found.offers] == [folder.name] * sent
    assert {file.name for file in found.files.values()} >= ({artifact.GRAPH, artifact.WEIGHTS} if sent else set())


def test_a_users_own_model_is_built_by_each_node() -> None:
    own = case().model_copy(update={"spec": ModelSpec(model="tests.own_models:tiny", classes=10)})
    assert own.spec.depends_on_code
    assert offered([own], 1, "once") == Offered()


class Remote:
    """Ray's handle of the reader of files, without Ray."""

    def __init__(self, files: task.Files) -> None:
        self.read = self
        self._files = files

    def remote(self, digest: str, offset: int) -> bytes:
        return self._files.read(digest, offset)


def test_the_nodes_program_asks_the_task_and_takes_frames(
    offers: Offered, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of several pieces. The suite is none, so that the command ends soon."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "get", lambda piece: piece)
    monkeypatch.setattr(task, "CHUNK_BYTES", 999)
    files = Remote(task.Files({digest: str(file) for digest, file in offers.files.items()}))
    job = Job(**ABOUT, toolchain=toolchain_digest(), offers=offers.offers)
    with subprocess.Popen(
        [sys.executable, "-m", "cnnbench.fleet.node"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "CNNBENCH_FINGERPRINT": "f1"},
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(job.model_dump_json().encode() + b"\n")
        program.stdin.flush()
        said = []
        for line in program.stdout:
            said.append(message := Wants.model_validate_json(line) if b'"wants"' in line else parse_message(line))
            if isinstance(message, Wants):
                for frame in task.frames(message.sha256, files):
                    program.stdin.write(frame)
                program.stdin.flush()
        program.stdin.close()
    assert sum(isinstance(each, Wants) for each in said) == len(FILES)
    assert not any(isinstance(each, Note) for each in said)
    assert place.is_dir()
    assert artifact.fault_of(place) is None


def test_a_node_with_other_libraries_asks_for_nothing_and_one_that_got_damage_says_so(
    offers: Offered, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said: list[Message] = []
    damaged = Sends(offers, lambda content: content + b"x")
    for toolchain in ("other", toolchain_digest()):
        assert damaged.asked == []
        job = Job(**ABOUT, toolchain=toolchain, offers=offers.offers)
        node.serve(job, said.append, (sys.executable, "-I", "-S", "-c", ""), damaged)
    assert damaged.asked
    assert [each.text.partition(":")[0] for each in said if isinstance(each, Note)] == [ENTRY]
    assert not place.exists()


def test_what_a_reader_does_not_have_ends_at_once(tmp_path: Path) -> None:
    assert task.Files({"a": str(tmp_path / "gone")}).read("a", 0) == b""
    assert task.Files({}).read("b", 0) == b""


def test_a_toolchain_is_told_apart_by_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    here, own = toolchain_digest(), own_toolchain()
    other = type(own)(own.code, {**own.versions, "torch": "9.9"})
    monkeypatch.setattr("cnnbench.fleet.artifacts.own_toolchain", lambda: other)
    assert toolchain_digest() != here
