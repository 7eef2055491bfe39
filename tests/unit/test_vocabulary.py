"""Trimmed vocabularies: any text still tokenises, and a text whose tokens are all kept has the very same vector."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from tests.support import parity
from tests.support.tiny import tokenizer, write_checkpoint
from whit.export.checkpoint import CheckpointError, read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.derive import read_steps
from whit.export.vocabulary import TrimOptions, trim_vocabulary
from whit.runtime.encoder import Encoder
from whit.runtime.package import open_package
from whit.runtime.tokenizer import Tokenizer

KINDS = {
    "WordPiece": tokenizer,
    "BPE": parity.byte_level_tokenizer,
    "Unigram": parity.unigram_tokenizer,
}


def checkpoint_of(folder: Path, kind: str) -> Path:
    folder = write_checkpoint(folder, "bert" if kind == "WordPiece" else "roberta")
    KINDS[kind]().save(str(folder / "tokenizer.json"))
    return folder


def write_corpus(path: Path, texts: list[str]) -> Path:
    path.write_text("\n".join(" ".join(text.split()) for text in texts) + "\n", encoding="utf-8")
    return path


def embed(checkpoint: Path, out: Path, texts: list[str]) -> tuple[list[list[int]], np.ndarray]:
    compile_checkpoint(checkpoint, out, ExportOptions(dtype="float32", name="tiny"))
    package = open_package(out)
    ids = Tokenizer(package).encode(texts)
    return [row.tolist() for row in ids], Encoder(package).encode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_kept_tokens_give_the_same_vectors_and_all_texts_still_tokenise(kind: str, tmp_path: Path) -> None:
    source = checkpoint_of(tmp_path / "source", kind)
    texts = [" ".join(text.split()[:5]) for text in parity.mixed_texts(60)]
    corpus = write_corpus(tmp_path / "corpus.txt", texts[:20])

    before = len(read_checkpoint(source).tokenizer.get_vocab())
    seen = trim_vocabulary(source, tmp_path / "seen", TrimOptions(corpus))
    report = trim_vocabulary(source, tmp_path / "out", TrimOptions(corpus, seen.token_count - 6))
    old_ids, old = embed(source, tmp_path / "old", texts)
    new_ids, new = embed(tmp_path / "out", tmp_path / "new", texts)

    names = [{i: t for t, i in read_checkpoint(p).tokenizer.get_vocab().items()} for p in (source, tmp_path / "out")]
    old_tokens, new_tokens = (
        [[n[i] for i in row] for row in ids] for n, ids in zip(names, (old_ids, new_ids), strict=True)
    )
    kept = [all(token in names[1].values() for token in row) for row in old_tokens]
    assert report.token_count == seen.token_count - 6 < seen.token_count < before == report.token_count_before
    assert 2 < sum(kept) < len(texts)
    for i, is_kept in enumerate(kept):
        assert (new_tokens[i] == old_tokens[i]) == is_kept
        assert not is_kept or np.array_equal(new[i], old[i])
        assert new_tokens[i].count("[UNK]") <= old_tokens[i].count("[UNK]")
    assert seen.token_share == seen.text_share == seen.length_ratio == 1
    assert report.text_share == pytest.approx(np.mean(kept[:20]), abs=1e-6)
    assert read_steps(tmp_path / "out")[0]["step"] == "trim"


def test_without_a_corpus_only_what_no_text_can_produce_goes(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    path = source / "tokenizer.json"
    content = json.loads(path.read_text())
    swapped = {"water": "Water", "people": "peo ple"}  # upper case is folded away, a space splits
    content["model"]["vocab"] = {swapped.get(t, t): i for t, i in content["model"]["vocab"].items()}
    path.write_text(json.dumps(content))

    trim_vocabulary(source, tmp_path / "out", TrimOptions())

    before, after = (set(read_checkpoint(p).tokenizer.get_vocab()) for p in (source, tmp_path / "out"))
    assert before - after == {"Water", "peo ple"}


def test_the_ids_that_configurations_name_move_along(tmp_path: Path) -> None:
    """The special tokens are last here, so trimming moves them all."""
    source = write_checkpoint(tmp_path / "source")
    words = sorted(tokenizer().get_vocab(), key=lambda token: (token.startswith("["), token))
    content = json.loads((source / "tokenizer.json").read_text())
    ids = {token: i for i, token in enumerate(words)}
    content["model"]["vocab"] = ids
    for token in content["added_tokens"]:
        token["id"] = ids[token["content"]]
    content["post_processor"] = {
        "type": "BertProcessing",
        "sep": ["[SEP]", ids["[SEP]"]],
        "cls": ["[CLS]", ids["[CLS]"]],
    }
    content["padding"] = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
    content["padding"] |= {"pad_id": ids["[PAD]"], "pad_type_id": 0, "pad_token": "[PAD]"}
    (source / "tokenizer.json").write_text(json.dumps(content))
    (source / "config.json").write_text(
        json.dumps(
            json.loads((source / "config.json").read_text())
            | {"pad_token_id": ids["[PAD]"], "eos_token_id": [ids["[SEP]"]]}
        )
    )
    decoder = {str(ids["[CLS]"]): {"content": "[CLS]", "special": True}}
    (source / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    corpus = write_corpus(tmp_path / "corpus.txt", ["the water was cold", "people read a book by the sea"])

    trim_vocabulary(source, tmp_path / "out", TrimOptions(corpus))

    trimmed = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert trimmed.encode("water").tokens == ["[CLS]", "water", "[SEP]"]
    assert config["vocab_size"] == trimmed.get_vocab_size() < len(words)
    assert config["pad_token_id"] == trimmed.token_to_id("[PAD]") == trimmed.padding["pad_id"]
    assert config["eos_token_id"] == [trimmed.token_to_id("[SEP]")]
    named = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert list(named) == [str(trimmed.token_to_id("[CLS]"))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 9}, "give a corpus"),
        ({"corpus": "empty.txt"}, "has 0 texts; give at least 1"),
        ({"corpus": "missing.txt"}, "missing.txt cannot be read"),
        ({"corpus": "corpus.txt", "size": 9}, r"size must be at least \d+, got 9"),
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, str | int], message: str, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    (tmp_path / "empty.txt").write_text(" \n\n")
    write_corpus(tmp_path / "corpus.txt", ["a text"])
    corpus = tmp_path / str(options["corpus"]) if "corpus" in options else None
    with pytest.raises(CheckpointError, match=message):
        trim_vocabulary(source, tmp_path / "out", TrimOptions(corpus, options.get("size")))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_bpe_vocabulary_with_word_ends_is_refused(tmp_path: Path) -> None:
    source = checkpoint_of(tmp_path / "source", "BPE")
    content = json.loads((source / "tokenizer.json").read_text())
    content["model"]["end_of_word_suffix"] = "</w>"
    (source / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="end_of_word_suffix cannot be trimmed"):
        trim_vocabulary(source, tmp_path / "out", TrimOptions())
