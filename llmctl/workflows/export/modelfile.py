"""Ollama's Modelfile: the prompt format of training as a Go template, and the texts that end an answer.

https://github.com/ollama/ollama/blob/main/docs/modelfile.md; Ollama encodes a template's text with control tokens
recognised, and adds the bos token itself only if the GGUF file says so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from llmctl.data.examples.layout import Layout
from llmctl.errors import IntegrityError
from llmctl.types import Record, Role
from llmctl.workflows.inference.model import ModelHandle

Turns = tuple[tuple[Role, bool], ...]

WORDS_NEEDED: Final = (
    "# Training cut text into words or removed stop words, which Ollama cannot: it answers raw text worse than\n"
    "# llmctl does with --model and this folder."
)
_ASKED: Final[Turns] = (("user", False),)
_CHAT: Final[Turns] = (("user", False), ("assistant", True), ("user", False))
_SYSTEM: Final[Turns] = (("system", False), *_CHAT)


def end_ids(layout: Layout, generation: Any) -> list[int]:
    """The tokens that end an answer: eos, then the others of the chat template and of the generation settings."""
    own = generation.eos_token_id if generation is not None else None
    found = [layout.eos, *layout.answer("")[-1:], *(own if isinstance(own, list) else [own])]
    return list(dict.fromkeys(int(each) for each in found if each is not None))


def ollama(handle: ModelHandle, layout: Layout, file: str, ends: Sequence[int], *, add_bos: bool) -> str:
    """The Modelfile for the GGUF file of that name beside it."""
    names = [layout.tokenizer.convert_ids_to_tokens(each) for each in ends]
    rules = handle.folder.card.clean if handle.folder.card else None
    lines = [WORDS_NEEDED] if rules and (rules.get("segment", "none") != "none" or rules.get("stopword_list")) else []
    lines += [f"FROM ./{file}", f'TEMPLATE """{template(handle, layout, add_bos=add_bos)}"""']
    lines += [f"PARAMETER stop {json.dumps(name, ensure_ascii=False)}" for name in names]
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1"]
    if layout.context is not None:
        lines.append(f"PARAMETER num_ctx {layout.context}")
    return "\n".join(lines) + "\n"


def template(handle: ModelHandle, layout: Layout, *, add_bos: bool) -> str:
    """The prompt format as a Go template: of conversations for a chat model, else of one prompt."""
    if handle.task.answer_role == "assistant":
        return _conversation(layout)
    segments = handle.task.prompt(_record(handle))
    before, _, after = _texts(layout, tuple((each.role, False) for each in segments[:1]))
    opening = before[0]
    if add_bos:
        opening = opening.removeprefix(layout.tokenizer.bos_token)
    return f"{_go(opening)}{{{{ .Prompt }}}}{_go(after)}"


def _record(handle: ModelHandle) -> Any:

    return Record("", handle.task.record_of("text"))


def _conversation(layout: Layout) -> str:
    """Each role's text before its content, which depends on the turn before it; the answer begins after the last one."""
    before, ends, after = _texts(layout, _CHAT)
    user = f'{{{{ if eq $last "" }}}}{_go(before[0])}{{{{ else }}}}{_go(before[2])}{{{{ end }}}}'
    system = ""
    try:
        opened, _, _ = _texts(layout, _SYSTEM)
        user = f'{{{{ if eq $last "" }}}}{_go(before[0])}{{{{ else if eq $last "system" }}}}{_go(opened[1])}{{{{ else }}}}{_go(before[2])}{{{{ end }}}}'
        system = f'{{{{ if eq .Role "system" }}}}{_go(opened[0])}{{{{ .Content }}}}{{{{ end }}}}'
    except IntegrityError:
        pass  # a template without system messages
    user_turn = f'{{{{ if eq .Role "user" }}}}{user}{{{{ .Content }}}}{{{{ end }}}}'
    answer = f'{{{{ if eq .Role "assistant" }}}}{_go(before[1])}{{{{ .Content }}}}{_go(ends[1])}{{{{ end }}}}'
    loop = f"{{{{ range .Messages }}}}{system}{user_turn}{answer}{{{{ $last = .Role }}}}{{{{ end }}}}"
    return f'{{{{ $last := "" }}}}{loop}{_go(after)}'


def _texts(layout: Layout, turns: Turns) -> tuple[list[str], list[str], str]:
    """What stands before each content, after it, and where the answer begins, as text with names of control tokens."""
    delimiters = layout.delimiters(turns)

    def text(ids: Any) -> str:
        found: str = layout.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return found if len(ids) else ""

    return [text(each) for each in delimiters.before], [text(each) for each in delimiters.ends], text(delimiters.after)


def _go(text: str) -> str:
    """A text as a constant of a Go template; Go reads the escapes of JSON."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""
