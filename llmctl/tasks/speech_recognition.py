"""Speech recognition: a recording and what is said in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from llmctl.tasks.spec import Column, Task
from llmctl.types import Adapting, Audio, Record, Segment

COLUMNS: Final = {
    "audio": ("file_name", "path", "audio_filepath", "audio_path", "wav"),
    "text": ("sentence", "transcription", "transcript", "normalized_text"),
}
"""Names of the columns in Hugging Face's audio folders, Common Voice, NeMo manifests and others."""


class SpeechRecognition(Task):
    """`{audio, text}`: the model is trained to write what is said. `audio` is the path of a file."""

    name = "speech-recognition"
    columns = (Column("audio", Audio), Column("text"))
    also = tuple(name for names in COLUMNS.values() for name in names)
    families = ("ctc", "speech-seq2seq")
    metrics = ("wer", "cer")
    modality = "audio"

    def segments(self, record: Record) -> list[Segment]:
        audio: Audio = record.fields["audio"]
        return [Segment("source", audio.path, audio=audio), Segment("target", record.fields["text"], in_loss=True)]

    def record_of(self, prompt: str) -> Mapping[str, Any]:
        return {"audio": Audio(prompt)}

    def adapt(self, record: Record, adapting: Adapting) -> Record:
        fields = dict(record.fields)
        for name, others in COLUMNS.items():
            found = next((other for other in others if fields.get(other) is not None), None)
            if name not in fields and found is not None:
                fields[name] = fields.pop(found)
                adapting.layouts[f"{name} in the column {found}"] += 1
        return replace(record, fields=fields)
