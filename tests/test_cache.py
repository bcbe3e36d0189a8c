"""The cache holds what it says, is its owner's or its group's, and is made smaller without losing what is used."""

import os
import shutil
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cnnbench.errors import InputError
from cnnbench.records import artifact, cache, dataset, toolchain
from cnnbench.records.artifact import fault_of, folder_of, key_of, seal
from cnnbench.records.cache import cache_folder, entries, prune
from cnnbench.records.record import GraphFacts, PackageFacts, StepFacts
from cnnbench.records.toolchain import Toolchain, meaning
from cnnbench.runner.artifacts import Artifacts, Wanted
from cnnbench.runner.worker_process import HERE
from cnnbench.suite.case import Case, ModelSpec
from tests.conftest import Cli
from tests.records import facts

LENET = ModelSpec(model="lenet5", image_size=(28, 28), classes=10)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv(cache.PLACE, str(tmp_path / "cache"))
    monkeypatch.delenv(cache.SHARED, raising=False)
    monkeypatch.delenv(cache.LIMIT, raising=False)
    cache.prepare()
    return tmp_path / "cache"


def entry(name: str = "lenet5", key: str = "key", size: int = 1000, age_h: float = 48.0) -> Path:
    """A sealed entry that was used so long ago."""
    folder = cache.artifacts_folder() / f"{name}-{key}"
    with cache.locked(folder), cache.filling(folder) as building:
        (building / artifact.WEIGHTS).write_bytes(bytes(size))
        (building / artifact.FACTS).write_text(facts().model_dump_json())
        seal(building, key)
    used = time.time() - age_h * 3600
    os.utime(folder / cache.SEAL, (used, used))
    return folder


def flip(folder: Path) -> None:
    file = folder / artifact.WEIGHTS
    file.write_bytes(b"\x01" + file.read_bytes()[1:])


def a_link_in_its_place(folder: Path) -> None:
    shutil.move(folder, folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


def a_pipe_in_it(folder: Path) -> None:
    (folder / artifact.WEIGHTS).unlink()
    os.mkfifo(folder / artifact.WEIGHTS)


def another(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(entry("lenet5", "other"), folder)


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (flip, "weights.safetensors is damaged"),
    (lambda folder: os.truncate(folder / artifact.WEIGHTS, 10), "weights.safetensors is damaged"),
    (lambda folder: (folder / artifact.WEIGHTS).unlink(), "weights.safetensors is missing"),
    (lambda folder: (folder / artifact.FACTS).write_text("{}"), "artifact.json is damaged"),
    (lambda folder: (folder / cache.SEAL).unlink(), "seal.json is missing"),
    (lambda folder: (folder / cache.SEAL).write_text("[" * 100_000), "cannot be read"),
    (a_pipe_in_it, "weights.safetensors is damaged"),
    (a_link_in_its_place, "is no folder"),
    (another, "has another one's content"),
]


@pytest.mark.parametrize(("damage", "fault"), DAMAGES)
def test_each_damage_is_told_and_what_lies_there_is_replaced(damage: Callable[[Path], object], fault: str) -> None:
    folder = entry()
    assert fault_of(folder) is None
    damage(folder)
    assert fault_of(folder) == fault
    assert fault_of(entry()) is None


def test_where_nothing_lies_nothing_is_wrong() -> None:
    assert fault_of(cache.artifacts_folder() / "lenet5-key") is None


def test_a_damaged_artifact_is_looked_for_in_vain_and_the_user_reads_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with Artifacts() as artifacts:
        wanted = artifacts.wanted(LENET)
        folder = entry("lenet5", wanted.key)
        assert not artifacts.missing(wanted)
    flip(folder)
    with Artifacts() as artifacts:
        assert artifacts.missing(wanted)
        assert artifacts.find(wanted).fault == "weights.safetensors is damaged"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owners here")
def test_what_belongs_to_another_user_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = entry()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(InputError, match=r"the cache is another user's: set CNNBENCH_CACHE .* CNNBENCH_CACHE_SHARED=1"):
        cache_folder()
    assert fault_of(folder) == "belongs to another user"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owners here")
def test_a_shared_cache_is_its_groups_and_believes_what_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SHARED, "1")
    cache.prepare()
    folder = entry()
    modes = {file.name: oct(file.stat().st_mode)[-4:] for file in (folder.parent, folder, *folder.iterdir())}
    assert set(modes.values()) == {"2770", "0660"}
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert fault_of(folder) is None
    flip(folder)
    assert fault_of(folder) == "weights.safetensors is damaged"
    folder.chmod(0o777)
    assert fault_of(folder) == "may be written by everybody"


def test_compiled_code_is_its_users_alone_in_a_shared_cache_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SHARED, "1")
    folder = cache.private_folder("inductor")
    assert folder.parent == place
    assert oct(folder.stat().st_mode)[-3:] == "700"


