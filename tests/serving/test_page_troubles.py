"""The chat page when something goes wrong, or happens twice: nothing that was written is lost."""

import json
from typing import Any

from tests.serving.conftest import Gate
from tests.serving.page import MARKS, Page
from tests.serving.served import Served

pytestmark = MARKS


def _users(conversation: dict[str, Any]) -> list[str]:
    return [each["text"] for each in conversation["messages"] if each["role"] == "user"]


def _sent(page: Page, text: str, number: int) -> list[dict[str, str]]:
    """Send a text; return the messages of the request."""
    with page.page.expect_request("**/v1/chat/completions") as request:
        page.answer_of(text, number)
    return json.loads(request.value.post_data)["messages"]


def test_one_answer_is_written_at_a_time(served: Served, open_page: Any, gate: Gate) -> None:
    page = open_page()
    page.set(max_tokens="30")
    page.answer_of("the cat", 2)
    page.button("Edit").click()
    form = page.page.locator("form.edit")
    form.locator("textarea").fill("the dog")
    gate.close(steps=6)
    page.send("one bird")
    page.page.locator(".assistant").nth(1).locator(".token").first.wait_for()
    form.locator("textarea").press("Control+Enter")
    page.wait_for("still writing")
    assert served.engine.counts().running == 1
    assert page.page.locator("article").count() == 4
    assert form.locator("textarea").input_value() == "the dog"
    page.button("Stop").click()
    page.wait_for("Stopped.")
    gate.open()
    form.locator("textarea").fill(" ")
    form.get_by_role("button", name="Send").click()
    page.wait_for("The message is empty")
    form.locator("textarea").fill("the dog")
    form.get_by_role("button", name="Send").click()
    page.wait_for("per second")
    assert _users(page.stored()[0]) == ["the dog"]


def test_messages_stay_if_nothing_comes_in_their_place(open_page: Any) -> None:
    page = open_page()
    page.set(max_tokens="3")
    page.answer_of("first", 2)
    page.answer_of("second", 4)
    before, shown = page.texts(), page.articles()
    page.refuse()
    page.button("Regenerate").first.click()
    alert = page.page.locator("#alert")
    alert.filter(has_text="The old messages are back: the server cannot be reached.").wait_for()
    assert (page.texts(), page.articles()) == (before, shown)
    page.button("Edit").first.click()
    form = page.page.locator("form.edit textarea")
    form.fill("other")
    form.press("Control+Enter")
    # What was written to be sent is not lost either.
    alert.filter(has_text="cannot be reached").wait_for()
    page.page.wait_for_function("document.querySelector('form.edit')?.isConnected")
    assert page.texts() == before
    assert form.input_value() == "other"
    page.accept()
    form.press("Control+Enter")
    page.wait_for("per second")
    assert page.texts()[0] == "other"
    assert alert.inner_text() == ""


def test_a_question_without_an_answer_is_not_sent_again(open_page: Any) -> None:
    page = open_page()
    page.set(max_tokens="3")
    page.refuse()
    page.send("lost")
    page.page.locator(".assistant .error").filter(has_text="cannot be reached").wait_for()
    page.accept()
    assert _sent(page, "kept", 4) == [{"role": "user", "content": "kept"}]
    page.button("Export").click()
    with page.page.expect_download() as download:
        page.button("JSON").click()
    exported = json.loads(download.value.path().read_text("utf-8"))["messages"]
    assert [each["content"] for each in exported] == ["kept", page.texts()[-1]]


def test_a_connection_that_is_lost_is_told_and_the_text_stays(open_page: Any) -> None:
    page = open_page()
    page.page.evaluate("""() => {
        const event = { choices: [{ delta: { content: "so far" } }] };
        const parts = [new TextEncoder().encode(`data: ${JSON.stringify(event)}\n\n`)];
        const lost = new Promise((resolve) => { window.lose = resolve; });
        const pull = (stream) => parts.length
            ? stream.enqueue(parts.pop())
            : lost.then(() => stream.error(new TypeError("network error")));
        window.fetch = async () => new Response(new ReadableStream({ pull }));
    }""")
    page.send("one")
    page.page.get_by_text("so far").wait_for()
    page.page.evaluate("window.lose()")
    error = page.page.locator(".assistant .error")
    error.filter(has_text="the connection to the server was lost.").wait_for()
    assert page.texts() == ["one", "so far"]


def test_tabs_share_conversations_and_lose_none(open_page: Any, gate: Gate) -> None:
    one = open_page()
    one.set(max_tokens="3")
    one.answer_of("first", 2)
    two = open_page(beside=one)
    two.page.locator("article").nth(1).wait_for()
    two.answer_of("from two", 4)
    one.page.locator("article").nth(3).wait_for()
    one.answer_of("from one", 6)
    (kept,) = one.stored()
    assert _users(kept) == ["first", "from two", "from one"]
    # Both write at once: each is kept, as a conversation of its own.
    two.page.locator("article").nth(5).wait_for()
    gate.close(steps=0)
    one.send("one at once")
    two.page.get_by_text("one at once").wait_for()
    two.send("two at once")
    two.wait_for("The model is writing.")
    gate.open()
    for page in (one, two):
        page.wait_for("per second")
        page.page.locator("#conversations li").nth(1).wait_for()
    last = sorted(_users(each)[-1] for each in one.stored())
    assert last == ["one at once", "two at once"]
    # What one deletes is not written again.
    two.page.on("dialog", lambda dialog: dialog.accept())
    for left in (1, 0):
        two.page.locator("#conversations li button").last.click()
        two.page.wait_for_function(
            f"document.querySelectorAll('#conversations li').length == {left}"
        )
    one.page.get_by_text("Ask the model something.").wait_for()
    assert one.page.locator("#conversations li").count() == 0
    one.answer_of("later", 2)
    assert [_users(each) for each in one.stored()] == [["later"]]


