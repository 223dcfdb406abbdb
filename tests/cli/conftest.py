"""A running installation for the CLI's own tests."""

import pytest

from mcpctl.cli.nats_server import free_port
from tests.certificates import Certificates
from tests.installation import Installation, running

TIME_IN_UTC = ("--tool", "time__get_current_time", "--args", '{"timezone": "UTC"}')
COUNT_TO_THREE = ("--tool", "notes__count", "--args", '{"to": 3}')


@pytest.fixture(scope="package")
def cli(tmp_path_factory):
    """`mcpctl up --demo`, and `.ok(...)`, `.refused(...)` and `.run(...)` to run the CLI against it."""
    with running(Installation(tmp_path_factory.mktemp("cli"), free_port(), "--demo")) as installation:
        yield installation


@pytest.fixture(scope="package")
def certificates(tmp_path_factory):
    """A CA, and the certificate of a server on this machine."""
    return Certificates(tmp_path_factory.mktemp("certificates"))
