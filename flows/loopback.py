"""Servers on loopback are reached directly, whatever proxy the environment names for other hosts.

Companies set http_proxy for every program of a machine. A proxy elsewhere cannot reach a server on this machine, and
most machines do not exempt loopback in no_proxy, or only `localhost`.
"""

import os
from urllib.request import getproxies_environment

LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")


def exempt_loopback_from_proxies() -> None:
    """Add loopback to no_proxy of this process and its children, if a proxy is set. Other hosts keep their proxy.

    Without a proxy variable no_proxy stays unset: on macOS and Windows it would replace the proxies of the system.
    """
    proxies = getproxies_environment()
    exempt = [host.strip() for host in proxies.pop("no", "").split(",") if host.strip()]
    if not proxies or "*" in exempt:
        return
    exempt += [host for host in LOOPBACK if host not in exempt]
    for name in ("no_proxy", "NO_PROXY"):  # programs differ in which of the two they read
        os.environ[name] = ",".join(exempt)
