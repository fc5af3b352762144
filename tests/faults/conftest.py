"""Counts the tries of a campaign and prints them as a table."""

import campaign
import pytest


COLUMNS = ("tried", "lost", "hung", "different", "unclear")


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The folder of the tiny run that nobody disturbed; it keeps checkpoints 8 and 12."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    status, _, stderr = campaign.finish("run_mae.py", campaign.flags(folder))
    assert status == 0, stderr
    return folder


@pytest.fixture(scope="session")
def whole_of_two(tmp_path_factory):
    """The same by two processes."""
    folder = tmp_path_factory.mktemp("whole_of_two") / "run"
    status, _, stderr = campaign.finish("run_mae.py", campaign.flags(folder, 2), processes=2)
    assert status == 0, stderr
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    marker = item.get_closest_marker("fault")
    if marker and (call.when == "call" or report.failed) and not report.skipped:
        outcome = "fine"
        if call.excinfo is not None:
            outcome = getattr(call.excinfo.value, "kind", "unclear")
        report.user_properties.append(("try", (marker.args[0], outcome)))
    return report


def pytest_terminal_summary(terminalreporter):
    table = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            count_tries(table, dict(getattr(report, "user_properties", ())))
    if not table:
        return
    terminalreporter.section("faults")
    width = max(map(len, table)) + 2
    terminalreporter.line("fault".ljust(width) + "".join(name.rjust(11) for name in COLUMNS))
    for fault, counts in sorted(table.items()):
        figures = "".join(str(counts[name]).rjust(11) for name in COLUMNS)
        terminalreporter.line(fault.ljust(width) + figures)


def count_tries(table, properties):
    """Adds a report's tries: one, or as many as the test says that it made."""
    if "try" not in properties:
        return
    fault, outcome = properties["try"]
    counts = table.setdefault(fault, dict.fromkeys(COLUMNS, 0))
    counts["tried"] += properties.get("tries", 1)
    for kind in properties.get("kinds") or [outcome]:
        if kind != "fine":
            counts[kind] += 1
