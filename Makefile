# Everything a developer runs. Each target sets up what it needs, once: the stamps in .stamps/ are
# older or newer than the lock files, so that the second run starts at once.

PY := .venv/bin/python
NODEDIR = $(shell node -p 'require("path").resolve(process.execPath, "../..")' 2>/dev/null)
ROUNDS ?= 100
SEEDS ?= 0:200
say = @printf '\n==> %s\n'

# A stamp whose result was deleted is no stamp.
$(if $(wildcard .venv/bin/python),,$(shell rm -f .stamps/python))
$(if $(wildcard node_modules),,$(shell rm -f .stamps/node .stamps/node-sqlite))
$(if $(wildcard clients/typescript/dist),,$(shell rm -f .stamps/client))

.DEFAULT_GOAL := help
.PHONY: help setup play demo client playground check format test wheel-test bench soak lock clean

help: ## show this list
	@printf 'make <target>\n\n'
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r target what; do \
		printf '  %-12s %s\n' "$$target" "$$what"; done

setup: .stamps/python .stamps/client ## install what development needs into .venv and node_modules
	@echo "Everything is set up."

play: .stamps/python ## three phones in a page of your browser, on a server that is thrown away afterwards
	@bin="$(CURDIR)/.venv/bin"; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT INT TERM; cd "$$folder"; \
		"$$bin/python" -m lowtide new play >/dev/null; cd play; "$$bin/python" -m lowtide dev || [ $$? = 130 ]

demo: .stamps/python .stamps/node ## run the demonstration; KEEP=1 leaves its server up
	$(say) 'demo (make play shows it in a browser, with phones to hold)'
	@$(PY) -m examples.demo $(if $(KEEP),--keep)

client: .stamps/client ## build the files that 'lowtide client typescript' hands out, from clients/typescript
	@npm run bundle --workspace clients/typescript

playground: .stamps/node ## build the page of 'lowtide dev' with three phones into src/lowtide/playground/page
	@node_modules/.bin/tsc -p clients/playground
	@node clients/playground/build.mjs

check: .stamps/python ## lint, format, types and layers
	$(say) 'lint (ruff check)'
	@$(PY) -m ruff check
	$(say) 'format (ruff format --check)'
	@$(PY) -m ruff format --check
	$(say) 'types (mypy --strict)'
	@$(PY) -m mypy
	$(say) 'layers (import-linter)'
	@.venv/bin/lint-imports --no-logo

format: .stamps/python ## rewrite the files as 'make check' wants them
	@$(PY) -m ruff check --fix
	@$(PY) -m ruff format

test: .stamps/python .stamps/node-sqlite .stamps/client ## all tests
	$(say) 'tests'
	@$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder
	@npm test --workspaces --if-present

wheel-test: .stamps/python ## build the wheel and use it in an empty folder, as a newcomer does
	$(say) 'wheel'
	@$(PY) -m pytest tests/test_wheel.py

bench: .stamps/python .stamps/client .stamps/node-sqlite ## measure; the numbers land in benchmarks/
	$(say) 'benchmarks'
	@$(PY) -m benchmarks

soak: .stamps/python .stamps/client ## many seeds of simulated phones, other hostile input, and crashes; SEEDS=0:200 ROUNDS=100
	$(say) 'simulated phones, seeds $(SEEDS)'
	@$(PY) -m tests.phones.simulation --seeds $(SEEDS)
	$(say) 'what nobody thought of'
	@$(PY) -m pytest -q -n auto --hypothesis-profile=exploring tests/fuzz
	$(say) 'crashes'
	@$(PY) -m tests.crash --rounds $(ROUNDS)

lock: ## pin every dependency again, by hash (needs uv)
	@command -v uv >/dev/null || { echo 'error: uv is missing' >&2; echo 'hint:  pipx install uv' >&2; exit 1; }
	@uv pip compile pyproject.toml -o requirements.lock $(LOCK_FLAGS)
	@uv pip compile pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock $(LOCK_FLAGS)

LOCK_FLAGS = --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'

clean: ## remove everything that the targets above made
	rm -rf .venv .stamps node_modules dist clients/typescript/dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.stamps/python: requirements-dev.lock pyproject.toml
	$(say) 'Python environment in .venv (a minute on the first run)'
	@python=$$(.ci/preflight python) && "$$python" -m venv .venv
	@$(PY) -m pip install --disable-pip-version-check --require-hashes --no-deps --use-pep517 -r requirements-dev.lock
	@$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@mkdir -p .stamps && touch $@

.stamps/node: package-lock.json
	$(say) 'Node packages in node_modules'
	@.ci/preflight node
	@npm ci --ignore-scripts --no-audit --no-fund
	@mkdir -p .stamps && touch $@

.stamps/client: .stamps/node $(wildcard clients/typescript/src/*.ts) clients/typescript/tsconfig.json
	$(say) 'the client in clients/typescript/dist'
	@npm run build --workspace clients/typescript
	@mkdir -p .stamps && touch $@

# Compiled where no binary can be downloaded, against the headers that came with Node if they did.
.stamps/node-sqlite: .stamps/node
	$(say) 'better-sqlite3 for Node (compiles for some 80 seconds, once)'
	@if [ -f '$(NODEDIR)/include/node/node.h' ]; then export npm_config_nodedir='$(NODEDIR)'; fi; \
		npm rebuild better-sqlite3 --foreground-scripts || { \
		printf '\nerror: better-sqlite3 could not be built.\n' >&2; \
		printf 'hint:  It needs a C++ compiler: apt-get install g++ make python3   macOS: xcode-select --install\n' >&2; \
		exit 1; }
	@mkdir -p .stamps && touch $@
