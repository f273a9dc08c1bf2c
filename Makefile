# One line per target; `make` alone lists them. Use another interpreter with `make PYTHON=python3.12 …`.
PYTHON ?= python3
CONFIG ?= conf/flowcatd.toml
ARGS ?=

.PHONY: help setup run call test interop impair lint bench memory soak clock fuzz

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST)

setup:  ## make .venv what uv.lock says
	@$(PYTHON) .ci/setup.py

run:  ## start the daemon; Ctrl-C ends it; settings with ARGS="--set …"
	@$(PYTHON) .ci/setup.py --then flowcatd serve --config $(CONFIG) $(ARGS)

call:  ## place a spoken test call to the running daemon; say how with ARGS="…"
	@$(PYTHON) .ci/setup.py --then flowcatd call $(ARGS)

test:  ## install what the tests want, then run every check
	@$(PYTHON) .ci/setup.py --extra espeak --group bench
	@$(PYTHON) .ci/packages.py
	@$(PYTHON) .ci/test.py

interop:  ## calls with SIPp, baresip, linphone, Kamailio and pyVoIP, those of minutes, too; a quarter of an hour
	@$(PYTHON) .ci/setup.py
	@$(PYTHON) .ci/packages.py
	@FLOWCATD_INTEROP=1 .venv/bin/python -m pytest -q tests/interop --deselect tests/interop/test_impaired.py::test_ten_minutes_of_a_bad_network $(ARGS)

impair:  ## eight calls over a bad network for ten minutes, clocks off both ways; shorter with ARGS="--minutes 2"
	@$(PYTHON) .ci/setup.py
	@.venv/bin/python -m tests.impair $(ARGS)

lint:  ## format and lint what is here
	@$(PYTHON) .ci/setup.py
	@.venv/bin/ruff format . && .venv/bin/ruff check .

bench:  ## measure, and write bench/FIGURES.md
	@$(PYTHON) .ci/setup.py
	@.venv/bin/python -m bench.micro --write

memory:  ## measure what a worker and an idle call cost; fails above what is promised
	@$(PYTHON) .ci/setup.py
	@.venv/bin/python -m bench.fleet.memory --check $(ARGS)

soak:  ## ten thousand short calls, three ways; fails when anything of them is left
	@$(PYTHON) .ci/setup.py
	@.venv/bin/python -m bench.fleet.soak $(ARGS)
	@.venv/bin/python -m bench.fleet.soak --kept $(ARGS)
	@.venv/bin/python -m bench.fleet.soak --sip --kept $(ARGS)

clock:  ## calls while the wall clock jumps; libfaketime, which makes it, is not always on time itself
	@$(PYTHON) .ci/setup.py
	@$(PYTHON) .ci/packages.py
	@FLOWCATD_CLOCK=1 .venv/bin/python -m pytest -q tests/scenarios/test_09_adversity.py -k wall_clock

fuzz:  ## millions of mutated SIP, SDP and RTP messages; shorter with ARGS="--count N --seconds S"
	@$(PYTHON) .ci/setup.py
	@.venv/bin/python -m tests.fuzz.sip --count 1000000 --seconds 600 $(ARGS)
	@.venv/bin/python -m tests.fuzz.sdp --count 1000000 --seconds 900 $(ARGS)
	@.venv/bin/python -m tests.fuzz.rtp --count 1000000 --seconds 300 $(ARGS)
