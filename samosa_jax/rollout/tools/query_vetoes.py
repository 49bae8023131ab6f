"""What tells that a question needs no web: tables of patterns, each with an example.

They are tried as those of `query_patterns` are.
"""

from samosa_jax.rollout.tools.query_patterns import WEEKDAY, Pattern

_ASSISTANTS = "chatgpt|gpt|gemini|claude|siri|alexa|copilot|llama|mistral|grok|deepseek|bard|samosa ?chaat"
_MADE = "made|created|built|trained|developed|designed|programmed|invented"

# About the assistant itself, which it knows and the web does not.
IDENTITY = (
    Pattern(
        "identity",
        r"\b(?:who|what)(?: exactly| really)? (?:are|r) (?:you|u)\b(?! (?:talk|refer|look))",
        "Who are you?",
    ),
    Pattern("identity", rf"\b(?:{_MADE}|owns|(?:is|was) behind) (?:you|u)\b", "Who made you?"),
    Pattern("identity", rf"\b(?:are|were) you (?:\w+ )?(?:{_MADE})\b", "How were you trained?"),
    Pattern(
        "identity",
        r"\byour (?:\w+ )?(?:name|maker|creators?|developers?|owners?|parents|age|birthday|gender|"
        r"personality|character|temperament|version|model|architecture|training|purpose|existence|"
        r"abilities|capabilities|skills|talents|tools|limits|limitations|weaknesses|knowledge|cutoff|"
        r"favou?rites?)\b",
        "Tell me your name.",
    ),
    Pattern(
        "identity",
        r"\bwhat (?:else )?(?:can|can't|cannot|could) you\b(?! (?:tell|find|say))",
        "What can you do?",
    ),
    Pattern("identity", r"\bhow (?:can|could|do|may) you help\b", "How can you help me?"),
    Pattern("identity", r"\bwhat (?:may|can) i ask you\b", "What may I ask you?"),
    Pattern("identity", r"\b(?:which|what) tools do you have\b", "Which tools do you have?"),
    Pattern(
        "identity",
        rf"\bare you (?:really |actually |still )?(?:an? )?(?:\w+ )?(?:human|robot|bot|ai|person|machine|"
        rf"program|computer|real|alive|conscious|sentient|{_ASSISTANTS})\b",
        "Are you a real person?",
    ),
    Pattern("identity", rf"\b(?:is this|you are|you're|is it) (?:{_ASSISTANTS})\b", "Is this ChatGPT?"),
    Pattern(
        "identity", rf"\b(?:which|what) version of (?:{_ASSISTANTS})\b", "Which version of Gemini are you?"
    ),
    Pattern("identity", r"\byourself\b", "Describe yourself in a sentence."),
    Pattern("identity", r"\b(?:call|name) you\b|\bare you called\b", "What should I call you?"),
    Pattern("identity", r"\bam i (?:talking|chatting|speaking|writing)\b", "Who am I talking to?"),
    Pattern("identity", r"\bhow old are you\b", "How old are you?"),
    Pattern(
        "identity", r"\b(?:do|are) you (?:come |live )?from\b|\bdo you live\b", "Where do you come from?"
    ),
    Pattern(
        "identity",
        r"^do you (?:like|love|feel|dream|sleep|eat|have (?:an? |any )?(?:name|feelings|family|favou?rite|"
        r"body|soul))",
        "Do you have a name?",
    ),
)

_MONTH = "(?:jan|febr)uary|march|april|may|june|july|august|(?:sept|nov|dec)ember|october"
_DATE = rf"\d{{1,2}}(?:st|nd|rd|th)? (?:{_MONTH})"
_CREATED = (
    "poems?|haikus?|limericks?|couplets?|sonnets?|verses?|rhymes?|rhymed|story|stories|tale|jokes?|puns?|"
    "riddles?|songs?|lyrics|rap|essay|letter|e-?mails?|message|caption|slogans?|speech|toast|dialogue|"
    "script|tweet|post|bio|function|program|code|regex|recipe|names? for|lines? (?:about|on)"
)

