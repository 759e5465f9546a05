"""Serve curate and reselect from this machine without a work pool: python deployments/serve.py, then use the UI.

They are named `here`: with the names of prefect.yaml they would replace the deployments on that server.
"""

import os

# As in prefect.yaml; the runs' processes inherit it. Heartbeats detect lost runs; the extra logger fills the UI's log.
os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "nuggets")

from prefect import serve  # noqa: E402

from flows.curate import curate  # noqa: E402
from flows.reselect import reselect  # noqa: E402


def main() -> None:
    """Serve until interrupted."""
    serve(
        curate.to_deployment("here", tags=["nuggets"], enforce_parameter_schema=True),
        reselect.to_deployment("here", tags=["nuggets"], enforce_parameter_schema=True),
        limit=1,  # a run uses the whole machine
    )


if __name__ == "__main__":
    main()
