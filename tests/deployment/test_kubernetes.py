"""The Kubernetes manifests: valid, restricted, and with no more keys and ways than the contracts need."""

import os
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import kubernetes_validate
import yaml

from mcpctl.bus.contract import ACTORS
from mcpctl.bus.nats_config import CALLOUT, ISSUER, KICKER, PROVISIONER, USERS, Listen, Tls, render
from mcpctl.bus.variables import KNOWN
from mcpctl.gateway.settings import GatewaySettings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "compose" / "kubernetes"
BASE = FOLDER / "base"
VERSION = "1.32"
FOLDERS = {
    "token": "token_registry",
    "rbac": "rbac_evaluator",
    "catalog": "catalog",
    "session": "session_gate",
    "audit": "audit_sink",
    "router": "upstream_router",
}
WITH_DATABASE = {
    role
    for role, folder in FOLDERS.items()
    if any("database_url(" in path.read_text() for path in (ROOT / "actors" / folder).glob("*.py"))
}
KEYRINGS = {"catalog": {"sealing.json"}, "audit": {"audit-heads.json"}, "token": {"bootstrap"}}
WORKLOADS = ("Deployment", "StatefulSet", "Job")


def documents():
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    for name in kustomization["resources"]:
        yield from yaml.safe_load_all((BASE / name).read_text())


DOCUMENTS = list(documents())
PODS = {each["metadata"]["name"]: each["spec"]["template"] for each in DOCUMENTS if each["kind"] in WORKLOADS}


def of_kind(kind):
    return {each["metadata"]["name"]: each for each in DOCUMENTS if each["kind"] == kind}


def containers(name):
    return [*PODS[name]["spec"].get("initContainers", ()), *PODS[name]["spec"]["containers"]]


def secrets_of(name):
    """Return the names of the Secrets that a pod can read, in whichever way."""
    return set(re.findall(r"secretName: ([\w-]+)", text := yaml.safe_dump(PODS[name]))) | {
        reference["name"] for reference in _references(yaml.safe_load(text))
    }


