"""What is packed, and the README's first command in an environment of its own."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from mcpctl.cli.nats_server import free_port
from tests.installation import READY

ROOT = Path(__file__).parents[2]
PARTS = ("actors", "bus", "gateway", "cli")


@pytest.fixture
def tree(tmp_path):
    """A copy of what a clone would hold, links included."""
    copy = tmp_path / "tree"
    ignored = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", ".ci", "dist", "*.egg-info")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
    return copy


def build(tree, what):
    return subprocess.run(
        [sys.executable, "-m", "build", f"--{what}", "--no-isolation", "--outdir", str(tree / "dist"), str(tree)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_wheel_holds_every_source_file_as_a_real_file(tree):
    done = build(tree, "wheel")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tree / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith(".py")}

    sources = {f"mcpctl/{path.relative_to(tree)}" for part in PARTS for path in (tree / part).rglob("*.py")}
    assert packed == sources | {"mcpctl/__init__.py"}


def test_a_tree_that_lost_its_links_is_not_packed(tree):
    for part in PARTS:
        (tree / "mcpctl" / part).unlink()
        (tree / "mcpctl" / part).write_text(f"../{part}")

    done = build(tree, "wheel")

    assert done.returncode != 0
    assert "lost its symbolic links" in done.stdout + done.stderr


def test_the_first_command_of_the_readme_works_in_a_fresh_environment(tree, tmp_path):
    command = "pip install '.[demo]' && mcpctl up --demo"
    assert command in (ROOT / "README.md").read_text()
    venv.create(tmp_path / "venv", with_pip=True)
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MCPCTL_", "PYTHON", "VIRTUAL_ENV"))}
    environment |= {
        "PATH": f"{tmp_path / 'venv' / 'bin'}:{environment['PATH']}",
        "MCPCTL_CONFIG": str(tmp_path / "config.yaml"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "PIP_NO_COMPILE": "1",  # half of the installation's time, for modules that are never imported
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }

    up = subprocess.Popen(
        ["bash", "-c", f"pip install --quiet '.[demo]' && exec mcpctl up --demo --http-port {port}"],
        cwd=tree,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        said = []
        for line in up.stdout:
            said.append(line)
            if READY in line:
                break
        else:
            pytest.fail("".join(said))
        token = (tmp_path / "data" / "mcpctl" / "demo" / "token").read_text().strip()
        call = ["test", "mcp", f"http://127.0.0.1:{port}/projects/demo/mcp", "--tool", "time__get_current_time"]
        done = subprocess.run(
            ["mcpctl", *call, "--args", '{"timezone":"UTC"}'],
            cwd=tmp_path,
            env=environment | {"MCPCTL_TOKEN": token},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "PASSED" in done.stdout
    finally:
        up.terminate()
        up.communicate(timeout=30)
    assert up.returncode == 0
