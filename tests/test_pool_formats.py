"""The base job templates of the Docker and Kubernetes pools: rendered as Prefect's workers do it, without a server."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from prefect.utilities.templating import PlaceholderType, find_placeholders
from prefect.workers.base import BaseJobConfiguration
from pydantic import ConfigDict

POOLS = Path(__file__).resolve().parents[1] / "deployments" / "pools"
DOCKER = json.loads((POOLS / "docker.json").read_text())
KUBERNETES = json.loads((POOLS / "kubernetes.json").read_text())
BOTH = pytest.mark.parametrize("template", [DOCKER, KUBERNETES], ids=["docker", "kubernetes"])

# Every variable, each with another value than its default.
DOCKER_VALUES = {
    "image": "registry.example.com/nuggets:2",
    "gpus": [{"device_ids": ["2", "3"], "capabilities": [["gpu"]]}],
    "cpus": "0-3",
    "memory": "48g",
    "shm_size": "5g",
    "env": {"AWS_ENDPOINT_URL": "http://s3.example.com"},
    "volumes": ["/srv/nuggets:/data"],
    "networks": ["prefect"],
    "auto_remove": True,
}
KUBERNETES_VALUES = {
    "image": "registry.example.com/nuggets:2",
    "gpus": 4,
    "cpus": "24",
    "memory": "200Gi",
    "shm_size": "5Gi",
    "env": {"AWS_ENDPOINT_URL": "http://s3.example.com"},
    "aws_secret": "other-keys",
    "namespace": "curation",
    "service_account_name": "curator",
    "data_volume": {"name": "data", "persistentVolumeClaim": {"claimName": "models"}},
    "node_selector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
    "tolerations": [{"key": "gpu-only", "operator": "Exists"}],
    "finished_job_ttl": 7,
}


class AnyJobConfiguration(BaseJobConfiguration):
    """Prefect's own configuration, which keeps what the workers' subclasses would name as fields."""

    model_config = ConfigDict(extra="allow")


class NoServer:
    """A client that nothing is asked of: the templates name no blocks and no variables of a server."""


def rendered(template: dict[str, Any], **values: Any) -> dict[str, Any]:
    jsonschema.validate(values, template["variables"])
    configuration = AnyJobConfiguration.from_template_and_values(template, values, client=NoServer())
    return asyncio.run(configuration).model_dump()


def default_environment(template: dict[str, Any]) -> dict[str, str]:
    return dict(template["variables"]["properties"]["env"]["default"])


def job(**values: Any) -> dict[str, Any]:
    return dict(rendered(KUBERNETES, **values)["job_manifest"])


def pod(**values: Any) -> dict[str, Any]:
    return dict(job(**values)["spec"]["template"]["spec"])


def container(**values: Any) -> dict[str, Any]:
    (only,) = pod(**values)["containers"]
    return dict(only)


def texts(value: Any) -> list[str]:
    """Every key and every string in it."""
    if isinstance(value, dict):
        return [*value, *[text for item in value.values() for text in texts(item)]]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


@BOTH
def test_every_placeholder_is_a_variable_and_every_variable_is_used(template: dict[str, Any]) -> None:
    assert set(template) == {"variables", "job_configuration"}
    placeholders = find_placeholders(template["job_configuration"])
    assert {placeholder.type for placeholder in placeholders} == {PlaceholderType.STANDARD}
    assert {placeholder.name for placeholder in placeholders} == set(template["variables"]["properties"])


@BOTH
def test_every_variable_is_described_and_has_a_default_that_it_allows(template: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(template["variables"])
    assert "required" not in template["variables"]
    for variable in template["variables"]["properties"].values():
        assert variable["title"] and len(variable["description"]) > 20 and variable["description"].endswith((".", "}}"))
        assert ("type" in variable) != ("anyOf" in variable)
        jsonschema.validate(variable["default"], variable)


@BOTH
def test_no_braces_are_left_with_defaults(template: dict[str, Any]) -> None:
    assert not any("{{" in text for text in texts(rendered(template)))


@pytest.mark.parametrize(
    ("template", "values"), [(DOCKER, DOCKER_VALUES), (KUBERNETES, KUBERNETES_VALUES)], ids=["docker", "kubernetes"]
)
def test_every_variable_changes_the_job(template: dict[str, Any], values: dict[str, Any]) -> None:
    assert set(values) == set(template["variables"]["properties"])
    before = rendered(template)
    for name, value in values.items():
        assert value != template["variables"]["properties"][name]["default"]
        assert rendered(template, **{name: value}) != before, name
    assert not any("{{" in text for text in texts(rendered(template, **values)))


@pytest.mark.parametrize(
    ("template", "value"),
    [
        (KUBERNETES, {"gpus": -1}),
        (KUBERNETES, {"gpus": "all"}),
        (KUBERNETES, {"data_volume": {"name": "models", "emptyDir": {}}}),
        (KUBERNETES, {"env": {"PREFECT_LOGGING_LEVEL": 10}}),
        (DOCKER, {"gpus": 1}),
        (DOCKER, {"memory": 32}),
    ],
)
def test_values_that_could_not_work_are_refused(template: dict[str, Any], value: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, template["variables"])


def test_kubernetes_gets_gpus_as_a_limit() -> None:
    assert container()["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container(gpus=4)["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert container(gpus=0)["resources"]["limits"]["nvidia.com/gpu"] == 0
    assert "nvidia.com/gpu" not in container()["resources"]["requests"]  # Kubernetes takes it from the limit
    assert pod()["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod(**KUBERNETES_VALUES)["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}


def test_kubernetes_limits_memory_and_requests_cpus() -> None:
    resources = container(cpus="24", memory="200Gi")["resources"]
    assert resources["requests"] == {"cpu": "24", "memory": "200Gi"}
    assert resources["limits"] == {"memory": "200Gi", "nvidia.com/gpu": 1}


def test_kubernetes_leaves_retries_to_prefect_and_time_to_store() -> None:
    specification = job(finished_job_ttl=7)["spec"]
    assert specification["backoffLimit"] == 0
    assert specification["ttlSecondsAfterFinished"] == 7
    assert pod()["restartPolicy"] == "Never"
    assert pod()["terminationGracePeriodSeconds"] == 60


def test_kubernetes_mounts_what_it_declares() -> None:
    for values in ({}, KUBERNETES_VALUES):
        mounted = {mount["name"]: mount["mountPath"] for mount in container(**values)["volumeMounts"]}
        assert mounted == {"shm": "/dev/shm", "data": "/data"}
        assert [volume["name"] for volume in pod(**values)["volumes"]] == ["shm", "data"]
    (shm, data) = pod(**KUBERNETES_VALUES)["volumes"]
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "5Gi"}
    assert data["persistentVolumeClaim"] == {"claimName": "models"}


def test_kubernetes_names_the_secret_and_the_account() -> None:
    assert container()["envFrom"] == [{"secretRef": {"name": "nuggets-aws", "optional": True}}]
    assert container(aws_secret="other-keys")["envFrom"][0]["secretRef"]["name"] == "other-keys"
    assert pod(service_account_name="curator")["serviceAccountName"] == "curator"
    assert job(namespace="curation")["metadata"]["namespace"] == "curation"
    assert rendered(KUBERNETES, namespace="curation")["namespace"] == "curation"


def test_kubernetes_has_what_its_worker_asks_for() -> None:
    """Prefect's worker refuses a manifest without these, though the last two belong one level higher up."""
    assert (job()["apiVersion"], job()["kind"]) == ("batch/v1", "Job")
    assert (container()["name"], pod()["parallelism"], pod()["completions"]) == ("prefect-job", 1, 1)


