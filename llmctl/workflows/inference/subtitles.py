"""When the parts of a recording are said: as lines, and as a file of subtitles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Segments = Sequence[Mapping[str, Any]]
"""Each with `start` and `end` in seconds, and `text`."""


def lines(segments: Segments) -> Iterator[str]:
    """`[00:00:01.500 --> 00:00:04.000] text`"""
    for each in segments:
        yield f"[{clock(each['start'])} --> {clock(each['end'])}] {each['text']}"


def srt(segments: Segments) -> str:
    """SubRip: numbered blocks of times and text, with a comma before the milliseconds."""
    blocks = (
        f"{number}\n{clock(each['start'], ',')} --> {clock(each['end'], ',')}\n{_line(each['text'])}\n"
        for number, each in enumerate(segments, start=1)
    )
    return "\n".join(blocks)


def vtt(segments: Segments) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1): a header, then blocks of times and text without markup."""
    blocks = (f"\n{clock(each['start'])} --> {clock(each['end'])}\n{_plain(each['text'])}\n" for each in segments)
    return "WEBVTT\n" + "".join(blocks)


def _line(text: str) -> str:
    """A blank line would end a block."""
    return " ".join(text.split())


def _plain(text: str) -> str:
    return _line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def clock(seconds: float, point: str = ".") -> str:
    """Hours, minutes, seconds and milliseconds."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02}:{minute:02}:{second:02}{point}{thousandths:03}"
