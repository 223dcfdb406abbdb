"""The release script's steps, the wheel and the sdist that it ships, and the unit for one machine."""

import configparser
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import mcpctl

ROOT = Path(__file__).parents[2]
NEEDED = ("sh", "sed", "dirname", "mktemp", "realpath", "rm", "cat", "env")
VERSION = mcpctl.__version__


def release(folder, *options, **tools):
    """Run the script where only these tools are there, each a program that says what it was asked."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    for name in NEEDED:
        if not (bin_folder / name).exists():
            (bin_folder / name).symlink_to(shutil.which(name))
    for name, code in tools.items():
        (bin_folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/ran\nexit {code}\n')
        (bin_folder / name).chmod(0o755)
    return subprocess.run(
        [ROOT / "compose" / "release", *options],
        env={"PATH": str(bin_folder)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


TARGETS = (
    "--registry",
    "r.example/x",
    "--compose-host",
    "ops@host:/srv/mcpctl",
    "--overlay",
    "compose/kubernetes/base",
)


def test_what_is_not_there_is_skipped_and_said(tmp_path):
    done = release(tmp_path, *TARGETS)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "skipped: wheel and sdist: pip install build twine",
        "skipped: images: no docker engine answers here",
        "skipped: compose host: there is no pushed image to roll out",
        "skipped: Kubernetes: there is no pushed image to roll out",
    ]


def test_a_dry_run_tells_every_command_and_runs_none(tmp_path):
    tools = dict.fromkeys(("docker", "kubectl", "ssh", "scp", "python3"), 0)
    done = release(tmp_path, "--dry-run", *TARGETS, **tools)

    assert done.returncode == 0, done.stderr
    told = [line.removeprefix("+ ") for line in done.stdout.splitlines()]
    assert told[0] == "python3 -m build --outdir dist"
    assert f"docker build --file compose/Dockerfile --target gateway --tag mcpctl-gateway:{VERSION} ." in told
    assert f"docker push r.example/x/mcpctl-actors:{VERSION}" in told
    assert any(line.startswith("ssh ops@host ") and line.endswith("up --detach --wait") for line in told)
    rolled_out = [line.rpartition("/")[2] for line in told if "rollout status" in line]
    assert rolled_out == ["token", "rbac", "catalog", "session", "audit", "router", "gateway"]
    assert (tmp_path / "ran").read_text().count("\n") == 1, "only whether build and twine are there was asked"


def test_the_first_step_that_fails_ends_it_and_an_unknown_option_is_refused(tmp_path):
    failed = release(tmp_path, *TARGETS, docker=0, kubectl=0, ssh=1, scp=0)
    ran = (tmp_path / "ran").read_text()

    assert failed.returncode == 1
    assert f"docker push r.example/x/mcpctl-actors:{VERSION}" in ran
    assert "kubectl" not in ran
    refused = release(tmp_path, "--now")
    assert (refused.returncode, refused.stderr.startswith("Error: --now is no option")) == (2, True)


def test_wheel_and_sdist_hold_what_they_must_and_pass_the_registrys_check(tmp_path):
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", ".ci", "dist", "node_modules", "*.egg-info")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=ignored)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in (["build", "--no-isolation"], ["twine", "check", "--strict"]):
        packed = sorted((tree / "dist").glob("*")) if command[0] == "twine" else [tree]
        done = subprocess.run(
            [sys.executable, "-m", *command, *packed],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    dist = tree / "dist"
    with zipfile.ZipFile(dist / f"mcpctl_bus-{VERSION}-py3-none-any.whl") as wheel:
        in_wheel = set(wheel.namelist())
    with tarfile.open(dist / f"mcpctl_bus-{VERSION}.tar.gz") as sdist:
        in_sdist = {name.partition("/")[2] for name in sdist.getnames()}
    assert {name.split("/")[0] for name in in_wheel} == {"mcpctl", f"mcpctl_bus-{VERSION}.dist-info"}
    assert "mcpctl/actors/migrations/token/0001_tables.py" in in_wheel
    assert {"compose/release", "compose/kubernetes/base/nats.conf", "compose/systemd/mcpctl.service"} <= in_sdist
    assert {"LICENSE", "README.md", "CHANGELOG.md", "docs/security.md", "pyproject.toml"} <= in_sdist
    assert not [name for name in in_wheel | in_sdist if name.endswith((".nk", ".key", ".pem", ".env.local", ".pyc"))]


class _Unit(dict):
    """A section of a unit: a key may stand in it several times."""

    def __setitem__(self, key, value):
        super().__setitem__(key, [*self.get(key, []), *value] if isinstance(value, list) else value)


def test_the_unit_gives_mcpctl_up_its_own_folder_and_little_else():
    parser = configparser.RawConfigParser(dict_type=_Unit, strict=False)
    parser.optionxform = str
    parser.read(ROOT / "compose" / "systemd" / "mcpctl.service")
    service = {name: value.split("\n") for name, value in parser["Service"].items()}

    hardened = {"NoNewPrivileges", "DynamicUser", "PrivateTmp", "PrivateDevices", "ProtectHome", "RestrictSUIDSGID"}
    assert {service[name][-1] for name in hardened} == {"yes"}
    assert service["ProtectSystem"] == ["strict"]
    assert service["StateDirectory"] == ["mcpctl"]
    assert service["CapabilityBoundingSet"] == [""]
    assert service["ExecStart"] == ["/opt/mcpctl/bin/mcpctl up --data /var/lib/mcpctl"]
    assert not any("ReadWritePaths" in name for name in service)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_understands_the_unit_and_calls_it_hardened():
    unit = ROOT / "compose" / "systemd" / "mcpctl.service"
    looked = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    verified = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False
    )

    assert looked.returncode == 0, looked.stdout[-500:]
    said = [line for line in verified.stderr.splitlines() if "is not executable" not in line]
    assert not [line for line in said if "mcpctl.service" in line], said