def test_kubernetes_runs_no_container_as_root() -> None:
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["automountServiceAccountToken"] is False
    assert container()["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_docker_gets_gpus_as_device_requests() -> None:
    assert rendered(DOCKER)["container_create_kwargs"]["device_requests"] == [{"count": 1, "capabilities": [["gpu"]]}]
    assert rendered(DOCKER, gpus=[])["container_create_kwargs"]["device_requests"] == []


def test_docker_gets_the_rest_where_its_worker_and_its_client_look_for_it() -> None:
    found = rendered(DOCKER, **DOCKER_VALUES)
    assert (found["image"], found["mem_limit"], found["auto_remove"]) == (DOCKER_VALUES["image"], "48g", True)
    assert (found["volumes"], found["networks"]) == (["/srv/nuggets:/data"], ["prefect"])
    passed_on = found["container_create_kwargs"]
    assert (passed_on["cpuset_cpus"], passed_on["shm_size"]) == ("0-3", "5g")


def test_docker_leaves_out_limits_that_are_not_set() -> None:
    assert "mem_limit" not in rendered(DOCKER)
    assert "cpuset_cpus" not in rendered(DOCKER)["container_create_kwargs"]


@BOTH
def test_a_deployments_environment_is_added_to_the_pools(template: dict[str, Any]) -> None:
    environment = rendered(template, env={"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"})["env"]
    assert environment == {**default_environment(template), "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    # The worker passes its own settings on, and its home is no folder of the container.
    assert environment["PREFECT_HOME"] == "/home/nuggets/.prefect"


def test_a_container_that_is_stopped_hands_its_run_back() -> None:
    assert default_environment(DOCKER)["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    # On Kubernetes the worker reports the same, because of backoffLimit 0, unless the pool sets another value.
    assert "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR" not in default_environment(KUBERNETES)


@BOTH
def test_there_are_no_secrets(template: dict[str, Any]) -> None:
    assert set(default_environment(template)) <= {"PREFECT_HOME", "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"}
    assert not [text for text in texts(template) if re.search(r"(?i)password|token=|://[^/]*@|AKIA[0-9A-Z]", text)]
