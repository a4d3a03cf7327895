"""Settings of `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import StrictInt

from llmctl.config import Spec, flag, key
from llmctl.settings import AUTO, EngineName, ModelReference, TaskName
from llmctl.values import Duration, Size

MEBIBYTE: Final = 1 << 20


class ServeConfig(Spec):
    """Serve a model over HTTP, for OpenAI clients and browsers."""

    model: ModelReference = flag(..., "run, model folder, or hf:ID", panel="Main")
    task: TaskName | None = flag(
        None, "task of the web page and of text prompts; default: the one the model was trained for", panel="Main"
    )
    host: str = flag("127.0.0.1", "address to listen on; any but this machine's own needs keys", panel="Network")
    port: StrictInt = flag(8000, "port to listen on; 0: a free one", panel="Network", ge=0, le=65535)
    api_key_file: Path | None = flag(
        None, "file with the keys that clients may use, one per line; default: no key", panel="Network"
    )
    max_batch: StrictInt = flag(16, "answers that are generated at once", panel="Limits", ge=1)
    max_queue: StrictInt = flag(256, "answers that may wait for their turn; more are refused", panel="Limits", ge=0)
    engine: EngineName = flag(AUTO, "engine that runs the model; auto: the one for what its folder holds", panel="Run")
    seed: StrictInt | None = flag(
        None, "random seed of requests without one; default: a new one for each", panel="Run", ge=0
    )
    name: str | None = key(None, "name of the model for clients; default: that of its folder", min_length=1)
    max_new_tokens: Size = key(2048, "maximum length of an answer in tokens, whatever a request asks for", ge=1)
    max_body: Size = key(4 * MEBIBYTE, "maximum size of a request in bytes", ge=1024)
    max_upload: Size = key(25 * MEBIBYTE, "maximum size of an uploaded recording in bytes", ge=1024)
    max_connections: StrictInt = key(1024, "maximum number of open connections; more are closed", ge=1)
    request_timeout: Duration = key(600.0, "maximum time for a request, waiting included", gt=0)
    client_timeout: Duration = key(
        30.0, "maximum time for a client to send a request, and to take what it was sent", gt=0
    )
    base: Path | None = key(None, "base model of an adapter, if it has moved")
    precision: Literal["auto", "fp32", "bf16"] = key("fp32", "precision of the computation")
