"""The texts by which an imported language model is held against its source, and its weights are smoothed. Pure; written for this."""

from __future__ import annotations

from typing import Final

SAMPLE_TEXT: Final = """\
The ferry left the small harbour at six in the morning, when the street lamps were still on. Anna stood at the rail and counted \
the boats that lay along the quay: four for fishing, two for visitors, and one, painted green, that had not moved since her \
grandfather died. She had promised to sell it before the winter, and the winter was near.

"You will be cold up here," said the man who checked the tickets. "There is coffee downstairs, and it is better than last year."

She thanked him and stayed. The island grew smaller, then it was a line, then nothing. What do people remember of the places \
that they leave? Not the names of streets, she thought, but smells and sounds: bread, rope, the bell of the school at noon.

How to make bread for four people:
1. Mix 500 grams of flour with 10 grams of salt and 7 grams of dry yeast.
2. Add 330 millilitres of warm water and knead it for ten minutes.
3. Let it rest for one hour, until it is twice as large.
4. Bake it at 220 degrees for 35 minutes.

A function that says whether a number is even looks like this in Python:

def is_even(number):
    return number % 2 == 0

The Moon turns around the Earth in about 27 days. Because it turns around itself in the same time, we always see the same side \
of it. The tides follow the Moon: when it stands above one ocean, the water rises there, and also on the opposite side of the \
Earth. The Sun does the same with less than half of the strength, and when both pull in one line, the tides are highest.
"""
"""A text of some 380 tokens: a story, a recipe, code, and facts, so that more than one kind of text is looked at."""

OTHER_TEXT: Final = """\
Dear Mr Okafor,

thank you for your letter of 3 March. The heating in room 214 was repaired on Thursday, and the two windows that did not close will \
be replaced next week. If anything else is broken, please write to repairs@example.org or call 555-0142 between 9:00 and 17:30.

Q: Which rivers flow into the Black Sea?
A: The Danube, the Dniester and the Dnieper, among others. The Danube is the longest of these: it is 2,850 km long.

SELECT name, SUM(price * quantity) AS total FROM orders JOIN items USING (order_id) WHERE year = 2021 GROUP BY name;

for (int i = 0; i < 10; i++) { printf("%d\\n", values[i]); }

{"city": "Lima", "people": 10092000, "by the sea": true, "rivers": ["Rimac", "Lurin"]}

Once a fox came to a well and saw the Moon in it. "That is a cheese," he said, and climbed down in one of the two buckets. There he \
sat, cold and wet, until a wolf looked in. "Come, there is enough for both of us!" The wolf jumped into the other bucket, sank, and \
drew the fox up again. "So it goes in the world," said the fox: "one rises, and the other falls."

Water boils at 100 degrees at sea level; on a mountain of 3,000 metres it boils at 90, because the air presses on it with less force.
"""
"""Another text of many kinds, of some 400 tokens, none of which is in the first: what is fitted to one is measured by the other."""
