"""The chat page in headless Chromium, over a server with a small random model."""

import itertools
import json
import random
from typing import Any

import pytest

from jaxgpt.tokenizer.tokenizer import Tokenizer
from tests.serving.conftest import Gate
from tests.serving.page import MARKS
from tests.serving.served import Served

pytestmark = MARKS

QUESTION = "the small cat"
# As the page asks, with a seed.
ASKED: dict[str, Any] = {"model": "tiny", "temperature": 0.7, "max_tokens": 60, "seed": 4}


def _answer(served: Served, *texts: str) -> str:
    """Return what the API answers to a conversation."""
    roles = ("user", "assistant")
    messages: Any = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return (
        served.client.chat.completions.create(messages=messages, **ASKED).choices[0].message.content
    )


def test_an_answer_streams_and_stops(served: Served, open_page: Any, gate: Gate) -> None:
    expected = _answer(served, QUESTION)
    gate.close(steps=6)
    page = open_page()
    page.set(seed="4", max_tokens="60")
    page.send(QUESTION)
    page.page.locator(".assistant .token").nth(3).wait_for()
    assert page.button("Send").count() == 0
    assert page.page.locator("#messages").get_attribute("aria-busy") == "true"
    # Esc leaves what is open first, and then stops.
    page.button("Export").click()
    page.page.keyboard.press("Escape")
    page.page.locator("#export").wait_for(state="hidden")
    page.wait_for("The model is writing.")
    page.field().press("Escape")
    page.wait_for("Stopped.")
    question, answer = page.texts()
    assert question == QUESTION
    assert 0 < len(answer) < len(expected)
    assert expected.startswith(answer)
    gate.open()
    served.wait_until_idle()
    # The button does the same as the key.
    gate.close(steps=6)
    page.send("more")
    page.page.locator(".assistant").nth(1).locator(".token").first.wait_for()
    page.button("Stop").click()
    page.wait_for("Stopped.")
    assert page.focused() == "text"
    gate.open()
    served.wait_until_idle()


def test_answers_are_the_servers_and_stay_when_the_page_is_loaded_again(
    served: Served, open_page: Any
) -> None:
    page = open_page()
    page.set(seed="4", max_tokens="60")
    page.send(QUESTION)
    page.wait_for("per second")
    first = _answer(served, QUESTION)
    assert page.texts() == [QUESTION, first]
    page.send("one dog")
    page.page.locator("article").nth(3).wait_for()
    page.wait_for("per second")
    assert page.texts() == [QUESTION, first, "one dog", _answer(served, QUESTION, first, "one dog")]

    before = page.articles()
    page.page.reload()
    page.page.locator("article").nth(3).wait_for()
    assert page.articles() == before

    # Regenerated with another seed: another answer, and what came after it is gone.
    page.set(seed="5")
    page.button("Regenerate").first.click()
    page.wait_for("per second")
    question, other = page.texts()
    assert question == QUESTION
    assert other != first

    page.set(seed="4")
    page.field().press("ArrowUp")
    page.page.locator("article textarea").fill("one red fish")
    page.page.locator("article textarea").press("Control+Enter")
    page.page.locator("article").filter(has_text="one red fish").wait_for()
    page.wait_for("per second")
    assert page.texts() == ["one red fish", _answer(served, "one red fish")]


def test_conversations_are_kept_apart_and_deleted(open_page: Any) -> None:
    page = open_page()
    page.set(max_tokens="3")
    for text in ("the first", "the second"):
        page.button("New conversation").click()
        page.send(text)
        page.wait_for("per second")
    assert page.articles()[0] == "the second"
    page.button("the first").click()
    assert page.articles()[0] == "the first"
    assert page.page.locator("[aria-current]").inner_text() == "the first"
    page.page.on("dialog", lambda dialog: dialog.accept())
    page.button("Delete: the first").click()
    page.page.get_by_text("Ask the model something.").wait_for()
    assert [each["messages"][0]["text"] for each in page.stored()] == ["the second"]


def test_a_model_without_a_chat_template_continues_the_text(served: Served, open_page: Any) -> None:
    page = open_page()
    page.set(mode="text", seed="4", max_tokens="20")
    page.send("the small")
    page.wait_for("per second")
    options = {**ASKED, "max_tokens": 20}
    first = served.client.completions.create(prompt="the small", **options).choices[0].text
    assert page.texts() == ["the small", first]
    # White space stays as it is.
    assert page.page.locator(".assistant .body").text_content() == first
    page.button("Continue").click()
    page.page.locator("article").nth(2).wait_for()
    page.wait_for("per second")
    more = served.client.completions.create(prompt="the small" + first, **options).choices[0].text
    assert page.texts() == ["the small", first, more]


