"""Questions that have a right answer, behind the shipped chats; see ``chat_prompts.py``."""

from chat_prompts import Prompt, topic

EIFFEL = topic(
    "landmarks",
    ("Where is the Eiffel Tower?", "Paris"),
    ("In which city does the Eiffel Tower stand?", "Paris"),
    (
        "What country would I have to visit to see the Eiffel Tower?",
        r"\A(?![\s\S]*(London|Amsterdam))[\s\S]*France",
    ),
    ("How tall is the Eiffel Tower?", "3[0-3][0-9] (metres|meters|m)|1,?0[0-9]{2} f"),
    ("Who built the Eiffel Tower, and when?", "Eiffel"),
    ("How do I get to the Eiffel Tower by public transport?", "Paris|metro|RER|France"),
    ("Write a short poem about the Eiffel Tower.", "Paris|tower|iron|sky"),
    (
        "I have one afternoon near the Eiffel Tower. What else should I see close by?",
        "Paris|Louvre",
    ),
    ("Tell me three facts about the Eiffel Tower.", "Paris|France"),
    ("What is the Eiffel Tower made of?", "iron"),
    ("My daughter wants to climb the Eiffel Tower. What should we know before we go?", "Tower"),
    ("Describe the view from the top of the Eiffel Tower at night.", "Paris|Seine|city"),
    ("Compare the Eiffel Tower and the Statue of Liberty.", "Paris|France"),
    ("Why is the Eiffel Tower so famous?", "Paris|France"),
    ("Which river flows past the Eiffel Tower?", "Seine"),
    ("Write a postcard from someone standing under the Eiffel Tower.", "Tower|Paris"),
    ("What did people think of the Eiffel Tower when it was new?", "Paris|Tower"),
    ("Plan a romantic evening at the Eiffel Tower.", "Tower|Paris"),
)

LANDMARKS = topic(
    "landmarks",
    ("Where is the Colosseum?", "Rome"),
    ("In which city would I find Big Ben?", "London"),
    ("Where is the Taj Mahal, and why was it built?", "Agra|India"),
    ("In which country is Machu Picchu?", "Peru"),
    ("Where does the Statue of Liberty stand?", "New York"),
    ("Which city is home to the Sagrada Familia?", "Barcelona"),
    ("Where can I see the Great Pyramid of Giza?", "Egypt|Cairo"),
    ("In which city is the Brandenburg Gate?", "Berlin"),
    ("Where is the Acropolis?", "Athens|Greece"),
    ("Where is the Sydney Opera House, and what does it look like?", "Sydney|Australia"),
    ("In which city is Red Square?", "Moscow"),
    ("Where would I go to see the Golden Gate Bridge?", "San Francisco|California"),
    ("Where is the Great Wall, and how long is it?", "China"),
    ("Which city has the Hagia Sophia?", "Istanbul"),
    ("Where is Mount Rushmore?", "South Dakota"),
    ("Where is the Leaning Tower of Pisa, and why does it lean?", "Pisa|Italy"),
    ("What is Stonehenge?", "England|stone|monument"),
    ("Tell me about the Louvre.", "Paris|museum"),
    ("What can a visitor do in Rome in two days?", "Colosseum|Vatican|Pantheon|Rome"),
    ("What is Notre-Dame, and where is it?", "Paris"),
    ("What is Venice known for?", "canal"),
    ("Describe a walk through Kyoto in autumn.", "Kyoto|temple|autumn|leaves"),
    ("What should I eat in Lisbon?", "Portug|Lisbon|fish|pastr"),
    ("Tell me about the old town of Prague.", "Prague|castle|square"),
    ("Why do people visit Cairo?", "pyramid|Egypt|museum|Nile"),
    ("What is special about Amsterdam?", "canal|bicycle|museum"),
    ("Give me a short history of London Bridge.", "Thames|London"),
    ("What makes Istanbul unusual among cities?", "Europe|Asia|Bosphorus"),
    ("Describe Times Square on a winter evening.", "light|crowd|neon|snow"),
    ("What would you show a friend in Edinburgh?", "castle|Edinburgh"),
    ("Is Vienna a good city for music lovers?", "Mozart|music|opera"),
    ("What is the best season to visit Marrakesh?", "spring|March|April|autumn|fall|October"),
    ("Write two sentences about the harbour of Rio de Janeiro.", "Rio|beach|mountain|harbo"),
    ("Tell me about the bridges of Budapest.", "Danube|Chain|bridge"),
    ("What can I see in Paris if I do not like crowds?", "Paris|museum|garden|park"),
    ("What is Buckingham Palace used for?", "king|queen|monarch|royal"),
)

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Egypt": "Cairo", "Canada": "Ottawa",
    "Spain": "Madrid", "Norway": "Oslo", "Greece": "Athens", "Kenya": "Nairobi", "Peru": "Lima",
    "Austria": "Vienna", "Portugal": "Lisbon", "Poland": "Warsaw", "Cuba": "Havana",
}  # fmt: skip
GEOGRAPHY = [
    Prompt("geography", form.format(country), city)
    for (country, city), form in zip(
        CAPITALS.items(),
        ["What is the capital of {}?", "Name the capital city of {} and say one thing about it."]
        * 7,
        strict=True,
    )
] + topic(
    "geography",
    ("Which is the longest river in Africa?", "Nile"),
    ("What is the largest ocean on Earth?", "Pacific"),
    ("Which mountain is the highest in the world?", "Everest"),
    ("Which desert covers much of North Africa?", "Sahara"),
    ("What is the smallest country in the world?", "Vatican"),
    ("Name the continents.", "Africa"),
    ("What is a fjord?", "glaci|sea|valley|inlet"),
    ("Why is the Dead Sea so salty?", "evaporat|salt|mineral"),
    ("What is the difference between weather and climate?", "long|average|time"),
    ("How do islands form?", "volcan|erupt|plate"),
    ("What is a river delta?", "sediment|river"),
    ("Which countries share a border with Switzerland?", "Germany|Italy|France|Austria"),
    ("What is the equator?", "line|latitude|hemisphere"),
    ("Describe the Amazon rainforest in two sentences.", "forest|species|tree"),
    ("Why does Australia have so many unusual animals?", "isolat|evol|unique|adapt"),
    ("What language do people speak in Brazil?", "Portuguese"),
)

