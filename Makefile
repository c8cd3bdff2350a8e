# infbox. `make` alone shows what there is.
PYTHON ?= python3
PRESET ?= cpu
UV = .build/uv/bin/uv
SOURCES = requirements/dev.txt pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-down test lint unit soak lock clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.complete ## make .venv: the infbox command, Ansible, Pulumi's SDK, the test tools

.venv/.complete: $(SOURCES) hosts/setup.sh
	@PYTHON=$(PYTHON) hosts/setup.sh requirements/dev.txt

demo: ## make a box on this machine and ask it a question
	@$(PYTHON) hosts/demo.py up --preset $(PRESET)

demo-down: ## remove that box
	@$(PYTHON) hosts/demo.py down
