"""Trimmed vocabularies: any text still tokenises, and a text whose tokens are all kept has the very same vector."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

from tests.support import parity
from tests.support.tiny import tokenizer, vocabulary, write_checkpoint
from whit.export.checkpoint import read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.derive import read_steps
from whit.export.errors import CheckpointError
from whit.export.sharing import needed
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


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_share_rows_are_read_as_before(kind: str, tmp_path: Path) -> None:
    source = checkpoint_of(tmp_path / "source", kind)
    texts = [" ".join(text.split()[:5]) for text in parity.mixed_texts(60)]
    corpus = write_corpus(tmp_path / "corpus.txt", texts[:20])
    all_of_use = trim_vocabulary(source, tmp_path / "all", TrimOptions())
    size = trim_vocabulary(source, tmp_path / "seen", TrimOptions(corpus)).token_count - 6

    report = trim_vocabulary(source, tmp_path / "out", TrimOptions(corpus, size, share=True))

    old_ids, old = embed(tmp_path / "all", tmp_path / "old", texts)
    new_ids, new = embed(tmp_path / "out", tmp_path / "new", texts)
    table, before = (
        next(t for n, t in read_checkpoint(tmp_path / p).tensors.items() if n.endswith("word_embeddings.weight"))
        for p in ("out", "all")
    )
    has_own = [np.array_equal(row, old_row) for row, old_row in zip(table, before, strict=True)]
    untouched = [all(has_own[i] for i in row) for row in old_ids]
    assert new_ids == old_ids
    assert 2 < sum(untouched) < len(texts)
    assert all(np.array_equal(new[i], old[i]) == same for i, same in enumerate(untouched))
    assert report.token_count == len(table) == all_of_use.token_count
    assert report.row_count == size == len(np.unique(table, axis=0))
    assert report.length_ratio == 1
    assert report.text_share == pytest.approx(np.mean(untouched[:20]), abs=1e-6)
    spared = (tmp_path / "old" / "model.onnx").stat().st_size - (tmp_path / "new" / "model.onnx").stat().st_size
    values = (len(table) - size) * table.shape[1]
    assert values * 4 - len(table) * 4 - 500 < spared < values * 4  # less a place a token, and an operator
    assert read_steps(tmp_path / "out")[0]["row_count"] == size


def test_a_token_shares_the_row_of_the_one_most_like_it(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    names = tokenizer().get_vocab()
    weights = load_file(source / "model.safetensors")
    (words,) = (n for n in weights if n.endswith("word_embeddings.weight"))
    random = np.random.default_rng(0)
    # Three words that mean what others mean, give or take; nobody uses them.
    for rare, common in (("sea", "water"), ("boys", "men"), ("story", "school")):
        weights[words][names[rare]] = weights[words][names[common]] + 0.002 * random.standard_normal(32)
    save_file(weights, source / "model.safetensors")
    used = [token for token in vocabulary() if token.isalpha() and token not in {"sea", "boys", "story"}]
    corpus = write_corpus(tmp_path / "corpus.txt", [" ".join(used)] * 3)
    all_of_use = trim_vocabulary(source, tmp_path / "all", TrimOptions()).token_count

    trim_vocabulary(source, tmp_path / "out", TrimOptions(corpus, all_of_use - 3, share=True))

    table = load_file(tmp_path / "out" / "model.safetensors")[words]
    for rare, common in (("sea", "water"), ("boys", "men"), ("story", "school")):
        assert np.array_equal(table[names[rare]], table[names[common]]), rare


def test_words_that_a_corpus_lacks_are_needed_as_much_as_their_neighbours_say() -> None:
    """Two names of one frequency, of which the corpus happens to have one; and a word that nobody uses any more."""
    counts = np.concatenate([np.full(1000, 50), np.full(1000, 1)])
    counts[[500, 1500]] = 0
    usable = np.ones(2000, bool)
    usable[500:502] = [True, False]

    need = needed(counts, usable)

    assert need[500] == pytest.approx(0.3 * 50, rel=0.01)
    assert need[1500] < 1
    assert need[0] > need[1600] > need[1500]


def test_pieces_that_no_text_gives_alone_can_go(tmp_path: Path) -> None:
    """What reading them in smaller pieces costs cannot be measured: it ended in an internal error."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    kept = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    content = json.loads(tokenizer().to_str())
    content["model"]["vocab"] = {token: i for i, token in enumerate([*kept, "##ing", "##ed", "##er"])}
    source = write_checkpoint(tmp_path / "source", vocab_size=len(kept) + 3)
    (source / "tokenizer.json").write_text(json.dumps(content))
    corpus = write_corpus(tmp_path / "corpus.txt", ["reading", "singing", "asked"])

    trim_vocabulary(source, tmp_path / "out", TrimOptions(corpus, len(kept) + 1))

    assert "##ing" in read_checkpoint(tmp_path / "out").tokenizer.get_vocab()


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
        ({"corpus": "corpus.txt", "share": True}, "share needs a size"),
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
        trim_vocabulary(source, tmp_path / "out", TrimOptions(**(options | {"corpus": corpus})))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_token_without_a_row_is_named(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "model")
    grown = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    grown.add_tokens(["brandnew"])
    grown.save(str(checkpoint / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"'brandnew'.*save the model again after resize_token_embeddings"):
        trim_vocabulary(checkpoint, tmp_path / "out", TrimOptions())


def test_a_bpe_vocabulary_with_word_ends_is_refused(tmp_path: Path) -> None:
    source = checkpoint_of(tmp_path / "source", "BPE")
    content = json.loads((source / "tokenizer.json").read_text())
    content["model"]["end_of_word_suffix"] = "</w>"
    (source / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="end_of_word_suffix cannot be trimmed"):
        trim_vocabulary(source, tmp_path / "out", TrimOptions())
