"""The manifests of ``deploy/kubernetes``, which no cluster has seen."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import kubernetes_validate
import pytest
import yaml

from prometheus.configuration import SettingsError
from prometheus.monitoring.app import create_app
from prometheus.passwords import hash_password
from prometheus.settings import Settings
from tests.deployments import (
    BASE,
    DEPLOY,
    KEDA,
    SECRETS,
    Document,
    commands,
    containers,
    documents,
    find,
    parse,
    pods,
    settings,
)
from tests.servers import REPOSITORY

MARKETS = ("US_EQ", "EU_EQ", "ASIA_EQ")
WORKERS = tuple(f"prometheus-worker-{market.lower().replace('_', '-')}" for market in MARKETS)
RELEASES = ("1.28", "1.37")
"""Of Kubernetes: an old one and a new one, as the README has them."""
SOME = {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
KEDA_SCHEMAS: dict[str, Document] = {
    # What of keda.sh/v1alpha1 is used, as its CustomResourceDefinitions and its postgresql scaler
    # have it (KEDA 2, read on 2026-11-27).
    "ScaledObject": {
        "type": "object",
        "required": ["scaleTargetRef", "triggers"],
        "additionalProperties": False,
        "properties": {
            "scaleTargetRef": {**TEXTS, "required": ["name"]},
            "minReplicaCount": {"type": "integer"},
            "maxReplicaCount": {"type": "integer"},
            "advanced": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "horizontalPodAutoscalerConfig": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {"behavior": SOME},
                    }
                },
            },
            "triggers": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["type", "metadata"],
                    "additionalProperties": False,
                    "properties": {
                        "type": {"const": "postgresql"},
                        "metricType": {"enum": ["AverageValue", "Value"]},
                        "authenticationRef": {**TEXTS, "required": ["name"]},
                        "metadata": {
                            **TEXTS,
                            "required": ["query", "targetQueryValue"],
                            "propertyNames": {"enum": ["query", "targetQueryValue"]},
                        },
                    },
                },
            },
        },
    },
    "TriggerAuthentication": {
        "type": "object",
        "required": ["secretTargetRef"],
        "additionalProperties": False,
        "properties": {
            "secretTargetRef": {
                "type": "array",
                "items": {
                    **TEXTS,
                    "required": ["parameter", "name", "key"],
                    "propertyNames": {"enum": ["parameter", "name", "key"]},
                    "properties": {"parameter": {"const": "connection"}},
                },
            }
        },
    },
}


def of_pod(name: str, tmp_path: Path) -> Settings:
    """Read the settings of a pod, from the files that its volumes bring."""
    (container,) = pods()[name]["containers"]
    return of_container(container, pods()[name], tmp_path)


def of_container(container: Document, pod: Document, tmp_path: Path) -> Settings:
    """Read the settings of one of a pod's containers."""
    variables = dict(find(BASE, "ConfigMap", "prometheus-settings")["data"])
    assert container["envFrom"] == [{"configMapRef": {"name": "prometheus-settings"}}]
    variables |= {each["name"]: each["value"] for each in container["env"]}
    files = {}
    for path, key in mounted(container, pod).items():
        files[path] = tmp_path / key
        files[path].write_text(f"{SECRETS[key]}\n")
    return settings(variables, files, tmp_path)


def mounted(container: Document, pod: Document) -> dict[str, str]:
    """Give the secrets that a container finds: path -> key."""
    folders = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    return {
        f"{folders[volume['name']]}/{item['path']}": item["key"]
        for volume in pod["volumes"]
        if volume["name"] in folders
        for item in volume.get("secret", {}).get("items", ())
    }


def autoscaler(scaled: Document) -> Document:
    """Return the HorizontalPodAutoscaler that KEDA makes of a ScaledObject."""
    spec = scaled["spec"]
    (trigger,) = spec["triggers"]
    external = {
        "metric": {"name": "s0-postgresql"},
        "target": {
            "type": trigger["metricType"],
            "averageValue": trigger["metadata"]["targetQueryValue"],
        },
    }
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": scaled["metadata"],
        "spec": {
            "scaleTargetRef": {"kind": "Deployment", **spec["scaleTargetRef"]},
            "minReplicas": spec["minReplicaCount"],
            "maxReplicas": spec["maxReplicaCount"],
            "metrics": [{"type": "External", "external": external}],
            **spec["advanced"]["horizontalPodAutoscalerConfig"],
        },
    }


@pytest.mark.parametrize("release", RELEASES)
def test_base_is_what_kubernetes_takes(release: str) -> None:
    for document in documents(BASE):
        kubernetes_validate.validate(document, release, strict=True)


