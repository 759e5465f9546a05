"""prefect.yaml and the automations say what can be run: checked strictly, and without a server."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.automations import Automation
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

ROOT = Path(__file__).resolve().parents[1]
CONTENT = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS = CONTENT["deployments"]
KNOWN = {
    "name", "entrypoint", "description", "tags", "enforce_parameter_schema", "parameters", "schedules",
    "concurrency_limit", "work_pool",
}  # fmt: skip


def flow_of(deployment: dict[str, Any]) -> Any:
    return load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)


def test_these_are_the_deployments() -> None:
    names = [f"{flow_of(deployment).name}/{deployment['name']}" for deployment in DEPLOYMENTS]
    assert names == ["curate/nightly", "curate/on-demand", "score-shards/on-demand", "reselect/on-demand"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda item: f"{item['entrypoint']}/{item['name']}")
def test_a_deployment_has_no_field_that_prefect_would_ignore_or_refuse(deployment: dict[str, Any]) -> None:
    assert set(deployment) <= KNOWN
    assert deployment["description"] and "nuggets" in deployment["tags"]
    assert deployment["enforce_parameter_schema"] is True
    assert deployment["work_pool"] == CONTENT["definitions"]["work_pool"]
    limit = deployment["concurrency_limit"]
    assert limit["limit"] >= 1 and limit["collision_strategy"] in [item.value for item in ConcurrencyLimitStrategy]
    schema = parameter_schema(flow_of(deployment)).model_dump()
    given = deployment.get("parameters", {})
    assert set(given) <= set(schema["properties"])
    if given:
        assert validate(given, schema, raise_on_error=True) == []
    for schedule in deployment.get("schedules", []):
        assert set(schedule) == {"slug", "cron", "timezone", "active"}
        assert schedule["active"] is False  # schedules are turned on by hand
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])


def test_a_lost_run_is_noticed_after_more_than_two_heartbeats() -> None:
    (automation,) = yaml.safe_load((ROOT / "deployments" / "automations.yaml").read_text())["automations"]
    Automation(**automation)
    environment = CONTENT["definitions"]["work_pool"]["job_variables"]["env"]
    heartbeat = int(environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert heartbeat >= 30  # Prefect takes less as 30
    assert automation["trigger"]["within"] > 2 * heartbeat
    tag = automation["trigger"]["match_related"]["prefect.resource.id"].removeprefix("prefect.tag.")
    assert all(tag in deployment["tags"] for deployment in DEPLOYMENTS)  # other flows' runs may send none
    ends = {"Completed", "Failed", "Cancelled", "Crashed", "AwaitingRetry"}
    assert {name.rpartition(".")[2] for name in automation["trigger"]["expect"]} == {*ends, "heartbeat"}


def test_forms_describe_and_bound_every_field() -> None:
    for deployment in DEPLOYMENTS:
        schema = parameter_schema(flow_of(deployment))
        (form,) = schema.definitions.values()
        assert all(field.get("description") for field in form["properties"].values())
        (number, _) = form["properties"]["threshold"]["anyOf"]
        assert (number["minimum"], number["exclusiveMaximum"]) == (0, 1)


@pytest.mark.parametrize(
    ("deployment", "config", "is_fine"),
    [
        (0, {"pool": "p.jsonl"}, True),
        (0, {"pool": "p.jsonl", "threshold": 0.5}, True),
        (0, {"pool": "p.jsonl", "threshold": 0.5, "top_k": None}, True),
        (0, {"pool": "p.jsonl", "threshold": 0.5, "top_k": 3}, False),
        (0, {"pool": "p.jsonl", "anchors": 5, "anchor_file": "a.json"}, False),
        (0, {"pool": "p.jsonl", "threshold": 1.5}, False),
        (0, {}, False),
        (2, {"run": "r", "part": 3, "parts": 4}, True),
        (2, {"run": "r", "top_k": 5}, True),
        (2, {"run": "r", "top_k": 5, "threshold": 0.5}, False),
        (2, {"run": "r", "parts": 0}, False),
        (3, {"run": "r", "top_fraction": 0.5}, True),
        (3, {"run": "r", "top_fraction": 0.5, "threshold": None, "top_k": None}, True),
        (3, {"run": "r", "top_fraction": 0.5, "threshold": 0.5}, False),
        (3, {"run": "r"}, False),
        (3, {"run": "r", "threshold": None}, False),
    ],
)
def test_a_form_refuses_two_cuts_and_none(deployment: int, config: dict[str, Any], is_fine: bool) -> None:
    schema = parameter_schema(flow_of(DEPLOYMENTS[deployment])).model_dump()
    found = validate({"config": config}, schema)
    assert (found == []) is is_fine
    if not is_fine and "threshold" in config and config["threshold"] != 1.5:
        assert "one of threshold, top_k, top_fraction" in str(found)
