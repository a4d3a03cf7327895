"""A model trained on Chinese words without stop words reads raw text as training did, wherever it is asked."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llmctl
from llmctl.cli import main
from llmctl.data.cleaning.words import JoinedStream, joined, rules_of, words_of
from llmctl.data.spec import Clean
from llmctl.errors import DataError, UsageError
from tests.serve.conftest import running

Inside = Callable[..., dict[str, Any]]

GOOD = (
    "这家酒店的服务态度非常好",
    "物流很快，包装结实，值得购买",
    "云计算平台很稳定，客服也耐心",
    "The 味道 is 很不错",
)
BAD = ("房间太小了，隔音很差", "屏幕有划痕，客服还不给退换", "电影剧情拖沓，演技一般", "云计算平台总是 crash，失望")
RAW = ("酒店的服务太差了，不会再来。", "云计算平台不错 <EMAIL> very good!", "包装\n很差", "Just English, isn't it?")


def cleaned(text: str, **settings: Any) -> str:
    words = words_of(rules_of(Clean(**settings)))
    return text if words is None else words.text(text)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    texts = [(f"{text}，第{n}次", "好" if text in GOOD else "差") for n in range(12) for text in (*GOOD, *BAD)]
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in texts), encoding="utf-8")
    (path.parent / "terms.txt").write_text("云计算平台 5 n\n", encoding="utf-8")
    (path.parent / "more.txt").write_text("客服\n第\n次\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(inside: Inside, rows: Path) -> Path:
    place = rows.parent
    inside(
        "preprocess", rows, "--task", "classification", "--out", place / "data", "--tokenizer", "word",
        "--segment", "jieba", "--stopwords", "zh", "--stopwords", place / "more.txt",
        "--set", f"clean.dictionary={place / 'terms.txt'}", "--set", "clean.lowercase=true",
    )  # fmt: skip
    inside(
        "train", "--data", place / "data", "--model", "lstm-classifier", "--out", place / "run", "--max-steps", "12",
        "--lr", "0.01", "--set", "model.hidden=16", "--set", "model.embedding=16",
    )  # fmt: skip
    # Nothing that the rules were made of is needed any more.
    (place / "terms.txt").unlink()
    (place / "more.txt").unlink()
    return place / "run"


def test_words_and_stop_words() -> None:
    assert cleaned("我来到北京清华大学。", segment="jieba") == "我 来到 北京 清华大学 。"
    assert cleaned("我来到北京清华大学。", segment="jieba", stopwords=("zh",)) == "来到 北京 清华大学"
    assert cleaned("The hotel, and its rooms: NOT good.", stopwords=("en",)) == "hotel, its rooms: NOT good."
    assert cleaned("no Chinese  here, isn't it", segment="jieba") == "no Chinese  here, isn't it"
    assert cleaned("写信给<EMAIL>谢谢", segment="jieba") == "写信给 <EMAIL> 谢谢"


@pytest.mark.parametrize(
    "text",
    [
        "他来到了网易杭研大厦",
        "小明硕士毕业于中国科学院计算所，后在日本京都大学深造",
        "李小福是创新办主任也是云计算方面的专家",
    ],
)
def test_a_text_cut_again_stays_the_same(text: str) -> None:
    once = cleaned(text, segment="jieba")
    assert cleaned(once, segment="jieba") == once
    assert joined(once) == text


def test_a_stream_has_no_blanks_between_words() -> None:
    shown: list[str] = []
    stream = JoinedStream(shown.append)
    for piece in ("今天", " 天气", " ", "很 好", " and", " fine "):
        stream(piece)
    assert "".join(shown) == "今天天气很好and fine"


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        rules_of(Clean(stopwords=("fr",)))
    (tmp_path / "gbk.txt").write_bytes("的".encode("gbk"))
    with pytest.raises(DataError, match="not UTF-8"):
        rules_of(Clean(stopwords=(str(tmp_path / "gbk.txt"),)))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="no words"):
        rules_of(Clean(segment="jieba", dictionary=tmp_path / "empty.txt"))


def test_show_data_shows_the_words(inside: Inside, run: Path) -> None:
    shown = [
        row["text"].strip()
        for index in range(20)
        for row in inside("show", "data", run.parent / "data", "--index", str(index))["tokens"]
    ]
    assert {"云计算平台", "服务态度", "隔音"} & set(shown)
    assert not {"的", "了", "，", "客服", "次"} & set(shown)


def test_every_way_to_ask_gives_one_answer(inside: Inside, run: Path, tmp_path: Path) -> None:
    raw = [{"id": str(n), "text": text, "label": "好"} for n, text in enumerate(RAW)]
    (tmp_path / "raw.jsonl").write_text("\n".join(map(json.dumps, raw)), encoding="utf-8")
    made = inside("generate", "--model", run, "--input", tmp_path / "raw.jsonl", "--output", tmp_path / "out.jsonl")
    assert made["status"] == "ok"
    answers = [json.loads(line)["text"] for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    scored = inside(
        "eval", "--model", run, "--data", tmp_path / "raw.jsonl", "--metric", "accuracy", "--out", tmp_path / "eval"
    )
    lines = (tmp_path / "eval" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["prediction"] for line in lines] == answers
    assert scored["scores"][0]["n"] == len(RAW)
    model = llmctl.load(run)
    assert [model.generate(text).text for text in RAW] == answers
    assert [by_card(run, text) for text in RAW if "<EMAIL>" not in text] == [
        answer for text, answer in zip(RAW, answers, strict=True) if "<EMAIL>" not in text
    ]


def by_card(run: Path, text: str) -> str:
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    opening, asking = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    out = io.StringIO()
    with contextlib.chdir(run.parent), contextlib.redirect_stdout(out):
        exec(opening + asking.replace('"TEXT"', repr(text)), {"__name__": "card"})
    return out.getvalue().removesuffix("\n")


def test_a_language_model_answers_without_blanks(inside: Inside, tmp_path: Path) -> None:
    text = "春天来了，花园里的花都开了。孩子们在草地上唱歌跳舞。"
    (tmp_path / "text.txt").write_text("\n\n".join(f"{text}第{n}天。" for n in range(30)), encoding="utf-8")
    inside(
        "preprocess", tmp_path / "text.txt", "--task", "lm", "--document", "paragraph", "--tokenizer", "word",
        "--segment", "jieba", "--set", "block_size=16", "--out", tmp_path / "data",
    )  # fmt: skip
    inside(
        "train", "--data", tmp_path / "data", "--model", "lstm", "--out", tmp_path / "run", "--max-steps", "60",
        "--lr", "0.02", "--set", "model.hidden=32", "--set", "model.embedding=32",
    )  # fmt: skip
    [row] = inside("generate", "--model", tmp_path / "run", "--prompt", "春天来了，花园里的")["completions"]
    assert row["text"].startswith("花都开了。")
    assert by_card(tmp_path / "run", "春天来了，花园里的").startswith("春天来了，花园里的花都开了。")
    with running(tmp_path / "run") as served:
        asked = {"model": "run", "prompt": "春天来了，花园里的", "max_tokens": row["tokens"], "temperature": 0}
        completions = served.client().completions
        whole = completions.create(**asked).choices[0].text
        streamed = "".join(each.choices[0].text for each in completions.create(**asked, stream=True))
        scored = [completions.create(**asked, logprobs=1, echo=echo).choices[0] for echo in (False, True)]
        parts = [each.choices[0] for each in completions.create(**asked, logprobs=1, stream=True)]
    assert whole == streamed == row["text"]
    for each in scored:
        seen, found = each.text, each.logprobs
        assert [
            seen[at : at + len(name.strip())] for name, at in zip(found.tokens, found.text_offset, strict=True)
        ] == [name.strip() for name in found.tokens]
    offsets = [at for each in parts if each.logprobs for at in each.logprobs.text_offset]
    assert offsets == scored[0].logprobs.text_offset


def test_a_conversation_goes_on_without_blanks(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = ["你叫什么名字？", "我是一个聊天机器人。", "你喜欢什么食物？", "我不吃东西，只喝电。"]
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": messages}), encoding="utf-8")
    inside(
        "preprocess", tmp_path / "talk.jsonl", "--task", "chat", "--tokenizer", "word", "--segment", "jieba",
        "--set", "splits.validation=0", "--set", "splits.test=0", "--out", tmp_path / "data",
    )  # fmt: skip
    inside(
        "train", "--data", tmp_path / "data", "--model", "lstm", "--out", tmp_path / "run", "--max-steps", "60",
        "--lr", "0.02", "--set", "model.hidden=32", "--set", "model.embedding=32",
    )  # fmt: skip
    typed = "\n".join(turns[::2])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode()), encoding="utf-8"))
    capsys.readouterr()
    assert main.run(["chat", "--model", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.split("\n\n") == [turns[1], turns[3] + "\n"]


def test_an_exported_folder_reads_raw_text_and_its_modelfile_says_that_ollama_does_not(
    inside: Inside, rows: Path, tmp_path: Path
) -> None:
    inside(
        "preprocess", rows, "--task", "classification", "--out", tmp_path / "data", "--tokenizer", "bpe",
        "--vocab-size", "400", "--segment", "jieba", "--stopwords", "zh",
    )  # fmt: skip
    inside(
        "train", "--data", tmp_path / "data", "--model", "gpt2", "--out", tmp_path / "run", "--max-steps", "20",
        "--lr", "0.01", "--set", "model.layers=1", "--set", "model.hidden=16", "--set", "model.heads=1",
    )  # fmt: skip
    inside("export", "--model", tmp_path / "run", "--to", "gguf", "--quantize", "f32", "--out", tmp_path / "out")
    asked = [
        inside("generate", "--model", tmp_path / name, *(word for text in RAW for word in ("--prompt", text)))
        for name in ("run", "out")
    ]
    answers = [[row["text"] for row in document["completions"]] for document in asked]
    assert answers[0] == answers[1]
    assert "stop words, which Ollama cannot" in (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8")


def test_a_warning_of_unknown_words_quotes_the_text_as_given(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "量子纠缠与相对论。"
    assert main.run(["generate", "--model", str(run), "--prompt", text]) == 0
    said = capsys.readouterr().err
    assert "tokens are unknown to the tokenizer" in said
    assert repr(text) in said


def test_each_character_is_a_word_without_segmentation(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("preprocess", str(rows), "--task", "classification", "--tokenizer", "word", "--out")
    assert main.run([*words, str(tmp_path / "raw")]) == 0
    assert "each character is a word; --segment jieba" in capsys.readouterr().err
    assert main.run([*words, str(tmp_path / "cut"), "--segment", "jieba"]) == 0
    assert "each character" not in capsys.readouterr().err


def test_a_long_run_of_one_character_is_cut_in_linear_time() -> None:
    """200,000 characters took minutes. No time is asserted: the limit of a test's time is enough."""
    from llmctl.data.cleaning.words import cutter

    cut = cutter()
    assert "".join(cut("的" * 200_000)) == "的" * 200_000
    assert cut("今天天气很好，我们去公园散步。") == ["今天天气", "很", "好", "，", "我们", "去", "公园", "散步", "。"]