def test_a_cache_that_is_not_shared_is_its_owners_alone(place: Path) -> None:
    assert oct((place / "artifacts").stat().st_mode)[-3:] == "700"
    assert (place / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")


def test_what_was_not_used_for_longest_goes_first_and_what_may_be_in_use_stays() -> None:
    old, older, used = entry("b", age_h=50), entry("a", age_h=60), entry("c", age_h=0)
    assert [each.folder for each in entries()] == [older, old, used]
    size = entries()[0].size_bytes
    assert [each.folder for each in prune(2 * size)] == [older]
    assert [each.folder for each in prune(0)] == [old]
    assert [each.folder for each in entries()] == [used]


def test_age_alone_is_enough_and_a_run_keeps_what_was_used_within_a_day() -> None:
    entry("old", age_h=50), entry("new", age_h=20)
    assert prune(0, keep_s=cache.RECENT_S)[0].folder.name == "old-key"
    assert prune(float("inf"), unused_s=19 * 3600.0)[0].folder.name == "new-key"


def test_what_another_process_has_found_since_it_was_listed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    entry("a", age_h=60), entry("b", age_h=50)
    listed = entries()
    monkeypatch.setattr(cache, "entries", lambda: listed)
    with Artifacts() as artifacts:
        assert artifacts.find(Wanted(ModelSpec(model="b"), "key")).facts is not None
    assert [each.folder.name for each in prune(0)] == ["a-key"]
    assert fault_of(listed[1].folder) is None


def test_in_a_shared_cache_another_users_entry_is_added_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SHARED, "1")
    folder = entry()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(Path, "chmod", lambda *_: pytest.fail("only the owner may do this"))
    seal(folder, "key")
    assert fault_of(folder) is None


def test_a_folder_that_is_removed_while_it_is_filled_leaves_what_was_there() -> None:
    folder = entry(size=10)
    with cache.locked(folder), cache.filling(folder) as building:
        cache.remove(building)
    assert fault_of(folder) is None


def test_an_entry_that_is_being_built_is_not_deleted(place: Path) -> None:
    folder = entry()
    building = folder.with_name(f"{cache.BUILDING}{folder.name}")
    building.mkdir()
    with cache.locked(folder):
        assert prune(0) == []
        assert building.exists()
    assert [each.folder for each in prune(0)] == [folder]
    assert not building.exists()


def test_what_a_killed_builder_left_is_deleted_by_a_run_that_builds_nothing(place: Path) -> None:
    with Artifacts() as artifacts:
        wanted = artifacts.wanted(LENET)
        left = entry("lenet5", wanted.key).with_name(f"{cache.BUILDING}another")
        left.mkdir()
        artifacts.build([wanted])
    assert not left.exists()


def test_a_cache_that_cannot_be_written_serves_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Artifacts() as artifacts:
        wanted = artifacts.wanted(LENET)
    entry("lenet5", wanted.key)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Artifacts(tmp_path) as artifacts:
        artifacts.build([wanted])
        with pytest.raises(InputError, match="the cache cannot be written: permission denied; set CNNBENCH_CACHE"):
            artifacts.get(LENET.model_copy(update={"seed": 1}))


def test_the_cache_is_absolute_and_knows_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for text, expected in (("relative", tmp_path / "relative"), ("~/mine", tmp_path / "home" / "mine")):
        monkeypatch.setenv(cache.PLACE, text)
        assert folder_of(LENET, "key") == expected / "artifacts" / "lenet5-key"


def test_a_place_that_cannot_be_made_is_told_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.PLACE, str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"file/artifacts: the cache cannot be written: .*; set CNNBENCH_CACHE"):
        cache.prepare()


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(_: str) -> str:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(cache.PLACE)
    monkeypatch.setattr("platformdirs.user_cache_dir", homeless)
    with pytest.raises(InputError, match="set CNNBENCH_CACHE"):
        cache_folder()


@pytest.mark.parametrize("text", ["-1", "nan", "much"])
def test_a_limit_that_is_none_is_told(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.LIMIT, text)
    with pytest.raises(InputError, match="CNNBENCH_CACHE_LIMIT: expected a size in GB"):
        cache.limit_bytes()


KEY = key_of(LENET, "")


def test_descriptions_are_no_part_of_the_key_and_each_constant_is() -> None:
    source = '"""A module."""\nLIMIT = 3.5\n"""Of something."""\ndef f(x):\n    """Half."""\n    return x / 2  # why\n'
    described = source.replace("A module", "One").replace("Half", "x / 2").replace("# why", "").replace("Of some", "S")
    assert meaning(described) == meaning(source)
    for old, new in (("3.5", "3.6"), ("/ 2", "/ 3"), ("LIMIT", "MOST")):
        assert meaning(source.replace(old, new, 1)) != meaning(source)


