"""The anchor set, how it is found among embeddings, and its zero-shot baseline.

Nothing here knows a run or a configuration; `steps.choose_anchors` decides which anchors a run gets.
"""
