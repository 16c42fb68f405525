"""At most one driver, or one command for each stage, ever works on a run directory."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from humpback_jax.errors import UserError
from launch import claims
from launch.claims import RUN, Held

CLAIMANTS, ROUNDS = 6, 40

HOLDER = """
import sys, time
from etils import epath
from launch import claims
with claims.hold(epath.Path(sys.argv[1]), *sys.argv[2:]):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def run_dir(tmp_path):
    return epath.Path(tmp_path) / "run"


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch):
    monkeypatch.setattr(claims, "LOOK_SECONDS", 0.02)


@pytest.fixture
def hold():
    """Returns a function that claims; whatever it claimed is withdrawn in the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(claims.hold(*arguments))


@pytest.fixture
def other_process(run_dir):
    """Returns a function that lets another process claim, and returns that process."""
    started = []

    def start(work=RUN, driver=""):
        command = [sys.executable, "-c", HOLDER, str(run_dir), work, driver]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def _kill(process):
    """Kills a process and leaves it in the table of processes."""
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def _elsewhere(run_dir, work=RUN, silent=0.0, **changes):
    """Writes the claim of another machine, whose last sign of life is `silent` seconds old."""
    with claims.hold(run_dir.parent / "another", work) as held:
        claim = held.claim
    then = time.time() - silent
    changes = {"machine": "another", "host": "pod-7", "since": then, "heartbeat": then, **changes}
    claim = dataclasses.replace(claim, **changes)
    path = run_dir / claims.FOLDER / f"{claim.id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(claim)))
    return path


@contextlib.contextmanager
def _beating(path):
    """Lets the claim of another machine give signs of life."""
    ended = threading.Event()

    def beat():
        while not ended.wait(0.1):
            content = json.loads(path.read_text())
            claims.rundir.write_json(epath.Path(path), {**content, "heartbeat": time.time()})

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# The race.


def _claimant(seed, run_dir, barrier, held, violations, refused):
    """Claims in every round together with others, and tells who else held it meanwhile."""
    chance = random.Random(seed)
    read_all = claims.read_all

    def slow_read_all(folder):  # a process may be held up anywhere between writing and listing
        time.sleep(chance.choice((0, 0, 0.01)) * chance.random())
        return read_all(folder)

    claims.read_all = slow_read_all
    sign = os.path.join(os.path.dirname(run_dir), "sign")
    for _ in range(ROUNDS):
        barrier.wait()
        time.sleep(chance.choice((0, 0.005)) * chance.random())
        try:
            with claims.hold(epath.Path(run_dir), RUN):
                try:
                    os.close(os.open(sign, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    violations.value += 1
                    continue
                held.value += 1
                time.sleep(0.01)
                os.unlink(sign)
        except UserError:
            with refused.get_lock():
                refused.value += 1


def _race(run_dir, claimant=_claimant):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(CLAIMANTS)
    counts = [context.Value("i", 0) for _ in range(3)]
    processes = [
        context.Process(target=claimant, args=(seed, str(run_dir), barrier, *counts))
        for seed in range(CLAIMANTS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    return [count.value for count in counts]


@pytest.mark.slow
def test_of_many_that_start_at_once_at_most_one_holds_the_directory(run_dir):
    held, violations, refused = _race(run_dir)
    assert violations == 0
    assert held + refused == CLAIMANTS * ROUNDS
    assert held > 0
    assert claims.read_all(run_dir) == []


def _careless(*arguments):
    """Looks before it writes, as a lock file without an atomic primitive does."""

    def claim_and_look(self):
        if rivals := self._rivals():
            return rivals
        time.sleep(0.002)
        claims.rundir.write_json(self._path, self.claim)
        return []

    Held._claim_and_look = claim_and_look
    _claimant(*arguments)


@pytest.mark.slow
def test_the_race_catches_a_lock_that_looks_before_it_writes(run_dir):
    assert _race(run_dir, _careless)[1] > 0


# Who excludes whom.


@pytest.mark.parametrize(
    ("first", "second", "excluded"),
    [
        (RUN, RUN, True),
        (RUN, "M0", True),
        ("M0", RUN, True),
        ("M0", "M0", True),
        ("M0", "segment", False),
    ],
)
def test_drivers_exclude_all_and_stages_themselves(
    run_dir, hold, other_process, first, second, excluded
):
    other = other_process(first)
    if not excluded:
        hold(run_dir, second)
        return
    with pytest.raises(UserError, match=f"process {other.pid} on .* since 20.* UTC") as caught:
        hold(run_dir, second)
    assert str(run_dir) in str(caught.value)
    assert [claim.pid for claim in claims.read_all(run_dir)] == [other.pid]


def test_a_drivers_own_children_are_let_in(run_dir, hold):
    driver = hold(run_dir, RUN)
    hold(run_dir, "M0", driver.id)
    hold(run_dir, "M0", driver.id)  # the same, started again where the first was cut off
    with pytest.raises(UserError, match="at work on all its stages"):
        hold(run_dir, "M0", "0" * 32)
    with pytest.raises(UserError, match="in use"):
        hold(run_dir, "M1")


def test_a_child_is_not_kept_out_by_one_that_is_about_to_refuse(run_dir, hold):
    """A driver holds already, so whoever else claims at this moment will withdraw."""
    driver = hold(run_dir, RUN)
    _elsewhere(run_dir)
    hold(run_dir, "M0", driver.id)


def test_what_a_driver_that_is_gone_left_on_another_machine_is_not_run_twice(run_dir, hold):
    driver = _elsewhere(run_dir, silent=1e5)
    child = _elsewhere(run_dir, "M0", driver=driver.stem)
    with _beating(child), pytest.raises(UserError, match="on pod-7, at work on stage M0"):
        hold(run_dir, RUN)


SLICE = "tpu-vm project/zone/hb"


def _places(run_dir, hold, **places):
    """Lets a new driver hold the directory that would send stages to these places."""
    return hold(run_dir, RUN, "", "", lambda stage: places.get(stage, ""))


def test_a_new_driver_goes_on_with_what_an_old_one_left_where_it_would_send_it(run_dir, hold):
    gone = "0" * 32
    child = _elsewhere(run_dir, "M0", driver=gone, place=SLICE)
    held = _places(run_dir, hold, M0=SLICE)
    assert held.follows("M0")
    assert not held.follows("M1")
    assert [claim.follows for claim in claims.read_all(run_dir) if claim.work == RUN] == [[gone]]
    assert child.exists()
    assert SLICE in claims.read_all(run_dir)[0].describe()
    # Kubernetes starts it again by itself, under the driver that it knows.
    hold(run_dir, "M0", gone, SLICE)
    with pytest.raises(UserError, match="at work on all its stages"):
        hold(run_dir, "M0", "1" * 32, SLICE)
    child.unlink()
    hold(run_dir, "M0", held.id, SLICE)


def test_what_was_left_holds_on_when_it_was_silent(run_dir, hold):
    gone = "0" * 32
    with claims.hold(run_dir, "M0", gone, SLICE) as child:
        path = run_dir / claims.FOLDER / f"{child.id}.json"
        # As another machine sees it, and a driver there.
        path.write_text(path.read_text().replace(json.dumps(claims._machine())[1:-1], "another"))
        _places(run_dir, hold, M0=SLICE)
        child.claim = dataclasses.replace(child.claim, heartbeat=time.time() - 1000)
        child.check()


@pytest.mark.parametrize("place", ["", "tpu-vm project/zone/another"])
def test_what_was_left_in_another_place_is_not_run_twice(run_dir, hold, place):
    child = _elsewhere(run_dir, "M0", driver="0" * 32, place=place)
    with _beating(child), pytest.raises(UserError, match="on pod-7.*, at work on stage M0"):
        _places(run_dir, hold, M0=SLICE)


def test_what_a_driver_that_lives_has_started_is_its_own(run_dir, hold):
    driver = _elsewhere(run_dir)
    child = _elsewhere(run_dir, "M0", driver=driver.stem, place=SLICE)
    with _beating(driver), _beating(child), pytest.raises(UserError, match="all its stages"):
        _places(run_dir, hold, M0=SLICE)
    assert not any(claim.follows for claim in claims.read_all(run_dir))


def test_a_third_driver_goes_on_with_what_two_have_left(run_dir, hold):
    second = _elsewhere(run_dir, silent=1e5, follows=["0" * 32])
    _elsewhere(run_dir, "M0", driver="0" * 32, place=SLICE)
    _elsewhere(run_dir, "M0", driver=second.stem, place=SLICE)
    held = _places(run_dir, hold, M0=SLICE)
    assert set(held.claim.follows) == {"0" * 32, second.stem}


def test_the_same_stage_goes_on_elsewhere_once_the_machine_of_before_is_dead(
    run_dir, hold, monkeypatch, capsys
):
    monkeypatch.setattr(claims, "STALE_SECONDS", 1.0)
    path = _elsewhere(run_dir, "M0", silent=0.5)
    began = time.monotonic()
    hold(run_dir, "M0")
    assert 0.4 < time.monotonic() - began < 5
    assert not path.exists()
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"waiting for a sign of life: {run_dir} is in use by process")


def test_a_driver_waits_for_what_ends_with_the_one_that_was_killed(run_dir, hold, other_process):
    """Both on this machine, where the child is told to end by who holds it to its driver."""
    other = other_process()
    (driver,) = claims.read_all(run_dir)
    child = other_process("M0", driver.id)
    _kill(other)
    threading.Timer(0.5, child.kill).start()
    held = hold(run_dir, RUN)
    assert [claim.id for claim in claims.read_all(run_dir)] == [held.id]


# Life and death.


def test_a_killed_holder_frees_the_directory(run_dir, hold, other_process):
    other = other_process()
    _kill(other)
    held = hold(run_dir, RUN)
    assert [claim.id for claim in claims.read_all(run_dir)] == [held.id]


def test_a_stopped_holder_does_not_free_it(run_dir, hold, other_process):
    other = other_process()
    os.kill(other.pid, signal.SIGSTOP)
    with pytest.raises(UserError, match="in use"):
        hold(run_dir, RUN)


def test_a_process_number_that_is_given_again_is_not_the_holder(run_dir, hold):
    with claims.hold(run_dir.parent / "another", RUN) as held:
        claim = held.claim
    _elsewhere(run_dir, machine=claim.machine, pid=os.getpid(), started="1")
    hold(run_dir, RUN)


def test_where_no_start_is_known_signs_of_life_count(run_dir, hold):
    with claims.hold(run_dir.parent / "another", RUN) as held:
        machine = held.claim.machine
    for silent, live in ((30, True), (301, False)):
        path = _elsewhere(run_dir, machine=machine, pid=1 << 30, started="", silent=silent)
        assert [claim.is_live() for claim in claims.read_all(run_dir)] == [live]
        path.unlink()


@pytest.mark.parametrize(("silent", "free"), [(30, False), (290, False), (301, True)])
def test_another_machine_is_dead_after_five_minutes_of_silence(run_dir, hold, silent, free):
    path = _elsewhere(run_dir, silent=silent)
    if free:
        hold(run_dir, RUN)
        assert not path.exists()
        return
    refused = "on pod-7.*if that machine is gone, delete .*json"
    with _beating(path), pytest.raises(UserError, match=refused) as caught:
        hold(run_dir, RUN)
    assert str(path) in str(caught.value)


def test_a_thread_gives_signs_of_life(run_dir, hold, monkeypatch):
    monkeypatch.setattr(claims, "PERIOD_SECONDS", 0.02)
    held = hold(run_dir, RUN)
    time.sleep(0.3)
    (claim,) = claims.read_all(run_dir)
    assert claim.heartbeat - claim.since > 0.1
    assert claim.since == held.claim.since


def test_a_holder_whose_claim_is_gone_goes_no_further(run_dir, hold):
    held = hold(run_dir, RUN)
    held.check()
    (run_dir / claims.FOLDER / f"{held.id}.json").unlink()
    held.renew()
    assert held.is_lost
    with pytest.raises(UserError, match="its claim was removed"):
        held.check()
    held.renew()
    assert claims.read_all(run_dir) == []


def _silent(held, seconds):
    held.claim = dataclasses.replace(held.claim, heartbeat=time.time() - seconds)


def test_a_holder_that_was_silent_looks_again(run_dir, hold):
    held = hold(run_dir, RUN)
    _silent(held, 1000)
    held.check()  # nobody came
    assert time.time() - held.claim.heartbeat < 10
    _elsewhere(run_dir)
    held.check()  # it was not silent, so the other one will withdraw
    _silent(held, 1000)
    with pytest.raises(UserError, match="taken over .* in use by process .* on pod-7"):
        held.check()
    assert held.is_lost
    assert [claim.host for claim in claims.read_all(run_dir)] == ["pod-7"]


def test_a_holder_that_cannot_write_starts_nothing_once_that_is_late(run_dir, hold, monkeypatch):
    held = hold(run_dir, RUN)

    def full(*_):
        raise UserError("the disk is full")

    monkeypatch.setattr(claims.rundir, "write_json", full)
    held.check()
    _silent(held, 200)
    with pytest.raises(UserError, match="the disk is full"):
        held.check()
    assert not held.is_lost
    monkeypatch.undo()
    held.check()


def test_a_file_that_is_no_claim_is_named(run_dir, hold):
    path = run_dir / claims.FOLDER / f"{'a' * 32}.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(UserError, match=f"{path} is no claim"):
        hold(run_dir, RUN)
    path.unlink()
    (path.parent / ".tmp-x.json").write_text("torn")
    hold(run_dir, RUN)


def test_a_directory_that_cannot_be_written_is_named(tmp_path, hold):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run/drivers/.* could not be written"):
        hold(epath.Path(tmp_path) / "file" / "run", RUN)
