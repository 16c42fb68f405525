"""Planning a run on a TPU that is not there: its programs are compiled for the named topology.

topology    which slice is meant, and the chips of it
settings    what gin binds, for one recipe
programs    the training step, prefill and decode, lowered from shapes alone
worker      the child process that compiles one program and measures what came out
hlo         reading the compiler's text: loops, cycles, collectives
roofline    seconds, MFU, chip-hours and money from those
slots       how many of the engine's slots fit
table       how it is printed
flags       of `humpback plan`
report      the verdict on each program, and JSON
command     `humpback plan`
check       every recipe in one table, `make tpu-check`
"""
