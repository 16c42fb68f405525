"""Two processes on the loopback interface."""

import json
import os
import socket
import subprocess
import sys
import time

PROGRAM = """
import json, sys, time
import orbax.checkpoint  # which takes a second to import
from humpback_jax import distributed
from humpback_jax.errors import UsageError, UserError
address, index = sys.argv[1], int(sys.argv[2])
distributed.initialize(address, 2, index)
said = {"index": distributed.index(), "long": sum(distributed.on_primary(lambda: [*range(20000)]))}
for error in (UserError("mend it"), UsageError("x" * 5000), UserError("\\xe9" * 5000)):
    def fail():
        raise error
    try:
        distributed.on_primary(fail)
    except UserError as caught:
        said.setdefault("errors", []).append([type(caught).__name__, str(caught)[:9]])
said["none"] = distributed.on_primary(lambda: None)
time.sleep(index)
began = time.monotonic()
for _ in range(2):  # a name may come again
    with distributed.Company("once") as company:
        company.wait_for_all()
    said.setdefault("waited", time.monotonic() - began)
try:
    distributed.on_primary(lambda: {1, 2})
except (TypeError, UserError) as caught:
    said["no json"] = str(caught)
try:
    with distributed.Company("failing") as company:
        if index == 1:
            raise UsageError("mend it")
        company.wait_for_all()
except UsageError as caught:
    said["failed"] = [str(caught)]
said["after"] = distributed.on_primary(lambda: "goes on")
print(json.dumps(said))
"""

# Process 0 waits in a collective for process 1, which does not come.
STUCK = """
import sys
import orbax.checkpoint
from jax.experimental import multihost_utils
from humpback_jax import distributed
address, index = sys.argv[1], int(sys.argv[2])
distributed.initialize(address, 2, index)
distributed.on_primary(lambda: None)
with distributed.Company("stuck", patience=1.0):
    if index == 1:
        raise ValueError("no such value\\n1 2 3")
    multihost_utils.broadcast_one_to_all(1)
"""


def _run(program):
    """Runs a program in two processes; returns exit codes, what they said, and seconds."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    began = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, address, str(index)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "XLA_FLAGS": ""},
        )
        for index in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=100) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said, time.monotonic() - began


def test_two_processes_hear_the_primary_and_wait_for_each_other():
    codes, said, _ = _run(PROGRAM)
    assert codes == [0, 0], said
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in said)
    waited = first.pop("waited"), second.pop("waited")
    assert (first.pop("index"), second.pop("index")) == (0, 1)
    assert waited[0] > 0.5 > waited[1]
    assert "mend it" in second.pop("failed")[0]
    assert first.pop("failed") == ["process 1 of 2 failed, and this one ended with it: mend it"]
    assert first == second
    assert first["after"] == "goes on"
    assert "not JSON serializable" in first["no json"]
    assert first["long"] == sum(range(20000))  # as JSON, more than 100 KB
    assert first["none"] is None
    assert first["errors"] == [
        ["UserError", "mend it"],
        ["UsageError", "x" * 9],
        ["UserError", "\xe9" * 9],
    ]


def test_a_process_that_waits_in_a_collective_for_one_that_failed_ends_as_well():
    codes, said, seconds = _run(STUCK)
    assert codes == [1, 1], said
    error = said[0][1].strip().splitlines()[-1]
    assert error == (
        "humpback: process 1 of 2 failed, and this one ended with it: ValueError: no such value"
    )
    assert said[1][1].strip().endswith("ValueError: no such value\n1 2 3")
    assert seconds < 40  # JAX alone notices after 100
