"""Flows: order, fan-out and parameters; and the nuggets command line."""

import logging

# What a run says of itself, for whoever shows logs: Prefect's UI would get warnings only.
logging.getLogger("nuggets").setLevel(logging.INFO)
