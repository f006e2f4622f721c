"""The soak in short: a served bundle under many clients, some of whom hang up."""

from __future__ import annotations

from benchmarks.soak.__main__ import soak
from benchmarks.soak.clients import Tally, _check
from benchmarks.soak.faults import outcomes
from benchmarks.soak.summary import summary


def test_many_clients_get_right_answers_and_leave_nothing_behind(trained_zoo, tmp_path):
    facts = soak(trained_zoo, tmp_path, count=24, seconds=4)
    # Four seconds are no time to judge memory by.
    assert not set(facts["problems"]) - {"memory grew"}, facts
    assert facts["answers checked"] > 50
    assert facts["clients saw"]["cut"] and facts["clients saw"]["stop"]
    assert facts["server counted"]["received"] >= facts["answers checked"]


def test_a_soak_tells_what_is_wrong():
    tally = Tally(checked=1)
    tally.outcomes["stop"] = 2
    tally.waits.append(0.1)

    class Truth:
        def answer(self, prompt, mixture, limit):
            return "right", False

    routing = {"generation": 1, "mixture": {}}
    _check(tally, {1: Truth()}, "a prompt", routing, "wrong", whole=True)
    _check(tally, {1: Truth()}, "a prompt", routing, "rig", whole=False)
    counted = {
        "twinserve_requests_received_total": 4.0,
        "twinserve_requests_total{arm=static,outcome=stop}": 1.0,
        "twinserve_requests_total{arm=static,outcome=failed}": 1.0,
    }
    facts = summary(tally, {"twinserve_requests_running": 1.0}, counted, [100.0] * 8 + [200.0] * 8)
    assert len(facts["problems"]) == 6
    assert [found["got"] for found in facts["wrong"]] == ["wrong"]


def test_outcomes_of_the_long_tests_are_told_by_name(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="tests.serve.test_a" name="test_x" time="1.26"/>'
        '<testcase classname="tests.serve.test_a" name="test_y" time="0.1"><failure>no</failure></testcase>'
        '<testcase classname="tests.serve.test_b" name="test_z" time="0"><skipped/></testcase>'
        "</testsuite></testsuites>"
    )
    assert outcomes(report) == {
        "test_a.test_x": {"outcome": "passed", "seconds": 1.3},
        "test_a.test_y": {"outcome": "failure", "seconds": 0.1},
        "test_b.test_z": {"outcome": "skipped", "seconds": 0.0},
    }
