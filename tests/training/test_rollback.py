"""To which step a run goes back."""

from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.training.rollback import rollback_step


@given(st.lists(st.integers(0, 500), unique=True), st.integers(0, 500), st.integers(0, 300))
def test_the_newest_far_enough_or_the_oldest(steps: list[int], now: int, rewind: int) -> None:
    found = rollback_step(steps, now, rewind)
    earlier = [step for step in steps if step < now]
    if not earlier:
        assert found is None
        return
    far = [step for step in earlier if now - step >= rewind]
    assert found == (max(far) if far else min(earlier))
