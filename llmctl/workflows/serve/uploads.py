"""Recordings that clients send: as a file of a form, or in Base64 in a record. None names a file of this machine."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request as HttpRequest

from llmctl.errors import naming
from llmctl.types import Audio
from llmctl.workflows.serve.bodies import shown
from llmctl.workflows.serve.guard import received
from llmctl.workflows.serve.refusals import Refusal

FILE: Final = "file"
MOST_FIELDS: Final = 64
LONGEST_FIELD: Final = 65_536
AROUND: Final = 65_536
"""Bytes of a form besides its file."""
LIST: Final = "[]"
"""The ending of the name of a field that may come several times."""


@contextlib.asynccontextmanager
async def form(request: HttpRequest, *, most: int, seconds: float) -> AsyncGenerator[tuple[dict[str, Any], UploadFile]]:
    """The fields of a form and its file of at most `most` bytes, which is on disk and ends with the context.

    Raises `Refusal` for a body that is no such form, and what `received` raises.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise Refusal(400, "the body must be multipart/form-data with the recording as file", code="invalid_form")
    body = received(request, most=most + AROUND, seconds=seconds)
    parser = MultiPartParser(request.headers, body, max_files=1, max_fields=MOST_FIELDS, max_part_size=LONGEST_FIELD)
    try:
        with naming(Path(tempfile.gettempdir())):
            found = await parser.parse()
    except MultiPartException as error:
        raise Refusal(400, f"the form cannot be read: {error.message}", code="invalid_form") from error
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(found.close)
        fields: dict[str, Any] = {}
        for name, value in found.multi_items():
            if isinstance(value, UploadFile) != (name == FILE):
                problem = "must be an uploaded file" if name == FILE else "must not be a file"
                raise Refusal(400, f"{shown(name)} {problem}", param=shown(name))
            field = name.removesuffix(LIST)
            if field in fields and not (field != name and isinstance(fields[field], list)):
                raise Refusal(400, f"{shown(field)} is given twice", param=shown(field))
            if field != name:
                fields.setdefault(field, []).append(value)
            else:
                fields[field] = value
        upload = fields.pop(FILE, None)
        if not isinstance(upload, UploadFile):
            raise Refusal(400, "file is required: the recording", param=FILE)
        if (upload.size or 0) > most:
            raise Refusal(413, f"the recording is larger than {most:,} bytes", param=FILE, code="body_too_large")
        yield fields, upload


@contextlib.contextmanager
def stored(upload: UploadFile) -> Iterator[Audio]:
    """The file under a name of its own, which it loses at the end."""
    with tempfile.TemporaryDirectory(prefix="llmctl-upload-") as folder:
        path = Path(folder) / "recording"
        with naming(path.parent.parent), path.open("wb") as file:
            shutil.copyfileobj(upload.file, file)
        yield Audio(str(path))


def sent(fields: Mapping[str, Any], columns: Sequence[str], where: str, status: int) -> dict[str, Any]:
    """The fields of a record with its recordings, each `{"data": BASE64}`. Raises `Refusal` with the status for anything
    else: a path would be one of this machine."""
    found = dict(fields)
    for name in columns:
        value, place = found.get(name), f"{where}.{name}"
        data = value.get("data") if isinstance(value, Mapping) and set(value) == {"data"} else None
        if not isinstance(data, str):
            raise Refusal(status, f'{place} must be the recording itself: {{"data": BASE64}}', param=place)
        try:
            content = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Refusal(status, f"{place}.data is not Base64", param=f"{place}.data") from error
        found[name] = Audio(place, content)
    return found


def content_id(audio: Audio) -> str:
    """An id derived from the file: 16 hexadecimal digits of its hash."""
    return hashlib.blake2b(audio.data or b"", digest_size=8).hexdigest()
