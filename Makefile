# Needs python3 (3.11 or later, with venv) and make; everything else goes into the virtual environment.
PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
PIP = $(PY) -m pip --quiet --disable-pip-version-check
SOURCES = dbqueue migrations tests $(wildcard examples benchmarks)

.PHONY: help demo test fuzz fuzz-bytes chaos mutants lint format types layers plans packaging smoke lowest bench bench-short docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       a worker and some jobs, on SQLite"
	@echo "make test       all tests, on SQLite and on a PostgreSQL that the tests start (ARGS='-k ...')"
	@echo "make chaos      processes killed, servers stopped, connections cut (ARGS='--row P1 --full')"
	@echo "make fuzz       random rows and content, by the ten thousand; make fuzz-bytes lets coverage lead (atheris)"
	@echo "make mutants    the same on engines with a fault of their own, each of which must be found"
	@echo "make lint       ruff; make format applies its fixes"
	@echo "make types      mypy --strict"
	@echo "make layers     the import rules of the house"
	@echo "make bench      speed, beside other queues (ARGS='drain --rounds 5'); see docs/performance.md"
	@echo "make docs       the documentation as web pages"
	@echo "make smoke      some tests on other versions (PYTHON=python3.13 VENV=.venv-3.13 WITH='sqlalchemy<2.1')"
	@echo "make lowest     the same tests on the oldest versions that pyproject.toml allows"
	@echo "make packaging  wheel, source distribution and editable installation, each tried"

# pip 25.1 is the first that installs a dependency group; the pip that comes with Python is older.
$(PY):
	@$(PYTHON) -c 'import sys; sys.exit("dbqueue needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'

# The stamps are older than pyproject.toml when a dependency changed, and only then pip runs.
$(VENV)/.runtime: pyproject.toml | $(PY)
	$(PIP) install --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(PY)
	$(PIP) install --editable '.[async]' --group dev
	@touch $@ $(VENV)/.runtime

demo: $(VENV)/.runtime
	$(PY) examples/demo.py

# Most tests wait for other processes: three at a time take half as long on two processors. A file stays together, for it
# may share a worker.
test: $(VENV)/.dev
	$(PY) -m pytest --numprocesses 3 --dist loadfile $(ARGS)

# The rows of docs/faults.md, each in a short form: ARGS='--row P1 --full' for a whole one.
chaos: $(VENV)/.dev
	$(PY) -m pytest --numprocesses 2 -m chaos tests/chaos tests/packaging/test_rolling_upgrade.py $(ARGS)

# Random rows and random content, by the ten thousand; and random steps of many jobs, by the thousand.
fuzz: $(VENV)/.dev
	$(PY) -m pytest --hypothesis-profile=fuzz tests/security/test_rows.py tests/security/test_signing.py tests/unit/test_codec.py tests/unit/test_exceptions.py tests/stateful $(ARGS)

# Bytes that find their way into the branches of the code that reads rows: ARGS='-max_total_time=3600' for longer.
# atheris has wheels for few versions of Python only (3.11 is one): where it has none this says so, and does nothing.
fuzz-bytes: $(VENV)/.dev
	@mkdir -p .fuzz
	@if $(PIP) install --only-binary :all: 'atheris>=3.0'; then \
	    $(PY) -m tests.fuzz.codec_target -max_total_time=60 -artifact_prefix=.fuzz/ $(ARGS) .fuzz; \
	else echo "skipped: atheris has no wheel for this Python"; fi

# That the suite finds what it is for: faults of the engine's own (tests/chaos/mutants.py).
mutants: $(VENV)/.dev
	$(PY) -m pytest --numprocesses 2 -m mutants tests/chaos $(ARGS)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix $(SOURCES)
	$(VENV)/bin/ruff format $(SOURCES)

types: $(VENV)/.dev
	$(VENV)/bin/mypy

layers: $(VENV)/.dev
	$(VENV)/bin/lint-imports

# The plans of the hot statements on another version of PostgreSQL than the wheel's, whose programs are there.
plans: $(VENV)/.dev
	@test -n "$(POSTGRES)" || { echo "say where they are: POSTGRES=/usr/lib/postgresql/15/bin" >&2; exit 2; }
	DBQUEUE_TEST_POSTGRES_PROGRAMS=$(POSTGRES) $(PY) -m pytest --numprocesses 2 $(addprefix tests/contract/,test_plans.py test_rare_plans.py test_pooled_plans.py \
	    test_partition_plans.py test_claim.py test_outcomes.py) $(ARGS)

packaging: $(VENV)/.dev
	$(PY) -m pytest -m packaging tests/packaging $(ARGS)

# What differs between versions: drivers, transactions, migrations, and the first steps with a real worker.
SMOKE = $(addprefix tests/,contract/test_joining.py contract/test_joining_refusals.py contract/test_using.py \
	contract/test_joined_wake_ups.py contract/test_claim.py contract/test_outcomes.py contract/test_rescue.py \
	contract/test_heartbeats.py contract/test_lost_workers.py contract/test_kept_jobs.py contract/test_lock_files.py \
	migrations/test_host_alembic.py examples/test_walkthrough.py)

$(VENV)/.smoke: pyproject.toml | $(PY)
	$(if $(LOWEST),$(PY) tests/packaging/lower_bounds.py > $(VENV)/lower-bounds.txt)
	$(PIP) install --editable '.[async]' --group smoke $(if $(WITH),'$(WITH)') $(if $(LOWEST),--constraint $(VENV)/lower-bounds.txt)
	@touch $@

smoke: $(VENV)/.smoke
	$(PY) -m pytest --numprocesses 2 --dist loadfile $(SMOKE) $(ARGS)

lowest:
	@$(MAKE) --no-print-directory smoke VENV=$(VENV)-lowest LOWEST=1

# Rows, `--full`, and other options in ARGS; the peers install themselves. Figures and plots go to benchmarks/results/.
bench: $(VENV)/.dev $(VENV)/.bench
	$(PY) -m benchmarks --json benchmarks/results/figures.json --plots benchmarks/results $(ARGS)

$(VENV)/.bench: pyproject.toml | $(VENV)/.dev
	$(PIP) install --group bench
	@touch $@

# Without peers, and few jobs: shows that each measure runs.
bench-short: $(VENV)/.dev
	$(PY) -m benchmarks --no-peers --short --rounds 1

docs: $(VENV)/.dev
	$(PIP) install -r docs/requirements.txt
	$(VENV)/bin/sphinx-build -W docs docs/_build

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .chaos
	find dbqueue migrations tests -name __pycache__ -type d -prune -exec rm -rf {} +
