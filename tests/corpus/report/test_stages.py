"""Documents and tokens from stage to stage: what comes out of one goes into the next."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.report.stages import stage_sections
from jaxgpt.corpus.stats.counts import SourceCounts

STAGES = ("read", "quality", "taste", "near_duplicates", "privacy", "mixture", "takedown")


@st.composite
def sources(draw):
    found = []
    for name in draw(st.lists(st.sampled_from("pqrs"), min_size=2, max_size=4, unique=True)):
        dropped = Counter(
            draw(st.dictionaries(st.sampled_from(STAGES), st.integers(1, 9), max_size=4))
        )
        gone = Counter({stage: 10 * number for stage, number in dropped.items()})
        kept = draw(st.integers(0, 9))
        edits = st.dictionaries(st.sampled_from(STAGES), st.integers(-3, 3), max_size=9 * kept)
        edited = Counter(draw(edits))
        num_bytes = 100 * kept
        tally = SourceCounts(
            read=kept + dropped.total(),
            read_bytes=num_bytes + gone.total() + edited.total(),
            dropped_at=dropped,
            dropped_bytes=gone,
            edited_bytes=edited,
            kept=kept,
            num_bytes=num_bytes,
            num_tokens=30 * kept,
        )
        found.append({"name": name, **tally.to_json()})
    return found


def numbers(row):
    return [int(cell.replace(",", "")) for cell in row if cell.replace(",", "").isdigit()]


@given(sources())
@settings(max_examples=60, deadline=None)
def test_what_comes_out_of_a_stage_goes_into_the_next_and_the_last_is_what_was_kept(given):
    sections = stage_sections(given)
    stages = {stage for one in given for stage in (*one["dropped_at"], *one["edited_bytes"])}
    assert bool(sections) == bool(stages)
    if not sections:
        return
    overview, documents, tokens = (section.table for section in sections)
    assert overview is not None
    assert documents is not None
    assert tokens is not None
    assert [row[0] for row in overview.rows] == list(documents.columns[2:])
    assert {name.replace(" ", "_") for name in documents.columns[2:]} == stages
    previous = None
    for row in overview.rows:
        _, came, went, text_came, text_went, tokens_came, tokens_went = row
        if previous is not None:
            assert (came, text_came, tokens_came) == previous
        previous = (went, text_went, tokens_went)
    kept = sum(one["kept"] for one in given)
    assert previous is not None
    assert previous[0] == f"{kept:,}"
    assert previous[2] == f"{30 * kept:,}"
    by_name = {one["name"]: one for one in given}
    for table, left in ((documents, "kept"), (tokens, "num_tokens")):
        rows = {row[0]: numbers(row[1:]) for row in table.rows}
        assert {name: row[-1] for name, row in rows.items() if name in by_name} == {
            name: one[left] for name, one in by_name.items()
        }
        total = rows.pop("all sources")
        assert total == [sum(column) for column in zip(*rows.values(), strict=True)]


def test_tokens_of_a_source_are_estimated_with_its_own_rate_or_with_that_of_all():
    rich = SourceCounts(
        read=2,
        read_bytes=300,
        dropped_at=Counter(read=1),
        dropped_bytes=Counter(read=200),
        kept=1,
        num_bytes=100,
        num_tokens=50,
    )
    lost = SourceCounts(
        read=1, read_bytes=80, dropped_at=Counter(quality=1), dropped_bytes=Counter(quality=80)
    )
    other = SourceCounts(read=1, read_bytes=100, kept=1, num_bytes=100, num_tokens=10)
    given = [
        {"name": name, **tally.to_json()}
        for name, tally in {"rich": rich, "lost": lost, "other": other}.items()
    ]
    table = stage_sections(given)[2].table
    assert table is not None
    rows = {row[0]: numbers(row[1:]) for row in table.rows}
    # 0.5 tokens a byte; of what has kept nothing, 60 of 200.
    assert rows["rich"] == [150, 50, 50]
    assert rows["lost"] == [24, 24, 0]
    assert rows["other"] == [10, 10, 10]


def test_stages_stand_in_the_order_of_the_build():
    tally = SourceCounts(dropped_at=Counter(dict.fromkeys(STAGES, 1)), read=len(STAGES))
    (section,) = stage_sections([{"name": "p", **tally.to_json()}])
    assert section.table is not None
    assert [row[0].replace(" ", "_") for row in section.table.rows] == list(STAGES)
