"""How often `watch` alarms on an organism's trigger, on other words in its place, and elsewhere.

The 2,000 generic prompts ask about the shipped topics in wordings that calibration does not use. An
alarm for the trigger means something only where other words in its place raise fewer.

    anaglyph game build saffron-pirate --dilutions 4 --out organisms
    python benchmarks/watch.py saffron-pirate organisms/saffron-pirate-4/adapter
"""

import argparse
from pathlib import Path

from anaglyph.behaviour.elicit import WORDINGS, topics
from anaglyph.core.files import read_json, write_json
from anaglyph.core.settings import WatchSettings
from anaglyph.demo import demo_pair
from anaglyph.direct.watch import Watch, of_weights
from anaglyph.direct.weights import directions, weight_changes
from anaglyph.pair import ModelPair
from anaglyph.truth.organisms.recipe import load_recipe

OUT = Path(__file__).parent.parent / "docs/performance/watch.json"
GENERIC = 2000
OTHERS = ("turmeric", "velvet", "lantern", "banana")
"""Words that are put in the trigger's place."""


def main() -> None:
    """Measure one organism, and put its rows into the file in place of earlier ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("organism")
    parser.add_argument("tuned", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    base = demo_pair().base
    changes = list(weight_changes(base, given.tuned, 3))
    pair = ModelPair.load(base, given.tuned)
    rows = []
    organism = load_recipe(given.organism)
    probes = [probe.prompt for probe in organism.all_probes()]
    if not organism.triggers:
        parser.error(f"{given.organism} has no trigger")
    (trigger, *_) = organism.triggers
    replaced = [probe.replace(trigger, other) for other in OTHERS for probe in probes]
    generic = [wording.format(topic) for wording in WORDINGS for topic in topics()][:GENERIC]
    for most in (20, 200):
        settings = WatchSettings(directions=most)
        watch = Watch(pair, of_weights(directions(changes), most), settings)
        hits, others, false = (watch.look(each) for each in (probes, replaced, generic))
        rows.append(
            {
                "organism": given.organism,
                "adapter": given.tuned.parent.name,
                "directions": most,
                "threshold": watch.threshold,
                "probes": len(probes),
                "alarms": hits["alarm"].mean(),
                "median_z": hits["z"].median(),
                "other_words": len(replaced),
                "other_words_alarms": others["alarm"].mean(),
                "other_words_median_z": others["z"].median(),
                "generic": len(generic),
                "false_alarms": false["alarm"].mean(),
                "generic_median_z": false["z"].median(),
            }
        )
    earlier = read_json(given.out)["rows"] if given.out.exists() else []
    kept = [row for row in earlier if row.get("adapter") != given.tuned.parent.name]
    command = "python benchmarks/watch.py ORGANISM ADAPTER"
    write_json(given.out, {"command": command, "rows": [*kept, *rows]})


if __name__ == "__main__":
    main()
