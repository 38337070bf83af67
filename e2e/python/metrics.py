"""metrics.py PAGE...: parses metrics pages, taken one after another, with Prometheus' own parser. Exits with status 1
if a metric has the same samples on every page, because then no test has changed it."""

import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

seen = {}
for number, page in enumerate(sys.argv[1:]):
    for family in text_string_to_metric_families(open(page).read()):
        for sample in family.samples:
            values = seen.setdefault(sample.name, {})
            labels = tuple(sorted(sample.labels.items()))
            values.setdefault(labels, {})[number] = sample.value

pages = range(len(sys.argv) - 1)
# A sample that is missing from a page counts as 0.
moved = {
    name: any(len({at.get(page, 0) for page in pages}) > 1 for at in values.values()) for name, values in seen.items()
}
for name, has_moved in sorted(moved.items()):
    print(f"{'moved' if has_moved else 'NEVER'} {name}")
sys.exit(0 if moved and all(moved.values()) else 1)
