"""What the records say of a canary, by the statistics of reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from serve.experiments.assignment import BUCKETS, buckets
from serve.experiments.canary import Evidence
from serve.experiments.records import Feedback, Served
from serve.experiments.spec import Experiment
from serve.experiments.statistics.analysis import sample_ratio
from serve.experiments.statistics.failures import Failures, failing
from serve.experiments.statistics.figures import percent
from serve.experiments.statistics.metricview import MetricView
from serve.experiments.statistics.observations import observe
from serve.experiments.statistics.verdicts import rail_text

Shares = Mapping[str, float]


def evidence(
    experiment: Experiment,
    versions: Mapping[int, Shares],
    served: Iterable[Served],
    feedback: Iterable[Feedback],
) -> Evidence:
    """What the records of these versions say of the canary's arm.

    versions: shares by arm of the versions since the arm last had none, by number; what came before is
    another attempt's. Each attempt has an α of its own: the arm that was mended is not held to what it did
    before. Raises InputError as ``observe``.
    """
    assert experiment.canary is not None
    arm = experiment.canary.arm
    records = [one for one in served if one.version in versions and not one.shadow]
    # As fine as they are told apart when arms are given.
    shares = {number: _told_apart(own) for number, own in versions.items()}
    guarding = [metric for metric in experiment.metrics if metric.guardrail is not None]
    seen = observe(experiment, records, feedback)
    rails = [rail for metric in guarding for rail in MetricView.of(experiment, metric, seen, {}).guardrails()]
    broken = [rail_text(rail) for rail in rails if rail.arm == arm and rail.status == "broken"]
    # Nobody declares by how much an arm may fail oftener where not even failures are a metric.
    tolerance = next((one.guardrail or 0.0 for one in guarding if one.name == "error"), 0.0)
    failed = first_failures(records, shares, experiment.baseline, arm)
    if failing(failed, tolerance, experiment.alpha):
        broken.insert(0, _told(failed, experiment.unit))
    ratio = sample_ratio(experiment, seen, shares)
    return Evidence(
        units=len({one.unit for one in records if one.arm == arm and one.version == max(versions)}),
        broken=tuple(broken),
        mismatch=ratio is not None and ratio.alarm,
    )


def first_failures(
    records: Iterable[Served], shares: Mapping[int, Shares], control: str, arm: str
) -> list[Failures]:
    """Units by the version and arm of their first failed request, the versions in order; those of other arms
    and of versions in which one of the two had no share are left out. The first failure in *any* arm counts:
    units that came from another arm would else be fresher than the rest."""
    first: dict[str, Served] = {}
    for record in sorted(records, key=lambda record: record.moment):
        if record.metrics.get("error") == 1:
            first.setdefault(record.unit, record)
    counts = Counter((record.version, record.arm) for record in first.values())
    found = []
    for version, own in sorted(shares.items()):
        if own[arm] > 0 and own[control] > 0:
            share = own[arm] / (own[arm] + own[control])
            found.append(Failures(share, counts[version, arm], counts[version, control]))
    return found


def _told_apart(shares: Shares) -> dict[str, float]:
    return {arm: count / BUCKETS for arm, count in buckets(shares).items()}


def _told(failed: Iterable[Failures], unit: str) -> str:
    seen = [one for one in failed if one.arm or one.control]
    arm, all_of_them = sum(one.arm for one in seen), sum(one.arm + one.control for one in seen)
    expected = sum(one.share * (one.arm + one.control) for one in seen) / all_of_them
    return (
        f"of {all_of_them:,} {unit}s whose requests failed on the server's side {arm:,} had it, and by its"
        f" share {percent(expected)} would"
    )
