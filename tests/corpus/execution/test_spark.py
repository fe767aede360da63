"""The recipe of docs/executors.md in a real Spark: verdicts and candidates are the pipeline's."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxgpt.config import replace
from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.filters.config import FiltersConfig
from tests.corpus.building import CONFIG, removed
from tests.tiny import REPOSITORY

RUN = """
import json, sys
from pyspark.sql import SparkSession

spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.sql.shuffle.partitions", "4")
    .getOrCreate()
)
rows = [(record["id"], record["text"]) for record in map(json.loads, open(sys.argv[1]))]
frame = spark.createDataFrame(rows, "id string, text string").repartition(4)
judged = frame.mapInArrow(judge, "id string, text string, reason string").cache()
reasons = {row.id: row.reason for row in judged.collect() if row.reason}
kept = judged.where("reason is null")
pairs = kept.mapInArrow(keys, "id string, key long").groupBy("key").agg({"id": "collect_set"})
shared = {one for row in pairs.collect() if len(row[1]) > 1 for one in row[1]}
spark.stop()
print(json.dumps({"reasons": reasons, "num_candidates": len(shared)}))
"""


@pytest.mark.slow
def test_the_recipe_gives_what_the_pipeline_gives(shared_data, tmp_path, monkeypatch):
    pytest.importorskip("pyspark", reason="no dependency: pip install 'pyspark>=4' 'pandas>=2.2'")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    monkeypatch.chdir(tmp_path)
    texts: dict[str, str] = {}
    with open(shared_data / "small" / "corpus_300.jsonl") as file:
        for number, line in enumerate(file):
            texts.setdefault(json.loads(line)["text"], f"d{number}")
    records = ({"id": one, "text": text} for text, one in texts.items())
    Path("in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    config = replace(CONFIG, filters=FiltersConfig(profile="web-any"))
    manifest = build_dataset(["in.jsonl"], Path("out"), config)
    by_filters = {
        entry["id"]: entry["reason"]
        for entry in removed("out")
        if entry["stage"] in ("url", "language", "quality")
    }
    assert len(by_filters) > 50
    page = (REPOSITORY / "docs" / "executors.md").read_text()
    (recipe,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    Path("recipe.py").write_text(recipe + RUN)
    done = subprocess.run(
        [sys.executable, "recipe.py", "in.jsonl"],
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["reasons"] == by_filters
    assert found["num_candidates"] == manifest["near_duplicates"]["num_candidates"] > 20
