"""Chat templates that know tools, in the manners of published models, and a tokenizer of bytes to go with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmctl.data.tokenizing.alphabet import BYTES

HERMES: Final = """{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- '# Tools\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
{{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'assistant' and not message.tool_calls) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant' }}
{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
{%- for call in message.tool_calls %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
"""Like those of Hermes and Qwen: a block for each call, the answers of tools in one message of the user."""

LLAMA: Final = """{{- bos_token }}{{- '<|start|>system<|end|>' }}
{%- if tools %}{{- 'Functions: ' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{%- endif %}
{%- if messages[0].role == 'system' %}{{- messages[0].content | trim }}{%- endif %}{{- '<|eot|>' }}
{%- for message in messages if message.role != 'system' %}
{%- if message.tool_calls %}
{%- if message.tool_calls | length != 1 %}{{- raise_exception('This model only supports single tool-calls at once!') }}{%- endif %}
{%- set call = message.tool_calls[0].function %}
{{- '<|start|>assistant<|end|>{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + '}<|eot|>' }}
{%- elif message.role == 'tool' %}
{{- '<|start|>ipython<|end|>' + (message.content | tojson) + '<|eot|>' }}
{%- else %}
{{- '<|start|>' + message.role + '<|end|>' + (message.content | trim) + '<|eot|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant<|end|>' }}{%- endif %}"""
"""Like Llama 3.1's: a call is the whole answer, as bare JSON; several calls at once are an error."""

MISTRAL: Final = """{{- bos_token }}
{%- set last = messages | selectattr('role', 'equalto', 'user') | list | length %}
{%- set count = namespace(users=0) %}
{%- for message in messages %}
{%- if message.role == 'user' %}
{%- set count.users = count.users + 1 %}
{%- if tools and count.users == last %}{{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{%- endif %}
{{- '[INST] ' + message.content + '[/INST]' }}
{%- elif message.tool_calls is defined and message.tool_calls is not none %}
{{- '[TOOL_CALLS] [' }}
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{- raise_exception('Tool call IDs should be strings of length 9!') }}{%- endif %}
{{- '{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + ', "id": "' + call.id + '"}' }}
{%- if not loop.last %}{{- ', ' }}{%- endif %}
{%- endfor %}
{{- ']' + eos_token }}
{%- elif message.role == 'assistant' %}{{- ' ' + message.content + eos_token }}
{%- elif message.role == 'tool' %}
{{- '[TOOL_RESULTS] {"content": ' + message.content + ', "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- endif %}
{%- endfor %}"""
"""Like Mistral's: the definitions stand before the last question, ids have nine characters, no generation prompt."""

DEEPSEEK: Final = """{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'user' %}{{- '<|User|>' + message.content + '<|Assistant|>' }}
{%- elif message.role == 'assistant' and message.tool_calls is defined %}
{%- for call in message.tool_calls %}{{- '<|call|>' + call.type + '<|sep|>' + call.function.name + '\\n' + call.function.arguments }}{%- endfor %}
{{- eos_token }}
{%- elif message.role == 'assistant' %}{{- message.content + eos_token }}
{%- elif message.role == 'tool' %}{{- '<|output|>' + message.content + '<|Assistant|>' }}
{%- endif %}
{%- endfor %}"""
"""Like DeepSeek's: arguments are JSON in a text, definitions are not rendered."""

THINKING: Final = HERMES.replace(
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}",
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}",
)
"""Like those of models that reason: a prompt begins a train of thought, which finished answers do not show."""

FORGETFUL: Final = HERMES.replace("{%- for call in message.tool_calls %}", "{%- for call in [] %}")
"""Like LFM2's: definitions are rendered, calls are not."""

XML: Final = HERMES.replace(
    """{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}""",
    """<function=' + call.function.name + '>' }}
{%- for key, value in call.function.arguments.items() %}{{- '<parameter=' + key + '>' + value + '</parameter>' }}{%- endfor %}
{{- '</function>""",
)
"""Like Qwen3-Coder's: names and arguments stand between the signs of tags."""

UNKNOWING: Final = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Plain ChatML, which knows no tools."""

_SPECIAL: Final = ("<s>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot|>", "[TOOL_CALLS]", "<|User|>")
_ADDED: Final = ("<tool_call>", "</tool_call>")


def tokenizer_with(template: str, folder: Path, *, eos: str = "<|im_end|>") -> Any:
    """A tokenizer of bytes with this chat template, saved in a folder. The marks of calls are no special tokens, as in Qwen's."""
    backend = Tokenizer(models.BPE({byte: number for number, byte in enumerate(BYTES)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in _SPECIAL])
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in _ADDED])
    found = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token=eos, pad_token="<s>")
    found.chat_template = template
    found.save_pretrained(folder)
    return found
