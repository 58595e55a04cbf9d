"""What a log shows of slow work, where standard error is no terminal."""
import re
import time
from typing import Any, List

import pytest

from rsq_backbone.cli import _progress
from rsq_backbone.cli._progress import loading, progress, progress_bars


@pytest.fixture
def logged(nothing_takes_long: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Everything counts as slow; gives the lines with their times taken out."""
    monkeypatch.setattr(_progress, '_SHORT', -1.0)

    def lines() -> List[str]:
        out, err = capsys.readouterr()
        assert out == ''
        return re.sub(r'\d+:\d\d', 'TIME', err).splitlines()

    return lines


def test_a_step_is_one_line_at_its_end(logged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_progress, '_PAUSE', float('inf'))
    with progress_bars() as bars:
        for done in range(4):
            bars('reading images', done, 3)
        bars('converting', 0, None)
        bars('training, batches', 0, 2)
        bars('training, batches', 2, 2)
    assert [line for line in logged() if 'left' not in line and '...' not in line] == [
        'reading images 3/3, TIME', 'training, batches 2/2, TIME']


def test_a_step_that_goes_on_without_a_report_shows_that_it_does(
        logged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_progress, '_PAUSE', 0.3)
    with progress_bars() as bars:
        bars('training, batches', 0, 10)
        bars('training, batches', 5, 10)
        time.sleep(1.5)
    lines = logged()
    assert len(lines) >= 2
    assert set(lines) == {'training, batches 5/10, TIME, about TIME left'}
    with loading('loading PyTorch'):
        time.sleep(0.6)
    assert set(logged()) == {'loading PyTorch ... TIME'}


def test_items_are_counted(logged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(progress('abc', 'classifying', total=3)) == ['a', 'b', 'c']
    assert all(line.startswith('classifying ') for line in logged())
    assert list(progress('a', 'classifying', total=1)) == ['a']
    assert logged() == []


def test_short_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as bars, loading('loading PyTorch'):
        for done in range(101):
            bars('reading images', done, 100)
    assert capsys.readouterr() == ('', '')
