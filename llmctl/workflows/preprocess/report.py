"""`PREPARED/report.html`: what was read, kept and dropped, with samples; one file without links, English and Chinese."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from llmctl.data.cleaning.filters.spec import FILTERS
from llmctl.data.cleaning.judge import DroppedRecord
from llmctl.script import Script, script_of
from llmctl.store import atomic
from llmctl.tasks.spec import Task

REPORT: Final = "report.html"
SHOWN: Final = 300
"""Characters of a sample."""
MOST_LABELS: Final = 30
RECORDS: Final = 2000
"""Texts of the train split by which scripts are counted."""

SCRIPTS: Final[Mapping[Script, tuple[str, str]]] = {
    "latin": ("Latin", "拉丁文"),
    "chinese": ("Chinese", "中文"),
    "japanese": ("Japanese", "日文"),
    "korean": ("Korean", "韩文"),
    "unspaced": ("Thai, Lao, Burmese …", "泰文、老挝文、缅甸文等"),
    "other": ("other", "其他"),
}
REASONS: Final[Mapping[str, tuple[str, str]]] = {
    "empty": ("no text", "没有文本"),
    "too_short": ("shorter than clean.min_chars", "短于 clean.min_chars"),
    "too_long": ("longer than max_length", "长于 max_length"),
    "not_in_loss": ("no turn is in the loss", "没有计入损失的轮次"),
    "duplicate": ("the same content as an earlier record", "与前面的记录内容相同"),
    "bad_record": ("bad records, skipped", "跳过的坏记录"),
    "near_duplicate": ("nearly the same as another record", "与另一条记录几乎相同"),
    "leakage": ("nearly the same as a held-out record", "与留出的记录几乎相同"),
    "languages": ("in another language", "其他语言"),
    "decontaminate": ("overlap with texts that are held out", "与留出文本重叠"),
    "pii": ("personal data", "个人信息"),
}


@dataclass(slots=True)
class Account:
    """What the page shows."""

    task: str
    records: Mapping[str, Any]
    """`read`, `kept`, `dropped`, `rejected`, as in the manifest."""
    found: Mapping[str, int]
    splits: Mapping[str, int]
    tokens: Mapping[str, int]
    labels: Mapping[str, int]
    samples: Mapping[str, Sequence[DroppedRecord]]
    lengths: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    """Split -> (most tokens of a record, records) for each column of its histogram."""
    scripts: Mapping[Script, int] = field(default_factory=dict)
    gates: Sequence[Mapping[str, Any]] = ()
    near: Mapping[str, Any] = field(default_factory=dict)
    """How near-duplicates were looked for, and how many clusters there are."""


def write_report(folder: Path, account: Account, task: Task) -> None:
    """Write the page into the prepared folder; measures lengths and scripts of what it holds."""
    from llmctl.data.storing.lengths import histogram
    from llmctl.data.storing.text import read_text, shards
    from llmctl.data.storing.tokens import TokenStore

    train = read_text(shards(folder / "text", "train"))
    account.scripts = scripts_of(
        part.text for record in train for part in task.segments(record) if part.audio is None and part.role != "label"
    )
    splits = [split for split, records in account.splits.items() if records]
    account.lengths = {split: histogram(TokenStore.open(folder / "tokens", split)) for split in splits}
    atomic.write_text(folder / REPORT, page(account))


def scripts_of(texts: Iterable[str]) -> dict[Script, int]:
    """Texts by their script."""
    counts = Counter[Script]("latin" if text.isascii() else script_of([text]) for text in islice(texts, RECORDS))
    return dict(counts.most_common())


def page(account: Account) -> str:
    """The page, the same for the same account."""
    parts = [
        f"<h1>{_both((f'Prepared data: {account.task}', f'预处理数据：{account.task}'))}</h1>",
        _summary(account),
        _gates(account.gates),
        _dropped(account),
        _found(account.found),
        _lengths(account.lengths),
        _bars(("Labels of the train split", "训练集的标签"), islice(account.labels.items(), MOST_LABELS)),
        _bars(
            (f"Scripts of the first {RECORDS:,} texts of the train split", f"文字种类（训练集前 {RECORDS:,} 条文本）"),
            ((_both(SCRIPTS[name]), count) for name, count in account.scripts.items()),
            marked=True,
        ),
        _sources(account.records["dropped"], account.found),
    ]
    return _PAGE.format(title=html.escape(f"llmctl preprocess: {account.task}"), body="\n".join(filter(None, parts)))


def _both(texts: tuple[str, str]) -> str:
    """A text in both languages; the page shows one."""
    return f'<span class="en">{html.escape(texts[0])}</span><span class="zh" lang="zh">{html.escape(texts[1])}</span>'


def _heading(english: str, chinese: str) -> str:
    return f"<h2>{_both((english, chinese))}</h2>"


def _table(headings: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]], numbers: Sequence[int]) -> str:
    """`rows` are HTML; `numbers`: the columns that are aligned right."""
    marks = ['<th class="n">' if place in numbers else "<th>" for place in range(len(headings))]
    head = "".join(f"{mark}{_both(each)}</th>" for mark, each in zip(marks, headings, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=n' if at in numbers else ''}>{cell}</td>" for at, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _summary(account: Account) -> str:
    records = account.records
    dropped = sum(records["dropped"].values())
    read = max(records["read"], 1)
    cards = [
        (("read", "读取"), records["read"], None),
        (("kept", "保留"), records["kept"], records["kept"] / read),
        (("dropped", "剔除"), dropped, dropped / read),
        (("rejected", "拒绝"), records["rejected"], records["rejected"] / read),
    ]
    shown = "".join(
        f"<li><b>{count:,}</b> {_both(name)}{'' if share is None else f' <i>{share:.1%}</i>'}</li>"
        for name, count, share in cards
    )
    rows = [
        (html.escape(name), f"{count:,}", f"{account.tokens.get(name, 0):,}") for name, count in account.splits.items()
    ]
    table = _table((("split", "划分"), ("records", "记录"), ("tokens", "token 数")), rows, (1, 2))
    return f'<ul class="cards">{shown}</ul>{table}'


def _gates(gates: Sequence[Mapping[str, Any]]) -> str:
    if not gates:
        return ""
    rows = [
        (
            f"<code>{html.escape(gate['require'])}</code>",
            _both(("met", "满足")) if gate["met"] else f'<strong class="bad">{_both(("not met", "未满足"))}</strong>',
            html.escape(gate["why"]),
        )
        for gate in gates
    ]
    return _heading("Gates", "门禁") + _table((("gate", "门禁"), ("", ""), ("why", "原因")), rows, ())


def _reason(name: str) -> str:
    known = REASONS.get(name)
    return f"<code>{html.escape(name)}</code>" + (f" {_both(known)}" if known else "")


def _dropped(account: Account) -> str:
    dropped: Mapping[str, int] = {name: count for name, count in account.records["dropped"].items() if count}
    if not dropped:
        return _heading("Nothing was dropped", "没有剔除任何记录")
    read = max(account.records["read"], 1)
    parts = [_heading("Dropped, by reason", "剔除的记录（按原因）")]
    for name, count in sorted(dropped.items(), key=lambda each: (-each[1], each[0])):
        samples = account.samples.get(name, ())
        text = f"<summary>{_reason(name)} <b>{count:,}</b> <i>{count / read:.1%}</i>{_bar(count / read)}</summary>"
        near = (
            f"<p>{html.escape(_near(account.near))}</p>"
            if account.near and name in ("near_duplicate", "leakage")
            else ""
        )
        parts.append(f"<details>{text}{near}{''.join(map(_sample, samples))}</details>")
    return "\n".join(parts)


def _near(near: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in near.items())


def _sample(record: DroppedRecord) -> str:
    """A dropped record, without personal data: a report is passed on."""
    from llmctl.data.cleaning.filters.pii import masked

    text = masked(record.text[: 2 * SHOWN], Counter())
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    why = f'<span class="why">{html.escape(masked(record.why, Counter()))}</span>' if record.why else ""
    return (
        f'<blockquote><span class="at">{html.escape(record.origin)}</span> {why}<p>{html.escape(text)}</p></blockquote>'
    )


def _found(found: Mapping[str, int]) -> str:
    if not found:
        return ""
    rows = [(_reason(name), f"{count:,}") for name, count in found.items()]
    return _heading("Found in records that were kept", "在保留的记录中发现") + _table(
        (("what", "内容"), ("count", "数量")), rows, (1,)
    )


def _lengths(lengths: Mapping[str, Sequence[tuple[int, int]]]) -> str:
    parts = []
    for split, columns in lengths.items():
        parts.append(f"<h3>{html.escape(split)}</h3>{_histogram(columns)}")
    return _heading("Tokens per record", "每条记录的 token 数") + "".join(parts) if parts else ""


def _histogram(columns: Sequence[tuple[int, int]]) -> str:
    """A histogram as SVG: columns of doubling width, each labelled with its upper end."""
    width, height = 44, 120
    most = max((count for _, count in columns), default=1) or 1
    drawn = []
    for at, (end, count) in enumerate(columns):
        tall = height * count / most
        drawn.append(
            f'<rect x="{at * width + 4}" y="{height - tall + 16:.1f}" width="{width - 8}" height="{tall:.1f}"/>'
            f'<text x="{at * width + width / 2}" y="{height - tall + 11:.1f}">{count:,}</text>'
            f'<text x="{at * width + width / 2}" y="{height + 30}">≤{end:,}</text>'
        )
    size = f'viewBox="0 0 {max(len(columns), 1) * width} {height + 36}" width="{max(len(columns), 1) * width}"'
    return f'<div class="wide"><svg {size} role="img">{"".join(drawn)}</svg></div>'


def _bars(heading: tuple[str, str], counts: Iterable[tuple[str, int]], *, marked: bool = False) -> str:
    """A row with a bar for each count. `marked`: the names are HTML."""
    rows = list(counts)
    total = sum(count for _, count in rows)
    if not total:
        return ""
    lines: Iterator[Sequence[str]] = (
        (name if marked else html.escape(name), f"{count:,}", f"{count / total:.1%}", _bar(count / total))
        for name, count in rows
    )
    return _heading(*heading) + _table((("", ""), ("count", "数量"), ("share", "占比"), ("", "")), lines, (1, 2))


def _bar(share: float) -> str:
    return f'<span class="bar"><span style="width:{min(share, 1):.1%}"></span></span>'


def _sources(*counts: Mapping[str, int]) -> str:
    """The publications behind the filters that found something."""
    names = {name.split(".")[0] for each in counts for name in each}
    cited = [text for row in FILTERS if row.setting in names for text in row.sources]
    items = "".join(f"<li>{html.escape(text)}</li>" for text in cited)
    return f"{_heading('Sources of the filters', '过滤器的来源')}<ul>{items}</ul>" if items else ""


_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --bar: #3b7dd8; --bad: #c0392b; }}
body {{ font: 16px/1.5 system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif; max-width: 60rem;
  margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }} h3 {{ font-size: 1rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }}
.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
i {{ font-style: normal; opacity: .7; }}
.cards {{ display: flex; flex-wrap: wrap; gap: .5rem; padding: 0; list-style: none; }}
.cards li {{ flex: 1 1 8rem; border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem; }}
.cards b {{ display: block; font-size: 1.4rem; }}
details {{ border-bottom: 1px solid var(--line); padding: .4rem 0; }}
summary {{ cursor: pointer; }}
.bar {{ display: block; min-width: 6rem; height: .4rem; background: var(--line); border-radius: .2rem; }}
.bar span {{ display: block; height: 100%; background: var(--bar); border-radius: .2rem; }}
blockquote {{ margin: .6rem 0; padding: .1rem .8rem; border-left: 3px solid var(--line); }}
blockquote p {{ margin: .2rem 0; white-space: pre-wrap; }}
.at, .why {{ font-size: .85rem; opacity: .75; }}
.bad {{ color: var(--bad); }}
svg rect {{ fill: var(--bar); }} svg text {{ font-size: 10px; text-anchor: middle; fill: currentColor; }}
.tongue {{ float: right; }}
body:has(#zh:checked) .en, body:not(:has(#zh:checked)) .zh {{ display: none; }}
</style>
</head>
<body>
<div class="tongue"><label><input type="radio" name="tongue" id="en" checked> English</label>
<label lang="zh"><input type="radio" name="tongue" id="zh"> 中文</label></div>
<script>if ((navigator.language || "").startsWith("zh")) document.getElementById("zh").checked = true;</script>
{body}
</body>
</html>
"""
