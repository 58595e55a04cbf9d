import pytest


@pytest.fixture
def package(tmp_path):
    """Modules that a child process can import, from the folder it runs in."""
    (tmp_path / 'plugged.py').write_text('ready = True')
    (tmp_path / 'flaky.py').write_text('import sys\nif not hasattr(sys, "mended"): raise ValueError("broken")')


WATCH = 'from rsq_backbone._import_hooks import when_imported; calls = []; '


def test_callback_waits_for_the_import_and_finds_the_module_whole(package, run_python):
    run_python(WATCH + (
        'import sys; when_imported("plugged", lambda: calls.append(sys.modules["plugged"].ready))\n'
        'assert calls == []\n'
        'import plugged\n'
        'assert calls == [True]'))


def test_callback_comes_at_once_if_the_module_is_there_already(package, run_python):
    run_python(WATCH + 'import plugged; when_imported("plugged", lambda: calls.append(1)); assert calls == [1]')


def test_module_looks_as_if_nothing_had_watched(package, run_python):
    run_python(WATCH + (
        'from importlib.machinery import SourceFileLoader\n'
        'when_imported("plugged", lambda: None)\n'
        'import plugged\n'
        'assert type(plugged.__spec__.loader) is type(plugged.__loader__) is SourceFileLoader\n'
        'import importlib; importlib.reload(plugged)'))


def test_a_spec_found_before_the_import_can_still_be_executed(package, run_python):
    run_python(WATCH + (
        'import importlib.util as util\n'
        'when_imported("plugged", lambda: calls.append(1))\n'
        'spec = util.find_spec("plugged")\n'
        'import plugged\n'
        'spec.loader.exec_module(util.module_from_spec(spec))\n'
        'assert calls == [1]'))


def test_missing_and_broken_modules_fail_as_ever_and_are_watched_on(package, run_python):
    run_python(WATCH + (
        'import sys\n'
        'when_imported("nowhere", lambda: calls.append(1)); when_imported("flaky", lambda: calls.append(2))\n'
        'for name, error in (("nowhere", ModuleNotFoundError), ("flaky", ValueError)) * 2:\n'
        '    try: __import__(name)\n'
        '    except error: pass\n'
        '    else: raise AssertionError(name)\n'
        'assert calls == []\n'
        'sys.mended = True\n'
        'import flaky\n'
        'assert calls == [2]'))


def test_public_names_are_all_there(run_python):
    run_python(
        'import rsq_backbone\n'
        'assert set(rsq_backbone.__all__) <= set(dir(rsq_backbone))\n'
        'for name in rsq_backbone.__all__: getattr(rsq_backbone, name)\n'
        'try: rsq_backbone.nothing\n'
        'except AttributeError: pass\n'
        'else: raise AssertionError')
