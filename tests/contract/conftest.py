"""Both networks are asked the same, and every test starts from the same random numbers: one that fails fails again."""
import pytest
import torch


@pytest.fixture(params=['res_squeezenet', 'res_squeezenet_lite'])
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The network that the test is asked of, which its module calls MODEL."""
    monkeypatch.setattr(request.module, 'MODEL', request.param)
    return request.param


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
