"""Writes the golden folders: autoencoders saved by the libraries that own the format, with what
those libraries compute.

    pip install --no-deps eai-sparsify==1.3.3 dictionary-learning==0.1.0 nnsight==0.3.7
    python tests/atlas/goldens/make.py

Both need more than that to be trained with, and dictionary-learning pins packages that do not go
with the ones tested here, so the tests read these files and install neither.
"""

import json
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
D, F, K = 6, 16, 4


def inputs():
    return torch.tensor(np.random.default_rng(0).normal(size=(12, D)).astype(np.float32) * 2 + 0.5)


def randomise(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if name in ("k", "group_sizes"):
                continue
            if name == "threshold" and value.ndim == 0:
                value.copy_(torch.tensor(1.3))
            else:
                value.copy_(0.6 * torch.randn_like(value))
    return model.eval()


def record(folder, x, features, back):
    arrays = {"x": x, "features": features, "back": back}
    np.savez(folder / "golden.npz", **{k: v.detach().numpy() for k, v in arrays.items()})


def sparsify():
    from sparsify import SparseCoder, SparseCoderConfig

    folder = HERE / "sparsify" / "layers.3"
    coder = randomise(SparseCoder(D, SparseCoderConfig(num_latents=F, k=K)))
    coder.save_to_disk(folder)
    x = inputs()
    with torch.no_grad():
        values, indices, _ = coder.encode(x)
        back = coder.decode(values, indices)
        features = torch.zeros(len(x), F).scatter_(-1, indices, values)
    record(folder, x, features, back)


def dictionary_learning():
    from dictionary_learning import dictionary as d
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k

    kinds = {
        "AutoEncoder": d.AutoEncoder(D, F),
        "AutoEncoderNew": d.AutoEncoderNew(D, F),
        "GatedAutoEncoder": d.GatedAutoEncoder(D, F),
        "JumpReluAutoEncoder": d.JumpReluAutoEncoder(D, F),
        "AutoEncoderTopK": top_k.AutoEncoderTopK(D, F, K),
        "BatchTopKSAE": batch_top_k.BatchTopKSAE(D, F, K),
        "MatryoshkaBatchTopKSAE": matryoshka_batch_top_k.MatryoshkaBatchTopKSAE(
            D, F, K, [4, F - 4]
        ),
    }
    for name, model in kinds.items():
        folder = HERE / "dictionary_learning" / name / "resid_post_layer_3"
        folder.mkdir(parents=True, exist_ok=True)
        randomise(model)
        torch.save(model.state_dict(), folder / "ae.pt")
        trainer = {"dict_class": name, "activation_dim": D, "dict_size": F, "layer": 3}
        trainer["lm_name"] = "EleutherAI/pythia-70m-deduped"
        if name.endswith(("TopK", "TopKSAE")):
            trainer["k"] = K
        config = {"trainer": trainer, "buffer": {"ctx_len": 128}}
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        x = inputs()
        with torch.no_grad():
            features = model.encode(x)
            record(folder, x, features, model.decode(features))


if __name__ == "__main__":
    sparsify()
    dictionary_learning()
