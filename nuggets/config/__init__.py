"""The configuration of each command as a dataclass, and the checks of its fields.

Only steps, tasks and flows import this room. Components below take plain values, never a configuration.
"""
