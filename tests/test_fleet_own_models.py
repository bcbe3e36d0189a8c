"""Users' own models travel to the nodes of a fleet: what of them, how it is checked there, and what stays."""

import importlib.machinery
import importlib.metadata
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from cnnbench.errors import InputError
from cnnbench.fleet import node, own_models
from cnnbench.fleet.messages import Ended, Job, Message, NeededPackage, Own, Sent
from cnnbench.fleet.own_models import OwnModels, take
from cnnbench.records.artifact import SealedFile
from cnnbench.records.files import MAX_BYTES
from cnnbench.records.toolchain import external_data, source_digest
from cnnbench.suite.case import ModelSpec
from cnnbench.suite.load import load_suite
from tests.conftest import write_suite

NETS = """
import json, torch
from traveller_layers.block import Block
from .sizes import WIDTH
import traveller_optional_and_absent
def build(): import traveller_late; return Block(WIDTH)
"""
SUITE = """
defaults: {workloads: [inference], runtimes: [ort], batches: [1]}
models:
  - model: traveller.nets:build
    loss: traveller_losses:double
    weights: files/best.pt
  - model: files/net.onnx
"""


def location(name: str) -> bytes:
    """A tensor's entry in an ONNX file: its data is in a file of this name (onnx.proto, StringStringEntryProto)."""
    size = len(name).to_bytes() if len(name) < 128 else bytes([len(name) & 127 | 128, len(name) >> 7])
    return b"\x6a\x12\x0a\x08location\x12" + size + name.encode() + b"\x6a\x07"


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder: a package, what it imports, a loss, an ONNX file with weights beside it, a file of weights."""
    contents = {
        "traveller/__init__.py": "",
        "traveller/nets.py": NETS,
        "traveller/sizes.py": "WIDTH = 8",
        "traveller/data/sizes.json": "{}",
        "traveller/__pycache__/nets.pyc": "compiled",
        "traveller/.git/config": "hidden",
        "traveller_layers/block.py": "class Block: pass",
        "traveller_late.py": "import traveller",
        "traveller_losses.py": "def double(outputs, labels): return 2",
        "traveller_unrelated.py": "",
        "files/net.onnx": location("net.weights").decode(),
        "files/net.weights": "1234",
        "files/net.png": "of no use",
        "files/best.pt": "weights",
    }
    folder = tmp_path / "user"
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    return folder


def found(text: str = SUITE) -> OwnModels:
    suite = load_suite(write_suite(Path(), text))
    return own_models.own_models(suite, suite.cases)


def test_what_travels_is_the_package_what_it_imports_and_the_files(user: Path) -> None:
    """Neither what is installed, nor what is hidden, compiled by Python, or unrelated."""
    travels = found()
    assert [each.path for each in travels.own.sent] == [
        "code/traveller/__init__.py",
        "code/traveller/data/sizes.json",
        "code/traveller/nets.py",
        "code/traveller/sizes.py",
        "code/traveller_late.py",
        "code/traveller_layers/block.py",
        "code/traveller_losses.py",
        "files/files/best.pt",
        "files/files/net.onnx",
        "files/files/net.weights",
    ]
    assert (travels.own.packages, travels.own.files) == ((), ())
    assert all(travels.places[each.content.sha256].is_absolute() for each in travels.own.sent)


def test_packages_are_those_of_the_cases_and_files_those_of_the_suite(user: Path) -> None:
    """A node reads the whole suite, which names files that must be there."""
    suite = load_suite(write_suite(Path(), SUITE))
    travels = own_models.own_models(suite, [case for case in suite.cases if case.spec.is_onnx_file])
    assert {each.path.partition("/")[0] for each in travels.own.sent} == {"files"}


def test_a_suite_of_registered_models_sends_nothing(user: Path) -> None:
    assert found("models: [lenet5, {model: package:net.onnx, workloads: [inference]}]\n") == OwnModels()


def test_files_of_absolute_paths_are_the_nodes_own_and_have_the_same_content(user: Path) -> None:
    file = user / "files" / "net.onnx"
    own = found(f"models: [{{model: {file}, runtimes: [ort], workloads: [inference]}}]\n").own
    assert [each.path for each in own.files] == [str(file), str(file.with_suffix(".weights"))]
    assert own.sent == ()
    assert take(own, user, nothing) is None
    file.with_suffix(".weights").write_text("4321")
    with pytest.raises(InputError, match=r"net\.weights: expected the driver's file.*another content: copy it there"):
        take(own, user, nothing)
    file.unlink()
    with pytest.raises(InputError, match=r"net\.onnx: expected the driver's file.*there is none: copy it there"):
        take(own, user, nothing)


def test_generated_data_are_each_nodes_own_also_where_they_are_resized(user: Path) -> None:
    model = "{model: files/net.onnx, runtimes: [ort], workloads: [inference], data: shapes@resized}"
    assert "files/files/net.onnx" in {each.path for each in found(f"models: [{model}]\n").own.sent}


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        ("../user/files/net.onnx", "", "expected an absolute path, or one below the folder"),
        ("files/net.onnx", "data: files", "files: expected an absolute path of data, which each node has itself"),
        ("lenet5", "weights: files/gone.pt", "gone.pt: expected a file that can be read; No such file"),
    ],
)
def test_what_cannot_go_is_one_sentence(user: Path, model: str, more: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        found(f"models: [{{model: {model}, workloads: [inference], {more}}}]\n")


def test_what_is_compiled_installed_or_too_large_is_asked_of_the_node(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that the model imports is asked for too, unless it is installed: that may be optional."""
    (user / "traveller_layers" / f"fast{importlib.machinery.EXTENSION_SUFFIXES[0]}").touch()
    monkeypatch.setattr(own_models, "MAX_PACKAGE_BYTES", 30)
    text = SUITE.replace("traveller_losses:double", "torchvision.ops:sigmoid_focal_loss")
    whys = {each.name: each for each in found(text).own.packages}
    assert whys.keys() == {"traveller", "torchvision"}
    assert whys["traveller"].why == "has more than 2,000 files or 3e-05 MB"
    version = importlib.metadata.version("torchvision")
    assert (whys["torchvision"].distribution, whys["torchvision"].version) == ("torchvision", version)
    monkeypatch.setattr(own_models, "MAX_PACKAGE_BYTES", 10**6)
    (compiled,) = found().own.packages
    assert (compiled.name, compiled.distribution) == ("traveller_layers", "")
    assert compiled.why.startswith("has compiled code (fast")


