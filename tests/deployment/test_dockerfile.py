"""The images' stages: they find what they copy, that is enough for the wheel, and what containers run is in it."""

import importlib.util
import subprocess
import sys
import zipfile

import pytest
import yaml

from mcpctl.actors.__main__ import ACTORS
from tests import forked
from tests.deployment.dockerfile import INSTALLED, ROOT, Build, context, stages

SERVICES = yaml.safe_load((ROOT / "compose" / "compose.yaml").read_text())["services"]
OURS = {name: service for name, service in SERVICES.items() if "mcpctl-" in service["image"]}
PARTS = ("actors", "bus", "gateway", "cli")
OF_DATABASES = ("alembic", "psycopg", "sqlalchemy", "sqlmodel")
IMPORTED = f"import sys, mcpctl.gateway.__main__; print(*sorted(set(sys.modules) & set({OF_DATABASES})))"


def test_what_the_build_is_given_is_enough_for_the_wheel_and_nothing_of_an_installation(tmp_path):
    build = Build(tmp_path)
    build.copy("build")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=build.sources,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith(".py")}
    sources = {f"mcpctl/{name}" for name in context() if name.split("/")[0] in PARTS and name.endswith(".py")}
    assert packed == sources | {"mcpctl/__init__.py"}
    given = {name.split("/")[0] for name in context()}
    assert given & {".git", ".ci", "tests", "docs"} == set()
    assert not [name for name in context() if name.startswith(("compose/secrets", "compose/local/", "compose/.env"))]


def test_a_target_takes_what_its_own_stage_has_installed_on_the_same_base():
    known = stages()

    for target, stage in (("gateway", "build"), ("actors", "build-actors")):
        assert known[target].of("COPY") == [f"--from={stage} /{INSTALLED} /{INSTALLED}"]
        assert f"PATH=/{INSTALLED}/bin:$PATH" in known[known[target].base].of("ENV")[0]
        assert known[target].of("RUN") == []
    assert known["build-actors"].base == "build"
    assert known["build"].base == known["runtime"].base  # the interpreter that the installed program names
    assert not any(extra in text for text in known["build"].of("RUN") for extra in ("[", "psycopg"))
    assert {service["build"]["target"] for service in OURS.values() if "build" in service} == {"gateway", "actors"}


@pytest.mark.parametrize("command", sorted({tuple(service["command"]) for service in OURS.values()}), ids=" ".join)
def test_a_container_runs_a_program_of_its_image_with_options_that_it_has(command):
    if command[:2] == ("python", "-m"):
        assert importlib.util.find_spec(f"{command[2]}.__main__") is not None
        assert set(command[3:]) <= set(ACTORS if command[2] == "mcpctl.actors" else ())
    else:
        assert command[0] == "mcpctl"
        done = forked.run([*command[1:], "--help"], {"PATH": "/usr/bin"}, "", seconds=30)
        assert done.returncode == 0, done.stderr


def test_images_look_after_themselves_as_their_containers_do_and_the_gateway_loads_nothing_of_databases():
    images = stages()
    gateway = SERVICES["gateway-1"]

    assert images["gateway"].command("CMD") == gateway["command"]
    assert ["CMD", *images["gateway"].command("HEALTHCHECK")] == gateway["healthcheck"]["test"]
    words = images["actors"].command("CMD")
    assert words[:3] == ["python", "-m", "mcpctl.actors"]
    assert set(words[3:]) <= set(ACTORS)
    for name, service in OURS.items():
        if "healthcheck" in service:
            _, program, option, text = service["healthcheck"]["test"]
            assert (program, option) == ("python", "-c"), name
            compile(text, name, "exec")
    loaded = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == ""
