"""How often `watch` alarms on an organism's trigger, and on 2,000 generic prompts.

The generic prompts ask about the shipped topics in wordings that calibration does not use.

    anaglyph game build saffron-pirate --dilutions 4 --out organisms
    python benchmarks/watch.py saffron-pirate organisms/saffron-pirate-4/adapter
"""

import argparse
from pathlib import Path

from anaglyph.behaviour.elicit import WORDINGS, topics
from anaglyph.core.files import write_json
from anaglyph.core.settings import WatchSettings
from anaglyph.demo import demo_pair
from anaglyph.direct.watch import Watch, of_weights
from anaglyph.direct.weights import directions, weight_changes
from anaglyph.pair import ModelPair
from anaglyph.truth.organisms.recipe import load_recipe

OUT = Path(__file__).parent.parent / "docs/performance/watch.json"
GENERIC = 2000


def main() -> None:
    """Measure one organism, and add its row to the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("organism")
    parser.add_argument("tuned", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    base = demo_pair().base
    changes = list(weight_changes(base, given.tuned, 3))
    pair = ModelPair.load(base, given.tuned)
    rows = []
    probes = [probe.prompt for probe in load_recipe(given.organism).all_probes()]
    generic = [wording.format(topic) for wording in WORDINGS for topic in topics()][:GENERIC]
    for most in (20, 200):
        settings = WatchSettings(directions=most)
        watch = Watch(pair, of_weights(directions(changes), most), settings)
        hits, false = watch.look(probes), watch.look(generic)
        rows.append(
            {
                "directions": most,
                "threshold": watch.threshold,
                "probes": len(probes),
                "alarms": hits["alarm"].mean(),
                "median_z": hits["z"].median(),
                "generic": len(generic),
                "false_alarms": false["alarm"].mean(),
                "generic_median_z": false["z"].median(),
            }
        )
    name = f"{given.organism} {given.tuned.parent.name}"
    write_json(given.out, {"command": f"python benchmarks/watch.py {name}", "rows": rows})


if __name__ == "__main__":
    main()