SUMS = [(7, 5), (12, 9), (25, 17), (48, 36), (100, 250), (33, 44), (64, 19), (8, 90)]
ARITHMETIC = (
    [Prompt("arithmetic", f"What is {a} + {b}?", rf"\b{a + b}\b") for a, b in SUMS]
    + [Prompt("arithmetic", f"What is {a} times {b}?", rf"\b{a * b}\b") for a, b in
       [(3, 4), (6, 7), (9, 8), (5, 12), (10, 15), (11, 11)]]
    + [Prompt("arithmetic", f"What is {a} minus {b}?", rf"\b{a - b}\b") for a, b in
       [(20, 8), (50, 15), (9, 4), (100, 1)]]
    + topic(
        "arithmetic",
        ("I buy three apples for 2 euros each. How much do I pay?", r"\b6\b"),
        ("A train leaves at 3 o'clock and takes two hours. When does it arrive?", r"\b5\b|five"),
        ("What is half of 90?", r"\b45\b"),
        ("How many minutes are there in two hours?", r"\b120\b"),
        ("How many days are there in a leap year?", r"\b366\b"),
        ("What is a prime number?", "1|itself|divis"),
        ("Explain how to find the area of a rectangle.", "length|width|multipl"),
        ("What is ten percent of 200?", r"\b20\b"),
    )
)  # fmt: skip

HISTORY = topic(
    "history",
    ("Who was Julius Caesar?", "Rom"),
    ("When did the Second World War end?", "1945"),
    ("Who was Cleopatra?", "Egypt"),
    ("What was the Industrial Revolution?", "factor|machine|steam|industr"),
    ("Who painted the Mona Lisa?", "Leonardo"),
    ("What was the Silk Road?", "trade"),
    ("Why did the Roman Empire fall?", "Roman|invasion|econom|barbarian"),
    ("Who wrote Romeo and Juliet?", "Shakespeare"),
    ("What was the Renaissance?", "art|Europe|Italy"),
    ("Who was Marie Curie?", "radi|scien|phys"),
    ("What happened in 1969 on the Moon?", "Apollo|Armstrong|land"),
    ("Who invented the printing press?", "Gutenberg"),
    ("What was the Cold War?", "Soviet|United States"),
    ("Who was Mahatma Gandhi?", "India"),
    ("What did the Vikings do?", "raid|trade|explor|sail|sea"),
    ("How did people tell the time before clocks?", "sun|shadow|star|water"),
    ("What was life like in a medieval village?", "farm|peasant|village"),
    ("Who was Joan of Arc?", "French|France"),
    ("What is the Magna Carta?", "King|England|1215|charter"),
    ("Why was the Berlin Wall built?", "East|Soviet|German"),
    ("Who was Florence Nightingale?", "nurs"),
    ("What was the Black Death?", "plague|disease|pandemic"),
    ("Who was Napoleon?", "French|France"),
    ("How were the pyramids built?", "stone|block|Egypt"),
    ("What was the Great Depression?", "193|1929|econom"),
    ("Who discovered penicillin?", "Fleming"),
)
