# Works with GNU make 3.81 (macOS) and later. Windows: use WSL.
# Variables: PYTHON=/path/to/python3.12 (interpreter for .venv), TORCH=cpu (PyTorch's CPU build), PORT=8000.
BOOT := $(firstword $(foreach p,python3 python3.13 python3.12 python3.11 $(PYTHON),$(shell command -v $(p) 2>/dev/null)))
VENV := .venv/bin/python
PORT := 8000
export PYTHON TORCH

.PHONY: help setup book serve test test-slow lint clean distclean badges release-url bench seeds claims pdf links assignments instructor

help:
	@echo "make setup        create .venv and install the locked environment"
	@echo "make book         run the notebooks that changed and build the book (_build/html/index.html)"
	@echo "make serve        build, serve on http://127.0.0.1:$(PORT) (PORT=...) and open the browser"
	@echo "make test         all tests but the slow ones; builds the book for the browser test"
	@echo "make test-slow    the slow tests"
	@echo "make lint         ruff"
	@echo "make bench        training throughput beside other implementations"
	@echo "make seeds        train three seeds of the README's two models, rewrite its table"
	@echo "make claims       number the figures, rewrite the pages of figures and of claims"
	@echo "make pdf          the whole book as one PDF, printed by Chromium (_build/book.pdf)"
	@echo "make links        ask every address outside the book whether it still answers"
	@echo "make assignments  student notebooks and expected values from the instructor notebooks"
	@echo "make instructor   solution pages, nbgrader's course folder, students.zip (_build/instructor)"
	@echo "make badges       regenerate README's badges and the notebooks' install line from _config.yml"
	@echo "make release-url URL=https://github.com/you/repo [REF=v1.0]"
	@echo "                  set the project's home in _config.yml, then make badges"
	@echo "make clean        remove _build (pages, executed notebooks, their trained models)"
	@echo "make distclean    make clean, and remove .venv"
	@echo ""
	@echo "PYTHON=/path/to/python3.12   the interpreter for .venv (any Python >= 3.11)"
	@echo "TORCH=cpu                    PyTorch's CPU build: on Linux without a GPU this saves gigabytes"

setup:
	@test -n "$(BOOT)" || { echo "No Python found: install Python 3.11 or newer, or name one with PYTHON=/path/to/python3."; exit 1; }
	@"$(BOOT)" book/_tools/setup_env.py

book: setup
	@$(VENV) book/_tools/build.py

serve: book
	@$(VENV) book/_tools/serve.py $(PORT)

test: setup
	@$(VENV) -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-slow: setup
	@$(VENV) -m pytest -m slow

lint: setup
	@$(VENV) -m ruff check .

bench: setup
	@$(VENV) bench/train_throughput.py

seeds: setup
	@$(VENV) bench/three_seeds.py

claims: setup
	@$(VENV) book/_tools/figure_map.py
	@$(VENV) book/_tools/claims_page.py

pdf: book
	@$(VENV) book/_tools/pdf.py

links: setup
	@$(VENV) book/_tools/links.py

assignments: setup
	@$(VENV) book/_tools/assignments.py

instructor: setup
	@$(VENV) book/_tools/instructor.py

badges: setup
	@$(VENV) book/_tools/badges.py

release-url: setup
	@$(VENV) book/_tools/release.py "$(URL)" $(if $(REF),--ref "$(REF)")

clean:
	rm -rf _build .pytest_cache .ruff_cache

distclean: clean
	rm -rf .venv
