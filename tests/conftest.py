"""For all tests: the same examples on every machine, so that a test that passed once passes again."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
