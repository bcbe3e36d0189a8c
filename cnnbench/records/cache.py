"""The cache: a folder of artifacts and peaks that later runs use, of one user or, where a setting says so, of a group.

CACHEDIR.TAG                    tells backup programs to leave the folder out
artifacts/<label>-<key>/        a finished artifact, sealed with digests of its content (`artifact.py`)
artifacts/.building-<entry>/    one that is being filled, by the holder of its lock
locks/<entry>.lock
trained/<weights>/              weights that a suite's models were trained to (`trained.py`)
peaks/  calibrations/           small files, by the machine's identity
inductor-<user>/                what torch.compile keeps: code and pickles, of the user alone
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from errno import EPERM
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from cnnbench.errors import InputError
from cnnbench.records import files

PLACE, SHARED, LIMIT = "CNNBENCH_CACHE", "CNNBENCH_CACHE_SHARED", "CNNBENCH_CACHE_LIMIT"
"""Environment variables: the folder; 1 where its group may use it; the largest size in GB that runs leave it with."""
DEFAULT_LIMIT_GB = 20.0
SEAL = "seal.json"
"""Last of an artifact's files to be written; its time is that of the artifact's last use."""
BUILDING, LOCKS = ".building-", "locks"
IN_USE_S, RECENT_S = 3600.0, 24 * 3600.0
"""What was used so lately is kept: by every pruning, for a run may be using it, and by a run's own."""
_TAG = """Signature: 8a477f597d28d172789f06886806bc55
# This folder is cnnbench's cache. See https://bford.info/cachedir/
"""


@dataclass(frozen=True)
class Entry:
    """One artifact in the cache."""

    folder: Path
    size_bytes: int
    used_s: float
    """When it was last used, in seconds since 1970."""


def is_shared() -> bool:
    """Whether the cache is its group's."""
    return os.environ.get(SHARED, "") not in ("", "0")


def cache_folder() -> Path:
    """The cache; absolute, for workers may start elsewhere. Nothing is created.

    Raises InputError where there is no place for it, or it is another user's and not shared.
    """
    try:
        place = Path(os.environ.get(PLACE) or platformdirs.user_cache_dir("cnnbench")).expanduser().absolute()
    except RuntimeError:  # a user without a name, as in a container
        raise InputError(f"expected a folder for the cache; this user has no home: set {PLACE}") from None
    if not is_shared() and place.is_dir() and not _is_own(place):
        raise InputError(
            f"{place}: the cache is another user's: set {PLACE} to a folder of your own, or {SHARED}=1 where the "
            "folder's group is to share it"
        )
    return place


def artifacts_folder() -> Path:
    """Where artifacts lie. Raises as `cache_folder` does."""
    return cache_folder() / "artifacts"


def prepare() -> None:
    """Make the cache's folders, and check that they can be written. Raises InputError."""
    place, why = artifacts_folder(), "permission denied"
    try:
        for folder in (place, place.parent / LOCKS):
            folder.mkdir(parents=True, exist_ok=True)
            if _is_own(folder):
                folder.chmod(0o2770 if is_shared() else 0o700)
        if not (tag := place.parent / "CACHEDIR.TAG").exists():
            files.write(tag, _TAG)
        is_usable = os.access(place, os.W_OK)
    except OSError as error:
        is_usable, why = False, str(error.strerror)
    if not is_usable:
        raise InputError(f"{place}: the cache cannot be written: {why}; set {PLACE} to a folder that can")


def private_folder(name: str) -> Path:
    """A folder of the cache that is this user's alone and can be written, in a shared cache too. Raises OSError."""
    user = os.geteuid() if hasattr(os, "geteuid") else "user"
    folder = cache_folder() / f"{name}-{user}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or not _is_own(folder):  # the group can put one there, and root could use it
        raise PermissionError(EPERM, "expected a folder of this user's own; got a link or another user's", str(folder))
    folder.chmod(0o700)  # which fails where the cache can only be read
    return folder


def owner_fault(folder: Path) -> str | None:
    """Why an entry may not be used, for whom it belongs to; None if it may."""
    if folder.is_symlink() or not folder.is_dir():
        return "is no folder"
    if is_shared():
        return "may be written by everybody" if folder.stat().st_mode & 0o002 else None
    return None if _is_own(folder) else "belongs to another user"


