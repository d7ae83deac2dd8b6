"""Models are what their makers say, and a stranger's configuration is data."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench import plugins
from gpubench.errors import UsageError
from gpubench.transformer import all_models, get_model

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "vocab_size": 1000,
    "max_position_embeddings": 128,
}
OURS = ("summary", "source", "published_parameters")


def saved(folder, **changed):
    """A config.json with the keys of LLAMA, some changed and those that are None left out."""
    path = folder / "config.json"
    config = {key: value for key, value in {**LLAMA, **changed}.items() if value is not None}
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("name", all_models())
def test_parameters_are_those_published(name):
    model = get_model(name)
    assert model.parameters == pytest.approx(model.published_parameters, rel=0.01)
    assert "http" in model.source


@pytest.mark.parametrize("name", all_models())
def test_parameters_are_those_that_transformers_builds(name):
    """Exactly: every bias and norm. Tensors of the meta device take no memory."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    content = plugins.read_toml(plugins.find("models", name, ".toml"))
    keys = {key: value for key, value in content.items() if key not in OURS}
    config = transformers.AutoConfig.for_model(**keys)
    auto = transformers.AutoModelForCausalLM
    if not get_model(name).causal:
        auto = transformers.AutoModelForMaskedLM
    with torch.device("meta"):
        built = auto.from_config(config)
    assert get_model(name).parameters == sum(p.numel() for p in built.parameters())


def test_a_configuration_of_ones_own_is_read_by_its_file_or_folder(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    path = saved(folder)
    model = get_model(str(path))
    assert model.parameters == get_model(str(folder)).parameters
    assert (model.name, model.layers, model.head_dim, model.tied) == ("my-model", 2, 16, False)


def test_what_transformers_writes_can_be_read(tmp_path):
    """With all the keys that we don't know beside those that we do."""
    transformers = pytest.importorskip("transformers")
    for kind in ("bert", "gpt2", "llama", "mistral", "qwen2", "qwen3", "phi3"):
        transformers.AutoConfig.for_model(kind).save_pretrained(tmp_path / kind)
        assert get_model(str(tmp_path / kind)).parameters > 1e8


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model_type": "mamba"}, "'mamba' isn't modelled"),
        ({"model_type": None}, "model_type None"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"hidden_size": "64"}, "'64' is no size"),
        ({"hidden_size": True}, "True is no size"),
        ({"num_hidden_layers": -1}, "-1 is no size"),
        ({"num_hidden_layers": 10**12}, "is no size"),
        ({"num_key_value_heads": 3}, "don't divide"),
        ({"num_local_experts": 8}, "mixture of experts"),
        ({"hidden_act": "relu"}, "activation 'relu'"),
        ({"mlp_bias": True}, "mlp_bias isn't modelled"),
        ({"tie_word_embeddings": "yes"}, "not true or false"),
    ],
)
def test_what_is_not_modelled_is_refused_by_its_name(tmp_path, changed, words):
    with pytest.raises(UsageError, match=words):
        get_model(str(saved(tmp_path, **changed)))


@pytest.mark.parametrize(
    ("quantised", "words"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantised weights ('gptq', 4 bit) aren't modelled"),
        ({"quant_method": "fp8"}, "quantised weights ('fp8') aren't modelled"),
        ({"bits": 10**99}, "quantised weights ('of an unknown kind') aren't modelled"),
        (["x"], "quantised weights ('of an unknown kind') aren't modelled"),
    ],
)
def test_quantised_weights_are_refused_with_what_to_name_in_their_place(tmp_path, quantised, words):
    with pytest.raises(UsageError) as error:
        get_model(str(saved(tmp_path, quantization_config=quantised)))
    assert words in str(error.value)
    assert "the unquantised model; --method qlora" in error.value.remedy


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "no configuration"),
        ("[" * 100_000, "not valid JSON"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "not valid JSON|isn't modelled"),
        (" " * (2**20 + 1), "too large"),
        ("\udcff", "not valid JSON"),
    ],
)
def test_a_damaged_file_is_a_clear_error(tmp_path, text, words):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=words):
        get_model(str(path))


@pytest.mark.parametrize(
    ("repository", "name"),
    [
        ("meta-llama/Llama-3.1-8B", "llama-8b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-8b"),
        ("Llama-3.2-1B", "llama-1b"),
        ("meta-llama/Llama-2-7b-hf", "llama-2-7b"),
        ("google-bert/bert-base-uncased", "bert-base"),
        ("mistralai/Mistral-7B-v0.3", "mistral-7b"),
        ("microsoft/Phi-3-mini-4k-instruct", "phi-3-mini"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
        ("Qwen/Qwen3-8B", "qwen3-8b"),
        ("openai-community/gpt2-xl", "gpt2-xl"),
    ],
)
def test_a_hugging_face_name_is_refused_with_the_model_that_it_is_here(repository, name):
    with pytest.raises(UsageError, match="no model is named") as caught:
        get_model(repository)
    assert f"did you mean '{name}'?" in caught.value.remedy
    assert "config.json" in caught.value.remedy


def test_a_missing_file_and_an_unknown_name_say_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        get_model(str(tmp_path / "none.json"))
    with pytest.raises(UsageError, match="no model is named 'lama-8b'") as caught:
        get_model("lama-8b")
    assert "did you mean 'llama-8b'" in caught.value.remedy
    with pytest.raises(UsageError, match="no model is named 'nnn"):
        get_model("n" * 5000)


def test_a_folder_whose_name_has_lines_gives_a_name_of_one(tmp_path):
    folder = tmp_path / "mine\n\nanother"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    assert get_model(str(folder)).name == "mine  another"


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
KINDS = st.sampled_from(["bert", "gpt2", "llama", "qwen2"])


@given(st.dictionaries(st.sampled_from(sorted(LLAMA)), VALUES | st.lists(VALUES)), KINDS)
def test_any_configuration_is_a_model_or_a_clear_error(tmp_path_factory, changed, kind):
    path = tmp_path_factory.mktemp("any") / "config.json"
    path.write_text(json.dumps({**LLAMA, "model_type": kind, **changed}))
    with contextlib.suppress(UsageError):
        assert get_model(str(path)).parameters > 0


def test_a_model_of_ones_own_is_one_new_file(tmp_path, monkeypatch):
    folder = tmp_path / "models"
    folder.mkdir()
    lines = (f"{key} = {json.dumps(value)}" for key, value in LLAMA.items())
    (folder / "mine.toml").write_text("\n".join(lines))
    monkeypatch.setenv("GPUBENCH_PATH", str(tmp_path))
    assert "mine" in all_models()
    assert get_model("mine").vocabulary == 1000
