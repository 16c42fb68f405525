"""A gcloud that plays Cloud TPU in the folder $CLOUD, for the tests of the supervisor.

Its workers are folders, in which the commands of `ssh` are really run by bash. $CLOUD/plan.json
says what happens: workers, how many; fates, what humpback does in each attempt, a list for workers
("0", "42", "1", "sleeps"); errors, {verb: [message, ...]} that come before all else; preempted, the
numbers of the polls before which the machines are taken away; rebooted, those before which worker 0
starts anew; state, of a request that is answered by no machine. Calls are noted in $CLOUD/calls.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

CLOUD = pathlib.Path(os.environ["CLOUD"])
PLAN = json.loads((CLOUD / "plan.json").read_text())
HUMPBACK = f"""#!{sys.executable}
import json, pathlib, sys, time
here = pathlib.Path.cwd()
cloud = pathlib.Path({str(CLOUD)!r})
worker = here.parts[len(cloud.parts)].removeprefix("worker")
attempt = (cloud / "attempt").read_text()
(cloud / f"ran-{{attempt}}-{{worker}}").write_text(json.dumps(sys.argv[1:]))
print("attempt", attempt, "says why it ended", flush=True)
fate = {PLAN["fates"]!r}[int(attempt)][int(worker)]
if fate == "sleeps":
    time.sleep(60)
sys.exit(int(fate))
"""


def _count(name):
    """Returns how often this was asked about a name before."""
    path = CLOUD / f"count-{name}"
    number = int(path.read_text()) if path.exists() else 0
    path.write_text(str(number + 1))
    return number


def _homes():
    return [CLOUD / f"worker{i}" for i in range(PLAN["workers"])]


def _end_processes(home):
    for running in home.glob("humpback/jobs/*/running"):
        subprocess.run(["pkill", "-KILL", "-P", running.read_text().strip()], check=False)
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(running.read_text()), signal.SIGKILL)


def _take_away(state):
    for home in _homes():
        _end_processes(home)
        shutil.rmtree(home, ignore_errors=True)
    (CLOUD / "state").write_text(state)


def _state():
    path = CLOUD / "state"
    return path.read_text() if path.exists() else ""


def _describe():
    state = _state()
    if not state:
        print("ERROR: (gcloud) NOT_FOUND: Resource 'hb' was not found", file=sys.stderr)
        return 1
    order = ["ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    if state in order[:3]:
        state = PLAN.get("state") or order[order.index(state) + 1]
        (CLOUD / "state").write_text(state)
    found = {"state": {"state": state}}
    if state == "FAILED":
        found["state"]["failedData"] = {"error": {"message": PLAN["reason"]}}
    print(json.dumps(found))
    return 0


def _ssh(words):
    command = next(w.removeprefix("--command=") for w in words if w.startswith("--command="))
    if "# Says in a line" in command:
        number = _count("poll")
        if number in PLAN.get("preempted", ()):
            _take_away("SUSPENDED")
        if number in PLAN.get("rebooted", ()):
            _end_processes(CLOUD / "worker0")
            (CLOUD / "worker0" / "humpback" / "jobs" / "train-m1" / "boot").write_text("another")
    if "# Starts a command" in command:
        (CLOUD / "attempt").write_text(str(_count("start")))
    if _state() != "ACTIVE":
        print("ERROR: (gcloud) [/usr/bin/ssh] exited with return code [255].", file=sys.stderr)
        return 255
    everyone = "--worker=all" in words
    codes = []
    for home in _homes() if everyone else _homes()[:1]:
        home.mkdir(exist_ok=True)
        environment = {**os.environ, "HOME": str(home)}
        # What it starts is on another machine: the end of this one's processes is not its own.
        done = subprocess.run(
            ["bash", "-c", command], env=environment, cwd=home, check=False, start_new_session=True
        )
        codes.append(done.returncode)
    return max(codes)


def _scp(words):
    source, target = words[0], words[1].partition(":")[2]
    for home in _homes():
        home.mkdir(exist_ok=True)
        shutil.copy(source, home / target)
    return 0


def main(words):
    verb, rest = words[3], words[4:]
    with (CLOUD / "calls").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    errors = PLAN.get("errors", {}).get(verb, [])
    number = _count(verb)
    if number < len(errors) and errors[number]:
        print(errors[number], file=sys.stderr)
        return 1
    if verb == "create":
        (CLOUD / "state").write_text("ACCEPTED")
    elif verb == "delete":
        _take_away("")
    elif verb == "describe":
        return _describe()
    elif verb == "ssh":
        return _ssh(rest)
    elif verb == "scp":
        return _scp(rest)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
