"""Flows: order, fan-out and parameters; and the nuggets command line."""

import logging

from flows.loopback import exempt_loopback_from_proxies

# Without this level, handlers such as Prefect's UI receive warnings only.
logging.getLogger("nuggets").setLevel(logging.INFO)
# In every process that runs flows, before it creates a client: clients read the variables when they are created.
exempt_loopback_from_proxies()
