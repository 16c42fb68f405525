"""The loop on the user's machine that brings a subcommand to its end on machines that come and go.

create -> wait for the machines -> set up -> start -> look at the workers until all have ended. A
preemption (the machines are gone, or all processes have saved and ended with 42) begins it again,
as often as TpuVm.restarts says. Whatever the end, the machines are deleted, unless TpuVm.keep; if
this loop is interrupted they go on, and launching the same again finds them and what runs there.
"""

import contextlib
import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

from humpback_jax.errors import PreemptedError, UserError
from launch.jobs.command import Command, check_program
from launch.jobs.tpu_vm import TpuVm

# What the API says where a request goes over what the project may have.
_QUOTA = re.compile(r"RESOURCE_EXHAUSTED|quota", re.IGNORECASE)
_ABSENT = re.compile(r"NOT_FOUND|was not found|could not be found|does not exist", re.IGNORECASE)
_THERE = re.compile(r"ALREADY_EXISTS|already exists", re.IGNORECASE)
# What no waiting mends.
_DENIED = re.compile(r"PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT|auth login|not enabled")
_STATE = re.compile(r"^humpback-state (absent|lost|running|exit (\d+))$", re.MULTILINE)
_BUSY = re.compile(r"^humpback-busy (.+)$", re.MULTILINE)
_WAITING = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING")
_GONE = ("SUSPENDING", "SUSPENDED", "DELETING")
_LOG_LINES = 40
_ATTEMPTS = 3
_ALONE = 10  # looks at which one worker has failed and others still run
_PATIENCE = 60  # looks in a row of which none reaches the API or a worker


@dataclasses.dataclass(frozen=True)
class Said:
    """What a command has said and how it ended."""

    code: int
    out: str
    error: str

    @property
    def reason(self) -> str:
        """The line of an error that says what is wrong."""
        lines = [line.strip() for line in self.error.splitlines() if line.strip()]
        told = [line for line in lines if line.startswith("ERROR:")] or lines
        return told[0] if told else f"exit code {self.code}"


def run(vm: TpuVm, humpback: Sequence[str]) -> int:
    """Runs a subcommand on a slice to its end.

    Returns:
      0 when it has ended well; 42 when this process was told to end (SIGTERM) and the machines go
      on, 130 when it was interrupted.

    Raises:
      UserError: there is no gcloud, no quota, no way to reach the machines; or a worker failed.
    """
    check_program(vm.describe().argv[0])
    vm.action("run", humpback)  # what is wrong with it is found before anything is paid for
    return _until_told(vm, lambda: _with_machines(vm, humpback))


def ask(vm: TpuVm) -> int:
    """Asks for the machines and returns the exit code, as `run` does."""
    return _until_told(vm, lambda: create(vm))


def _until_told(vm: TpuVm, work: Callable[[], int]) -> int:
    """Returns the exit code of work; one who ends this process is told of the machines."""
    try:
        with _told_to_end():
            return work()
    except KeyboardInterrupt as told:
        _say(f"told to end: {vm.remains()}; launch the same again to go on")
        return PreemptedError.exit_code if told.args else 128 + signal.SIGINT


def _with_machines(vm: TpuVm, humpback: Sequence[str]) -> int:
    """Runs a subcommand to its end and deletes the machines, unless nothing is known of them."""
    try:
        code = _to_the_end(vm, humpback)
    except (_LeftError, KeyboardInterrupt):
        raise
    except BaseException:
        _delete(vm)
        raise
    _delete(vm)
    return code


