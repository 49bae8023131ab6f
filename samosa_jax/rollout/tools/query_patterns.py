"""What tells a question that needs the web from one that does not: tables of patterns, each with an example.

Patterns are tried on one sentence, without its politeness and final punctuation, in any case. Words in
quotation marks are hidden from them. `query_vetoes` has the patterns that speak against a search.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Pattern:
    reason: str
    expression: str
    example: str

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        return re.compile(self.expression, re.IGNORECASE)


def first_match(patterns: Iterable[Pattern], text: str) -> tuple[Pattern, re.Match[str]] | None:
    for pattern in patterns:
        if found := pattern.compiled.search(text):
            return pattern, found
    return None


WEEKDAY = "(?:mon|tues|wednes|thurs|fri|satur|sun)day"

# The user asks for a search. `what` is what to search for; empty or a pronoun means what was asked before.
WISHES = (
    Pattern(
        "explicit wish",
        r"^(?P<what>.+?)\s*[,;:]\s*(?:please )?(?:look (?:it|that|this) up|google (?:it|that)|"
        r"search (?:for it|the web|online))$",
        "Who was the fifth mayor of Oslo, look it up",
    ),
    Pattern("explicit wish", r"^look up (?!to\b)(?P<what>.+)$", "Look up the population of Oslo"),
    Pattern("explicit wish", r"^look (?P<what>.+?) up(?: online)?$", "Look the rules of chess up"),
    Pattern(
        "explicit wish",
        r"^(?:do|run|make|try) an? (?:quick )?(?:web |internet |online |google )?search(?: for| on|"
        r" about)?\b(?P<what>.*)$",
        "Do a web search for cheap laptops",
    ),
    Pattern(
        "explicit wish",
        r"^(?:web )?search(?: (?:the (?:web|internet|net)|online|google))?(?: for| about| on|$)(?P<what>.*)$",
        "Search for the best biryani in Hyderabad",
    ),
    Pattern(
        "explicit wish",
        r"^google (?P<what>(?:for|it|that|this|the|what|who|when|where|how|him|her)\b.*)$",
        "Google the tallest tower in Asia",
    ),
    Pattern(
        "explicit wish",
        r"^(?:check|browse|look|search|use|consult|ask)(?: it| this| that)?(?: on|"
        r" in)? ?(?:the (?:web|internet|net)|online|google|web search)(?: to (?:find|see|check))?(?: for|"
        r" about)?(?P<what>.*)$",
        "Check the web for flights to Goa",
    ),
    Pattern(
        "explicit wish",
        r"^(?:check|find out|verify) (?!if (?:my|this|i)\b)(?P<what>(?:if|whether|who|what|when|where|"
        r"how)\b.*)$",
        "Find out whether Coldplay is touring India",
    ),
    Pattern(
        "explicit wish",
        r"^find (?:me )?(?P<what>.+?) (?:on the (?:web|internet|net)|online)$",
        "Find a manual for this drill online",
    ),
)

_NOT_ELECTRIC = "".join(
    f"(?<!{word} )"
    for word in ("electric", "electrical", "alternating", "direct", "ocean", "sea", "air", "eddy")
)
_PERIOD = "week|weekend|month|quarter|year|season|summer|winter|spring|autumn|fall"

# Words that point at the present.
TIMELY = (
    Pattern("time-sensitive", r"\b(?:today|tonight|tomorrow|yesterday)\b", "Is the Louvre open today?"),
    Pattern(
        "time-sensitive",
        r"\b(?:latest|newest|most recent|recent|recently|lately)\b",
        "Which is the newest Pixel?",
    ),
    Pattern(
        "time-sensitive", r"\b(?:currently|nowadays|presently|upcoming)\b", "Which films are currently on?"
    ),
    Pattern(
        "time-sensitive",
        rf"{_NOT_ELECTRIC}\bcurrent\b(?=\s+[a-z])(?!\s+(?:is|and|in|flows?|through|of|from|account|law|"
        rf"divider|density)\b)",
        "Give me the current inflation rate of Japan",
    ),
    Pattern(
        "time-sensitive",
        r"\b(?:right|just) now\b|\b(?:at the|this very) moment\b|\bat present\b|\bas of\b|\bthese days\b",
        "Where is the space station right now?",
    ),
    Pattern("time-sensitive", r"(?<!^)(?<!by )(?<!for )(?<!until )\bnow\b(?! that)", "Who leads Kenya now?"),
    Pattern(
        "time-sensitive",
        rf"\bthis (?:morning|afternoon|evening|{_PERIOD})\b",
        "Which films come out this week?",
    ),
    Pattern(
        "time-sensitive",
        rf"\b(?:last|past) (?:night|{_PERIOD}|match|game|election|round)\b(?! of)",
        "What did the senate decide last night?",
    ),
    Pattern(
        "time-sensitive",
        rf"\bnext (?:\w+ )?(?:{_PERIOD}|match|game|election|olympics|world cup|launch|episode|eclipse|"
        rf"flight|train|bus)\b",
        "When is the next solar eclipse?",
    ),
    Pattern(
        "time-sensitive",
        r"\b(?:\d+|an?|few) (?:minutes?|hours?|days?|weeks?) ago\b|\bup[- ]to[- ]date\b|\btrending\b|"
        r"\bso far\b",
        "What is trending in India?",
    ),
    Pattern(
        "time-sensitive",
        r"\bbreaking news\b|\blive (?:score|stream|update|result|coverage|traffic)|"
        r"\bjust (?:announced|released|won|died)\b",
        "Give me a live score from Mumbai",
    ),
    Pattern("time-sensitive", r"^(?:is|are|does|do|has)\b.*\bstill\b", "Is Jimmy Carter still alive?"),
)

_OFFICE = (
    r"(?:ceo|cto|cfo|chief(?: executive)?(?: officer)?|boss|president|vice president|prime minister|pm|"
    r"chancellor|king|queen|pope|mayor|governor|(?:\w+ )?minister|senator|captain|(?:head )?coach|manager|"
    r"managing director|director[- ]general|chair(?:man|woman|person)?|head|leader|owner|champion|"
    r"secretary(?: general)?|speaker|richest (?:man|woman|person))"
)
_MONEY = (
    r"(?:dollars?|usd|euros?|eur|pounds?|gbp|rupees?|inr|yen|jpy|yuan|francs?|bitcoins?|btc|ether(?:eum)?)"
)
_GOODS = "share|stock|market|oil|gold|silver|petrol|diesel|gas|fuel|ticket|house|onion|rental"
_CONTEST = "match|game|race|election|final|vote|referendum|draw|grand prix|tournament|cup|league|poll"
_DISASTER = (
    "earthquake|hurricane|cyclone|storm|wildfires?|floods?|flooding|protests?|strike|outbreak|ceasefire"
)

# Subjects whose facts change.
CHANGING = (
    Pattern("weather", r"\b(?:weather|forecast|humidity|air quality|aqi)\b", "What's the weather in Seoul?"),
    Pattern(
        "weather",
        r"\b(?:raining|snowing|sunny|windy)\b|(?:\bwill it|'ll|\bgoing to) (?:be )?(?:rain|"
        "snow|hot|cold|sunny)\b",
        "Is it raining in Paris?",
    ),
    Pattern(
        "weather",
        r"\btemperature in (?!celsius|fahrenheit|kelvin)|\bhow (?:hot|cold|warm) is it\b(?! on)|"
        r"\b(?:umbrella|like outside)\b",
        "How hot is it in Dubai?",
    ),
    Pattern("price", r"\b(?:prices?|cost|quote) (?:of|for)\b", "What is the price of gold?"),
    Pattern(
        "price",
        r"\bhow much (?:is|are) (?!\d|an?\b|one\b|too\b)(?!.*\bin [ck]?[gm]s?$)|"
        r"\bhow (?:expensive|cheap) (?:is|are)\b",
        "How much is the Pixel 10 in India?",
    ),
    Pattern(
        "price",
        r"^(?:how much|what) (?:do|does|did|would|will)\b.*\b(?:cost|go for|sell for|fetch|charge)",
        "How much does a Tesla Model 3 cost?",
    ),
    Pattern("price", rf"\b(?:{_GOODS}) (?:prices?|cap|value)\b", "Tell me about petrol prices in Delhi"),
    Pattern("price", r"^(?!what)(?:\S+ ){1,3}(?:prices?|quote)$", "Bitcoin price"),
    Pattern(
        "price",
        r"\b(?:stock|shares?)\b.*\b(?:doing|worth|trading|up|down|cost)\b|\btrading at\b|\bworth$|"
        r"\bat what price\b|\bon the (?:stock )?(?:exchange|market)\b|\bworth (?:against|in)\b",
        "How are the shares of Nokia doing?",
    ),
    Pattern(
        "rate",
        r"\b(?:exchange|interest|inflation|mortgage|unemployment|repo|tax) rates?\b|\bgdp of\b|"
        r"\bnet worth\b|\bminimum wage\b|\b(?:rais|cut|lower|hik|hold)\w* (?:interest )?rates\b",
        "What is the interest rate of the ECB?",
    ),
    Pattern("rate", rf"\b{_MONEY} (?:in|to|into) (?:\w+ )?{_MONEY}\b", "Convert 100 dollars to rupees"),
    Pattern(
        "contest",
        r"\b(?:scores?|standings|fixtures?|line-?ups?) (?:of|between|for|in|from)\b|\bfinal score\b|"
        r"\b(?:league|points|medal) (?:table|tally)\b|\btop scorer\b|\branked\b",
        "What was the score between Leeds and Hull?",
    ),
    Pattern(
        "contest",
        rf"\bresults? (?:of|from|in|for|between)\b.*\b(?:{_CONTEST}|at home|versus|vs|against)\b|"
        rf"\b(?:{_CONTEST}) results?\b|\bpolls\b|"
        r"\b(?:vote|referendum) in\b|\b(?:lottery|jackpot|candidates?)\b",
        "How did the vote in Oslo end?",
    ),
    Pattern(
        "contest",
        r"^(?:who|which \w+)(?:'s| is| has)? (?:won|wins|winning|leading|beat|ahead)\b|"
        r"^did .* (?:win|beat|lose|qualify)\b|^who came (?:out ahead|first|top)\b|"
        r"^how did (?:it|they|(?:the|that) (?:game|match|race|vote)) (?:finish|end|go|turn out)$",
        "Who won the match between India and Australia?",
    ),
    Pattern(
        "contest",
        rf"^(?:where|when|how) (?:can|could|do|is|will)\b.*\b(?:watch|stream|tickets?|{_CONTEST})\b",
        "When is the Champions League final?",
    ),
    Pattern(
        "contest",
        r"\b(?:most (?:popular|expensive|valuable|watched|followed|streamed|visited)|best[- ]selling|"
        r"highest[- ](?:paid|grossing)|fastest[- ]growing)\b|\bhow many \w+ (?:has|have) (?!an?\b|you\b|"
        r"i\b|we\b)",
        "Which is the highest-grossing film?",
    ),
    Pattern(
        "news",
        r"\bnews\b|\bheadlines?\b|\bupdates? (?:on|about|from)\b|\bany (?:word|developments?)\b",
        "Any news about the strike?",
    ),
    Pattern(
        "news",
        r"\b(?:what|anything)(?:'s| is| has been)? (?:happening|going on)\b|\bpeople\b.*\btalking about\b|"
        r"\bwhat(?: has|'s)? happened (?:in|to|with|at)\b",
        "What's going on in Brussels?",
    ),
    Pattern(
        "news",
        rf"^what (?:did|has) .* (?:decided?|announced?)\b|\b(?:{_DISASTER}|situation) (?:in|near|at|over)\b|"
        r"\bdeath toll\b|\bcasualties\b",
        "What did the council of Leeds decide?",
    ),
    Pattern(
        "news",
        r"^did .* (?:resign|retire|announce|raise|acquire|merge|cancel|divorce)\b|"
        r"^(?:has|have) (?!you\b|i\b|we\b)",
        "Did the coach of Chelsea resign?",
    ),
    Pattern(
        "news",
        rf"\b(?:what(?:'s| is)|anything) new\b|\bstatus of\b|\blayoffs?\b|\bon {WEEKDAY}\b",
        "What's new in Kubernetes?",
    ),
    Pattern(
        "future",
        r"^(?:(?:when|who|where|what) )?will (?!you\b|i\b|we\b|my\b)(?!.*\bif\b)",
        "Who will host the Olympics?",
    ),
    Pattern(
        "office",
        r"\b(?:who(?:'s| is| are)|name) (?:(?:the|now|new|acting|present|serving|our|my) )*(?:\S+'s? )?"
        rf"(?:\S+ ){{0,2}}?{_OFFICE}(?: (?:of|at|for|in)\b|$)",
        "Who is the president of Brazil?",
    ),
    Pattern("office", rf"\bnew {_OFFICE}\b", "Zomato got a new CEO, who is it?"),
    Pattern(
        "office",
        r"^who (?:leads|runs|heads|owns|governs|coaches|manages|captains|rules)\b|"
        r"\b(?:in charge|at the helm|at the head) of\b|^who (?:replaced|succeeded)\b",
        "Who runs Microsoft?",
    ),
    Pattern(
        "people",
        r"^is .* (?:alive|dead|married|single|pregnant|retired|injured|bankrupt|in jail|banned|legal)\b|"
        r"^did \S+(?: \S+)? (?:die|pass away)$",
        "Is Messi retired?",
    ),
    Pattern(
        "people",
        r"\b(?:dating|married to|engaged to|plays? for|playing for|sign(?:ed)? for|working on)\b",
        "Which club does Kane play for?",
    ),
    Pattern(
        "people",
        r"\bhow many (?:\w+ )?(?:followers|subscribers|views|users|customers)\b",
        "How many followers does Adele have?",
    ),
    Pattern(
        "release",
        r"\brelease dates?\b|\bout yet\b|\bnew (?:season|episode|album|version|model|law|rules?)\b",
        "Is Windows 12 out yet?",
    ),
    Pattern(
        "release",
        r"^when (?:does|do|is|are|will|did)\b.*\b(?:comes? out|coming out|released?|launch(?:ed|ing)?|"
        r"premieres?|on sale|available)\b",
        "When does the new Zelda come out?",
    ),
    Pattern(
        "schedule",
        r"\b(?:opening|business|store|visiting) (?:hours|times)\b|\b(?:flight|train|delivery) (?:status|"
        r"times)\b|\bshow ?times?\b|\bwhat time is it\b(?! \d)|\btraffic (?:on|in|to)\b|"
        r"\b(?:sunrise|sunset) in\b",
        "What are the opening hours of the Prado?",
    ),
    Pattern(
        "schedule",
        r"^(?:when|what time) (?:does|do|is|will) .*\b(?:open|close|kick off|depart|arrive|play|leave)\b",
        "When does the British Museum open?",
    ),
    Pattern(
        "schedule",
        r"^(?:when|what time) (?:does|do|is|will) (?!.*\b(?:winter|summer|spring|autumn|"
        r"life)\b).*\b(?:start|begin)s?\b|\btour(?:ing| dates)\b|\bconcerts?\b|"
        r"\b(?:being held|hosting|streaming|showing|performing)\b",
        "What time does the Lakers game start?",
    ),
    Pattern(
        "status",
        r"^(?:is|are) (?!an? )(?!.*\bset\b).*\b(?:open|closed|running|delayed|cancell?ed|available|"
        r"sold out|in stock|down|coming to)\b",
        "Is Heathrow closed because of snow?",
    ),
    Pattern(
        "travel",
        r"\b(?:tickets?|flights?|hotels?|trains?|bus(?:es)?) (?:for|to|from|in|between)\b|\bcheapest\b|"
        r"\bvisa (?:requirements|rules|fees?)\b",
        "Which flights to Goa are there?",
    ),
    Pattern(
        "place",
        r"\bnear (?:me|here|by)\b|\bnearby\b|\bopen late\b|\bbest[- ]rated\b|"
        r"\b(?:restaurants?|cafes?|bars|pharmac(?:y|ies)|cinemas?|hospitals?) in\b",
        "Find a pharmacy near me",
    ),
    Pattern(
        "recommendation", r"\bbest (?:\S+ ){1,3}(?:under|below|to buy)\b", "Best phone under 20000 rupees"
    ),
)
