# Everything runs in .venv, made on first use and reused afterwards.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PEERS := .venv-peers
ENGINES := .venv-engines
TYPES := .venv-types
# A new release may find more than the last.
MYPY := mypy==2.4.*
PY := $(VENV)/bin/python
FASHION_MNIST := /usr/share/datasets/fashion-mnist

APT_INSTALL = if [ "$$(id -u)" = 0 ]; then sudo=; else sudo="sudo -n"; fi; \
	$$sudo apt-get update -q && $$sudo apt-get install -q -y --no-install-recommends

.PHONY: try demo web test proof lint data gl litert site docs peers engines clean help

help:
	@echo "make try    ask the model that ships here what is on a picture, and check its files"
	@echo "make demo   train two members on digits within epsilon 8, fuse, export, score"
	@echo "make web    the model that ships here as a page, served to this machine"
	@echo "make test   the test suite"
	@echo "make proof  what takes minutes: trainings killed and resumed, a server under load, other engines"
	@echo "make lint   ruff, mypy and the floors of the rooms"
	@echo "make docs   tables and drawing of docs/model.md"
	@echo "make site   the documentation as a site, into site/"
	@echo "make peers  other libraries for benchmarks.dp_step, into $(PEERS)"
	@echo "make engines  OpenVINO, MediaPipe and a browser beside LiteRT, into $(ENGINES)"
	@echo "make clean  remove .venv, $(PEERS), $(ENGINES), $(TYPES) and caches"

try: $(VENV)/.demo-installed
	$(PY) -m trainers.predict --saved_model=savedmodels/fashion_mnist --image=docs/figures/trouser.png
	$(PY) -m trainers.verify --saved_model=savedmodels/fashion_mnist

demo: $(VENV)/.demo-installed
	$(PY) -m trainers.train --dataset=digits --epsilon=8 --delta=1e-4 --members=2 \
		--output_dir=savedmodels/demo

web: $(VENV)/.demo-installed
	rm -rf site-web
	$(PY) -m trainers.web --saved_model=savedmodels/fashion_mnist --output=site-web --serve=8000

test: $(VENV)/.test-installed data litert
	$(PY) -m pytest -n auto --dist loadfile --max-worker-restart=0 -m "not proof"

proof: $(VENV)/.test-installed data gl litert $(ENGINES)/.installed
	$(PY) -m pytest -m proof

lint: $(VENV)/.test-installed $(TYPES)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(TYPES)/bin/mypy --python-executable=$(PY)
	$(VENV)/bin/lint-imports

docs: $(VENV)/.demo-installed
	$(PY) docs/build.py

site: $(VENV)/.test-installed
	$(PY) -m mkdocs build --strict

# Debian packages that the tests read (Fashion-MNIST), open pages in (Chromium), get what runs there
# with (npm) and compile kernels with (g++).
data:
	@missing=; \
	test -d $(FASHION_MNIST) || missing="dataset-fashion-mnist"; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	command -v g++ >/dev/null || missing="$$missing g++"; \
	command -v npm >/dev/null || missing="$$missing npm"; \
	test -z "$$missing" || { \
		echo "Installing for the tests:" $$missing; \
		$(APT_INSTALL) $$missing; \
	} || { \
		echo "Could not. Install g++, chromium, npm, and dataset-fashion-mnist or its four IDX files in $(FASHION_MNIST)."; \
		exit 1; \
	}

# Libraries that MediaPipe and its OpenCV load as they are imported.
GL := libGL.so.1 libEGL.so.1 libGLESv2.so.2
GL_PACKAGES := libgl1 libegl1 libgles2
gl:
	@$(PYTHON) -c 'import ctypes, sys; [ctypes.CDLL(name) for name in sys.argv[1:]]' $(GL) 2>/dev/null || { \
		echo "Installing for MediaPipe: $(GL_PACKAGES)"; \
		$(APT_INSTALL) $(GL_PACKAGES); \
	} || { echo "Could not. Install $(GL_PACKAGES)."; exit 1; }

# LiteRT.js, which runs a model in a browser; npm gets it once into the user's cache.
litert: $(VENV)/.test-installed data
	@$(PY) -c "from keras_dpvit.export import web_page; web_page.fetch_runtime()"

peers: $(PEERS)/.installed

# TensorFlow Privacy and Opacus, and the engines, each in an environment of their own: tf_keras and
# other versions of NumPy must stay out of .venv.
.venv-%/.installed: benchmarks/%.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@

# mypy wants pathspec 1, and Flower, which is in .venv, the one before.
$(TYPES)/.installed: Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(TYPES)
	$(TYPES)/bin/python -m pip install -q --disable-pip-version-check '$(MYPY)'
	@touch $@

# Exports in engines that nobody here wrote, beside LiteRT.
engines: $(VENV)/.test-installed data gl litert $(ENGINES)/.installed
	$(PY) -m benchmarks.engines

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-installed: pyproject.toml | $(VENV)/bin/python
	$(PY) -m pip install -q --disable-pip-version-check -e ".[edge,serving]"
	@touch $@

$(VENV)/.test-installed: pyproject.toml | $(VENV)/bin/python
	$(PY) -m pip install -q --disable-pip-version-check -e ".[test]"
	@touch $@ $(VENV)/.demo-installed

clean:
	rm -rf $(VENV) $(PEERS) $(ENGINES) $(TYPES) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