# Nothing is asked. Tried on the sentence with its politeness and its question mark.
SMALL_TALK = (
    Pattern(
        "greeting",
        r"^(?:(?:hi|hello|hey|hiya|namaste|yo|howdy|good (?:morning|afternoon|evening|night|day)|bye|"
        r"goodbye|(?:see|(?:talk|speak) to) you(?: later| soon| tomorrow)?|have a (?:nice|good|great) \w+|"
        r"nice to meet you|welcome back)(?: there| again| everyone| all| samosa ?chaat|"
        r" my friend)?[ ,!.]*)+$",
        "Good morning!",
    ),
    Pattern(
        "greeting",
        r"^(?:hey |hi |hello |so )*(?:how are (?:you|things)|how(?:'s| is) (?:it going|life|your day)|"
        r"what'?s up|what are you (?:doing|up to))(?: \w+){0,3}\??$",
        "How are you today?",
    ),
    Pattern(
        "thanks",
        r"^(?:many |ok |okay |great |perfect )*(?:thanks|thank you|thx|cheers|well done|good (?:job|bot)|"
        r"cool|ok|okay|great|awesome|nice|got it|never ?mind)\b(?!.*\b(?:what|who|when|where|how|which|"
        r"tell|give|show|search|look|find)\b)[^?]*$",
        "Thanks a lot for your help today!",
    ),
    Pattern(
        "statement",
        r"^(?:i|we|my|i'm|i've|i'll|we're|it's|it is|today is|this is)\b(?! (?:\w+ )?(?:want|need|wonder|"
        r"wondering|would|curious)\b)[^?]*$",
        "I am so tired today.",
    ),
)

# What needs no web, whatever words it is made of.
VETOES = (
    Pattern(
        "arithmetic",
        r"\d\s*(?:[+*×÷^]|\bx\b|plus|minus|times|divided by|multiplied by|mod|to the power of)\s*\(?\d|"
        r"\d\s+[-−–/]\s+\d|^[\d\s.,+*/()=?-]+$",
        "What is 12 times 2026?",
    ),
    Pattern(
        "arithmetic", r"\d\s*(?:%|percent|per cent)\s+(?:of|tip|off|discount)\b", "What is 17% of 45 now?"
    ),
    Pattern(
        "arithmetic",
        r"^(?:calculate|compute|solve|simplify|evaluate|factor|add up|work out|round)\b|"
        r"\b(?:square|cube) root|\bfactorial\b|\bprime (?:number|factor)|\b(?:compound|simple) interest\b|"
        r"\b(?:derivative|integral) of",
        "Calculate the price of 3 apples at 2 dollars each",
    ),
    Pattern(
        "calendar",
        rf"\b(?:day of the week|name of the day|week ?day)\b|\bis (?:it|that) an? {WEEKDAY}\b|\bleap year|"
        rf"\btoday is (?:a )?{WEEKDAY}|\b\d+ (?:days|weeks|months|years|hours|minutes) (?:after|before|"
        rf"from|later)\b|"
        r"\bhow many (?:days|weeks|months|years|hours|minutes)\b.*\b(?:between|until|till|from|in|since|"
        r"after)\b",
        "What day of the week is 5 March 2027?",
    ),
    Pattern(
        "language",
        r"^(?:translate|proofread|rewrite|rephrase|paraphrase|conjugate|spell|pronounce|reverse|shorten|"
        r"summari[sz]e (?:this|the following|my)|(?:correct|fix|improve|edit) (?:the |my |this ))",
        "Translate the word news into Hindi",
    ),
    Pattern(
        "language",
        r"^(?:turn|put|change|convert|use) (?:this|the|these) (?:\w+ )?(?:sentences?|text|words?|phrases?)\b",
        "Turn this sentence into the past tense: I go to school today",
    ),
    Pattern(
        "language",
        r"^how (?:do|would|can|should) (?:you|i|we|one) (?:say|spell|write|pronounce|translate)\b|"
        r"\b(?:spelled|spelling|spelt|spell|letters|the word)\b",
        "How do you spell current?",
    ),
    Pattern(
        "language",
        r"\b(?:how many|number of|count(?: of)?|which) (?:times|letters?|vowels|consonants|syllables|"
        r"\w'?s?)(?: \w)? (?:are |is )?(?:do|does|in|of|the letter|letters?|there)\b|\bletters? (?:in|of)\b",
        "How many r's are in current?",
    ),
    Pattern(
        "language",
        r"\b(?:synonyms?|antonyms?|plural|past tense|opposite|anagram)s? (?:of|for)\b|\brhymes? with\b",
        "Give me a synonym for latest",
    ),
    Pattern(
        "meaning",
        r"\bwhat (?:do|does|did) .{1,60} (?:mean|stand for)$|\b(?:meaning|definition|etymology) of\b|"
        r"^define\b|\bmeant by\b",
        "What does current account mean?",
    ),
    Pattern(
        "creative",
        r"^(?:write|compose|create|make|give|tell|draft|invent|sing|generate|come up with|help me|need|"
        r"want)\b"
        rf".*\b(?:{_CREATED})\b|^(?:an?|another|some) (?:\w+ ){{0,2}}(?:{_CREATED})\b",
        "Write a poem about today's weather",
    ),
    Pattern(
        "creative",
        r"^(?:imagine|pretend|act as|role-?play|let's play|suppose)\b",
        "Pretend you are a news reader",
    ),
    Pattern(
        "advice",
        r"^(?:plan|remind|wake|help me)\b|\b(?:is it|would it be) (?:ok|okay|fine|rude|normal|healthy|"
        r"bad) to\b|^(?:(?:an?|some|any) (?:\w+ )?)?(?:plan|ideas?|tips?|advice|suggestions?)\b",
        "Is it okay to eat yesterday's rice?",
    ),
    Pattern(
        "advice",
        r"\bgood (?:\w+ )?(?:breakfast|lunch|dinner|recipe|name|gift|present|excuse|title)\b",
        "What is a good dinner for tonight?",
    ),
    Pattern(
        "advice",
        r"^(?:what|how|which|where) (?:should|shall|could|can) (?:i|we) (?:\w+ )?(?:eat|cook|bake|do|make|"
        r"wear|say|write|read|drink|play|study|learn|draw|paint|improve|sleep|focus|relax|stay|become)\b",
        "What should I cook tonight?",
    ),
)

