"""The Kubernetes manifests: judged by Kubernetes' own schemas, and in agreement with our settings, keys and metrics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]  # its stubs would be one more package for two calls
from jsonschema import Draft202012Validator

from daemon import __version__, config
from daemon.config import OpsSettings, RelaySettings, ShutdownSettings
from daemon.domain.queues import DEFAULT_QUEUES
from daemon.observability.metrics import Metrics
from daemon.redis_client import keys

DIRECTORY: Final = Path(__file__).parents[2] / "docs" / "deploy" / "kubernetes"
OBJECTS: Final[list[dict[str, Any]]] = [
    found
    for file in sorted(DIRECTORY.glob("*.yaml"))
    if file.name != "kustomization.yaml"
    for found in yaml.safe_load_all(file.read_text("utf-8"))
]
KEDA: Final = [found for found in OBJECTS if found["apiVersion"].startswith("keda.sh/")]
PODS: Final = {
    found["metadata"]["name"]: found["spec"]["template"]["spec"]
    for found in OBJECTS
    if found["kind"] in {"Deployment", "Job"}
}


def shape(required: str = "", **properties: Any) -> dict[str, Any]:
    """An object of these properties and no other."""
    return {
        "type": "object", "additionalProperties": False, "properties": properties, "required": required.split(),
    }  # fmt: skip


NUMBER: Final = {"type": "integer", "minimum": 0}
TEXT: Final = {"type": "string", "minLength": 1}
COUNT: Final = {"type": "string", "pattern": r"^\d+$"}  # KEDA takes numbers of triggers as text only
HPA: Final = shape(
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    selectPolicy={"enum": ["Max", "Min", "Disabled"]},
    policies={"type": "array", "items": shape("type value periodSeconds", type={"enum": ["Pods", "Percent"]},
                                              value=NUMBER, periodSeconds=NUMBER)},
)  # fmt: skip
#: what KEDA 2 knows of each kind of trigger that we use
TRIGGERS: Final = {
    "redis-streams": shape("address stream streamLength", address=TEXT, enableTLS={"enum": ["true", "false"]},
                           stream=TEXT, streamLength=COUNT, databaseIndex=COUNT),
    "prometheus": shape("serverAddress query threshold", serverAddress=TEXT, query=TEXT, threshold=COUNT),
}  # fmt: skip
SPECS: Final = {
    "ScaledObject": shape(
        "scaleTargetRef triggers",
        scaleTargetRef=shape("name", name=TEXT, kind=TEXT, apiVersion=TEXT),
        pollingInterval=NUMBER, cooldownPeriod=NUMBER, minReplicaCount=NUMBER, maxReplicaCount=NUMBER,
        fallback=shape("failureThreshold replicas", failureThreshold=NUMBER, replicas=NUMBER),
        advanced=shape(horizontalPodAutoscalerConfig=shape(behavior=shape(scaleUp=HPA, scaleDown=HPA))),
        triggers={
            "type": "array",
            "minItems": 1,
            "items": {
                "oneOf": [
                    shape("type metadata", type={"const": kind}, name=TEXT, metadata=metadata,
                          metricType={"enum": ["AverageValue", "Value"]}, authenticationRef=shape("name", name=TEXT))
                    for kind, metadata in TRIGGERS.items()
                ]
            },
        },
    ),
    "TriggerAuthentication": shape(
        secretTargetRef={"type": "array", "items": shape("parameter name key", parameter=TEXT, name=TEXT, key=TEXT)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("found", [o for o in OBJECTS if o not in KEDA], ids=lambda o: f"{o['kind']} {o['metadata']}")
def test_kubernetes_takes_every_object(found: dict[str, Any]) -> None:
    """By the schemas of its release; a property that it does not know fails."""
    kubernetes_validate.validate(found, "1.37", strict=True)


@pytest.mark.parametrize("found", KEDA, ids=lambda found: found["kind"])
def test_keda_takes_its_objects(found: dict[str, Any]) -> None:
    """By the form of its definitions."""
    whole = shape("apiVersion kind metadata spec", apiVersion={"const": "keda.sh/v1alpha1"}, kind=TEXT,
                  metadata=shape("name", name=TEXT), spec=SPECS[found["kind"]])  # fmt: skip
    assert [error.message for error in Draft202012Validator(whole).iter_errors(found)] == []


def test_the_schema_of_keda_refuses_what_keda_ignores() -> None:
    """The lag, numbers that are no text, and a misspelt key."""
    [scaled] = [found for found in KEDA if found["kind"] == "ScaledObject"]
    validator = Draft202012Validator(SPECS["ScaledObject"])
    trigger = scaled["spec"]["triggers"][0]
    for metadata in (
        {**trigger["metadata"], "lagCount": "5"},
        {**trigger["metadata"], "streamLength": 15},
        {**trigger["metadata"], "consumerGroup": "daemon"},
    ):
        assert not validator.is_valid({**scaled["spec"], "triggers": [{**trigger, "metadata": metadata}]})
    assert not validator.is_valid({**scaled["spec"], "maxReplicas": 3})


def test_pods_scale_by_streams_and_metrics_that_there_are() -> None:
    """Of the very queue that the pods read; the target leaves slots free."""
    [scaled] = [found["spec"] for found in KEDA if found["kind"] == "ScaledObject"]
    [pod] = PODS[scaled["scaleTargetRef"]["name"]]["containers"]
    queue = pod["args"][1]
    names, triggers = keys.queue_keys(queue), {trigger["name"]: trigger for trigger in scaled["triggers"]}
    streams = {t["metadata"]["stream"] for t in triggers.values() if t["type"] == "redis-streams"}
    assert streams == {names.tasks, names.ready}
    slots = {variable["name"]: variable["value"] for variable in pod["env"]}["QUEUE_PARALLELISM_PAID_STREAM"]
    assert int(triggers["accepted"]["metadata"]["streamLength"]) < int(slots)
    query = triggers["oldest-wait"]["metadata"]["query"]
    known = {family.name for family in Metrics(process=False).registry.collect()}
    assert set(re.findall(r"qstreamd_\w+", query)) <= known and f'queue="{queue}"' in query
    secrets = [found["spec"]["secretTargetRef"] for found in KEDA if found["kind"] == "TriggerAuthentication"]
    assert secrets == [[{"parameter": "password", "name": "qstreamd", "key": "REDIS_PASSWORD"}]]


def test_pods_are_given_the_time_that_a_drain_takes() -> None:
    """And a deployment that KEDA scales names no number itself."""
    assert PODS["qstreamd-paid-stream"]["terminationGracePeriodSeconds"] == ShutdownSettings().stop_s
    [daemon] = [o for o in OBJECTS if o["metadata"]["name"] == "qstreamd-paid-stream" and o["kind"] == "Deployment"]
    assert "replicas" not in daemon["spec"]
    assert daemon["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_every_pod_is_closed_and_says_only_what_we_take() -> None:
    """No root, no write, no token; settings, queues and ports that exist."""
    known = {entry.name for _, entry in config.catalogue()}
    ports = {"relay": RelaySettings().port, "daemon": OpsSettings().port}
    for pod in PODS.values():
        assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
        [container] = pod["containers"]
        closed = container["securityContext"]
        assert closed["readOnlyRootFilesystem"] and closed["capabilities"] == {"drop": ["ALL"]}
        assert {variable["name"] for variable in container.get("env", [])} <= known
        if "ports" in container:
            assert container["ports"][0]["containerPort"] == ports[container["name"]]
        if container["args"][0] == "--queues":
            assert set(container["args"][1].split(",")) <= set(DEFAULT_QUEUES)
        else:
            assert container["args"] in (["relay"], ["migrate"])


def test_the_kustomization_names_every_file_and_this_release() -> None:
    whole = yaml.safe_load((DIRECTORY / "kustomization.yaml").read_text("utf-8"))
    assert {"kustomization.yaml", *whole["resources"]} == {file.name for file in DIRECTORY.iterdir()}
    [image] = whole["images"]
    assert image["newTag"] == __version__
    known = {entry.name for _, entry in config.catalogue()}
    assert {line.split("=")[0] for line in whole["configMapGenerator"][0]["literals"]} <= known
