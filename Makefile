# Octavo. `make` lists what there is to do. Needs Python >= 3.10, g++ and make; the rest installs itself into .venv.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
MODEL ?=
ARGS ?=
WORKERS ?= 2

native := CMakeLists.txt pyproject.toml $(shell find csrc -type f 2>/dev/null)
pip = $(1)/bin/python -m pip --disable-pip-version-check -qq
purelib = $(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
say = @echo "octavo: $(1)"
fail = { echo "octavo: $(1)" >&2; exit 1; }

# Versions the committed fixtures were made with: torch and sentence-transformers exactly, the others within the range
# known to agree.
oracles := torch==2.13.0 "transformers>=5.20,<6" sentence-transformers==6.2.0 "gguf>=0.17,<1" "compressed-tensors>=0.12" bitsandbytes

.PHONY: help serve test test-slow test-oracle lint format clean

help:
	@echo "make serve        set up, fetch the default model, serve on http://$(HOST):$(PORT)"
	@echo "make test         the suite, light: no torch, no network once installed"
	@echo "make test-slow    the long tests"
	@echo "make test-oracle  against torch and transformers (about 1 GB into .venv-oracle)"
	@echo "make lint         ruff, mypy --strict, clang-format"
	@echo "make format       let ruff and clang-format write"
	@echo "make clean        remove .venv, .venv-oracle, build and caches"
	@echo
	@echo "Variables: PYTHON=python3.12  HOST=0.0.0.0  PORT=8080  MODEL=path-or-id  ARGS='--threads 4'"

serve: .venv/installed
	@exec .venv/bin/octavo serve $(MODEL) --host $(HOST) --port $(PORT) $(ARGS)

test: .venv/tested
	.venv/bin/python -m pytest -m "not oracle and not slow" -n $(WORKERS) $(ARGS)

test-slow: .venv/tested-slow
	.venv/bin/python -m pytest -m slow $(ARGS)

test-oracle: .venv-oracle/tested
	.venv-oracle/bin/python -m pytest -m oracle $(ARGS)

lint: .venv/tested
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	@find csrc -name '*.cc' -o -name '*.h' -o -name '*.inl' | xargs .venv/bin/clang-format --dry-run -Werror
	$(call say,lint is clean)

format: .venv/tested
	.venv/bin/ruff check --fix-only -q .
	.venv/bin/ruff format .
	@find csrc -name '*.cc' -o -name '*.h' -o -name '*.inl' | xargs .venv/bin/clang-format -i

clean:
	rm -rf .venv .venv-oracle build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .schemathesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The package is installed in place: a changed Python file counts at once; a changed native source builds again.
.venv/installed: $(native) | .venv/bin/pip
	$(call say,building the kernels and installing into .venv: a minute or two)
	@$(call pip,.venv) install -e .
	@touch $@
	$(call say,installed; the command is .venv/bin/octavo)

.venv/tested: $(native) | .venv/bin/pip
	$(call say,building the kernels and installing with the test tools into .venv: a minute or two)
	@$(call pip,.venv) install -e '.[test]'
	@touch .venv/installed $@

.venv/tested-slow: .venv/tested
	$(call say,installing the fuzzer and the agents' clients into .venv)
	@$(call pip,.venv) install 'octavo[slow]'
	@touch $@

# What .venv holds is seen from .venv-oracle too, so that nothing is built twice.
.venv-oracle/tested: .venv/tested Makefile | .venv-oracle/bin/pip
	$(call say,installing torch and transformers into .venv-oracle: some minutes)
	@echo "import site; site.addsitedir('$$($(call purelib,.venv))')" > $$($(call purelib,.venv-oracle))/beside.pth
	@$(call pip,.venv-oracle) install $(oracles)
	@touch $@

%/bin/pip:
	@command -v $(PYTHON) >/dev/null || $(call fail,$(PYTHON) is missing: apt-get install python3 python3-venv)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  $(call fail,$$($(PYTHON) -V) is too old: install Python 3.10 or newer and say make PYTHON=python3.10)
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  $(call fail,$(PYTHON) cannot make environments: apt-get install python3-venv)
	@command -v $(CXX) >/dev/null || $(call fail,the compiler $(CXX) is missing: apt-get install g++)
	$(call say,making $* with $$($(PYTHON) -V))
	@$(PYTHON) -m venv $*