# Calculations told as a story, tried on the whole message. Atomic groups keep the time linear in its length.
STORIES = (
    Pattern(
        "word problem",
        r"^(?>.*?(?<!\d)(?!20\d\d)\d)(?>.*?(?<!\d)(?!20\d\d)\d).*?\b(?:how (?:much|many|long|far|old|fast)|"
        r"(?:when|what time) (?:does|do|will|is)|what (?:is|was|will be|are) (?:the|her|his|their|"
        r"its) (?:\w+ )?(?:total|price|cost|average|sum|profit|interest|area|speed|distance|age|number|"
        r"bill|amount|balance|value|ratio|percentage)\b)",
        "A shirt costs 20 dollars and is 15 percent off. What is the price now?",
    ),
    Pattern(
        "word problem",
        r"^(?>.*?\b(?:costs?|buys?|bought|pays?|paid|sells?|sold|earns?|has|have|had|"
        r"if)\b\D{0,40}\d)(?>.*?[.,]).*?\bhow (?:much|many)\b",
        "A pen costs 3 dollars. How much are two today?",
    ),
    Pattern(
        "calendar",
        rf"\b(?:today|it|this)(?: is|'s) (?:a |now )?{WEEKDAY}\b|\b(?:if|suppose) today\b|\bif it is \d|"
        rf"\bstarting on an? {WEEKDAY}|\b{_DATE}\b.*\b(?:{_DATE}|\d+ days)\b|\b\d+ days\b.*\b{_DATE}\b",
        "Today is Friday. Which day will it be tomorrow?",
    ),
)

# How and why things are, and what was: these hold against the subjects of CHANGING.
SETTLED = (
    Pattern(
        "how things work",
        r"^how (?:do|does|can|could|would|should|to)\b",
        "How does weather forecasting work?",
    ),
    Pattern(
        "how things work",
        r"^how (?:is|are|was|were)\b.*\b(?:made|set|determined|calculated|formed|measured|chosen|elected|"
        r"decided|defined)\b",
        "How are stock prices set?",
    ),
    Pattern(
        "how things work",
        r"^(?:why|explain|describe|compare)\b|\bwhat (?:causes?|makes?|affects?|drives?|determines?|"
        r"influences?)\b|\bdifferences? between\b",
        "What causes bad weather?",
    ),
    Pattern(
        "definition",
        r"^what (?:is|are) (?!happening\b|new\b|trending\b|up\b|on\b)[a-z-]+$",
        "What is weather?",
    ),
    Pattern(
        "definition", r"^what(?:'s| is| are) an? (?!.*\b(?:worth|cost|trading))", "What is a stock price?"
    ),
    Pattern(
        "definition",
        r"^what (?:is|are) (?:\w+ ){1,2}(?:used for|made of)$",
        "What are weather balloons used for?",
    ),
    Pattern(
        "definition",
        r"\b(?:types|kinds|history|duties|powers|role|importance|purpose|concept|principles?|theory) of\b",
        "What are the duties of the president of India?",
    ),
    Pattern(
        "history",
        r"^who (?:was|were)\b|\bused to be\b|\boriginally\b",
        "Who was president of France under de Gaulle?",
    ),
    Pattern(
        "history",
        r"\b(?:first|second|third|fourth|fifth|\d+(?:st|nd|rd|th)|longest[- ]serving|youngest|"
        r"oldest) (?:female |woman |black )?(?:ever )?(?:president|prime minister|king|queen|emperor|"
        r"chancellor|pope|ceo|person|man|woman)\b",
        "Who is the first prime minister of India?",
    ),
    Pattern(
        "history",
        r"\b(?:battle of|war of|revolution|ancient|medieval|middle ages|world war|cold war|civil war|"
        r"\d+(?:st|nd|rd|th) century|\d{3,4}s|\d+ bce?)\b",
        "Who won the civil war?",
    ),
    Pattern(
        "fiction",
        r"\bin (?:the )?(?:book|film|movie|novel|series|bible|harry potter)\b",
        "Who won the games in the novel?",
    ),
)