def _stream(text: str) -> str:
    """Return a streamed answer, with a token for each character but an emoji's bytes."""
    events: list[Any] = []
    for character in text:
        for byte in [character.encode()] if character.isascii() else character.encode():
            token = bytes([byte]) if isinstance(byte, int) else byte
            shown = token.decode(errors="replace")
            top = [{"token": shown, "logprob": -0.5, "bytes": list(token)}]
            entry = {**top[0], "top_logprobs": top}
            events.append({"delta": {"content": ""}, "logprobs": {"content": [entry]}})
        events[-1]["delta"]["content"] = character
    events.append({"delta": {}, "finish_reason": "stop"})
    lines = [f"data: {json.dumps({'choices': [event]})}\n\n" for event in events]
    return "".join([*lines, "data: [DONE]\n\n"])


def test_text_of_the_model_is_never_markup(open_page: Any) -> None:
    evil = "<script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
    text = f"Look: {evil}\n\n```html\n{evil}\n```\n\nUse `<b>` \U0001f600 here.\nEnd"
    page = open_page()
    body = _stream(text)
    page.page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(body=body, content_type="text/event-stream"),
    )
    page.send(evil)
    page.wait_for("Done.")
    assert page.texts() == [evil, text]
    messages = page.page.locator("#messages")
    assert messages.locator("script, img, b").count() == 0
    assert page.page.evaluate("window.broken") is None
    (mine, theirs) = page.articles()
    assert mine == evil
    assert theirs.startswith(f"Look: {evil}")
    assert messages.locator("pre").inner_text() == f"{evil}\n"
    assert messages.locator("p code").inner_text() == "<b>"
    assert theirs.endswith("Use <b> \U0001f600 here.\nEnd")
    # The tokens after the emoji are where they are drawn.
    spans = messages.locator(".assistant .body p").last.locator(".token").all_inner_texts()
    assert "".join(spans) == "Use <b> \U0001f600 here.\nEnd"
    assert "\U0001f600" in spans


PARTS = """async (texts) => {
    const { splitBlocks, splitInline } = await import("/page/blocks.js");
    const { TokenTrack } = await import("/page/token_track.js");
    return texts.map((text) => {
        const track = new TokenTrack();
        const places = [...text].map((_, place) => ({ place, alternatives: [] }));
        track.add(places.filter(({ place }) => place % 3 !== 1), text);
        const blocks = splitBlocks(text);
        return {
            blocks,
            inline: blocks.map((block) => splitInline(text, block)),
            spans: blocks.map(({ start, end }) =>
                track.split(start, end).map((part) => text.slice(part.start, part.end))),
            texts: blocks.map(({ start, end }) => text.slice(start, end)),
        };
    });
}"""


def test_any_text_becomes_blocks_and_spans_that_lose_nothing(open_page: Any) -> None:
    rng = random.Random(0)
    alphabet = ["`", "```", "~~~", "\n", "\n\n", " ", "ab", "<b>", "\U0001f600", "é"]
    texts = ["".join(rng.choices(alphabet, k=rng.randint(0, 30))) for _ in range(400)]
    page = open_page()
    for text, found in zip(texts, page.page.evaluate(PARTS, texts), strict=True):
        place = 0
        for block, inline, spans, shown in zip(
            found["blocks"], found["inline"], found["spans"], found["texts"], strict=True
        ):
            assert place <= block["start"] <= block["end"], text
            assert "".join(spans) == shown
            assert all(one["end"] <= two["start"] for one, two in itertools.pairwise(inline))
            place = block["end"]
        # What no block shows is white space, or fences with the names of languages.
        hidden = text.encode("utf-16-le")
        for block in reversed(found["blocks"]):
            hidden = hidden[: 2 * block["start"]] + b"\n\0" + hidden[2 * block["end"] :]
        for line in hidden.decode("utf-16-le").splitlines():
            assert not line.strip() or line.lstrip().startswith(("```", "~~~")), text


INLINE = """async (texts) => {
    const { splitBlocks, splitInline } = await import("/page/blocks.js");
    return texts.map((text) => splitBlocks(text).map((block) => splitInline(text, block)));
}"""


def test_long_lines_are_read_in_one_pass(open_page: Any) -> None:
    # Each takes minutes where a run of signs is tried from all its places.
    size = 200_000
    lines = ["~" * size + "`", "```" + " " * size + "`x", "`" * size + " a`"]
    found = open_page().page.evaluate(INLINE, lines)
    # All three are plain paragraphs.
    assert found == [[[{"kind": "text", "start": 0, "end": len(line)}]] for line in lines]


