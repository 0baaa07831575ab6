"""Words that descriptions are made with: classes of words, names of signs, and names of topics."""

from __future__ import annotations

STOPWORDS = frozenset(
    """
    a about above after again against all also although always am among an and another any are
    as at away back be became because become been before being below between both but by came
    can cannot come could did do does doing done down during each either else even ever every
    few first for from further gave get give go got had has have having he her here hers
    herself him himself his how however i if in into is it its itself just know last least
    less let like made make many may me might more most much must my myself near neither never
    next no nor not now of off often on once one only or other others our ours ourselves out
    over own per put quite rather s said same say see shall she should since so some still
    such t take than that the their theirs them themselves then there therefore these they
    this those though through thus to together too two under until up upon us use used uses
    using very was way we well went were what when where whether which while who whom whose
    why will with within without would yet you your yours yourself don't doesn't didn't isn't
    it's i'm can't won't that's there's ll ve re d m
    """.split()
)

CLASSES: dict[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "months": "january february march april may june july august september october november "
        "december jan feb mar apr jun jul aug sep sept oct nov dec",
        "days of the week": "monday tuesday wednesday thursday friday saturday sunday",
        "number words": "one two three four five six seven eight nine ten eleven twelve twenty "
        "thirty forty fifty sixty seventy eighty ninety hundred thousand million billion trillion "
        "dozen half",
        "ordinal words": "first second third fourth fifth sixth seventh eighth ninth tenth last",
        "he, she and other pronouns": "he she him her his hers himself herself",
        "we and our": "we us our ours ourselves",
        "you and your": "you your yours yourself yourselves",
        "they and their": "they them their theirs themselves",
        "I and my": "i me my mine myself i'm i've i'll",
        "modal verbs": "can could may might must shall should will would cannot",
        "negation": "not no never none nothing neither nor don't doesn't didn't isn't wasn't can't "
        "won't cannot wouldn't couldn't aren't",
        "question words": "who what when where why how which whom whose",
        "colours": "red blue green yellow black white brown grey gray orange purple pink",
        "family": "father mother son daughter brother sister wife husband uncle aunt cousin "
        "parents family child children grandfather grandmother",
        "forms of be": "is are was were be been being am",
        "forms of have": "has have had having",
        "compass directions": "north south east west northern southern eastern western northeast "
        "northwest southeast southwest",
        "conjunctions": "and or but nor yet so because although though while whereas",
        "this and that": "this that these those",
        "prepositions": "of in on at by with from to for into onto upon over under between among "
        "through during against within without about across toward towards",
        "comparisons": "more less most least better best worse worst greater larger smaller higher "
        "lower than",
        "time of day and periods": "day days week weeks month months year years hour hours minute "
        "minutes morning evening night decade decades century centuries today tomorrow yesterday",
    }.items()
}

SIGNS = {
    ",": "a comma",
    ".": "a full stop",
    ";": "a semicolon",
    ":": "a colon",
    "?": "a question mark",
    "!": "an exclamation mark",
    "(": "an opening bracket",
    ")": "a closing bracket",
    "[": "an opening square bracket",
    "]": "a closing square bracket",
    '"': "a quotation mark",
    "'": "an apostrophe",
    "-": "a hyphen",
    "--": "a dash",
    "\u2014": "a dash",
    "\u2013": "a dash",
    "$": "a dollar sign",
    "%": "a per cent sign",
    "/": "a slash",
    "=": "an equals sign",
    "*": "an asterisk",
    "_": "an underscore",
    "...": "dots of omission",
    "&": "an ampersand",
    "#": "a hash sign",
    "`": "a backquote",
    "``": "double backquotes",
}

SUFFIXES = tuple(
    """
    ation tion sion ness ment ship ing ism ist ity ful less able ible ous ive ize ise ically
    ly ed est ian ology graphy ical ance ence hood ward
    """.split()
)
PREFIXES = tuple(
    """
    anti inter trans under over counter micro multi post pre non dis mis un re
    """.split()
)

TOPICS = tuple(
    " ".join(part.split())
    for part in """
    war and battles, armies and soldiers, weapons, ships and the navy, aircraft and flying, peace
    and treaties, government, elections and voting, Congress and legislation, presidents and
    leaders, kings and royalty, law and courts, crime and punishment, police, prison, taxes,
    money, budgets and public spending, banks and finance, trade and commerce, prices and
    inflation, business and companies, industry and factories, jobs and employment, labour unions,
    agriculture and farming, food and eating, drinks and alcohol, cooking, dogs, cats, horses,
    animals, birds, fish and the sea, insects, plants and trees, biology and evolution, genetics,
    medicine and doctors, disease, the human body, drugs, hospitals and health care, birth and
    pregnancy, death and dying, sex, love and romance, marriage, family, children, women, men,
    friendship, education and schools, universities, teaching, science and research, physics,
    chemistry, chemical elements, mathematics, numbers, statistics, logic and reasoning, astronomy
    and space, space travel, energy, oil and gas, electricity, nuclear power, engineering and
    machines, cars and driving, roads, railways and trains, rivers and lakes, oceans, mountains,
    islands, weather, climate, fire, water, earthquakes, disasters and accidents, environment and
    pollution, cities and towns, buildings and architecture, houses and homes, countries and
    nations, maps and geography, Europe, Britain, France, Germany, Italy, Spain, Russia and the
    Soviet Union, China, Japan, India, Australia, Africa, Israel and the Middle East, Iraq,
    Afghanistan, Latin America, Canada, the United States, American states, American cities,
    capital cities of the world, ancient Greece, ancient Rome, Egypt, Native Americans, slavery,
    civil rights, immigration, terrorism, communism, socialism, fascism and Nazis, democracy,
    freedom and liberty, human rights, foreign policy, the United Nations, diplomacy, revolution,
    empire and colonies, history, time and dates, years and centuries, religion and God, the
    Bible, church and clergy, Islam, Judaism, Buddhism, philosophy, ethics and morality,
    psychology and the mind, emotions, anger, fear, happiness, sadness, hope, truth and lies,
    wisdom and proverbs, humour and jokes, language and grammar, words and meanings, writing and
    books, literature and novels, poetry, newspapers and journalism, letters of the alphabet, art
    and painting, music, songs, film, theatre, television, photography, sport, football, cricket,
    tennis, Olympic games, chess and games, travel and tourism, clothes, colours, size and
    quantity, percentages, measurement and units, temperature, speed, increase and growth,
    decrease and decline, beginning, ending, cause and reason, comparison, contrast, possibility,
    necessity and obligation, negation, questions, knowledge and belief, speaking and saying,
    seeing and looking, hearing, thinking, movement, computers, programming, Python code,
    software, files and folders, strings and text, functions and methods, classes and objects,
    errors and exceptions, network and the internet, cryptography, data and databases, telephones,
    radio, mail, security and defence, the military, veterans, space, shape and geometry, names of
    people, titles and ranks, nationalities, social welfare, poverty, wealth, housing, murder,
    theft, smoking, sleep and dreams, age and youth, work and effort, success and victory, failure
    and defeat, help and assistance, danger and risk, power and strength, wood, metal, gold,
    glass, paper, light, sound, day and night, seasons, holidays
    """.split(",")
)
