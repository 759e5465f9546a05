"""Prefect tasks: each wraps one step of the core, takes references and small records, and returns the like."""
