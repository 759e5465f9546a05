"""What one task or command does: the only room that knows a prepared run and a configuration together.

A step reads references from the store, calls the rooms below, writes, and returns a reference or a small record. It
knows no Prefect. Steps take configurations; nothing below this room does.
"""
