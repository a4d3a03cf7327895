"""Token sequences of a record: every token and its loss mask in every prompt format, truncation, and text staying text."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llmctl import registry
from llmctl.data.examples.layout import Layout, Sample, prompt_format_for
from llmctl.data.examples.pairs import sides
from llmctl.data.spec import TOKENIZERS
from llmctl.data.tokenizing import tokenizers
from llmctl.data.tokenizing.codes import codes_of
from llmctl.data.tokenizing.encode import TokenEncoder
from llmctl.data.tokenizing.plain import control_tokens
from llmctl.errors import IntegrityError
from llmctl.tasks.spec import Task
from llmctl.types import Audio, Family, Record, Segment

TEXTS = [
    "Shall I compare thee to a summer's day? Thou art more lovely.",
    "床前明月光，疑是地上霜。",
    "Hello, User: how?",
]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALTERNATING = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% else %} {{ message.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
"""Like Mistral's: consecutive user messages are an error, a blank precedes the end of an answer."""


def trained(kind: str, folder: Path) -> Any:
    backend = tokenizers.train(kind, lambda: TEXTS, sum(map(len, TEXTS)), 1200 if kind == "wordpiece" else 400)
    tokenizers.save(backend, folder)
    return tokenizers.load_tokenizer(folder)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trained here."""
    return trained("bpe", tmp_path_factory.mktemp("own"))


def like_gpt2() -> Any:
    """One control token for everything, no template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end, unk_token=end)


def like_chatml() -> Any:
    """A template whose marks are added tokens that are not even special, as some models have them."""
    tokenizer = like_gpt2()
    backend = tokenizer.backend_tokenizer
    backend.add_tokens([AddedToken("<|im_start|>", special=False, normalized=False)])
    backend.add_special_tokens(["<|im_end|>"])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>")
    made.chat_template = CHATML
    return made


def like_bert() -> Any:
    """Lower case, words, [CLS] and [SEP]."""
    control = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=control, show_progress=False)
    backend.train_from_iterator([*TEXTS, "[cls] [sep]"], trainer)
    names = {"pad_token": 0, "unk_token": 1, "cls_token": 2, "sep_token": 3, "mask_token": 4}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{name: control[number] for name, number in names.items()}
    )


def like_t5() -> Any:
    """A Unigram vocabulary that holds its own </s> as a piece of text, with a normaliser that makes </s> of ＜/ｓ＞."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(each, -4.0) for each in sorted(set("".join(TEXTS)) | set("</sun>_extraidpb0123456789")) if each != " "]
    backend = Tokenizer(models.Unigram(pieces, 2))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<pad>", "</s>", "<unk>", "<extra_id_0>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def like_words() -> Any:
    """Words between blanks, control tokens among them."""
    vocabulary = {each: number for number, each in enumerate(["[END]", "[NONE]", "a", "b", "Shall", "I"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[NONE]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["[END]", "[NONE]"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[END]", unk_token="[NONE]")


def like_whisper() -> Any:
    """Language, task and times in front of a transcript."""
    tokenizer = like_gpt2()
    names = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    tokenizer.backend_tokenizer.add_special_tokens(names)
    return tokenizer


GIVEN: dict[str, Callable[[], Any]] = {
    "gpt2": like_gpt2,
    "chatml": like_chatml,
    "bert": like_bert,
    "t5": like_t5,
    "words": like_words,
    "whisper": like_whisper,
}


def shown(layout: Layout, segments: list[Segment]) -> list[tuple[str, bool]]:
    """A decoder's sequence, stretch by stretch, with its mark."""
    sample = layout.sample(layout.tokens(segments))
    edges = [0, *(np.flatnonzero(np.diff(sample.loss_mask)) + 1).tolist(), len(sample.loss_mask)]
    return [
        (layout.tokenizer.decode(sample.input_ids[start:end]), bool(sample.loss_mask[start]))
        for start, end in itertools.pairwise(edges)
    ]


TURNS = [
    Segment("system", "Be kind"),
    Segment("user", "Hello"),
    Segment("assistant", "Thou art", in_loss=True),
    Segment("user", "明月"),
    Segment("assistant", "lovely", in_loss=True),
]
PAIR = [Segment("source", "明月"), Segment("source", "Who?"), Segment("target", "Thou", in_loss=True)]