def _references(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("secretKeyRef", "secretRef", "secret") and isinstance(value, dict) and "name" in value:
                yield value
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def test_every_manifest_is_valid_and_there_is_what_a_fleet_needs():
    for document in DOCUMENTS:
        kubernetes_validate.validate(document, VERSION, strict=True)

    sizes = {name: each["spec"]["replicas"] for name, each in (of_kind("Deployment") | of_kind("StatefulSet")).items()}
    assert sizes == dict.fromkeys(ACTORS, 2) | {"gateway": 3, "nats": 3}
    assert set(of_kind("PodDisruptionBudget")) == set(sizes)
    assert set(of_kind("Job")) == {"provision", "migrate"}
    assert of_kind("HorizontalPodAutoscaler")["gateway"]["spec"]["minReplicas"] == 3
    annotations = of_kind("Ingress")["gateway"]["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"
    assert annotations["nginx.ingress.kubernetes.io/proxy-next-upstream"] == "off"
    for name in sizes:
        main = PODS[name]["spec"]["containers"][0]
        assert {"readinessProbe", "livenessProbe", "resources"} <= set(main)
        assert main["resources"].keys() == {"requests", "limits"}
        assert PODS[name]["spec"]["topologySpreadConstraints"]
    gateway = PODS["gateway"]["spec"]
    drain = gateway["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] + GatewaySettings().grace_ms / 1000 + 5
    assert gateway["terminationGracePeriodSeconds"] >= drain
    assert gateway["containers"][0]["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_every_pod_meets_the_restricted_standard():
    assert of_kind("Namespace")["mcpctl"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, pod in PODS.items():
        spec = pod["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert {kind for volume in spec["volumes"] for kind in volume if kind != "name"} <= {
            "configMap",
            "emptyDir",
            "projected",
            "secret",
        }
        for container in containers(name):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }, name


def test_a_gateways_pod_has_no_secret_and_no_volume_but_its_token_and_the_ca():
    spec = PODS["gateway"]["spec"]

    assert secrets_of("gateway") == set()
    assert len(spec["containers"]) == 1
    assert spec["volumes"] == [
        {
            "name": "pod",
            "projected": {
                "sources": [{"serviceAccountToken": {"path": "token", "audience": "mcpctl", "expirationSeconds": 3600}}]
            },
        },
        {"name": "bus-ca", "configMap": {"name": "bus-ca"}},
    ]
    registry = {each["name"]: each.get("value") for each in PODS["token"]["spec"]["containers"][0]["env"]}
    account = f"mcpctl/{spec['serviceAccountName']}"
    assert registry["MCPCTL_POD_ACCOUNTS"] == account
    assert [name for name, pod in PODS.items() if pod["spec"]["serviceAccountName"] == "gateway"] == ["gateway"]


def test_each_variable_is_one_that_some_part_reads_and_each_command_one_that_exists():
    for name in (*ACTORS, "gateway", "migrate"):
        main = PODS[name]["spec"]["containers"][0]
        given = {each["name"] for each in main.get("env", ())}
        assert given <= KNOWN | {"MCPCTL_METRICS_PORT"}, name
        assert main["image"] == ("mcpctl-gateway" if name == "gateway" else "mcpctl-actors")
        assert main["command"][:2] == ["python", "-m"]
    assert all(PODS[role]["spec"]["containers"][0]["command"][2:] == ["mcpctl.actors", role] for role in ACTORS)
    lines = (BASE / "gateway.env").read_text().splitlines()
    assert {line.partition("=")[0] for line in lines if not line.startswith("#")} <= KNOWN


def test_the_servers_configuration_is_the_shipped_one():
    tls = Tls(Path("/etc/nats-tls/server.pem"), Path("/etc/nats-tls/server.key"), Path("/etc/nats-tls/ca.pem"))
    routes = tuple(f"nats-{number}.nats-peers:6222" for number in range(3))
    shipped = render(Listen(4222, Path("/data"), "0.0.0.0", False, tls, "POD", routes))

    assert (BASE / "nats.conf").read_text() == shipped.replace('"POD"', "$POD_NAME")


def test_each_secret_holds_the_keys_of_its_reader_alone(tmp_path):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    url = tmp_path / "url"
    url.write_text("postgresql://mcpctl:secret@db/mcpctl\n")
    for _ in range(2):  # the second time all is there, and stays
        subprocess.run(
            [FOLDER / "secrets", tmp_path / "made", url], check=True, env={"PATH": path}, capture_output=True
        )
    made = tmp_path / "made"
    kustomization = yaml.safe_load((made / "kustomization.yaml").read_text())
    files = {
        each["name"]: {Path(file.rpartition("=")[2]).name for file in each["files"]}
        for each in kustomization["secretGenerator"]
    }

    extra = {"token": {CALLOUT, KICKER, ISSUER}}
    for role in ACTORS:
        users = {user for user in USERS if user == role or user.startswith(f"{role}-")} | extra.get(role, set())
        assert files[f"actor-{role}"] == {f"{user}.nk" for user in users} | KEYRINGS.get(role, set())
        assert secrets_of(role) == {f"actor-{role}"} | ({"database"} if role in WITH_DATABASE else set())
    assert files["provisioner"] == {f"{PROVISIONER}.nk"}
    assert secrets_of("provision") == {"provisioner"}
    assert secrets_of("migrate") == {"database"}
    assert secrets_of("nats") == {"nats-tls", "nats-cluster"}
    assert "ca.key" not in set().union(*files.values())
    assert (made / "database-url").read_text() == "postgresql://mcpctl:secret@db/mcpctl"
    assert all(path.stat().st_mode & 0o077 == 0 for path in made.rglob("*") if path.is_file())
    if shutil.which("kubectl"):
        for folder in (made, FOLDER / "overlays" / "example"):
            built = subprocess.run(["kubectl", "kustomize", folder], check=True, capture_output=True, text=True).stdout
            for document in yaml.safe_load_all(built):
                kubernetes_validate.validate(document, VERSION, strict=True)
                assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "mcpctl"


def selects(selector, labels):
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())


def allowed(direction, name, peer, port):
    """Tell whether the policies let a pod take (or open) a connection from (to) a peer: a pod's labels, or a word."""
    labels = PODS[name]["metadata"]["labels"]
    for policy in of_kind("NetworkPolicy").values():
        spec = policy["spec"]
        if direction not in spec["policyTypes"] or not selects(spec["podSelector"], labels):
            continue
        for rule in spec.get(direction.lower(), ()):
            peers = rule["from" if direction == "Ingress" else "to"]
            if any(_is(each, peer) for each in peers) and port in [each["port"] for each in rule.get("ports", [])] + (
                [port] if "ports" not in rule else []
            ):
                return True
    return False


def _is(each, peer):
    if isinstance(peer, dict):
        return "podSelector" in each and "namespaceSelector" not in each and selects(each["podSelector"], peer)
    if "ipBlock" in each:
        return peer == "outside"
    return each.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name") == peer


def test_the_network_lets_through_what_is_needed_and_nothing_else():
    denied = of_kind("NetworkPolicy")["default-deny"]["spec"]
    assert denied == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ports = (22, 53, 80, 443, 3200, 4222, 5432, 6222, 6443, 8222, 9464)
    within = {
        (source, target, port)
        for source, target, port in product(PODS, PODS, ports)
        if allowed("Egress", source, PODS[target]["metadata"]["labels"], port)
        and allowed("Ingress", target, PODS[source]["metadata"]["labels"], port)
    }
    on_bus = {*ACTORS, "gateway", "provision"}
    assert within == {(name, "nats", 4222) for name in on_bus} | {("nats", "nats", 6222)}

    out = {(name, port) for name, port in product(PODS, ports) if allowed("Egress", name, "outside", port)}
    assert {name for name, port in out if port == 5432} == {*WITH_DATABASE, "migrate", "router"}
    assert {name for name, port in out if port == 443} == {"token", "router"}
    assert {name for name, port in out if port == 22} == {"router"}, "to its upstreams, wherever they are"
    assert not any(name in ("gateway", "nats", "session") for name, _ in out)

    come = {
        (peer, name, port)
        for peer, name, port in product(("ingress-nginx", "monitoring", "default", "kube-system"), PODS, ports)
        if allowed("Ingress", name, peer, port)
    }
    assert come == {("ingress-nginx", "gateway", 3200), ("monitoring", "gateway", 3200)} | {
        ("monitoring", role, 9464) for role in ACTORS
    }
