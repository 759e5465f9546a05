"""Which devices a run uses, and one worker process per device.

Nothing here knows what a job computes.
"""
