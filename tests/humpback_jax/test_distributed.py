"""Two processes on the loopback interface."""

import json
import os
import socket
import subprocess
import sys

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
distributed.wait_for_all("once")
said["waited"] = time.monotonic() - began
distributed.wait_for_all("once")  # a name may come again
print(json.dumps(said))
"""


def test_two_processes_hear_the_primary_and_wait_for_each_other():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, str(index)],
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
    assert [process.returncode for process in processes] == [0, 0], said
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in said)
    waited = first.pop("waited"), second.pop("waited")
    assert (first.pop("index"), second.pop("index")) == (0, 1)
    assert waited[0] > 0.5 > waited[1]
    assert first == second
    assert first["long"] == sum(range(20000))  # as JSON, more than 100 KB
    assert first["none"] is None
    assert first["errors"] == [
        ["UserError", "mend it"],
        ["UsageError", "x" * 9],
        ["UserError", "\xe9" * 9],
    ]
