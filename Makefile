# infbox. `make` alone shows what there is.
PYTHON ?= python3
PRESET ?= cpu
STACK ?= $(PRESET)
OPERATIONS ?= 400
# Restarts of the daemon that keeps KV, and of the engine, in `make soak`.
KV_RESTARTS ?= 50
UV = .build/uv/bin/uv
COMPILE = UV_SYSTEM_CERTS=true UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile --quiet --universal \
	--python-version 3.11 --generate-hashes

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-down start stop status logs up stop-box start-box down test lint unit soak lock clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv: the infbox command, Ansible, Pulumi's SDK, the test tools
	@PYTHON=$(PYTHON) hosts/setup.sh requirements/dev.txt

demo: ## make a box on this machine and ask it a question (PRESET=cpu)
	@$(PYTHON) hosts/demo.py up --preset $(PRESET)

demo-down: ## remove that box
	@$(PYTHON) hosts/demo.py down

start: ## on a machine that is a box: start its services
	@.venv/bin/infbox box start

stop: ## stop them
	@.venv/bin/infbox box stop

status: ## say of each whether it runs, and whether the box answers
	@.venv/bin/infbox box status

logs: ## follow what they say
	@.venv/bin/infbox box logs

up: setup ## make a box on AWS, PRESET=dev32 (STACK=alice: under another name; YES=1: ask nothing)
	@.venv/bin/python hosts/stack.py up --preset $(PRESET) --stack $(STACK) $(if $(YES),--yes)

stop-box: setup ## stop that box's machine: it then costs its disks and its address (PRESET or STACK)
	@.venv/bin/python hosts/stack.py stop --stack $(STACK)

start-box: setup ## start it again, also after it stopped itself
	@.venv/bin/python hosts/stack.py start --stack $(STACK)

down: setup ## delete that box, all but a protected data volume
	@.venv/bin/python hosts/stack.py down --stack $(STACK) $(if $(YES),--yes)

test: ## everything that has to hold, from linters to real boxes; just under an hour on two cores, downloads apart
	@$(PYTHON) tests/run.py

lint: setup ## the linters and the type checker alone
	@.venv/bin/python tests/run.py lint

unit: setup ## the tests that need no box
	@.venv/bin/python tests/run.py unit

soak: setup ## random edits; random faults under load on the demo's box; kept KV (SEED=N repeats, OPERATIONS=400)
	@INFBOX_SOAK=1000 .venv/bin/python -m pytest tests/watcher/test_random_edits.py
	@$(PYTHON) hosts/demo.py up --preset $(PRESET)
	@.venv/bin/python -m pytest tests/box -m soak -s --operations $(OPERATIONS) $(if $(SEED),--seed $(SEED))
	@.venv/bin/ansible-playbook -i inventories/presets.yml -i .demo/inventory.yml site.yml --extra-vars @tests/box/kv.yml
	@.venv/bin/python -m pytest tests/box -m kv_long
	@.venv/bin/python -m pytest tests/box/test_kv_soak.py -m kv -s --kv-restarts $(KV_RESTARTS) $(if $(SEED),--seed $(SEED))

lock: setup ## lock the dependencies anew
	$(COMPILE) pyproject.toml -o requirements/box.txt
	$(COMPILE) --group operate pyproject.toml -o requirements/operate.txt
	$(COMPILE) --group operate --group provision --group test pyproject.toml -o requirements/dev.txt
	$(COMPILE) requirements/uv.in -o requirements/uv.txt
	$(COMPILE) roles/caddy/files/caddy.in -o roles/caddy/files/caddy.txt
	for build in cpu cuda; do (cd roles/vllm/files/$$build && $(COMPILE:.build%=../../../../.build%) pyproject.toml -o requirements.txt) || exit; done

clean: demo-down ## remove what make made here: environments, images, downloads
	@$(PYTHON) hosts/host.py clean
	rm -rf .venv .build
