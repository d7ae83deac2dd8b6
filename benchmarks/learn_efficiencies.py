"""Learn again from the published results: makes bench/gpubench/data/efficiencies.json.

python benchmarks/learn_efficiencies.py

Run it after data/published.csv, cards.csv or networks.csv changed, or the model did; a test says
when that is due.
"""

import json

from gpubench import efficiency, evidence
from gpubench.predict import SHIPPED
from gpubench.published import published


def main() -> None:
    """Fit, and write what isn't of a single source or card."""
    observations = evidence.from_published(published())
    learnt = efficiency.fit(observations).shared()
    content = {
        "provenance": "modelled, from published results",
        "results": len(observations),
        "cards": len({one.card.card_id for one in observations}),
        **learnt.to_json(),
    }
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    SHIPPED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
