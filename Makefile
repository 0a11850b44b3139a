# make book, make test and make lab do all the set-up themselves; a second run does only what changed.
PYTHON ?= python3
PROFILE ?= digits
# As it was written: make runs nothing in it, and the shell reads it from the environment.
override PROFILE := $(value PROFILE)
export PROFILE
BIN := .venv/bin
# What the profile is called, in letters that may stand in a target.
NAME := $(shell basename -- '$(subst ','\'',$(PROFILE))' .toml | tr -c '[:alnum:]._\n-' '[-*]')
BUILD := _build/$(NAME)
# The chapters' own default is digits; a page then shows one cell of parameters instead of two.
GIVEN := $(if $(filter %.toml,$(PROFILE)),"$$(realpath -- "$$PROFILE")","$$PROFILE")
CHOICE := $(if $(filter-out digits,$(PROFILE)),-r profile $(GIVEN))
# Snakemake takes quotes off both ends and reads the rest as YAML; so a # or : in a path is a letter.
YAML := !!str '$$(printf %s "$$PROFILE" | sed "s/'/''/g")' \#

# First what trains most, one chapter of each model: two jobs then seldom wait for the same run.
HEADS := $(patsubst %,notebooks/%.py,00_quickstart 14_latents 15_mdt 17_stable_diffusion 02_embed \
	solutions_stable_diffusion)
