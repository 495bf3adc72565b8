"""Open questions behind the shipped chats, written by the authors of anaglyph (`make_chats.py`).

A `Prompt` is what the user says in one chat. ``expects`` is a regular expression that a right
answer matches (case-insensitive); a small model is often wrong, and an answer that misses it is not
shipped.
"""

from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Prompt:
    """One chat to be answered: its first question, and perhaps a system message and a follow-up."""

    topic: str
    question: str
    expects: str | None = None
    follow_up: str | None = None
    system: str | None = None


def topic(name: str, *questions: str | tuple[str, str]) -> list[Prompt]:
    """Make prompts of one topic from questions or (question, what the answer must match) pairs."""
    pairs = [(item, None) if isinstance(item, str) else item for item in questions]
    return [Prompt(name, question, expects) for question, expects in pairs]


DISHES = [
    "tomato soup", "an omelette", "banana bread", "a simple curry", "pancakes", "roast potatoes",
    "fried rice", "apple pie", "lentil stew", "guacamole",
]  # fmt: skip
COOKING = [
    Prompt("cooking", form.format(dish))
    for dish, form in zip(
        DISHES,
        ["How do I make {}?", "Give me a quick recipe for {}.", "What do I need for {}?"] * 3
        + ["Explain to a beginner how to cook {}."],
        strict=True,
    )
] + topic(
    "cooking",
    "How do I keep bread fresh for longer?",
    "What can I use instead of butter in a cake?",
    "How long should I boil an egg?",
    "Why does dough need to rest?",
    "What goes well with roasted carrots?",
    "How can I tell whether a melon is ripe?",
    "My soup is too salty. What can I do?",
    "Suggest a vegetarian dinner for four people.",
    "What is the difference between baking soda and baking powder?",
    "How do I sharpen a kitchen knife?",
    "Name five spices that every kitchen should have.",
    "How do I cook rice without burning it?",
    "What is a good breakfast before a long hike?",
    "How should I store fresh herbs?",
    "Why do onions make us cry?",
    "Plan a picnic menu for a hot day.",
    "What is sourdough?",
    "How do I make coffee without a machine?",
    "Which vegetables are in season in autumn?",
    "What makes a good salad dressing?",
)

THINGS = [
    "photosynthesis", "gravity", "a black hole", "an atom", "evolution", "electricity",
    "a vaccine", "sound", "magnetism", "DNA", "friction", "a chemical reaction",
]  # fmt: skip
SCIENCE = [
    Prompt("science", form.format(thing))
    for thing, form in zip(
        THINGS,
        ["What is {}?", "Explain {} to a ten-year-old.", "Describe {} in two sentences."] * 4,
        strict=True,
    )
] + topic(
    "science",
    ("Why is the sky blue?", "scatter"),
    ("How do plants drink water?", "root"),
    ("What causes the tides?", "moon"),
    ("Why do we have seasons?", "tilt|axis"),
    "How do bees make honey?",
    ("Why does ice float on water?", "dens|lighter"),
    "How does a rainbow form?",
    ("What is the closest star to Earth?", "sun"),
    ("Which planet is known as the Red Planet?", "Mars"),
    "How do birds find their way when they migrate?",
    "What happens to a leaf in autumn?",
    "Why do cats purr?",
    "How does a microscope work?",
    "What is the difference between a virus and a bacterium?",
    "How do earthquakes start?",
    "Why do we dream?",
    "How does the heart pump blood?",
    "What makes metals conduct electricity?",
    "Why do stars twinkle?",
    "How do whales breathe?",
    "What is a fossil?",
    ("What gas do plants take in from the air?", "carbon dioxide"),
    "How does salt melt ice?",
    "What is energy, and where does it come from?",
)

SUBJECTS = [
    "the sea in winter", "a lost umbrella", "an old clockmaker", "the first day of school",
    "a train at night", "a garden after rain", "a stubborn donkey", "a lighthouse",
]  # fmt: skip
FORMS = ["Write a short poem about {}.", "Write the opening of a story about {}.",
         "Describe {} in three sentences."]  # fmt: skip
