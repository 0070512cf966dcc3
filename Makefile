# make demo    quantize the shipped network, print its accuracy before and after
# make test    lint, type check, tests (the C++ ones run inside pytest)
# make clean   remove what the two have made
#
# Needed: Python 3.11 or later with venv (PYTHON=python3.12 names another), and a C++ compiler; without one,
# HALFEVEN_PURE=1 leaves the extension out. All else is installed into .venv; a second call installs nothing.

PYTHON ?= python3
VENV = .venv
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# What the tests use where it can be installed.
EXTRAS = torch,keras,openvino,litert,tflite-micro,ncnn,mnn,plots
comma = ,

BUILD = pyproject.toml constraints.txt CMakeLists.txt cpp/*.cpp cpp/*.hpp cpp/include/halfeven/*.hpp
PACKAGE = src/halfeven/*.py src/halfeven/*/*.py src/halfeven/*/*/*.py src/halfeven/demo/*

demo: $(VENV)/demo-installed
	$(VENV)/bin/halfeven demo

# Python writes compiled modules even where it was told not to: the tests start it hundreds of times.
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/test-installed
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal

clean:
	rm -rf $(VENV) build dist demo-out .mypy_cache .pytest_cache .ruff_cache .hypothesis

# One environment serves both: what the demo installs replaces what the tests installed, and the other way round.
$(VENV)/demo-installed: $(BUILD) $(PACKAGE) $(VENV)/made
	$(PIP) .
	rm -f $(VENV)/test-installed
	touch $@

$(VENV)/test-installed: $(BUILD) $(VENV)/made
	$(PIP) -e '.[test,$(EXTRAS)]' || { $(PIP) -e '.[test]' && for extra in $(subst $(comma), ,$(EXTRAS)); do \
	  $(PIP) -e ".[$$extra]" || echo "$$extra could not be installed: tests that need it are skipped"; \
	done; }
	rm -f $(VENV)/demo-installed
	touch $@

$(VENV)/made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

.PHONY: demo test clean
