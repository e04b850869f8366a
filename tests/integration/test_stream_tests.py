"""The pytest plugin as its users have it: an own project's tests, in memory and on a real stack."""

import shutil
import subprocess
import sys

import pytest

from tests.pages import ROOT

pytest_plugins = ["pytester"]

STORIES = """
import pytest

from features.errors import BadInput
from features.events import EngagementEvent


@pytest.fixture(params=["headrace_stream", "headrace_stack_stream"])
def stream(request):
    return request.getfixturevalue(request.param)


def test_a_click_counts_for_an_hour_and_leads_the_ranking(stream):
    stream.item("song", author="ana", categories=["jazz"])
    stream.item("noise", author="ben", categories=["rock"])
    stream.shows("mia", "noise", "song")
    stream.does("mia", "click", "song")
    found = stream.features("mia", "song")
    assert (found["item_rates__impressions_sum_1h"], found["item_rates__idle_s"]) == (1.0, 0.0)
    assert stream.features("tom", "song")["author_rates__ctr_all"] == 5.4 / 11
    assert stream.features("tom", "noise")["author_rates__ctr_all"] == 4.4 / 11
    assert set(stream.ranking("tom", ["noise", "song"])) == {"noise", "song"}
    stream.passes("2h")
    found = stream.features("mia", "song")
    assert (found["item_rates__impressions_sum_1h"], found["item_rates__idle_s"]) == (0.0, 7200.0)
    assert found["item_rates__impressions_sum_24h"] == 1.0


def test_what_cannot_be_is_told(headrace_stream):
    with pytest.raises(KeyError, match="no feature 'ctr'.*item_rates__ctr_1h"):
        headrace_stream.features("mia", "song")["ctr"]
    late = dict(event_id="e", user_id="mia", item_id="song", action="click")
    with pytest.raises(BadInput, match="ahead of its append time"):
        headrace_stream.given(EngagementEvent(event_time=headrace_stream.now + 10**7, **late))


def test_one_that_fails(headrace_stream):
    assert headrace_stream.features("mia", "song")["item_rates__impressions_sum_1h"] == 1.0
"""


def test_stories_hold_in_memory_and_on_a_real_stack_and_can_fail(pytester: pytest.Pytester) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "*.db", "data", "archive")
    shutil.copytree(ROOT / "feature_repo", pytester.path / "feature_repo", ignore=ignored)
    pytester.makepyfile(test_stories=STORIES)
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=240)
    done.assert_outcomes(passed=3, failed=1)
    done.stdout.fnmatch_lines(["FAILED test_stories.py::test_one_that_fails*"])


def test_a_run_without_stream_tests_imports_nothing_heavy_for_the_plugin() -> None:
    script = (
        "import sys, deploy.pytest_plugin; "
        "heavy = {'feast', 'numba', 'numpy', 'pandas', 'kafka', 'redis', 'pydantic'}; "
        "print(sorted(heavy & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
