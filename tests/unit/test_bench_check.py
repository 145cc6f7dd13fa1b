"""The programs that compare two runs, and the file of the run on record."""

from pathlib import Path

from benchmarks.check import RECORD, advantages, moves
from benchmarks.comparison.results import Cell, Report
from benchmarks.instructions import by_file, moved
from stress.measure import Spread

_ONE = Spread(0.95, 1.0, 1.05)


def test_a_small_change_is_not_told() -> None:
    assert moves({"get": _ONE}, {"get": Spread(1.0, 1.1, 1.2)}) == []


def test_what_only_one_run_has_is_not_compared() -> None:
    assert moves({"get": _ONE}, {"put": Spread(5, 5, 5)}) == []


def test_a_fall_outside_the_spread_is_worse() -> None:
    (move,) = moves({"get": _ONE}, {"get": Spread(0.6, 0.7, 0.8)})
    assert move.worse
    assert move.cells()[-1] == "WORSE"


def test_a_fall_within_the_spread_is_told_and_not_worse() -> None:
    (move,) = moves({"get": _ONE}, {"get": Spread(0.6, 0.7, 0.96)})
    assert not move.worse


def test_a_rise_is_never_worse_and_comes_last() -> None:
    found = moves({"get": _ONE, "put": _ONE}, {"get": Spread(2, 2, 2), "put": Spread(0.5, 0.5, 1)})
    assert [move.what for move in found] == ["put", "get"]
    assert not found[-1].worse


def test_goals_are_turned_so_that_more_is_better() -> None:
    ratio = {"low": 0.4, "median": 0.5, "high": 0.8}
    report = Report(
        {},
        True,
        cells=[
            Cell("get", "64 B", "LMDB", "s", ratio=_ONE),
            Cell("get", "64 B", "Redis", "s", ratio=_ONE),
        ],
        goals=[
            {"what": "time", "goal": "<= 0.8", "ratio": ratio},
            {"what": "rate", "goal": ">= 0.3", "ratio": ratio},
            {"what": "works", "goal": "works", "ratio": None},
        ],
    )
    assert advantages(report) == {
        "get, 64 B, against LMDB": _ONE,
        "time": Spread(1.25, 2.0, 2.5),
        "rate": Spread(0.4, 0.5, 0.8),
    }


def test_instructions_of_a_called_function_count_once() -> None:
    lines = ["ob=(1) /lib/_core.so", "fn=(1) put", "10 5", "cob=(2) /lib/libc.so", "cfn=(2) memcpy"]
    lines += ["calls=1 20", "11 70", "+1 2", "ob=(2)", "fn=(2)", "20 70"]
    assert by_file(lines) == {"/lib/_core.so": 7, "/lib/libc.so": 70}


def test_instructions_that_moved_are_told() -> None:
    assert moved({"get": 100, "put": 100}, {"get": 104, "put": 110, "new": 1}) == [
        "put: 100 -> 110 (+10.0%)"
    ]


def test_the_run_on_record_is_as_the_program_writes_it() -> None:
    assert Report.load(RECORD).text() == RECORD.read_text(), "Report.load(RECORD).save(RECORD) does"


def test_a_report_has_a_line_for_each_item() -> None:
    report = Report({"cores": 2}, True, cells=[Cell("get", "64 B", "LMDB", "s", value=_ONE)] * 2)
    assert sum(line.startswith(' {"work": "get"') for line in report.text().splitlines()) == 2


def test_a_report_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    report = Report({"cores": 2}, True, cells=[Cell("get", "64 B", "LMDB", "s", value=_ONE)])
    report.save(tmp_path / "found.json")
    assert Report.load(tmp_path / "found.json") == report
