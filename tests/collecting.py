"""What the collector's configuration makes of a sample, by the rules of its documentation."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from deploy.aws.alarms import CLUSTER, Series

Sample = tuple[str, Mapping[str, str]]
Told = tuple[str, frozenset[tuple[str, str]]]
LINE = re.compile(r"^(\w+)(?:\{(.*)\})? \S+$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')


def samples(text: str) -> list[Sample]:
    """The samples of a scrape."""
    return [(name, dict(LABEL.findall(labels))) for name, labels in LINE.findall(text)]


def metric_of(one: Series, cluster: str = "headrace") -> Told:
    """What an alarm asks CloudWatch for."""
    return one.metric, frozenset({(CLUSTER, cluster), *one.labels})


def told(config: Mapping[str, Any], scraped: Iterable[Sample]) -> list[Told]:
    """Metrics of CloudWatch with their dimensions, once for each sample that is sent."""
    (scrape,) = config["receivers"]["prometheus"]["config"]["scrape_configs"]
    added = {
        one["target_label"]: one["replacement"]
        for one in scrape["relabel_configs"]
        if "replacement" in one
    }
    (rule,) = scrape["metric_relabel_configs"]
    let_in = config["processors"]["filter"]["metrics"]["include"]["metric_names"]
    found: list[Told] = []
    for name, own in scraped:
        labels = {"__name__": name, **own, **added}
        joined = ";".join(labels.get(label, "") for label in rule["source_labels"])
        if name in let_in and re.fullmatch(rule["regex"], joined):
            found += _declared(config["exporters"]["awsemf"]["metric_declarations"], name, labels)
    return found


def _declared(
    declarations: Iterable[Mapping[str, Any]], name: str, labels: Mapping[str, str]
) -> Iterator[Told]:
    for one in declarations:
        if not any(_found(selector, name) for selector in one["metric_name_selectors"]):
            continue
        matchers = one.get("label_matchers", [])
        if matchers and not any(
            _found(m["regex"], m["separator"].join(labels.get(n, "") for n in m["label_names"]))
            for m in matchers
        ):
            continue
        for dimensions in one["dimensions"]:
            if set(dimensions) <= set(labels):
                yield name, frozenset((d, labels[d]) for d in dimensions)


def _found(pattern: str, text: str) -> bool:
    return re.search(pattern.replace("$$", "$"), text) is not None
