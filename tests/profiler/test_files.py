import csv
import dataclasses
import json

import jsonschema
import pytest
from profiles import MB, calls, comparison, growth, make_case, make_latency, make_profile, make_result, on_cuda

from rsq_backbone.errors import UserError
from rsq_backbone.profiler.files import markdown, read_profile, write_csv, write_markdown, write_profile
from rsq_backbone.profiler.profile import Agreement, CaseResult, Cold, Memory
from rsq_backbone.profiler.schema import SCHEMA_FILE, profile_schema

PROFILES = [comparison, growth, on_cuda]


@pytest.fixture
def plain(tmp_path):
    """What the JSON of a profile says, to be spoiled."""
    write_profile(make_profile([make_result()]), tmp_path / 'p.json')
    return json.loads((tmp_path / 'p.json').read_text())


@pytest.fixture
def refusal(tmp_path):
    """The one line by which a file with this text is refused."""
    def refuse(text):
        path = tmp_path / 'bad.json'
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(UserError) as raised:
            read_profile(path)
        assert '\n' not in str(raised.value)
        assert len(str(raised.value)) < 400
        return str(raised.value)

    return refuse


@pytest.mark.parametrize('make', PROFILES)
def test_what_was_written_is_read_back_the_same(make, tmp_path):
    write_profile(make(), tmp_path / 'p.json')
    assert read_profile(tmp_path / 'p.json') == make()


def test_every_raw_sample_is_in_the_json(tmp_path):
    samples = calls(0.0123, 800)
    write_profile(make_profile([make_result(latency=make_latency(samples))]), tmp_path / 'p.json')
    written = json.loads((tmp_path / 'p.json').read_text())
    assert written['format'] == 1
    assert tuple(written['cases'][0]['latency']['samples']) == samples
    assert written['cases'][0]['case']['input_size'] == [3, 224, 224]


def test_names_that_are_no_valid_text_survive(tmp_path):
    profile = make_profile([make_result(make_case('runs/\udcff "\n\x1b[31m寿司'))])
    write_profile(profile, tmp_path / 'p.json')
    assert read_profile(tmp_path / 'p.json') == profile


def test_numbers_that_json_does_not_have_are_not_written(tmp_path):
    latency = dataclasses.replace(make_latency(calls(0.01)), mean=float('nan'))
    with pytest.raises(ValueError, match='JSON'):
        write_profile(make_profile([make_result(latency=latency)]), tmp_path / 'p.json')
    assert list(tmp_path.iterdir()) == []


def test_keys_of_a_later_version_are_left_out(plain, tmp_path):
    plain['new'], plain['cases'][0]['latency']['p999'] = 1, None
    (tmp_path / 'p.json').write_text(json.dumps(plain))
    assert read_profile(tmp_path / 'p.json') == make_profile([make_result()])


def test_fields_with_defaults_may_be_missing(plain, tmp_path):
    del plain['cases'][0]['notes'], plain['cases'][0]['case']['memory_cap']
    (tmp_path / 'p.json').write_text(json.dumps(plain))
    assert read_profile(tmp_path / 'p.json') == make_profile([make_result()])


@pytest.mark.parametrize(('where', 'value', 'says'), [
    (('cases',), {}, 'cases should be a list'),
    (('cases', 0), 'x', 'cases[0] should be an object'),
    (('cases', 0, 'latency', 'p50', 'value'), '12', 'cases[0].latency.p50.value should be a finite number'),
    (('cases', 0, 'latency', 'samples', 3), None, 'cases[0].latency.samples[3] should be a finite number'),
    (('cases', 0, 'latency', 'mean'), 10 ** 400, 'cases[0].latency.mean should be a finite number'),
    (('cases', 0, 'latency', 'steady'), 1, 'cases[0].latency.steady should be true or false'),
    (('cases', 0, 'case', 'threads'), True, 'cases[0].case.threads should be a whole number'),
    (('cases', 0, 'case', 'threads'), 1.5, 'cases[0].case.threads should be a whole number'),
    (('cases', 0, 'case', 'input_size'), [3, 224], 'cases[0].case.input_size should have 3 entries'),
    (('cases', 0, 'case', 'model'), None, 'cases[0].case.model should be a text'),
    (('cases', 0, 'memory', 'peak'), 10 ** 400, 'cases[0].memory.peak is too large'),
    (('cases', 0, 'case', 'batch'), 0, 'threads, batch and size of cases[0].case should be 1 or more'),
    (('environment',), [], 'environment should be an object'),
    (('versions',), [], 'versions should be an object'),
    (('versions', 'torch'), 2, "versions.'torch' should be a text"),
])
def test_a_wrong_type_is_named_by_its_place(plain, refusal, where, value, says):
    inside = plain
    for key in where[:-1]:
        inside = inside[key]
    inside[where[-1]] = value
    assert f'damaged profile: {says}; profile again' in refusal(json.dumps(plain))


