"""Publish a selection, and show it in the UI."""

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from nuggets.cuts import Threshold, TopFraction, TopK
from nuggets.publishing import Selection, publish_selection, read_report


@task(task_run_name="publish {run}")
def publish(store: str, run: str, cut: Threshold | TopK | TopFraction) -> Selection:
    """Apply the cut and publish what it keeps; its report and the best and worst ten become artifacts."""
    selection = publish_selection(store, run, cut)
    create_markdown_artifact(
        key="selection", description=f"{run}: {selection.cut}", markdown=read_report(store, selection)
    )
    create_table_artifact(
        key="best-and-worst",
        description=f"{run}: the best and the worst ten candidates",
        table=[
            {
                "rank": item.rank,
                "golden score": round(item.golden_score, 4),
                "wins": f"{item.wins}/{item.anchors}",
                "mean gain": None if item.mean_gain != item.mean_gain else round(item.mean_gain, 4),
                "kept": item.kept,
                "row": item.row,
                "instruction": item.instruction[:200],
                "output": item.output[:200],
            }
            for item in selection.shown
        ],
    )
    return selection
