"""`python -m mcpctl.actors`: a process that says when it is ready, and ends with a reason."""

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
import sys

import pytest

from mcpctl.cli.nats_server import free_port


@pytest.fixture
async def run(nats, tmp_path):
    """Start the actors' process; what it writes to its ready descriptor can be read from the returned one."""
    running = []
    reading, writing = os.pipe()

    async def start(*names, module="mcpctl.actors", files=None, **settings):
        environment = os.environ | {
            "MCPCTL_NATS_URL": nats.url,
            "MCPCTL_NATS_KEYS": str(nats.keys),
            "MCPCTL_DATA_DIR": str(tmp_path),
            "MCPCTL_READY_FD": str(writing),
            **settings,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *names,
            env=environment,
            preexec_fn=None if files is None else lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
            pass_fds=(writing,),
            stderr=asyncio.subprocess.PIPE,
        )
        running.append(process)
        return process, reading

    yield start
    for process in running:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    os.close(reading)
    os.close(writing)


async def end(process):
    """Return the exit status and the last line that was said."""
    async with asyncio.timeout(20):
        _, said = await process.communicate()
    return process.returncode, said.decode().strip().splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_actors_say_when_they_are_ready_and_end_when_told_to(run, number):
    process, reading = await run("token", "rbac")

    async with asyncio.timeout(20):
        assert await asyncio.to_thread(os.read, reading, 10) == b"ready\n"
    process.send_signal(number)

    status, _ = await end(process)
    assert status == 0


async def test_an_unknown_actor_is_a_mistake_in_the_command(run):
    process, _ = await run("token", "nobody")

    assert await end(process) == (
        2,
        "Error: no actor nobody: name some of token, rbac, catalog, session, audit, router",
    )


async def test_a_database_of_a_newer_version_is_left_alone(run, tmp_path):
    (tmp_path / "sql").mkdir()
    with sqlite3.connect(tmp_path / "sql" / "rbac.sqlite") as database:
        database.execute("create table alembic_version (version_num varchar(32) not null)")
        database.execute("insert into alembic_version values ('rbac_9999')")
    database.close()

    process, _ = await run("rbac")

    status, said = await end(process)
    assert status == 1
    assert said.startswith("Error: the database of the rbac actor is at revision rbac_9999")


async def test_it_waits_for_a_database_that_is_away_says_why_and_can_be_told_to_stop(run):
    process, _ = await run("rbac", MCPCTL_DATABASE_URL=f"postgresql://u:hunter2@127.0.0.1:{free_port()}/mcpctl")

    said = b""
    async with asyncio.timeout(20):
        while b"waiting for the database" not in said:
            said += await process.stderr.readline()
    process.send_signal(signal.SIGTERM)

    async with asyncio.timeout(20):
        assert await process.wait() == 0
    assert b"Connection refused" in said
    assert b"hunter2" not in said


async def test_a_database_url_that_makes_no_sense_is_one_line_without_it(run):
    process, _ = await run("rbac", MCPCTL_DATABASE_URL="mysql://u:hunter2@db/x")

    status, said = await end(process)
    assert status == 1
    assert said.startswith("Error: the database URL is not of the form postgresql://")


async def test_a_folder_that_cannot_be_written_is_named(run, tmp_path):
    (tmp_path / "file").write_text("in the way")

    process, _ = await run("rbac", MCPCTL_DATA_DIR=str(tmp_path / "file"))

    assert await end(process) == (1, f"Error: {tmp_path / 'file' / 'sql'}: Not a directory")


async def test_a_setting_that_makes_no_sense_is_named(run):
    process, _ = await run("rbac", MCPCTL_UPSTREAM_TIMEOUT_MS="soon")

    status, said = await end(process)
    assert status == 1
    assert said.startswith("Error: setting MCPCTL_UPSTREAM_TIMEOUT_MS: Input should be a valid integer")


@pytest.mark.parametrize("module", ["actors", "gateway"])
@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("MCPCTL_BODY_LIMT", "MCPCTL_BODY_LIMT is no setting: did you mean MCPCTL_BODY_LIMIT?"),
        ("MCPCTL_XYZZY", "MCPCTL_XYZZY is no setting: unset it"),
    ],
)
async def test_a_setting_that_nobody_reads_is_refused(run, module, variable, said):
    names = ("rbac",) if module == "actors" else ()
    process, _ = await run(*names, module=f"mcpctl.{module}", **{variable: "1"})

    assert await end(process) == (1, f"Error: {said}")


async def test_what_kubernetes_tells_of_services_is_no_setting(run):
    of_services = ("SERVICE_HOST", "PORT", "PORT_4222_TCP_ADDR", "GATEWAY_SERVICE_PORT_HTTP", "GATEWAY_PORT_3200_TCP")
    _, reading = await run("rbac", **{f"MCPCTL_{name}": "tcp://10.0.0.1:1" for name in of_services})

    async with asyncio.timeout(20):
        assert await asyncio.to_thread(os.read, reading, 10) == b"ready\n"


@pytest.mark.parametrize("module", ["actors", "gateway"])
async def test_too_few_descriptors_are_refused_before_they_run_out(run, module):
    names = ("rbac",) if module == "actors" else ()
    process, _ = await run(*names, module=f"mcpctl.{module}", files=256)

    assert await end(process) == (
        1,
        "Error: only 256 files may be open at once: allow 512 or more (ulimit -n)",
    )


async def test_a_key_that_everybody_may_open_is_refused(run, nats, tmp_path):
    keys = shutil.copytree(nats.keys, tmp_path / "keys")
    (keys / "rbac.nk").chmod(0o644)

    process, _ = await run("rbac", MCPCTL_NATS_KEYS=str(keys))

    status, said = await end(process)
    assert status == 1
    assert (
        said
        == f"Error: every user of this machine may open the key {keys / 'rbac.nk'}: run chmod 600 {keys / 'rbac.nk'}"
    )
