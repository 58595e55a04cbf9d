"""Machines that are not here."""
import pytest

from rsq_backbone import machine


@pytest.fixture
def other_machine(tmp_path, monkeypatch):
    """Lets /proc and /sys say what the given files say, and nothing else."""

    def put(files):
        for path, text in files.items():
            file = tmp_path / path.lstrip('/')
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        monkeypatch.setattr(machine, '_ROOT', tmp_path)

    return put
