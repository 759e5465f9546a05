"""The program of a temporary Prefect server: python -m flows.cli.server_program PORT

It does what `prefect server start` does, in two thirds of the processor time: without a user interface, without the
services that work for other runs in the same database (scheduler, late runs, lost workers), and without registering
block types, which would import every installed integration, Ray and Dask among them.
"""

import gc
import os
import sys


def main() -> None:
    """Serve Prefect's API on a port of loopback until SIGTERM."""
    os.environ["PREFECT_SERVER_REGISTER_BLOCKS_ON_START"] = "false"
    os.environ["PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION"] = "false"  # what is remembered costs those imports too
    gc.disable()  # importing leaves no garbage, and looking for it takes a fifth of the time
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=True, final=True)
    gc.enable()
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", lifespan="on")


if __name__ == "__main__":
    main()
