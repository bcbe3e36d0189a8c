"""A suite on many machines: what the driver makes of what nodes say, and what a node's program sends."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from filelock import FileLock

from cnnbench import __version__, api
from cnnbench.errors import InputError, RunFolderError
from cnnbench.fleet import node as program
from cnnbench.fleet import task
from cnnbench.fleet.arrival import Arriving
from cnnbench.fleet.driver import Ending, Fleet, Folder, Machine, Row, nodes_of, run_fleet
from cnnbench.fleet.messages import Doing, Ended, FileName, Hello, Job, Message, Note, Offer, Own, Wrote
from cnnbench.fleet.transport import Event, Node
from cnnbench.records.input_times import InputTimes
from cnnbench.records.lines import record_line, shared_values
from cnnbench.records.reason import Code, Reason
from cnnbench.records.record import Measurement, Record
from cnnbench.records.run_folder import About, read_run
from cnnbench.report.fleet import outcomes
from cnnbench.suite.input_plan import InputPlan
from cnnbench.suite.load import Suite, load_suite
from tests.conftest import Cli, write_suite
from tests.records import ENVIRONMENT, case, record

SUITE = "models: [lenet5]\ndefaults: {workloads: [inference], batches: [1, 8], runtimes: [eager], classes: 10}\n"
CASES = [case(batch=1), case(batch=8)]


class Dies:
    """Instead of a message: the node is lost, and comes back with another id if it says so."""

    def __init__(self, *, comes_back: bool = True) -> None:
        self.comes_back = comes_back


class Interrupts:
    """Instead of a message: the user presses Ctrl-C."""


Says = Message | bytes | Dies | Interrupts


class Scripted:
    """Nodes by name, each with what it says in one attempt after the other."""

    def __init__(self, **scripts: Sequence[Sequence[Says]]) -> None:
        self.scripts = {name: deque(attempts) for name, attempts in scripts.items()}
        self.living = {name: Node(f"{name}1", name) for name in scripts}
        self.jobs: dict[str, list[Job]] = {name: [] for name in scripts}
        self.running: dict[str, deque[Says]] = {}
        self.stopped: list[str] = []

    def nodes(self) -> Sequence[Node]:
        return list(self.living.values())

    def offer(self, files: Mapping[str, Path]) -> None:
        self.files = files

    def start(self, node: Node, job: bytes) -> None:
        assert self.living[node.name].id == node.id
        self.jobs[node.name].append(Job.model_validate_json(job))
        self.running[node.name] = deque(self.scripts[node.name].popleft())

    def poll(self, timeout_s: float) -> Sequence[Event]:
        events = []
        for name, left in list(self.running.items()):
            node = self.living[name]
            match said := left.popleft():
                case Interrupts():
                    raise KeyboardInterrupt
                case Dies():
                    events.append(Event(node.id, lost="its node died"))
                    del self.living[name]
                    if said.comes_back:
                        self.living[name] = Node(f"{name}{len(self.jobs[name]) + 1}", name)
                case bytes():
                    events.append(Event(node.id, said))
                case _:
                    events.append(Event(node.id, said.model_dump_json().encode()))
            if not left:
                del self.running[name]
        return events

    def stop(self, node: Node) -> None:
        self.stopped.append(node.name)
        self.running.pop(node.name, None)


class Notes:
    """Who is told, and notes it."""

    def __init__(self, on_record: Callable[[Machine], None] = lambda machine: None) -> None:
        self.on_record = on_record
        self.lines: list[str] = []

    def changed(self, machine: Machine) -> None:
        self.lines.append(f"{machine.name} {machine.state} {machine.doing}".strip())

    def done(self, machine: Machine, record: Record) -> None:
        self.on_record(machine)


def wrote(*records: Record) -> list[Says]:
    """What a node sends of them."""
    shared = {digest: each for record in records for digest, each in shared_values(record).items()}
    lines: list[tuple[FileName, str]] = [
        ("run.json", About(suite="suite", cases=[each.id for each in CASES]).model_dump_json()),
        ("environment.json", ENVIRONMENT.model_dump_json()),
        *[("shared.jsonl", each.model_dump_json(exclude_unset=True)) for each in shared.values()],
        *[("records.jsonl", record_line(record)) for record in records],
    ]
    return [Wrote(file=name, text=text) for name, text in lines]


def measured(of: int, seconds: float = 0.01) -> Record:
    return record(CASES[of], [seconds] * 8)


HELLO, WELL = Hello(fingerprint="f1"), Ended(code=0)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return load_suite(write_suite(tmp_path, SUITE))


def drive(suite: Suite, out: Path, nodes: Scripted, watch: Notes | None = None, *, patience_s: float = 60.0) -> Ending:
    with Folder(out, suite) as folder:
        return run_fleet(nodes, folder, suite.cases, [], watch or Notes(), pause_s=0.0, patience_s=patience_s)


def test_records_are_on_disk_as_they_arrive_in_a_run_for_each_machine(tmp_path: Path, suite: Suite) -> None:
    out, seen = tmp_path / "out", []
    nodes = Scripted(
        a=[[HELLO, Doing(text="[0/2] lenet5, about 9 s left"), *wrote(measured(0), measured(1)), WELL]],
        b=[[HELLO, *wrote(measured(0, 0.02), measured(1, 0.02)), WELL]],
    )

    def look(machine: Machine) -> None:
        assert machine.folder is not None
        seen.append((machine.name, len(read_run(machine.folder).records)))

    watch = Notes(look)
    ending = drive(suite, out, nodes, watch)
    assert sorted(seen) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert all(row.is_complete for row in ending.rows)
    assert "a measuring [0/2] lenet5, about 9 s left" in watch.lines
    assert read_run(out / "a").records == {each.id: each for each in (measured(0), measured(1))}
    assert read_run(out / "b").records == {each.id: each for each in (measured(0, 0.02), measured(1, 0.02))}
    assert (out / "a" / "suite.yaml").read_text() == SUITE


def test_a_machine_that_is_lost_goes_on_itself_with_what_it_had(tmp_path: Path, suite: Suite) -> None:
    """The second attempt is told what arrived of the first; what it sends anew stands once."""
    second = wrote(measured(0), measured(1))
    nodes = Scripted(
        a=[[HELLO, *wrote(measured(0)), Dies()], [HELLO, second[-1], WELL]],
        b=[[HELLO, *wrote(measured(0), measured(1)), WELL]],
    )
    ending = drive(suite, tmp_path / "out", nodes)
    assert [row.is_complete for row in ending.rows] == [True, True]
    known = nodes.jobs["a"][1].known["f1"]
    assert known["records.jsonl"] == record_line(measured(0)) + "\n"
    assert [job.known for job in nodes.jobs["b"]] == [{}]
    lines = (tmp_path / "out" / "a" / "records.jsonl").read_text().splitlines()
    assert lines == [record_line(measured(0)), record_line(measured(1))]


def test_there_are_three_attempts_and_then_what_is_left_is_said(tmp_path: Path, suite: Suite) -> None:
    nodes = Scripted(a=[[HELLO, Dies()]] * 5, b=[[HELLO, *wrote(measured(0), measured(1)), WELL]])
    ending = drive(suite, tmp_path / "out", nodes)
    assert len(nodes.jobs["a"]) == 3
    assert [(row.machine.state, row.machine.reason, len(row.left)) for row in ending.rows] == [
        ("lost", "its node died", 2),
        ("ended", "", 0),
    ]


@pytest.mark.parametrize("code", [-9, -1, 129, 130, 143])
def test_a_command_that_somebody_ended_is_started_again(tmp_path: Path, suite: Suite, code: int) -> None:
    nodes = Scripted(a=[[HELLO, Ended(code=code)], [HELLO, *wrote(measured(0), measured(1)), WELL]])
    assert drive(suite, tmp_path / "out", nodes).rows[0].is_complete


def test_a_machine_that_stays_away_is_given_up_and_the_same_command_completes_it(tmp_path: Path, suite: Suite) -> None:
    out = tmp_path / "out"
    away = Scripted(a=[[HELLO, *wrote(measured(0)), Dies(comes_back=False)]], b=[[HELLO, WELL]])
    ending = drive(suite, out, away, patience_s=0.0)
    assert [(row.machine.name, row.machine.is_given_up, len(row.left)) for row in ending.rows] == [
        ("a", True, 1),
        ("b", False, 2),
    ]
    (row,) = drive(suite, out, Scripted(b=[[HELLO, *wrote(measured(0), measured(1)), WELL]])).rows[1:]
    assert (row.machine.name, row.machine.state, row.left) == ("a", "absent", [CASES[1].id])
    back = Scripted(a=[[HELLO, wrote(measured(1))[-1], WELL]], b=[[HELLO, WELL]])
    assert all(row.is_complete for row in drive(suite, out, back).rows)
    assert len((out / "a" / "records.jsonl").read_text().splitlines()) == 2


def test_another_machine_of_the_same_name_begins_anew(tmp_path: Path, suite: Suite) -> None:
    """Its records are never among the first one's."""
    other = Hello(fingerprint="f2")
    nodes = Scripted(
        a=[[HELLO, *wrote(measured(0)), Dies()], [other, *wrote(measured(0, 0.5), measured(1, 0.5)), WELL]]
    )
    ending = drive(suite, tmp_path / "out", nodes)
    assert ending.rows[0].is_complete
    assert list(read_run(tmp_path / "out" / "a").records.values()) == [measured(0)]
    assert list(read_run(tmp_path / "out" / "a-f2").records.values()) == [measured(0, 0.5), measured(1, 0.5)]


