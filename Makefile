# make run: serve. make test: set up and run every test. make help: the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA := data
CONFIG := $(DATA)/homeserver.toml
RUN_READY := $(VENV)/.ready-to-run
DEV_READY := $(VENV)/.ready-to-develop
WORKERS ?= auto
# Each start of a server would compile all modules anew: more than half of what a start costs.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test test-long check format bench docs clean

help:
	@echo "make run        install, write a configuration on first use, serve on http://localhost:8008"
	@echo "make test       install and run every test"
	@echo "make test-long  the tests that take long, too"
	@echo "make check      format, lint, types, import contracts, references to the specification"
	@echo "make format     put the code into its format"
	@echo "make bench      this server and Synapse side by side (about half an hour)"
	@echo "make docs       write the generated reference pages"
	@echo "make clean      remove what was installed; the data stays"

run: $(RUN_READY) $(CONFIG)
	@echo
	@echo "The data is in ./$(DATA), the configuration is $(CONFIG)."
	@echo "An account (the first one is the administrator), in another terminal:"
	@echo "    $(BIN)/homeserver user create -c $(CONFIG) NAME"
	@echo "Then log in with any Matrix client; its homeserver is http://localhost:8008."
	@echo "Stop with Ctrl-C. To go on from here: README.md."
	@echo
	@exec $(BIN)/homeserver run -c $(CONFIG)

test: $(DEV_READY)
	$(BIN)/python -m pytest -n $(WORKERS) -m "not long"

test-long: $(DEV_READY)
	TEST_SEARCHING=1 $(BIN)/python -m pytest -n $(WORKERS)

check: $(DEV_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.shape.references

format: $(DEV_READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(DEV_READY)
	$(BIN)/python -m bench $(BENCH)

docs: $(DEV_READY)
	$(BIN)/python -m homeserver.cli.reference docs/reference

clean:
	rm -rf $(VENV)

$(CONFIG): | $(RUN_READY)
	@$(BIN)/homeserver init --yes --name localhost -c $(CONFIG) --data-dir $(DATA) > /dev/null
	@echo "A new server named localhost, to try things out: its users are @you:localhost for ever."
	@echo "For one with your own name: $(BIN)/homeserver init -c homeserver.toml"

$(RUN_READY): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(DEV_READY): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@ $(RUN_READY)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
