"""Privacy: addresses go, what looks like them stays, and the place of a text does not matter."""

import ipaddress
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.config import from_json, to_json
from jaxgpt.corpus.cleaning.privacy import PrivacyConfig, replace_emails, replace_public_ips
from jaxgpt.corpus.text.batch import TextBatch

BOTH = PrivacyConfig(email_replacement="email@example.com", ip_replacement="192.0.2.1")
TEXT = st.lists(
    st.sampled_from(["a", "8.8.8.8", "10.0.0.1", "x@y.org", "@", ".", ":", " ", "2606:4700::1"])
    | st.text(max_size=3),
    max_size=12,
).map("".join)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Write to joe.bloggs+x@mail.example.org.", "Write to E."),
        ("<a@b.co>, c_d@e-f.museum;", "<E>, E;"),
        ("mailto:jürgen@müller.de?subject=x", "mailto:E?subject=x"),
        ("name=joe@x.org&more", "name=E&more"),
        ("user@host, @handle, npm i pkg@1.2.3, a@b", None),
        ("a @ b.org, @b.org", None),
        ("it's o'brien@x.org's, 'a'+'b.c@x.org'", "it's E's, 'a'+'E'"),
        ("mailto:%20joe@x.org%3E foo--joe@x.org_", "mailto:%20E%3E foo--E_"),
        ("联系joe@x.org获取更多信息，用户@例子.公司", "联系E获取更多信息，E"),
        # Half-width katakana and Han beyond the first plane are written without spaces, too.
        (
            "\uff76\uff85joe@x.org\uff76\uff85 \U00020000joe@x.org\U00020000",
            "\uff76\uff85E\uff76\uff85 \U00020000E\U00020000",
        ),
        ("@property\n@app.route('/')\n@pytest.mark.slow", None),
        ("lodash@4.17.21.tgz pkg@1.2.3-beta.rc @types/node@18.1.0 logo@2x.png", None),
        ("root@web-1:~# user@host:~$ user@10.0.0.1:22 c = A@B.T", None),
        (f"{'a' * 65}@x.org", None),
    ],
)
def test_email_addresses(text, left):
    assert replace_emails(text, "E")[0] == (text if left is None else left)


# What prose, code, YAML, Markdown, HTML, logs and URLs put before and after an address.
BEFORE = """' " ` “ ‘ « ( [ { < > | = : ; , . ... - -- – + % * ** _ __ ~ # / \\ ! ? & $ ^ @ 。 「
mailto: email=' email: - = [link](mailto: <a&#32;href="mailto: &lt; &quot; &#39; &nbsp; from=< rcpt:
'x',' f' [INFO] %20 %3C""".split()  # noqa: SIM905
AFTER = """' " ` ” ’ » ) ] } > < | = : ; , . ... - -- – + % * ** _ __ ~ # / \\ ! ? & $ ^ 。 」 's
', '] ?subject=x ">joe</a> &gt; &quot; &#39; &nbsp; \\n %3E -2024 ), _2""".split()  # noqa: SIM905


@given(
    st.sampled_from([*BEFORE, "", " ", "\n", "\t"]),
    st.sampled_from(["jane.doe", "j", "joe+x", "o'brien", "a-b", "x%y", "jürgen", "j_d"]),
    st.sampled_from(["corp.example.org", "b.co", "e-f.museum", "müller.de", "163.com"]),
    st.sampled_from([*AFTER, "", " ", "\n", "\t"]),
)
@settings(max_examples=1000)
def test_an_address_goes_and_its_delimiters_stay(before, local, host, after):
    assert replace_emails(f"{before}{local}@{host}{after}", "E") == (f"{before}E{after}", 1)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("ping 8.8.8.8.", "ping IP."),
        ("http://8.8.4.4:80/, 1.1.1.1/24 (9.9.9.9)", "http://IP:80/, IP/24 (IP)"),
        ("127.0.0.1 10.1.2.3 192.168.0.1 172.16.5.4 169.254.1.1 0.0.0.0 192.0.2.7", None),
        ("v8.8.8.8 8.8.8.8.8 8.8.8.8a 300.1.1.1 08.8.8.8 8.8.8", None),
        ("dns 2606:4700:4700::1111 and 2001:4860:4860:0:0:0:0:8888", "dns IP and IP"),
        ("from 2606:4700::1: timeout, 2606:4700::", "from IP: timeout, IP"),
        ("::ffff:8.8.8.8", "::ffff:IP"),
        ("::1 fe80::1 2001:db8::1 fc00::1 a::b std::string 12:30:45", None),
        ("2606:4700", None),
    ],
)
def test_public_ip_addresses(text, left):
    assert replace_public_ips(text, "IP")[0] == (text if left is None else left)


