# Everything runs in .venv, made on first use and reused afterwards.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PEERS := .venv-peers
PY := $(VENV)/bin/python
FASHION_MNIST := /usr/share/datasets/fashion-mnist

.PHONY: demo test lint data docs peers clean help

help:
	@echo "make demo   train two members on digits within epsilon 8, fuse, export, score"
	@echo "make test   the whole test suite"
	@echo "make lint   ruff and mypy"
	@echo "make docs   tables and drawing of docs/model.md"
	@echo "make peers  other libraries for benchmarks.dp_step, into $(PEERS)"
	@echo "make clean  remove .venv, $(PEERS) and caches"

demo: $(VENV)/.demo-installed
	$(PY) -m trainers.train --dataset=digits --epsilon=8 --delta=1e-4 --epochs=60 --batch_size=256 \
		--output_dir=savedmodels/demo

test: $(VENV)/.test-installed data
	$(PY) -m pytest -n auto

lint: $(VENV)/.test-installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/.demo-installed
	$(PY) docs/build.py

# Fashion-MNIST is a Debian package; the tests read it from where that puts it.
data:
	@test -d $(FASHION_MNIST) || { \
		echo "Installing Debian's dataset-fashion-mnist for the tests"; \
		if [ "$$(id -u)" = 0 ]; then sudo=; else sudo="sudo -n"; fi; \
		$$sudo apt-get update -q && \
		$$sudo apt-get install -q -y --no-install-recommends dataset-fashion-mnist; \
	} || { \
		echo "Could not: install dataset-fashion-mnist, or put its four IDX files into $(FASHION_MNIST)."; \
		exit 1; \
	}

peers: $(PEERS)/.installed

# TensorFlow Privacy and Opacus, in an environment of their own: tf_keras must stay out of .venv.
$(PEERS)/.installed: benchmarks/peers.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install -q --disable-pip-version-check -r benchmarks/peers.txt
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-installed: setup.py | $(VENV)/bin/python
	$(PY) -m pip install -q --disable-pip-version-check -e ".[edge]"
	@touch $@

$(VENV)/.test-installed: setup.py | $(VENV)/bin/python
	$(PY) -m pip install -q --disable-pip-version-check -e ".[test]"
	@touch $@ $(VENV)/.demo-installed

clean:
	rm -rf $(VENV) $(PEERS) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