@pytest.mark.parametrize(
    "said",
    [
        b"\x80\x05cposix\nsystem\n",
        b'{"kind": "wrote", "file": "../../x", "text": "{}"}',
        Wrote(file="records.jsonl", text='{"schema_version": 99}'),
        Wrote(file="records.jsonl", text="{}\n{}"),
        Wrote(file="environment.json", text="[]"),
        Wrote(file="ceilings.json", text="{}"),
        Wrote(file="input.json", text="{}"),
    ],
)
def test_what_is_no_record_ends_its_machine_alone(tmp_path: Path, suite: Suite, said: Says) -> None:
    nodes = Scripted(a=[[HELLO, said, WELL]], b=[[HELLO, *wrote(measured(0), measured(1)), WELL]])
    ending = drive(suite, tmp_path / "out", nodes)
    assert [row.is_complete for row in ending.rows] == [False, True]
    assert "no message or no record" in ending.rows[0].machine.reason
    assert nodes.stopped == ["a"]
    assert not (tmp_path / "out" / "a" / "records.jsonl").exists()


def test_ctrl_c_ends_all_jobs_and_keeps_what_has_arrived(tmp_path: Path, suite: Suite) -> None:
    out = tmp_path / "out"
    nodes = Scripted(a=[[HELLO, *wrote(measured(0)), Interrupts()]], b=[[HELLO, *[Doing(text="x")] * 50, WELL]])
    ending = drive(suite, out, nodes)
    assert ending.interrupted
    assert nodes.stopped == ["a", "b"]
    assert list(read_run(out / "a").records.values()) == [measured(0)]
    assert read_run(out / "a").unreadable == []


