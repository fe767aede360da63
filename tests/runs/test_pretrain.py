"""How a run ends, without training anything."""

from types import SimpleNamespace

import pytest

from jaxgpt.errors import JaxgptError, UnfinishedError
from jaxgpt.runs.pretrain import _waiting_for_the_last_save
from jaxgpt.training.goodput import GoodputTracker
from jaxgpt.training.rollback import UnstableError


@pytest.mark.parametrize("error", [UnstableError(48, "bad"), UnfinishedError("stopped")])
def test_a_save_that_fails_at_the_end_does_not_hide_why_it_came(error) -> None:
    goodput = GoodputTracker()
    spent_on = []

    def wait() -> None:
        spent_on.append(goodput.purpose)
        raise JaxgptError("could not save step 40")

    setup = SimpleNamespace(goodput=goodput, checkpoints=SimpleNamespace(wait=wait))
    goodput.enter_step(48)
    with pytest.raises(type(error)) as caught, _waiting_for_the_last_save(setup):
        raise error
    assert caught.value is error
    assert spent_on == ["save"]
