# Every target sets up what it needs in .venv, once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALL := $(BIN)/pip install --disable-pip-version-check --progress-bar off -c constraints.txt

.PHONY: serve test test-residency fuzz-image fuzz-http soak check bench clean

serve: .venv/serve.stamp
	@exec $(BIN)/model-runtime serve

test: .venv/dev.stamp
	$(BIN)/pytest

# More than 10,000 steps of the residency state machine: some seconds.
test-residency: .venv/dev.stamp
	RESIDENCY_LONG=1 $(BIN)/pytest tests/deployments/residency/test_machine.py --timeout 1800

# 20,000 mutations of each image format: some minutes.
fuzz-image: .venv/dev.stamp
	$(BIN)/pytest tests/deployments/engines/vision/test_fuzzing.py --image-mutations 20000

# 20,000 broken requests on raw sockets, and some thousands of schemathesis: some minutes.
fuzz-http: .venv/dev.stamp
	HOSTILE_REQUESTS=20000 HOSTILE_EXAMPLES=200 $(BIN)/pytest -s --timeout 3600 -k 'corpus or schemathesis' \
	  tests/hostile/test_raw_http.py tests/hostile/test_openapi.py

# 100,000 requests of mixed kinds, and what every process holds before, half way and after.
soak: .venv/dev.stamp
	$(BIN)/python -m benchmarks soak

check: .venv/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/dev.stamp
	$(BIN)/python -m benchmarks

bench-%: .venv/dev.stamp
	$(BIN)/python -m benchmarks $*

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Unpacking torch takes pip half a minute without a word, so a ticker speaks meanwhile.
.venv/%.stamp: pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; }
	@echo "installing; the first time takes some minutes"
	@( while sleep 10; do echo "  still installing"; done ) & ticker=$$!; \
	  $(INSTALL) --quiet -e '.$(if $(filter dev,$*),[dev])'; status=$$?; kill $$ticker; exit $$status
	@touch $@
