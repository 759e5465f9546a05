"""Serve curate and reselect from this machine without a work pool: python deployments/serve.py, then use the UI."""

from prefect import serve

from flows.curate import curate
from flows.reselect import reselect


def main() -> None:
    """Serve until interrupted."""
    serve(
        curate.to_deployment("on-demand", tags=["nuggets"], enforce_parameter_schema=True),
        reselect.to_deployment("on-demand", tags=["nuggets"], enforce_parameter_schema=True),
        limit=1,  # a run uses the whole machine
    )


if __name__ == "__main__":
    main()
