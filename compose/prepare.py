#!/usr/bin/env python3
"""Make what `compose.yaml` mounts, into `secrets/` beside it: keys, certificates, configuration, passwords.

What is there stays as it is; `accounts.conf` and the configurations of nats-server are written anew, as an update of
mcpctl may change them. Run it as the user whose id the containers are to have (`MCPCTL_UID`, in `.env` afterwards).
"""

import argparse
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from mcpctl.bus import nats_config
from mcpctl.bus.nats_config import Listen, Tls
from mcpctl.cli.certificates import Certificates
from mcpctl.cli.private_file import write_private

HERE = Path(__file__).parent
NODES = ("nats-1", "nats-2", "nats-3")
DAYS = 825
MOUNTED = Path("/run/secrets")


def prepare(folder: Path, hosts: Mapping[str, str] | None = None) -> None:
    """Fill a folder. `hosts` are further names or addresses under which services are reached."""
    folder.mkdir(mode=0o700, exist_ok=True)
    keys, bootstrap = folder / "keys", folder / "bootstrap"
    nats_config.write_keys(keys)
    nats_config.write_accounts(folder, keys)
    tls = Tls(MOUNTED / "server.pem", MOUNTED / "server.key", MOUNTED / "ca.pem")
    routes = tuple(f"{node}:{nats_config.CLUSTER_PORT}" for node in NODES)
    for node in NODES:
        listen = Listen(4222, Path("/data"), "0.0.0.0", tls=tls, name=node, routes=routes)
        (folder / f"{node}.conf").write_text(nats_config.render(listen))
        nats_config.write_cluster(folder, listen, keys)
    also = hosts or {}
    certificates = Certificates(folder)
    if not certificates.certificate.exists():
        certificates.make([*NODES, *(also[node] for node in NODES if node in also)], DAYS, rotate=False)
    front = folder / "front.pem"
    if not front.exists():
        own = Certificates(folder / "front")
        own.ca, own.ca_key = certificates.ca, certificates.ca_key
        own.certificate.parent.mkdir(mode=0o700, exist_ok=True)
        own.make(["localhost", "127.0.0.1", *([also["balancer"]] if "balancer" in also else [])], DAYS, rotate=True)
        write_private(front, own.certificate.read_text() + own.key.read_text())
    if not (folder / "postgres-password").exists():
        password = secrets.token_urlsafe(24)
        write_private(folder / "postgres-password", password)
        write_private(folder / "pgpass", f"*:*:*:mcpctl:{password}\n")
    if not bootstrap.exists():
        bootstrap.mkdir(mode=0o700)
        write_private(bootstrap / "secret", secrets.token_urlsafe(32) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=HERE / "secrets")
    folder = parser.parse_args().folder
    prepare(folder)
    environment = HERE / ".env"
    if not environment.exists():
        environment.write_text(f"MCPCTL_UID={os.getuid()}\nMCPCTL_GID={os.getgid()}\n")
    print(f"keys, certificates and passwords  {folder}")
    print("start                             docker compose -f compose/compose.yaml up --detach --wait")
    print(f"first administrator               mcpctl admin bootstrap --secret-file {folder}/bootstrap/secret …")


if __name__ == "__main__":
    main()
