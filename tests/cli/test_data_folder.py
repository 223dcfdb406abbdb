import os
import subprocess
import sys
from pathlib import Path

import pytest

from mcpctl.cli.data_folder import DataFolder
from mcpctl.cli.errors import CliError


def test_what_is_remembered_is_there_at_the_next_start(tmp_path):
    with DataFolder(tmp_path / "data") as folder:
        folder.remember(nats_port=4444, admin=True)

    with DataFolder(tmp_path / "data") as again:
        assert again.remembered_port("nats_port") == 4444
        assert again.has_admin


def test_a_second_one_is_kept_out(tmp_path):
    with DataFolder(tmp_path), pytest.raises(CliError, match=rf"another mcpctl up \(pid {os.getpid()}\) uses"):
        DataFolder(tmp_path).__enter__()


def test_the_folder_stays_locked_until_the_last_child_of_a_killed_parent_is_gone(tmp_path):
    code = (
        "import os, subprocess, sys; from pathlib import Path; from mcpctl.cli.data_folder import DataFolder\n"
        "folder = DataFolder(Path(sys.argv[1])).__enter__()\n"
        "child = subprocess.Popen(['sleep', '1'], pass_fds=(folder.lock_descriptor,), stdout=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    parent = subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, check=False)

    with DataFolder(tmp_path):
        assert state_of(int(parent.stdout)) in ("gone", "Z")


def state_of(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def test_a_state_that_cannot_be_read_is_as_none(tmp_path):
    (tmp_path / "state.json").write_text("{")

    with DataFolder(tmp_path) as folder:
        assert folder.remembered_port("nats_port") is None
        assert not folder.has_admin
