import pytest

from rsq_backbone.errors import UserError
from rsq_backbone.model_loading import load_model


@pytest.mark.parametrize(('name', 'options', 'says'), [
    ('res_squeezenett', {}, 'did you mean res_squeezenet'),
    ('qqqqqqqq', {}, 'timm.list_models'),
    ('res_squeezenet.imagenet22k', {}, 'it has: caffe_in1k, tv_in1k'),
    ('efficientnet_b9', dict(pretrained=True), 'unknown model|no pretrained weights'),
    ('resnet200', dict(pretrained=True), 'no pretrained weights'),
    ('res_squeezenet', dict(output_stride=4), 'output_stride should be 8, 16 or 32'),
    ('res_squeezenet', dict(geometry='round'), "geometry should be 'paper' or 'aligned'"),
    ('vit_tiny_patch16_224', dict(output_stride=8), 'output_stride'),
    ('local-dir:/nonexistent', {}, 'nonexistent'),
])
def test_refusals_say_how_to_mend_in_one_line(name, options, says):
    with pytest.raises(UserError, match=says) as raised:
        load_model(name, **options)
    assert '\n' not in str(raised.value)


def test_weights_out_of_reach_point_to_the_bundled_ones():
    with pytest.raises(UserError, match='res_squeezenet, whose weights are bundled'):
        load_model('resnet18', pretrained=True)


def test_model_is_ready_for_inference():
    model = load_model('res_squeezenet', pretrained=True, num_classes=9, in_chans=4)
    assert not model.training
    assert model.num_classes == 9