@pytest.mark.parametrize("where", ["networks/registry.py", "suite/optimizer.py", "worker/reference/parity.py"])
def test_code_that_builds_is_a_part_of_the_key(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(toolchain.__file__).parent.parent
    covered = {str(file.relative_to(package)) for pattern in toolchain.BUILDERS for file in package.glob(pattern)}
    assert where in covered


def test_each_setting_of_a_model_and_each_version_is_a_part_of_its_key() -> None:
    own = toolchain.own_toolchain()
    changed: dict[str, object] = {"model": "alexnet", "image_size": (32, 32), "classes": 11, "seed": 1}
    changed |= {"channels": 1, "inputs": (("x", (3, 8, 8)),), "weights": "net.pt", "loss": "mine:loss"}
    assert set(changed) == set(ModelSpec.model_fields)
    keys = {key_of(LENET.model_copy(update={name: value}), "") for name, value in changed.items()}
    keys |= {key_of(LENET, "", Toolchain("other code", own.versions)), key_of(LENET, "", weights_of="other")}
    keys |= {key_of(LENET, "", Toolchain(own.code, {**own.versions, name: "0"})) for name in own.versions}
    assert len(keys | {KEY}) == len(changed) + 2 + len(own.versions) + 1


def test_only_what_is_made_of_a_users_code_belongs_to_one_run_and_its_file_is_a_part_of_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = LENET.model_copy(update={"loss": "mine:loss"})
    assert (key_of(LENET, "a") == key_of(LENET, "b"), key_of(own, "a") == key_of(own, "b")) == (True, False)
    assert len(KEY) == 20
    monkeypatch.setattr(artifact, "source_digest", lambda spec: "of its file")
    assert key_of(LENET, "") != KEY


def case_of(runtime: str = "ort", **about: Any) -> Case:
    return Case.model_validate({"spec": LENET, "workload": "inference", "runtime": runtime, "batch": 8, **about})


def test_a_case_depends_on_its_models_files_the_data_it_is_calibrated_with_and_the_engines_it_runs_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(artifact, "engine_versions", lambda: {"onnxruntime": "1", "openvino": "2"})
    case = case_of(precision="int8", calibration="shapes")
    first = artifact.depends_on(case)
    assert len(first) == 16
    changes: list[tuple[str, Callable[..., Any], bool]] = [
        ("source_digest", lambda spec: "other", True),
        ("key_of", lambda spec, run_id: f"other {run_id}", True),
        ("engine_versions", lambda: {"onnxruntime": "3", "openvino": "2"}, True),
        ("engine_versions", lambda: {"onnxruntime": "1", "openvino": "3"}, False),
    ]
    for name, other, is_other in changes:
        with monkeypatch.context() as patch:
            patch.setattr(artifact, name, other)
            assert (artifact.depends_on(case) != first) == is_other, name
    monkeypatch.setattr(dataset, "fingerprint", lambda source: f"files of {source}")
    assert artifact.depends_on(case) != first
    assert artifact.depends_on(case_of(batch=4)) != artifact.depends_on(case_of())


SHAPES = sha256(b"shapes").hexdigest()[:12]


@pytest.mark.parametrize(
    ("case", "graph", "made"),
    [
        (case_of(), "model.onnx", ""),
        (case_of("eager"), "model.onnx", ""),
        (case_of("eager", precision="amp-bf16"), "model.onnx", ""),
        (case_of(device="cuda", precision="fp16"), "model.fp16.onnx", "model.fp16.onnx.json"),
        (case_of("openvino", precision="bf16"), "model.onnx", "model.bf16.onnx.json"),
        (case_of(precision="int8"), "model.int8.onnx", "model.int8.onnx.json"),
        (
            case_of(precision="int8", calibration="shapes"),
            f"model.int8-{SHAPES}.onnx",
            f"model.int8-{SHAPES}.onnx.json",
        ),
        (
            case_of(precision="int8", calibration="shapes", draw=2),
            f"model.int8-{SHAPES}-draw2.onnx",
            f"model.int8-{SHAPES}-draw2.onnx.json",
        ),
        (case_of("compile", precision="int8-pt2e"), "model.int8-pt2e.pt2", "model.int8-pt2e.pt2.json"),
        (case_of("aot:freezing"), "model.onnx", "package-aot-freezing-b8-t3-cpu0.pt2"),
        (case_of("aot", device="cuda"), "model.onnx", "package-aot-b8-t3-cpu0-cuda.pt2"),
    ],
)
def test_what_is_made_for_a_case_has_a_name_of_its_own(
    case: Case, graph: str, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "instruction_set", lambda: "cpu0")
    assert (artifact.graph_file(case), artifact.made_for(case, 3)) == (graph, made)


def test_outputs_are_compared_with_those_of_the_data_that_a_graph_is_calibrated_with(tmp_path: Path) -> None:
    case = case_of(precision="int8")
    assert (artifact.read_graph(tmp_path, case), artifact.golden_of(tmp_path, case)) == (None, "golden.safetensors")
    (tmp_path / "model.int8.onnx.json").write_text(GraphFacts(reference_digest="abc").model_dump_json())
    (tmp_path / "model.fp32.onnx.json").write_text(GraphFacts(reference_digest="abc").model_dump_json())
    assert artifact.golden_of(tmp_path, case) == "golden-abc.safetensors"
    assert artifact.golden_of(tmp_path, case_of()) == "golden.safetensors"


def test_facts_that_are_not_there_or_cannot_be_read_are_none(tmp_path: Path) -> None:
    step = StepFacts(nodes=1)
    for part, name in (("all", "step.json"), ("head", "step-head.json"), ("from:layer4.1", "step-from-layer4.1.json")):
        assert artifact.read_step(tmp_path, part) is None
        (tmp_path / name).write_text(step.model_dump_json())
        assert artifact.read_step(tmp_path, part) == step
        assert artifact.step_files(part) == (name.replace(".json", ".onnx"), name)
    assert artifact.ordered_file(tmp_path / "step-head.onnx") == tmp_path / "step-head.cpu.onnx"
    package = tmp_path / "package-a.pt2"
    assert artifact.read_package(package) is None
    (tmp_path / "package-a.pt2.json").write_text(PackageFacts(package_bytes=3).model_dump_json())
    assert artifact.read_package(package) == PackageFacts(package_bytes=3)
    assert artifact.read_facts(tmp_path) is None
    (tmp_path / artifact.FACTS).write_text(facts().model_dump_json())
    assert artifact.read_facts(tmp_path) == facts()
    for file in tmp_path.glob("*.json"):
        file.write_text("{")
    assert [artifact.read_facts(tmp_path), artifact.read_step(tmp_path), artifact.read_package(package)] == [None] * 3


def test_a_long_name_is_cut_and_told_apart(place: Path) -> None:
    assert artifact.file_name("a/b c:d.e_f-ü") == "a-b-c-d.e_f-ü"
    assert artifact.file_name("x" * 100) == "x" * 100
    assert artifact.file_name("x" * 101) == f"{'x' * 100}-{sha256(b'x' * 101).hexdigest()[:12]}"
    name = "a" + "ü" * 50
    assert artifact.file_name(name) == f"a{'ü' * 49}-{sha256(name.encode()).hexdigest()[:12]}", "no half a letter"


def test_a_seal_has_every_files_size_and_digest_but_its_own() -> None:
    folder = entry(size=3)
    seal(folder, "key")
    found = artifact.Seal.model_validate_json((folder / cache.SEAL).read_text())
    weights = artifact.SealedFile(size=3, sha256=sha256(bytes(3)).hexdigest())
    assert (found.key, sorted(found.files)) == ("key", ["artifact.json", "weights.safetensors"])
    assert found.files["weights.safetensors"] == artifact.sealed(folder / "weights.safetensors") == weights


def test_the_commands_list_verify_and_prune(cli: Cli) -> None:
    folder = entry()
    assert "lenet5-key" in cli("cache", "list").stdout
    assert cli("cache", "verify").returncode == 0
    flip(folder)
    verified = cli("cache", "verify")
    assert verified.returncode == 3
    assert "weights.safetensors is damaged" in verified.stdout
    assert "lenet5-key" in cli("cache", "prune", "--unused", "24h").stdout
    assert not folder.exists()


def test_compiled_code_is_not_kept_where_a_link_leads_or_another_user_can_write(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache.private_folder("inductor")
    assert cache.private_folder("inductor") == folder
    monkeypatch.setattr(cache, "_is_own", lambda path: path != folder)
    with pytest.raises(PermissionError, match="a folder of this user's own"):
        cache.private_folder("inductor")
    monkeypatch.undo()
    monkeypatch.setenv(cache.PLACE, str(place))
    a_link_in_its_place(folder)
    with pytest.raises(PermissionError, match="got a link"):
        cache.private_folder("inductor")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    assert "TORCHINDUCTOR_CACHE_DIR" not in HERE.environment()


def test_a_worker_is_told_where_to_keep_compiled_code_before_torch_chooses_a_place(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    assert HERE.environment()["TORCHINDUCTOR_CACHE_DIR"] == str(cache.private_folder("inductor"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    assert HERE.environment()["TORCHINDUCTOR_CACHE_DIR"] == "mine"


def test_compiled_code_is_not_kept_where_there_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.PLACE, str(tmp_path / "file"))
    assert "TORCHINDUCTOR_CACHE_DIR" not in HERE.environment()  # torch's own then lies in the worker's scratch folder
