import pytest
from profiles import comparison, growth, make_case, make_profile, make_result, on_cuda

from rsq_backbone.cli._profile_output import print_profile
from rsq_backbone.profiler.profile import CaseResult


@pytest.fixture
def printed(monkeypatch, capsys):
    monkeypatch.delenv('COLUMNS', raising=False)

    def run(profile, **options):
        print_profile(profile, **options)
        out, err = capsys.readouterr()
        assert err == ''
        return out

    return run


def line_of(out, *words):
    line, = (line for line in out.splitlines() if all(word in line for word in words))
    return line.split()


def test_a_comparison_fits_a_hundred_columns_with_a_line_a_case(printed):
    profile = comparison()
    table = printed(profile).partition('Memory: ')[0].splitlines()
    assert len(table) == 1 + 2 + 18  # what all share, two lines of heads, and the cases that have figures
    assert max(map(len, table)) <= 100
    assert table[0] == 'CPU, batch 1, 224 px'


@pytest.mark.parametrize('columns', ['60', '80', '100', '200'])
def test_no_figure_is_cut_off_in_a_narrow_terminal(printed, monkeypatch, columns):
    monkeypatch.setenv('COLUMNS', columns)
    out = printed(comparison(), cold=True, work=True)
    assert '19.2 [18.8, 19.8]' in out
    assert out.count('n/a (n=200)') == 15
    assert '…' not in out


def test_a_case_has_its_figures_in_its_line(printed):
    assert line_of(printed(comparison()), 'resnet18', 'openvino ', ' 1 ', 'ok') == [
        'resnet18', 'openvino', '1', '15.8', '[15.5,', '16.3]', '16.2', 'n/a', '(n=200)', '63.3', '81.0', '2e-06', 'ok']
    assert line_of(printed(comparison()), 'resnet18', 'eager ', ' 2 ', 'ok')[-2:] == ['-', 'ok']


def test_cases_without_figures_come_with_their_reason_below_the_table(printed):
    out = printed(comparison())
    below = out.partition('Memory: ')[2]
    assert 'res_squeezenet, compile, 1 thread: crashed: no C++ compiler was found; install g++\n' in below
    assert 'resnet18, compile, 2 threads: interrupted: by Ctrl-C\n' in below
    assert 'Rejected, spread above 25 %: mobilenetv2_100, eager, 2 threads\n' in below
    assert 'disturbed: other processes kept 0.70 cores busy, at the worst; in 1 of 18 cases\n' in below


def test_nothing_but_failures_is_printed_too(printed):
    out = printed(make_profile([CaseResult(make_case('nonsense'), 'refused', 'no such model; see timm.list_models()')]))
    assert 'nonsense: refused: no such model; see timm.list_models()\n' in out
    assert 'p50' not in out


def test_growth_is_a_table_where_several_sizes_were_measured(printed):
    assert 'Growth' not in printed(comparison())
    assert line_of(printed(growth()).partition('Growth')[2], ' 512 ', '7.43 x') == [
        '4', '512', '16.0', 'x', '800', '16.0', 'x', '200', '780', '7.43', 'x']


def test_cold_times_and_work_are_printed_on_request_only(printed):
    plain, full = printed(comparison()), printed(comparison(), cold=True, work=True)
    for heading in ('Cold start', 'Work of one picture', 'Stages of resnet18', "Beside this machine's peaks"):
        assert heading not in plain
        assert heading in full
    assert line_of(full.partition('Cold start')[2].partition('Work of')[0], 'resnet18', 'openvino', ' 1 ') == [
        'resnet18', 'openvino', '1', '1800', '250', '2500', '120', '47.4', '4717']  # 3 x 15.8 for the first call
    assert line_of(full.partition('Stages of resnet18')[2].partition('Stages')[0], 'classifier') == [
        'classifier', '9,000,000', '1350', '75', '%', '13.5', '198', '75', '%']


def test_estimates_are_apart_from_measurements(printed):
    measured, heading, estimated = printed(comparison(), work=True).partition('ESTIMATES, not measured')
    assert heading
    assert 'Raspberry' not in measured
    assert line_of(estimated, 'Jetson Nano  ')[-6:] == ['1', '224', '55.0', 'memory', '150', 'no']
    assert 'assumed: half of the peak is reached\n' in estimated
    assert '[' not in estimated  # no interval, as of something measured


def test_gpu_memory_and_layers_are_printed_where_they_were_measured(printed):
    out = printed(on_cuda())
    assert line_of(out.partition('GPU memory')[2].partition('Allocated')[0], '132') == [
        '8', '3.00', '[2.94,', '3.09]', '0.400', '0.0800', '132', '160', '460', '300', '580']
    assert line_of(out.partition('Layers of batch 8')[2], 'fire2.squeeze') == [
        'fire2.squeeze', 'Conv2d', '1.20', '75', '%']


def test_names_that_are_markup_are_printed_and_not_obeyed(printed):
    names = ('[bold]x[/bold]', '[/]', '\\[red]', 'a\x1b[31mb')
    failed = CaseResult(make_case(names[0]), names[1])
    out = printed(make_profile([*(make_result(make_case(name)) for name in names), failed]))
    for name in names[:3]:
        assert name in out
    assert '\x1b' not in out
    assert f'{names[0]}: {names[1]}\n' in out


def test_models_stand_above_their_rows_where_all_settings_vary(printed):
    models = ('smp:DeepLabV3Plus:res_squeezenet', 'mobilenetv4_conv_small')
    out = printed(make_profile([
        make_result(make_case(m, runtime=r, threads=t, batch=t, input_size=(3, 224, 256 * t)), 0.0123)
        for m in models for r in ('eager-channels-last', 'openvino') for t in (1, 2)]))
    table = out.partition('Memory: ')[0].splitlines()
    assert max(map(len, table)) <= 100
    positions = [[line.strip() for line in table].index(model) for model in models]
    rows = [i for i, line in enumerate(table) if 'openvino' in line]
    assert positions[0] < rows[0] < rows[1] < positions[1] < rows[2] < rows[3]
    assert table[rows[0]].split() == [
        'openvino', '1', '1', '224x256', '12.3', '[12.1,', '12.7]', '12.7', 'n/a', '(n=200)', '81.3', '84.0', '2e-06',
        'ok']
