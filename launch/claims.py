"""Who works on a run directory: one driver of all its stages, or commands that run one stage each.

    RUN_DIR/drivers/<id>.json     a claim: process, host, what it runs, its last sign of life

A driver (`humpback run`) excludes every other command, a command that runs one stage excludes
drivers and that same stage. What a driver starts, here or on another machine, is told the driver's
id (--driver): the two do not exclude each other, nor does what the same driver started before.
What a driver that is gone has left at work on other machines is let on by a new driver that would
send the same stage to the same place (--place), and can wait for its end there.

There is no lock in object stores, so nothing more is asked of the file system than that a file
once written is in every listing made afterwards. Each process writes its claim first and then lists
all of them; if it finds another live one that excludes it, it withdraws its own and refuses. Of two
that start together at least one lists after both have written, so both may refuse and never do both
go on.

A claim is dead once its process is gone, which is known on its own machine by process number and
start time; elsewhere, once its last sign of life is STALE_SECONDS old. Who finds a claim of another
machine waits for its next sign of life, to refuse, or for its death. A holder that could not give
one for LATE_SECONDS, less than that by more than clocks may differ, has to look again, as it did in
the beginning, before it starts anything.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from humpback_jax import distributed, rundir
from humpback_jax.errors import UserError

FOLDER = "drivers"
RUN = "run"  # what a driver works on; a command of one stage works on that stage
PERIOD_SECONDS = 60.0
LATE_SECONDS = 150.0
STALE_SECONDS = 300.0
LOOK_SECONDS = 1.0
# What a killed driver started on its own machine ends within this time (launch.jobs.tether).
_ORPHAN_SECONDS = 60.0
_NAME = re.compile(r"[0-9a-f]{32}\.json")


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a process says of itself.

    Attributes:
      id: 32 hex digits, the name of its file.
      work: RUN, or the name of a stage.
      driver: id of the driver that started it, "" if that was a person.
      host: name of its machine.
      machine: what tells that machine, as it is booted, from all others.
      pid: process number.
      started: when the process started, in the words of its operating system; "" if it has none.
      place: where a driver finds it again (launch.jobs.command.Place.whereabouts), "" nowhere.
      follows: ids of the drivers that are gone, whose stage this driver lets go on.
      since: when it claimed, in seconds since 1970.
      heartbeat: its last sign of life, likewise.
    """

    id: str
    work: str
    driver: str
    host: str
    machine: str
    pid: int
    started: str
    since: float
    heartbeat: float
    place: str = ""
    follows: Sequence[str] = ()

    def is_live(self) -> bool:
        """Returns whether its process lives, or may live for all that is known here."""
        if self.machine == _machine() and self.started:  # "" where no system says so
            return _started(self.pid) == self.started
        return time.time() - self.heartbeat < STALE_SECONDS

    def excludes(self, other: "Claim") -> bool:
        """Returns whether this one and another may not be held at the same time."""
        if other.id == self.driver or self.id == other.driver:
            return False
        if self.driver and self.driver == other.driver:
            return False
        if self.driver in other.follows or other.driver in self.follows:
            return False
        return RUN in (self.work, other.work) or self.work == other.work

    def describe(self) -> str:
        """Returns "process 17 on pod-0 (PLACE), at work on stage M1 since 2026-... UTC"."""
        work = "all its stages" if self.work == RUN else f"stage {self.work}"
        place = f" ({self.place})" if self.place else ""
        return (
            f"process {self.pid} on {self.host}{place}, at work on {work} since "
            f"{_clock(self.since)}"
        )


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


@functools.cache
def _machine() -> str:
    """Returns what this machine, since it was booted, shares with no other.

    Names of hosts are not unique, nor are process numbers where containers count their own.
    """
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id")
    booted = boot.read_text().strip() if boot.exists() else f"{uuid.getnode():x}"
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{platform.node()} {booted} {namespace}".strip()


