"""metrics.py PAGE...: reads pages of metrics, taken one after the other, by Prometheus' own parser, and ends with
status 1 if any sample of any metric on them is the same on all: then no test has moved it."""

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
# What is not on a page yet counts as 0 there.
moved = {
    name: any(len({at.get(page, 0) for page in pages}) > 1 for at in values.values()) for name, values in seen.items()
}
for name, has_moved in sorted(moved.items()):
    print(f"{'moved' if has_moved else 'NEVER'} {name}")
sys.exit(0 if moved and all(moved.values()) else 1)