def test_a_full_disk_of_the_driver_loses_nothing_once_there_is_room(
    tmp_path: Path, suite: Suite, fill_disk: Callable[[Callable[[], bool]], None]
) -> None:
    full = [False]

    def turn(machine: Machine) -> None:
        full[0] = not full[0]

    fill_disk(lambda: full[0])
    nodes = Scripted(a=[[HELLO, *wrote(measured(0), measured(1)), wrote(measured(0, 0.3))[-1], WELL]])
    ending = drive(suite, tmp_path / "out", nodes, Notes(turn))  # full when the second arrives, not with the third
    assert ending.unwritten == ""
    lines = (tmp_path / "out" / "a" / "records.jsonl").read_text().splitlines()
    assert lines == [record_line(each) for each in (measured(0), measured(1), measured(0, 0.3))]


def test_a_full_disk_of_the_driver_ends_in_a_line_and_keeps_what_is_there(
    tmp_path: Path, suite: Suite, fill_disk: Callable[[Callable[[], bool]], None]
) -> None:
    full = [False]

    def fill(machine: Machine) -> None:
        full[0] = True

    fill_disk(lambda: full[0])
    ending = drive(suite, tmp_path / "out", Scripted(a=[[HELLO, *wrote(measured(0), measured(1)), WELL]]), Notes(fill))
    assert "No space left" in ending.unwritten
    full[0] = False
    assert list(read_run(tmp_path / "out" / "a").records.values()) == [measured(0)]


def test_a_folder_of_something_else_is_refused(tmp_path: Path, suite: Suite) -> None:
    out = tmp_path / "out"
    drive(suite, out, Scripted(a=[[HELLO, WELL]]))
    other = load_suite(write_suite(tmp_path, SUITE.replace("[1, 8]", "[2]")))
    with pytest.raises(RunFolderError, match="another"):
        Folder(out, other)
    (out / "a" / "run.json").touch()
    with pytest.raises(RunFolderError, match="a run's of one machine"):
        Folder(out / "a", suite)
    with Folder(out, suite), pytest.raises(RunFolderError, match="another fleet is writing here"):
        Folder(out, suite)
    with Folder(tmp_path / "deep" / "new", suite) as folder:
        assert (folder.about.suite, folder.about.machines) == (suite.name, {})
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").touch()
    with pytest.raises(RunFolderError, match=r"got one with 'notes\.txt' in it"):
        Folder(tmp_path / "else", suite)


