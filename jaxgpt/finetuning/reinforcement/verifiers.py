"""`Verifier`: how good an answer is, given the right one. A new rule is a class of a few lines."""

from jaxgpt.config import configclass
from jaxgpt.evaluation.text_tasks.gsm8k import last_number

_FINAL = "####"


@configclass
class Verifier:
    """Base of the rules that check answers."""

    def reward(self, answer: str, reference: str) -> float:
        """Return how good an answer is, from 0 to 1.

        Args:
            answer: of the model.
            reference: the right one, from the file of examples.
        """
        raise NotImplementedError(f"{type(self).__name__} has no reward")


@configclass
class ExactMatch(Verifier):
    """Equal texts, white space at both ends left out."""

    def reward(self, answer: str, reference: str) -> float:
        return float(answer.strip() == reference.strip())


@configclass
class FinalNumber(Verifier):
    """Equal final numbers: the one in the line of ####, as in GSM8K, otherwise the last one.

    Commas between digits are left out, and 42.0 equals 42. The text before the number is free: the
    model may reason there.
    """

    def reward(self, answer: str, reference: str) -> float:
        found = _final_number(answer)
        return float(found is not None and found == _final_number(reference))


def _final_number(text: str) -> object:
    _, mark, after = text.rpartition(_FINAL)
    return last_number(after.split("\n")[0] if mark else text)