@pytest.mark.parametrize(
    ("needed", "said"),
    [
        (
            NeededPackage(name="traveller_gone", why="has compiled code (x.so)"),
            f"package 'traveller_gone' has compiled code (x.so), so it does not travel, and {sys.executable} lacks it: "
            "install it there",
        ),
        (
            NeededPackage(name="traveller_gone", distribution="traveller-gone", version="1.2", why="is installed"),
            "lacks it: pip install traveller-gone==1.2",
        ),
        (
            NeededPackage(name="pytest", distribution="pytest", version="0.1", why="is installed"),
            f"expected version 0.1; got {pytest.__version__}: pip install pytest==0.1",
        ),
    ],
)
def test_a_node_that_lacks_a_package_says_what_to_install(tmp_path: Path, needed: NeededPackage, said: str) -> None:
    with pytest.raises(InputError) as caught:
        take(Own(packages=(needed,)), tmp_path, nothing)
    assert str(caught.value).endswith(said)


def test_a_package_that_both_have_is_no_fault(tmp_path: Path) -> None:
    here = NeededPackage(name="pytest", distribution="pytest", version=pytest.__version__, why="is installed")
    assert take(Own(packages=(here,)), tmp_path, nothing) is None


def nothing(digest: str) -> Iterator[bytes]:
    return iter(())