def test_probabilities_of_a_token_are_shown_by_pointer_and_keys(
    served: Served, open_page: Any
) -> None:
    page = open_page()
    page.set(seed="4", max_tokens="12", top_k="1")
    page.send(QUESTION)
    page.wait_for("per second")
    tip = page.page.locator("#token-tip")
    assert not tip.is_visible()
    page.page.locator(".assistant .token").nth(2).hover()
    tip.wait_for()
    rows = tip.locator("div").all_inner_texts()
    shares = [float(row.split()[-1].removesuffix("%")) for row in rows]
    assert len(rows) == 5
    assert shares == sorted(shares, reverse=True)
    # With top-k 1 the likeliest is drawn.
    assert tip.locator("div").first.get_attribute("class") == "drawn"
    page.button("Probabilities").click()
    page.page.keyboard.press("ArrowRight")
    first = page.page.locator(".token").first
    assert "current" in first.get_attribute("class")
    page.page.keyboard.press("ArrowRight")
    assert page.page.locator(".token.current").count() == 1


def test_an_error_is_told_and_the_answer_can_be_asked_for_again(open_page: Any) -> None:
    page = open_page()
    page.set(max_tokens="3")
    page.send("the " * 400)
    alert = page.page.locator(".assistant [role=alert]")
    alert.wait_for()
    assert "the context holds 300" in alert.inner_text()
    page.refuse()
    page.button("Regenerate").click()
    alert.filter(has_text="the server cannot be reached").wait_for()
    page.accept()
    # It is no news when the page is loaded again.
    page.page.reload()
    page.page.get_by_text("the server cannot be reached").wait_for()
    assert alert.count() == 0


def test_a_key_is_asked_for_and_kept_for_the_tab_alone(
    tokenizer: Tokenizer, open_page: Any
) -> None:
    served = Served(tokenizer, api_keys=("secret",))
    try:
        page = open_page(served.url)
        key = page.page.get_by_role("textbox", name="API key")
        # No header can carry it.
        key.fill("se\u200bcret")
        key.press("Enter")
        assert key.is_visible()
        key.fill("wrong")
        key.press("Enter")
        page.page.get_by_text("The last key was wrong.").wait_for()
        assert page.page.evaluate("sessionStorage.length") == 0
        key.fill("secret")
        key.press("Enter")
        page.page.locator("#model").filter(has_text="tiny").wait_for()
        page.set(max_tokens="3")
        page.send(QUESTION)
        page.wait_for("per second")
        page.page.reload()
        page.page.locator("article").first.wait_for()
        assert "secret" not in json.dumps(page.stored())
    finally:
        served.stop()


def test_a_conversation_is_exported(open_page: Any) -> None:
    page = open_page()
    page.set(max_tokens="3", system="Be short.")
    page.send(QUESTION)
    page.wait_for("per second")
    found = {}
    for name in ("JSON", "Markdown"):
        page.button("Export").click()
        with page.page.expect_download() as download:
            page.button(name).click()
        found[download.value.suggested_filename] = download.value.path().read_text("utf-8")
    assert set(found) == {"the-small-cat.json", "the-small-cat.md"}
    answer = page.texts()[1]
    assert json.loads(found["the-small-cat.json"])["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": answer},
    ]
    assert f"## User\n\n{QUESTION}\n\n## Assistant\n\n{answer}" in found["the-small-cat.md"]


def test_a_phone_has_room_for_all_of_it(open_page: Any) -> None:
    page = open_page(width=390)
    page.set(max_tokens="40")
    page.send("w" * 120)
    page.wait_for("per second")
    assert page.page.evaluate("document.documentElement.scrollWidth") == 390
    assert not page.button("New conversation").is_visible()
    page.button("Conversations").click()
    page.button("New conversation").click()
    assert not page.button("New conversation").is_visible()
    assert page.page.locator("article").count() == 0
    assert page.page.evaluate("document.activeElement.id") == "text"


NAMELESS = """() => [...document.querySelectorAll("button, input, select, textarea")]
    .filter((each) => !each.ariaLabel && !each.textContent.trim() && !each.labels?.length)
    .map((each) => each.outerHTML)"""
COLOURS = """() => {
    const style = getComputedStyle(document.documentElement);
    const names = ["ground", "raised", "ink", "faint", "accent", "on-accent", "bad"];
    return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`)]));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_controls_have_names_and_texts_stand_out(open_page: Any, scheme: str) -> None:
    page = open_page(scheme=scheme)
    page.field().wait_for()
    assert page.page.evaluate(NAMELESS) == []
    colours = page.page.evaluate(COLOURS)
    pairs = [(text, ground) for text in ("ink", "faint", "accent", "bad")
             for ground in ("ground", "raised")]  # fmt: skip
    for text, ground in [*pairs, ("on-accent", "accent")]:
        # WCAG 2.2, 1.4.3.
        assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def _contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours as WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour.strip()[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
