"""How often each anchor is won: counted from stored cells when a run is eligible, published with every cut of it."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as shaped
from numpy.typing import NDArray

from nuggets.anchors.anchor_set import Anchor, AnchorSet, write_anchor_set
from nuggets.anchors.baseline import Baseline, write_baseline
from nuggets.cells.blocks import CellBlock, write_block
from nuggets.cells.folders import cells_folder
from nuggets.cells.prompt_notes import pool_notes_path, write_notes
from nuggets.errors import StoreError
from nuggets.examples import Example, example_id
from nuggets.models.files import ModelFiles
from nuggets.models.prompts import TokenLimits
from nuggets.models.scoring_setup import ScoringSetup
from nuggets.pools.ingest import ingest_pool
from nuggets.pools.readers.detect import find_source, source_digest
from nuggets.pools.shards import Pool
from nuggets.runs.manifest import RunState, golden_path, open_run, record_state
from nuggets.runs.prepared import PreparedRun
from nuggets.scores.anchor_wins import anchor_wins_path, count_wins, read_anchor_wins
from nuggets.scores.cuts import Threshold, TopK
from nuggets.scores.score_table import read_score_table
from nuggets.scores.wins import cell_gains
from nuggets.steps.publish import Selection, publish_selection, read_report, selection_page
from nuggets.steps.score_candidates import score_candidates
from nuggets.store.store import Store

NAN = float("nan")
POOL = [{"instruction": f"Count to {number}.", "input": "", "output": "Done."} for number in range(6)]
EXAMPLES = [Example(*row.values()) for row in POOL]
IDS = [example_id(example) for example in EXAMPLES]


def anchor(text: str) -> Anchor:
    example = Example(f"Say {text}.", "", text)
    return Anchor(example_id(example), None, example)


ANCHORS = [
    anchor("never"),
    anchor("mostly"),
    anchor("always"),
    Anchor(IDS[2], 2, EXAMPLES[2], passed_over=4),
    anchor("mostly"),
]
ZERO_SHOT = np.array([-8.0, -4.0, -6.0, -3.0, -4.0], dtype=np.float32)
TOKENS = np.array([2, 4, 4, 0, 4], dtype=np.int32)
WON, LOST = 1.0, -1.0
GAINS = np.array(  # a tie is a loss
    [
        [LOST, WON, WON, WON],
        [LOST, WON, WON, LOST],
        [0.0, WON, WON, WON],  # the candidate that is the last anchor: not judged on it
        [LOST, LOST, WON, LOST],
        [LOST, WON, WON, LOST],
        [LOST, LOST, WON, WON],
    ]
)


class Scored:
    """A run whose cells are stored, some as a race would leave them."""

    def __init__(self, folder: Path) -> None:
        (folder / "pool.json").write_text(json.dumps([*POOL, {"instruction": "Say nothing."}]))
        self.store = Store(str(folder / "store"))
        source = find_source(str(folder / "pool.json"))
        self.pool: Pool = ingest_pool(
            self.store, source, source_digest(source), shard_size=2, max_row_bytes=10_000, max_rejected_share=0.5
        )
        setup = ScoringSetup(ModelFiles("none", "", None), "m", "plain", TokenLimits(9, 9), "float32", 1, False)
        self.prepared = PreparedRun(name="r", store=self.store, setup=setup, pool_digest=self.pool.id)
        ids = [item.id for item in ANCHORS]
        write_anchor_set(self.store, "anchors/a.json", AnchorSet(tuple(ANCHORS)))
        write_notes(self.store, pool_notes_path(setup.key, self.pool.id), [])
        write_baseline(self.store, setup.key, ids, Baseline(ZERO_SHOT, TOKENS))
        inputs = {"pool": {"source": "pool.json"}, "model": {"name": "none"}}
        open_run(self.store, "r", config={}, identity={"profile": "plain", "dtype": "float32"}, inputs=inputs)
        record_state(self.store, "r", RunState.COMPLETE, references={"pool": self.pool.id})

    def score(self, gains: NDArray[np.float64]) -> None:
        ids = tuple(item.id for item in ANCHORS[:4])
        block = CellBlock(tuple(IDS), ids, (ZERO_SHOT[:4] + gains).astype(np.float32))
        write_block(self.store, cells_folder(self.prepared.setup.key, IDS), block)

    def judge(self) -> None:
        score_candidates(self.prepared, self.pool, "anchors/a.json")

    def publish(self, cut: Threshold | TopK) -> Selection:
        return publish_selection(self.store, "r", cut)


def test_scoring_counts_the_cells_that_are_stored_with_several_values(tmp_path):
    scored = Scored(tmp_path)
    scored.score(GAINS)
    assert score_candidates(scored.prepared, scored.pool, "anchors/a.json") == 0
    other = GAINS.copy()
    other[:2, 0] += 1.0
    scored.score(other)
    assert score_candidates(scored.prepared, scored.pool, "anchors/a.json") == 2 * sum(
        anchor == ANCHORS[0] for anchor in ANCHORS
    )


@pytest.fixture
def scored(tmp_path: Path) -> Scored:
    return Scored(tmp_path)


def test_a_report_orders_anchors_by_wins_and_marks_those_without_information(scored):
    scored.score(GAINS)
    scored.judge()
    selection = scored.publish(TopK(2))
    report = read_report(scored.store, selection)
    section = report[report.index("## Anchors") : report.index("## Files")]
    assert "1 of 5 are never won, 1 always." in section
    assert "random sample" not in section
    assert section.splitlines()[4:] == [
        "| anchor | win rate | wins/cells | zero-shot loss | remark | pool row | instruction | output |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| 2 | 1.000 | 6/6 | 1.500 | always won |  | Say always. | always |",
        "| 1 | 0.667 | 4/6 | 1.000 | in the anchor set 2 times |  | Say mostly. | mostly |",
        "| 4 | 0.667 | 4/6 | 1.000 | in the anchor set 2 times |  | Say mostly. | mostly |",
        "| 3 | 0.400 | 2/5 | none | no response within the token limit, 4 nearer passed over "
        "| 2 | Count to 2. | Done. |",
        "| 0 | 0.000 | 0/6 | 4.000 | never won |  | Say never. | never |",
        "",
    ]
    table = pq.read_table(Path(selection.folder, "anchors.parquet"))
    assert table["anchor_row"].to_pylist() == [2, 1, 4, 3, 0]
    assert table["passed_over"].to_pylist() == [0, 0, 0, 4, 0]
    assert table["zero_shot_loss"].to_pylist() == [1.5, 1.0, 1.0, None, 4.0]
    assert table["win_rate"].to_pylist() == pytest.approx([1, 2 / 3, 2 / 3, 0.4, 0])
    assert table["anchor_id"].to_pylist() == [ANCHORS[row].id for row in (2, 1, 4, 3, 0)]
    assert "| anchors.parquet | every anchor" in report
    assert f"| anchors.parquet | `{selection.folder}/anchors.parquet` |" in selection_page(scored.store, selection)


def test_anchors_are_won_as_often_as_candidates_win(scored):
    scored.score(GAINS)
    scored.judge()
    anchors = read_anchor_wins(scored.store, "r")
    tables = list(read_score_table(scored.store, "r"))
    assert sum(item.wins for item in anchors) == sum(int(table.wins.sum()) for table in tables)
    assert sum(item.cells for item in anchors) == sum(int(table.cells.sum()) for table in tables)


def test_in_a_race_only_computed_cells_count_which_the_report_explains(scored):
    raced = GAINS.copy()
    raced[3:, 1:] = NAN
    raced[3:, 2] = LOST
    scored.score(raced)
    scored.judge()
    report = read_report(scored.store, scored.publish(Threshold(0.6)))
    assert "They are not a random sample" in report
    assert "| 2 | 0.500 | 3/6 | 1.500 |" in report
    assert "| 1 | 1.000 | 3/3 | 1.000 | always won, in the anchor set 2 times |" in report


def test_an_anchor_without_a_cell_is_last(scored):
    gains = np.full((6, 4), LOST)
    gains[:, 1] = NAN
    scored.score(gains)
    scored.judge()
    report = read_report(scored.store, scored.publish(Threshold(0.9)))
    assert [item.row for item in read_anchor_wins(scored.store, "r")] == [0, 2, 3, 1, 4]
    assert "| 1 | none | 0/0 | 1.000 | no cell, in the anchor set 2 times |" in report


def test_more_cells_bring_the_anchors_up_to_date_with_the_rest(scored):
    scored.score(np.where(np.arange(4) == 0, LOST, np.where(np.arange(6)[:, None] < 3, GAINS, NAN)))
    scored.judge()
    before = read_anchor_wins(scored.store, "r")
    scored.score(GAINS)
    scored.judge()
    after = read_anchor_wins(scored.store, "r")
    assert sum(item.cells for item in after) > sum(item.cells for item in before)
    selection = scored.publish(TopK(1))
    assert pq.read_table(Path(selection.folder, "anchors.parquet"))["cells"].to_pylist() == [x.cells for x in after]


def test_wins_are_stored_before_the_scores_that_they_go_with(scored):
    """Killed between the two, a run has to look unscored: otherwise the wins would not be counted again."""
    scored.score(GAINS)
    in_the_way = Path(scored.store.url, golden_path("r"))
    in_the_way.mkdir()
    (in_the_way / "file").touch()
    with pytest.raises((OSError, StoreError)):
        scored.judge()
    assert [item.wins for item in read_anchor_wins(scored.store, "r")] == [6, 4, 4, 2, 0]


def test_a_run_without_counted_wins_has_no_section_of_them(scored):
    scored.score(GAINS)
    scored.judge()
    scored.store.remove(anchor_wins_path("r"))
    selection = scored.publish(TopK(2))
    report = read_report(scored.store, selection)
    assert "## Anchors" not in report and "anchors.parquet" not in report
    assert not Path(selection.folder, "anchors.parquet").exists()
    assert "anchors.parquet" not in selection_page(scored.store, selection)
    assert scored.publish(TopK(2)).already_there
    scored.judge()
    again = scored.publish(TopK(2))
    assert not again.already_there
    assert Path(again.folder, "anchors.parquet").exists()
    assert scored.publish(TopK(2)).already_there


def test_a_report_names_the_addresses_of_its_files_and_of_the_rejected_rows(scored):
    scored.score(GAINS)
    scored.judge()
    selection = scored.publish(TopK(1))
    report = read_report(scored.store, selection)
    (folder,) = re.findall("^In `(.*)`$", report, re.MULTILINE)
    files = re.findall(r"^\| (\w+\.\w+) \| ", report[report.index("## Files") :], re.MULTILINE)
    assert {path.name for path in Path(folder).iterdir()} == set(files)
    (rejects,) = re.findall("^Every rejected row with its reason: `(.*)`$", report, re.MULTILINE)
    (reject,) = map(json.loads, Path(rejects).read_text().splitlines())
    assert reject["row"] == 6
    assert f"| rejected rows ({reject['reason']}) | 1 |" in report


def test_a_report_has_no_empty_row_of_seconds(scored):
    scored.score(GAINS)
    scored.judge()
    assert "| seconds |" not in read_report(scored.store, scored.publish(TopK(1)))
    record_state(scored.store, "r", RunState.COMPLETE, seconds={"ingest": 0.5, "score": 12.25})
    assert "| seconds | ingest 0.5, score 12.2 |" in read_report(scored.store, scored.publish(TopK(2)))


CELLS = shaped.arrays(np.float32, (7, 3), elements=st.sampled_from([NAN, -2.0, -1.0, 0.0]))


@given(CELLS, shaped.arrays(np.bool_, (7, 3)))
def test_wins_and_cells_of_parts_add_up(cells, eligible):
    zero_shot = np.array([-2.0, -1.0, 0.0], dtype=np.float32)
    gains = cell_gains(cells, zero_shot)
    whole = count_wins(gains, eligible)
    parts = [count_wins(gains[part], eligible[part]) for part in (slice(3), slice(3, 7))]
    assert (whole == parts[0] + parts[1]).all()
    expected = [[[row[anchor] > zero_shot[anchor], not np.isnan(row[anchor])] for row in cells] for anchor in range(3)]
    for anchor in range(3):
        flags = np.array(expected[anchor])[eligible[:, anchor]].reshape(-1, 2)
        assert whole[:, anchor].tolist() == flags.sum(axis=0).tolist()
