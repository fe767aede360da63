"""`Documents`: a stage returns a value of its own, and all results have one schema."""

import contextlib
import copy
import json
from pathlib import Path

from jaxgpt.config import replace
from jaxgpt.corpus import build
from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.cleaning.privacy import PrivacyConfig
from jaxgpt.corpus.cleaning.repair import RepairConfig
from jaxgpt.corpus.documents.splits import HashSplit
from jaxgpt.corpus.execution.executor import SerialExecutor
from jaxgpt.corpus.execution.progress import BuildProgress
from jaxgpt.corpus.execution.tasks import TaskRunner
from jaxgpt.corpus.readers.sources import SourcesConfig, find_inputs
from jaxgpt.corpus.stages.exact_duplicates import remove_duplicates
from jaxgpt.corpus.stages.filter import edit_documents
from jaxgpt.corpus.stages.measure import measure_documents
from jaxgpt.corpus.stages.mixture import MixtureConfig, weigh_sources
from jaxgpt.corpus.stages.read import ReadPlan, read_documents
from jaxgpt.stop_signal import StopSignal
from tests.corpus.building import CONFIG, write_lines

RECORDS = [
    {"text": f"write to a{number % 9}@example.org about it", "source": f"s{number % 2}"}
    for number in range(40)
]
EDITS = PrivacyConfig(email_replacement="<address>")
MIXTURE = MixtureConfig(weights=(("s0", 2.0), ("s1", 0.0)))


def test_a_stage_does_not_change_the_documents_that_it_is_given(tmp_path):
    write_lines(tmp_path / "a.jsonl", *RECORDS)
    runner = TaskRunner(tmp_path / "work", SerialExecutor(), BuildProgress(StopSignal()))
    inputs = find_inputs([str(tmp_path / "a.jsonl")], tmp_path / "out", ())
    plan = ReadPlan(sources=SourcesConfig(), repair=RepairConfig(), num_partitions=3, seed=0)
    read = read_documents(runner, inputs, plan, MixtureConfig())
    assignment = HashSplit(val_fraction=0.2).plan(read.hashes(), 0)
    given = [read]
    for stage in (
        remove_duplicates,
        lambda *both: edit_documents(*both, [EDITS]),
        measure_documents,
        lambda *both: weigh_sources(*both, assignment, MIXTURE, 0).documents,
    ):
        before = copy.deepcopy(given[-1])
        given.append(stage(runner, given[-1]))
        assert given[-2] == before
        assert given[-1] != before
    # So a stage can be given the same documents again, and does the same.
    assert remove_duplicates(runner, read) == given[1]
    kept = [documents.account.tally.num_kept for documents in given]
    assert kept[0] == 40
    assert kept[0] > kept[1] == kept[2] == kept[3] > kept[4]


def test_every_task_that_handles_documents_reports_by_one_schema(tmp_path, monkeypatch):
    write_lines(tmp_path / "a.jsonl", *RECORDS)
    config = replace(CONFIG, privacy=EDITS, mixture=MIXTURE)
    monkeypatch.setattr(build, "finalize_dataset", lambda *_: 1 / 0)
    with contextlib.suppress(ZeroDivisionError):
        build_dataset([str(tmp_path / "a.jsonl")], tmp_path / "out", config)
    found = {
        path.parent.parent.name: json.loads(path.read_text("utf-8"))["result"]
        for path in Path(tmp_path / "out/.work").glob("*/*/done.json")
    }
    reporting = {"read_part", "deduplicate_partition", "settle_partition", "edit_documents"}
    reporting |= {"weigh_partition", "encode_partition"}
    assert reporting < found.keys()
    for stage in reporting:
        assert {"counts", "batches", "steps"} <= found[stage].keys(), stage
        assert "num_read" in found[stage]["counts"]
