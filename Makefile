# `make help` says what there is. Every command first builds .venv; a second call finds it and goes straight on.
SHELL := /bin/bash
.DEFAULT_GOAL := help

ifndef PYTHON
# torch's CPU wheel may exist for one Python only, so the surest version is asked for first
PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
endif
# the environment is built anew when the Python, the kind of torch or what the project depends on has changed
DEPENDENCIES := $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys, tomllib, zlib; \
	project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	asked = project["dependencies"], project["optional-dependencies"], sys.version_info[:2]; \
	print(zlib.crc32(repr(asked).encode()))'))
TORCH_VERSION := 2.13.0
TORCH ?= $(shell nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
READY := .venv/ready-$(TORCH)-$(TORCH_VERSION)-$(DEPENDENCIES)
UV := $(shell command -v uv)
ifdef UV
# uv does not read pip's variables, and would otherwise miss a folder of CPU wheels
pip_install = $(UV) pip install --quiet --python .venv/bin/python $(addprefix --find-links ,$(PIP_FIND_LINKS))
else
pip_install = .venv/bin/python -m pip install -qq --disable-pip-version-check
endif
# PyTorch's Linux wheels on the default index carry CUDA; elsewhere they do not, and have no "+cpu" label
cpu_label := $(if $(filter Linux,$(shell uname -s)),+cpu)

# a process a core up to four, each with a copy of torch and the bundled model in memory
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, os.cpu_count() or 1))')

.PHONY: help report docs test lint lab bench clean
help: ## say what there is
	@grep -hE '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 10

report: $(READY) ## run every notebook and leave reports/index.html
	.venv/bin/lab report $(ARGS)

docs: report ## the reports and the reference of the package in one folder, reports/
	.venv/bin/lab docs

test: lint ## lint, every test, every notebook at preset=smoke
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(READY) ## ruff on code and notebooks
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

lab: $(READY) ## open JupyterLab at its start page
	.venv/bin/jupyter lab --ip=127.0.0.1 --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/00_start.ipynb \
		--LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(ARGS)

bench: $(READY) ## run the benchmarks; the tables land in benchmarks/results
	for file in benchmarks/*.py; do .venv/bin/python $$file || exit 1; done

clean: ## remove the environment and the reports
	rm -rf .venv reports

$(READY):
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Building .venv with $(PYTHON), $(if $(UV),uv,pip) and the $(TORCH) build of torch $(TORCH_VERSION); a few minutes, once."
	$(PYTHON) -m venv --clear .venv
	@$(MAKE) --no-print-directory GOAL='$(MAKECMDGOALS)' torch-$(TORCH)
	$(pip_install) --editable '.[dev]'
	@if [ $(TORCH) = cpu ] && ls -d .venv/lib/python*/site-packages/nvidia 2>/dev/null; then \
		echo "A CUDA package was installed on a machine without an NVIDIA GPU; see the folder above. Which package asked for it: .venv/bin/pip show nvidia-cublas"; exit 1; fi
	@touch $@

.PHONY: torch-cpu torch-cuda
torch-cuda:
	$(pip_install) torch==$(TORCH_VERSION)

# first the wheel pip can see (an index or folder of your own), then PyTorch's CPU index, which uv knows by name
torch-cpu:
	@$(pip_install) torch==$(TORCH_VERSION)$(cpu_label) 2>.venv/torch.log \
	|| { .venv/bin/python -m pip install -qq --disable-pip-version-check uv \
	&& .venv/bin/uv pip install --quiet --python .venv/bin/python --torch-backend cpu torch==$(TORCH_VERSION) 2>>.venv/torch.log; } \
	|| { cat .venv/torch.log; \
	echo; echo "No CPU build of torch $(TORCH_VERSION) for $$($(PYTHON) --version) can be reached, and the build on the default index"; \
	echo "would bring gigabytes of CUDA to a machine without an NVIDIA GPU. Ways on:"; \
	echo "  make $(GOAL) PYTHON=python3.11        another Python, where a CPU wheel fits only that one"; \
	echo "  PIP_FIND_LINKS=FOLDER make $(GOAL)    a folder that holds torch-$(TORCH_VERSION)+cpu-*.whl"; \
	echo "  make $(GOAL) TORCH=cuda               the CUDA build all the same"; exit 1; }
