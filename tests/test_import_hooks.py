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


def test_whoever_asks_the_loader_instead_of_importing_gets_answers(package, run_python):
    run_python(WATCH + (
        'import importlib.util, pkgutil, copy\n'
        'when_imported("plugged", lambda: calls.append(1))\n'
        'assert pkgutil.get_data("plugged", "plugged.py") == b"ready = True"\n'  # asks the loader, and imports too
        'assert calls == [1]\n'
        'when_imported("flaky", lambda: None)\n'
        'loader = copy.copy(importlib.util.find_spec("flaky").loader)\n'
        'assert "broken" in loader.get_source("flaky")\n'
        'assert loader.get_code("flaky").co_filename == loader.path == loader.get_filename("flaky")'))


def test_a_module_imported_lazily_calls_back_once_it_is_used(package, run_python):
    run_python(WATCH + (
        'import importlib.util as util, sys\n'
        'when_imported("plugged", lambda: calls.append(1))\n'
        'spec = util.find_spec("plugged")\n'
        'spec.loader = util.LazyLoader(spec.loader)\n'
        'module = sys.modules["plugged"] = util.module_from_spec(spec)\n'
        'spec.loader.exec_module(module)\n'
        'assert calls == []\n'
        'assert module.ready\n'
        'assert calls == [1]'))


def test_hooks_of_others_that_ask_all_finders_get_along(package, run_python):
    """Some ask by importlib, some ask the entries of sys.meta_path, and either may come first or last."""
    run_python(WATCH + (
        'import importlib.util, sys\n'
        'class Asking:\n'
        '    busy = False\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        '        if name != "plugged" or self.busy: return None\n'
        '        self.busy = True\n'
        '        try: return self.ask(name)\n'
        '        finally: self.busy = False\n'
        'class ByImportlib(Asking):\n'
        '    def ask(self, name): return importlib.util.find_spec(name)\n'
        'class ByMetaPath(Asking):\n'
        '    def ask(self, name):\n'
        '        return next(filter(None, (f.find_spec(name, None) for f in sys.meta_path if f is not self)), None)\n'
        'sys.meta_path[:0] = [ByImportlib(), ByMetaPath()]\n'
        'when_imported("plugged", lambda: calls.append(1))\n'
        'sys.meta_path[:0] = [ByImportlib(), ByMetaPath()]\n'
        'import plugged\n'
        'assert calls == [1]'))


def test_a_module_within_a_package_can_be_watched(package, run_python):
    run_python(WATCH + (
        'when_imported("xml.dom.minidom", lambda: calls.append(1))\n'
        'import xml.dom\n'
        'assert calls == []\n'
        'import xml.dom.minidom\n'
        'assert calls == [1]'))