def test_a_row_says_why_cases_were_not_measured(tmp_path: Path, suite: Suite) -> None:
    """Such as for a GPU that the machine does not have; not what is supported nowhere."""
    codes: list[Code] = ["no-device", "unsupported", "no-device", "crashed", "hung"]
    reasons = [Reason(code=code, detail="cuda") for code in codes]
    absent = [
        Record(case=case(batch=8), status="unavailable", reasons=reasons, started="2026-11-25T10:00:00+00:00"),
        measured(0).model_copy(update={"status": "noisy", "reasons": [Reason(code="drift")]}),
    ]
    ending = drive(suite, tmp_path / "out", Scripted(a=[[HELLO, *wrote(*absent), WELL]]))
    row = outcomes(ending.rows)[1]
    assert row.endswith("there is no such device: cuda; the process crashed: cuda; and 1 more")


def test_what_was_measured_of_the_input_arrives(tmp_path: Path) -> None:
    times = InputTimes(plan=InputPlan(data="shapes"), device="cpu", started="2026-11-25T10:00:00+00:00")
    arriving = Arriving(tmp_path / "a", SUITE)
    for each in (wrote(measured(0))[0], Wrote(file="input.json", text=times.model_dump_json())):
        assert isinstance(each, Wrote)
        assert arriving.take(each) is None
    assert read_run(tmp_path / "a").input == times


def test_the_driver_keeps_no_record_and_checks_each_launch(tmp_path: Path) -> None:
    """A line that says how many launches came before is checked against that, before and after the folder is reread."""
    record = measured(0)
    two = record.model_copy(update={"measurement": Measurement(launches=record.launches * 2)})
    arriving = Arriving(tmp_path / "a", SUITE)
    *shared, first = [each for each in wrote(record) if isinstance(each, Wrote)]
    second, beyond = (Wrote(file="records.jsonl", text=record_line(two, earlier)) for earlier in (1, 2))
    for each in (*shared, first):
        arriving.take(each)
    with pytest.raises(ValueError, match="at most the 1 launches"):
        arriving.take(beyond)
    told = Arriving(tmp_path / "a", SUITE).take(second)
    assert told is not None
    assert told.launches == record.launches
    assert read_run(tmp_path / "a").records == {two.id: two}
    with pytest.raises(ValueError, match="is not in the file of what records share"):
        Arriving(tmp_path / "b", SUITE).take(first)
    with pytest.raises(ValueError, match="blocks: expected times of forward"):
        arriving.take(Wrote(file="records.jsonl", text=first.text.replace('{"forward":', '{"backward":')))
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for batch in range(10, 40):
        arriving.take(Wrote(file="records.jsonl", text=first.text.replace("/b1", f"/b{batch}")))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / 30 < 1000


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[[Scripted], None]:
    """`cluster(nodes)` has the command line find these."""

    def use(nodes: Scripted) -> None:
        class Cluster(Scripted):
            def __init__(self, address: str) -> None:
                self.__dict__ = nodes.__dict__

            def __enter__(self) -> "Cluster":
                return self

            def __exit__(self, *_: object) -> None:
                pass

        monkeypatch.setattr("cnnbench.fleet.ray_cluster.RayCluster", Cluster)

    monkeypatch.setattr(api.Results, "write", lambda results: results.run.folder / "report.html")

    return use


def test_the_command_compares_machines_and_tells_what_continues_it(
    tmp_path: Path, cli: Cli, cluster: Callable[[Scripted], None]
) -> None:
    write_suite(tmp_path, SUITE)
    words = ["run", "suite.yaml", "--fleet", "local", "--out", "out"]
    cluster(
        Scripted(a=[[HELLO, *wrote(measured(0), measured(1)), WELL]], b=[[HELLO, *wrote(measured(0)), Ended(code=3)]])
    )
    done = cli(*words)
    assert done.returncode == 3
    assert "b: 1 of 2 cases left" in done.stderr
    assert f"continue with: cnnbench {' '.join(words)}" in done.stderr
    assert (tmp_path / "out" / "compared" / "report.html").exists()
    cluster(Scripted(a=[[HELLO, WELL]], b=[[HELLO, *wrote(measured(1))[-1:], WELL]]))
    again = cli(*words)
    assert again.returncode == 0, again.stderr
    assert "complete" in again.stdout


