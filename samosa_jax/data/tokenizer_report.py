"""How well a tokenizer fits kinds of text: characters and bytes per token on short samples.

The samples were written for this file. GPT-2's vocabulary is not at hand offline, so its column quotes
bytes per token that nanochat's tokenizer report published for texts of the same kind, not for these.
"""

from dataclasses import dataclass

from rich.table import Table

from samosa_jax.data.tokenizer import Tokenizer

GPT2_SOURCE = (
    "GPT-2: published bytes per token on other texts of the same kind, from the tokenizer report of "
    "huggingface.co/nanochat-students/nanochat-tokenizer-2B"
)
# Bytes and GPT-2 tokens of the published samples.
GPT2_PUBLISHED = {"news": 1819 / 404, "code": 1259 / 576, "maths": 1834 / 936, "Korean": 893 / 745}

SAMPLES = {
    "news": """\
The city council voted late on Tuesday to close the old harbor bridge to heavy trucks until repairs
are finished, a decision that shipping companies called costly and residents called overdue.
Engineers who inspected the bridge in March reported cracks in two of its six supports. "Nobody
wants to be the mayor who waited too long," said council member Teresa Almeida, who proposed the
measure. The work is expected to take fourteen months and to cost about 38 million dollars, half of
it paid by the regional government. A ferry will carry trucks across the river from June.
""",
    "story": """\
Once upon a time, a small turtle found a silver key by the river. "Who lost this?" she asked the
frogs, but the frogs did not know. So she carried it from door to door, slowly, all summer long. In
the end, it opened nothing at all, but by then every door in the forest was open to her.
""",
    "code": '''\
def longest_run(values: list[int]) -> tuple[int, int]:
    """Returns (start, length) of the longest run of equal neighbours."""
    best = (0, 0)
    start = 0
    for i in range(1, len(values) + 1):
        if i == len(values) or values[i] != values[start]:
            if i - start > best[1]:
                best = (start, i - start)
            start = i
    return best


if __name__ == "__main__":
    print(longest_run([3, 3, 1, 4, 4, 4, 2]))  # (3, 3)
''',
    "maths": r"""Let $f(x) = x^3 - 6x^2 + 11x - 6$. Since $f(1) = 1 - 6 + 11 - 6 = 0$, the polynomial has the
factor $(x - 1)$, and division gives $f(x) = (x - 1)(x^2 - 5x + 6) = (x - 1)(x - 2)(x - 3)$. Its roots are
therefore 1, 2 and 3, and \[ \int_1^2 f(x)\,dx = \left[ \tfrac{x^4}{4} - 2x^3 + \tfrac{11x^2}{2} -
6x \right]_1^2 = \frac{1}{4}. \] A train covers 348 km in 2.4 hours: 348 / 2.4 = 145 km/h. In 75
minutes it covers 145 * 1.25 = 181.25 km.
""",
    "German": """\
Der Bäcker am Marktplatz öffnet jeden Morgen um sechs Uhr, und schon eine halbe Stunde später stehen
die ersten Kunden bis auf die Straße. Am liebsten kaufen sie das dunkle Brot, das noch nach dem
alten Rezept seiner Großmutter gebacken wird. Nächstes Jahr übernimmt seine Tochter das Geschäft.
""",
    "French": """\
Chaque dimanche, le vieux facteur traverse le village à vélo, bien qu'il soit à la retraite depuis
dix ans. Il s'arrête devant chaque maison, demande des nouvelles des enfants et repart en sifflant.
Personne n'a jamais su pourquoi il emporte toujours une lettre dans la poche de sa veste.
""",
    "Spanish": """\
La biblioteca del pueblo cerró durante el invierno porque el tejado dejaba entrar la lluvia. En
primavera, los vecinos se reunieron para repararlo con sus propias manos. Ahora hay más lectores que
nunca, y una niña de nueve años dirige el club de lectura de los sábados.
""",
    "Russian": """\
Рано утром рыбаки вышли в море, хотя ветер ещё не утих. К полудню тучи разошлись, и на горизонте
показался остров, которого не было ни на одной карте. Старый капитан долго смотрел в бинокль и
наконец сказал, что пора возвращаться.
""",
    "Arabic": """\
في كل مساء يجلس الجد أمام البيت ويحكي للأطفال قصة قصيرة عن البحر. يسأله الصغار دائما إن كانت القصة
حقيقية، فيبتسم ويقول إن البحر وحده يعرف الجواب. ثم يشربون الشاي معا حتى تظهر النجوم.
""",
    "Hindi": """\
गाँव के पास एक पुराना कुआँ है जिसका पानी गर्मियों में भी ठंडा रहता है। हर सुबह बच्चे वहाँ पानी भरने
जाते हैं और रास्ते में गीत गाते हैं। इस साल बारिश अच्छी हुई, इसलिए खेत फिर से हरे हो गए।
""",
    "Chinese": """\
山脚下有一家小茶馆，老板每天清晨就起来烧水。过路的人坐下来喝一杯茶，
说说路上的见闻，然后继续赶路。下雨的日子客人很少，他就坐在窗边读书，听雨打在瓦片上的声音。
""",
    "Japanese": """\
駅前の小さな本屋は、夜になると静かになる。店主は古い本を一冊ずつ棚に戻し、
最後に猫へ水をやってから灯りを消す。明日は新しい絵本が届くので、子どもたちが朝から待っているだろう。
""",
    "Korean": """\
할머니는 봄이 오면 마당에 상추와 고추를 심으신다. 여름이 되면 우리는 평상에
둘러앉아 갓 딴 채소로 저녁을 먹는다. 올해는 비가 많이 와서 걱정했지만 다행히 모두 잘 자랐다.
""",
}


@dataclass(frozen=True, kw_only=True)
class SampleRatio:
    sample: str
    num_bytes: int
    num_characters: int
    num_tokens: int

    @property
    def bytes_per_token(self) -> float:
        return self.num_bytes / self.num_tokens

    @property
    def characters_per_token(self) -> float:
        return self.num_characters / self.num_tokens


def measure(tokenizer: Tokenizer) -> list[SampleRatio]:
    """One entry for every text of SAMPLES, in its order."""
    return [
        SampleRatio(
            sample=name,
            num_bytes=len(text.encode()),
            num_characters=len(text),
            num_tokens=len(tokenizer.encode(text)),
        )
        for name, text in SAMPLES.items()
    ]


def as_table(ratios: list[SampleRatio], *, vocab_size: int) -> Table:
    table = Table(title=f"Tokenizer of {vocab_size:,} tokens", caption=GPT2_SOURCE, caption_justify="left")
    table.add_column("text")
    for header in ("bytes", "chars", "tokens", "chars per token", "bytes per token", "GPT-2 bytes per token"):
        table.add_column(header, justify="right")
    for ratio in ratios:
        published = GPT2_PUBLISHED.get(ratio.sample)
        table.add_row(
            ratio.sample,
            f"{ratio.num_bytes:,}",
            f"{ratio.num_characters:,}",
            f"{ratio.num_tokens:,}",
            f"{ratio.characters_per_token:.2f}",
            f"{ratio.bytes_per_token:.2f}",
            "-" if published is None else f"{published:.2f}",
        )
    return table
