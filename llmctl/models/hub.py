"""`hf:ID`: downloads from the Hugging Face hub. All access to the hub goes through this module."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from llmctl.errors import EnvironmentFault, UsageError
from llmctl.models.spec import HUB
from llmctl.store.tokenizers import TOKENIZER_FILES

TOKENIZER_PATTERNS: Final = (*TOKENIZER_FILES, "config.json")
MODEL_PATTERNS: Final = ("*.safetensors", "*.json", "*.jinja", *TOKENIZER_FILES)


def folder(name: str, *, offline: bool, patterns: tuple[str, ...] = MODEL_PATTERNS) -> Path:
    """The local folder of `hf:ID`, cached or downloaded: safetensors weights, JSON files, tokenizer.

    Raises `EnvironmentFault` if it is not cached and cannot be downloaded, with a hint on how to copy it by hand.
    """
    repo = name.removeprefix(HUB)
    if repo.count("/") > 1 or not repo:
        raise UsageError(f"{name!r} is not a hub name", hint="write hf:OWNER/NAME")
    offline = offline or os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", "")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, allow_patterns=list(patterns), local_files_only=offline))
    except LocalEntryNotFoundError as error:
        why = "--offline or HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        raise EnvironmentFault(
            f"{name} is not in the hub's cache on this machine, and {why}",
            hint=f"on a machine with network access: hf download {repo} --local-dir DIR; then copy DIR here and use it",
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EnvironmentFault(
            f"{name} could not be downloaded: {first}", hint="check the name and the network"
        ) from error
