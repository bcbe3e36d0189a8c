"""A suite on every machine of a cluster: a run's folder for each, filled as they finish cases.

OUT/fleet.json     the suite and the machines, each by name and fingerprint
OUT/<machine>/     the run of one machine, as `cnnbench run` writes it there
"""

import contextlib
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Protocol, Self

from filelock import FileLock, Timeout
from pydantic import Field

from cnnbench.errors import InputError, RunFolderError
from cnnbench.fleet.arrival import Arriving, known
from cnnbench.fleet.artifacts import Build, offered, toolchain_digest
from cnnbench.fleet.messages import Doing, Ended, FileName, Hello, Job, Note, Offer, Own, Wrote, parse_message
from cnnbench.fleet.own_models import OwnModels
from cnnbench.fleet.transport import Event, Node, Transport, chosen, is_named, named_apart
from cnnbench.records import files
from cnnbench.records.json_object import read_model
from cnnbench.records.reason import Reason
from cnnbench.records.record import MEASURED, Record, Status
from cnnbench.records.run_folder import LOCK, RUN, read_run
from cnnbench.suite.case import Case, Frozen
from cnnbench.suite.load import Suite

ABOUT = "fleet.json"
COMPARED = "compared"
"""The folder of the comparison."""
MAX_ATTEMPTS = 3
PATIENCE_S = 60.0
"""For a machine that was lost to come back."""
PAUSE_S = 2.0
"""Until the cluster knows which of its nodes died."""
LOOK_EACH_S = 0.5
INTERRUPTS = (129, 130, 143)
"""Exit codes of a command that somebody else has ended."""


class Known(Frozen):
    """A machine that measured."""

    name: str
    fingerprint: str


class About(Frozen):
    """`fleet.json`."""

    fleet: Annotated[str, Field(pattern=r"^\w{1,64}$")]
    suite: str
    digest: str
    machines: dict[Annotated[str, Field(pattern=r"^\w[\w.-]{0,99}$")], Known] = {}
    """By the name of its folder."""


State = Literal["waiting", "measuring", "lost", "ended", "absent"]
"""
waiting     its node is not free yet
measuring   its command runs
lost        its node or command died
ended       its command ended by itself
absent      it measured before, and is not in the cluster now
"""


@dataclass
class Machine:
    """One machine of the fleet."""

    name: str
    node: Node | None
    """The one that it is, or was last."""
    state: State = "waiting"
    attempts: int = 0
    fingerprint: str = ""
    folder: Path | None = None
    """Of its run, as soon as it has said which machine it is."""
    doing: str = ""
    reason: str = ""
    """Why it was lost, or did not end well."""
    code: int | None = None
    """Of its command."""
    notes: list[str] = field(default_factory=list)
    lost_s: float = 0.0
    """When it was lost, by the fleet's clock."""
    awaited_until_s: float | None = None
    """Until when it is waited for, since it was lost and has not said anything again."""
    is_given_up: bool = False
    arriving: Arriving | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("ended", "absent") or self.is_given_up


class Watch(Protocol):
    """Who is told what happens."""

    def changed(self, machine: Machine) -> None:
        """Its state or what it does is another."""

    def done(self, machine: Machine, record: Record) -> None:
        """A record is on disk; here it has the launches of its last line alone."""


@dataclass(frozen=True)
class Row:
    """What became of one machine."""

    machine: Machine
    statuses: Mapping[str, Status]
    """Of its records, by case id."""
    left: list[str]
    """Ids of the cases without a finished record."""
    reasons: Sequence[Reason] = ()
    """Why cases are failed, invalid or unavailable, each once; without what no machine supports."""

    @property
    def is_complete(self) -> bool:
        """Whether its command ended well with all cases."""
        return self.machine.state == "ended" and self.machine.code == 0 and not self.left


@dataclass(frozen=True)
class Ending:
    """How a fleet's run ended."""

    rows: list[Row]
    interrupted: bool
    unwritten: str
    """Where and why finished records could not be written, if so."""


