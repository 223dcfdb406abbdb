"""`mcpctl up --demo` for tests from the outside: one for all that only use it, a new one for those that break it."""

import pytest

from mcpctl.cli.nats_server import free_port
from tests.installation import Installation, running


@pytest.fixture(scope="package")
def demo(tmp_path_factory):
    """A running `mcpctl up --demo`; `.run(...)` runs a CLI command against it."""
    with running(Installation(tmp_path_factory.mktemp("demo"), free_port(), "--demo")) as installation:
        yield installation


@pytest.fixture(scope="module")
def robust_demo(tmp_path_factory):
    """A running `mcpctl up --demo` whose parts may be killed, since it mends itself."""
    with running(Installation(tmp_path_factory.mktemp("robust"), free_port(), "--demo")) as installation:
        yield installation


@pytest.fixture
def own_demo(tmp_path):
    """A `mcpctl up --demo` that a test may break, not started yet."""
    installation = Installation(tmp_path, free_port(), "--demo")
    yield installation
    installation.close()
