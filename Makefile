# `make install` needs Python 3.11 or newer and nothing else; every target runs inside .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Two at a time: one process has all tests with the engine, which they share, the other the rest.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2
# CPU wheels of torch live on PyTorch's own index; ask it only where pip cannot find one already.
TORCH_INDEX := https://download.pytorch.org/whl/cpu

export HF_HUB_OFFLINE ?= 1
export VLLM_NO_USAGE_STATS ?= 1

.PHONY: install demo serve test check fix bench docs clean

install: $(STAMP)

$(STAMP): requirements/cpu.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip==26.0" "setuptools==81.0.0"
	torch=$$(grep '^torch==' requirements/cpu.lock); \
	wheel=$$(mktemp -d); \
	$(BIN)/pip download --quiet --no-deps --dest $$wheel "$$torch" >/dev/null 2>&1 || index="--extra-index-url $(TORCH_INDEX)"; \
	rm -r $$wheel; \
	$(BIN)/pip install --no-deps --requirement requirements/cpu.lock $$index
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: install          ## serve the default model and stream two prompts through the OpenAI SDK
	$(BIN)/python -m clients.demo

serve: install         ## serve the default model on port 8000
	$(BIN)/entrostat serve

test: install          ## all checks and all tests, the real engine included
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

check: install         ## the quick half: no engine
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m "not engine and not gpu"

fix: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install         ## cost beside stock vLLM, written to benchmarks/results/
	$(BIN)/python -m benchmarks.overhead

docs: install          ## regenerate the reference pages that come from code
	$(BIN)/python -m scripts.docs

clean:
	rm -rf $(VENV) build *.egg-info