class Folder:
    """A fleet's folder, held for writing."""

    def __init__(self, folder: Path, suite: Suite) -> None:
        """Make it, or go on in it. Raises RunFolderError if it is another's, or busy."""
        self.folder, self.suite = folder, suite
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / LOCK)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunFolderError(
                f"{folder}: another fleet is writing here; wait for it or give another --out"
            ) from None
        except OSError as error:
            raise RunFolderError(f"{folder}: cannot be written: {error.strerror}; give another --out") from None
        try:
            self.about = self._begin()
        except BaseException:
            self._lock.release()
            raise

    def _begin(self) -> About:
        found = read_model(self.folder / ABOUT, About, "give another --out")
        if found is None:
            if names := sorted(path.name for path in self.folder.iterdir() if path.name != LOCK):
                got = "a run's of one machine" if RUN in names else f"one with {names[0]!r} in it"
                raise RunFolderError(
                    f"{self.folder}: expected a new folder or a fleet's; got {got}; give another --out"
                )
            found = About(fleet=secrets.token_hex(8), suite=self.suite.name, digest=self.suite.digest)
            self._write(found)
        if (found.suite, found.digest) != (self.suite.name, self.suite.digest):
            raise RunFolderError(
                f"{self.folder}: expected the fleet's folder of this version of suite {self.suite.name!r}; got that of "
                f"another ({found.suite!r}); give another --out"
            )
        return found

    def _write(self, about: About) -> None:
        files.write(self.folder / ABOUT, about.model_dump_json(indent=1))

    def place(self, name: str, fingerprint: str) -> Path:
        """The folder of the machine of this name and fingerprint; another machine of the name has one of its own."""
        wanted = Known(name=name, fingerprint=fingerprint)
        for folder, machine in self.about.machines.items():
            if machine == wanted:
                return self.folder / folder
        plain = re.sub(r"[^\w.-]", "-", name, flags=re.ASCII).strip("-.")[:60] or "machine"
        taken = {*self.about.machines, COMPARED}
        names = (plain, f"{plain}-{fingerprint[:6]}", *(f"{plain}-{number}" for number in range(2, len(taken) + 4)))
        folder = next(each for each in names if each not in taken and re.fullmatch(r"\w[\w.-]{0,99}", each))
        self.about = self.about.model_copy(update={"machines": {**self.about.machines, folder: wanted}})
        self._write(self.about)
        return self.folder / folder

    def known(self, name: str) -> dict[str, dict[FileName, str]]:
        """By fingerprint, what has arrived of machines of a name."""
        return {
            machine.fingerprint: known(self.folder / folder)
            for folder, machine in self.about.machines.items()
            if machine.name == name
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Fleet:
    """The machines, and what they are told and tell."""

    def __init__(
        self,
        transport: Transport,
        folder: Folder,
        options: Sequence[str],
        watch: Watch,
        *,
        offers: Sequence[Offer] = (),
        own: Own | None = None,
        patience_s: float = PATIENCE_S,
        pause_s: float = PAUSE_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`options` are those of `cnnbench run` beside the suite and its folder."""
        self._transport, self._folder, self._options, self._watch = transport, folder, options, watch
        self._patience_s, self._pause_s, self._clock_s = patience_s, pause_s, clock_s
        self._offers, self._own = tuple(offers), own or Own()
        self.machines: list[Machine] = []
        self._by_node: dict[str, Machine] = {}

    def run(self, nodes: Sequence[Node], names: Sequence[str] = ()) -> bool:
        """Have all nodes measure; of machines that measured before, those that fit a name are told of as absent.

        True if it was interrupted.
        """
        self.machines = [Machine(node.name, node) for node in nodes]
        present = {machine.name for machine in self.machines}
        for folder, each in self._folder.about.machines.items():
            if each.name not in present and is_named(each.name, names):
                place = self._folder.folder / folder
                self.machines.append(Machine(each.name, None, "absent", folder=place, reason="not in the cluster"))
        try:
            for machine in self.machines:
                if not machine.is_over:
                    self._start(machine)
            while not all(machine.is_over for machine in self.machines):
                for event in self._transport.poll(LOOK_EACH_S):
                    self._take(event)
                self._start_again()
        except KeyboardInterrupt:
            for machine in self.machines:
                if machine.node and not machine.is_over:
                    self._transport.stop(machine.node)
            return True
        return False

    def flush(self) -> str:
        """Write what waits; gives which file could not be written and why, if so."""
        faults = [machine.arriving.flush() for machine in self.machines if machine.arriving]
        return next((fault for fault in faults if fault), "")

    def _start(self, machine: Machine) -> None:
        assert machine.node is not None
        suite = self._folder.suite
        self._by_node[machine.node.id] = machine
        machine.state, machine.doing = "waiting", ""
        job = Job(
            fleet=self._folder.about.fleet,
            machine=re.sub(r"[^\w.-]", "-", machine.name, flags=re.ASCII)[:60],
            file=suite.path.name,
            suite=suite.text,
            options=tuple(self._options),
            known=self._folder.known(machine.name),
            toolchain=toolchain_digest() if self._offers else "",
            offers=self._offers,
            own=self._own,
        )
        self._transport.start(machine.node, job.model_dump_json().encode())
        self._watch.changed(machine)

    def _take(self, event: Event) -> None:
        machine = self._by_node.get(event.node)
        if machine is None or machine.node is None or machine.node.id != event.node:  # its node came back as another
            return
        if machine.is_over or machine.state == "lost":
            return
        if event.message is None:
            self._lose(machine, event.lost)
            return
        try:
            self._hear(machine, event.message)
        except ValueError as error:
            why = (
                f"it sent what is no message or no record: {str(error).splitlines()[0][:200]}; has it another cnnbench?"
            )
            self._stop(machine, why)
        except OSError as error:
            self._stop(machine, f"what it sent could not be written: {error.filename}: {error.strerror}")

    def _stop(self, machine: Machine, reason: str) -> None:
        assert machine.node is not None
        self._transport.stop(machine.node)
        self._end(machine, None, reason)

    def _hear(self, machine: Machine, line: bytes) -> None:
        match message := parse_message(line):
            case Hello():
                machine.attempts += 1
                machine.awaited_until_s = None
                machine.state, machine.reason, machine.fingerprint = "measuring", "", message.fingerprint
                machine.folder = self._folder.place(machine.name, message.fingerprint)
                machine.arriving = Arriving(machine.folder, self._folder.suite.text)
                self._watch.changed(machine)
            case Wrote():
                if machine.arriving is None:
                    raise ValueError("a record before the machine's fingerprint")
                if (record := machine.arriving.take(message)) is not None:
                    self._watch.done(machine, record)
            case Doing():
                machine.doing = message.text
                self._watch.changed(machine)
            case Note():
                machine.notes = list(dict.fromkeys([*machine.notes, message.text]))
            case Ended(code=code, reason=reason):
                if code is not None and (code < 0 or code in INTERRUPTS):
                    self._lose(machine, reason or f"its command was ended ({code})")
                else:
                    self._end(machine, code, reason)

    def _lose(self, machine: Machine, reason: str) -> None:
        machine.state, machine.reason, machine.doing, machine.lost_s = "lost", reason, "", self._clock_s()
        machine.is_given_up = machine.attempts >= MAX_ATTEMPTS
        if machine.awaited_until_s is None:
            machine.awaited_until_s = machine.lost_s + self._patience_s
        self._watch.changed(machine)

    def _end(self, machine: Machine, code: int | None, reason: str) -> None:
        machine.state, machine.code, machine.reason, machine.doing = "ended", code, reason, ""
        if machine.arriving and not machine.arriving.flush():  # else what waits is tried again at the end
            machine.arriving = None
        self._watch.changed(machine)

    def _start_again(self) -> None:
        """Start machines that were lost and live again, each on itself; give up those that stay away."""
        now_s = self._clock_s()
        lost = [machine for machine in self.machines if machine.state == "lost" and not machine.is_given_up]
        due = [machine for machine in lost if now_s >= machine.lost_s + self._pause_s]
        living = {node.name: node for node in named_apart(self._transport.nodes())} if due else {}
        for machine in due:
            if machine.awaited_until_s is not None and now_s > machine.awaited_until_s:
                machine.is_given_up = True
                self._watch.changed(machine)
            elif (node := living.get(machine.name)) is not None:
                machine.node = node
                self._start(machine)


def nodes_of(transport: Transport, names: Sequence[str], labels: Mapping[str, str]) -> list[Node]:
    """The cluster's nodes that are chosen. Raises InputError if there are none."""
    there = named_apart(transport.nodes())
    found = chosen(there, names, labels)
    if not found:
        got = ", ".join(node.name for node in there[:12]) or "none with a CPU"
        raise InputError(f"--fleet: expected nodes that --nodes and --label choose; got none of {got}")
    return found


def run_fleet(
    transport: Transport,
    folder: Folder,
    cases: Sequence[Case],
    options: Sequence[str],
    watch: Watch,
    *,
    names: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    build: Build = "on-node",
    own: OwnModels | None = None,
    patience_s: float = PATIENCE_S,
    pause_s: float = PAUSE_S,
) -> Ending:
    """Measure cases of a suite, which consists of `own`, on every node that is chosen.

    Raises InputError if there are none.
    """
    own = own or OwnModels()
    nodes = nodes_of(transport, names, labels or {})
    found = offered(cases, len(nodes), build)
    if found.files or own.places:
        transport.offer({**found.files, **own.places})
    fleet = Fleet(
        transport,
        folder,
        options,
        watch,
        offers=found.offers,
        own=own.own,
        patience_s=patience_s,
        pause_s=pause_s,
    )
    interrupted = fleet.run(nodes, names)
    unwritten = fleet.flush()
    return Ending([_row(machine, cases) for machine in fleet.machines], interrupted, unwritten)


def _row(machine: Machine, cases: Sequence[Case]) -> Row:
    records: dict[str, Record] = {}
    if machine.folder is not None:
        with contextlib.suppress(RunFolderError):  # nothing has arrived
            records = read_run(machine.folder, strict=False).records
    statuses = {id_: record.status for id_, record in records.items()}
    faults = [each for record in records.values() if record.status not in MEASURED for each in record.reasons]
    reasons = {str(each): each for each in faults if each.code != "unsupported"}
    left = [case.id for case in cases if statuses.get(case.id, "failed") == "failed"]
    return Row(machine, statuses, left, list(reasons.values()))
