"""Makes corpora of which is known what is wrong with each record: a seed gives the same corpus everywhere."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

EN = (
    "The council approved the new library on Monday after a long debate about its cost.",
    "Farmers in the valley expect a good harvest because the spring rains came early this year.",
    "She repaired the old radio with parts from a shop that closed many years ago.",
    "Most visitors arrive by train and walk along the river to the museum in the afternoon.",
    "Our neighbours keep bees, and every autumn they bring us a jar of dark honey.",
    "The lecture explained how glaciers shape mountains over thousands of years.",
    "Nobody noticed the mistake until the report had been printed and sent to every office.",
    "A small team of engineers tested the bridge at night while the road was closed.",
    "The recipe needs flour, butter and patience, and the oven has to be really hot.",
    "Children learn the song quickly, although the words are older than their grandparents.",
)
ZH = (
    "市议会在周一经过长时间的讨论之后，批准了新图书馆的建设方案。",
    "因为今年春雨来得早，山谷里的农民都期待着一个好收成。",
    "她用一家早已关门的商店里的零件，修好了那台旧收音机。",
    "大多数游客坐火车来，下午沿着河边走到博物馆去参观。",
    "我们的邻居养蜜蜂，每年秋天都会送来一罐深色的蜂蜜。",
    "讲座解释了冰川怎样在几千年的时间里塑造山脉的形状。",
    "直到报告印好并且送到每个办公室，也没有人发现那个错误。",
    "一小队工程师趁夜里道路封闭的时候，对大桥进行了测试。",
    "这道菜需要面粉、黄油和耐心，烤箱也一定要烧得很热。",
    "孩子们很快就学会了这首歌，虽然歌词比他们的祖父母还要老。",
)
OTHER = (
    "Der Stadtrat hat am Montag nach langer Debatte dem Bau der neuen Bibliothek zugestimmt.",
    "Les agriculteurs de la vallée attendent une bonne récolte parce que les pluies sont venues tôt.",
    "Ella arregló la vieja radio con piezas de una tienda que cerró hace muchos años.",
    "Большинство посетителей приезжает на поезде и идёт вдоль реки к музею.",
    "La maggior parte dei visitatori arriva in treno e cammina lungo il fiume fino al museo.",
    "近所の人は蜂を飼っていて、毎年秋になると濃い色の蜂蜜をくれます。",
    "대부분의 방문객은 기차로 도착하여 오후에 강을 따라 박물관까지 걸어갑니다.",
    "De meeste bezoekers komen met de trein en wandelen langs de rivier naar het museum.",
)
BOILERPLATE = (
    "We use cookies to improve your experience.\nAccept all cookies\nPrivacy policy\nAll rights reserved.",
    "Home | About | Contact\nSubscribe to our newsletter\nFollow us on social media\nCopyright 2024 Example Ltd.",
    "Click here to read more\nShare this article\nBack to top\nTerms of use",
    "Please enable JavaScript to view this page.\nSign in\nSkip to main content\nPowered by OldBlog",
    "首页 > 新闻\n上一篇：春季运动会\n下一篇：校园开放日\n版权所有，转载请注明出处",
    "登录 | 注册\n扫一扫二维码关注微信公众号\n点击这里查看更多\n京ICP备12345678号",
    "分享到\n相关阅读\n返回顶部\n联系我们",
    "隐私政策\n用户协议\n友情链接\n网站地图",
)
LOOK_ALIKES = (
    "order no. 4111 2222 3333 4445", "订单号：13912345678", "ISBN 978-0-306-40615-7", "version 10.0.19041.1", "v1.2.3.4",
    "2024-01-15 10:30:45", "GPS 39.9042, 116.4074", "@username on the forum", "user@localhost", "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
    "110105194912310021", "logo@2x.png", "the ratio is 3.14159265358979", "part 123-456-7890", "127.0.0.1", "255.255.255.0",
    "a score of 1234567890123456", "net income of 1,234,567,890 dollars", "UTC+08:00", "DE00 1234 5678 9012 3456 78", "std::vector<int>",
    "00:1A:2B:3C:4D:5E", "500-600-700 people", "the token is the smallest unit", "编号 20240115123456789", "git@github.com:owner/project.git",
    "pages 1941-1945", "room 0101", "流水号 6222021234567890124", "build 2.4.1.7", "550e8400-e29b-41d4-a716-446655440000",
)  # fmt: skip


class Row(NamedTuple):
    """A record and what is wrong with it: a kind of personal data, `language`, `boilerplate`, `leaked`, or None."""

    text: str
    wrong: str | None
    secret: str = ""


def luhn(digits: str) -> str:
    """The check digit for these digits."""
    total = sum(each - 9 if each > 9 else each for each in (int(digit) * 2 for digit in digits[::-2]))
    return str(-(total + sum(map(int, digits[-2::-2]))) % 10)


def resident_id(draw: random.Random) -> str:
    digits = draw.choice(("110105", "310104", "440305", "510107", "330106")) + (
        f"{draw.randint(1950, 2010)}{draw.randint(1, 12):02}{draw.randint(1, 28):02}{draw.randint(0, 999):03}"
    )
    total = sum(pow(2, 17 - place, 11) * int(digit) for place, digit in enumerate(digits))
    return digits + "10X98765432"[total % 11]


def iban(draw: random.Random) -> str:
    country, length = draw.choice((("DE", 22), ("ES", 24), ("FR", 27), ("GB", 22)))
    body = "".join(draw.choices("0123456789", k=length - 4))
    body = "WEST" + body[4:] if country == "GB" else body
    number = int("".join(str(int(each, 36)) for each in body + country + "00"))
    code = f"{country}{98 - number % 97:02}{body}"
    return " ".join(code[at : at + 4] for at in range(0, length, 4)) if draw.random() < 0.5 else code


def secret(kind: str, draw: random.Random) -> str:
    """A piece of personal data of a kind, valid as far as anything can tell."""
    digits = lambda count: "".join(draw.choices("0123456789", k=count))  # noqa: E731
    letters = lambda count: "".join(draw.choices("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789", k=count))  # noqa: E731
    if kind == "email":
        name = draw.choice(("li.wei", "anna_schmidt", "j.doe+news", "zhang-san88", "info"))
        return f"{name}@{draw.choice(('mail.example.com', 'qq.com', 'uni-bonn.de', 'company.co.uk', '163.com'))}"
    if kind == "phone":
        mobile = f"1{draw.choice('3456789')}{draw.choice('0123456789')}"
        area = f"{draw.randint(2, 9)}{draw.randint(0, 9)}{draw.randint(0, 9)}"
        return draw.choice(
            (
                f"{mobile}{digits(8)}", f"+86 {mobile} {digits(4)} {digits(4)}", f"{mobile}-{digits(4)}-{digits(4)}",
                f"0{draw.choice(('10', '21', '755'))}-{draw.randint(2, 8)}{digits(7)}",
                f"({area}) {draw.randint(2, 9)}{digits(2)}-{digits(4)}", f"{area}-{draw.randint(2, 9)}{digits(2)}-{digits(4)}",
                f"+44 20 7{digits(3)} {digits(4)}", f"+1 {area} {draw.randint(2, 9)}{digits(2)} {digits(4)}", f"+49 30 {digits(8)}",
            )
        )  # fmt: skip
    if kind == "id":
        return resident_id(draw)
    if kind == "card":
        body = draw.choice(("4", "52", "62170", "6222")) + digits(15)
        body = body[:15]
        number = body + luhn(body)
        return " ".join(number[at : at + 4] for at in range(0, 16, 4)) if draw.random() < 0.5 else number
    if kind == "iban":
        return iban(draw)
    if kind == "ip":
        first = draw.choice([n for n in range(1, 224) if n != 127])
        return f"{first}.{draw.randint(0, 255)}.{draw.randint(0, 255)}.{draw.randint(1, 254)}"
    return draw.choice(
        (
            f"AKIA{letters(16).upper()}",
            f"ghp_{letters(36)}",
            f"sk-{letters(40)}",
            f"api_key={letters(32)}",
            f"hf_{letters(34)}",
        )
    )


KINDS = ("email", "phone", "id", "card", "iban", "ip", "key")
_INSIDE = (
    "You can reach him under {} at any time.",
    "Contact: {}",
    "请联系{}，谢谢。",
    "他的信息是 {} ，请保密。",
    "({})",
    "see {}, please.",
)


def prose(draw: random.Random, *, chinese: bool, sentences: int = 3) -> str:
    """Sentences of one language, each with a number, so that no two records are equal."""
    chosen = draw.sample(ZH if chinese else EN, sentences)
    number = draw.randint(100, 99_999)
    return "".join([*chosen, f"这是第{number}篇。"]) if chinese else " ".join([*chosen, f"This is article {number}."])


def corpus(count: int, seed: int = 0) -> Iterator[Row]:
    """Half of the records clean, some of them with look-alikes; the others with one thing wrong, in turn."""
    draw = random.Random(seed)
    wrong = (*KINDS, "language", "boilerplate")
    for number in range(count):
        chinese = number % 4 in (1, 2)
        text = prose(draw, chinese=chinese)
        if number % 2:
            kind = wrong[number // 2 % len(wrong)]
            if kind == "language":
                yield Row(
                    " ".join(draw.sample(OTHER[:5], 1) * 1 + [draw.choice(OTHER)])
                    if number % 3
                    else draw.choice(OTHER),
                    kind,
                )
            elif kind == "boilerplate":
                yield Row(draw.choice(BOILERPLATE) + f"\n{number}", kind)
            else:
                value = secret(kind, draw)
                yield Row(f"{text} {draw.choice(_INSIDE).format(value)}", kind, value.rpartition("=")[2])
        elif number % 4 == 2:
            yield Row(f"{text} ({draw.choice(LOOK_ALIKES)})", None)
        else:
            yield Row(text, None)
