"""Texts and conversations that every export is tried on."""

import random
from typing import Any

TEXTS = (
    "",
    " ",
    "   three spaces, \t\ta tab\n\n\n\n\nand five lines\r\n",
    "The quick brown fox jumps over the lazy dog. 1234567890 3.14159 -1e10 1,000,000",
    "Don't you're we'll I'd he's O'Brien -- \u201cquoted\u201d \u2026 \u2014",
    "def f(x: int) -> str:\n    return f'{x:>10}'  # 100%\n\n\nclass A(B): pass\n",
    "SELECT * FROM t WHERE a <> 'b' AND c LIKE '%d_';",
    "\\frac{1}{2} \\sum_{i=0}^{n} x_i^2 \u2264 \u221e \u222b \u2202 \u00b1",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "Portez ce vieux whisky au juge blond qui fume. Où ça ? À Nîmes, naïf !",
    "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia. ¿Qué? ¡Sí!",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "我能吞下玻璃而不伤身体。天地玄黃，宇宙洪荒。",
    "いろはにほへと ちりぬるを　アイウエオ ｱｲｳ",
    "키스의 고유조건은 입술끼리 만나야 하고",
    "أنا قادر على أكل الزجاج و هذا لا يؤلمني.",
    "אני יכול לאכול זכוכית וזה לא מזיק לי.",
    "मैं काँच खा सकता हूँ और मुझे उससे कोई चोट नहीं पहुंचती.",
    "আমি কাঁচ খেতে পারি, তাতে আমার কোনো ক্ষতি হয় না।",
    "ฉันกินกระจกได้ แต่มันไม่ทำให้ฉันเจ็บ",
    "Tôi có thể ăn thủy tinh mà không hại gì. Türkçe ığüşöç İI",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 👍🏽 ☕️ 🍲 e\u0301 = é ﬁ ﷽ 𝔘𝔫𝔦 𐍈",
    "\x00\x01\x07\x1b[31m\x7f\x80\x9f\u200b\u200d\u202e\u2060\ufeff\ufffd\u2581 \u2581a",
    "https://example.org/a?b=c&d=%20#e user@example.org /usr/bin/env $HOME ~/.x",
    "<|user|> <think <s> </s> [INST] <0x41> <unk> &lt;",
    "a" * 200,
    "\n" * 13 + "\t" * 11 + " " * 33,
)

_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
_CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}}}
_QUESTION = {"role": "user", "content": "  Hello! Who are you?  "}
_ANSWER = {"role": "assistant", "content": "I am a model. 你好"}

# Arguments of apply_chat_template, which are also those of `parse_conversation` and `parse_prompt`.
CHATS: tuple[dict[str, Any], ...] = (
    {"messages": [_QUESTION], "add_generation_prompt": True},
    {
        "messages": [{"role": "system", "content": "Be brief.\nBe kind."}, _QUESTION, _ANSWER],
        "add_generation_prompt": False,
    },
    {
        "messages": [_QUESTION, _ANSWER, {"role": "user", "content": "And \nthen?"}, _ANSWER, _QUESTION],
        "add_generation_prompt": True,
    },
    {
        "messages": [
            _QUESTION,
            {"role": "assistant", "content": "<think>\nHm, a greeting.\n</think>\n\nHello."},
        ],
        "add_generation_prompt": False,
    },
    {
        "messages": [
            {"role": "system", "content": "You know the weather."},
            {"role": "user", "content": "Is it raining?"},
            {
                "role": "assistant",
                "content": "<think>\nI ask.\n</think>\n\nLet me see.",
                "tool_calls": [_CALL],
            },
            {"role": "tool", "content": '{"rain": false}'},
            {"role": "assistant", "content": "No."},
            {"role": "user", "content": "Thanks"},
        ],
        "tools": [_WEATHER],
        "add_generation_prompt": True,
    },
    {
        "messages": [
            {"role": "user", "content": "Is it raining?"},
            {"role": "assistant", "content": "", "tool_calls": [_CALL]},
            {"role": "tool", "content": "yes"},
        ],
        "tools": [_WEATHER, _WEATHER],
        "add_generation_prompt": True,
    },
)


def random_texts(count: int, *, seed: int) -> list[str]:
    """Texts of any characters, also unassigned ones, but without surrogates."""
    draw = random.Random(seed)
    ranges = [(0x20, 0x7E), (0x20, 0x7E), (0x0, 0x2FF), (0x370, 0x1FFF), (0x2000, 0x33FF)]
    ranges += [(0x3400, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF), (0x1F300, 0x1FAFF)]
    texts = []
    for _ in range(count):
        kinds = draw.sample(ranges, k=draw.randint(1, 3))
        texts.append("".join(chr(draw.randint(*draw.choice(kinds))) for _ in range(draw.randint(1, 60))))
    return texts