@contextlib.contextmanager
def _told_to_end() -> Iterator[None]:
    """Makes SIGTERM an interruption, which says its number."""

    def interrupt(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _LeftError(UserError):
    """Nothing is known of the machines, or others work on them: they are left as they are."""


def _to_the_end(vm: TpuVm, humpback: Sequence[str]) -> int:
    for restart in range(vm.restarts + 1):
        if restart:
            _say(f"starting again ({restart} of at most {vm.restarts} times)")
        _bring_up(vm)
        attempt = uuid.uuid4().hex[:8]
        commands = [*vm.setup(), vm.start(humpback, attempt)]
        if not all(_worked(wanted, vm) for wanted in commands):
            continue
        code = _watch(vm, humpback)
        if code == 0:
            return 0
        if code not in (None, PreemptedError.exit_code):
            _say(f"the last lines of {vm.name}'s log:")
            print(_capture(vm.logs(humpback, _LOG_LINES)).out, file=sys.stderr)
            raise UserError(
                f"humpback {humpback[0]} failed on {vm.name} with exit code {code}: its log says "
                "why; once that is mended, launch the same again, and it goes on where it was"
            )
    raise UserError(
        f"{vm.name} was taken away {vm.restarts + 1} times: launch the same again, which goes on "
        "where it was, or choose machines that are not taken away (TpuVm.spot = False)"
    )


def _bring_up(vm: TpuVm) -> None:
    """Returns once the machines are there; asks for them where that is not done."""
    shown = ""
    misses = 0
    while True:
        said = _capture(vm.describe())
        if said.code and _ABSENT.search(said.error):
            create(vm)
            time.sleep(vm.poll_seconds)
            continue
        if said.code:
            misses = _miss(misses, said, vm)
            continue
        misses = 0
        state = _read_state(said)
        name = state.get("state", "")
        if name != shown:
            _say(f"{vm.name} is {name}")
            shown = name
        if name == "ACTIVE":
            return
        if name == "FAILED":
            reason = json.dumps(state.get("failedData", state))
            _delete(vm, always=True)
            raise _refused(vm, reason)
        if name in _GONE:
            _delete(vm, always=True)
        elif name not in _WAITING:
            raise _LeftError(
                f"{vm.name} is {name or said.out!r}, which is no state known to us: see what it "
                f"is, then launch the same again; {vm.remains()}"
            )
        else:
            time.sleep(vm.poll_seconds)


def create(vm: TpuVm) -> int:
    """Asks for the machines, unless that is done, and returns 0.

    Raises:
      UserError: Google Cloud refuses, for want of quota or whatever it says.
    """
    check_program(vm.create().argv[0])
    said = _capture(vm.create())
    if said.code and not _THERE.search(said.error):
        raise _refused(vm, said.error if _QUOTA.search(said.error) else said.reason)
    return 0


def _refused(vm: TpuVm, reason: str) -> UserError:
    """Returns the error of a request that Google Cloud has refused."""
    wanted = f"{vm.topology.accelerator_type} in {vm.zone}"
    if _QUOTA.search(reason):
        spot = "spot " if vm.spot else ""
        return UserError(
            f"project {vm.project} has no quota for {spot}{wanted}: ask for more at "
            "console.cloud.google.com/iam-admin/quotas, or choose another zone, a smaller slice, "
            f"or TpuVm.spot = {not vm.spot}, whose quota is another"
        )
    return UserError(f"Google Cloud gives no {wanted} ({reason}): mend that, then launch again")


def _read_state(said: Said) -> dict:
    try:
        found = json.loads(said.out or "{}")
    except json.JSONDecodeError:
        found = {}
    state = found.get("state") if isinstance(found, dict) else None
    return state if isinstance(state, dict) else {}


def _worked(wanted: Command, vm: TpuVm) -> bool:
    """Runs a command on all workers; returns False if it fails because the machines are gone.

    It is tried again: machines that have just come are not yet ready, and of those that go the API
    still says for a while that they are there.
    """
    _say(wanted.purpose)
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(vm.poll_seconds)
        said = _capture(wanted)
        if said.code == 0:
            return True
        if busy := _BUSY.search(said.out):
            raise _LeftError(
                f"{vm.name} is at work on {busy[1]}, so nothing was changed there: wait for its "
                "end, end it with `humpback launch tpu-vm stop`, or bind another TpuVm.name"
            )
        if _is_gone(vm):
            _say(f"{vm.name} was taken away")
            return False
    raise UserError(f"{vm.name}: could not {wanted.purpose}: {_last_line(said)}")


def _last_line(said: Said) -> str:
    lines = [line for line in f"{said.out}\n{said.error}".splitlines() if line.strip()]
    return lines[-1].strip() if lines else said.reason


def _watch(vm: TpuVm, humpback: Sequence[str]) -> int | None:
    """Returns the exit code for all workers once they have ended; None if they were taken away."""
    misses, alone = 0, 0
    while True:
        time.sleep(vm.poll_seconds)
        said = _capture(vm.poll(humpback))
        states = list(_STATE.finditer(said.out))
        if len(states) < vm.processes:
            if _is_gone(vm):
                _say(f"{vm.name} was taken away")
                return None
            misses = _miss(misses, said, vm)
            continue
        misses = 0
        codes = [int(found[2]) for found in states if found[2]]
        failed = [code for code in codes if code not in (0, PreemptedError.exit_code)]
        if len(codes) == len(states):
            return failed[0] if failed else max(codes)
        lost = any(found[1] in ("lost", "absent") for found in states)
        running = any(found[1] == "running" for found in states)
        if lost and not running and not failed:
            _say("a worker was started anew and has lost its process")
            return None
        alone += bool(failed or lost)
        if failed and (alone > _ALONE or not running):
            return failed[0]
        if lost and alone == 1:
            _capture(vm.stop(humpback))  # they wait for the one that was lost


def _is_gone(vm: TpuVm) -> bool:
    said = _capture(vm.describe())
    if said.code:
        return bool(_ABSENT.search(said.error))
    return _read_state(said).get("state") in _GONE


def _miss(misses: int, said: Said, vm: TpuVm) -> int:
    """Counts a look that found nothing, and waits.

    Raises:
      UserError: there were too many in a row, or none can ever find anything; the machines are
        left as they are.
    """
    if _DENIED.search(said.error):
        raise _LeftError(
            f"Google Cloud says nothing of {vm.name} ({said.reason}): log in with `gcloud auth "
            "login`, or correct TpuVm.project and TpuVm.zone"
        )
    if misses + 1 >= _PATIENCE:
        raise _LeftError(
            f"{vm.name} cannot be reached ({said.reason}): mend that, then launch the same again; "
            f"{vm.remains()}"
        )
    if misses == 0:
        _say(f"{vm.name} cannot be reached ({said.reason}); trying again")
    time.sleep(vm.poll_seconds)
    return misses + 1


def _delete(vm: TpuVm, always: bool = False) -> None:
    if vm.keep and not always:
        _say(f"TpuVm.keep = True: {vm.remains()}")
        return
    said = _capture(vm.delete())
    if said.code and not _ABSENT.search(said.error):
        _say(f"{vm.name} could not be deleted ({said.reason}): {vm.remains()}")


def _capture(wanted: Command) -> Said:
    done = subprocess.run(
        wanted.argv, capture_output=True, text=True, errors="replace", check=False
    )
    return Said(done.returncode, done.stdout, done.stderr)


def _say(sentence: str) -> None:
    print(f"humpback: {sentence}", file=sys.stderr, flush=True)
