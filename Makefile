# Everything starts here: `make demo` for the result, `make test` for the proof, `make help` for the rest.

PYTHON ?= python3
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
EXTRAS := pusht,tensorboard,vit,onnx,openvino,serve,arm,arm_ik,warp,lerobot,hdf5,mcap,sweeps,ray,docs,dev
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
DEBIAN := libegl1 libgl1-mesa-dri libgl1 libglib2.0-0

# Our datasets/ must never shadow another package of that name.
export PYTHONSAFEPATH := 1
# Packages are compiled on their first import, so it has to leave its result behind.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test quick slow examples check lint docs setup gpu test-adapters constraints clean

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

demo: $(VENV)/base $(VENV)/rendering ## record, train, evaluate and report on the embedded task: runs/demo/report.html
	$(BIN)/recede demo

QUICK := $(BIN)/python -m pytest tests --numprocesses auto --dist worksteal -m "not slow"

# Pyright uses one core for minutes: it runs while the tests run, in a process group of its own that ends as a whole.
test: lint ## set up, lint, check types, run the tests that take seconds at most
	@mkdir -p build; set -m; nice -n 3 $(BIN)/pyright >build/pyright.txt 2>&1 </dev/null & pyright=$$!; set +m; \
	trap 'kill -- -$$pyright 2>/dev/null' EXIT; trap 'exit 130' INT TERM; \
	tests=0; $(QUICK) || tests=$$?; \
	types=0; wait $$pyright || types=$$?; \
	echo "Types:"; cat build/pyright.txt; exit $$((tests ? tests : types))

quick: setup ## run these tests alone
	$(QUICK)

slow: setup ## run the other tests: whole trainings, every moment of a kill, every task
	$(BIN)/python -m pytest tests --numprocesses auto --dist worksteal -m slow

examples: setup ## run the programs and the notebooks of examples/, in two minutes
	$(BIN)/python -m pytest tests/test_examples.py tests/test_notebooks.py --numprocesses auto --dist worksteal

check: lint ## lint, format and types
	$(BIN)/pyright

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

docs: setup ## the documents as a site that needs no network: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml

gpu: setup ## prove on a GPU: agreement with the CPU and speed, in ten minutes: runs/gpu.json
	mkdir -p runs
	$(BIN)/python benchmarks/gpu.py json=runs/gpu.json

# Each package of others has pins of its own, so each has an environment, which has ours behind its own packages.
ADAPTERS := $(patsubst tests/adapters/%.txt,%,$(wildcard tests/adapters/*.txt))
OURS := import sys; print(*(path for path in sys.path if path.endswith("site-packages")), sep="\n")

test-adapters: $(ADAPTERS:%=$(VENV)-adapters/%/ready) ## try the environments of other packages, each in its own .venv-adapters/NAME
	@for name in $(ADAPTERS); do \
		echo "$$name:"; python=$(VENV)-adapters/$$name/bin/python; \
		$$python -c "import $$name" && $$python -m pytest tests/adapters/test_$$name.py --quiet -W ignore || failed="$$failed $$name"; \
	done; if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

$(VENV)-adapters/%/ready: tests/adapters/%.txt | $(VENV)/complete $(VENV)/typing/recede
	rm -rf $(@D)
	$(PYTHON) -m venv --without-pip $(@D)
	{ $(BIN)/python -c '$(OURS)'; echo $(CURDIR)/$(VENV)/typing; } \
		>$$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ours.pth
	$(PIP) --python $(@D)/bin/python install --quiet --requirement $<
	touch $@

setup: $(VENV)/complete $(VENV)/rendering $(VENV)/typing/recede ## make .venv with everything, exactly as pinned

clean: ## remove what was made; runs/ stays
	rm -rf $(VENV) $(VENV)-adapters build dist *.egg-info .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip and setuptools come first and pinned: the build below then needs no environment of its own.
$(VENV)/installer: constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned packages into $(VENV): a minute or two, and the time of the downloads"
	$(PIP) install --quiet --constraint constraints.txt --upgrade pip setuptools
	touch $@

# Compiling whatever is installed takes longer than unpacking it; the import compiles what is used, and proves that it loads.
LOAD := import torch, diffusers.schedulers, gymnasium, hydra, imageio, matplotlib.pyplot, mujoco, scipy.stats, zarr
define install
	@set -o pipefail; $(PIP) install --no-compile --no-build-isolation --constraint constraints.txt --editable $(1) 2>&1 \
		| tee $(VENV)/install.log \
		| sed -u -n -e 's/^ *\(Downloading .*MB)\).*/  \1/p' -e 's/^Installing collected packages.*/  unpacking/p' \
		|| { tail -n 30 $(VENV)/install.log; exit 1; }
	$(BIN)/python -c "$(LOAD)"
endef

# The demo needs neither extras nor development tools: a quarter less to install.
$(VENV)/base: $(VENV)/installer pyproject.toml
	$(call install,.)
	touch $@

$(VENV)/complete: $(VENV)/installer pyproject.toml
	$(call install,".[$(EXTRAS)]")
	touch $(VENV)/base $@

# The root is the package: this gives the type checker a folder of the package's name, whatever the clone is called.
$(VENV)/typing/recede: | $(VENV)/installer
	mkdir -p $(VENV)/typing
	ln -sfn ../.. $@

# Nothing but pictures needs these libraries, so their absence is told and not an error.
RENDERS = MUJOCO_GL=egl $(BIN)/python -c "import ctypes, mujoco; ctypes.CDLL('libGL.so.1'); ctypes.CDLL('libgthread-2.0.so.0'); \
	mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8).render()" >/dev/null 2>&1

$(VENV)/rendering: $(VENV)/base
	@if ! { $(RENDERS); } && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing the rendering libraries: $(DEBIAN)"; \
		{ apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $(DEBIAN); } \
			>$(VENV)/apt.log 2>&1 </dev/null || true; \
	fi; \
	if $(RENDERS); then touch $@; else \
		echo "Rendering does not work yet, so there will be no pictures and no video. On Debian or Ubuntu type:"; \
		echo "    sudo apt-get install $(DEBIAN)"; \
	fi

# Freezes a fresh environment. The section on CUDA is kept: a freeze sees it only where torch is the GPU build.
constraints: ## pin the newest releases in constraints.txt
	set -e; fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(PYTHON) -m venv $$fresh/venv; pip="$$fresh/venv/bin/python -m pip"; \
	$$pip install --quiet --upgrade pip setuptools; \
	$$pip install --no-compile --no-build-isolation --editable ".[$(EXTRAS)]" torch==$(TORCH); \
	{ sed -n '1,/^[^#]/{/^#/p}' constraints.txt; \
	  $$pip freeze --all --exclude-editable | grep -v -E '^(nvidia-|cuda-|triton==)' | sed 's/+.*//' | sort -f; \
	  echo; sed -n '/^# CUDA/,$$p' constraints.txt; } > $$fresh/constraints.txt; \
	cp $$fresh/constraints.txt constraints.txt
