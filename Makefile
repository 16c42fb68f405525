# The commands of this project. `make quickstart` needs nothing but Python 3.11 or later.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# glibc returns every large block to the system by default, which costs a small model's training
# step half its time (1.1 against 0.52 s, measured on two cores).
FAST := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=200000000000
# Tests run two at a time, since many wait for processes; each takes up to 3 GB.
WORKERS ?= 2
PARALLEL = --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.5

.PHONY: install quickstart test test-fast fuzz check format claims base parity bench-train bench-infer bench-precision bench-corpus bench-ckpt tpu-check clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml $(wildcard requirements/*.txt)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]' \
	  --constraint $$($(BIN)/python -c 'import sys; print("requirements/python3.%d.txt" % min(sys.version_info[1], 12))')
	touch $@

quickstart: install
	$(FAST) $(BIN)/humpback run --gin_file=recipes/quickstart.gin

test: install
	$(FAST) $(BIN)/python -m pytest $(PARALLEL)

test-fast: install
	$(FAST) $(BIN)/python -m pytest $(PARALLEL) -m 'not slow'

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# An hour on two cores: the paper's claims over several draws of the microworld.
claims: install
	$(FAST) $(BIN)/python benchmarks/claims.py

# Half an hour on two cores: remakes the base model that comes with the package.
base: install
	$(FAST) $(BIN)/humpback world --gin_file=recipes/microworld_base.gin
	$(FAST) $(BIN)/humpback pretrain --gin_file=recipes/microworld_base.gin
	mkdir -p humpback_jax/microworld/base
	cp runs/microworld_base/base_model/* humpback_jax/microworld/base/

# Ten thousand damaged pages and archives through the segment stage; ten minutes on one core.
fuzz: install
	$(BIN)/python tests/fuzz/corpus_fuzz.py --cases 10000

# Remakes the golden values of the model tests with torch and transformers, in a venv of their own.
parity: .venv-peers
	.venv-peers/bin/python tests/goldens/make_llama.py
	.venv-peers/bin/python tests/goldens/make_greedy.py

# Training against torch and transformers, in turns; wants a quiet machine.
bench-train: install .venv-peers
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(FAST) $(BIN)/python benchmarks/train.py

# Inference against transformers and llama.cpp, likewise.
bench-infer: install .venv-peers .venv-llamacpp
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(FAST) $(BIN)/python benchmarks/infer.py

# What bfloat16 and int8 change in a model's output; writes docs/precision.md's table.
bench-precision: install
	$(FAST) $(BIN)/python benchmarks/precision.py --write docs/precision.md

# Pages to segments against bare parsing and against warcio and trafilatura, on one core; on your own
# pages with --documentation FILE. --memory takes five minutes more.
bench-corpus: install .venv-corpus
	$(BIN)/python benchmarks/corpus.py --memory

# What looking into a checkpoint of 12.6 GiB takes; five minutes and a few hundred MiB.
bench-ckpt: install
	$(BIN)/python benchmarks/checkpoints.py

.venv-corpus:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet warcio trafilatura lxml_html_clean

.venv-peers:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet torch transformers sentencepiece

# Builds llama.cpp for this machine's own instructions; needs a C++ compiler and 20 minutes.
.venv-llamacpp:
	$(PYTHON) -m venv $@
	CMAKE_ARGS="-DLLAMA_CURL=OFF -DGGML_NATIVE=ON" \
	  $@/bin/python -m pip install --quiet llama-cpp-python gguf safetensors

# Half an hour on two cores: compiles every recipe that names a TPU slice and writes docs/plan.md's
# tables. In its own venv, since JAX looks for a TPU wherever it finds libtpu.
tpu-check:
	$(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/python -m pip install --quiet --editable '.[dev,tpu-plan]' \
	  --constraint $$(.venv-tpu/bin/python -c 'import sys; print("requirements/python3.%d.txt" % min(sys.version_info[1], 12))')
	.venv-tpu/bin/python -m pytest tests/launch/plan
	.venv-tpu/bin/python -m launch.plan.check docs/plan.md

clean:
	rm -rf $(VENV) .venv-peers .venv-llamacpp .venv-corpus .venv-tpu .cache build dist *.egg-info
