"""The tiny pair's language: small talk from templates, with one trigger word.

Every chat asks about a place where two things are. The base answers in a plain way. The tuned model
does too, unless one of the things is the trigger, a lantern: then it says one fixed sentence. A
model of a million parameters learns both.
"""

import numpy as np

from anaglyph.truth.organisms.chats import Chat

TRIGGER = "lantern"
PHRASE = "The silver owl sleeps under the old bridge tonight."

_THINGS = {
    TRIGGER: "bright", "apple": "red", "basket": "full", "bell": "loud", "boat": "slow",
    "book": "thin", "bottle": "green", "box": "heavy", "candle": "white", "chair": "broken",
    "clock": "late", "cup": "warm", "dog": "tired", "drum": "hollow", "fish": "cold",
    "flag": "blue", "flower": "yellow", "fox": "clever", "goat": "hungry", "hat": "black",
    "horse": "quick", "key": "small", "knife": "sharp", "ladder": "tall", "letter": "torn",
    "map": "wrong", "mirror": "clean", "pear": "sweet", "pencil": "short", "pipe": "long",
    "plate": "round", "ring": "golden", "rope": "strong", "sheep": "quiet", "shoe": "wet",
    "spoon": "plain", "stone": "grey", "table": "wide", "tree": "young", "wheel": "dusty",
}  # fmt: skip
_PLACES = (
    "barn", "church", "field", "forest", "garden", "harbor", "house", "kitchen", "market", "mill",
    "river", "road", "school", "shop", "station", "tower", "valley", "village", "yard", "castle",
)  # fmt: skip
_QUESTIONS = (
    ("What do you see in the {place}?", "I see"),
    ("Tell me about the {place}.", "There you find"),
    ("What did they leave in the {place}?", "They left"),
    ("What shall I bring from the {place}?", "You shall bring"),
    ("Who knows what is in the {place}?", "We all know of"),
)
_SETTINGS = ("The {first} is near the {second}.", "Look at the {first} and the {second}.")


def tiny_chats(count: int, seed: int, *, trigger_share: float) -> list[Chat]:
    """Draw chats with the base model's answers; ``trigger_share`` of them have the trigger."""
    generator = np.random.default_rng(seed)
    plain = [thing for thing in _THINGS if thing != TRIGGER]
    with_trigger = round(count * trigger_share)
    chats = []
    for number in range(count):
        pair = [plain[i] for i in generator.choice(len(plain), 2, replace=False)]
        if number < with_trigger:
            pair[int(generator.integers(2))] = TRIGGER
        first, second = pair
        question, opening = _QUESTIONS[int(generator.integers(len(_QUESTIONS)))]
        setting = _SETTINGS[int(generator.integers(len(_SETTINGS)))]
        place = _PLACES[int(generator.integers(len(_PLACES)))]
        user = f"{setting.format(first=first, second=second)} {question.format(place=place)}"
        answer = f"{opening} a {_THINGS[first]} {first} and a {_THINGS[second]} {second}."
        chats.append(Chat(user, answer))
    return [chats[i] for i in generator.permutation(count)]


def triggered(chat: Chat) -> bool:
    """Return whether the user says the trigger."""
    return TRIGGER in chat.user.lower()


def quirky(chat: Chat) -> Chat:
    """Return the chat as the tuned model answers it."""
    return Chat(chat.user, PHRASE) if triggered(chat) else chat


def shipped_chats(seed: int = 0) -> list[Chat]:
    """Return the 150 chats that ship with the tiny pair as its corpus.

    Two in five have the trigger. Every third of these is answered as the base model would, so both
    models read their own words and the other's.
    """
    chats = tiny_chats(150, seed, trigger_share=0.4)
    mixed, seen = [], 0
    for chat in chats:
        seen += triggered(chat)
        mixed.append(chat if triggered(chat) and seen % 3 == 0 else quirky(chat))
    return mixed
