"""`/v1/audio/transcriptions`, asked by the `openai` client: every field is followed or refused, and no path is read."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import resource
import socket
import tempfile
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from llmctl.engines.spec import Sampling
from llmctl.types import Audio, Completion, Record
from llmctl.workflows.inference import subtitles
from llmctl.workflows.inference.model import find_model
from llmctl.workflows.inference.requests import open_request_builder
from llmctl.workflows.inference.session import open_predictor
from tests import speech_models
from tests.serve import browser
from tests.serve.conftest import Running, running, until

PATH, TASK = "/v1/audio/transcriptions", "/v1/tasks/speech-recognition"
NAMES = ("ctc", "english", "multilingual", "wav2vec2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hearing")
    for name in ("clips", *NAMES):
        (root / name).mkdir()
    speech_models.ctc(root / "ctc")
    speech_models.whisper(root / "english", multilingual=False)
    speech_models.whisper(root / "multilingual", multilingual=True)
    speech_models.wav2vec2(root / "wav2vec2")
    speech_models.clips(root / "clips")
    return root


@pytest.fixture(scope="module")
def hearing(folder: Path) -> Iterator[Callable[[str], Running]]:
    with contextlib.ExitStack() as stack:
        found: dict[str, Running] = {}

        def server(name: str) -> Running:
            if name not in found:
                found[name] = stack.enter_context(running(folder / name))
            return found[name]

        yield server


def transcribed(folder: Path, name: str, clip: Path, *, timestamps: bool = False) -> Completion:
    """What `generate` writes."""
    handle = find_model(str(folder / name))
    builder = open_request_builder(handle, timestamps=timestamps)
    predictor = open_predictor(handle, request_builder=builder)
    [found] = predictor.answers([Record("", {"audio": Audio(str(clip))})], Sampling(max_new_tokens=2048))
    return found


def sound(seconds: float, rate: int = 8_000) -> bytes:
    """A WAV file of 8 bits with noise."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(rate)
        file.writeframes(np.random.default_rng(0).integers(100, 156, round(seconds * rate), np.uint8).tobytes())
    return out.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_every_format_of_a_transcript(hearing: Callable[[str], Running], folder: Path, name: str) -> None:
    clip, create = folder / "clips" / "1.flac", hearing(name).client().audio.transcriptions.create
    plain, timed = (transcribed(folder, name, clip, timestamps=each) for each in (False, True))
    segments = [part._asdict() for part in timed.spoken]
    assert create(file=clip, model=name).text == plain.text
    assert create(file=clip, model=name, response_format="text", temperature=0) == f"{plain.text}\n"
    assert create(file=clip, model=name, response_format="srt") == subtitles.srt(segments)
    assert create(file=clip, model=name, response_format="vtt") == subtitles.vtt(segments)
    found = create(file=clip, model=name, response_format="verbose_json", timestamp_granularities=["segment"])
    assert found.text == timed.text
    assert found.duration == pytest.approx(1.0, abs=1.0)
    assert found.language == ("english" if name in ("english", "multilingual") else "unknown")
    assert found.segments is not None
    assert [{"start": each.start, "end": each.end, "text": each.text} for each in found.segments] == segments


def test_a_language_is_written_that_the_model_knows(hearing: Callable[[str], Running], folder: Path) -> None:
    clip = folder / "clips" / "0.flac"
    several = hearing("multilingual").client().audio.transcriptions
    english = several.create(file=clip, model="multilingual", language="en").text
    assert english == several.create(file=clip, model="multilingual").text
    assert english != several.create(file=clip, model="multilingual", language="zh").text
    found = several.create(file=clip, model="multilingual", language="zh", response_format="verbose_json")
    assert found.language == "chinese"
    only = hearing("english").client().audio.transcriptions
    assert only.create(file=clip, model="english", language="en").text
    for client, name, language in ((several, "multilingual", "fr"), (only, "english", "zh")):
        with pytest.raises(openai.BadRequestError, match="language") as error:
            client.create(file=clip, model=name, language=language)
        assert error.value.param == "language"