@given(st.integers(0, 2**32 - 1))
def test_every_ipv4_address_is_replaced_if_it_is_public(number):
    address = ipaddress.IPv4Address(number)
    expected = ("see IP, ok", 1) if address.is_global else (f"see {address}, ok", 0)
    assert replace_public_ips(f"see {address}, ok", "IP") == expected


@given(st.integers(2 << 124, (4 << 124) - 1), st.booleans())
def test_every_ipv6_address_is_replaced_if_it_is_public(number, is_long):
    address = ipaddress.IPv6Address(number)
    text = address.exploded if is_long else str(address)
    expected = ("see IP, ok", 1) if address.is_global else (f"see {text}, ok", 0)
    assert replace_public_ips(f"see {text}, ok", "IP") == expected


@given(st.lists(TEXT, max_size=4))
@settings(max_examples=300, deadline=None)
def test_a_text_becomes_the_same_text_wherever_it_stands_and_only_once(texts):
    (step,) = BOTH.build()
    judged = step(TextBatch(texts=texts, urls=[""] * len(texts)))
    edited = list(texts if judged.texts is None else judged.texts)
    for text, after in zip(texts, edited, strict=True):
        alone = step(TextBatch(texts=[text], urls=[""]))
        assert after == (text if alone.texts is None else alone.texts[0])
    again = step(TextBatch(texts=edited, urls=[""] * len(texts)))
    assert list(edited if again.texts is None else again.texts) == edited
    assert judged.reasons == [None] * len(texts)


def test_counts_and_unchanged_batches():
    (step,) = BOTH.build()
    batch = TextBatch(texts=["a@b.org and c@d.org", "none", "8.8.8.8"], urls=[""] * 3)
    judged = step(batch)
    assert judged.counts == {"emails": 2, "ips": 1}
    assert judged.texts == ["email@example.com and email@example.com", "none", "192.0.2.1"]
    unchanged = step(TextBatch(texts=["none"], urls=[""]))
    assert (unchanged.texts, unchanged.counts) == (None, {})


def test_nothing_is_replaced_unless_asked():
    assert PrivacyConfig().build() == ()
    (step,) = PrivacyConfig(ip_replacement="IP").build()
    assert step(TextBatch(texts=["a@b.org 8.8.8.8"], urls=[""])).texts == ["a@b.org IP"]
    assert from_json(to_json(BOTH), PrivacyConfig) == BOTH


def test_a_replacement_is_taken_as_it_is():
    assert replace_emails("a@b.org", r"\1\g<0>")[0] == r"\1\g<0>"


@pytest.mark.parametrize(
    "unit", ["a", "a.", "a@", "1.", "1.2.", ":", "a:", "2606:", "@a.", "a@b.", "a'", "a-", "'a"]
)
def test_time_grows_with_length_and_not_with_its_square(unit):
    """200,000 characters take seconds if a pattern is read again from each of its places."""
    text = unit * (200_000 // len(unit))
    start = time.perf_counter()
    replace_emails(text + "@", "E")
    replace_public_ips(text + ".1.1.1:1:1", "IP")
    assert time.perf_counter() - start < 2