def test_machines_with_other_libraries_are_listed_and_compared_where_asked(
    tmp_path: Path, cli: Cli, cluster: Callable[[Scripted], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_suite(tmp_path, SUITE)
    newer = ENVIRONMENT.model_copy(update={"software": {**ENVIRONMENT.software, "torch": "9.9"}})
    environment = Wrote(file="environment.json", text=newer.model_dump_json())
    said = wrote(measured(0), measured(1))
    compared: list[list[str]] = []

    def write(found: api.Compared, folder: str | Path) -> Path:
        compared.append([machine.name for machine in found.comparison.machines])
        return Path(folder)

    monkeypatch.setattr(api.Compared, "write", write)
    for mixed in ([], ["--mixed"]):
        cluster(Scripted(a=[[HELLO, *said, WELL]], b=[[HELLO, *said, environment, WELL]], c=[[HELLO, *said, WELL]]))
        done = cli("run", "suite.yaml", "--fleet", "x:1", "--out", f"out{len(mixed)}", *mixed)
        assert "torch 9.9, onnxruntime-gpu 1.31.1: b" in done.stdout
    assert compared == [["a", "c"], ["a", "c", "b"]]


def test_the_plan_names_machines_cases_and_time_and_measures_nothing(
    tmp_path: Path, cli: Cli, cluster: Callable[[Scripted], None]
) -> None:
    write_suite(tmp_path, SUITE)
    nodes = Scripted(a=[], b=[], gpu=[])
    cluster(nodes)
    done = cli("run", "suite.yaml", "--fleet", "x:1", "--plan", "--nodes", "[ab]", "--only", "*/b8")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["machine", "a", "b"]
    assert done.stdout.splitlines()[1].split()[3] == "1"
    assert not any(nodes.jobs.values())
    assert not (tmp_path / "runs").exists()
    nobody = cli("run", "suite.yaml", "--fleet", "x:1", "--label", "gpu=h100")
    assert nobody.returncode == 2
    assert "got none of a, b, gpu" in nobody.stderr
    assert cli("run", "suite.yaml", "--nodes", "a").returncode == 2


class Timed(Scripted):
    """On a clock that goes on by a second whenever it is asked what came; `late` comes with the next answer."""

    def __init__(self, **scripts: Sequence[Sequence[Says]]) -> None:
        super().__init__(**scripts)
        self.now_s = 0.0
        self.started: list[float] = []
        self.late: list[Event] = []

    def start(self, node: Node, job: bytes) -> None:
        self.started.append(self.now_s)
        super().start(node, job)

    def poll(self, timeout_s: float) -> Sequence[Event]:
        self.now_s += 1.0
        events = [*super().poll(timeout_s), *self.late]
        self.late = []
        return events


def timed(suite: Suite, out: Path, nodes: Timed, watch: Notes | None = None, patience_s: float = 10.0) -> Fleet:
    """A fleet that waits for 2 s before it starts a machine again, and so long for one that says nothing."""
    with Folder(out, suite) as folder:
        fleet = Fleet(
            nodes, folder, ["--x"], watch or Notes(), patience_s=patience_s, pause_s=2.0, clock_s=lambda: nodes.now_s
        )
        assert not fleet.run(nodes.nodes())
    return fleet


@pytest.mark.parametrize(
    ("patience_s", "hello", "started", "attempts"),
    [
        (10.0, False, [0, 4, 7, 10], 1),  # lost after 2 s, so it is waited for until 12
        (11.0, False, [0, 4, 7, 10, 13], 1),
        (0.0, False, [0], 1),
        (3.0, True, [0, 4, 8], 3),
        (1e9, True, [0, 4, 8], 3),  # three attempts
    ],
)
def test_a_lost_machine_is_waited_for_since_it_last_said_which_it_is(
    tmp_path: Path, suite: Suite, patience_s: float, hello: bool, started: list[float], attempts: int
) -> None:
    again: list[Says] = [HELLO, Dies()] if hello else [Dies()]
    nodes = Timed(a=[[HELLO, Dies()], *[again] * 9])
    (machine,) = timed(suite, tmp_path / "out", nodes, patience_s=patience_s).machines
    assert (nodes.started, machine.attempts) == (started, attempts)
    assert (machine.state, machine.is_given_up, machine.reason) == ("lost", True, "its node died")


def test_what_happens_to_a_machine_is_told_in_order_and_what_comes_too_late_is_not(
    tmp_path: Path, suite: Suite
) -> None:
    watch = Notes()
    late = Doing(text="late").model_dump_json().encode()

    def interrupt(machine: Machine) -> None:
        nodes.late = [Event("a1", late), Event("a1", lost="its old node"), Event("nobody", late), Event("b1", late)]

    watch.on_record = interrupt
    nodes = Timed(
        a=[[HELLO, Dies()], [Doing(text="x"), HELLO, *wrote(measured(0)), Doing(text="y"), WELL]],
        b=[[HELLO, Note(text="m"), Note(text="n"), Note(text="m"), Ended(code=3, reason="full")]],
    )
    a, b = timed(suite, tmp_path / "out", nodes, watch).machines
    assert [line for line in watch.lines if line.startswith("a")] == [
        "a waiting", "a measuring", "a lost", "a waiting", "a waiting x", "a measuring x", "a measuring y", "a ended",
    ]  # fmt: skip
    assert [line for line in watch.lines if line.startswith("b")] == ["b waiting", "b measuring", "b ended"]
    assert (b.notes, b.code, b.reason, b.attempts) == (["m", "n"], 3, "full", 1)
    assert (a.code, a.reason, a.node) == (0, "", Node("a2", "a"))
    assert a.arriving is None
    assert (nodes.jobs["a"][0].options, nodes.jobs["a"][0].machine, nodes.jobs["a"][0].file) == (
        ("--x",),
        "a",
        "suite.yaml",
    )
    assert (nodes.jobs["a"][0].toolchain, nodes.jobs["a"][0].offers, nodes.jobs["a"][0].own) == ("", (), Own())


def test_a_record_of_a_machine_that_has_not_said_which_it_is_ends_it(tmp_path: Path, suite: Suite) -> None:
    ending = drive(suite, tmp_path / "out", Scripted(a=[[*wrote(measured(0)), WELL]]))
    assert "a record before the machine's fingerprint" in ending.rows[0].machine.reason
    assert ending.rows[0].machine.code is None


def test_a_machine_whose_folder_cannot_be_made_ends_alone(tmp_path: Path, suite: Suite) -> None:
    whole = [HELLO, *wrote(measured(0), measured(1)), WELL]
    nodes = Scripted(a=[whole], b=[whole])
    with Folder(tmp_path / "out", suite) as folder:
        (tmp_path / "out" / "a").touch()
        a, b = run_fleet(nodes, folder, suite.cases, [], Notes(), pause_s=0.0).rows
    assert a.machine.reason == f"what it sent could not be written: {tmp_path / 'out' / 'a'}: File exists"
    assert (nodes.stopped, a.machine.state, a.machine.code, b.is_complete) == (["a"], "ended", None, True)


def test_ctrl_c_stops_the_machines_that_are_not_over(tmp_path: Path, suite: Suite) -> None:
    nodes = Scripted(
        a=[[HELLO, WELL]], b=[[HELLO, *[Doing(text="x")] * 3, Interrupts()]], c=[[HELLO, *[Doing(text="x")] * 9]]
    )
    ending = drive(suite, tmp_path / "out", nodes)
    assert (ending.interrupted, nodes.stopped) == (True, ["b", "c"])


def test_machines_that_measured_before_are_told_of_where_their_name_is_asked_for(tmp_path: Path, suite: Suite) -> None:
    out = tmp_path / "out"
    whole = [HELLO, *wrote(measured(0), measured(1)), WELL]
    drive(suite, out, Scripted(a=[whole], b=[whole]))
    for names, expected in (([], ["c", "a", "b"]), (["[bc]"], ["c", "b"]), (["c"], ["c"])):
        nodes = Scripted(c=[whole])
        with Folder(out, suite) as folder:
            rows = run_fleet(nodes, folder, suite.cases, [], Notes(), names=names).rows
        assert [row.machine.name for row in rows] == expected
        assert [row.is_complete for row in rows] == [True] + [False] * (len(expected) - 1)
        assert all(row.machine.reason == "not in the cluster" and not row.left for row in rows[1:])


def test_a_row_is_complete_where_its_command_ended_well_with_all_cases() -> None:
    for state, code, left, is_complete in (
        ("ended", 0, [], True),
        ("lost", 0, [], False),
        ("ended", 3, [], False),
        ("ended", 0, ["x"], False),
    ):
        assert Row(Machine("a", None, state, code=code), {}, left).is_complete == is_complete  # type: ignore[arg-type]


def test_cases_that_failed_are_left_and_those_that_cannot_run_are_not(tmp_path: Path, suite: Suite) -> None:
    failed = record(CASES[0], status="failed", reasons=[Reason(code="crashed")])
    absent = record(CASES[1], status="unavailable", reasons=[Reason(code="no-device")])
    (row,) = drive(suite, tmp_path / "out", Scripted(a=[[HELLO, *wrote(failed, absent), WELL]])).rows
    assert (row.left, row.statuses) == ([CASES[0].id], {CASES[0].id: "failed", CASES[1].id: "unavailable"})
    assert [each.code for each in row.reasons] == ["crashed", "no-device"]


def test_a_machines_folder_has_its_name_as_far_as_files_can_and_is_its_alone(tmp_path: Path, suite: Suite) -> None:
    out = tmp_path / "out"
    machines = {
        ("a b/ü", "f1"): "a-b",
        ("a b/ü", "abcdefgh"): "a-b-abcdef",
        ("!!", "f1"): "machine",
        ("!!", "f2"): "machine-f2",
        ("??", "f2"): "machine-2",
        ("compared", "f1"): "compared-f1",
        ("n" * 80, "f1"): "n" * 60,
        ("x", "f1"): "x",
        ("x", "/../"): "x-2",
        ("x", "/.../"): "x-3",
    }
    with Folder(out, suite) as folder:
        for _ in range(2):
            assert [folder.place(*machine) for machine in machines] == [out / name for name in machines.values()]
        for number, name in enumerate(("a-b", "a-b-abcdef", "x")):
            (out / name).mkdir()
            (out / name / "records.jsonl").write_text(f"{number}")
        found = {"f1": {"records.jsonl": "0"}, "abcdefgh": {"records.jsonl": "1"}}
        assert (folder.known("a b/ü"), folder.known("a")) == (found, {})
    assert len(json.loads((out / "fleet.json").read_text())["machines"]) == len(machines)
    with Folder(out, suite) as folder:
        assert folder.place("x", "/../") == out / "x-2"
    nodes = Scripted(a=[[HELLO]])
    Fleet(nodes, folder, [], Notes(), offers=[Offer(entry="e", seal="s")])._start(Machine("n ü" * 30, Node("a1", "a")))
    (sent,) = nodes.jobs["a"]
    assert (sent.machine, len(sent.toolchain), sent.offers[0].entry) == (("n--" * 30)[:60], 16, "e")


def test_only_nodes_that_are_chosen_measure_and_none_is_told_with_those_that_there_are() -> None:
    nodes = Scripted(**{f"n{number:02}": [] for number in range(14)})
    nodes.living["n03"] = Node("x", "n03", labels={"gpu": "h100"})
    assert [node.name for node in nodes_of(nodes, ["n0[13]"], {})] == ["n01", "n03"]
    assert [node.name for node in nodes_of(nodes, [], {"gpu": "h100"})] == ["n03"]
    listed = ", ".join(f"n{number:02}" for number in range(12))
    with pytest.raises(InputError, match=f"choose; got none of {listed}$"):
        nodes_of(nodes, ["m"], {})
    with pytest.raises(InputError, match="got none of none with a CPU"):
        nodes_of(Scripted(), [], {})


# What a node's program sends


def job(suite: Suite, **given: object) -> Job:
    return Job.model_validate({"fleet": "f", "machine": "m", "file": "suite.yaml", "suite": suite.text, **given})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the node's program keeps its run: the folder of machine `m` with fingerprint `f1`."""
    monkeypatch.setenv("CNNBENCH_CACHE", str(tmp_path / "node"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv(program.FINGERPRINT, "f1")
    return tmp_path / "node" / f"fleet-{os.geteuid()}" / "f-m-f1" / "run"


def served(asked: Job, script: str) -> list[Message]:
    """What is sent while the script runs in place of the command, with the run's folder as `out`."""
    prelude = "import sys, time, pathlib\nout = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
    prelude += "out.mkdir(exist_ok=True)\nrecords = open(out / 'records.jsonl', 'a')\n"
    sent: list[Message] = []
    code = prelude + textwrap.dedent(script)
    program.serve(asked, sent.append, (sys.executable, "-I", "-S", "-c", code))
    return sent


def lines(sent: list[Message]) -> list[str]:
    return [each.text for each in sent if isinstance(each, Wrote) and each.file == "records.jsonl"]


def test_a_node_sends_whole_lines_as_they_are_written(suite: Suite, place: Path) -> None:
    sent = served(
        job(suite, options=["--only", "x"]),
        """
        print('[0/2] lenet5: warm, about 9 s left', flush=True)
        (out / 'run.json').write_text('{"suite": "s"}')
        print(*sys.argv, flush=True)
        records.write('{"n": 1}\\n{"n": ')
        records.flush()
        time.sleep(0.6)
        records.write('2}\\n{"cut\\n{"n": 3}\\n')
        (out / 'shared.jsonl').write_text('{"s": 1}\\n')
        """,
    )
    assert sent[0] == HELLO
    assert Doing(text="[0/2] lenet5: warm, about 9 s left") in sent
    assert lines(sent) == ['{"n": 1}', '{"n": 2}', '{"n": 3}']
    assert next(each.file for each in sent if isinstance(each, Wrote)) == "run.json"
    assert sent[-1] == WELL
    order = [each.text for each in sent if isinstance(each, Wrote)]
    assert order.index('{"s": 1}') < order.index('{"n": 2}')


def test_a_node_that_is_asked_again_goes_on_and_sends_only_what_is_new(suite: Suite, place: Path) -> None:
    """Whether the driver has less than the node, the same, or the node has lost its folder."""
    served(job(suite), """records.write('{"n": 1}\\n{"n": 2}\\n')""")
    more = """records.write('{"n": 3}\\n')"""
    assert lines(served(job(suite, known={"f1": {"records.jsonl": '{"n": 1}\n'}}), more)) == ['{"n": 2}', '{"n": 3}']
    everything = "".join(f'{{"n": {n}}}\n' for n in (1, 2, 3))
    known = {"f1": {"records.jsonl": everything + '{"cut\n', "run.json": "{}"}}
    assert lines(served(job(suite, known=known), "")) == []
    assert place.joinpath("records.jsonl").read_text() == everything
    for gone in place.iterdir():
        gone.unlink()
    place.rmdir()
    look = """
    records.close()
    assert (out / 'run.json').read_text() == '{}'
    open(out / 'records.jsonl', 'a').write('{"n": 4}\\n')
    """
    sent = served(job(suite, known=known), look)
    assert sent[-1] == WELL
    assert lines(sent) == ['{"n": 4}']
    other = served(job(suite, known={"f2": {"records.jsonl": '{"other": 1}\n'}}), "")
    assert '{"other": 1}' not in lines(other)


def test_where_both_differ_the_drivers_folder_counts(suite: Suite, place: Path) -> None:
    served(job(suite), """records.write('{"n": 1}\\n')""")
    known = {"f1": {"records.jsonl": '{"m": 1}\n'}}
    assert lines(served(job(suite, known=known), """records.write('{"n": 2}\\n')""")) == ['{"n": 2}']
    assert place.joinpath("records.jsonl").read_text() == '{"m": 1}\n{"n": 2}\n'


def test_a_command_that_fails_says_why(suite: Suite, place: Path) -> None:
    sent = served(job(suite), "sys.exit('error: no space left on device')")
    assert sent[-1] == Ended(code=1, reason="error: no space left on device")


def test_the_command_is_alone_on_its_host_and_ends_with_its_input(tmp_path: Path, suite: Suite, place: Path) -> None:
    lock = tmp_path / "lock"

    def start() -> "subprocess.Popen[str]":
        words = [sys.executable, "-P", "-m", "cnnbench.fleet.alone", str(lock), "--version"]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    held = FileLock(lock)
    held.acquire()
    with start() as waits, start() as ended:
        for each in (waits, ended):
            assert each.stdout is not None
            assert each.stdout.readline() == "[0/0] waiting for another node of this host\n"
        assert ended.stdin is not None
        ended.stdin.close()
        assert ended.wait(20) == -signal.SIGTERM
        assert waits.poll() is None
        held.release()
        assert waits.wait(20) == 0
        assert waits.stdout is not None
        assert waits.stdout.read().strip() == __version__


def test_the_task_starts_the_node_in_its_daemons_environment(
    tmp_path: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in that of Ray's worker; a node without the package says so."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nhead -n 1 > job\nenv | sed 's/.*/{\"&\": 1}/'\n")
    script.chmod(0o755)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def said(python: str | Path) -> str:
        own = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "7", "CNNBENCH_PYTHON": str(python)}
        own |= {"RAY_LD_PRELOAD_ON_WORKERS": "0", "LD_PRELOAD": "libjemalloc-of-ray.so"}
        daemon = subprocess.Popen(["sleep", "60"], env=own, cwd=tmp_path)
        try:
            while not Path(f"/proc/{daemon.pid}/environ").read_bytes():  # it is not `sleep` yet
                pass
            monkeypatch.setattr(os, "getppid", lambda: daemon.pid)
            return b"".join(task.measure(b"{}")).decode()
        finally:
            daemon.kill()
            daemon.wait()

    told = said(script)
    assert '{"OMP_NUM_THREADS=7": 1}' in told
    assert "CUDA_VISIBLE_DEVICES" not in told
    assert "RAY_" not in told
    assert "LD_PRELOAD" not in told
    assert (tmp_path / "job").read_bytes() == b"{}\n"
    for python, why in (("/no/python", "No such file"), ("/bin/false", "it ended with code 1")):
        last = json.loads(said(python))
        assert last["kind"] == "ended"
        assert why in last["reason"]


def test_what_a_fleet_does_not_have_is_refused_beside_it(cli: Cli) -> None:
    for option in (["--resume"], ["--tables"], ["--target", "http://127.0.0.1:1"]):
        done = cli("run", "smoke", "--fleet", "local", *option)
        assert (done.returncode, done.stderr) == (2, f"error: {option[0]}: expected it without --fleet; got both\n")
    for option in (["--plan"], ["--nodes", "a"], ["--build", "once"]):
        done = cli("run", "smoke", *option)
        assert (done.returncode, done.stderr) == (2, f"error: {option[0]}: expected --fleet beside it; got none\n")


def test_without_ray_one_line_says_what_to_install(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = cli("run", "smoke", "--fleet", "local", "--plan")
    assert (done.returncode, done.stderr) == (
        2,
        "error: --fleet: expected Ray; it is not installed: pip install 'cnnbench[fleet]'\n",
    )
