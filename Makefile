# Every target sets itself up from a fresh clone, in a virtual environment of its own.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# RLlib holds Gymnasium at another version than the one we develop with.
VENV_RAY := .venv-ray
ARGS ?=
INSTALL = $(RUN) -m pip install --disable-pip-version-check -c constraints.txt -e

.PHONY: agent watch pictures test test-slow test-gpu test-ray lint wheel-check docs test-lowest test-pythons bench bench-agent results clean

agent: $(VENV)/.train  ## train PartialCatch-v0; more options: make agent ARGS="--seed 1"
	$(RUN) -m fwagents agent --env PartialCatch-v0 $(ARGS)

watch: $(VENV)/.train  ## watch the newest agent play and remember; ARGS="--output play.gif" for a picture of it
	$(RUN) -m fwagents watch $(ARGS)

pictures: $(VENV)/.dev  ## every picture of the documentation; trains what is missing; needs chromium on the PATH
	$(RUN) -m experiments.gallery $(ARGS)

test: $(VENV)/.dev  ## the default tests
	$(RUN) -m pytest -n auto --dist loadfile $(ARGS)

test-slow: $(VENV)/.dev  ## the tests that take longer than a minute
	$(RUN) -m pytest -n auto --dist loadfile -m "slow and not gpu" $(ARGS)

test-gpu: $(VENV)/.dev  ## the tests that need a GPU and a CUDA build of torch
	$(RUN) -m pytest -m gpu $(ARGS)

test-ray: $(VENV_RAY)/.installed  ## the tests that need Ray RLlib, in a virtual environment of its own
	$(VENV_RAY)/bin/python -m pytest tests/rllib "tests/test_docs.py::test_python_runs[docs/scaling.md]" -m "not gpu" $(ARGS)

lint: $(VENV)/.dev  ## style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy fwagents
	$(RUN) -m mypy envs train
	MYPYPATH=benchmarks $(RUN) -m mypy --explicit-package-bases benchmarks

wheel-check: $(VENV)/.dev  ## build the wheel and use it from a clean environment
	PYTHON=$(PYTHON) tests/wheel_check.sh

docs: $(VENV)/.dev  ## the documentation as a site, in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --strict

test-pythons:  ## what needs no torch, under every supported Python that is here
	tests/other_pythons.sh

test-lowest:  ## the core tests with the lowest versions that are supported
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e ".[render,figures]" pytest pytest-xdist hypothesis
	$(VENV)-lowest/bin/python -m pytest -n auto --dist loadfile tests/envs tests/test_cores*.py tests/test_*fast_weights.py tests/test_programmers.py tests/test_ffm.py tests/test_hebbian.py tests/test_associative_lstm.py tests/sb3 tests/kernels tests/tasks

bench: $(VENV)/.dev  ## the scan against torch.nn.LSTM, about 15 minutes; ARGS="--family programmers", or "--device cuda" on a GPU
	$(RUN) benchmarks/scan.py $(ARGS)

bench-agent: $(VENV)/.dev  ## the agents against stock ones; ARGS="--cases tmaze" for one case
	$(RUN) benchmarks/agent.py $(ARGS)

results: $(VENV)/.dev  ## run what the results lack, for hours, then write docs/results.md; ARGS="--only suite --dry-run" lists it
	$(RUN) -m experiments $(ARGS)

$(VENV)/.train: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing what training needs into $(VENV): 1.4 GB on the disk with torch's CPU build, some minutes ..."
	$(INSTALL) ".[train]"
	touch $@

$(VENV)/.dev: $(VENV)/.train
	@echo "Installing what tests, documentation and the results need into $(VENV): 1.7 GB more, some minutes ..."
	$(INSTALL) ".[dev]"
	touch $@

$(VENV_RAY)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV_RAY)
	grep -v "^gymnasium==" constraints.txt > $(VENV_RAY)/constraints.txt
	$(VENV_RAY)/bin/python -m pip install --quiet --disable-pip-version-check -c $(VENV_RAY)/constraints.txt -e ".[ray]" pytest
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV_RAY) site build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
