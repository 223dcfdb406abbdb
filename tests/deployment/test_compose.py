"""What `compose/` gives to which part: least secrets, least networks, nothing that nobody reads."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from mcpctl.bus import nats_config, variables
from mcpctl.bus.contract import ACTORS

HERE = Path(__file__).parent
COMPOSE = HERE.parents[1] / "compose"
SPEC = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
SERVICES = SPEC["services"]
OURS = [name for name, service in SERVICES.items() if "mcpctl-" in service["image"]]
GATEWAYS = [name for name in SERVICES if name.startswith("gateway-")]


def names(items: list) -> set[str]:
    """Return what a service names of the file's networks, volumes, configs or secrets; a volume of a folder is none."""
    named = {item if isinstance(item, str) else item["source"] for item in items}
    return {name.partition(":")[0] for name in named if not name.startswith(".")}


def mounted(service: str) -> set[str]:
    """Return the names of the secrets that a service has."""
    return names(SERVICES[service].get("secrets", ()))


def test_the_compose_file_is_one_by_the_specification():
    schema = jsonschema_rs.validator_for(json.loads((HERE / "schemas" / "compose-spec.json").read_text()))

    assert [f"{error.instance_path}: {error.message}" for error in schema.iter_errors(SPEC)] == []
    kinds = ("networks", "volumes", "configs", "secrets")
    used = {(kind, name) for service in SERVICES.values() for kind in kinds for name in names(service.get(kind, ()))}
    assert used == {(kind, name) for kind in kinds for name in SPEC[kind]}
    assert {name for service in SERVICES.values() for name in service.get("depends_on", ())} <= SERVICES.keys()


def test_there_is_all_of_the_topology():
    replicas = {name: service.get("deploy", {}).get("replicas", 1) for name, service in SERVICES.items()}

    assert {name: replicas[name] for name in ACTORS} == dict.fromkeys(ACTORS, 2)
    assert len(GATEWAYS) == len([name for name in SERVICES if name.startswith("nats-")]) == 3
    balancer = (COMPOSE / "haproxy.cfg").read_text()
    assert all(re.search(rf"server {name} {name}:3200\n", balancer) for name in GATEWAYS)


@pytest.mark.parametrize("service", OURS)
def test_a_part_has_no_variable_that_it_does_not_know(service):
    given = {name for name in SERVICES[service].get("environment", {}) if name.startswith("MCPCTL_")}

    assert given <= variables.KNOWN


def test_prometheus_looks_at_every_part_where_it_tells_its_numbers():
    jobs = yaml.safe_load((COMPOSE / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    looked = {(name, sd["port"]) for job in jobs for sd in job["dns_sd_configs"] for name in sd["names"]}

    ports = {name: SERVICES[name].get("environment", {}).get("MCPCTL_METRICS_PORT") for name in OURS}
    assert looked == {(name, int(port)) for name, port in ports.items() if port}
    assert {name for name, _ in looked} == {*ACTORS, *GATEWAYS}


@pytest.mark.parametrize("actor", ACTORS)
def test_an_actor_has_its_own_keys_and_no_others(actor):
    also = {"callout", "kicker", "issuer"} if actor == "token" else set()
    own = {name for name in nats_config.USERS if name == actor or name.startswith(f"{actor}-")}

    assert {name.removesuffix(".nk") for name in mounted(actor) if name.endswith(".nk")} == own | also


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_gateway_has_no_secret_and_reaches_no_database(gateway):
    service = SERVICES[gateway]

    assert mounted(gateway) == {"ca.pem"}  # which is none
    assert "volumes" not in service
    assert set(service["networks"]) == {"bus", "front"}
    assert not [name for name in service["environment"] if "DATABASE" in name or name.startswith("PG")]


def test_only_those_with_tables_reach_the_database():
    reaching = {name for name, service in SERVICES.items() if "data" in service["networks"]}

    assert reaching == {"postgres", "migrate", "token", "rbac", "catalog", "session", "audit"}
    assert SPEC["networks"]["data"]["internal"]
    assert SPEC["networks"]["bus"]["internal"]


@pytest.mark.parametrize("service", [name for name in SERVICES if name != "postgres"])
def test_a_container_can_do_little(service):
    spec = SERVICES[service]

    assert spec["read_only"]
    assert spec["cap_drop"] == ["ALL"]
    assert spec["security_opt"] == ["no-new-privileges:true"]
    assert not spec["user"].startswith(("0", "root"))


def test_all_files_that_are_mounted_are_made(tmp_path):
    spec = importlib.util.spec_from_file_location("compose_prepare", COMPOSE / "prepare.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.prepare(tmp_path)
    module.prepare(tmp_path)  # once more changes nothing that is there

    files = [item["file"] for kind in ("secrets", "configs") for item in SPEC[kind].values()]
    made = [tmp_path / file.removeprefix("./secrets/") for file in files if file.startswith("./secrets/")]
    assert [file for file in made if not file.is_file()] == []
    secret = [
        file for file in made if file.suffix not in (".conf", ".pem") or file.name in ("front.pem", "cluster.conf")
    ]
    assert {file.stat().st_mode & 0o077 for file in secret} == {0}


def test_images_do_not_run_as_root_and_the_gateways_has_no_driver_of_a_database():
    stages = re.split(r"^FROM ", (COMPOSE / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    named = {re.search(r"AS (\S+)", stage)[1]: stage for stage in stages}

    assert {"gateway", "actors"} <= named.keys()
    assert named["gateway"].startswith("runtime")
    assert named["actors"].startswith("runtime")
    assert "USER 10001" in named["runtime"]
    assert "postgres" not in named["build"] + named["gateway"]
