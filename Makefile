# Every target sets up what it needs in .venv, once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALL := $(BIN)/pip install --disable-pip-version-check --progress-bar off -c constraints.txt

.PHONY: proto docs serve test test-fast test-residency test-wheel test-lowest test-clients test-data test-browser test-monitoring test-conformance fuzz-image fuzz-audio fuzz-http test-faults soak soak-faults check bench wheel audit clean

serve: .venv/serve.stamp
	@exec $(BIN)/model-runtime serve

# One of the workers runs what starts a Ray. Its waits are long: the other one computes meanwhile.
TEST_WORKERS ?= 2
FAST := -m 'not alone and not ray and not cluster and not compiles and not slow and not sweep' \
  --hypothesis-profile fast --image-mutations 50 --audio-mutations 20

# Else each of the many processes that tests start compiles its modules anew.
test test-fast test-lowest: export PYTHONDONTWRITEBYTECODE :=

test: .venv/dev.stamp
	$(BIN)/pytest -n $(TEST_WORKERS) --dist loadgroup -m 'not alone'
	$(BIN)/pytest -m alone

# What needs no Ray, no compiler and no long computation, and of what is tested with many models a sample: to be run while
# one works. The files stand in random order, each worker has one half, and who is done first takes from the other's.
test-fast: .venv/dev.stamp
	$(BIN)/pytest -n $(TEST_WORKERS) --dist worksteal $(FAST)

# More than 10,000 steps of the residency state machine: some seconds.
test-residency: .venv/dev.stamp
	RESIDENCY_LONG=1 $(BIN)/pytest tests/deployments/residency/test_machine.py --timeout 1800

# proto/inference.proto and its Python stubs, from the contract: after a change of deployments/contract/types.py.
proto: .venv/dev.stamp
	$(BIN)/python -m serve_app.grpc.generate

# 20,000 mutations of each image format: some minutes.
fuzz-image: .venv/dev.stamp
	$(BIN)/pytest tests/deployments/engines/vision/test_fuzzing.py --image-mutations 20000

# 20,000 mutations of each sound format: some minutes.
fuzz-audio: .venv/dev.stamp
	$(BIN)/pytest tests/deployments/engines/audio/test_fuzzing.py --audio-mutations 20000

# 20,000 broken requests on raw sockets, and some thousands of schemathesis: some minutes.
fuzz-http: .venv/dev.stamp
	HOSTILE_REQUESTS=20000 HOSTILE_EXAMPLES=200 $(BIN)/pytest -s --timeout 3600 -k 'corpus or schemathesis' \
	  tests/hostile/test_raw_http.py tests/hostile/test_openapi.py

# The same requests to the runtime, started in four ways: prints the table of docs/cluster.md.
test-conformance: .venv/dev.stamp
	CONFORMANCE=1 $(BIN)/pytest -s tests/conformance

# Each process of `model-runtime serve` is killed under load, in turn: some minutes. docs/reliability.md has the figures.
test-faults: .venv/dev.stamp
	FAULTS=1 $(BIN)/pytest -s -p no:randomly tests/faults

# A process is killed every 30 s for 20 minutes, under load: every answer is right, and nothing grows.
soak-faults: .venv/dev.stamp
	SOAK_S=$(or $(SOAK_S),1200) $(BIN)/pytest -s -p no:randomly tests/faults/test_soak.py

# 100,000 requests of mixed kinds, and what every process holds before, half way and after.
soak: .venv/dev.stamp
	$(BIN)/python -m benchmarks soak

