"""What /proc tells about processes of this machine."""

from pathlib import Path

from deployments.processes import family


def server_of(pid: int) -> str:
    """The address of the temporary server that a command has started."""
    for member in family(pid):
        arguments = Path(f"/proc/{member}/cmdline").read_bytes().decode().split("\0")
        if "flows.cli.server_program" in arguments:
            return f"http://127.0.0.1:{arguments[arguments.index('flows.cli.server_program') + 1]}/api"
    raise AssertionError("the command has no server")


def environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def running_command(pid: int) -> str:
    """The command line of a process; empty if it has ended."""
    try:
        is_zombie = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        return "" if is_zombie else Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (OSError, ValueError):
        return ""