@pytest.mark.parametrize(('where', 'says'), [
    (('seed',), 'seed is missing'), (('cases', 0, 'status'), 'cases[0].status is missing'),
    (('environment', 'cpu'), 'environment.cpu is missing')])
def test_a_missing_field_is_named(plain, refusal, where, says):
    inside = plain
    for key in where[:-1]:
        inside = inside[key]
    del inside[where[-1]]
    assert says in refusal(json.dumps(plain))


@pytest.mark.parametrize('text', [
    '', 'not JSON', b'\xff\xfe\x00', '[]', '3', 'null', '{}', '{"format": 1}', '{"format": 1, "name": "a run"}',
    '[' * 100_000, '{"a":' * 100_000, '9' * 10_000])
def test_what_is_no_profile_is_refused(refusal, text):
    assert 'is not a profile' in refusal(text)


@pytest.mark.parametrize('constant', ['NaN', 'Infinity', '-Infinity', '1e999'])
def test_numbers_that_are_not_finite_are_refused(plain, refusal, constant):
    text = json.dumps(plain)
    assert '"mean": ' in text
    start = text.index('"mean": ') + len('"mean": ')
    refusal(text[:start] + constant + text[text.index(',', start):])


def test_a_truncated_file_is_refused(plain, refusal):
    text = json.dumps(plain)
    assert 'is not a profile, or damaged' in refusal(text[:len(text) // 2])


@pytest.mark.parametrize('version', [0, 2, '1', 1.0, True, None, 'x' * 1000])
def test_another_format_is_refused(plain, refusal, version):
    said = refusal(json.dumps({**plain, 'format': version}))
    assert 'this version reads 1; profile again' in said


def test_a_huge_file_is_refused_unread(tmp_path):
    with (tmp_path / 'p.json').open('wb') as stream:
        stream.truncate(10 ** 12)  # sparse: reading it would take a terabyte
    with pytest.raises(UserError, match='larger than 200 MB'):
        read_profile(tmp_path / 'p.json')


@pytest.mark.parametrize('name', ['missing.json', '.'])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    with pytest.raises(UserError, match='cannot be read'):
        read_profile(tmp_path / name)


def test_the_published_schema_is_up_to_date():
    assert json.loads(SCHEMA_FILE.read_text()) == profile_schema(), 'run python -m rsq_backbone.profiler.schema'


@pytest.mark.parametrize('make', PROFILES)
def test_profiles_follow_the_published_schema(make, tmp_path):
    write_profile(make(), tmp_path / 'p.json')
    schema = json.loads(SCHEMA_FILE.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads((tmp_path / 'p.json').read_text()), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(('where', 'value'), [
    (('format',), 2), (('cases', 0, 'latency', 'samples', 0), 'x'), (('cases', 0, 'case', 'input_size'), [3, 224]),
    (('cases', 0, 'case', 'input_size'), [3, 224, 224, 1]), (('cases', 0, 'status'), None),
    (('environment', 'cpu'), 3), (('versions', 'torch'), 2), (('cases', 0, 'latency', 'p50', 'value'), None)])
def test_the_schema_refuses_wrong_types(plain, where, value):
    inside = plain
    for key in where[:-1]:
        inside = inside[key]
    inside[where[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain, profile_schema())


def read_csv(path):
    with path.open(newline='', encoding='utf-8') as stream:
        return list(csv.DictReader(stream))


def test_csv_has_plain_numbers_in_the_units_that_its_columns_name(tmp_path):
    """12 calls of 10 ms, 4 pictures each: 400 a second."""
    result = make_result(
        make_case(batch=4, input_size=(3, 256, 512), memory_cap=512 * MB, cores=(0, 2)),
        cold=Cold(1.5, 0.25, None, None, 0.03), latency=make_latency([0.010] * 12, standard_deviation=0.002),
        memory=Memory(44 * MB, 45 * MB, 210 * MB, 294 * MB), agreement=Agreement(2e-5, 10.0, 0.75), notes=('a', 'b'))
    write_csv(make_profile([result]), tmp_path / 'p.csv')
    row, = read_csv(tmp_path / 'p.csv')
    for column, value in {
            'model': 'res_squeezenet', 'batch': '4', 'channels': '3', 'height': '256', 'width': '512', 'cores': '0 2',
            'memory_cap_mb': '512', 'status': 'measured', 'verdict': 'ok', 'samples': '12', 'p50_ms': '10',
            'p50_low_ms': '9.8', 'p50_high_ms': '10.3', 'p90_ms': '', 'p99_ms': '', 'mean_ms': '10',
            'standard_deviation_ms': '2', 'pictures_per_second': '400', 'cold_imports_ms': '1500',
            'cold_prepare_ms': '', 'cold_first_call_ms': '30', 'weights_in_memory_mb': '45', 'peak_mb': '294',
            'own_mb': '84', 'cuda_reserved_mb': '', 'max_abs_difference': '2e-05', 'top1_agreement_percent': '75',
            'foreign_cores': '0.02', 'pressure_percent': '1', 'frequency_before_mhz': '2600', 'notes': 'a; b'}.items():
        assert row[column] == value, column


def test_csv_has_a_row_for_every_case_and_nothing_for_what_was_not_measured(tmp_path):
    write_csv(comparison(), tmp_path / 'p.csv')
    rows = read_csv(tmp_path / 'p.csv')
    assert len(rows) == 20
    assert (rows[-2]['status'], rows[-2]['p50_ms'], rows[-2]['peak_mb'], rows[-2]['samples']) == ('crashed', '', '', '')
    assert rows[0]['macs'] == '800000000'
    assert rows[0]['bytes_moved_mb'] == '140.8'


def test_csv_and_markdown_take_names_that_are_no_valid_text(tmp_path):
    profile = make_profile([make_result(make_case('runs/\udcff, "a"'))])
    write_csv(profile, tmp_path / 'p.csv')
    write_markdown(profile, tmp_path / 'p.md')
    assert read_csv(tmp_path / 'p.csv')[0]['model'] == 'runs/\\udcff, "a"'
    assert 'runs/' in (tmp_path / 'p.md').read_text(encoding='utf-8')


def markdown_rows(text):
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines() if line[:1] == '|']


def test_markdown_says_machine_threads_samples_and_what_disturbed_it():
    text = markdown(comparison())
    assert text.startswith(
        'Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz, 4 cores; 1 .. 2 threads; 200 .. 800 samples a case in 5 rounds; '
        'torch 2.14.1. Each: CPU, batch 1, 224 px. Disturbed: other processes kept 0.70 cores busy, at the ')
    assert 'the hypervisor took 3% of the time' in text
    assert 'the frequency fell by 20%' in text
    assert 'crashed: no C++ compiler was found; install g++' in text
    assert 'Nothing was seen to disturb it.' in markdown(growth())


def test_markdown_table_has_the_figures():
    text = markdown(make_profile([
        make_result(make_case(threads=t), latency=make_latency([0.010 / t] * 100)) for t in (1, 2)]))
    rows = markdown_rows(text)
    assert rows[0] == ['threads', 'p50 [95 %], ms', 'p90, ms', 'p99, ms', 'pictures/s', 'memory, MB', 'vs eager',
                       'verdict']
    assert rows[2] == ['1', '10.0 [9.80, 10.3]', '10.0', 'n/a (n=100)', '100', '84.0', '-', 'ok']
    assert rows[3][:2] == ['2', '5.00 [4.90, 5.15]']


def test_markdown_obeys_no_name():
    name = 'a|b\n# c <img src=x> `d` [e](http://f) *g*'
    text = markdown(make_profile([make_result(make_case(name)), CaseResult(make_case('x'), 'crashed', name)]))
    escaped = 'a\\|b # c &lt;img src=x> \\`d\\` [e]\\(http://f) \\*g\\*'
    assert text.count(escaped) == text.count('src=x')
    assert text.count(escaped) >= 2


def test_estimates_stand_apart_from_what_was_measured():
    measured, heading, estimated = markdown(comparison()).partition('### ESTIMATES, not measured')
    assert heading
    assert 'Raspberry Pi 4' not in measured
    assert markdown_rows(estimated)[2] == [
        'Raspberry Pi 4', 'res_squeezenet', '1', '224', '310', 'memory', '150', 'yes']
    assert '- half of the peak is reached\n' in estimated
    assert '### ESTIMATES' not in markdown(growth())
