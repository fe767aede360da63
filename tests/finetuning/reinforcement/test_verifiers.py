"""Rules that check answers."""

import pytest

from jaxgpt.finetuning.reinforcement.verifiers import ExactMatch, FinalNumber, Verifier


@pytest.mark.parametrize(
    ("verifier", "answer", "reference", "reward"),
    [
        (ExactMatch(), " 95\n", "95", 1),
        (ExactMatch(), "95.", "95", 0),
        (ExactMatch(), "", "95", 0),
        (FinalNumber(), "37 + 58 = 95", "so #### 95", 1),
        (FinalNumber(), "it is 1,234.0", "#### 1234", 1),
        (FinalNumber(), "#### 7\nbut not 8", "7", 1),
        (FinalNumber(), "#### 7 and #### 8", "7", 0),
        (FinalNumber(), "-3", "3", 0),
        (FinalNumber(), "I do not know", "no number here", 0),
    ],
)
def test_rewards(verifier: Verifier, answer: str, reference: str, reward: float) -> None:
    assert verifier.reward(answer, reference) == reward