@pytest.mark.parametrize("release", RELEASES)
def test_scaling_is_what_keda_and_kubernetes_take(release: str) -> None:
    for document in documents(KEDA):
        assert document["apiVersion"] == "keda.sh/v1alpha1"
        jsonschema.validate(document["spec"], KEDA_SCHEMAS[document["kind"]])
        if document["kind"] == "ScaledObject":
            kubernetes_validate.validate(autoscaler(document), release, strict=True)


@pytest.mark.parametrize("folder", [BASE, KEDA])
def test_every_file_is_named(folder: Path) -> None:
    named = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    files = {each.name for each in folder.iterdir()} - {"kustomization.yaml"}
    assert {name for name in named if name.endswith(".yaml")} == files
    assert len(named) == len(set(named))


@pytest.mark.parametrize("folders", [[BASE], [KEDA, BASE]])
def test_kustomize_renders_it_unchanged(folders: list[Path]) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH")
    done = subprocess.run(
        ["kubectl", "kustomize", str(folders[0])],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rendered = list(yaml.safe_load_all(done.stdout))
    shipped = list(chain.from_iterable(documents(folder) for folder in folders))
    assert sorted(map(json.dumps, _sorted(rendered))) == sorted(map(json.dumps, _sorted(shipped)))


def _sorted(found: list[Document]) -> list[Any]:
    return [json.loads(json.dumps(each, sort_keys=True)) for each in found]


def test_every_command_is_one_of_ours(tmp_path: Path) -> None:
    found = {tuple(each) for each in commands([*pods().values()])}
    assert {each[0] for each in found} == {
        *("db", "user", "beat", "worker", "web", "flower", "health")
    }
    for key, value in SECRETS.items():
        (tmp_path / key).write_text(value)
    for words in found:
        parse([word.replace("/run/secrets/prometheus", str(tmp_path)) for word in words])


@pytest.mark.parametrize("name", pods())
def test_settings_and_their_files_are_there(name: str, tmp_path: Path) -> None:
    found = of_pod(name, tmp_path)
    assert found.markets.enabled == MARKETS
    assert found.database.url.get_secret_value() == SECRETS["database-url"]
    if name != "prometheus-migrate":
        assert found.broker.url.get_secret_value() == SECRETS["broker-url"]
    if name == "prometheus-flower":
        assert found.flower.basic_auth.get_secret_value() == SECRETS["flower-basic-auth"]


def test_first_user_is_made_before_pages_are_shown(tmp_path: Path) -> None:
    pod = pods()["prometheus-web"]
    (first,) = pod["initContainers"]
    found = of_container(first, pod, tmp_path)
    assert found.database.url.get_secret_value() == SECRETS["database-url"]
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    of_compose = compose["services"]["first-user"]["command"]
    words = [word for argument in first["args"] for word in argument.split("=", 1)]
    folder = "/run/secrets/prometheus"
    assert words == [word.replace("/secrets", folder) for word in of_compose]
    assert f"{folder}/web-password" in mounted(first, pod)
    hash_password(SECRETS["web-password"])  # refuses what is too short
    (web,) = pod["containers"]
    assert f"{folder}/web-password" not in mounted(web, pod)
    assert not of_pod("prometheus-web", tmp_path).web.only_here


def test_probes_of_pages_are_answered(tmp_path: Path) -> None:
    """They are sent to the address of the pod, which is no name of ours."""
    app = create_app(of_pod("prometheus-web", tmp_path))
    (container,) = pods()["prometheus-web"]["containers"]
    asked = [container[f"{each}Probe"]["httpGet"] for each in ("startup", "readiness", "liveness")]

    async def statuses() -> list[int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.7") as kubelet:
            found = []
            for probe in asked:
                named = {each["name"]: each["value"] for each in probe["httpHeaders"]}
                found.append((await kubelet.get(probe["path"], headers=named)).status_code)
            return [*found, (await kubelet.get(asked[0]["path"])).status_code]

    assert asyncio.run(statuses()) == [200, 200, 200, 421]


def test_each_service_leads_to_one_port_of_one_deployment() -> None:
    services = [each for each in documents(BASE) if each["kind"] == "Service"]
    assert {each["metadata"]["name"] for each in services} == {
        "prometheus-web",
        "prometheus-flower",
    }
    for service in services:
        (template,) = (
            each["spec"]["template"]
            for each in documents(BASE)
            if each["kind"] == "Deployment"
            and service["spec"]["selector"].items()
            <= each["spec"]["template"]["metadata"]["labels"].items()
        )
        (port,), (container,) = service["spec"]["ports"], template["spec"]["containers"]
        assert container["name"] == service["metadata"]["name"].removeprefix("prometheus-")
        assert [port["targetPort"]] == [each["name"] for each in container["ports"]]
        assert [port["port"]] == [each["containerPort"] for each in container["ports"]]


@pytest.mark.parametrize("name", ["web", "flower"])
def test_variables_of_services_are_kept_away(name: str, tmp_path: Path) -> None:
    """Kubernetes would make settings of them that the product takes for misspelt ones."""
    service = find(BASE, "Service", f"prometheus-{name}")["metadata"]["name"]
    variable = f"{service.upper().replace('-', '_')}_PORT"
    with pytest.raises(SettingsError, match=f"Did you mean 'PROMETHEUS__{name.upper()}__PORT'"):
        settings({variable: "tcp://10.0.0.1:5555"}, {}, tmp_path)
    assert {each["enableServiceLinks"] for each in pods().values()} == {False}


@pytest.mark.parametrize("name", pods())
def test_pods_may_do_little(name: str) -> None:
    pod = pods()[name]
    assert pod["automountServiceAccountToken"] is False
    whom = pod["securityContext"]
    assert whom["runAsNonRoot"] is True
    assert whom["runAsUser"] > 0
    assert whom["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert set(container["resources"]["limits"]) == {"memory"}


def test_first_process_of_pods_is_that_of_the_image() -> None:
    """A command would take the place of its entrypoint."""
    for container in chain.from_iterable(map(containers, pods().values())):
        assert "command" not in container
        assert container["args"][0] == "prometheus"


def test_image_is_this_release() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    images = {each["image"] for pod in pods().values() for each in containers(pod)}
    assert images == {f"prometheus-markets:{version}"}


@pytest.mark.parametrize("kind", ["Deployment", "PodDisruptionBudget"])
def test_what_runs_has_a_budget_that_lets_machines_be_emptied(kind: str) -> None:
    found = {each["metadata"]["name"]: each for each in documents(BASE) if each["kind"] == kind}
    assert set(found) >= {"prometheus-beat", *WORKERS}
    for name, document in found.items():
        labels = document["spec"]["selector"]["matchLabels"]
        assert labels == find(BASE, "Deployment", name)["spec"]["template"]["metadata"]["labels"]
        if kind == "PodDisruptionBudget":
            assert document["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("folder", [BASE, KEDA])
def test_markets_differ_in_nothing_but_their_name(folder: Path) -> None:
    texts = {}
    for market in MARKETS:
        short = market.lower().replace("_", "-")
        text = (folder / f"worker-{short}.yaml").read_text()
        assert market in text
        texts[market] = re.sub(f"{market}|{short}", "MARKET", text)
    assert len(set(texts.values())) == 1


@pytest.mark.parametrize("name", WORKERS)
def test_worker_has_the_time_and_memory_that_its_settings_need(name: str, tmp_path: Path) -> None:
    found, pod = of_pod(name, tmp_path).workers, pods()[name]
    (container,) = pod["containers"]
    assert found.soft_stop is not None
    assert pod["terminationGracePeriodSeconds"] >= found.soft_stop.total_seconds() + 60
    assert found.concurrency is not None
    assert found.memory_limit is not None
    limit = re.fullmatch(r"(\d+)Gi", container["resources"]["limits"]["memory"])
    assert limit is not None
    assert found.concurrency * found.memory_limit + (256 << 20) <= int(limit[1]) << 30


@pytest.mark.parametrize("market", MARKETS)
def test_scaling_reckons_with_the_jobs_of_one_worker(market: str, tmp_path: Path) -> None:
    name = f"prometheus-worker-{market.lower().replace('_', '-')}"
    scaled = find(KEDA, "ScaledObject", name)["spec"]
    assert scaled["scaleTargetRef"] == {"name": name}
    assert "replicas" not in find(BASE, "Deployment", name)["spec"]
    (trigger,) = scaled["triggers"]
    concurrency = of_pod(name, tmp_path).workers.concurrency
    assert trigger["metadata"]["targetQueryValue"] == str(concurrency)
    find(KEDA, "TriggerAuthentication", trigger["authenticationRef"]["name"])


def test_readme_says_what_was_tried() -> None:
    text = " ".join((DEPLOY / "README.md").read_text().split())
    assert "**This was not tried on a cluster.**" in text
    assert f"strictly, {' and '.join(RELEASES)})" in text
