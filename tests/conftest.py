"""Plugins that every folder of tests may use, and how hypothesis chooses its examples."""

import os

from hypothesis import settings

pytest_plugins = ["tests.databases", "tests.serving"]

# The same examples in every run, so that a change is judged by what it changed; `make test-long`
# goes looking for others.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.register_profile("searching", deadline=None)
settings.load_profile("searching" if os.environ.get("TEST_SEARCHING") else "repeatable")
