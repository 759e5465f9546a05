"""Prefect tasks: each wraps one step of the core. Arguments and results are references and small records."""
