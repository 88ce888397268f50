import pytest

from zoo_ray.members import hardware as module
from zoo_ray.members.hardware import hardware, processor_features, resolve_precision


@pytest.fixture
def processor(monkeypatch):
    """Pretends that the processor has these features."""

    def pretend(*features):
        monkeypatch.setattr(module, "processor_features", lambda: frozenset(features))

    return pretend


def test_features_are_words():
    assert all(feature and feature.split() == [feature] for feature in processor_features())
    assert processor_features() == processor_features()


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16"])
def test_bfloat16_pays_where_the_processor_multiplies_in_it(processor, feature):
    processor("avx2", feature)
    assert resolve_precision(gpu=False) == "bfloat16"


def test_float32_on_other_processors(processor):
    processor("avx2", "avx512f")
    assert resolve_precision(gpu=False) == "float32"


def test_bfloat16_on_every_gpu(processor):
    processor()
    assert resolve_precision(gpu=True) == "bfloat16"


def test_hardware_names_vector_features_in_order_and_torch(processor):
    processor("sse", "fma", "avx2", "avx", "amx_bf16")
    found = hardware(gpu_name=None, torch_version="9.9")
    assert found["device"].split()[1:] == ["amx_bf16", "avx", "avx2", "fma"]
    assert found["torch"] == "9.9"


def test_a_gpu_is_named_by_its_model(processor):
    processor("avx")
    assert hardware(gpu_name="H200", torch_version="9.9") == {"device": "H200", "torch": "9.9"}
