"""Where a command of `humpback` is run: on this machine, a TPU slice, GKE, Dataflow, Flink.

A place says as data what has to be run (`command.Command`), so that it can be printed, compared and
tested without a cloud; `running.run` is the one function that runs any of it.
"""