check: .venv/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# A wheel in dist/. `make test-wheel` installs it into an empty environment and uses it from another folder.
wheel: .venv/dev.stamp
	rm -rf build dist/*.whl
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/*.whl

test-wheel: wheel
	WHEEL="$$(ls $$PWD/dist/*.whl)" $(BIN)/pytest -s --timeout 1800 tests/wheel

# The tests with the lowest versions that pyproject.toml allows: some minutes to install, then as long as `make test`.
test-lowest:
	@test -x .lowest/bin/python || $(PYTHON) -m venv .lowest
	.lowest/bin/pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e '.[dev]'
	.lowest/bin/pytest

# Clients of OpenAI's interface against a scripted model, in an environment of their own: a minute once that is installed.
test-clients: .venv/dev.stamp
	@test -x .clients/bin/pytest || { $(PYTHON) -m venv .clients && .clients/bin/pip install --quiet \
	  --disable-pip-version-check -r tests/clients/requirements.txt; }
	@cd tests/clients/node && { test -d node_modules || npm install --silent --no-audit --no-fund --no-package-lock; }
	.clients/bin/pytest -c tests/clients/pytest.ini --rootdir . tests/clients

# Bulk work by Ray Data: the extra `data`, pandas and pyarrow, is installed. Without it `make test` leaves this out.
test-data: .venv/dev.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[data]'
	$(BIN)/pytest tests/serve_app/test_bulk.py

# The pages for browsers, by clicks in Debian's Chromium: two minutes. SCREENSHOTS=docs/images renews those of the docs.
test-browser: .venv/dev.stamp
	@command -v chromium >/dev/null && command -v tmux >/dev/null || apt-get install -y --no-install-recommends chromium fonts-dejavu-core tmux
	BROWSER=chromium SCREENSHOTS=$(SCREENSHOTS) $(BIN)/pytest -s tests/browser

# deploy/monitoring/ under Debian's Prometheus, while the runtime answers requests: some minutes.
test-monitoring: .venv/dev.stamp
	@command -v prometheus >/dev/null || apt-get install -y --no-install-recommends prometheus
	MONITORING=1 $(BIN)/pytest -s tests/monitoring

# The pages as a site: dist/site/index.html, which needs no network and no server. `make test` builds it, too.
docs: .venv/dev.stamp
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "open dist/site/index.html"

# Not in CI: a bill of materials (CycloneDX) of .venv, and what is known of its versions.
audit: .venv/serve.stamp
	@test -x .audit/bin/pip-audit || { $(PYTHON) -m venv .audit && .audit/bin/pip install --quiet \
	  --disable-pip-version-check cyclonedx-bom==7.5.0 pip-audit==2.10.1; }
	@mkdir -p dist
	.audit/bin/cyclonedx-py environment --output-reproducible --of JSON -o dist/bom.cdx.json $(BIN)/python
	@rm -f dist/audit.json; .audit/bin/pip-audit --progress-spinner off --skip-editable -f json -o dist/audit.json \
	  --path $(BIN)/../lib/python3*/site-packages 2> dist/audit.log; true
	@.audit/bin/python -c "$$AUDIT"

define AUDIT
import json, pathlib
file = pathlib.Path("dist/audit.json")
packages = json.loads(file.read_text())["dependencies"] if file.exists() else []
known = [package for package in packages if "vulns" in package]
found = [f"{package['name']} {package['version']}: {fault['id']}" for package in known for fault in package["vulns"]]
print("\n".join(found) or f"pip-audit: nothing is known against {len(known)} packages" if known
      else "pip-audit: no service was reached")
endef
export AUDIT

bench: .venv/dev.stamp
	$(BIN)/python -m benchmarks

bench-%: .venv/dev.stamp
	$(BIN)/python -m benchmarks $*

clean:
	rm -rf .venv .audit .lowest .clients tests/clients/node/node_modules build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Unpacking torch takes pip half a minute without a word, so a ticker speaks meanwhile.
.venv/%.stamp: pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; }
	@echo "installing; the first time takes some minutes"
	@( while sleep 10; do echo "  still installing"; done ) & ticker=$$!; \
	  $(INSTALL) --quiet -e '.$(if $(filter dev,$*),[dev])'; status=$$?; kill $$ticker; exit $$status
	@touch $@
