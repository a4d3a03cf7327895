"""Makes the data sets spoken-numbers-*.parquet with espeak-ng 1.51: python -m llmctl.data.sets.spoken_numbers

Recordings are 8 kHz, 16 bit FLAC; of the 16 bits the upper 10 are used, which halves their size. Silence at both ends
is cut down to 30 ms. The output is the same at every run of the same espeak-ng.
"""

from __future__ import annotations

import io
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llmctl.data.audio import sound

RATE: Final = 8_000
STEP: Final = 1 << 6
"""Quantisation: samples are multiples of it."""
SILENCE: Final = 0.01
"""Amplitude below which a sound begins or ends, relative to its loudest sample."""
MARGIN: Final = 0.03
"""Seconds of silence that are kept at both ends."""
SPEEDS: Final = (160, 180, 200, 220, 240)
"""Words per minute."""
ONES: Final = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS: Final = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
DIGITS: Final = "零一二三四五六七八九"


class SpokenSet(NamedTuple):
    """The voices of a data set, and how many numbers below 100 each says."""

    voices: tuple[str, ...]
    numbers_each: int


EN: Final = ("en-us", "en-us+m3", "en-us+m7", "en-us+f2", "en-us+f3", "en-us+f5")
GB: Final = ("en-gb", "en-gb+m1", "en-gb+f4", "en-gb-scotland+m2", "en-gb-x-rp", "en-gb-x-rp+f1")
ZH: Final = ("cmn", *(f"cmn+{name}" for name in ("m1", "m2", "m3", "m7", "f1", "f2", "f3", "f4", "f5", "linda", "max")))
SETS: Final = {
    "spoken-numbers-en": SpokenSet((*EN, *GB), 28),
    "spoken-numbers-en-voices": SpokenSet(("en-us+m4", "en-us+linda", "en-gb+max", "en-gb+steph"), 15),
    "spoken-numbers-zh": SpokenSet(ZH, 23),
    "spoken-numbers-zh-voices": SpokenSet(("cmn+m4", "cmn+m8", "cmn+anika", "cmn+steph"), 15),
}


def english(number: int) -> str:
    """The words of a number below 100."""
    if number < 20:
        return ONES[number]
    tens, ones = divmod(number, 10)
    return TENS[tens - 2] + (f" {ONES[ones]}" if ones else "")


def chinese(number: int) -> str:
    """The characters of a number below 100."""
    tens, ones = divmod(number, 10)
    if not tens:
        return DIGITS[ones]
    return ("" if tens == 1 else DIGITS[tens]) + "十" + (DIGITS[ones] if ones else "")


def spoken(voice: str, speed: int, text: str) -> NDArray[np.int16]:
    """(N,) samples at 8 kHz."""
    import soundfile

    command = ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text]
    said = subprocess.run(command, capture_output=True, check=True).stdout
    samples, rate = soundfile.read(io.BytesIO(said), dtype="float32")
    samples = np.concatenate(list(sound.resampled([samples], rate, RATE)))
    loud = np.flatnonzero(np.abs(samples) > SILENCE * np.abs(samples).max())
    margin = round(MARGIN * RATE)
    samples = samples[max(0, loud[0] - margin) : loud[-1] + margin]
    steps = np.round(samples / np.abs(samples).max() * (2**15 - STEP) / STEP)
    quantised: NDArray[np.int16] = (steps * STEP).astype(np.int16)
    return quantised


def rows(name: str) -> Iterator[dict[str, Any]]:
    """The records: `id`, `audio` as `datasets` keeps it, `text`, `speaker`."""
    import soundfile

    draw = random.Random(0)
    voices, each = SETS[name]
    write = chinese if "-zh" in name else english
    for voice in voices:
        for number in sorted(draw.sample(range(100), each)):
            speed = draw.choice(SPEEDS)
            file = io.BytesIO()
            samples = spoken(voice, speed, write(number))
            soundfile.write(file, samples, RATE, format="FLAC", subtype="PCM_16", compression_level=1.0)
            place = f"{voice}-{speed}-{number}"
            audio = {"bytes": file.getvalue(), "path": f"{place}.flac"}
            yield {"id": place, "audio": audio, "text": write(number), "speaker": voice}


def make(folder: Path) -> None:
    """Write every data set into `folder`."""
    audio = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("id", pa.string()), ("audio", audio), ("text", pa.string()), ("speaker", pa.string())])
    for name in SETS:
        table = pa.Table.from_pylist(list(rows(name)), schema=schema)
        pq.write_table(table, folder / f"{name}.parquet", compression="none", use_dictionary=False)


if __name__ == "__main__":
    make(Path(__file__).parent)