class Sends:
    """Sends what is asked for by its digest, and notes what."""

    def __init__(self, travels: OwnModels, change: Callable[[bytes], bytes] = lambda content: content) -> None:
        self.places, self.change = travels.places, change
        self.asked: list[str] = []

    def __call__(self, digest: str) -> Iterator[bytes]:
        self.asked.append(self.places[digest].name)
        return iter([self.change(self.places[digest].read_bytes())])


def test_what_arrives_is_as_it_was_and_is_asked_for_once(user: Path, tmp_path: Path) -> None:
    travels = found()
    sends = Sends(travels)
    folder = take(travels.own, tmp_path, sends)
    assert folder is not None
    for each in travels.own.sent:
        file = folder / each.path
        assert file.read_bytes() == travels.places[each.content.sha256].read_bytes()
        assert file.stat().st_mtime_ns == each.modified_ns
    assert take(travels.own, tmp_path, nothing) == folder
    (folder / "code" / "traveller" / "nets.py").write_text("raise SystemExit")
    assert take(travels.own, tmp_path, sends) == folder
    assert "SystemExit" not in (folder / "code" / "traveller" / "nets.py").read_text()
    (user / "traveller" / "nets.py").write_text("changed = True")
    assert take((changed := found()).own, tmp_path, Sends(changed)) not in (None, folder)


def test_what_was_tampered_with_is_refused(user: Path, tmp_path: Path) -> None:
    travels = found()
    with pytest.raises(InputError, match=r"best\.pt: it arrived with another content"):
        take(travels.own, tmp_path, Sends(travels, lambda content: content.replace(b"weights", b"pickles")))


@pytest.mark.parametrize("path", ["/etc/passwd", "code/../../x", ".."])
def test_a_path_leads_nowhere_else(path: str) -> None:
    with pytest.raises(ValidationError, match="expected a path below a folder"):
        Sent(path=path, modified_ns=0, content=SealedFile(size=0, sha256=""))


def test_the_command_finds_packages_first_and_files_where_it_starts(
    user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package of that name on the node is not used. Python -P, as the command: nothing of its folder is imported."""
    travels = found()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CNNBENCH_CACHE", "node")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    other = tmp_path / "theirs" / "traveller"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", "theirs")
    sent: list[Message] = []
    script = textwrap.dedent("""
        import os, traveller.sizes
        assert open("files/net.weights").read() == "1234"
        assert os.environ["CNNBENCH_CACHE"] == os.environ["EXPECTED"] + "/node"
        assert os.environ["PYTHONPATH"].endswith(":" + os.environ["EXPECTED"] + "/theirs")
    """)
    monkeypatch.setenv("EXPECTED", str(tmp_path))
    job = Job(fleet="f", machine="m", file="s.yaml", suite="?", own=travels.own)
    node.serve(job, sent.append, (sys.executable, "-S", "-P", "-c", script), Sends(travels))
    assert sent[-1] == Ended(code=0)


def test_a_key_depends_on_the_files_that_an_onnx_file_names_and_on_no_other(user: Path) -> None:
    spec, folder = ModelSpec(model="files/net.onnx"), user / "files"
    long = "n" * 200 + ".weights"
    names = ("sub/a.bin", long, "../up", "/root")
    assert external_data(b"".join(map(location, names))) == [long, "sub/a.bin"]
    key = source_digest(spec)
    (folder / "net.png").write_text("another")
    assert source_digest(spec) == key
    shutil.copy2(folder / "net.weights", folder / "copy")
    (folder / "net.weights").write_text("other weights")
    assert source_digest(spec) != key
    os.replace(folder / "copy", folder / "net.weights")
    assert source_digest(spec) == key


def test_a_key_depends_on_the_content_of_large_files(user: Path) -> None:
    file = user / "files" / "best.pt"
    with file.open("rb+") as stream:
        stream.truncate(MAX_BYTES + 1)
    spec = ModelSpec(model="lenet5", weights=str(file))
    before = source_digest(spec)
    with file.open("rb+") as stream:
        stream.write(b"others")
    assert source_digest(spec) != before