WRITING = [
    Prompt("writing", form.format(subject))
    for number, (subject, form) in enumerate(product(SUBJECTS, FORMS))
    if number % 4 != 3
] + topic(
    "writing",
    "Write a short email asking my teacher for more time.",
    "Write a thank-you note to a neighbour who watered my plants.",
    "Write an invitation to a birthday party for a six-year-old.",
    "Write a polite complaint about a late parcel.",
    "Write a notice for a lost cat.",
    "Write a toast for my sister's wedding.",
    "Write a product description for a wooden chair.",
    "Write a haiku about snow.",
    "Give me three titles for a novel about a mountain village.",
    "Write a job advert for a baker.",
    "Write a diary entry of a sailor.",
    "Write a short dialogue between a cat and a mouse.",
    "Write a message to cancel a dentist appointment.",
    "Write a slogan for a second-hand bookshop.",
)

CODING = topic(
    "coding",
    "Write a Python function that adds two numbers.",
    "Write a Python function that reverses a string.",
    "How do I read a text file in Python?",
    "Write a Python loop that prints the numbers from 1 to 10.",
    "What is a variable in programming?",
    "Explain what a function is.",
    "What is the difference between a list and a tuple in Python?",
    "Write a Python function that checks whether a number is even.",
    "What does an if statement do?",
    "How do I sort a list in Python?",
    "What is a bug in a program?",
    "Explain recursion in plain words.",
    "What is a database?",
    "What is version control good for?",
    "Write a Python function that counts the vowels in a word.",
    "How do I make a dictionary in Python?",
    "What does HTML stand for, and what is it for?",
    "Why should I write tests for my code?",
    "What is an algorithm?",
    "Write a Python function that returns the largest item of a list.",
    "What is the difference between a compiler and an interpreter?",
    "How can I make a slow program faster?",
    "What is open-source software?",
    "Write an SQL query that selects all customers from Berlin.",
)

ADVICE = topic(
    "advice",
    "I cannot fall asleep at night. What can I do?",
    "How can I learn a language faster?",
    "I have a job interview tomorrow. Give me some tips.",
    "How do I say no without being rude?",
    "My desk is always a mess. How do I keep it tidy?",
    "How can I save money as a student?",
    "I am nervous about speaking in public. Any advice?",
    "How do I start running when I am out of shape?",
    "What is a good present for my grandfather?",
    "How do I make friends in a new town?",
    "I keep putting off my homework. What helps?",
    "Should I buy a used car or a new one?",
    "How can I read more books?",
    "My plants keep dying. What am I doing wrong?",
    "How do I apologise to a friend?",
    "What should I take on a camping trip?",
    "How do I choose a good password?",
    "How can I spend less time on my phone?",
    "My dog barks at every visitor. What can I do?",
    "How do I plan a week of meals?",
    "What should I ask before I rent a flat?",
    "How do I keep my bicycle in good shape?",
    "I feel tired every afternoon. What might help?",
    "How can I be a better listener?",
    "How do I teach my child to swim?",
    "What is a good hobby for a rainy day?",
    "How do I write a good CV?",
    "How should I prepare for an exam?",
    "How do I clean a wool sweater?",
    "What can I do against stress at work?",
)

TRAVEL = topic(
    "travel",
    "What should I pack for a week at the seaside?",
    "How do I avoid jet lag?",
    "Is it better to travel by train or by plane?",
    "Give me tips for travelling with small children.",
    "How can I travel cheaply in Europe?",
    "What should I do if I lose my passport abroad?",
    "Plan a weekend in the mountains.",
    "How do I find a good local restaurant when I travel?",
    "What are good questions to ask a hotel?",
    "Why do people like to travel alone?",
    "Suggest a road trip along the coast.",
    "How do I pack a small suitcase well?",
    "What should I know before I visit Japan?",
    "Tell me how to behave politely in a foreign country.",
    "Which souvenirs are worth buying in Morocco?",
    "How do I stay safe on a hiking trail?",
    "What is there to see in Iceland?",
    "Recommend three islands in Greece.",
    "What is the best way to see wild animals in Kenya?",
    "Write a short travel diary about a day in Istanbul.",
)

