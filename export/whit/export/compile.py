"""Checkpoint folder in, package directory out: the whole compiler, top to bottom.

The same input and options give the same bytes on the same kind of processor: nothing measured by the clock goes into the
package, and no sum depends on the number of threads.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whit.contract.manifest import GRAPH_FILE, SHALLOWER_VERSION, TOKENIZER_FILE, LinearScheme, Manifest
from whit.contract.pooling import ditto_head
from whit.export.calibrate import Activations, Calibration, calibrate, neuron_peaks
from whit.export.checkpoint import Checkpoint, FloatArray, read_checkpoint
from whit.export.embed import ATTENTION_BUCKET, embed
from whit.export.embedding import EMBEDDING_DTYPES, Rows, check_embedding, store_rows
from whit.export.encoder_graph import Head, build_graph
from whit.export.errors import OptionError
from whit.export.families import EncoderWeights, encoder_weights
from whit.export.gate import Gate
from whit.export.linear import Plan, Scheme
from whit.export.outliers import Split, can_split, find_splits, split_outliers
from whit.export.parallel import one_thread_a_product, side_by_side
from whit.export.quantize import Subject, choose_scheme, scheme_error
from whit.export.report import Report, measure
from whit.export.sealing import check_name, check_out, file_hashes, name_from, publish, scratch_beside, seal, tokenize
from whit.export.texts import read_texts
from whit.export.tokenless import texts_with_tokens
from whit.export.trained import Rounding, read_rounding
from whit.runtime.package import Package

DTYPES = ("float32", "int8")

# Shorter texts have too little attention for a path of its own.
LEAST_UNMASKED_LENGTH = 128

_LEAST_CALIBRATION_TEXTS = 8  # better 200, of the kind that will be embedded

Progress = Callable[[str, int, int], None]  # (stage, done, total)


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What may be chosen about a package. Everything here is recorded in its manifest."""

    dtype: str = "int8"
    name: str | None = None  # default: the folder's name
    calibration: Path | None = None  # one text a line; default: the text that ships with whit
    pooling: str | None = None  # only for a checkpoint that does not say
    max_token_count: int | None = None  # default: what the checkpoint states
    max_layer_error: float = 0.03  # int8: error of a layer's output up to which a cheaper scheme is taken
    max_loss: float = 5.0  # int8: points of rank agreement with float32 that may be lost; see ``gate``
    sensitivity: bool = False  # int8: whether to measure what each linear layer loses alone
    depths: tuple[int, ...] = ()  # numbers of layers, fewer than all, that the package can be run with, too
    embedding_dtype: str = "int8"  # int8: how word embeddings are stored, one of embedding.EMBEDDING_DTYPES
    embedding_code_count: int | None = None  # embedding_dtype pq: codes a row; default: one for four values

    def check(self) -> None:
        """Raises OptionError for the first option that is out of range, whatever the checkpoint."""
        if self.dtype not in DTYPES:
            raise OptionError("dtype", f"must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.dtype == "float32" and self.embedding_dtype != EMBEDDING_DTYPES[0]:
            raise OptionError(
                "embedding_dtype", f"{self.embedding_dtype} needs dtype int8: float32 packages round nothing"
            )
        if self.name is not None:
            check_name(self.name)
        if not 0 < self.max_layer_error < 1:
            raise OptionError("max_layer_error", f"must be between 0 and 1, got {self.max_layer_error}")
        if not 0 <= self.max_loss <= 100:
            raise OptionError("max_loss", f"must be between 0 and 100 points, got {self.max_loss}")


@one_thread_a_product()
def compile_checkpoint(
    checkpoint: Path, out: Path, options: ExportOptions | None = None, progress: Progress = lambda *_: None
) -> Report:
    """Compiles ``checkpoint`` into a package at ``out``, which appears whole or not at all.

    Raises:
        CheckpointError: the checkpoint, an option or the calibration text cannot be used, or ``out`` exists and is not a
            package. The message says what to do.
    """
    options = options or ExportOptions()
    source = read_checkpoint(checkpoint, pooling=options.pooling)
    options.check()
    check_out(out)
    weights = encoder_weights(source)
    head = Head(source.pooling, source.dense, source.normalize)
    _check_depths(options.depths, weights, head)
    check_embedding(options.embedding_dtype, options.embedding_code_count, weights.words.shape[1])
    limit = _max_token_count(source, weights, options)
    # No text reaches the positions beyond the limit: they are left out of the package.
    weights = replace(weights, positions=weights.positions[: limit + weights.position_offset])
    texts = texts_with_tokens(calibration_texts(options.calibration), source.tokenizer)
    rounding = read_rounding(checkpoint)

    with scratch_beside(out) as scratch:
        float_dir, new_dir = scratch / "float32", scratch / "package"
        float_package = _write(float_dir, source, weights, head, Plan(), [], options, limit, texts)
        wanted: FloatArray | None = None
        sensitivities: Mapping[str, float] = {}
        if options.dtype == "float32":
            new_dir = float_dir
            package = float_package
        else:
            sequences = tokenize(float_package, texts)
            wanted = embed(weights, head, sequences)
            gate = Gate(weights, head, sequences, progress, wanted)
            gate, plan, linears = _as_trained(gate, options, rounding) if rounding else _quantize(gate, options)
            plan, linears, sensitivities = _keep_within(gate, plan, linears, options)
            package = _write(new_dir, source, gate.weights, head, plan, linears, options, limit, texts)
        report = measure(float_package, package, texts, wanted, sensitivities, progress)
        report = replace(report, unused_options=_without_effect(options) if rounding else (), notes=source.notes)
        seal(package, report.lasting())
        publish(new_dir, out)
    return report


def _without_effect(options: ExportOptions) -> tuple[str, ...]:
    """Options given for the choice of codes; a checkpoint that was trained with its own leaves none to make."""
    plain = ExportOptions()
    chosen = ("calibration", "max_layer_error") if options.dtype == "int8" else ()
    return tuple(name for name in chosen if getattr(options, name) != getattr(plain, name))


def _check_depths(depths: Sequence[int], weights: EncoderWeights, head: Head) -> None:
    count = len(weights.layers)
    if list(depths) != sorted(set(depths)) or not all(0 < depth < count for depth in depths):
        raise OptionError(
            "depths",
            f"must be numbers of layers in ascending order, 1 to {count - 1} of this model's {count}, "
            f"got {', '.join(map(str, depths))}",
        )
    ditto = ditto_head(head.pooling)
    if depths and ditto and depths[0] <= ditto[0]:
        raise OptionError(
            "depths", f"must be at least {ditto[0] + 1}, for pooling {head.pooling!r} reads that layer, got {depths[0]}"
        )


def _max_token_count(source: Checkpoint, weights: EncoderWeights, options: ExportOptions) -> int:
    positions = weights.max_token_count
    asked = options.max_token_count
    if asked is not None and not 8 <= asked <= positions:
        raise OptionError("max_token_count", f"must be 8 to {positions} (the model's positions), got {asked}")
    return asked or min(source.max_token_count or positions, positions)


def _unmasked_length(weights: EncoderWeights, head: Head, limit: int) -> int:
    """The limit, where long texts are cut to it by the thousand and a path of their own pays."""
    pays = limit >= LEAST_UNMASKED_LENGTH and limit % ATTENTION_BUCKET == 0
    can = weights.relative_bias is None and ditto_head(head.pooling) is None
    return limit if pays and can else 0


def calibration_texts(path: Path | None) -> list[str]:
    """The lines of a text file, or of the text that ships with whit.

    Raises:
        CheckpointError: it cannot be read, or has too few lines.
    """
    if path is not None:
        return read_texts(path, least=_LEAST_CALIBRATION_TEXTS, purpose="calibration text")
    with resources.as_file(resources.files("whit.export") / "data" / "calibration.txt") as own:
        return read_texts(own)


def own_calibration(checkpoint: Checkpoint, progress: Progress) -> Calibration:
    """A checkpoint's encoder with the text that ships with whit, cut where its package would cut it: what an export sees.

    The checkpoint's tokenizer stays set to that limit.
    """
    weights = encoder_weights(checkpoint)
    checkpoint.tokenizer.enable_truncation(_max_token_count(checkpoint, weights, ExportOptions()))
    encodings = checkpoint.tokenizer.encode_batch_fast(calibration_texts(None))
    sequences = [np.array(encoding.ids, np.int64) for encoding in encodings]
    head = Head(checkpoint.pooling, checkpoint.dense, checkpoint.normalize)
    return Calibration(weights, head, sequences, progress)


def _quantize(gate: Gate, options: ExportOptions) -> tuple[Gate, Plan, list[LinearScheme]]:
    """Calibrates, splits outlier neurons and chooses the scheme of every linear layer."""
    plan, linears, splits = choose_plan(gate, options)
    return replace(gate, weights=split_outliers(int8_weights(gate.weights), splits)), plan, linears


@one_thread_a_product()
def choose_plan(basis: Calibration, options: ExportOptions) -> tuple[Plan, list[LinearScheme], Mapping[int, Split]]:
    """The scheme of every linear layer of ``int8_weights(basis.weights)``, once its outlier neurons are split as is said."""
    plain = int8_weights(basis.weights)
    splits = find_splits(plain, _neuron_peaks(plain, basis)) if can_split(plain) else {}
    weights = split_outliers(plain, splits)
    seen = _seen_by(weights, basis)

    def choose(name: str) -> tuple[str, Scheme, float]:
        return choose_scheme(_subject(weights, seen, name), options.max_layer_error)

    schemes: dict[str, Scheme] = {}
    linears = []
    for name, (kind, schemes[name], error) in zip(seen, side_by_side(choose, seen), strict=True):
        linears.append(LinearScheme(name, kind, round(error, 6)))
        basis.progress("quantise (layers)", len(linears), len(seen))
    return Plan(schemes, stored_words(basis, options)), linears, splits


def stored_words(basis: Calibration, options: ExportOptions) -> Rows:
    """The word embeddings as the package will hold them; ``basis.sequences`` say which words are read how often."""
    words = basis.weights.words
    return store_rows(
        words,
        options.embedding_dtype,
        code_count=check_embedding(options.embedding_dtype, options.embedding_code_count, words.shape[1]),
        counts=np.bincount(np.concatenate(basis.sequences), minlength=len(words)),
        progress=partial(basis.progress, "product-quantise (stretches)"),
    )


def int8_weights(weights: EncoderWeights) -> EncoderWeights:
    """The encoder that int8 packages compute.

    The tanh form is within 0.0005 of GELU, less than a tenth of a step of the codes that it becomes, and quicker.
    """
    return replace(weights, activation={"gelu": "gelu_tanh"}.get(weights.activation, weights.activation))


def _as_trained(gate: Gate, options: ExportOptions, rounding: Rounding) -> tuple[Gate, Plan, list[LinearScheme]]:
    """The codes that the checkpoint was trained with; calibration only tells how far they are off."""
    plain = int8_weights(gate.weights)
    plan = rounding.plan(plain, stored_words(gate, options))
    weights = split_outliers(plain, rounding.splits)
    seen = _seen_by(weights, gate)
    linears = []
    for name in seen:
        scheme = plan.scheme(name, getattr(weights.layers[int(name.split(".")[1])], name.split(".")[2]))
        kind, error = scheme_error(_subject(weights, seen, name), scheme)
        linears.append(LinearScheme(name, kind, round(error, 6)))
    return replace(gate, weights=weights), plan, linears


def _neuron_peaks(weights: EncoderWeights, basis: Calibration) -> Mapping[str, NDArray[np.float32]]:
    return neuron_peaks(weights, basis.head, basis.sequences, _tokens_done(basis, "find outliers (tokens)"))


def _seen_by(weights: EncoderWeights, basis: Calibration) -> Mapping[str, Activations]:
    return calibrate(weights, basis.head, basis.sequences, _tokens_done(basis, "calibrate (tokens)"))


def _tokens_done(basis: Calibration, stage: str) -> Callable[[int], None]:
    total = sum(len(ids) for ids in basis.sequences)
    return lambda tokens: basis.progress(stage, tokens, total)


def _subject(weights: EncoderWeights, seen: Mapping[str, Activations], name: str) -> Subject:
    prefix, _, part = name.rpartition(".")
    layer = weights.layers[int(prefix.rpartition(".")[2])]
    before = {"out": f"{prefix}.qkv", "down": f"{prefix}.up"}.get(part)
    stream = seen[before].sample if before else None
    shared = sum(layer is other for other in weights.layers) > 1
    return Subject(getattr(layer, part), seen[name], stream, shared)


def _keep_within(
    gate: Gate, plan: Plan, linears: list[LinearScheme], options: ExportOptions
) -> tuple[Plan, list[LinearScheme], Mapping[str, float]]:
    """The plan, with layers back in float32 where it lost too much, and what each layer loses alone, if that was measured."""
    costs = gate.sensitivities(plan) if options.sensitivity else {}
    if gate.loss(plan) <= options.max_loss:
        return plan, linears, costs
    costs = costs or gate.sensitivities(plan)
    return *gate.hold(plan, linears, costs, options.max_loss), costs


def _write(
    directory: Path,
    source: Checkpoint,
    weights: EncoderWeights,
    head: Head,
    plan: Plan,
    linears: Sequence[LinearScheme],
    options: ExportOptions,
    limit: int,
    texts: Sequence[str],
) -> Package:
    """Writes graph, tokenizer and licence. Golden vectors and report follow in ``seal``, since they need it to run."""
    directory.mkdir()
    unmasked_length = _unmasked_length(weights, head, limit)
    graph = build_graph(weights, head, plan, unmasked_length=unmasked_length, depths=options.depths)
    (directory / GRAPH_FILE).write_bytes(graph.SerializeToString(deterministic=True))
    (directory / TOKENIZER_FILE).write_text(source.tokenizer.to_str(pretty=False), encoding="utf-8")
    for path in source.license_files:
        shutil.copy(path, directory / path.name)
    dimension_count = head.dimension_count(weights.hidden_count)
    manifest = Manifest(
        name=options.name or name_from(source.name),
        architecture=weights.architecture,
        dimension_count=dimension_count,
        max_token_count=limit,
        vocabulary_size=len(weights.words),
        pooling=head.pooling,
        dtype="int8" if plan.schemes else "float32",
        files=file_hashes(directory),
        normalized=head.normalize,
        # A Dense that was added since may have made vectors shorter.
        matryoshka_dimension_counts=tuple(n for n in source.matryoshka_dimension_counts if n <= dimension_count),
        layer_counts=(*options.depths, len(weights.layers)) if options.depths else (),
        format_version=SHALLOWER_VERSION if options.depths else 1,
        prompts=source.prompts,
        attention_bucket=ATTENTION_BUCKET,
        unmasked_length=unmasked_length,
        position_offset=weights.position_offset,
        linears=tuple(linears),
        provenance=_provenance(source, options, texts),
    )
    return Package(directory, manifest)


def _provenance(source: Checkpoint, options: ExportOptions, texts: Sequence[str]) -> dict[str, Any]:
    left_out = ("calibration", "name", *(() if options.depths else ("depths",)))
    chosen = {key: value for key, value in asdict(options).items() if key not in left_out}
    return {
        "whit_version": metadata.version("whit"),
        "checkpoint": source.name,
        "checkpoint_sha256": source.sha256,
        "license": source.license,
        "options": chosen,
        "calibration_text_count": len(texts),
    }
