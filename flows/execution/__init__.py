"""Where a flow's tasks run, in which rounds, and how they are stopped and shown."""