# Until it writes, a tab learns nothing of what another tab writes.
_STALE = """() => {
    const { getItem, setItem } = Storage.prototype;
    const old = { ...localStorage };
    const stop = (event) => event.stopImmediatePropagation();
    addEventListener("storage", stop, true);
    Storage.prototype.getItem = (name) => old[name] ?? null;
    Storage.prototype.setItem = function (...given) {
        Object.assign(Storage.prototype, { getItem, setItem });
        removeEventListener("storage", stop, true);
        return setItem.apply(this, given);
    };
}"""


def test_a_tab_that_is_written_over_at_the_same_moment_keeps_its_conversation(
    open_page: Any,
) -> None:
    one = open_page()
    one.set(max_tokens="3")
    one.answer_of("first", 2)
    two = open_page(beside=one)
    two.page.locator("article").nth(1).wait_for()
    two.page.evaluate(_STALE)
    one.answer_of("from one", 4)
    two.answer_of("from two", 4)
    for page in (one, two):
        page.page.locator("#conversations li").nth(1).wait_for()
        kept = sorted(_users(each) for each in page.stored())
        assert kept == [["first", "from one"], ["first", "from two"]]
    # Each tab goes on with its own, and neither is written over again.
    one.answer_of("more of one", 6)
    two.answer_of("more of two", 6)
    kept = sorted(_users(each) for each in one.stored())
    assert [each[1:] for each in kept] == [
        ["from one", "more of one"], ["from two", "more of two"]
    ]  # fmt: skip


def test_a_full_storage_is_told_until_there_is_room(open_page: Any) -> None:
    page = open_page()
    page.set(max_tokens="3")
    page.page.evaluate("""() => {
        window.kept = Storage.prototype.setItem;
        Storage.prototype.setItem = () => { throw new Error("full"); };
    }""")
    page.answer_of("first", 2)
    alert = page.page.locator("#not-kept")
    assert "its storage is full or closed" in alert.inner_text()
    page.page.evaluate("() => { Storage.prototype.setItem = window.kept; }")
    page.answer_of("second", 4)
    assert alert.inner_text() == ""
    assert _users(page.stored()[0]) == ["first", "second"]


BROKEN = """() => {
    const name = (id) => `jaxgpt.conversation.${id}`;
    const good = JSON.parse(Object.values(localStorage)[0]);
    const parts = [
        { settings: { ...good.settings, mode: "other" } }, { settings: { stop: [] } },
        { settings: { ...good.settings, system: 3 } }, { settings: null },
        { settings: { ...good.settings, top_k: "many" } }, { created: 9e15 }, { created: null },
        { updated: "now" }, { model: 1 }, { messages: [{ text: "no role" }] },
        { messages: [{ role: "system", text: "" }] }, { messages: { length: 1 } },
    ];
    parts.forEach((part, number) => {
        const id = `broken-${number}`;
        localStorage[name(id)] = JSON.stringify({ ...good, id, updated: 9e12, ...part });
    });
    localStorage[name("other")] = JSON.stringify(good);
    localStorage[name("no-json")] = "{";
    const messages = [...good.messages, { role: "assistant", text: "b", tokens: 1, error: {} }];
    localStorage[name(good.id)] = JSON.stringify({ ...good, messages, more: 1 });
}"""


def test_stored_entries_of_another_form_are_left_out(open_page: Any) -> None:
    page = open_page()
    page.set(max_tokens="3")
    page.answer_of("first", 2)
    page.page.evaluate(BROKEN)
    page.page.reload()
    page.page.locator("article").nth(2).wait_for()
    assert page.page.locator("#conversations li").count() == 1


def test_another_model_begins_with_a_conversation_of_its_own(open_page: Any) -> None:
    page = open_page()
    page.set(max_tokens="3", system="Be short.")
    page.answer_of("first", 2)
    page.page.evaluate("""() => {
        const name = Object.keys(localStorage)[0];
        localStorage[name] = localStorage[name].replaceAll('"tiny"', '"earlier"');
    }""")
    page.page.reload()
    page.page.get_by_text("Ask the model something.").wait_for()
    # What was meant for the last conversation alone does not come along.
    assert _sent(page, "second", 2) == [{"role": "user", "content": "second"}]
    page.button("first").click()
    page.answer_of("third", 4)
    title = page.page.locator("[aria-current]").get_attribute("title")
    assert title.startswith("earlier, tiny, ")


def test_the_focus_is_never_lost(open_page: Any, gate: Gate) -> None:
    page = open_page()
    page.set(max_tokens="3")
    page.answer_of("first", 2)
    page.button("Regenerate").press("Enter")
    page.wait_for("per second")
    assert page.focused() == "text"
    for leave in (lambda: page.button("Cancel").press("Enter"),
                  lambda: page.page.keyboard.press("Escape")):  # fmt: skip
        page.button("Edit").press("Enter")
        leave()
        assert page.focused() == "Edit"
    page.field().fill("second")
    page.button("Send").press("Enter")
    page.page.locator("article").nth(3).wait_for()
    page.wait_for("per second")
    assert page.focused() == "text"
    gate.close(steps=0)
    page.send("third")
    page.button("Delete: first").focus()
    gate.open()
    page.wait_for("per second")
    assert page.focused() == "×"
    page.button("Probabilities").last.click()
    body = page.page.locator(".shaded .body")
    assert body.get_attribute("role") == "group"