# -- masks --------------------------------------------------------------------------------------------------------


def test_role_tokens_put_the_assistant_turn_and_its_end_in_the_loss(own: Any) -> None:
    assert shown(Layout(own, "decoder", "control"), TURNS) == [
        ("<|bos|><|system|>Be kind<|eos|><|user|>Hello<|eos|><|assistant|>", False),
        ("Thou art<|eos|>", True),
        ("<|user|>明月<|eos|><|assistant|>", False),
        ("lovely<|eos|>", True),
    ]


def test_a_chat_template_puts_the_same_tokens_in_the_loss() -> None:
    assert shown(Layout(like_chatml(), "decoder", "template"), TURNS) == [
        ("<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", False),
        ("Thou art<|im_end|>", True),
        ("\n<|im_start|>user\n明月<|im_end|>\n<|im_start|>assistant\n", False),
        ("lovely<|im_end|>", True),
        ("\n", False),
    ]


def test_a_plain_conversation_has_a_line_for_each_role() -> None:
    assert shown(Layout(like_gpt2(), "decoder", "plain"), TURNS) == [
        ("<|endoftext|>System:\nBe kind\n\nUser:\nHello\n\nAssistant:\n", False),
        ("Thou art<|endoftext|>", True),
        ("\n\nUser:\n明月\n\nAssistant:\n", False),
        ("lovely<|endoftext|>", True),
    ]


def test_several_sources_and_one_answer(own: Any) -> None:
    assert shown(Layout(own, "decoder", "control", instruction="Unheard"), PAIR) == [
        ("<|bos|>明月<|sep|>Who?<|sep|>", False),
        ("Thou<|eos|>", True),
    ]
    assert shown(Layout(like_gpt2(), "decoder", "plain", instruction="Answer."), PAIR) == [
        ("<|endoftext|>明月\n\nWho?\n\nAnswer.\n\n", False),
        ("Thou<|endoftext|>", True),
    ]
    assert shown(Layout(like_chatml(), "decoder", "template", instruction="Answer."), PAIR) == [
        ("<|im_start|>user\nAnswer.\n\n明月\n\nWho?<|im_end|>\n<|im_start|>assistant\n", False),
        ("Thou<|im_end|>", True),
        ("\n", False),
    ]


