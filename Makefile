# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0

# The Python that .venv is made with: 3.10 or newer.
PYTHON ?= python3
# What make demo looks at: a video file, a folder of images or a webcam's index; empty: the road world.
VIDEO ?=
# Which published model make demo looks with: its name in `vlm-perception models`, or its id on the
# Hugging Face hub; empty: the model that comes with the package.
MODEL ?=

BIN := .venv/bin
# Two processes that run tests, with a core each: torch's threads would only wait for one another.
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

.PHONY: help setup demo test lint pytest quick check-tensorrt check-lmms check-curation golden pictures card clean

help:
	@echo "make demo               run the four nodes on the procedural road world, with a live panel"
	@echo "make demo VIDEO=a.mp4   the same on a video file, a folder of images or a webcam's index"
	@echo "make demo MODEL=smolvlm2-256m  the same with published models, which are fetched the first time"
	@echo "make setup              make .venv: ROS 2 (from PyPI unless one is sourced) and this package"
	@echo "make test               formatting, lint, types, layers and tests; adds torch to .venv"
	@echo "make quick              the tests that need neither nodes nor torch, in less than a minute"
	@echo "make check-tensorrt     hold the TensorRT code against the real APIs of three versions"
	@echo "make check-lmms         run the tests with the real lmms-eval, in an environment of its own"
	@echo "make check-curation     run curation with Ray and with detectors of faces, in an environment of its own"
	@echo "make golden             replay the tests' drive, and keep what is said as its golden log"
	@echo "make pictures           make the pictures in docs/img anew, of the shipped bundle"
	@echo "make card               make the report card of the shipped bundle in docs anew"
	@echo "make clean              remove .venv and everything that was built"

setup:
	@$(PYTHON) scripts/setup_venv.py

# A bundle is made of a published model with torch and transformers.
demo:
	@$(PYTHON) scripts/setup_venv.py $(if $(MODEL),--train)
	@$(BIN)/vlm-perception demo $(if $(VIDEO),"$(VIDEO)") $(if $(MODEL),--model "$(MODEL)")

test: lint pytest

lint:
	@$(PYTHON) scripts/setup_venv.py --dev --train
	$(BIN)/ruff format --check
	$(BIN)/ruff check
ifdef ROS_DISTRO
	@echo "mypy is left out: it is for the pinned numpy and not for that of the sourced ROS"
else
	$(BIN)/mypy
endif
	$(BIN)/lint-imports

pytest:
	@$(PYTHON) scripts/setup_venv.py --dev --train
	$(PARALLEL) --dist loadfile --no-loadscope-reorder -m "not alone"
	$(BIN)/pytest -m alone test/ros
	ROS_PYTHON_CHECK_FIELDS=1 $(BIN)/pytest test/ros/test_messages.py

quick:
	@$(PYTHON) scripts/setup_venv.py --dev
	$(PARALLEL) -q -m "not ros and not torch and not slow" test/unit test/docs

check-tensorrt:
	@$(PYTHON) scripts/setup_venv.py --dev --train
	$(BIN)/python scripts/check_tensorrt.py

check-lmms:
	@$(PYTHON) scripts/setup_venv.py --dev --train
	OMP_NUM_THREADS=1 $(BIN)/python scripts/check_lmms.py

check-curation:
	@$(PYTHON) scripts/setup_venv.py --dev --train
	OMP_NUM_THREADS=1 $(BIN)/python -P scripts/check_curation.py

# After a change that is meant to change what is said, as of the shipped bundle.
golden: setup
	$(BIN)/vlm-perception replay test/data/drive --out out/golden --originals none --no-overlay --fresh
	cp out/golden/scene.jsonl test/data/drive.golden.jsonl

# report.png needs Chromium, rerun.png also `pip install rerun-sdk playwright` into .venv.
pictures: setup
	$(BIN)/python scripts/pictures.py

# On a quiet machine, or its cost is not valid; what is finished is not evaluated again.
card:
	@$(PYTHON) scripts/setup_venv.py --train
	$(BIN)/vlm-perception evaluate report --scenes 500 --out out/card
	cp out/card/report.html docs/roadworld-nano.html

clean:
	rm -rf .venv build install log .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