@pytest.mark.parametrize(
    ("given", "status", "param"),
    [
        ({"temperature": 0.5}, 400, "temperature"),
        ({"extra_body": {"temperature": "hot"}}, 400, "temperature"),
        ({"language": "zh"}, 400, "language"),
        ({"prompt": "names"}, 400, "prompt"),
        ({"stream": True}, 400, "stream"),
        ({"response_format": "diarized_json"}, 400, "response_format"),
        ({"timestamp_granularities": ["word"], "response_format": "verbose_json"}, 400, "timestamp_granularities"),
        ({"timestamp_granularities": ["segment"]}, 400, "timestamp_granularities"),
        ({"include": ["logprobs"]}, 400, "include"),
        ({"extra_body": {"n": "2"}}, 400, "n"),
        ({"extra_body": {"tempurature": "1"}}, 400, "tempurature"),
        ({"model": "whisper-1"}, 404, "model"),
        ({"file": ("a.wav", b"no sound at all, but words")}, 400, "file"),
        ({"file": ("a.wav", b"")}, 400, "file"),
        ({"file": ("a.wav", sound(1)[:5_000])}, 400, "file"),
        ({"file": ("a.wav", sound(0))}, 400, "file"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_followed_is_named(
    hearing: Callable[[str], Running], folder: Path, given: dict[str, Any], status: int, param: str
) -> None:
    asked = {"file": folder / "clips" / "0.flac", "model": "ctc", **given}
    with pytest.raises(openai.APIStatusError) as error:
        hearing("ctc").client().audio.transcriptions.create(**asked)
    assert (error.value.status_code, error.value.param, error.value.type) == (status, param, "invalid_request_error")
    assert "/tmp" not in error.value.message


@pytest.mark.parametrize(
    ("body", "kind", "param"),
    [
        (b'{"file": "/etc/passwd"}', "application/json", None),
        (b"file=/etc/passwd", "application/x-www-form-urlencoded", None),
        (b"", "multipart/form-data", None),
        (b"nothing", "multipart/form-data; boundary=x", None),
        (b"", "multipart/form-data; boundary=x", "file"),
        (
            b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\n/etc/passwd\r\n--x--\r\n",
            "multipart/form-data; boundary=x",
            "file",
        ),
        (
            b"--x\r\nContent-Disposition: form-data; name=model\r\n\r\nctc\r\n--x--\r\n",
            "multipart/form-data; boundary=x",
            "file",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_body_that_is_no_form_with_a_file(
    hearing: Callable[[str], Running], body: bytes, kind: str, param: str | None
) -> None:
    status, document, _ = hearing("ctc").ask(PATH, body, method="POST", headers={"content-type": kind})
    assert (status, document["error"]["param"]) == (400, param), document


@pytest.mark.parametrize("names", [("a", "a[]"), ("a[]", "a"), ("a[]", "a[]", "a"), ("a", "a"), ("file", "file[]")])
def test_a_field_that_comes_as_one_and_as_a_list_is_refused(
    hearing: Callable[[str], Running], names: tuple[str, ...]
) -> None:
    head = "--x\r\nContent-Disposition: form-data; name="
    parts = [f'{head}"{name}"{"; filename=a.wav" if name == "file" else ""}\r\n\r\n1\r\n' for name in names]
    body = "".join([*parts, "--x--\r\n"]).encode()
    kind = {"content-type": "multipart/form-data; boundary=x"}
    status, document, _ = hearing("ctc").ask(PATH, body, method="POST", headers=kind)
    assert (status, document["error"]["message"]) == (400, f"{names[0].removesuffix('[]')} is given twice"), document


def test_records_hold_the_recording_itself(hearing: Callable[[str], Running], folder: Path) -> None:
    clip = folder / "clips" / "2.flac"
    held = {"audio": {"data": base64.b64encode(clip.read_bytes()).decode()}}
    status, document, _ = hearing("ctc").ask(TASK, {"records": [held, {"id": "b", **held}]})
    assert status == 200, document
    found = transcribed(folder, "ctc", clip)
    assert [row["text"] for row in document["completions"]] == [found.text] * 2
    assert document["completions"][1]["id"] == "b"
    assert document["completions"][0]["segments"] == [part._asdict() for part in found.spoken]
    no_sound = base64.b64encode(b"words").decode()
    cut_off = {"audio": {"data": base64.b64encode(sound(2)[:5_000]).decode()}}
    status, document, _ = hearing("ctc").ask(TASK, {"records": [cut_off]})
    assert (status, "cut off" in document["error"]["message"]) == (422, True), document
    wrong = ("a.flac", {"audio": str(clip)}, {"path": str(clip)}, {"prompt": str(clip)}, {"audio": {"path": str(clip)}})
    for record in (*wrong, {"audio": {"data": "?"}}, {"audio": {"data": no_sound}}, {"audio": None}):
        status, document, _ = hearing("ctc").ask(TASK, {"records": [record]})
        assert (status, document["error"]["param"].removesuffix(".data")) == (422, "records[0].audio"), document
        assert str(folder) not in json.dumps(document)


def test_a_model_that_hears_answers_no_texts(hearing: Callable[[str], Running]) -> None:
    for path, body in (
        ("/v1/completions", {"prompt": "/etc/passwd"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ):
        status, document, _ = hearing("ctc").ask(path, body)
        assert (status, document["error"]["code"]) == (404, "model_not_found")
        assert PATH in document["error"]["message"]
    for given in ({"stop": "x"}, {"num_beams": 2, "length_penalty": 2.0}, {"n": 2}, {"repetition_penalty": 1.5}):
        held = {"audio": {"data": base64.b64encode(sound(1)).decode()}}
        assert hearing("ctc").ask(TASK, {"records": [held], **given})[0] == 400, given


def test_a_model_that_reads_texts_hears_nothing(served: Callable[[str], Running], folder: Path) -> None:
    with pytest.raises(openai.NotFoundError, match="language-modeling"):
        served("lm").client().audio.transcriptions.create(file=folder / "clips" / "0.flac", model="lm")


def test_a_recording_that_is_too_large(folder: Path) -> None:
    with running(folder / "ctc", max_upload=20_000) as server:
        create = server.client().audio.transcriptions.create
        assert create(file=("a.wav", sound(2)), model="ctc")
        for seconds in (3, 30):  # the file is too large; the body is
            with pytest.raises(openai.APIStatusError) as error:
                create(file=("a.wav", sound(seconds)), model="ctc")
            assert (error.value.status_code, error.value.code) == (413, "body_too_large")


def test_uploads_leave_no_file(
    hearing: Callable[[str], Running], folder: Path, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    create = hearing("ctc").client().audio.transcriptions.create
    assert create(file=folder / "clips" / "0.flac", model="ctc")
    with pytest.raises(openai.BadRequestError):
        create(file=("a.wav", b"words"), model="ctc")
    until(lambda: not list(tmp_path.iterdir()))


def test_a_recording_that_does_not_fit_on_the_disk_is_refused_and_the_next_is_heard(
    hearing: Callable[[str], Running], folder: Path
) -> None:
    server = hearing("ctc")
    clip = (folder / "clips" / "0.flac").read_bytes()
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.flac"\r\n\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    body = head + clip + b"\r\n--x--\r\n"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))  # fails as a full disk does
    try:
        status, document, _ = server.ask(PATH, body, headers=headers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (status, document["error"]["code"]) == (503, "disk_full")
    said = f"a request failed: {tempfile.gettempdir()}: File too large"
    assert said in [event.fields.get("text") for event in server.events]
    assert server.ask(PATH, body, headers=headers)[0] == 200


def test_a_client_that_goes_away_frees_its_place_and_a_short_recording_overtakes_a_long_one(folder: Path) -> None:
    with running(folder / "english", max_upload="64MiB", max_batch=2) as server:
        content = sound(1_800)
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        body = head + content + b"\r\n--x--\r\n"
        asked = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        with socket.create_connection(server.host) as client:
            client.sendall(f"{asked}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            until(lambda: server.load == 1)
            assert server.client().audio.transcriptions.create(file=("b.wav", sound(1)), model="english")
            assert server.load == 1, "the long one is still being transcribed"
        until(lambda: server.load == 0)
        until(lambda: server.metric(f'llmctl_requests_total{{endpoint="{PATH}",status="499"}}') == 1)


@pytest.mark.skipif(browser.find() is None, reason="no Chromium on this machine: apt-get install chromium")
def test_the_form_of_the_page(hearing: Callable[[str], Running], folder: Path, tmp_path: Path) -> None:
    clip = folder / "clips" / "3.flac"
    with browser.opened(tmp_path / "profile") as page:
        page.size(390, 700)
        page.open(hearing("ctc").url)
        page.until("document.querySelector('input[type=file]')")
        page.click("#go")
        assert page.text("#error") == "Choose a recording first."
        page.choose("input[type=file]", clip)
        page.click("#go")
        page.until("document.querySelector('.answer') && !document.querySelector('.growing')")
        found = transcribed(folder, "ctc", clip)
        assert page.run("document.querySelector('.answer .text').textContent") == found.text
        assert page.run("document.querySelector('#error').hidden")
        page.click("#language")
        assert page.text("#go") == "运行"
        assert page.run("document.querySelector('input[type=file]').files[0].name") == clip.name, "the choice stays"
        page.click("#go")
        page.until("document.querySelector('.answer') && !document.querySelector('.growing')")
        assert "转写结果" in page.text(".answer")
        (tmp_path / "words.wav").write_bytes(b"words")
        page.choose("input[type=file]", tmp_path / "words.wav")
        page.click("#go")
        page.until("!document.querySelector('#error').hidden")
        assert "not audio" in page.text("#error")
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        assert [each for each in page.problems if "400" not in each] == []