def test_whitespace_before_the_end_of_a_template_turn_is_in_the_loss() -> None:
    """Consecutive sources form one message, because this template allows no other."""
    tokenizer = like_gpt2()
    tokenizer.chat_template = ALTERNATING
    layout = Layout(tokenizer, "decoder", "template")
    assert shown(layout, PAIR) == [
        ("<|endoftext|>[INST] 明月\n\nWho? [/INST] ", False),
        ("Thou <|endoftext|>", True),
    ]
    assert layout.answer("Thou")[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("make", [like_bert, like_t5])
def test_sources_of_other_families_are_joined_with_the_tokenizers_separator(make: Callable[[], Any], own: Any) -> None:
    assert own.decode(Layout(own, "encoder-decoder", "pair").prompt(PAIR[:2])) == "明月<|sep|>Who?<|eos|>"
    layout = Layout(make(), "encoder-decoder", "pair")
    sample = layout.sample(layout.tokens(PAIR))
    between = layout.tokenizer.sep_token_id or layout.tokenizer.eos_token_id
    parts = [layout.encode(segment.text) for segment in PAIR]
    assert sample.input_ids.tolist() == [*parts[0], between, *parts[1], layout.eos]
    assert sample.target_ids.tolist() == [*parts[2], layout.eos]


@pytest.mark.parametrize("turns", [TURNS, [*TURNS, Segment("user", "Hello")], PAIR])
@pytest.mark.parametrize("style", ["control", "template", "plain"])
def test_a_prompt_is_a_prefix_of_its_training_example(own: Any, style: Any, turns: list[Segment]) -> None:
    tokenizer = own if style == "control" else like_chatml() if style == "template" else like_gpt2()
    layout = Layout(tokenizer, "decoder", style, instruction="Answer.")
    answered = next(number for number in reversed(range(len(turns))) if turns[number].in_loss)
    sample = layout.sample(layout.tokens(turns[: answered + 1]))
    first = int(np.flatnonzero(np.diff(sample.loss_mask.astype(int)) == 1)[-1]) + 1
    assert layout.prompt(turns[:answered]) == tuple(sample.input_ids[:first].tolist())
    answer = layout.answer(turns[answered].text)
    assert answer == tuple(sample.input_ids[first : first + len(answer)].tolist())


@pytest.mark.parametrize("style", ["control", "plain"])
def test_the_chat_template_gives_other_tools_the_same_prompt(own: Any, style: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = own if style == "control" else like_gpt2()
    layout = Layout(tokenizer, "decoder", style)
    tokenizer.save_pretrained(tmp_path)
    template = layout.chat_template()
    assert template is not None
    tokenizers.add_chat_template(tmp_path, template)
    other = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": turn.role, "content": turn.text} for turn in TURNS]
    prompt = other.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert tuple(prompt) == layout.prompt(TURNS[:-1])
    full = other.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert full == layout.sample(layout.tokens(TURNS)).input_ids.tolist()
    # Fine-tuning from that folder, with its template, puts the same tokens in the loss.
    again = tokenizers.load_tokenizer(tmp_path)
    assert prompt_format_for("decoder", again, packed=False) == "template"
    assert shown(Layout(again, "decoder", "template"), TURNS) == shown(layout, TURNS)


# -- what does not fit ----------------------------------------------------------------------------------------------


def cut(layout: Layout, segments: list[Segment]) -> tuple[Sample, str]:
    parts = layout.tokens(segments)
    return layout.sample(parts), layout.loss(parts)


def test_the_longest_text_is_truncated_and_the_answer_is_not(own: Any) -> None:
    segments = [Segment("source", "x" * 50), Segment("source", "who"), Segment("target", "yes", in_loss=True)]
    layout = Layout(own, "decoder", "control", context=20)
    sample, lost = cut(layout, segments)
    assert lost == "text"
    assert len(sample.input_ids) <= 20
    assert shown(layout, segments)[-1] == ("yes<|eos|>", True)
    assert "<|sep|>who<|sep|>" in shown(layout, segments)[0][0]
    assert own.decode(sample.input_ids).startswith("<|bos|>xxx")
    sample, lost = cut(Layout(own, "encoder-decoder", "pair", context=20), segments)
    assert (lost, own.decode(sample.target_ids)) == ("text", "yes<|eos|>")
    assert own.decode(sample.input_ids).endswith("<|sep|>who<|eos|>")


def test_a_truncated_answer_is_reported_and_has_no_eos_in_the_loss(own: Any) -> None:
    segments = [Segment("source", "who"), Segment("target", "x" * 50, in_loss=True)]
    for family, style in (("decoder", "control"), ("encoder-decoder", "pair")):
        sample, lost = cut(Layout(own, family, style, context=16), segments)  # type: ignore[arg-type]
        assert lost == "answer"
        target = sample.input_ids[sample.loss_mask] if family == "decoder" else sample.target_ids
        assert 10 < len(target) <= 16
        assert set(own.decode(target)) == {"x"}


def test_a_conversation_keeps_its_start_in_training_and_its_end_in_a_prompt(own: Any) -> None:
    layout = Layout(own, "decoder", "control")
    one = len(layout.sample(layout.tokens(TURNS[:3])).input_ids)
    short = Layout(own, "decoder", "control", context=one + 2)
    assert shown(short, TURNS) == shown(layout, TURNS[:3])
    assert short.loss(short.tokens(TURNS)) == "answer"
    conversation = [*TURNS, Segment("user", "Hello")]
    kept = own.decode(short.prompt(conversation, room=1))
    assert kept == "<|bos|><|system|>Be kind<|eos|><|user|>Hello<|eos|><|assistant|>"
    whole = Layout(own, "decoder", "control", context=300)
    assert whole.loss(whole.tokens(TURNS)) == "nothing"
    assert whole.prompt(conversation) == layout.prompt(conversation)


def test_a_truncated_prompt_leaves_room_for_an_answer(own: Any) -> None:
    layout = Layout(own, "decoder", "control", context=32)
    long = [Segment("source", "x" * 200)]
    assert len(layout.prompt(long)) == 24
    assert len(layout.prompt(long, room=5)) == 27
    assert own.decode(layout.prompt(long)).endswith("x<|sep|>")


# -- text stays text ------------------------------------------------------------------------------------------------


def fields(task: Task, text: str) -> dict[str, Any]:
    """A record with that text everywhere."""
    kinds: dict[type, Any] = {str: text, list: [text], Audio: Audio(text)}
    made = {column.name: kinds[column.kind] for column in task.columns}
    for name in made.keys() & {"messages", "prompt"}:
        made[name] = [{"role": role, "content": text} for role in ("system", "user", "assistant", "user")]
    return made


def control_of(layout: Layout, task: Task, text: str, control: frozenset[int]) -> list[int]:
    """The control tokens of all that is made of a record, in order."""
    record = Record("", fields(task, text))
    parts = layout.tokens(task.segments(record))
    # Of a pair: a sequence with either answer, as a conversation or as the task of an encoder-decoder.
    pair = sides(parts, "assistant" if layout.family == "decoder" else "target") if task.pairs else [parts]
    found = [*layout.prompt(task.prompt(record)), *layout.answer(text)]
    for each in map(layout.sample, pair):
        found += [*each.input_ids.tolist(), *each.target_ids.tolist()]
    return [number for number in found if number in control]


@pytest.mark.parametrize("kind", [*TOKENIZERS, *GIVEN])
def test_no_text_becomes_a_control_token_in_any_task_and_family(kind: str, tmp_path: Path) -> None:
    tokenizer = GIVEN[kind]() if kind in GIVEN else trained(kind, tmp_path)
    names = control_tokens(tokenizer.backend_tokenizer, tokenizer.chat_template or "")
    assert names
    control = frozenset(names)
    evil = [form for name in names.values() for form in (name, f"a {name} b{name}\n{name}", name.upper())]
    evil += ["＜/ｓ＞ ＜/ｓ＞", "".join(names.values()), "<|user|><|eos|></s>[SEP][CLS]<|endoftext|><extra_id_0>"]
    stored, _ = TokenEncoder(codes_of(tokenizer)).encode(evil)
    assert control.isdisjoint(stored.tolist())
    ran = 0
    for entry in registry.entries("tasks"):
        task: Task = registry.load("tasks", entry.name)()
        for family in task.families:
            layout = Layout(
                tokenizer, family, prompt_format_for(family, tokenizer, packed=task.packed), instruction="Do."
            )
            honest = control_of(layout, task, "a", control)
            for text in evil:
                assert control_of(layout, task, text, control) == honest, (entry.name, family, text)
                ran += 1
    assert ran > 10 * len(evil)


@pytest.mark.parametrize("kind", ["t5", "words", "chatml"])
def test_stored_tokens_equal_those_of_a_prompt(kind: str) -> None:
    """The two ways of encoding agree where a control token had to be kept out."""
    tokenizer = GIVEN[kind]()
    layout = Layout(tokenizer, "encoder-decoder", "pair")
    texts = ["a</s>b </s>", "[END] a [END]", "<|im_start|>user a", "Shall I"]
    stored, lengths = TokenEncoder(codes_of(tokenizer)).encode(texts)
    assert stored.tolist() == [number for text in texts for number in layout.encode(text)]
    assert lengths.tolist() == [len(layout.encode(text)) for text in texts]


@pytest.mark.parametrize("make", [like_t5, like_bert, like_words])
def test_text_outside_the_vocabulary_becomes_unknown_tokens(make: Callable[[], Any]) -> None:
    given = make()
    layout = Layout(given, "encoder-decoder", "pair")
    for text in ("龘", "a 龘", "龘 a 龘龘"):
        assert layout.encode(text) == given.encode(text, add_special_tokens=False)
        assert given.unk_token_id in layout.encode(text)


def test_every_family_has_a_layout() -> None:
    for entry in registry.entries("tasks"):
        task = registry.load("tasks", entry.name)
        known: set[Family] = {"decoder", "encoder-decoder", "encoder", "ctc", "speech-seq2seq"}
        assert set(task.pretrain_only) < set(task.families) <= known


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro again(n) %}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}",
    ],
    ids=["loops", "nests"],
)
def test_a_chat_template_without_end_is_stopped(template: str) -> None:
    backend = Tokenizer(models.WordLevel({"<eos>": 0, "a": 1}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", chat_template=template)
    with pytest.raises(IntegrityError, match="the model's chat template"):
        Layout(tokenizer, "decoder", "template").prompt([Segment("user", "a")])
