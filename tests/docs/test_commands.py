"""The commands of the README and the how-tos, run as a reader would."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mcpctl.cli.nats_server import free_port
from tests import forked
from tests.installation import Installation, running

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))))
RUN = tuple(page for page in PAGES if "```console" in (ROOT / page).read_text())


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    with running(Installation(tmp_path_factory.mktemp("docs"), free_port(), "--demo")) as started:
        programs = started.folder / "bin"
        programs.mkdir()
        for name, command in (("mcpctl", forked.command()), ("python", [sys.executable])):
            script = programs / name
            script.write_text("#!/bin/sh\nexec " + " ".join(f"'{word}'" for word in command) + ' "$@"\n')
            script.chmod(0o755)
        started.environment["PATH"] = f"{programs}:{started.environment['PATH']}"
        started.environment["MCPCTL_TOKEN"] = started.token
        yield started


def commands(page):
    blocks = re.findall(r"^```console\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_work_one_after_the_other(page, installation):
    lines = commands(page)
    assert lines
    port = installation.url.rpartition(":")[2]
    script = "set -e\n" + "\n".join(lines).replace("127.0.0.1:3200", f"127.0.0.1:{port}")

    done = subprocess.run(
        ["bash", "-c", script + "\necho all done"],
        env=installation.environment,
        cwd=ROOT,
        pass_fds=[forked.descriptor()],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all done\n")


def test_the_python_of_the_page_for_agents_works(installation):
    (program,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/agents.md").read_text(), re.MULTILINE | re.DOTALL)

    done = subprocess.run(
        [sys.executable, "-c", program.replace("http://127.0.0.1:3200", installation.url)],
        env=installation.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert '"timezone": "UTC"' in done.stdout


def test_the_generated_pages_are_those_of_the_code():
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_every_link_between_pages_leads_somewhere():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_every_file_that_a_page_names_is_there():
    for page in ("docs/architecture.md", "docs/security.md", "docs/threat-model.md"):
        text = (ROOT / page).read_text()
        for name in re.findall(r"`((?:actors|bus|gateway|cli)/[\w/.]*)`", text):
            assert (ROOT / name).exists(), f"{page} names {name}"
    assert shutil.which("bash")