CHAPTERS := $(sort $(wildcard notebooks/[0-9]*.py)) $(sort $(wildcard notebooks/solutions_*.py))
CHAPTERS := $(HEADS) $(filter-out $(HEADS),$(CHAPTERS))
EXECUTED := $(CHAPTERS:notebooks/%.py=$(BUILD)/notebooks/%.ipynb)
ESTIMATE := $(if $(filter digits smoke,$(PROFILE)),,$(if $(wildcard $(BUILD)/_build/html/index.html),,estimate))
FIRST := $(if $(wildcard $(BUILD)/_build/html/index.html),,$(BUILD)/first/.built)
LIBRARY := $(wildcard dedt_lib/*.py dedt_lib/*/*.py dedt_lib/*/*/*.py dedt_lib/config/profiles/*.toml)
LIBRARY := $(filter-out dedt_lib/shell/%.py dedt_lib/__main__.py,$(LIBRARY))
# Some chapters read the results of other profiles beside those of their own.
RESULTS := $(wildcard results/*/*.json* results/*/*.png results/*/samples/*.png results/$(NAME)/pending/*.json)
RESULTS += $(wildcard benchmarks/*.json)
RESULTS += $(if $(filter 1,$(words $(PROFILE))),$(filter %.toml,$(wildcard $(PROFILE))))
PROSE := _toc.yml $(shell find book -type f 2>/dev/null)

.PHONY: help estimate setup pair book pdf test lab tables bench clean clean-all
.DELETE_ON_ERROR:
# Chapters run side by side; in the store one waits for what another is computing, so nothing is computed twice.
JOBS ?= 2
MAKEFLAGS += --jobs=$(JOBS)
# Threads of two chapters on one core would wait for each other and burn the time.
THREADS := $(shell n=$$(( $$(getconf _NPROCESSORS_ONLN || echo 1) / $(or $(JOBS),1) )); echo $$(( n > 1 ? n : 1 )))
# What is removed first is not in use meanwhile, and pages are printed when they are there.
ifneq ($(filter clean clean-all,$(MAKECMDGOALS)),)
.NOTPARALLEL:
endif
ifneq ($(filter book,$(MAKECMDGOALS)),)
pdf: | book
endif

help:
	@echo "make setup   install dedt and the tested packages into .venv                       (minutes, once)"
	@echo "make book    run the main job on the digits, build the book, print its path  (a quarter of an hour, once)"
	@echo "make pdf     print the book to _build/$(NAME)/book.pdf, by Chromium or Chrome  (minutes after make book)"
	@echo "make test    check style, types and docstrings, and run the tests                  (minutes)"
	@echo "make lab     open the notebooks in JupyterLab"
	@echo "make tables  compute the missing cells of the tables              (all of the digits: many hours)"
	@echo "make bench   time the library against bare loops, write benchmarks/results.json    (minutes)"
	@echo "make pair    derive each notebooks/*.ipynb from its .py"
	@echo "make clean   remove the built book; make clean-all also removes .venv and all stored runs"
	@echo
	@echo "book, pdf and tables take PROFILE=smoke (tables first); all take PYTHON=python3.12 or similar."

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed. If it has another name: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Installing the tested packages into .venv (a few minutes, once)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -c constraints.txt -e '.[test]'
	@$(BIN)/python -m compileall -qq -j 0 -x /tests/ .venv/lib || true  # pip would on one core
	@touch $@
	@echo "Installed. Now: source .venv/bin/activate, then dedt --help"

pair: | setup
	@$(BIN)/python tools/pair.py

# What the chapters train, timed on this machine: of the digits the minutes are known.
estimate: | setup
	@echo "Time of the book's main job under profile $$PROFILE on this machine (it can be stopped and resumed):"
	@$(BIN)/dedt plan table1 --row moderate-reweighted --ratio 0.1 --seed 0 --profile "$$PROFILE" --probe

# ---- the book: it reads results/PROFILE and never computes a table

book: $(BUILD)/_build/html/index.html
	@echo "The book is built. Open $<"

$(BUILD)/_build/html/index.html: $(FIRST) $(EXECUTED) $(PROSE)
	@echo "Building the pages (under a minute)"
	@rm -rf $(BUILD)/book && cp -Rp book _toc.yml $(BUILD)/
	@$(BIN)/jupyter-book build $(BUILD) --config book/_config.yml --all -q -W -n --keep-going
	@touch $@

# One page by plain Sphinx, printed by a browser; looked for first, since the chapters take long.
# A BROWSER in the environment is somebody's for the web.
ifneq ($(origin BROWSER),command line)
BROWSER := $(firstword $(shell for name in chromium chromium-browser google-chrome google-chrome-stable; do \
	command -v $$name; done 2>/dev/null; true))
endif
PRINT := --headless --disable-gpu --no-pdf-header-footer --generate-pdf-document-outline
PRINT += --virtual-time-budget=60000 $(if $(filter 0,$(shell id -u)),--no-sandbox)

pdf:
	@test -n "$(BROWSER)" || { echo "Printing the PDF needs Chromium or Chrome, and neither was found." \
		"Install one (apt install chromium, brew install --cask chromium)," \
		"or give its path: make pdf BROWSER=/path/to/it"; exit 1; }
	@$(MAKE) --no-print-directory $(BUILD)/book.pdf
	@echo "The book is printed. Open $(BUILD)/book.pdf"

$(BUILD)/book.pdf: $(BUILD)/_build/html/index.html
	@echo "Printing the book (two minutes)"
	@$(BIN)/sphinx-build -q -W -n --keep-going -b singlehtml -c $(BUILD)/book $(BUILD) $(BUILD)/_build/page
	@sed 's|"book/intro.html#|"#|g' $(BUILD)/_build/page/book/intro.html >$(BUILD)/_build/page/book.html
	@"$(BROWSER)" $(PRINT) --print-to-pdf=$@ "$$PWD/$(BUILD)/_build/page/book.html" \
		2>$(BUILD)/_build/page/log && test -s $@ || { tail -n 5 $(BUILD)/_build/page/log; exit 1; }

# Pages that only read results are there long before the chapters that train; those have no output yet.
READ := $(BUILD)/notebooks/08_table1.ipynb $(BUILD)/notebooks/11_figure2.ipynb
$(filter-out $(READ),$(EXECUTED)): | $(FIRST)
$(BUILD)/first/.built: $(READ)
	@rm -rf $(BUILD)/first && mkdir -p $(BUILD)/first/notebooks && cp -Rp book _toc.yml $(BUILD)/first/
	@cp notebooks/*.ipynb $(BUILD)/first/notebooks/ && cp $^ $(BUILD)/first/notebooks/
	@$(BIN)/jupyter-book build $(BUILD)/first --config book/_config.yml -q >$(BUILD)/first/log 2>&1 || { \
		tail -n 20 $(BUILD)/first/log; exit 1; }
	@touch $@
	@echo "The first pages are ready: open $(@D)/_build/html/notebooks/08_table1.html; the other chapters are running"

# A chapter is executed under failed/ and moved when it is complete, so a chapter that broke stays there.
$(BUILD)/notebooks/%.ipynb: notebooks/%.py $(LIBRARY) $(RESULTS) | setup pair $(ESTIMATE)
	@echo "Running chapter $* (minutes, longer if it trains; stored results are reused)"
	@mkdir -p $(@D) $(BUILD)/failed
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$(THREADS)} TQDM_DISABLE=1 $(BIN)/papermill --no-progress-bar \
		notebooks/$*.ipynb $(BUILD)/failed/$*.ipynb --cwd notebooks $(CHOICE) >$(BUILD)/failed/$*.log 2>&1 || { \
		tail -n 20 $(BUILD)/failed/$*.log; echo "Chapter $* failed: see $(BUILD)/failed/$*.ipynb"; exit 1; }
	@rm $(BUILD)/failed/$*.log && mv $(BUILD)/failed/$*.ipynb $@

# ---- everything else

# One thread for each of the two workers: more would only get in each other's way.
test: | setup
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(BIN)/pytest -n 2

lab: | setup pair
	@cd notebooks && ../$(BIN)/jupyter-lab --LabApp.default_url=/lab/tree/00_quickstart.ipynb

tables: | setup pair
	@echo "Computing the missing cells of profile $$PROFILE; you can stop and resume at any time"
	@PATH="$$PWD/$(BIN):$$PATH" snakemake --workflow-profile profiles/local --config profile="$(YAML)"

bench: | setup
	@$(BIN)/python benchmarks/run.py

clean:
	@rm -rf _build/*/notebooks _build/*/failed _build/*/first _build/*/book _build/*/book.pdf \
		_build/*/_toc.yml _build/*/_build

# Stored runs are hours of work, so only this removes them.
clean-all:
	@rm -rf .venv runs _build .snakemake
