"""A new cut on a finished run: no model, no scoring."""

from prefect import flow

from nuggets.config import ReselectConfig
from nuggets.publishing import Selection
from tasks.publish import publish


@flow(name="reselect", flow_run_name="reselect {config.run}")
def reselect(config: ReselectConfig) -> Selection:
    """Apply another cut to a run's golden scores and publish it beside the earlier selections.

    Args:
        config: The run, its store, and the new cut.
    """
    return publish(config.store, config.run, config.cut)