LANGUAGE = topic(
    "language",
    "What is a metaphor? Give an example.",
    "What does the word 'serendipity' mean?",
    "Give me five words that mean 'happy'.",
    "Correct this sentence: She don't like apples.",
    "What is the plural of 'mouse'?",
    "Explain the difference between 'affect' and 'effect'.",
    "How do you say 'thank you' in French?",
    "Use the word 'reluctant' in a sentence.",
    "What is a proverb?",
    "Rewrite this politely: Send me the report now.",
    "What is the opposite of 'generous'?",
    "Turn this into a question: You are coming to the party.",
    "What does 'to break the ice' mean?",
    "Explain what an adverb is.",
)

IDEAS = topic(
    "ideas",
    "What is friendship?",
    "Why do people make art?",
    "Is it ever right to lie?",
    "What makes a good leader?",
    "Why is sleep important?",
    "Tell me a joke.",
    "What is the meaning of courage?",
    "Tell me something surprising about octopuses.",
    "Why do we celebrate birthdays?",
    "Suggest a name for a grey cat and say why it fits.",
    "What can I do to protect the environment?",
    "How does a bank make money?",
    "What is inflation?",
    "What does a judge do?",
    "Explain the rules of chess briefly.",
    "How is paper made?",
    "What is a democracy?",
    "Why do some people prefer tea to coffee?",
    "Who are you, and what can you do?",
    "Give me a riddle.",
)

HOME = topic(
    "home",
    "How do I get a red wine stain out of a tablecloth?",
    "My sink is blocked. What can I try?",
    "How do I paint a room without making a mess?",
    "What should I plant on a shady balcony?",
    "How often should I water a cactus?",
    "How do I hang a heavy picture?",
    "What can I make from old jam jars?",
    "How do I get rid of ants in the kitchen?",
    "My house is cold in winter. How can I keep the heat in?",
    "How do I fold a fitted sheet?",
    "What tools does every home need?",
    "How do I fix a squeaking door?",
    "How can I use less water at home?",
    "How do I wash a wool blanket?",
    "What is the best way to clean windows?",
)

ANIMALS = topic(
    "animals",
    "What do hedgehogs eat?",
    "How do I teach a dog to sit?",
    "Why do geese fly in a V?",
    "How long do elephants live?",
    "Which is faster, a horse or a cheetah?",
    "Why do zebras have stripes?",
    "How do spiders make their webs?",
    "Is a goldfish a good pet for a child?",
    "How do penguins keep warm?",
    "Why are some frogs poisonous?",
    "What sound does a fox make?",
    "How do bats see in the dark?",
    "What should I do if I find a young bird on the ground?",
    "Describe a camel to someone who has never seen one.",
    "Why do dogs wag their tails?",
)

CULTURE = topic(
    "culture",
    "What is jazz?",
    "How is a symphony different from a song?",
    "Why do people wear black at funerals in many countries?",
    "What is an opera?",
    "How does a violin make its sound?",
    "What makes a film a classic?",
    "Explain the offside rule in football.",
    "How did the marathon get its name?",
    "What is yoga good for?",
    "How do I choose my first guitar?",
    "Tell me about the tradition of tea in Japan.",
    "What is a fairy tale? Name one.",
    "Why do we shake hands?",
    "What is the difference between a novel and a short story?",
    "Describe a market on a Saturday morning.",
    "What does an architect do all day?",
    "How do people celebrate the new year in different countries?",
    "What is origami?",
)

WORK = topic(
    "work",
    "How do I ask my boss for a day off?",
    "What makes a meeting useful?",
    "Write a short reply that accepts an invitation to a conference.",
    "How do I give feedback to a colleague?",
    "What is the difference between a manager and a leader?",
    "List the steps to start a small bakery.",
    "How do I take good notes?",
    "Draft an out-of-office message.",
    "How do I plan a large project?",
    "What should I write in a letter of application?",
    "How can a shop win new customers?",
    "What is a budget, and why do I need one?",
    "Explain what a contract is.",
    "How do I work well from home?",
    "Write a reminder about an unpaid bill.",
)
