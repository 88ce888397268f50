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
    assert module.processor().split()[1:] == ["amx_bf16", "avx", "avx2", "fma"]


def test_what_decides_bits_beside_the_spec_is_recorded(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert hardware(device="H200", torch_version="9.9") == {"device": "H200", "torch": "9.9"}
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert hardware(device="x", torch_version="9.9")["ONEDNN_MAX_CPU_ISA"] == "AVX2"
