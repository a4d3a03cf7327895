"""The engine that runs a Whisper folder exported for CTranslate2, by its own search.

Letters: B windows of a batch, M mel bands, T frames of 10 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import ctranslate2

from llmctl.engines.exported import load_exported
from llmctl.engines.plain import Abandoned
from llmctl.engines.spec import Sampling
from llmctl.engines.speech import SpeechEngine
from llmctl.store.border import border, running
from llmctl.store.models import ModelFolder
from llmctl.types import AudioWindow, Family

OF_THE_MODEL: Final = -1
"""In the place of a token: those that the folder's config.json suppresses."""
ANY_TIME: Final = 1500
"""Index of the last time in a window of 30 s."""


class CTranslate2SpeechEngine(SpeechEngine):
    """Runs the export in `model`. An answer does not depend on the batch it was generated in."""

    def __init__(
        self,
        model: ModelFolder,
        tokenizer: Any,
        family: Family,
        *,
        layout_context: int | None = None,
        **settings: Any,
    ) -> None:
        """`settings`: device and precision, which the export decides."""
        with border("CTranslate2 cannot open the model", model.path):
            self.runner: Any = ctranslate2.models.Whisper(str(model.path))
        self._take(load_exported(model, tokenizer, family, layout_context), layout_context)

    def _tokens(
        self,
        windows: Sequence[AudioWindow],
        before: tuple[int, ...],
        sampling: Sampling,
        room: int,
        abandoned: Abandoned,
        *,
        times: bool,
    ) -> list[list[int]]:
        """CTranslate2 generates at most half of `max_length`, and at most `max_length` less the tokens before."""
        features = self._inputs(windows)["input_features"].numpy()  # (B, M, T)
        latest = getattr(self.model.generation_config, "max_initial_timestamp_index", None)
        with running(self.model):
            found = self.runner.generate(
                ctranslate2.StorageView.from_array(features),
                [list(before)] * len(windows),
                beam_size=sampling.num_beams,
                max_length=max(2 * room, room + len(before)),
                suppress_blank=True,
                suppress_tokens=[OF_THE_MODEL],
                max_initial_timestamp_index=ANY_TIME if latest is None else latest,
            )
        return [list(each.sequences_ids[0][:room]) for each in found]
