"""prefect.yaml says what can be run: every entrypoint loads, every parameter is one that its flow knows."""

from pathlib import Path

import yaml
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

ROOT = Path(__file__).resolve().parents[1]


def test_every_deployment_loads_and_its_parameters_are_known() -> None:
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert content["deployments"]
    names = set()
    for deployment in content["deployments"]:
        flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
        names.add(f"{flow.name}/{deployment['name']}")
        assert set(deployment.get("parameters", {})) <= set(parameter_schema(flow).properties)
        assert deployment["work_pool"]["name"] and deployment["description"]
    assert names == {"curate/on-demand", "reselect/on-demand"}


def test_forms_describe_and_bound_every_field() -> None:
    from flows.curate import curate
    from flows.reselect import reselect

    for flow in (curate, reselect):
        schema = parameter_schema(flow)
        (form,) = schema.definitions.values()
        assert all(field.get("description") for field in form["properties"].values())
        (number, _) = form["properties"]["threshold"]["anyOf"]
        assert (number["minimum"], number["maximum"]) == (0, 1)
