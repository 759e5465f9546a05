"""Flows: order, fan-out and parameters; and the nuggets command line."""

import logging

# Without this level, handlers such as Prefect's UI receive warnings only.
logging.getLogger("nuggets").setLevel(logging.INFO)
