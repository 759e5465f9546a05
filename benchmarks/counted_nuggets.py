"""The nuggets command with an engine that notes every candidate it gives out, for `crash.py`.

python counted_nuggets.py LOG CANDIDATES_PER_COMMIT curate ...
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import nuggets.shard_scoring as shard_scoring  # noqa: E402
from flows.cli import main  # noqa: E402


def noted(log: str) -> None:
    """Have each computed row written to the log before it is handed to whoever stores it."""
    score = shard_scoring._score

    def with_note(scorer: Any, missing: Any, anchors: Any) -> None:
        model = scorer.model

        class Counted:
            def log_prob_sums(self, prefixes: Any, continuations: Any, *, wanted: Any = None) -> Iterator[Any]:
                rows = model.log_prob_sums(prefixes, continuations, wanted=wanted)
                for (_, candidate, columns), row in zip(missing, rows, strict=True):
                    line = json.dumps([candidate, [anchors[column].id for column in columns]]) + "\n"
                    os.write(handle, line.encode())
                    yield row

        score(replace(scorer, model=Counted()), missing, anchors)

    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    shard_scoring._score = with_note


if __name__ == "__main__":
    noted(sys.argv[1])
    shard_scoring.COMMIT_CANDIDATES = int(sys.argv[2])
    sys.argv = ["nuggets", *sys.argv[3:]]
    main()
