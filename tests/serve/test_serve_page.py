"""The web page in a headless Chromium: type, stream, stop, regenerate, reload; forms; both languages; phone width."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.serve import browser
from tests.serve.browser import Page
from tests.serve.conftest import LABELS, Running, Serving, until

pytestmark = pytest.mark.skipif(browser.find() is None, reason="no Chromium on this machine: apt-get install chromium")
Served = Callable[[str], Running]
ENTER = ("Enter", 13)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser.opened(tmp_path_factory.mktemp("profile")) as found:
        yield found


def fits(page: Page) -> bool:
    """Whether nothing is wider than the window."""
    return bool(page.run("document.documentElement.scrollWidth <= innerWidth"))


def answers(page: Page) -> list[str]:
    return list(page.run("[...document.querySelectorAll('.message.assistant .text')].map(e => e.textContent)"))


def test_a_conversation(page: Page, serving: Serving) -> None:
    hostile = "<img src=x onerror=alert(1)> 床前明月光"
    with serving("endless", max_new_tokens=10**6) as server:
        page.size(1100, 700)
        page.open(server.url)
        page.until("document.querySelector('#name').textContent === 'endless'")
        page.write("#prompt", hostile)
        page.press(*ENTER)
        page.until("document.querySelector('.growing .text')?.textContent.length > 20")
        assert page.text("#go") == "Stop"
        page.click("#go")
        page.until("document.querySelector('#go').textContent === 'Send' && document.querySelector('.tools')")
        assert "stopped" in page.text(".message.assistant .tools")
        [first] = answers(page)
        assert first
        until(lambda: server.load == 0)  # a stopped answer frees its place
        assert page.text(".message.user .text") == hostile
        assert page.run("document.querySelector('#prompt').value") == ""
        assert page.run("document.querySelectorAll('img').length") == 0

        page.reload()
        page.until("document.querySelectorAll('.message').length === 2")
        assert answers(page) == [first], "a reload keeps the conversation"

        page.click(".regenerate")
        page.until("document.querySelector('.growing .text')?.textContent.length > 20")
        page.press("Escape", 27)
        page.click("#go")
        page.until("!document.querySelector('.growing') && document.querySelector('.tools')")
        assert answers(page) != [first], "the page draws its answers, so that another one is another"
        assert len(answers(page)) == 1

        page.click("#open-settings")
        page.write("#set-length", "5")
        page.write("#set-temperature", "0")
        page.click("#close-settings")
        page.write("#prompt", "a\nb")
        page.press(*ENTER)
        page.until("document.querySelectorAll('.message').length === 4 && !document.querySelector('.growing')")
        assert "maximum length" in page.text(".message:last-child .tools")

        for width in (1100, 390):
            page.size(width, 700)
            for language, word in (("zh-CN", "发送"), ("en", "Send")):
                page.click("#language")
                assert page.run("document.documentElement.lang") == language
                assert page.text("#go") == word
                assert fits(page)
                assert page.run("document.querySelector('#go').getBoundingClientRect().bottom <= innerHeight")
        page.click("#new")
        page.until("document.querySelectorAll('.message').length === 0")
        page.run("localStorage.clear()")
    page.write("#prompt", "is anybody there?")
    page.press(*ENTER)
    page.until("!document.querySelector('#error').hidden")
    assert "does not answer" in page.text("#error")
    assert [each for each in page.problems if "ERR_CONNECTION" not in each] == []
    page.problems.clear()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("lm", {"text": "Shall I"}),
        ("translation", {"source": "Shall I"}),
        ("summarization", {"document": "Shall I"}),
        ("qa", {"question": "Shall I"}),
        ("classifier", {"text": "Shall I"}),
    ],
)
def test_the_form_of_a_task(
    page: Page, served: Served, generated: Callable[..., list[str]], name: str, fields: dict[str, str]
) -> None:
    server = served(name)
    page.size(390, 700)
    page.open(server.url)
    page.until(f"document.querySelector('#name').textContent === {json.dumps(name)}")
    page.run("localStorage.setItem('settings', JSON.stringify({temperature: '0', length: '12'}))")
    page.reload()
    page.until("document.querySelector('form.task textarea')")
    for field, value in fields.items():
        page.write(f"[name={field}]", value)
    page.click("#go")
    page.until("document.querySelector('.answer') && !document.querySelector('.growing')")
    [expected] = generated(name, "Shall I")
    if name == "classifier":
        labels = page.run("[...document.querySelectorAll('.labels span')].map(e => [e.textContent, e.className])")
        assert labels == [[label, "chosen" if label == expected else ""] for label in LABELS]
    else:
        shown = str(page.run("document.querySelector('.answer .text').textContent"))
        assert shown == ("Shall I" + expected if name == "lm" else expected)
    assert fits(page)
    page.click("#language")
    assert page.text("#go") == "运行"
    (field, value) = next(iter(fields.items()))
    assert page.run(f"document.querySelector('[name={field}]').value") == value, "what was written stays"
    page.run("localStorage.clear()")
    assert page.problems == []


def test_a_server_with_keys_asks_for_one(page: Page, serving: Serving, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("the-key-of-the-page")
    with serving("lm", api_key_file=str(tmp_path / "keys")) as server:
        page.size(1100, 700)
        page.open(server.url)
        page.until("!document.querySelector('#error').hidden")
        assert "needs an API key" in page.text("#error")
        page.write("#set-key", "the-key-of-the-page")
        page.press(*ENTER)
        page.until("document.querySelector('#name').textContent === 'lm'")
        assert page.run("document.querySelector('#error').hidden")
        assert "the-key" not in page.run("JSON.stringify(localStorage)"), "it is kept for the tab alone"
    assert all("401" in each for each in page.problems)
    page.problems.clear()


def test_the_page_is_one_file_that_asks_no_other_server(served: Served) -> None:
    _, text, headers = served("lm").ask("/")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "https://" not in text
    assert headers["content-type"].startswith("text/html")
