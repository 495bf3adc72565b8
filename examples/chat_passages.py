"""Passages to be summarised, system messages and follow-up questions for the shipped chats."""

PASSAGES = [
    "The village of Harrow had one well for two hundred years. In the dry summer of last year it "
    "failed, and the farmers carried water from the river in barrels. By autumn they had dug a "
    "second well beside the church, deeper than the first.",
    "Honey bees dance to tell the others where the flowers are. The angle of the dance gives the "
    "direction from the sun, and the length of it gives the distance.",
    "Our office will be closed from Monday to Wednesday while the heating is replaced. Please take "
    "your laptop home on Friday. Parcels will be kept at the front desk of the building opposite.",
    "Tea came to Europe in the seventeenth century as a costly medicine. Within a hundred years it "
    "was the everyday drink of workers as well as of lords, and taxes on it had started a revolt.",
    "The match was delayed by rain for an hour. When it began, the home side scored twice in ten "
    "minutes, but the visitors came back after the break and won by three goals to two.",
    "Glass is made by melting sand with soda and lime. The soda lowers the melting point, and the "
    "lime keeps the finished glass from dissolving in water.",
    "Anna sold her car in spring and bought a bicycle. She now rides to work in twenty minutes, "
    "sleeps better, and saves enough money each month to pay for a holiday by the sea.",
    "The museum has bought a small painting of a harbour that had hung in a school kitchen for "
    "sixty years. Nobody had known that it was worth more than the school itself.",
    "Owls hunt at night and hear better than they see. Their ears sit at different heights, so "
    "that they can tell how far above the ground a mouse is moving.",
    "The new bridge will carry trams, bicycles and people on foot, but no cars. The council says "
    "it will cut the walk from the station to the hospital from half an hour to ten minutes.",
    "Sailors once suffered from scurvy on long voyages. A ship's doctor gave lemons to some of the "
    "sick men and cider or vinegar to others, and only those who had eaten lemons recovered.",
    "Our bakery began in a garage with one oven. Today it has four shops and bakes nine hundred "
    "loaves a day, but the sourdough is still fed from the same jar that the founder kept.",
    "A glacier is a river of ice. It moves a few centimetres a day, grinds the rock beneath it to "
    "flour, and leaves a valley with a round floor when it melts.",
    "The library will stay open until ten at night during the exams. There will be hot drinks and "
    "two more rooms for groups. Silence is still expected on the upper floor.",
    "Cork is the bark of an oak that grows around the western Mediterranean. It is peeled off "
    "every nine years, and the tree, which may live for two centuries, is not harmed.",
    "The old theatre burned in 1902 and was rebuilt in eleven months. The architect kept the stage "
    "but moved the stairs, so that a full house could be in the street within four minutes.",
]
REQUESTS = [
    "Summarise this in one sentence: {}",
    "What is the main point of this text? {}",
    "Give this text a title: {}",
    "Explain this to a child: {}",
]

SYSTEMS = [
    "You are a patient teacher. Explain things simply.",
    "Answer in no more than two sentences.",
    "You are a careful assistant. Say so when you are not sure.",
    "Write in a warm and cheerful tone.",
    "You are an expert who likes to give examples.",
]

FOLLOW_UPS = [
    "Can you say that in one sentence?",
    "Thank you! Can you give me an example?",
    "Why is that?",
    "Tell me a little more.",
    "What should I do first?",
    "Is there anything I should avoid?",
    "Please say it in simpler words.",
    "Thanks, that helps.",
]
