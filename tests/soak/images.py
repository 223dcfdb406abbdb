"""The stages of `compose/Dockerfile` done on this machine, and what they leave started: `python -m tests.soak.images`.

It needs the network, for pip, and half a minute. What is found out: the gateway's image has no driver of a database and
works where nothing of databases can be imported; the actors' image works on SQLite, has the driver of PostgreSQL and
is the CLI; both are healthy by the command that their containers ask.
"""

import asyncio
import os
import subprocess
import tempfile
import time
from pathlib import Path

from tests.deployment.dockerfile import Build, stages
from tests.system import CONTROL_PLANE, System

OF_DATABASES = ("alembic", "psycopg", "psycopg_binary", "sqlalchemy", "sqlite3", "sqlmodel")


def can_import(python: Path, module: str) -> bool:
    """Tell whether an image has a module."""
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


def forbid(python: Path, *modules: str) -> None:
    """Let the import of these fail in an image, as where they are not installed."""
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    (site / "forbidden.pth").write_text(f"import sys; sys.modules.update(dict.fromkeys({modules}))\n")


def demand_healthy(python: Path, port: str) -> None:
    """Raise `CalledProcessError` where the health check of the gateway's image says no; `port` stands for 3200."""
    _, option, program = stages()["gateway"].command("HEALTHCHECK")
    subprocess.run([python, option, program.replace("3200", port)], check=True)


async def start(folder: Path, gateway: Path, actors: Path) -> None:
    """Start what the two images are for, and ask whether it is healthy."""
    folder.mkdir()
    system = System(folder)
    try:
        system.python = str(actors)
        await system.start(*CONTROL_PLANE)
        demand_healthy(actors, system.parts["router"].metrics.rpartition(":")[2])
        system.python = str(gateway)
        url = await system.gateway()
        demand_healthy(gateway, url.rpartition(":")[2])
        await system.project("p")
        assert await system.token("p", "agent", "role:run,resource:servers")
    finally:
        await system.stop()


def main() -> None:
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:5.1f} s  {text}", flush=True)

    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        os.chdir(folder)  # `python -m` looks for modules in the folder that it is started in
        build = Build(folder)
        build.copy("build")
        build.run("build")
        say("stage build")
        gateway = build.keep(folder / "gateway")
        build.copy("build-actors")
        build.run("build-actors")
        say("stage build-actors")
        actors = build.installed / "bin" / "python"
        assert not can_import(gateway, "psycopg")
        assert can_import(gateway, "sqlmodel"), "it comes with the one wheel, and is not used"
        assert can_import(actors, "psycopg")
        for command in (["--version"], ["db", "migrate", "--help"]):
            subprocess.run([build.installed / "bin" / "mcpctl", *command], check=True, stdout=subprocess.DEVNULL)
        forbid(gateway, *OF_DATABASES)
        assert not can_import(gateway, "sqlmodel")
        asyncio.run(start(folder / "system", gateway, actors))
        say("the actors' image and the gateway's have started, and are healthy")
        for image in (gateway.parents[1], build.installed):
            size = sum(file.stat().st_size for file in image.rglob("*") if file.is_file() and not file.is_symlink())
            say(f"{image.name}: {size / 2**20:.0f} MiB")


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    main()
