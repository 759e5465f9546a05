"""The anchor set, how it is found among embeddings, and its zero-shot baseline.

Nothing here knows a run or a configuration; which anchors a run gets is decided in `steps.choose_anchors`.
"""
