"""The sentence embedder against transformers' BERT in torch."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from atlas_jax.atlas.embed import SentenceEmbedder
from atlas_jax.errors import InputError

WORDS = "the a cat dog ship war sea runs sleeps old on in of and".split()
TEXTS = ["the cat sleeps", "a dog runs on the old ship in the sea of war and sleeps", "war", ""]


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocab))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
        layer_norm_eps=1e-12,
    )
    model = BertModel(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.add_(scale * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def oracle(folder, texts, length):
    import torch
    from transformers import AutoTokenizer, BertModel

    model = BertModel.from_pretrained(folder).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        h = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][:, :, None].float()
    mean = (h * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean, dim=1).numpy()


def test_matches_torch(tiny_bert):
    texts = [*TEXTS, "the cat " * 40]
    embedder = SentenceEmbedder(tiny_bert)
    got = embedder.embed(texts)
    assert got.dtype == np.float32 and got.shape == (5, 24)
    np.testing.assert_allclose(got, oracle(tiny_bert, texts, 40), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, rtol=1e-5)


def test_order_and_company_do_not_matter(tiny_bert):
    embedder = SentenceEmbedder(tiny_bert)
    together = embedder.embed(TEXTS)
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS[::-1]])[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert embedder.embed([]).shape == (0, 24)


def test_refuses_other_models(tiny_bert, tmp_path):
    with pytest.raises(InputError, match="the config of a BERT"):
        SentenceEmbedder(tmp_path)
    config = json.loads((tiny_bert / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(InputError, match="hidden_act 'gelu'"):
        SentenceEmbedder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"model\.safetensors"):
        SentenceEmbedder(tmp_path)
    tensors = load_file(tiny_bert / "model.safetensors")
    tensors.pop("encoder.layer.1.output.dense.bias")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"encoder\.layer\.1\.output\.dense\.bias"):
        SentenceEmbedder(tmp_path)


@pytest.mark.download
def test_the_real_one():
    from atlas_jax import assets

    folder = assets.fetch("all-minilm-l6-v2")
    texts = ["dogs and cats", "A war at sea.", "The words: fleet, ships, navy", "taxes " * 300]
    got = SentenceEmbedder().embed(texts)
    np.testing.assert_allclose(got, oracle(folder, texts, 256), atol=1e-5)
    assert got[1] @ got[2] > 0.3 > got[0] @ got[3]
