"""Runs that take minutes, each by itself: `python -m tests.soak.NAME`. pytest does not collect them."""