def _started(pid: int) -> str:
    """Returns when a process of this machine started, "" if there is none or only its remains."""
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "" if pathlib.Path("/proc/self/stat").exists() else _started_by_ps(pid)
    # "17 (a name) S ...": the name may hold anything; the state is field 3, the start field 22.
    fields = status.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _started_by_ps(pid: int) -> str:
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def read_all(run_dir: epath.PathLike) -> list[Claim]:
    """Returns the claims on a run directory, live and dead, the oldest first."""
    folder = epath.Path(run_dir) / FOLDER
    if not folder.exists():
        return []
    found = [_read(path) for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted((c for c in found if c is not None), key=lambda claim: claim.since)


def _read(path: epath.Path) -> Claim | None:
    """Reads a claim; None if it was withdrawn just now."""
    try:
        text = path.read_text()
    except Exception:
        if path.exists():
            raise
        return None
    try:
        return Claim(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} is no claim of this version of humpback: delete it if nothing works on that "
            "run directory"
        ) from error


class Held:
    """A claim that this process holds; a thread gives its signs of life until it is withdrawn."""

    def __init__(
        self,
        run_dir: epath.Path,
        work: str,
        driver: str = "",
        place: str = "",
        place_of: Callable[[str], str] | None = None,
    ):
        now = time.time()
        self._run_dir = run_dir
        self._place_of = place_of
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._lost = ""
        self.claim = Claim(
            uuid.uuid4().hex, work, driver, platform.node(), _machine(), os.getpid(),
            _started(os.getpid()), now, now, place,
        )  # fmt: skip
        self._path = run_dir / FOLDER / f"{self.claim.id}.json"
        self._take()
        threading.Thread(target=self._keep, daemon=True).start()

    @property
    def id(self) -> str:
        return self.claim.id

    @property
    def is_lost(self) -> bool:
        """Whether another process has taken over: nothing may be started or left running then."""
        return bool(self._lost)

    def follows(self, stage: str) -> bool:
        """Returns whether a driver that is gone has left a stage at work, which lives."""
        return bool(self.claim.follows) and any(
            claim.work == stage and claim.driver in self.claim.follows and claim.is_live()
            for claim in read_all(self._run_dir)
        )

    def check(self) -> None:
        """Returns if this process still holds the claim; to be called before anything is started.

        Raises:
          UserError: it was taken over, or no sign of life can be given.
        """
        if not self._lost and time.time() - self.claim.heartbeat > LATE_SECONDS:
            self.renew()
        if self._lost:
            raise UserError(self._lost)

    def renew(self) -> None:
        """Gives a sign of life; where it comes late, looks whether another has taken over."""
        with self._lock:
            if self._lost or self._ended.is_set():
                return
            if not self._path.exists():
                self._lose("its claim was removed")
                return
            renewed = dataclasses.replace(self.claim, heartbeat=time.time())
            rundir.write_json(self._path, renewed)
            # After the write, however long that took: until here others could take it for dead.
            late = time.time() - self.claim.heartbeat > LATE_SECONDS
            if late and (rivals := self._rivals()):
                self._lose(f"it is in use by {rivals[0].describe()}")
                _remove(self._path)
            else:
                self.claim = renewed

    def withdraw(self) -> None:
        """Gives the run directory free."""
        self._ended.set()
        with self._lock:
            _remove(self._path)

    def _take(self) -> None:
        """Writes the claim for good once no other one excludes it.

        Raises:
          UserError: another one does, and its process lives.
        """
        seen: dict[str, float] = {}
        deadline = time.monotonic() + _ORPHAN_SECONDS
        while rivals := self._claim_and_look():
            for rival in rivals:
                if not self._may_end(rival, seen, deadline):
                    raise UserError(self._refusal(rival))
            time.sleep(LOOK_SECONDS)
        for claim in read_all(self._run_dir):
            if claim.id != self.id and not claim.is_live():
                _remove(self._path.parent / f"{claim.id}.json")

    def _claim_and_look(self) -> list[Claim]:
        """Writes the claim and returns those that exclude it, for which it is withdrawn again."""
        now = time.time()
        follows = sorted(self._left_behind())
        self.claim = dataclasses.replace(self.claim, since=now, heartbeat=now, follows=follows)
        try:
            rundir.write_json(self._path, self.claim)
            rivals = self._rivals()
        except BaseException:
            _remove(self._path)
            raise
        if rivals:
            _remove(self._path)
        return rivals

    def _left_behind(self) -> set[str]:
        """Returns the drivers that are gone and have left a stage where this one would send it."""
        if self._place_of is None:
            return set()
        live = {claim.id: claim for claim in read_all(self._run_dir) if claim.is_live()}
        return {
            claim.driver
            for claim in live.values()
            if claim.driver
            and claim.driver not in live
            and claim.place
            and claim.place == self._place_of(claim.work)
        }

    def _may_end(self, rival: Claim, seen: dict[str, float], deadline: float) -> bool:
        """Returns whether a rival may be about to end, or be dead already, so that waiting helps.

        One of another machine may be: it gave no sign of life since it was first seen. So what was
        cut off with its machine goes on elsewhere as soon as the old claim is dead.
        """
        if rival.machine == _machine():
            return self._is_ending(rival) and time.monotonic() < deadline
        if rival.id not in seen:
            print(f"waiting for a sign of life: {self._refusal(rival)}", file=sys.stderr)
        return seen.setdefault(rival.id, rival.heartbeat) == rival.heartbeat

    def _is_ending(self, rival: Claim) -> bool:
        """Returns whether a claim is of what ends with its driver, which was killed here."""
        drivers = {c.id: c for c in read_all(self._run_dir)}
        driver = drivers.get(rival.driver)
        here = _machine()
        return (
            driver is not None and rival.machine == driver.machine == here and not driver.is_live()
        )

    def _refusal(self, rival: Claim) -> str:
        silent = max(0.0, time.time() - rival.heartbeat)
        return (
            f"{self._run_dir} is in use by {rival.describe()} (last sign of life {silent:.0f} s "
            f"ago): wait for it or end it; if that machine is gone, delete "
            f"{self._path.parent / rival.id}.json"
        )

    def _rivals(self) -> list[Claim]:
        others = [c for c in read_all(self._run_dir) if c.id != self.id and c.is_live()]
        if self.claim.driver and any(
            self.claim.driver in (claim.id, *claim.follows) for claim in others
        ):
            return []  # its driver excludes all others, who may be about to withdraw
        return [claim for claim in others if claim.excludes(self.claim)]

    def _lose(self, reason: str) -> None:
        self._lost = (
            f"{self._run_dir} was taken over while this command gave no sign of life ({reason}): "
            "see `humpback status`, and run the same command again once it is free"
        )

    def _keep(self) -> None:
        while not self._ended.wait(PERIOD_SECONDS) and not self._lost:
            # What cannot be written now may be in a minute; `check` asks whether that was too late.
            with contextlib.suppress(Exception):
                self.renew()


def _remove(path: epath.Path) -> None:
    """Removes a claim; one that cannot be removed dies by itself."""
    with contextlib.suppress(Exception):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def hold(
    run_dir: epath.Path,
    work: str,
    driver: str = "",
    place: str = "",
    place_of: Callable[[str], str] | None = None,
) -> Iterator[Held | None]:
    """Holds a claim while it is open, in the first of several processes, where others get None.

    Args:
      run_dir: the run directory.
      work: RUN, or the name of a stage.
      driver: id of the claim of the driver that started this process, "" for a person.
      place: where that driver has sent it, if it can be found there again.
      place_of: for a driver: returns where a stage would go, "" if it cannot be found there again.

    Raises:
      UserError: the directory is in use, or it cannot be written; in every process.
    """
    held: list[Held] = []

    def claim() -> Any:
        held.append(Held(run_dir, work, driver, place, place_of))

    distributed.on_primary(claim)
    try:
        yield held[0] if held else None
    finally:
        for each in held:
            each.withdraw()