def _is_own(folder: Path) -> bool:
    return not hasattr(os, "geteuid") or folder.stat().st_uid == os.geteuid()


def share(folder: Path) -> None:
    """Give a folder and its files to the group, where the cache is shared."""
    if is_shared():
        if _is_own(folder):
            folder.chmod(0o2770)
        for file in folder.iterdir():
            if _is_own(file):
                file.chmod(0o660)


@contextlib.contextmanager
def locked(folder: Path, wait_s: float = -1) -> Iterator[None]:
    """Hold an entry, so that no other process builds in it; the lock ends with its holder. Raises Timeout."""
    for place in (folder.parent, _lock(folder).parent):
        place.mkdir(parents=True, exist_ok=True)
    with FileLock(_lock(folder), timeout=wait_s, mode=0o660 if is_shared() else 0o600):
        yield


def _lock(folder: Path) -> Path:
    return folder.parent.parent / LOCKS / f"{folder.name}.lock"


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A new folder that becomes the entry at the end, in the place of what is there; to be used under its lock.

    Where the new folder is removed meanwhile, what is there stays.
    """
    building = _building(folder)
    remove(building)
    building.mkdir(0o700)
    try:
        yield building
        if building.is_dir():
            share(building)
            remove(folder)
            building.rename(folder)
    finally:
        remove(building)


def _building(folder: Path) -> Path:
    return folder.with_name(f"{BUILDING}{folder.name}")


def sweep(names: Iterable[Path] | None = None) -> None:
    """Delete what dead processes have left half-built: of these entries, or of all; a living one holds its lock."""
    place = artifacts_folder()
    for building in [_building(name) for name in names] if names is not None else list(place.glob(f"{BUILDING}*")):
        if os.path.lexists(building):
            with contextlib.suppress(Timeout, OSError), locked(place / building.name.removeprefix(BUILDING), 0):
                remove(building)


def remove(path: Path) -> None:
    """Delete a folder, a file or a link, if it is there; what a link leads to stays."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def note_use(folder: Path) -> None:
    """Remember that an entry was used just now, if the cache can be written."""
    with contextlib.suppress(OSError):
        os.utime(folder / SEAL)


def entries() -> list[Entry]:
    """The cache's artifacts, those first that were not used for longest."""
    found = []
    for folder in artifacts_folder().glob("[!.]*"):
        with contextlib.suppress(OSError):  # another process may delete it just now
            size = sum(file.lstat().st_size for file in folder.iterdir())
            found.append(Entry(folder, size, _used_s(folder)))
    return sorted(found, key=lambda entry: entry.used_s)


def _used_s(folder: Path) -> float:
    """When an entry was used last."""
    return (folder / SEAL if (folder / SEAL).exists() else folder).stat().st_mtime


def prune(max_bytes: float, unused_s: float = float("inf"), keep_s: float = IN_USE_S) -> list[Entry]:
    """Delete what was not used for so long, then what was not used for longest until the rest fits; gives what went."""
    sweep()
    found, gone, now = entries(), [], time.time()
    left = sum(entry.size_bytes for entry in found)
    for entry in found:
        age_s = now - entry.used_s
        if age_s < keep_s or (age_s < unused_s and left <= max_bytes):
            continue
        with contextlib.suppress(Timeout, OSError), locked(entry.folder, 0):
            if _used_s(entry.folder) > entry.used_s:  # by another process, since it was listed
                continue
            _delete(entry.folder)
            left -= entry.size_bytes
            gone.append(entry)
    return gone


def discard(folder: Path) -> None:
    """Delete an entry that nobody is building, and its lock. Raises Timeout if somebody is."""
    with locked(folder, 0):
        _delete(folder)


def _delete(folder: Path) -> None:
    """What `discard` does, under the entry's lock."""
    remove(folder)
    _lock(folder).unlink(missing_ok=True)


def limit_bytes() -> float:
    """The size that a run leaves the cache with at most. Raises InputError."""
    text = os.environ.get(LIMIT) or str(DEFAULT_LIMIT_GB)
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise InputError(f"{LIMIT}: expected a size in GB, such as 20; got {text!r}")
    return limit * 1e9
